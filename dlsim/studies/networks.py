"""The networks that a run keeps drawings of: noted while its processes are built, with the runs they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim.core import Drawn
from dlsim.networks.network import Network
from dlsim.plotting.networks import drawing_of
from dlsim.sweeps.source import Built, Choice, Source

MOST_NETWORKS = 8  # that a run keeps, in the order in which they are met
MOST_NODES = 1024  # of one of them; larger ones are not kept
MOST_NAMED = 2  # runs in a label


class _Seen(NamedTuple):
    drawn: Drawn
    choices: list[Choice]


class Networks:
    """Notes the networks of a sweep's processes while they are built; costs the sweep next to nothing."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def watch(self, source: Source) -> Source:
        """The same source, whose processes are looked at."""

        def build(choice: Choice, make: Callable[[Choice], Built] = source.build) -> Built:
            built = make(choice)
            self._note(built.process, choice)
            return built

        return source._replace(build=build)

    def _note(self, process: Any, choice: Choice) -> None:
        drawn = process.drawn or (None if process.network is None else Drawn(process.network))
        if drawn is None or not isinstance(drawn.network, Network) or drawn.network.num_nodes > MOST_NODES:
            return
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((list(choice.values()), drawn.network))):
            return  # it is being traced; it was built before
        digest = _digest(drawn)
        if digest not in self._seen and len(self._seen) == MOST_NETWORKS:
            return
        choices = self._seen.setdefault(digest, _Seen(drawn, [])).choices
        if choice not in choices:
            choices.append(dict(choice))

    def drawings(self) -> dict[str, Any] | None:
        """A drawing for each network that was met, by label; None if there was none."""
        out: dict[str, Any] = {}
        every = [choice for one in self._seen.values() for choice in one.choices]
        axes = [name for name in (every[0] if every else {}) if self._depends(name)]
        for one in self._seen.values():
            at = {name: list(dict.fromkeys(choice[name] for choice in one.choices)) for name in axes}
            label = _unused(_label(one.drawn, at), out)
            out[label] = drawing_of(one.drawn.network, at, has_server=one.drawn.has_server)
        return out or None

    def _depends(self, axis: str) -> bool:
        """Whether two runs that differ in nothing else have different networks."""
        met: dict[str, str] = {}
        for digest, one in self._seen.items():
            for choice in one.choices:
                others = repr([value for name, value in choice.items() if name != axis])
                if met.setdefault(others, digest) != digest:
                    return True
        return False


def _digest(drawn: Drawn) -> str:
    network = drawn.network
    if drawn.has_server:
        return f"server of {network.num_nodes}"  # the links between its clients do not matter
    found = hashlib.sha256(repr((network.num_nodes, network.is_implicit)).encode())
    for leaf in (network.senders, network.receivers, network.positions):
        found.update(b"" if leaf is None else np.asarray(leaf).tobytes())
    return found.hexdigest()


def _label(drawn: Drawn, at: dict[str, list[Any]]) -> str:
    words = [_listed([str(value).replace("_", " ") for value in values]) for values in at.values()]
    size = f"{drawn.network.num_nodes} {'clients of a server' if drawn.has_server else 'nodes'}"
    return "; ".join(words) + f" ({size})" if words else size


def _listed(words: list[str]) -> str:
    more = len(words) - MOST_NAMED
    return ", ".join(words[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _unused(label: str, taken: dict[str, Any]) -> str:
    best, count = label, 1
    while best in taken:
        count += 1
        best = f"{label}, {count}"
    return best
