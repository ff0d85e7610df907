"""The Network: what the nodes can say to each other now, and what it has cost so far."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Channel, Packet, PyTree, Route
from dlsim.networks import mixing
from dlsim.networks.graph import Graph, weight_dtype
from dlsim.networks.links import Links
from dlsim.running import counters

LARGEST_IMPLICIT_EDGES = 2**22  # a complete graph beyond this keeps no edge list


class Traffic(NamedTuple):
    """Sent so far, counted once, at the sender."""

    messages: counters.Counter  # [N]
    bits: counters.Counter  # [N]
    server_messages: counters.Counter  # []
    server_bits: counters.Counter  # []
    clock: counters.Clock  # []


class NetworkState(NamedTuple):
    """What of a network changes from round to round and belongs to the run."""

    traffic: Traffic
    channels: dict[str, PyTree]  # the channel's state, one a stream of messages


class Inbox(NamedTuple):
    """What each node heard from its neighbours."""

    values: PyTree  # [N, K, ...]
    weights: Array  # [N, K] mixing weights, zero where nothing was heard
    mask: Array  # bool [N, K]
    senders: Array  # int32 [N, K] positions of the senders


class Arrival(NamedTuple):
    """What arrived of one message a node: at the server, from it, or from a partner."""

    values: PyTree  # [n, ...]
    mask: Array  # bool [n]


def _identity_send(key: Array, state: PyTree, packet: Packet, route: Route) -> tuple[PyTree, Packet]:
    del key, route
    return state, packet


def _identity_init(message: PyTree, num_senders: int) -> tuple[()]:
    del message, num_senders
    return ()


PERFECT = Channel(init=_identity_init, send=_identity_send)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """Topology, mixing weights, presence, channel, links, and the traffic so far.  A pytree, passed by value.

    Edges are sorted by receiver; `edge_weights[e]` is the weight W[receiver, sender] and `self_weights` the diagonal.
    Graphs with unequal numbers of edges share a program as lists of one length, whose last edges are no edges
    (`is_edge`): loops at the last node without weight, over which nothing is sent.
    Masks are None where everyone is there, and then cost nothing.  Build one with a topology (`dlsim.networks.ring`,
    ...), `connect`, or a converter; change one with the `with_*` methods, which return a new one.

    In a round, a link works if it is up (`is_linked`) and both its ends are present.  A weight that a missing link
    leaves over stays on the diagonal: the receiver's where rows sum to one, the sender's where only columns do.  A
    message lost on its way (a channel's doing) is made up for by the receiver in the first case and is gone in the
    second, as in a real push-sum.
    """

    node_ids: Array  # int32 [N]; draws belong to ids, so a relabelled network gives relabelled results
    senders: Array  # int32 [E] positions
    receivers: Array  # int32 [E] positions
    edge_weights: Array  # float [E]
    self_weights: Array  # float [N]
    out_degrees: Array  # uint32 [N]
    in_degrees: Array  # uint32 [N]
    neighbors: Array | None  # int32 [N, K] positions of the senders, padded with the receiver itself
    neighbor_edges: Array | None  # int32 [N, K] edge ids, padded with E
    neighbor_weights: Array | None  # float [N, K], zero in the padding
    matrix: Array | None  # float [N, N] off-diagonal weights, for the dense lowering
    positions: Array | None  # float32 [N, 2]
    links: Links | None
    state: NetworkState
    is_present: Array | None = None  # bool [N]: takes part in this round
    is_linked: Array | None = None  # bool [E]: up in this round
    is_edge: Array | None = None  # bool [E]: False in the padding of the list of edges
    cohort: Array | None = None  # int32 [C] positions of the nodes asked in this round
    lowering: str = dataclasses.field(default="neighbors", metadata={"static": True})
    grid: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    offsets: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, metadata={"static": True})
    properties: frozenset[str] = dataclasses.field(default=frozenset(), metadata={"static": True})
    channel: Channel = dataclasses.field(default=PERFECT, metadata={"static": True})
    probe: Any = dataclasses.field(default=None, metadata={"static": True})  # notes the streams while tracing

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.node_ids.shape[0]

    @property
    def num_edges(self) -> int:
        """Directed edges, the padding of their list among them; 0 where a large complete graph keeps no list."""
        return self.senders.shape[0]

    @property
    def is_implicit(self) -> bool:
        """Whether this is a complete graph too large to list its edges."""
        return self.lowering == "average" and self.num_edges == 0 and self.num_nodes > 1

    def replace(self, **changes: Any) -> Network:
        """The network with other fields."""
        return dataclasses.replace(self, **changes)

    def with_channel(self, channel: Channel) -> Network:
        """Every message goes through `channel` (see `dlsim.networks.chain` for several)."""
        if not isinstance(channel, Channel):
            checks.fail("with_channel", "channel", "a Channel", type(channel).__name__, "A Scenario goes to `learn`.")
        return self.replace(channel=channel)

    def with_links(self, links: Links) -> Network:
        """Messages and gradients take simulated time (see `dlsim.networks.links`)."""
        checks.shape("with_links", "links.upload", links.upload, (self.num_nodes,))
        return self.replace(links=links)

    def with_lowering(self, lowering: str) -> Network:
        """Force a lowering of `mix`: average, shifts, neighbors, edges or dense."""
        return lower(self, lowering)

    def with_state(self, state: NetworkState) -> Network:
        """The network with the traffic, the clock and the channel states of `state`."""
        return self.replace(state=state)

    def relabel(self, order: Any) -> Network:
        """The same network with its nodes stored in another order: position p holds the node now at `order[p]`.

        For a network at the start of a run: traffic and channel states begin anew.
        """
        order = np.asarray(order)
        checks.shape("relabel", "order", order, (self.num_nodes,))
        if not np.array_equal(np.sort(order), np.arange(self.num_nodes)):
            checks.fail("relabel", "order", f"a permutation of 0..{self.num_nodes - 1}", order.tolist())
        place = np.argsort(order)
        links = self.links
        if links is not None:
            links = Links(*(leaf[order] if jnp.ndim(leaf) else leaf for leaf in links))
        nodes = {
            "node_ids": self.node_ids[order],
            "is_present": None if self.is_present is None else self.is_present[order],
            "cohort": None if self.cohort is None else jnp.asarray(place, jnp.int32)[self.cohort],
            "links": links,
            "channel": self.channel,
        }
        if self.is_implicit:
            return complete_network(self.num_nodes).replace(**nodes)
        senders, receivers = place[np.asarray(self.senders)], place[np.asarray(self.receivers)]
        by_receiver = np.lexsort((senders, receivers))
        graph = Graph(
            num_nodes=self.num_nodes,
            senders=senders[by_receiver].astype(np.int32),
            receivers=receivers[by_receiver].astype(np.int32),
            is_directed="undirected" not in self.properties,
            positions=None if self.positions is None else np.asarray(self.positions)[order],
        )
        weights = np.asarray(self.edge_weights)[by_receiver], np.asarray(self.self_weights)[order]
        lowering = "neighbors" if self.lowering == "shifts" else self.lowering
        linked = None if self.is_linked is None else self.is_linked[by_receiver]
        return connect(graph, weights, lowering).replace(is_linked=linked, **nodes)

    # The verbs; `messages.py` has their meaning and cost.
    def send(self, key: Array, tree: PyTree, *, stream: str = "send") -> tuple[Packet, Network]:
        """Each node sends its row to all its neighbours: what is on the air; `combine` makes of it what they make of it."""
        from dlsim.networks import messages

        return messages.send(self, key, tree, stream)

    def combine(self, packet: Packet, own: PyTree | None = None, weights: Any = None) -> PyTree:
        """y_i = w_ii own_i + sum_j w_ij values_j over what arrived of a packet; no traffic."""
        from dlsim.networks import messages

        return messages.combine(self, packet, own, weights)

    def mix(self, key: Array, tree: PyTree, *, weights: Any = None, stream: str = "mix") -> tuple[PyTree, Network]:
        """One gossip product, y_i = sum_j W_ij x_j: `send`, then `combine`; `weights` made in the step replace W."""
        from dlsim.networks import messages

        packet, network = messages.send(self, key, tree, stream)
        return messages.combine(network, packet, tree, weights), network

    def gather(self, key: Array, tree: PyTree, *, stream: str = "gather") -> tuple[Inbox, Network]:
        """What each node heard from each neighbour, for rules that are not linear."""
        from dlsim.networks import messages

        return messages.gather(self, key, tree, stream)

    def exchange(
        self, key: Array, tree: PyTree, partner: Array, *, stream: str = "exchange"
    ) -> tuple[Arrival, Network]:
        """Pairwise swap: node i hears node `partner[i]`, nothing where that is i; `partner` is its own inverse."""
        from dlsim.networks import messages

        return messages.exchange(self, key, tree, partner, stream)

    def uplink(self, key: Array, tree: PyTree, *, stream: str = "uplink") -> tuple[Arrival, Network]:
        """Each node of the cohort sends its row of `tree [C, ...]` to the server, which gets `Arrival([C, ...], [C])`."""
        from dlsim.networks import messages

        return messages.uplink(self, key, tree, stream)

    def downlink(self, key: Array, tree: PyTree, *, stream: str = "downlink") -> tuple[Arrival, Network]:
        """The server sends `tree [...]` to each node of the cohort; they get `Arrival([C, ...], [C])`."""
        from dlsim.networks import messages

        return messages.downlink(self, key, tree, stream)


def no_traffic(num_nodes: int) -> Traffic:
    """Nothing sent and no time passed."""
    return Traffic(
        messages=counters.counter((num_nodes,)),
        bits=counters.counter((num_nodes,)),
        server_messages=counters.counter(),
        server_bits=counters.counter(),
        clock=counters.clock(),
    )


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
    from dlsim.networks.weights import check_stochastic, mixing_weights

    checks.one_of("connect", "lowering", lowering, ("auto", *mixing.LOWERINGS))
    if isinstance(weights, str):
        edge_weights, self_weights = mixing_weights(graph, weights)
    else:
        if not isinstance(weights, tuple | list) or len(weights) != 2:
            fix = "For a whole matrix use from_matrix(W)."
            rule = "a name or (edge_weights [E], self_weights [N])"
            checks.fail("connect", "weights", rule, type(weights).__name__, fix)
        edge_weights, self_weights = (np.asarray(w, weight_dtype()) for w in weights)
        checks.shape("connect", "edge_weights", edge_weights, (graph.num_edges,))
        checks.shape("connect", "self_weights", self_weights, (graph.num_nodes,))
        checks.finite("connect", "edge_weights", edge_weights)
        checks.finite("connect", "self_weights", self_weights)
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
    if is_graph_connected(graph):
        properties.add("connected")
    # Arrays, not tracers, also where an experiment is built inside a traced function.
    with jax.ensure_compile_time_eval():
        network = _assemble(graph, edge_weights, self_weights, frozenset(properties))
        return lower(network, lowering, graph)


def complete_network(num_nodes: int) -> Network:
    """The complete graph with equal weights and no edge list, for any number of nodes."""
    empty = Graph(num_nodes, np.zeros(0, np.int32), np.zeros(0, np.int32))
    names = ("row_stochastic", "column_stochastic", "doubly_stochastic", "symmetric", "undirected", "connected")
    with jax.ensure_compile_time_eval():
        network = _assemble(empty, np.zeros(0, np.float32), np.full(num_nodes, 1 / num_nodes), frozenset(names))
        everyone = jnp.full(num_nodes, num_nodes - 1, jnp.uint32)
    return network.replace(lowering="average", out_degrees=everyone, in_degrees=everyone)


def is_graph_connected(graph: Graph) -> bool:
    """Whether every node is reached from every other (along the edges' direction where they have one)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    entries = (np.ones(graph.num_edges, bool), (graph.senders, graph.receivers))
    adjacency = coo_matrix(entries, shape=(graph.num_nodes, graph.num_nodes)).tocsr()
    count, _ = connected_components(adjacency, directed=graph.is_directed, connection="strong")
    return bool(count == 1)


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
        properties=properties,
    )


def host_graph(network: Network) -> Graph:
    """The graph under a network, back on the host."""
    edges = slice(None) if network.is_edge is None else np.asarray(network.is_edge)
    return Graph(
        num_nodes=network.num_nodes,
        senders=np.asarray(network.senders)[edges],
        receivers=np.asarray(network.receivers)[edges],
        is_directed="undirected" not in network.properties,
        grid=network.grid,
        offsets=network.offsets,
        positions=None if network.positions is None else np.asarray(network.positions),
    )


def lower(network: Network, lowering: str, graph: Graph | None = None) -> Network:
    """The network with the arrays that `lowering` needs; `"auto"` follows the cost rule."""
    checks.one_of("with_lowering", "lowering", lowering, ("auto", *mixing.LOWERINGS))
    if network.is_implicit:
        if lowering not in ("auto", "average"):
            checks.fail(
                "with_lowering", "lowering", "'average' for a complete graph without an edge list", repr(lowering)
            )
        return network
    if network.is_edge is not None:
        checks.fail("with_lowering", "network", "one whose list of edges is not padded", "one with a mask is_edge")
    graph = host_graph(network) if graph is None else graph
    num_nodes, edge_weights = graph.num_nodes, np.asarray(network.edge_weights)
    is_complete = graph.num_edges == num_nodes * (num_nodes - 1) and num_nodes > 1
    is_uniform_complete = is_complete and np.allclose(edge_weights, 1 / num_nodes, rtol=1e-5)
    widest = int(graph.in_degrees.max()) if graph.num_edges else 0
    table_fits = num_nodes * widest <= max(4 * (graph.num_edges + num_nodes), 2**20)
    if lowering == "auto":
        lowering = mixing.choose(graph, is_uniform_complete, table_fits, jax.default_backend())
    if lowering == "average" and not is_uniform_complete:
        checks.fail("with_lowering", "lowering", "one that fits the weights", "'average' on an incomplete graph")
    if lowering == "shifts" and graph.offsets is None:
        checks.fail("with_lowering", "lowering", "one that fits the graph", "'shifts' on a graph that is not a grid")
    changes: dict[str, Any] = {"lowering": lowering, "matrix": None}
    if network.neighbor_edges is None and (lowering in ("neighbors", "shifts") or table_fits):
        changes |= _table(graph, edge_weights)
    if lowering == "dense":
        changes["matrix"] = mixing.matrix(network, network.edge_weights, jnp.zeros_like(network.self_weights))
    return network.replace(**changes)


def _table(graph: Graph, edge_weights: np.ndarray) -> dict[str, Array]:
    table = mixing.neighbor_table(graph)
    padded = np.concatenate([edge_weights, np.zeros(1, edge_weights.dtype)])
    is_padding = table == graph.num_edges
    senders = np.concatenate([graph.senders, np.zeros(1, np.int32)])[table]
    senders = np.where(is_padding, np.arange(graph.num_nodes, dtype=np.int32)[:, None], senders)
    return {
        "neighbors": jnp.asarray(senders, jnp.int32),
        "neighbor_edges": jnp.asarray(table, jnp.int32),
        "neighbor_weights": jnp.asarray(padded[table]),
    }
