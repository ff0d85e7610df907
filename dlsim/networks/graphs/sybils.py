"""Sybils: nodes of one adversary, joined to a graph of honest ones by attack edges."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, check_graph, graph as make_graph
from dlsim.networks.pace.sizes import check_size

PATTERNS = ("distributed", "dense", "echo")


class Joined(NamedTuple):
    """A graph with Sybils: the honest nodes are 0..N-1, the Sybils N..N+S-1."""

    graph: Graph
    node_ids: np.ndarray  # int32 [S] the Sybils'
    victims: np.ndarray  # int64 [N] how many Sybils each honest node hears

    @property
    def num_honest(self) -> int:
        """N."""
        return len(self.victims)


@checks.typed
def join_sybils(
    graph: Graph | Any,
    density: float,
    *,
    pattern: str = "distributed",
    per_victim: int = 2,
    max_degree: int = 7,
    seed: int = 0,
) -> Joined:
    """The graph with Sybils at `density` x N attack edges, each a link between an honest node and a Sybil.

    | pattern       | victims                                                                                           |
    |---------------|---------------------------------------------------------------------------------------------------|
    | `distributed` | all, floor(density) Sybils each, and N (density mod 1) of them, spread by hops, one more          |
    | `dense`       | N density / per_victim of them, spread by hops, `per_victim` Sybils each                          |
    | `echo`        | as many, those nearest to a random node: they hear each other and the Sybils, and hardly others   |

    One pass over the victims gives each of them one Sybil: a random victim without one and up to `max_degree` - 1 others
    nearest to it by hops share a new Sybil, and so on.  So no Sybil has more than `max_degree` links, and no victim the same
    Sybil twice: S is about N density / max_degree.  Sybils have no links among each other.

    What they do is for others to say: data to poison (`dlsim.problems.label_flip`), a channel for what they say
    (`byzantine(joined.node_ids, "echo")`: all the same), a rule of their own (`dlsim.aggregators.by_node`).

    Args:
      graph: of the honest nodes, undirected; a Network will do.
      density: attack edges for every honest node in the mean, >= 0; known.
      pattern: one of the above.
      per_victim: of `dense` and `echo`, >= 1.
      max_degree: of a Sybil, >= 1.
      seed: of the draws.
    Source: Werthenbach and Pouwelse, Towards Sybil resilience in decentralized learning, 2023 (`distributed`, from the
      authors' notebook).  Differs: `dense` and `echo` are ours, as no rule of theirs was to be had; what is spread by hops
      are medoids found one by one, with the hops between any two nodes in memory.
    """
    where = "join_sybils"
    check_graph(where, graph, argument="graph")
    is_directed = "undirected" not in graph.properties if hasattr(graph, "properties") else graph.is_directed
    if is_directed:
        checks.fail(where, "graph", "undirected", "a directed one", "Attack edges go both ways.")
    checks.known(where, "density", density, fix="It shapes the graph: sweep it as structure.")
    density = float(checks.number(where, "density", density, 0.0))
    checks.one_of(where, "pattern", pattern, PATTERNS)
    per_victim = checks.integer(where, "per_victim", per_victim, 1)
    max_degree = checks.integer(where, "max_degree", max_degree, 1)
    rng = np.random.default_rng(checks.seed(where, seed))
    num = graph.num_nodes
    attacking = min(num * density, 2.0**62)
    check_size(where, int(num + attacking // max_degree), int(len(graph.senders) + 2 * attacking), "density")
    links = _links(graph)
    if pattern == "distributed":
        whole, rest = divmod(density, 1)
        passes = [np.arange(num)] * int(whole)
        few = int(num * rest + 1e-9)
        passes += [_medoids(links, few)] if few else []
    else:
        count = int(num * density / per_victim + 1e-9)
        if count > num:
            rule, fix = f"at most per_victim ({per_victim})", "Use a larger per_victim."
            checks.fail(where, "density", rule, density, fix)
        if pattern == "dense":
            chosen = _medoids(links, count)
        else:
            chosen = np.lexsort((rng.random(num), _hops(links, rng.integers(num))))[:count]
        passes = [chosen] * per_victim if count else []
    first, second, size = [], [], num
    for victims in passes:
        for cluster in _clusters(rng, links, victims, max_degree):
            first += [size] * len(cluster)
            second += cluster
            size += 1
    senders = np.concatenate([np.asarray(graph.senders), np.array(first, np.int64)])
    receivers = np.concatenate([np.asarray(graph.receivers), np.array(second, np.int64)])
    ends = np.array(first, np.int64), np.array(second, np.int64)
    victims = np.bincount(ends[1], minlength=num)
    positions = getattr(graph, "positions", None)
    if positions is not None:  # each among its victims
        sums = np.zeros((size, 2))
        np.add.at(sums, ends[0], np.asarray(positions)[ends[1]])
        own = sums[num:] / np.bincount(ends[0], minlength=size)[num:, None]
        positions = np.concatenate([np.asarray(positions), own])
    senders = np.concatenate([np.asarray(graph.senders), ends[0]])
    receivers = np.concatenate([np.asarray(graph.receivers), ends[1]])
    joined = make_graph(size, senders, receivers, positions=positions)
    return Joined(joined, np.arange(num, size, dtype=np.int32), victims)


@checks.typed
def limit_degrees(graph: Graph | Any, max_degree: int, *, seed: int = 0) -> Graph:
    """The undirected graph without some of its links: as long as a node has more than `max_degree`, it loses a random one.

    Nodes take their turns in order of their ids.  The result may be in several parts: `dlsim.networks.components` says in
    how many, and nothing is repaired.
    """
    where = "limit_degrees"
    check_graph(where, graph, argument="graph")
    max_degree = checks.integer(where, "max_degree", max_degree, 1)
    rng = np.random.default_rng(checks.seed(where, seed))
    linked: list[set[int]] = [set() for _ in range(graph.num_nodes)]
    for sender, receiver in zip(np.asarray(graph.senders).tolist(), np.asarray(graph.receivers).tolist(), strict=True):
        linked[sender].add(receiver)
        linked[receiver].add(sender)
    for node, others in enumerate(linked):
        for _ in range(len(others) - max_degree):
            gone = sorted(others)[rng.integers(len(others))]
            others.discard(gone)
            linked[gone].discard(node)
    pairs = [(node, other) for node, others in enumerate(linked) for other in sorted(others) if node < other]
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    return make_graph(graph.num_nodes, ends[:, 0], ends[:, 1], positions=getattr(graph, "positions", None))


def _links(graph: Any) -> Any:
    import scipy.sparse

    ends = np.asarray(graph.receivers), np.asarray(graph.senders)
    return scipy.sparse.csr_array((np.ones(len(ends[0])), ends), shape=(graph.num_nodes, graph.num_nodes))


def _hops(links: Any, start: Any = None) -> np.ndarray:
    """Hops from a node to all, float64 `[N]`, or between any two, `[N, N]`; infinite where there is no way."""
    from scipy.sparse.csgraph import shortest_path

    return shortest_path(links, method="D", directed=False, unweighted=True, indices=start)


def _clusters(rng: np.random.Generator, links: Any, victims: np.ndarray, size: int) -> list[list[int]]:
    """The victims in clusters of up to `size`: a random one that is left, with those left that are nearest to it."""
    left, out = np.array(victims), []
    while len(left):
        hops = _hops(links, left[rng.integers(len(left))])
        taken = np.lexsort((rng.random(len(left)), hops[left]))[:size]
        out.append(left[taken].tolist())
        left = np.delete(left, taken)
    return out


def _medoids(links: Any, count: int) -> np.ndarray:
    """Nodes spread over the graph: each next one leaves the least sum of hops to the nearest of them, `[count]`."""
    hops = _hops(links)
    num = len(hops)
    ways = np.where(np.isfinite(hops), hops, num)  # parts of a graph are far from each other
    nearest, chosen = np.full(num, 2.0 * num), np.zeros(count, np.int64)
    for place in range(count):
        sums = np.minimum(ways, nearest).sum(axis=1)
        sums[chosen[:place]] = np.inf
        chosen[place] = np.argmin(sums)
        nearest = np.minimum(nearest, ways[chosen[place]])
    return chosen
