"""A drawing of a network as a report shows it: where its nodes and links are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim.networks.network import host_graph

if TYPE_CHECKING:
    from dlsim.networks.graphs.graph import Graph

MOST_LINKS = 5_000  # that are drawn; of more, the nodes alone
LARGEST_SPRING = 150  # nodes: beyond, springs would take longer than a run should be kept waiting


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
    from dlsim.networks.graphs.drawing import layout

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
