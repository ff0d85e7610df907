"""Which clocks a network has: one a node, one an edge, one a directed edge, or one a node that picks a neighbour."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.clocks.clocks import draw_words
from dlsim.networks.graphs.graph import Graph
from dlsim.networks.network import Network, host_graph

COMMUNICATIONS = ("edges", "links", "nodes")
LARGEST_LIST = 2**25  # pairs of a complete graph that keeps no edge list


class ClockedEnds(NamedTuple):
    """The clocks of one kind: what their draws belong to, and which nodes their events touch."""

    ids: np.ndarray  # int64 [n] or [n, 2]
    rank: np.ndarray  # int64 [n] place among the clocks that have an event at the same tick
    a: np.ndarray  # int32 [n]
    b: np.ndarray | None  # int32 [n]; None: no other node, or drawn among the neighbours
    neighbors: np.ndarray | None = None  # int32 [E], by node
    first: np.ndarray | None = None  # int64 [N + 1]

    def at(self, rows: np.ndarray, numbers: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nodes of each event, int32 `[M]` twice, given the keys of the clocks."""
        a = self.a[rows]
        if self.neighbors is not None and self.first is not None:
            degree = self.first[a + 1] - self.first[a]
            drawn = draw_words(words[rows], numbers, purpose=1)[0].astype(np.int64)
            return a, self.neighbors[self.first[a] + (drawn * degree >> 32)]
        return a, np.full(len(rows), -1, np.int32) if self.b is None else self.b[rows]


class NetworkEnds(NamedTuple):
    """The nodes and edges of a network, as clocks see them."""

    graph: Graph
    node_ids: np.ndarray  # int64 [N]
    is_implicit: bool  # complete, without a list of edges
    kind: str

    @property
    def num_nodes(self) -> int:
        return len(self.node_ids)

    @property
    def nodes(self) -> ClockedEnds:
        """One clock a node."""
        positions = np.arange(self.num_nodes, dtype=np.int32)
        return ClockedEnds(ids=self.node_ids, rank=_rank(self.node_ids), a=positions, b=None)

    def links(self) -> tuple[np.ndarray, np.ndarray]:
        """Senders and receivers, int32 `[E]`."""
        if not self.is_implicit:
            return self.graph.senders, self.graph.receivers
        self._check_size(self.num_nodes * (self.num_nodes - 1))
        receivers, senders = np.divmod(np.arange(self.num_nodes**2), self.num_nodes)
        other = senders != receivers
        return senders[other].astype(np.int32), receivers[other].astype(np.int32)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Each pair of linked nodes once, the lower position first, sorted; int32 `[P]` twice."""
        if self.is_implicit:
            self._check_size(self.num_nodes * (self.num_nodes - 1) // 2)
            first, second = np.triu_indices(self.num_nodes, 1)
            return first.astype(np.int32), second.astype(np.int32)
        low = np.minimum(self.graph.senders, self.graph.receivers).astype(np.int64)
        code = np.unique(low * self.num_nodes + np.maximum(self.graph.senders, self.graph.receivers))
        return (code // self.num_nodes).astype(np.int32), (code % self.num_nodes).astype(np.int32)

    def communication(self) -> ClockedEnds:
        """The clocks of communication events."""
        if self.num_nodes < 2:
            checks.fail("make_tape", "network", "of at least 2 nodes for a communication clock", self.num_nodes)
        if self.kind == "nodes":
            return self._choosing()
        a, b = self.pairs() if self.kind == "edges" else self.links()
        lonely = np.bincount(a, minlength=self.num_nodes) + np.bincount(b, minlength=self.num_nodes) == 0
        self._check_neighbors(lonely)
        ids = np.stack([self.node_ids[a], self.node_ids[b]], axis=1)
        # A pair has one id whichever of its nodes comes first, and its events one meaning of a and b.
        if self.kind == "edges":
            turned = ids[:, 0] > ids[:, 1]
            a, b = np.where(turned, b, a), np.where(turned, a, b)
            ids = np.sort(ids, axis=1)
        return ClockedEnds(ids=ids, rank=_rank(ids[:, 0], ids[:, 1]), a=a, b=b)

    def _choosing(self) -> ClockedEnds:
        senders, receivers = self.links()
        order = np.lexsort((self.node_ids[receivers], senders))
        degrees = np.bincount(senders, minlength=self.num_nodes)
        self._check_neighbors(degrees == 0)
        nodes = self.nodes
        first = np.concatenate([[0], np.cumsum(degrees)])
        # Two words of id keep these clocks apart from the gradient clocks whatever key they are given.
        ids = np.stack([nodes.ids, np.full_like(nodes.ids, -2)], axis=1)
        return nodes._replace(ids=ids, neighbors=receivers[order].astype(np.int32), first=first)

    def _check_neighbors(self, lonely: np.ndarray) -> None:
        if lonely.any():
            fix = "Link it, or drop it from the network."
            checks.fail("make_tape", "network", "without isolated nodes", f"node {int(np.argmax(lonely))} alone", fix)

    def _check_size(self, length: int) -> None:
        if length > LARGEST_LIST:
            checks.fail("make_tape", "network", f"one with at most {LARGEST_LIST} edges to have clocks", length)


def clocked_ends(network: Network | Graph, communication: str = "edges") -> NetworkEnds:
    """The nodes and edges of a network or graph, on the host."""
    checks.one_of("make_tape", "communication", communication, COMMUNICATIONS)
    checks.known("make_tape", "network", network, "known values", "Make tapes outside jit and vmap.")
    if isinstance(network, Network):
        ids = np.asarray(network.node_ids).astype(np.int64)
        return NetworkEnds(host_graph(network), ids, network.is_implicit, communication)
    return NetworkEnds(network, np.arange(network.num_nodes), False, communication)


@checks.typed
def clock_edges(network: Network | Graph, communication: str = "edges") -> tuple[np.ndarray, np.ndarray]:
    """The nodes (a, b) of each communication clock, int32 `[n]` twice: the order in which its rates are given.

    Args:
      network: whose edges have clocks.
      communication: "edges" (one clock a pair of linked nodes) or "links" (one a directed edge, a sending to b).
    """
    checks.one_of("clock_edges", "communication", communication, ("edges", "links"))
    ends = clocked_ends(network, communication).communication()
    assert ends.b is not None
    return ends.a, ends.b


@checks.typed
def neighbor_rates(network: Network | Graph, node_rates: Any = 1.0) -> np.ndarray:
    """Rates of the edges' Poisson clocks when each node wakes at a rate of its own and picks a neighbour uniformly.

        rate_ij = rate_i / degree_i + rate_j / degree_j

    Args:
      network: undirected.
      node_rates: wakes a second, a number or `[N]`, above 0.
    Returns: float64, in the order of `clock_edges`.
    Source: Boyd, Ghosh, Prabhakar, Shah, Randomized gossip algorithms, IEEE Transactions on Information Theory 2006.
    """
    first, second = clock_edges(network)
    num_nodes = clocked_ends(network).num_nodes
    rates = checks.host("neighbor_rates", "node_rates", node_rates, f"one or {num_nodes} finite numbers above 0")
    if not checks.is_real_type(rates.dtype):
        got = checks.describe(node_rates)
        checks.fail("neighbor_rates", "node_rates", f"one or {num_nodes} finite numbers above 0", got)
    rates = rates.astype(np.float64)
    if rates.shape not in ((), (num_nodes,)) or not (np.isfinite(rates) & (rates > 0)).all():
        bad = rates.ravel()[~(np.isfinite(rates) & (rates > 0)).ravel()]
        got = f"{bad[0]:g}" if len(bad) else f"shape {list(rates.shape)}"
        checks.fail("neighbor_rates", "node_rates", f"one or {num_nodes} finite numbers above 0", got)
    degrees = np.bincount(first, minlength=num_nodes) + np.bincount(second, minlength=num_nodes)
    share = np.broadcast_to(rates, (num_nodes,)) / degrees
    return share[first] + share[second]


def _rank(*ids: np.ndarray) -> np.ndarray:
    """Places of the clocks in the order of their ids, the first id before the second."""
    rank = np.empty(len(ids[0]), np.int64)
    rank[np.lexsort(ids[::-1])] = np.arange(len(ids[0]))
    return rank
