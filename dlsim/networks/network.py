"""The Network: what the nodes can say to each other now, and what it has cost so far.

One class, in two layers, so that imports run one way: `fields` has the data, `mixing` and `messages` work on them, and
`Network` adds the verbs.  Who only uses networks needs nothing but this module.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import PROPERTIES, Array, Packet, PyTree
from dlsim.networks import chosen, messages, mixing
from dlsim.networks.collectives import all_reduce as collectives
from dlsim.networks.fields import (
    PERFECT,
    Arrival,
    Inbox,
    NetworkFields,
    NetworkState,
    Sent,
    Traffic,
    host_graph,
    no_traffic,
)
from dlsim.networks.flight import combining, server_messages
from dlsim.networks.graphs.graph import Graph, weight_dtype
from dlsim.networks.graphs.spectral import is_connected
from dlsim.networks.graphs.stochastic import check_stochastic
from dlsim.networks.graphs.weights import mixing_weights
from dlsim.networks.mixing import lower
from dlsim.networks.pace.links import Ledger, ledger
from dlsim.networks.pace.sizes import check_size

__all__ = [
    "LARGEST_IMPLICIT_EDGES",
    "PERFECT",
    "Arrival",
    "Inbox",
    "Network",
    "NetworkState",
    "Sent",
    "Traffic",
    "complete_network",
    "connect",
    "host_graph",
    "lower",
    "no_traffic",
]

LARGEST_IMPLICIT_EDGES = 2**22  # a complete graph beyond this keeps no edge list


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network(NetworkFields):
    """Topology, mixing weights, presence, channel, links, and the traffic so far.  A pytree, passed by value.

    Edges are sorted by receiver; `edge_weights[e]` is the weight W[receiver, sender] and `self_weights` the diagonal.
    Graphs with unequal numbers of edges share a program as lists of one length, whose last edges are no edges
    (`is_edge`): loops at the last node without weight, over which nothing is sent.
    Masks are None where everyone is there, and then cost nothing.  Build one with a topology (`dlsim.networks.ring`,
    ...), `connect`, or a converter; change one with the `with_*` methods, which return a new one.

    In a round, a link works if it is up (`is_linked`) and both its ends are present.  A weight that a missing link
    leaves over stays on the diagonal: the receiver's where rows sum to one, the sender's where only columns do.  A
    message lost on its way (a channel's doing) is made up for by the receiver in the first case and is gone in the
    second, as in a real push-sum.  With delays (`with_delays`) a message is heard rounds after it was sent: `in_flight` says
    by whom, and what stands in its place until then.
    """

    def __repr__(self) -> str:
        if not all(hasattr(leaf, "shape") for leaf in (self.node_ids, self.senders)):
            return "Network(...)"  # a shape of one, without arrays
        edges = "all linked" if self.is_implicit else f"{self.num_edges} directed edges"
        held = ("links", "delays", "labels", "positions", "is_present", "is_linked", "cohort")
        implied = {"row_stochastic", "column_stochastic"} if "doubly_stochastic" in self.properties else set()
        parts = [f"{self.num_nodes} nodes", edges, f"by {self.lowering}", *sorted(self.properties - implied)]
        parts += ["with a channel"] if self.channel is not PERFECT else []
        parts += [f"with {name}" for name in held if getattr(self, name) is not None]
        return f"Network({', '.join(parts)})"

    def with_lowering(self, lowering: str) -> Network:
        """Force a lowering of `mix`: average, shifts, neighbors, edges or dense."""
        return lower(self, lowering)

    def relabel(self, order: Any) -> Network:
        """The same network with its nodes stored in another order: position p holds the node now at `order[p]`.

        For a network at the start of a run: traffic and channel states begin anew.
        """
        checks.known("relabel", "order", order, "known while tracing")
        order = checks.array("relabel", "order", order, (self.num_nodes,))
        is_whole = np.issubdtype(order.dtype, np.integer)
        if not is_whole or not np.array_equal(np.sort(order), np.arange(self.num_nodes)):
            checks.fail("relabel", "order", f"a permutation of 0..{self.num_nodes - 1}", checks.describe(order))
        place = np.argsort(order)
        links = self.links
        if links is not None:
            links = jax.tree.map(lambda leaf: leaf[order] if jnp.ndim(leaf) else leaf, links)
        nodes = {
            "node_ids": self.node_ids[order],
            "is_present": None if self.is_present is None else self.is_present[order],
            "has_data": None if self.has_data is None else self.has_data[order],
            "cohort": None if self.cohort is None else jnp.asarray(place, jnp.int32)[self.cohort],
            "membership": None if self.membership is None else jax.tree.map(lambda x: x[order], self.membership),
            "links": links,
            "channel": self.channel,
            "barrier": self.barrier,
            "delays": self.delays,
        }
        fresh = self.state._replace(traffic=no_traffic(self.num_nodes), channels={})
        if isinstance(fresh.ledger, Ledger):
            fresh = fresh._replace(ledger=ledger(self.num_nodes))
        nodes["state"] = fresh
        if self.is_implicit:
            return complete_network(self.num_nodes).replace(**nodes)
        senders, receivers = place[np.asarray(self.senders)], place[np.asarray(self.receivers)]
        by_receiver = np.lexsort((senders, receivers))
        nodes["delays"] = None if self.delays is None else self.delays.reordered(order, by_receiver)
        graph = Graph(
            num_nodes=self.num_nodes,
            senders=senders[by_receiver].astype(np.int32),
            receivers=receivers[by_receiver].astype(np.int32),
            is_directed="undirected" not in self.properties,
            positions=None if self.positions is None else np.asarray(self.positions)[order],
            labels=None if self.labels is None else self.labels.ordered(order, by_receiver),
        )
        weights = np.asarray(self.edge_weights)[by_receiver], np.asarray(self.self_weights)[order]
        lowering = "neighbors" if self.lowering == "shifts" else self.lowering
        linked = None if self.is_linked is None else self.is_linked[by_receiver]
        return connect(graph, weights, lowering).replace(is_linked=linked, **nodes)

    # The verbs; `messages.py`, `combining.py` and `server_messages.py` have their meaning and cost.  Where messages are
    # under way for some rounds (`with_delays`), `hear` says whether a receiver uses of each sender the "newest" that has
    # arrived, or "all" that arrives, each message once (`in_flight.py`); else it means nothing.
    def send(
        self,
        key: Array,
        tree: PyTree,
        *,
        stream: str = "send",
        hear: str = "newest",
        is_sent: Array | None = None,
        header_bits: Array | int = 0,
    ) -> tuple[Packet, Network]:
        """Each node sends its row to all its neighbours: what is on the air; `combine` makes of it what they make of it.

        `is_sent`, bool `[N, D]` over all leaves side by side: only these numbers go out, the others count as zeros that
        nobody sent; `header_bits` are what each message carries beside, whole whatever the channel, `[]` or `[N]`.
        """
        return messages.send(self, key, tree, stream, hear, True, is_sent, header_bits)

    def combine(self, packet: Packet, own: PyTree | None = None, weights: Any = None) -> PyTree:
        """y_i = w_ii own_i + sum_j w_ij values_j over what arrived of a packet; no traffic."""
        return combining.combine(self, packet, own, weights)

    def mix(
        self, key: Array, tree: PyTree, *, weights: Any = None, stream: str = "mix", hear: str = "newest"
    ) -> tuple[PyTree, Network]:
        """One gossip product, y_i = sum_j W_ij x_j: `send`, then `combine`; `weights` made in the step replace W."""
        return combining.mix(self, key, tree, weights, stream, hear)

    def gather(self, key: Array, tree: PyTree, *, stream: str = "gather") -> tuple[Inbox, Network]:
        """What each node heard from each neighbour, for rules that are not linear."""
        return combining.gather(self, key, tree, stream)

    def exchange(
        self, key: Array, tree: PyTree, partner: Array, *, stream: str = "exchange"
    ) -> tuple[Arrival, Network]:
        """Pairwise swap: node i hears node `partner[i]`, nothing where that is i; `partner` is its own inverse."""
        return messages.exchange(self, key, tree, partner, stream)

    def uplink(self, key: Array, tree: PyTree, *, stream: str = "uplink") -> tuple[Arrival, Network]:
        """Each node of the cohort sends its row of `tree [C, ...]` to the server, which gets `Arrival([C, ...], [C])`."""
        return server_messages.uplink(self, key, tree, stream)

    def downlink(self, key: Array, tree: PyTree, *, stream: str = "downlink") -> tuple[Arrival, Network]:
        """The server sends `tree [...]` to each node of the cohort; they get `Arrival([C, ...], [C])`."""
        return server_messages.downlink(self, key, tree, stream)

    def send_to(
        self,
        key: Array,
        tree: PyTree,
        receivers: Array,
        *,
        senders: Array | None = None,
        header_bits: Array | int = 0,
        may_repeat: bool = False,
        stream: str = "send_to",
    ) -> tuple[Sent, Network]:
        """Node `senders[i]` sends row i of `tree [n, ...]` to the nodes `receivers[i]`, which it chose in this step.

        Any two nodes reach each other, linked or not; but nothing is sent over a link that failed, by a node that is away
        or to one.  Who chooses itself hears itself exactly and sends nothing.  A message is one for each receiver that it is
        sent to, counted at the sender with its bits, lost or not; `links` take their seconds.

        Args:
          tree: every leaf `[n, ...]`; a sender says the same to all that it chose.
          receivers: int32 `[n, k]` positions, distinct in a row unless `may_repeat`; negative: nobody.
          senders: int32 `[n]` distinct positions; None: all N nodes in order.
          header_bits: what each message carries beside, whole whatever the channel, `[]` or `[n]`.
          may_repeat: whoever is named twice in a row gets two messages, which count twice; structural.
          stream: name of the sequence of messages, under which a channel keeps its memory, a row a node.
        Raises ValueError where messages take rounds (`with_delays`).
        """
        return chosen.send_to(self, key, tree, receivers, senders, header_bits, may_repeat, stream)

    def combine_sent(
        self, sent: Sent, own: PyTree | None = None, *, weights: Array | None = None, at: Array | None = None
    ) -> PyTree:
        """The weighted sum of what arrived at the nodes `at` `[m]` (None: all N), `[m, ...]`; no traffic.

            y_r = w_r own_r + sum_(i, c: receivers[i, c] = r) w_ic values_i

        Without `weights` it is a plain mean, of `own` `[m, ...]` too where that is given.  `weights` `[n, k]` are those of
        messages; then w_r = 1 - sum w_ic over what arrived, so that a lost message's goes to `own`.  Who hears nothing and
        has no `own` gets zeros.
        """
        return chosen.combine_sent(self, sent, own, weights, at)

    def gather_sent(self, sent: Sent, capacity: int, *, at: Array | None = None) -> tuple[Inbox, Array]:
        """The messages that arrived at the nodes `at` `[m]` (None: all N), for rules that are no weighted sum; no traffic.

        `Inbox([m, capacity, ...])`, in the order of the senders, with weights 1 / (1 + number heard); and how many found no
        place, int32 `[m]`: raise `capacity` (structural) where it is not 0.
        """
        return chosen.gather_sent(self, sent, capacity, at)

    def all_reduce(
        self,
        key: Array,
        tree: PyTree,
        collective: collectives.Collective | None = None,
        *,
        stream: str = "all_reduce",
    ) -> tuple[collectives.Reduced, Network]:
        """The mean of the rows of all nodes that are there, known to all of them; see `dlsim.networks.collective`.

        Whoever dies on the way (`membership.dies_at`, a scenario's doing, see `dlsim.networks.peer_churn`) ends the attempt
        for all; the others take what they put in and begin again in a smaller ring.  So the value is exactly that of those
        who were left.  Bits, messages and seconds of attempts that failed count, in the share of an attempt that they
        lasted.  Any two nodes are taken to reach each other, linked or not.  Where fewer than two are left, nothing is
        reduced and `succeeded` is false (an error where that is known before anything runs).  Messages go through the
        network's channel once, as each peer puts them in; one that loses messages is refused.
        """
        return collectives.all_reduce(self, key, tree, collective, stream)


def connect(
    graph: Graph,
    weights: str | tuple[np.ndarray, np.ndarray] = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """A Network over `graph`.

    Args:
      graph: the edges (`dlsim.networks.graph`).
      weights: a name (`dlsim.networks.mixing_weights`) or `(edge_weights [E], self_weights [N])` in the graph's order.
        They are checked: rows or columns must sum to one.
      lowering: how `mix` runs; `"auto"` follows `mixing.choose`.
    """
    fix = "Make one of lists of ends: graph(num_nodes, senders, receivers)."
    checks.instance("connect", "graph", graph, Graph, fix)
    checks.one_of("connect", "lowering", lowering, ("auto", *mixing.LOWERINGS))
    if isinstance(weights, str):
        edge_weights, self_weights = mixing_weights(graph, weights)
    else:
        if not isinstance(weights, tuple | list) or len(weights) != 2:
            fix = "For a whole matrix use from_matrix(W)."
            rule = "a name or (edge_weights [E], self_weights [N])"
            checks.fail("connect", "weights", rule, type(weights).__name__, fix)
        named = (("edge_weights", weights[0], graph.num_edges), ("self_weights", weights[1], graph.num_nodes))
        checks.known("connect", "weights", list(weights), "known while tracing", "Weights made in a step go to mix().")
        edge_weights, self_weights = (
            checks.array("connect", name, w, (size,)).astype(weight_dtype()) for name, w, size in named
        )
    stochastic = check_stochastic(graph, edge_weights, self_weights)
    properties = {name.removeprefix("is_") for name, holds in stochastic.items() if holds}
    if not properties & {"row_stochastic", "column_stochastic"}:
        rows = self_weights + np.bincount(graph.receivers, edge_weights, graph.num_nodes)
        worst = int(np.argmax(np.abs(rows - 1)))
        checks.fail(
            "connect",
            "weights",
            "stochastic (rows or columns sum to 1)",
            f"row {worst} with sum {rows[worst]:.6g}",
            'Use weights="metropolis_hastings".',
        )
    if {"row_stochastic", "column_stochastic"} <= properties:
        properties.add("doubly_stochastic")
    if not graph.is_directed:
        properties.add("undirected")
    if is_connected(graph):
        properties.add("connected")
    # Arrays, not tracers, also where an experiment is built inside a traced function.
    with jax.ensure_compile_time_eval():
        network = _assemble(graph, edge_weights, self_weights, frozenset(properties))
        return lower(network, lowering, graph)


def complete_network(num_nodes: int) -> Network:
    """The complete graph with equal weights and no edge list."""
    check_size("complete", checks.integer("complete", "num_nodes", num_nodes, 1))
    empty = Graph(num_nodes, np.zeros(0, np.int32), np.zeros(0, np.int32))
    with jax.ensure_compile_time_eval():
        network = _assemble(empty, np.zeros(0, np.float32), np.full(num_nodes, 1 / num_nodes), frozenset(PROPERTIES))
        everyone = jnp.full(num_nodes, num_nodes - 1, jnp.uint32)
    return network.replace(lowering="average", out_degrees=everyone, in_degrees=everyone)


def _assemble(graph: Graph, edge_weights: np.ndarray, self_weights: np.ndarray, properties: frozenset[str]) -> Network:
    return Network(
        node_ids=jnp.arange(graph.num_nodes, dtype=jnp.int32),
        senders=jnp.asarray(graph.senders, jnp.int32),
        receivers=jnp.asarray(graph.receivers, jnp.int32),
        edge_weights=jnp.asarray(edge_weights, weight_dtype()),
        self_weights=jnp.asarray(self_weights, weight_dtype()),
        out_degrees=jnp.asarray(graph.out_degrees, jnp.uint32),
        in_degrees=jnp.asarray(graph.in_degrees, jnp.uint32),
        neighbors=None,
        neighbor_edges=None,
        neighbor_weights=None,
        matrix=None,
        positions=None if graph.positions is None else jnp.asarray(graph.positions),
        links=None,
        state=NetworkState(traffic=no_traffic(graph.num_nodes), channels={}),
        grid=graph.grid,
        offsets=graph.offsets,
        labels=graph.labels,
        properties=properties,
    )
