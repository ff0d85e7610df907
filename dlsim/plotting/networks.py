"""Drawings that a run keeps of its networks, for reports: where nodes and links are, and which runs they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from dlsim.core import Drawn
from dlsim.networks.network import Network, host_graph

if TYPE_CHECKING:
    from dlsim.networks.graph import Graph
    from dlsim.sweeps.source import Built, Choice, Source

MOST_NETWORKS = 8  # that a run keeps, in the order in which they are met
MOST_NODES = 1024  # of one of them; larger ones are not kept
MOST_LINKS = 5_000  # that are drawn; of more, the nodes alone
LARGEST_SPRING = 150  # nodes: beyond, springs would take longer than a run should be kept waiting
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


def drawing_of(network: Any, at: dict[str, Any] | None = None, *, has_server: bool = False) -> dict[str, Any]:
    """What a report needs of a network: places and segments as `dlsim.networks.draw` has them.

    `at`: the value, or the values, of the axes that this network belongs to.  With a server its clients stand around it.
    """
    num_nodes = network.num_nodes
    if has_server:
        places = _circle(num_nodes)
        segments = np.stack([np.zeros_like(places), places], axis=1)
        links, counts = num_nodes, np.ones(num_nodes, int)
    else:
        graph = host_graph(network)
        counts = np.asarray(network.in_degrees).astype(int)
        is_complete = network.is_implicit or network.num_edges == num_nodes * (num_nodes - 1)
        places, segments, links = _laid_out(graph, is_complete)
    return {
        "places": np.round(places, 3).tolist(),
        "segments": np.round(segments.reshape(len(segments), 4), 3).tolist(),
        "num_links": links,  # drawn or not
        "degrees": counts.tolist(),
        "has_server": has_server,
        "at": {name: value if isinstance(value, list) else [value] for name, value in (at or {}).items()},
    }


def _laid_out(graph: Graph, is_complete: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Places, segments, and how many links there are; too many of them are not drawn."""
    from dlsim.networks.drawing import layout

    num_nodes, none = graph.num_nodes, np.zeros((0, 2, 2))
    links = num_nodes * (num_nodes - 1) // 2 if is_complete else _pairs(graph)
    if is_complete and links > MOST_LINKS:
        return (_circle(num_nodes) if graph.positions is None else np.asarray(graph.positions, float)), none, links
    try:
        places, segments = layout(graph, LARGEST_SPRING)
    except Exception:  # an eigensolver that finds nothing is no reason to lose a run
        return _circle(num_nodes), none, links
    return places, segments if len(segments) <= MOST_LINKS else none, links


def _pairs(graph: Graph) -> int:
    """Linked pairs, whichever way they are linked."""
    low, high = np.minimum(graph.senders, graph.receivers), np.maximum(graph.senders, graph.receivers)
    return len(np.unique(low.astype(np.int64) * graph.num_nodes + high))


def _circle(num_nodes: int) -> np.ndarray:
    turn = np.pi / 2 - 2 * np.pi * np.arange(num_nodes) / num_nodes
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)
