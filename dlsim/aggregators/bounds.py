"""How many candidates a rule must have, checked where it is known whom the nodes hear."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.core import Aggregator
from dlsim.networks.network import Network


class Bound(NamedTuple):
    """How many candidates, its own value among them, a node must have for a rule to mean what it says."""

    rule: str  # as the user wrote it: "krum(num_byzantine=2)"
    least: int
    why: str  # "2 f + 3"


def bound(rule: str, argument: str, f: int, factor: int, more: int) -> Bound | None:
    """Of a rule that needs `factor` f + `more` candidates against f liars; None where it is to stand none."""
    if f == 0:
        return None
    symbol = "b" if argument == "num_trimmed" else "f"
    return Bound(f"{rule}({argument}={f})", factor * f + more, f"{factor} {symbol} + {more}")


def stricter(first: Bound | None, second: Bound | None) -> Bound | None:
    """That of the two which asks for more."""
    if first is None or second is None:
        return second if first is None else first
    return second if second.least > first.least else first


def check_bound(where: str, aggregator: Aggregator | None, network: Network, has_server: bool = False) -> None:
    """Every node hears enough for the rule, where the degrees are known, or one line that names one which does not.

    A server hears its clients, and has no value of its own.
    """
    asked: Bound | None = None if aggregator is None else aggregator.bound
    if asked is None:
        return
    fix = "Give it more neighbours, or the rule a smaller number."
    if has_server:
        if network.num_nodes < asked.least:
            rule = f"of at least {asked.least} clients ({asked.why}) for {asked.rule}"
            checks.fail(where, "network", rule, f"{network.num_nodes} clients", "Use a smaller number.")
        return
    if not checks.is_concrete(network.in_degrees):
        return
    degrees = np.asarray(network.in_degrees).astype(np.int64)
    node = int(np.argmin(degrees))
    if degrees[node] + 1 < asked.least:
        rule = f"one in which every node has {asked.least} values ({asked.why}), its own among them, for {asked.rule}"
        got = f"{degrees[node] + 1} at node {node}, of degree {degrees[node]}"
        checks.fail(where, "network", rule, got, fix)


def around(inner: Aggregator, apply: Any, source: str, asked: Bound | None = None) -> Aggregator:
    """A rule that shows `inner` other values than were heard, with its state, and its bound or the stricter of the two."""
    return inner._replace(apply=apply, source=source, linear=None, bound=stricter(asked, inner.bound))
