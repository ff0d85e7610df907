"""Whom a disaster hits, and into which parts what is left of a network falls: on the host, before the run."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.network import Network, host_graph
from dlsim.problems.notices import notice

KINDS = ("random", "degree", "betweenness", "place")


def victims(
    network: Network, fraction: Any, by: str = "random", *, seed: int = 0, centre: Any | None = None
) -> np.ndarray:
    """Who is hit, bool `[N]` by node id: floor(`fraction` N) nodes, all at once, for `disaster`.

    | `by` | who |
    |---|---|
    | `"random"` | drawn evenly, by `seed` |
    | `"degree"` | hubs: most neighbours in the whole graph |
    | `"betweenness"` | on most of the shortest ways between others (N E operations) |
    | `"place"` | nearest to `centre` (x, y); the network has positions |

    Ties go to the smaller id.  The victims of a smaller fraction are among those of a larger one.

    Args:
      network: as it was built.
      fraction: in [0, 1), a known number; a warning where it comes to nobody.
      centre: of a disaster by place; None: the middle of all nodes.

    Raises ValueError if nobody would be left, or if there is no place.
    """
    where = "victims"
    checks.instance(where, "network", network, Network)
    checks.probability(where, "fraction", fraction)
    checks.known(where, "fraction", fraction)
    checks.one_of(where, "by", by, KINDS)
    checks.seed(where, seed)
    num = network.num_nodes
    count = int(np.floor(float(fraction) * num + 1e-9))  # 0.29 * 100 is below 29
    if count >= num:
        checks.fail(where, "fraction", "such that somebody is left", f"{float(fraction):g}: all {num} nodes")
    if count == 0 and fraction > 0:
        notice(where, f"a fraction of {float(fraction):g} of {num} nodes is nobody.")
    if centre is not None and by != "place":
        checks.fail(where, "centre", 'left out but for by="place"', checks.describe(centre))
    ids, hit = np.asarray(network.node_ids), np.zeros(num, bool)
    order = np.lexsort((ids, _cost(network, by, seed, centre)))
    hit[ids[order[:count]]] = True
    return hit


def _cost(network: Network, by: str, seed: int, centre: Any | None) -> np.ndarray:
    """Who has least is hit first, float `[N]` by position."""
    num = network.num_nodes
    if by == "random":
        return np.random.default_rng(seed).permutation(num)[np.asarray(network.node_ids)].astype(float)
    if by == "degree":
        return -np.asarray(network.in_degrees).astype(float)
    if by == "betweenness":
        import networkx

        if network.is_implicit:  # everyone is next to everyone
            return np.zeros(num)
        one = host_graph(network)
        links = networkx.DiGraph() if one.is_directed else networkx.Graph()
        links.add_nodes_from(range(num))
        links.add_edges_from(zip(one.senders.tolist(), one.receivers.tolist(), strict=True))
        found = networkx.betweenness_centrality(links)
        return -np.array([found[node] for node in range(num)])
    if network.positions is None:
        fix = "Use random_geometric, or a graph with positions."
        checks.fail("victims", "network", "one with positions for a disaster by place", "one without", fix)
    places = np.asarray(network.positions)
    middle = places.mean(axis=0) if centre is None else checks.array("victims", "centre", centre, (2,))
    distances: np.ndarray = np.linalg.norm(places - middle, axis=1)
    return distances


def components(network: Network, is_present: Any | None = None) -> np.ndarray:
    """The part of the network that each node is in, int32 `[N]`: the largest is 0, the next 1, ...; -1: not present.

    Nodes of one part reach each other along links among those present (both ways, where links are directed); ties go to
    the part of the smaller id.

    Args:
      network: as it was built, or as it is in a round, outside jit.
      is_present: bool `[N]`, who is there; None: who is in `network`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    where = "components"
    checks.instance(where, "network", network, Network)
    num = network.num_nodes
    there = network.is_present if is_present is None else is_present
    present = np.ones(num, bool) if there is None else checks.host(where, "is_present", there)
    if present.dtype != bool or present.shape != (num,):
        checks.fail(where, "is_present", f"bool [{num}]", checks.describe(is_present))
    if network.is_implicit:
        return np.where(present, 0, -1).astype(np.int32)
    graph = host_graph(network)
    up = present[graph.senders] & present[graph.receivers]
    if network.is_linked is not None and len(network.is_linked) == len(up):
        up = up & np.asarray(network.is_linked)
    ends = (graph.receivers[up], graph.senders[up])
    links = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(num, num))
    labels = connected_components(links, directed=True, connection="strong")[1]
    sizes = np.bincount(labels, present, num)
    first = np.full(num, num)
    np.minimum.at(first, labels, np.arange(num))
    rank = np.empty(num, np.int32)
    rank[np.lexsort((first, -sizes))] = np.arange(num)
    return np.where(present, rank[labels], -1).astype(np.int32)
