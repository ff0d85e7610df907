"""What mixing weights are: row, column, doubly stochastic, symmetric."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import check_graph

TOLERANCE = 1e-5  # on sums and differences: a hundred float32 roundings of a number near 1


def check_stochastic(graph: Any, edge_weights: Any, self_weights: Any) -> dict[str, bool]:
    """What W is: `is_row_stochastic`, `is_column_stochastic`, `is_doubly_stochastic`, `is_symmetric`.

    `graph` may be a Graph or a Network, or whatever has `num_nodes`, `senders` and `receivers` (sorted by receiver, then
    sender).  Sums in float64; a sum may miss 1 by `TOLERANCE` times the sum of absolute values, an entry its mirror image
    by `TOLERANCE`.  Negative weights are allowed (optimal weights may be), so "stochastic" says that sums are 1.
    """
    check_graph("check_stochastic", graph, argument="graph")
    edges = checks.array("check_stochastic", "edge_weights", edge_weights, (len(graph.senders),)).astype(np.float64)
    own = checks.array("check_stochastic", "self_weights", self_weights, (graph.num_nodes,)).astype(np.float64)
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    sums_to_one = []
    for ends in (receivers, senders):
        total = own + np.bincount(ends, edges, graph.num_nodes)
        size = np.abs(own) + np.bincount(ends, np.abs(edges), graph.num_nodes)
        sums_to_one.append(bool((np.abs(total - 1) <= TOLERANCE * np.maximum(size, 1)).all()))
    place = edge_places(graph, senders.astype(np.int64) * graph.num_nodes + receivers)
    mirrored = np.where(place >= 0, edges[place] if len(edges) else edges, 0)
    return {
        "is_row_stochastic": sums_to_one[0],
        "is_column_stochastic": sums_to_one[1],
        "is_doubly_stochastic": all(sums_to_one),
        "is_symmetric": bool((np.abs(edges - mirrored) <= TOLERANCE).all()),
    }


def edge_places(graph: Any, code: np.ndarray) -> np.ndarray:
    """Places in the edge list of `receiver * N + sender`, -1 where there is no such edge."""
    known = np.asarray(graph.receivers).astype(np.int64) * graph.num_nodes + np.asarray(graph.senders)
    if not len(known):
        return np.full(len(code), -1)
    place = np.minimum(np.searchsorted(known, code), len(known) - 1)
    return np.where(known[place] == code, place, -1)
