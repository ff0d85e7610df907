"""What happens at the events of a tape: a method's functions, its messages through the channel, and what they cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import trees
from dlsim.clocks.play import Events, event_keys
from dlsim.clocks.tapes import COMMUNICATION, GRADIENT
from dlsim.core import Array, EventAlgorithm, Info, PyTree, Route
from dlsim.networks import counters
from dlsim.networks.messages import message_bits, whole_packet
from dlsim.networks.network import PERFECT, Network

STALENESS_BINS = 64  # the last one holds all that is staler


class Carry(NamedTuple):
    """What the events of a window change, every leaf `[N, ...]`; of n nodes as the rows of events."""

    nodes: PyTree
    losses: Array  # float32, of each node's last batch
    num_gradients: Array  # uint32, in this window
    channel: PyTree
    counts: tuple[counters.Counter, counters.Counter] | tuple[()]  # messages and bits, where they are counted here


def event_fns(algorithm: EventAlgorithm, network: Network, key: Array, kinds: tuple[int, ...]) -> dict[int, Any]:
    """The functions that `dlsim.clocks.play_between` wants, by kind of event."""
    found: dict[int, Any] = {}
    if GRADIENT in kinds:
        found[GRADIENT] = _gradient_fn(algorithm, network, key)
    if COMMUNICATION in kinds:
        makes = _meeting_fn if algorithm.communication == "edges" else _push_fn
        found[COMMUNICATION] = makes(algorithm, network, key)
    return found


def _gradient_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    def gradient(events: Events, rows: Carry) -> tuple[Carry, Array]:
        rows = _moved(algorithm, rows, events.since_a)
        happens = events.is_event
        if network.is_present is not None:
            happens = happens & network.is_present[events.a]
        draws = event_keys(key, events, network.node_ids)
        nodes, info = algorithm.on_gradient(draws, rows.nodes, network.node_ids[events.a])
        return _noted(rows, nodes, info, happens)

    return gradient


def _meeting_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    """Both ends of an event send and hear, at the same time."""

    def meet(events: Events, rows_a: Carry, rows_b: Carry) -> tuple[Carry, Carry, Array]:
        rows_a = _moved(algorithm, rows_a, events.since_a)
        rows_b = _moved(algorithm, rows_b, events.since_b)
        num = events.a.shape[0]
        # Both halves at once: a's rows, then b's.
        rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows_a, rows_b)
        ids = network.node_ids[jnp.concatenate([events.a, events.b])]
        happens = events.is_event
        if network.is_present is not None:
            happens = happens & network.is_present[events.a] & network.is_present[events.b]
        both = jnp.concatenate([happens, happens])
        draws = event_keys(key, events, network.node_ids)
        rows, added = _prepared(algorithm, rows, _ends(draws, "prepare"), ids, both)
        if network.is_linked is not None:
            up = _is_up(network, events.a, events.b), _is_up(network, events.b, events.a)
            sends = jnp.concatenate([up[0], up[1]]) & both
        else:
            sends = both
        said = algorithm.message(rows.nodes)
        packet, rows = _transmit(network, jax.vmap(_for_channel)(draws), said, rows, ids, sends, num, 2)
        heard = jax.tree.map(lambda leaf: jnp.concatenate([leaf[num:], leaf[:num]]), packet[0])
        mask = jnp.concatenate([packet[1][num:], packet[1][:num]])
        nodes, info = algorithm.on_message(_ends(draws, "receive"), rows.nodes, heard, ids)
        rows, more = _noted(rows, nodes, info, both & mask)
        added = added + more
        first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], rows) for s in (slice(0, num), slice(num, None)))
        return first, second, added

    return meet


def _push_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    """a sends, b hears."""

    def push(events: Events, rows_a: Carry, rows_b: Carry) -> tuple[Carry, Carry, Array]:
        rows_a = _moved(algorithm, rows_a, events.since_a)
        rows_b = _moved(algorithm, rows_b, events.since_b)
        ids_a, ids_b = network.node_ids[events.a], network.node_ids[events.b]
        sends = hears = events.is_event
        if network.is_present is not None:
            sends = sends & network.is_present[events.a]
            hears = sends & network.is_present[events.b]
        if network.is_linked is not None:
            hears = hears & _is_up(network, events.a, events.b)
        draws = event_keys(key, events, network.node_ids)
        rows_a, added = _prepared(algorithm, rows_a, _ends(draws, "prepare")[: events.a.shape[0]], ids_a, sends)
        said = algorithm.message(rows_a.nodes)
        (values, arrives), rows_a = _transmit(
            network, jax.vmap(_for_channel)(draws), said, rows_a, ids_a, sends, events.a.shape[0], 1, ids_b
        )
        keys_b = _ends(draws, "receive")[: events.a.shape[0]]
        nodes, info = algorithm.on_message(keys_b, rows_b.nodes, values, ids_b)
        rows_b, more = _noted(rows_b, nodes, info, arrives & hears)
        return rows_a, rows_b, added + more

    return push


def _moved(algorithm: EventAlgorithm, rows: Carry, seconds: Array) -> Carry:
    return rows if algorithm.flow is None else rows._replace(nodes=algorithm.flow(rows.nodes, seconds))


def _prepared(algorithm: EventAlgorithm, rows: Carry, draws: Array, ids: Array, happens: Array) -> tuple[Carry, Array]:
    """What the senders do before they send."""
    if algorithm.before_message is None:
        return rows, jnp.zeros(STALENESS_BINS, jnp.uint32)
    nodes, info = algorithm.before_message(draws, rows.nodes, ids)
    return _noted(rows, nodes, info, happens)


def _noted(rows: Carry, nodes: PyTree, info: Info, happens: Array) -> tuple[Carry, Array]:
    """The rows after what happened to some of them, and how often each staleness was met."""
    rows = rows._replace(nodes=trees.select(happens, nodes, rows.nodes))
    if "loss" in info:
        trained = happens & (info["num_gradients"] > 0)
        rows = rows._replace(
            losses=jnp.where(trained, info["loss"].astype(jnp.float32), rows.losses),
            num_gradients=rows.num_gradients + jnp.where(trained, info["num_gradients"], 0),
        )
    if "staleness" not in info:
        return rows, jnp.zeros(STALENESS_BINS, jnp.uint32)
    place = jnp.minimum(info["staleness"], STALENESS_BINS - 1)
    met = (place[:, None] == jnp.arange(STALENESS_BINS)[None, :]) & happens[:, None]
    return rows, jnp.sum(met, axis=0, dtype=jnp.uint32)


_PURPOSES = {"prepare": 0, "receive": 2, "channel": 4}


def _ends(draws: Array, purpose: str) -> Array:
    """Keys of both ends of each event, `[2C]`: those of a, then those of b."""
    first = _PURPOSES[purpose]

    def end(number: int) -> Array:
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(draws, number)

    return jnp.concatenate([end(first), end(first + 1)])


def _for_channel(draw: Array) -> Array:
    return jax.random.fold_in(draw, _PURPOSES["channel"])


def _is_up(network: Network, senders: Array, receivers: Array) -> Array:
    """Whether the link from each sender to its receiver works, bool `[C]`."""
    table: Any = network.neighbors
    edges: Any = network.neighbor_edges
    linked: Any = network.is_linked
    is_it = (table[receivers] == senders[:, None]) & (edges[receivers] < network.num_edges)
    up = linked.at[edges[receivers]].get(mode="fill", fill_value=False)
    return jnp.any(is_it & up, axis=1)


def _transmit(
    network: Network,
    draws: Array,
    said: PyTree,
    rows: Carry,
    ids: Array,
    sends: Array,
    num: int,
    ends: int,
    to_ids: Array | None = None,
) -> tuple[tuple[PyTree, Array], Carry]:
    """Messages of `num` events with one or two senders each: what is on the air, and whether it arrives, by sender."""
    if network.channel is PERFECT:
        values, arrives = said, sends
        bits = message_bits(whole_packet(said))
    else:
        # Event by event, so that a draw depends on its event alone.
        shaped = (said, rows.channel, ids)
        by_event = jax.tree.map(lambda leaf: leaf.reshape(ends, num, *leaf.shape[1:]).swapaxes(0, 1), shaped)
        other = by_event[2][:, ::-1] if to_ids is None else to_ids[:, None]

        def one(draw: Array, event: tuple[PyTree, PyTree, Array], receivers: Array) -> tuple[Any, ...]:
            message, state, senders = event
            route = Route(node_ids=senders, senders=senders, receivers=receivers)
            state, packet = network.channel.send(draw, state, whole_packet(message), route)
            delivered = jnp.ones(ends, bool) if packet.delivered is None else packet.delivered
            return packet.values, delivered, state, message_bits(packet)

        out = jax.vmap(one)(draws, by_event, other)
        values, delivered, state, bits = jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1).reshape(ends * num, *leaf.shape[2:]), out
        )
        arrives = sends & delivered
        rows = rows._replace(channel=trees.select(sends, state, rows.channel))
    if rows.counts:
        one_each = sends.astype(jnp.uint32)
        spent = counters.Counter(low=jnp.where(sends, bits.low, 0), high=jnp.where(sends, bits.high, 0))
        messages, total = rows.counts
        rows = rows._replace(counts=(counters.add(messages, counters.from_words(one_each)), counters.add(total, spent)))
    return (values, arrives), rows
