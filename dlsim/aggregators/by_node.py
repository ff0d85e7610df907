"""Nodes that do not all follow the same rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.messages import both
from dlsim.networks.network import Inbox, Network


def by_node(rules: Sequence[Aggregator], choice: Any) -> Aggregator:
    """Node i follows `rules[choice[i]]`: those who defend themselves and those who do not, adversaries that take a mean.

    Every rule is computed for every node.  Messages that a rule sends of its own (`sybil_wall`) go between nodes that follow
    it, and over no other link.

    Args:
      rules: one or more.
      choice: int `[N]`, by node id, each in 0..len(rules)-1; known.
    """
    where = "by_node"
    given = checks.sequence(where, "rules", rules, "one or more rules", "Pass e.g. (median(), mean()).")
    if not given:
        checks.fail(where, "rules", "one or more rules", "none")
    for place, rule in enumerate(given):
        checks.instance(where, f"rules[{place}]", rule, Aggregator, "Pass e.g. median().")
    checks.known(where, "choice", choice, "known while tracing", "Sweep it as structure.")
    chosen = np.asarray(checks.array(where, "choice", choice, (None,)))
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.min() < 0 or chosen.max() >= len(given):
        checks.fail(where, "choice", f"integers in 0..{len(given) - 1}, places in rules", checks.describe(choice))
    of_node = jnp.asarray(chosen, jnp.int32)

    def init(params: PyTree) -> tuple[PyTree, ...]:
        num = jax.tree.leaves(params)[0].shape[0]
        if num != len(chosen):
            checks.fail(where, "choice", f"of {num} numbers, one a node", f"{len(chosen)} numbers")
        return tuple(rule.init(params) for rule in given)

    def apply(key: Array, state: tuple[PyTree, ...], own: PyTree, inbox: Inbox) -> tuple[tuple[PyTree, ...], PyTree]:
        if inbox.node_ids is None:
            checks.fail(where, "inbox", "one that says who hears", "one without node_ids")
        mine = of_node[inbox.node_ids]
        new, value = [], own
        for place, rule in enumerate(given):
            part, made = rule.apply(keys.stream(key, f"rule {place}"), state[place], own, inbox)
            value = trees.select(mine == place, made, value)
            new.append(part)
        return tuple(new), value

    def ask(key: Array, state: tuple[PyTree, ...], network: Network) -> tuple[tuple[PyTree, ...], Network]:
        mine = of_node[network.node_ids]
        new = list(state)
        for place, rule in enumerate(given):
            if rule.ask is not None:
                follows = mine == place
                among = follows[network.senders] & follows[network.receivers]
                told = network.replace(is_linked=both(network.is_linked, among))
                new[place], told = rule.ask(keys.stream(key, f"rule {place}"), state[place], told)
                network = network.with_state(told.state)
        return tuple(new), network

    asks = any(rule.ask is not None for rule in given)
    source = "; ".join(dict.fromkeys(rule.source for rule in given if rule.source))
    is_whole = any(rule.is_whole for rule in given)
    return Aggregator(init=init, apply=apply, source=source, is_whole=is_whole, ask=ask if asks else None)
