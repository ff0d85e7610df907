"""The verbs: every message of every algorithm passes through here, so everything that can happen to one is here.

A verb takes what each node says, sends it through the network's channel, counts messages and bits once, at the sender,
moves the simulated clock, and gives what was received together with the network as it then is.  A stream is a named
sequence of like messages: each keeps a channel state of its own, such as the residual of error feedback.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import SERVER, Array, Packet, PyTree, Route
from dlsim.networks import mixing
from dlsim.networks.fields import PERFECT, Arrival, Inbox, NetworkFields, check_single
from dlsim.networks.seconds import between, from_server, to_server
from dlsim.running import counters

Fields = TypeVar("Fields", bound=NetworkFields)


class Probe:
    """Collects the streams of a process while it is traced once, so that channel states can be made."""

    def __init__(self) -> None:
        self.streams: dict[str, tuple[PyTree, int]] = {}


def open_channels(network: Fields, trace: Any) -> Fields:
    """The network with fresh channel states for every stream that `trace(network)` uses (it is only traced)."""
    if network.channel is PERFECT:
        return network
    probe = Probe()
    jax.eval_shape(lambda: (trace(network.replace(probe=probe)), ())[1])
    states = {
        name: network.channel.init(trees_like(message), num_senders)
        for name, (message, num_senders) in sorted(probe.streams.items())
    }
    return network.with_state(network.state._replace(channels=states))


def trees_like(message: PyTree) -> PyTree:
    """Zeros of the message's shapes and dtypes."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), message)


def whole_packet(tree: PyTree) -> Packet:
    """A message `[n, ...]` as it is, before any channel."""
    count = jax.tree.leaves(tree)[0].shape[0]
    num_entries, num_bits = trees.num_entries(tree), trees.num_bits(tree)
    # Leaves of several dtypes have no one width: what the whole bits of each number leave over counts as a header.
    width = num_bits // max(num_entries, 1)
    return Packet(
        values=tree,
        num_entries=jnp.full(count, num_entries, jnp.uint32),
        bits_per_entry=jnp.full(count, width, jnp.uint32),
        extra_bits=jnp.full(count, num_bits - width * num_entries, jnp.uint32),
    )


def pass_channel(
    network: Fields,
    key: Array,
    tree: PyTree,
    route: Route | None,
    stream: str,
    rows: Array | None,
    num_senders: int,
    acting: Array | None,
) -> tuple[Packet, Fields]:
    """The message `[n, ...]` through the channel; `rows` are the senders' rows in the channel's state.

    Who is not `acting` `[n]` (None: all are) sends nothing and keeps its state.
    """
    packet = whole_packet(tree)
    if network.channel is PERFECT:
        return packet, network
    if network.probe is not None:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        known = network.probe.streams.setdefault(stream, (shapes, num_senders))
        if known != (shapes, num_senders):
            checks.fail("network", "stream", "used for messages of one shape", repr(stream), "Name another stream.")
        state = network.channel.init(trees_like(tree), num_senders)
    elif stream in network.state.channels:
        state = network.state.channels[stream]
    else:  # a verb used by hand, outside a process
        state = network.channel.init(trees_like(tree), num_senders)
    old = state if rows is None else trees.take(state, rows)
    new, packet = network.channel.send(keys.stream(key, stream), old, packet, route and route._replace(acting=acting))
    new = trees.select(acting, new, old)
    new = new if rows is None else trees.put(state, rows, new)
    if network.probe is not None:
        return packet, network
    return packet, network.with_state(network.state._replace(channels={**network.state.channels, stream: new}))


def message_bits(packet: Packet) -> counters.Counter:
    """Bits of one copy of each sender's message, `[n]`."""
    body = counters.product(packet.num_entries, packet.bits_per_entry)
    return counters.add(body, counters.from_words(packet.extra_bits))


def _times(bits: counters.Counter, copies: Array) -> counters.Counter:
    full = counters.product(bits.low, copies)
    return counters.Counter(low=full.low, high=full.high + bits.high * copies.astype(jnp.uint32))


def _float(bits: counters.Counter) -> Array:
    return bits.high.astype(jnp.float32) * 2.0**32 + bits.low.astype(jnp.float32)


def active_edges(network: NetworkFields) -> Array | None:
    """Which links work in this round, bool `[E]`, False in the padding; None: all links there are."""
    mask = network.is_linked
    if network.is_present is not None and network.num_edges:
        ends = network.is_present[network.senders] & network.is_present[network.receivers]
        mask = ends if mask is None else mask & ends
    return mask if mask is None else both(mask, network.is_edge)


def _degrees(network: NetworkFields, mask: Array | None) -> tuple[Array, Array]:
    """Working links out of and into each node, uint32 `[N]`."""
    if network.is_implicit and network.is_present is not None:
        present = network.is_present.astype(jnp.uint32)
        others = present * (jnp.sum(present) - 1)
        return others, others
    if mask is None:
        return network.out_degrees, network.in_degrees
    ones, size = mask.astype(jnp.uint32), network.num_nodes
    outgoing = jax.ops.segment_sum(ones, network.senders, size)
    incoming = jax.ops.segment_sum(ones, network.receivers, size, indices_are_sorted=True)
    return outgoing, incoming


def _count(network: Fields, copies: Array, bits: counters.Counter) -> Fields:
    """Traffic of `copies [N]` messages of `bits [N]` each."""
    traffic = network.state.traffic
    traffic = traffic._replace(
        messages=counters.add(traffic.messages, counters.from_words(copies)),
        bits=counters.add(traffic.bits, _times(bits, copies)),
    )
    return network.with_state(network.state._replace(traffic=traffic))


def count_edges(network: Fields, key: Array, stream: str, packet: Packet, up: Array) -> Fields:
    """Traffic of one message an edge, `packet` over edges `[E]`, on those that are up."""
    bits = message_bits(packet)
    sent = counters.Counter(low=jnp.where(up, bits.low, 0), high=jnp.where(up, bits.high, 0))

    # Sums by sender in 64 bits: halves of 16 bits, so that 65,536 edges of a node cannot carry over.
    def by_sender(words: Array) -> counters.Counter:
        low = jax.ops.segment_sum(words & 0xFFFF, network.senders, network.num_nodes)
        high = counters.product(jax.ops.segment_sum(words >> 16, network.senders, network.num_nodes), jnp.uint32(2**16))
        return counters.add(counters.from_words(low), high)

    total = by_sender(sent.low)
    total = total._replace(high=total.high + jax.ops.segment_sum(sent.high, network.senders, network.num_nodes))
    copies = jax.ops.segment_sum(up.astype(jnp.uint32), network.senders, network.num_nodes)
    if network.links is not None:
        heard = jax.ops.segment_sum(_float(sent), network.receivers, network.num_nodes, indices_are_sorted=True)
        network = between(network, key, stream, _float(total), heard)
    network = _count(network, copies, counters.from_words(jnp.zeros_like(copies)))
    traffic = network.state.traffic
    traffic = traffic._replace(bits=counters.add(traffic.bits, total))
    return network.with_state(network.state._replace(traffic=traffic))


def check_leading(where: str, tree: PyTree, num: int) -> None:
    """Every leaf has a leading axis of `num` rows, or ValueError."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        checks.fail(where, "tree", f"stacked over {num} nodes in every leaf", "one without leaves")
    for leaf in leaves:
        shape = getattr(leaf, "shape", None)
        if not shape or shape[0] != num:
            got = checks.describe(leaf) if shape is None else f"a leaf of shape {list(shape)}"
            checks.fail(where, "tree", f"stacked over {num} nodes in every leaf", got)


def send(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Packet, Fields]:
    """Each node sends one message to all its neighbours; `combine` makes of it what the receivers make of it.

    `packet.values` is what went on the air, which a sender with a lossy compressor needs to know (CHOCO's public copy).
    """
    check_leading(stream, tree, network.num_nodes)
    check_single(stream, network)
    ids = network.node_ids
    # Ends are looked up for channels alone: without one, a program depends on no list of edges, and graphs of other sizes
    # but the same lowering can share it.
    route = None
    if network.channel is not PERFECT:
        route = Route(node_ids=ids, senders=ids[network.senders], receivers=ids[network.receivers])
    packet, network = pass_channel(network, key, tree, route, stream, None, network.num_nodes, network.is_present)
    if network.is_implicit and packet.delivered is not None:
        checks.fail("mix", "network", "one that lists its edges where messages are lost", "a large complete graph")
    outgoing, incoming = _degrees(network, active_edges(network))
    bits = message_bits(packet)
    if network.links is not None:
        sizes = _float(bits)
        heard = _heard_bits(network, sizes, active_edges(network), incoming)
        network = between(network, key, stream, sizes * outgoing, heard)
    return packet, _count(network, outgoing, bits)


def _heard_bits(network: NetworkFields, sizes: Array, mask: Array | None, incoming: Array) -> Array:
    if network.is_implicit:
        # Everyone hears everyone else, so what a node hears is the sum less its own.
        sent = jnp.where(incoming > 0, sizes, 0)
        return jnp.where(incoming > 0, jnp.sum(sent) - sent, 0)
    arriving = sizes[network.senders]
    mask = network.is_edge if mask is None else mask
    arriving = arriving if mask is None else jnp.where(mask, arriving, 0)
    return jax.ops.segment_sum(arriving, network.receivers, network.num_nodes, indices_are_sorted=True)


def combine(network: NetworkFields, packet: Packet, own: PyTree | None, weights: Any) -> PyTree:
    """y_i = w_ii own_i + sum_j w_ij values_j over what arrived; no traffic.

    `own=None` stands for the packet's own values.  `weights` overrides the network's: a matrix `[N, N]` (W[i, j] the
    weight receiver i gives sender j; only entries on edges count) or `(edge_weights [E], self_weights [N])`; traced.
    """
    own = packet.values if own is None else own
    mask, delivered = active_edges(network), packet.delivered
    if network.is_implicit:
        if weights is not None:
            checks.fail("mix", "network", "one that lists its edges where weights are given", "a large complete graph")
        if network.is_present is not None:
            return mixing.masked_average(packet.values, own, network.is_present)
        return mixing.product(network, packet.values, own, None, None)
    edge_weights, self_weights = (None, None) if weights is None else given_weights(network, weights)
    is_row_stochastic = "row_stochastic" in network.properties
    if weights is None and not is_row_stochastic:
        self_weights = network.self_weights
    if mask is None and delivered is None:
        return mixing.product(network, packet.values, own, edge_weights, self_weights)
    full = network.edge_weights if edge_weights is None else edge_weights
    arrives = both(mask, delivered)
    if self_weights is not None and is_row_stochastic:
        left_over = jnp.where(arrives, 0, full)
        self_weights = self_weights + jax.ops.segment_sum(left_over, network.receivers, network.num_nodes)
    elif self_weights is not None and mask is not None:
        left_over = jnp.where(mask, 0, full)
        self_weights = self_weights + jax.ops.segment_sum(left_over, network.senders, network.num_nodes)
    return mixing.product(network, packet.values, own, jnp.where(arrives, full, 0), self_weights)


def both(first: Array | None, second: Array | None) -> Any:
    """Where both masks hold; None is everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def given_weights(network: NetworkFields, weights: Any) -> tuple[Array, Array]:
    """Weights made inside a step, as `(edge_weights [E], self_weights [N])`."""
    if isinstance(weights, tuple):
        checks.shape("mix", "weights[0]", weights[0], (network.num_edges,))
        checks.shape("mix", "weights[1]", weights[1], (network.num_nodes,))
        by_edge, own = weights
    else:
        checks.shape("mix", "weights", weights, (network.num_nodes, network.num_nodes))
        by_edge, own = weights[network.receivers, network.senders], jnp.diagonal(weights)
    return (by_edge if network.is_edge is None else jnp.where(network.is_edge, by_edge, 0)), own


def gather(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Inbox, Fields]:
    """What each node heard from each neighbour, for rules that are not linear."""
    if network.neighbors is None:
        checks.fail(
            "gather",
            "network",
            "of bounded degree (a table [N, largest degree] of messages)",
            f"{network.num_nodes} nodes and no table",
            'Use network.with_lowering("neighbors") if the table fits in memory.',
        )
    packet, network = send(network, key, tree, stream)
    mask, delivered = active_edges(network), packet.delivered
    arrives = both(mask, delivered)
    table: Any = network.neighbor_edges
    senders: Any = network.neighbors
    all_weights: Any = network.neighbor_weights
    heard = table < network.num_edges
    if arrives is not None:
        heard = heard & arrives.at[table].get(mode="fill", fill_value=False)
    values = jax.tree.map(lambda leaf: leaf.at[senders].get(mode="promise_in_bounds"), packet.values)
    weights = jnp.where(heard, all_weights, 0)
    return Inbox(values=values, weights=weights, mask=heard, senders=senders), network


def exchange(network: Fields, key: Array, tree: PyTree, partner: Array, stream: str) -> tuple[Arrival, Fields]:
    """Pairwise swap: node i hears node `partner[i]` (positions, `[N]`), and nothing where `partner[i] == i`.

    `partner` must be its own inverse.  A pair need not be linked, but over a link that failed nothing is sent.  What was
    not heard comes back as the node's own value, with a false mask.
    """
    check_leading(stream, tree, network.num_nodes)
    check_single(stream, network)
    checks.shape("exchange", "partner", partner, (network.num_nodes,))
    if checks.is_concrete(partner):
        known = np.asarray(partner)  # NumPy: while something is traced, JAX would trace these too
        mutual = np.take(known, known, mode="clip") == np.arange(network.num_nodes)
        if not mutual.all():
            bad = int(np.argmin(mutual))
            checks.fail("exchange", "partner", "its own inverse", f"partner[{bad}] = {known[bad]}, not mutual")
    partner = jnp.asarray(partner)
    positions = jnp.arange(network.num_nodes, dtype=partner.dtype)
    talks = partner != positions
    if network.is_present is not None:
        talks = talks & network.is_present & network.is_present[partner]
    listens = talks
    if network.is_linked is not None:
        failed = (network.senders == partner[network.receivers]) & ~network.is_linked
        cut = jax.ops.segment_max(
            failed.astype(jnp.int32), network.receivers, network.num_nodes, indices_are_sorted=True
        )
        listens = talks & (cut <= 0)  # a node that hears nobody has the least int32 there
    sends = listens[partner]
    ids = network.node_ids
    route = Route(node_ids=ids, senders=ids, receivers=ids[partner])
    packet, network = pass_channel(network, key, tree, route, stream, None, network.num_nodes, sends)
    heard = listens if packet.delivered is None else listens & packet.delivered[partner]
    received = trees.select(heard, trees.take(packet.values, partner), tree)
    bits, copies = message_bits(packet), sends.astype(jnp.uint32)
    if network.links is not None:
        sizes = jnp.where(sends, _float(bits), 0)
        network = between(network, key, stream, sizes, sizes[partner])
    return Arrival(values=received, mask=heard), _count(network, copies, bits)


def asked(network: NetworkFields) -> tuple[Array | None, Array]:
    """Rows of the nodes the server deals with in this round (None: all, in order), and who of them is there, `[C]`."""
    rows = network.cohort
    if network.is_present is None:
        size = network.num_nodes if rows is None else rows.shape[0]
        return rows, jnp.ones(size, bool)
    return rows, network.is_present if rows is None else network.is_present[rows]


def uplink(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Arrival, Fields]:
    """Each node of the cohort sends its row of `tree [C, ...]` to the server, which gets `Arrival([C, ...], [C])`."""
    rows, present = asked(network)
    check_leading(stream, tree, present.shape[0])
    ids = network.node_ids if rows is None else network.node_ids[rows]
    route = Route(node_ids=ids, senders=ids, receivers=jnp.full_like(ids, SERVER))
    acting = None if network.is_present is None else present
    packet, network = pass_channel(network, key, tree, route, stream, rows, network.num_nodes, acting)
    arrived = present if packet.delivered is None else present & packet.delivered
    bits, copies = message_bits(packet), present.astype(jnp.uint32)
    if network.links is not None:
        network = to_server(network, key, stream, jnp.where(present, _float(bits), 0), rows)
    if rows is not None:
        nothing = jnp.zeros(network.num_nodes, jnp.uint32)
        copies = nothing.at[rows].set(copies, unique_indices=True)
        bits = counters.Counter(*(nothing.at[rows].set(word, unique_indices=True) for word in bits))
    return Arrival(values=packet.values, mask=arrived), _count(network, copies, bits)


def downlink(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Arrival, Fields]:
    """The server sends `tree [...]` to each node of the cohort; they get `Arrival([C, ...], [C])`, the same for all."""
    rows, present = asked(network)
    ids = network.node_ids if rows is None else network.node_ids[rows]
    server = jnp.full((1,), SERVER, ids.dtype)
    route = Route(node_ids=server, senders=jnp.full_like(ids, SERVER), receivers=ids)
    message = jax.tree.map(lambda leaf: leaf[None], tree)
    packet, network = pass_channel(network, key, message, route, stream, None, 1, None)
    arrived = present if packet.delivered is None else present & packet.delivered
    received = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (ids.shape[0], *leaf.shape[1:])), packet.values)
    bits = jax.tree.map(lambda word: word[0], message_bits(packet))
    copies = jnp.sum(present, dtype=jnp.uint32)
    if network.links is not None:
        network = from_server(network, key, stream, jnp.where(present, _float(bits), 0), rows)
    traffic = network.state.traffic
    traffic = traffic._replace(
        server_messages=counters.add(traffic.server_messages, counters.from_words(copies)),
        server_bits=counters.add(traffic.server_bits, _times(bits, copies)),
    )
    return Arrival(values=received, mask=arrived), network.with_state(network.state._replace(traffic=traffic))
