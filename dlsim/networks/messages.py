"""The verbs: every message of every algorithm passes through here, so everything that can happen to one is here.

A verb sends what each node says through the network's channel, counts messages and bits once, at the sender, moves the
simulated clock, and gives what was received and the network as it then is.  A stream is a named sequence of like messages:
each keeps a channel state of its own, such as the residual of error feedback, and messages under way of its own where they
take time (`in_flight`).  What receivers make of it is in `combining`, the way to and from a server in `server_messages`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.channels.rows import how_many
from dlsim.core import Array, Packet, PyTree, Route
from dlsim.networks.fields import PERFECT, Arrival, Edges, NetworkFields, check_single
from dlsim.networks.flight import in_flight
from dlsim.networks.flight.delays import HEAR, Transmissions
from dlsim.networks.pace.seconds import between, timed_links
from dlsim.running import counters

Fields = TypeVar("Fields", bound=NetworkFields)


class Probe:
    """Collects the streams of a process while it is traced once, so that their states can be made."""

    def __init__(self) -> None:
        self.streams: dict[str, tuple[PyTree, int]] = {}
        self.flights: dict[str, in_flight.Flight] = {}  # shapes


def open_channels(network: Fields, trace: Any) -> Fields:
    """The network with fresh channel states, and nothing under way, for every stream that `trace(network)` uses.

    It is only traced.
    """
    if not network.may_miss:
        return network
    probe = Probe()
    jax.eval_shape(lambda: (trace(network.replace(probe=probe)), ())[1])
    states = {
        name: network.channel.init(trees_like(message), num_senders)
        for name, (message, num_senders) in sorted(probe.streams.items())
    }
    state = network.state._replace(channels=states)
    if network.delays is not None:
        state = state._replace(in_flight={name: trees_like(like) for name, like in sorted(probe.flights.items())})
    return network.with_state(state)


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
    is_sent: Array | None = None,
) -> tuple[Packet, Fields]:
    """The message `[n, ...]` through the channel; `rows` are the senders' rows in the channel's state.

    Who is not `acting` `[n]` (None: all are) sends nothing and keeps its state.  Of numbers that are not `is_sent` `[n, D]`
    (None: all are), which are zero in `tree`, none goes out.
    """
    packet = whole_packet(tree)
    if is_sent is not None:
        checks.shape(stream, "is_sent", is_sent, (packet.num_entries.shape[0], trees.num_entries(tree)))
        packet = packet._replace(is_sent=is_sent, num_entries=how_many(is_sent).astype(jnp.uint32))
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


def with_header(packet: Packet, header_bits: Array | int) -> Packet:
    """The packet with so many bits beside its numbers, `[]` or `[n]`, which no channel changes."""
    if isinstance(header_bits, int) and not header_bits:
        return packet
    return packet._replace(extra_bits=packet.extra_bits + jnp.asarray(header_bits, jnp.uint32))


def message_bits(packet: Packet) -> counters.Counter:
    """Bits of one copy of each sender's message, `[n]`."""
    body = counters.product(packet.num_entries, packet.bits_per_entry)
    return counters.add(body, counters.from_words(packet.extra_bits))


def times(bits: counters.Counter, copies: Array) -> counters.Counter:
    """`copies` times as many bits."""
    full = counters.product(bits.low, copies)
    return counters.Counter(low=full.low, high=full.high + bits.high * copies.astype(jnp.uint32))


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


def count(network: Fields, copies: Array, bits: counters.Counter) -> Fields:
    """Traffic of `copies [N]` messages of `bits [N]` each."""
    traffic = network.state.traffic
    traffic = traffic._replace(
        messages=counters.add(traffic.messages, counters.from_words(copies)),
        bits=counters.add(traffic.bits, times(bits, copies)),
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
    if timed_links(network) is not None:
        heard = jax.ops.segment_sum(
            counters.as_float(sent), network.receivers, network.num_nodes, indices_are_sorted=True
        )
        network = between(network, key, stream, counters.as_float(total), heard)
    network = count(network, copies, counters.from_words(jnp.zeros_like(copies)))
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


def send(
    network: Fields,
    key: Array,
    tree: PyTree,
    stream: str,
    hear: str = "newest",
    sent_with: Array | None = None,
    is_one: bool = False,
    is_sent: Array | None = None,
    header_bits: Array | int = 0,
) -> tuple[Packet, Fields]:
    """Each node sends one message to all its neighbours; `combine` makes of it what the receivers make of it.

    `packet.values` is what went on the air, which a sender with a lossy compressor needs to know (CHOCO's public copy).
    `is_one` says that they are taken for what everybody hears, so that no channel may say other things to others.
    Where messages take time `packet.heard` is what arrives in its place; `sent_with` `[E]` are the weights that travel with
    messages of which every one counts, where they are made in the step.
    """
    check_leading(stream, tree, network.num_nodes)
    check_single(stream, network)
    checks.one_of(stream, "hear", hear, HEAR)
    ids = network.node_ids
    # Ends are looked up for channels alone: without one, a program depends on no list of edges, and graphs of other sizes
    # but the same lowering can share it.
    route = None
    if network.channel is not PERFECT:
        edges = None if is_one or network.is_implicit or network.delays is not None else _edges(network)
        route = Route(ids, senders=ids[network.senders], receivers=ids[network.receivers], edges=edges)
    here = network.is_present
    packet, network = pass_channel(network, key, tree, route, stream, None, network.num_nodes, here, is_sent)
    packet = with_header(packet, header_bits)
    if network.is_implicit and packet.delivered is not None:
        checks.fail("mix", "network", "one that lists its edges where messages are lost", "a large complete graph")
    mask = active_edges(network)
    outgoing, incoming = _degrees(network, mask)
    bits = message_bits(packet)
    if network.delays is not None:
        packet, network = _sent_on_its_way(network, key, packet, stream, bits, mask, hear, sent_with)
    if timed_links(network) is not None:
        sizes = counters.as_float(bits)
        heard = _heard_bits(network, sizes, mask, incoming)
        network = between(network, key, stream, sizes * outgoing, heard)
    return packet, count(network, outgoing, bits)


def _edges(network: NetworkFields) -> Edges:
    return Edges(network.senders, network.receivers, network.edge_weights, both(active_edges(network), network.is_edge))


def _sent_on_its_way(
    network: Fields,
    key: Array,
    packet: Packet,
    stream: str,
    bits: counters.Counter,
    mask: Array | None,
    hear: str,
    sent_with: Array | None,
) -> tuple[Packet, Fields]:
    """The packet with what of the stream is heard now, and the network with the messages under way."""
    delays: Any = network.delays
    if network.is_implicit and network.is_present is not None:
        fix = "Use a scenario without absent nodes, or fewer nodes."
        checks.fail(stream, "network", "one that lists its edges where nodes are absent and messages late", "none", fix)
    if hear == "newest":
        in_flight.check_newest(stream, network)
    made = both(mask, packet.delivered)
    made = made if delays.is_one else both(made, network.is_edge)  # the padding carries nothing
    sent = Transmissions(
        round=round_of(network, stream),
        node_ids=network.node_ids,
        senders=network.senders,
        receivers=network.receivers,
        bits=counters.as_float(bits)[network.senders] if delays.kind == "links" else None,
        num=network.num_edges,
        are_links=True,
    )
    heard, network = in_flight.post(
        network,
        keys.stream(key, stream),
        stream,
        packet.values,
        sent,
        made,
        hear=hear,
        present=network.is_present,
        weights=sent_with if hear == "all" else None,
    )
    return packet._replace(heard=heard), network


def round_of(network: NetworkFields, stream: str) -> Array:
    """Exchanges of a stream so far, int32 `[]`."""
    under_way = network.state.in_flight
    return under_way[stream].round if stream in under_way else jnp.zeros((), jnp.int32)


def _heard_bits(network: NetworkFields, sizes: Array, mask: Array | None, incoming: Array) -> Array:
    if network.is_implicit:
        # Everyone hears everyone else, so what a node hears is the sum less its own.
        sent = jnp.where(incoming > 0, sizes, 0)
        return jnp.where(incoming > 0, jnp.sum(sent) - sent, 0)
    arriving = sizes[network.senders]
    mask = network.is_edge if mask is None else mask
    arriving = arriving if mask is None else jnp.where(mask, arriving, 0)
    return jax.ops.segment_sum(arriving, network.receivers, network.num_nodes, indices_are_sorted=True)


def both(first: Array | None, second: Array | None) -> Any:
    """Where both masks hold; None is everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


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
    bits, copies = message_bits(packet), sends.astype(jnp.uint32)
    said = trees.take(packet.values, partner)
    if network.delays is not None:
        size = counters.as_float(bits)[partner]
        said, heard, network = passed(network, key, stream, said, heard, partner, positions, size, hear="once")
    received = trees.select(heard, said, tree)
    if timed_links(network) is not None:
        sizes = jnp.where(sends, counters.as_float(bits), 0)
        network = between(network, key, stream, sizes, sizes[partner])
    return Arrival(values=received, mask=heard), count(network, copies, bits)


def passed(
    network: Fields,
    key: Array,
    stream: str,
    rows: PyTree,
    made: Array,
    senders: Array | None,
    receivers: Array | None,
    bits: Array,
    *,
    hear: str,
    row: Array | None = None,
    are_links: bool = False,
) -> tuple[PyTree, Array, Fields]:
    """Messages that are no broadcast on their way: what each transmission hears now `[L, ...]`, whether it does `[L]`.

    Args:
      rows: `[n, ...]`, row l for transmission l, or row `row[l]`.
      made: bool `[L]`, which are made and not lost.
      senders, receivers: positions `[L]`; None: the server.
      bits: float32 `[L]`.
      hear: `"newest"`, or `"once"`: of what arrives now, the newest.
    """
    sent = Transmissions(
        round=round_of(network, stream),
        node_ids=network.node_ids,
        senders=senders,
        receivers=receivers,
        bits=bits,
        num=made.shape[0],
        are_links=are_links,
    )
    present = None if receivers is None else network.is_present
    on_its_way = keys.stream(key, stream)
    heard, network = in_flight.post(network, on_its_way, stream, rows, sent, made, hear=hear, present=present)
    return in_flight.rows(heard, row), heard.mask, network
