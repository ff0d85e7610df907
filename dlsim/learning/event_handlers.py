"""What happens at the events of a tape: a method's functions, its messages through the channel, and what they cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys, trees
from dlsim.clocks.play import Events, event_keys
from dlsim.clocks.tapes import COMMUNICATION, GRADIENT
from dlsim.core import Array, EventAlgorithm, Info, PyTree, Route
from dlsim.learning.measures import STALENESS_BINS
from dlsim.networks.messages import both, message_bits, whole_packet
from dlsim.networks.network import PERFECT, Network
from dlsim.networks.pace.seconds import booked_at, work_seconds
from dlsim.running import counters

Split = tuple[list[Array], list[Array], Any]


class Carry(NamedTuple):
    """What the events of a window change, every leaf `[N, ...]`; of n nodes as the rows of events."""

    nodes: PyTree
    losses: Array  # float32, of each node's last batch
    num_gradients: Array  # uint32, in this window
    channel: PyTree
    counts: tuple[counters.Counter, counters.Counter] | tuple[()]  # messages and bits, where they are counted here
    heard: Any = ()  # Counter, bits in this window, where books are kept
    books: Any = ()  # a Ledger without `elapsed`, where seconds are told apart by node
    newest: Any = ()  # uint32 [N, K] of the messages under way that each link has brought, the newest: its number and one


def event_fns(algorithm: EventAlgorithm, network: Network, key: Array, kinds: tuple[int, ...]) -> dict[int, Any]:
    """The functions that `dlsim.clocks.play_between` wants, by kind of event."""
    found: dict[int, Any] = {}
    if GRADIENT in kinds:
        found[GRADIENT] = gradient_fn(algorithm, network, key)
    if COMMUNICATION in kinds:
        makes = _meeting_fn if algorithm.communication == "edges" else _push_fn
        found[COMMUNICATION] = makes(algorithm, network, key)
    return found


def booked(function: Any, network: Network) -> Any:
    """The function, with what its events take of each node's seconds in the books (`dlsim.networks.pace.seconds`)."""

    def with_books(events: Events, *given: Any) -> tuple[Any, ...]:
        *changed, added = function(events, *given)
        for i, (place, name) in enumerate(((events.a, "gap_a"), (events.b, "gap_b"))):
            if i < len(given) and isinstance(given[i], Carry):
                before, after = given[i], changed[i]
                there = present(network, place)
                gap = events.columns[name] if there is None else jnp.where(there, events.columns[name], 0)
                sent = sent_between(before, after)
                work = work_seconds(
                    network.links,
                    place,
                    after.num_gradients - before.num_gradients,
                    counters.as_float(sent),
                    counters.as_float(_difference(after.heard, before.heard)),
                )
                changed[i] = after._replace(books=booked_at(before.books, gap, work))
        return *changed, added

    return with_books


def sent_between(before: Carry, after: Carry) -> counters.Counter:
    """Bits that nodes have sent."""
    assert before.counts and after.counts
    return _difference(after.counts[1], before.counts[1])


def _difference(after: counters.Counter, before: counters.Counter) -> counters.Counter:
    borrow = (after.low < before.low).astype(jnp.uint32)
    return counters.Counter(low=after.low - before.low, high=after.high - before.high - borrow)


def hearing(rows: Carry, bits: counters.Counter, hears: Array | None) -> Carry:
    """The rows with what they hear in the books, if some are kept; `hears` None: all do."""
    if not isinstance(rows.heard, counters.Counter):
        return rows
    heard = bits if hears is None else jax.tree.map(lambda word: jnp.where(hears, word, 0), bits)
    return rows._replace(heard=counters.add(rows.heard, heard))


def gradient_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    """A node takes a gradient."""

    def gradient(events: Events, rows: Carry) -> tuple[Carry, Array]:
        rows = moved(algorithm, rows, events.since_a)
        trainers = network.trainers
        happens = None if trainers is None else trainers[events.a]
        draws = event_keys(key, events, network.node_ids)
        nodes, info = algorithm.on_gradient(draws, rows.nodes, network.node_ids[events.a])
        return noted(rows, nodes, info, happens, events.is_event)

    return gradient


def _meeting_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    """Both ends of an event send and hear, at the same time."""

    def meet(events: Events, *given: Carry) -> tuple[Carry, Carry, Array]:
        places, since = (events.a, events.b), (events.since_a, events.since_b)
        ends = [moved(algorithm, rows, seconds) for rows, seconds in zip(given, since, strict=True)]
        ids = [network.node_ids[place] for place in places]
        happens = both(present(network, events.a), present(network, events.b))
        draws = event_keys(key, events, network.node_ids)
        added = jnp.zeros(STALENESS_BINS, jnp.uint32)
        if algorithm.before_message is not None:
            rows, split = _joined(ends)
            twice = None if happens is None else jnp.concatenate([happens, happens])
            nodes, info = algorithm.before_message(_both_keys(draws, "prepare"), rows.nodes, jnp.concatenate(ids))
            rows, added = noted(rows, nodes, info, twice, jnp.concatenate([events.is_event] * 2))
            ends = split(rows)
        sends = [both(happens, up(network, *links)) for links in (places, places[::-1])]
        said = [algorithm.message(rows.nodes) for rows in ends]
        silent = ends
        values, arrives, ends = _exchanged(network, draws, said, ends, ids, sends, events.is_event)
        if isinstance(ends[0].heard, counters.Counter):
            bits = [sent_between(*both_rows) for both_rows in zip(silent, ends, strict=True)]
            ends = [hearing(ends[i], bits[1 - i], arrives[1 - i]) for i in (0, 1)]
        for i, other in enumerate((1, 0)):
            nodes, info = algorithm.on_message(keys_of(draws, "receive", i), ends[i].nodes, values[other], ids[i])
            ends[i], more = noted(ends[i], nodes, info, arrives[other], events.is_event)
            added = added + more
        return ends[0], ends[1], added

    return meet


def _push_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    """a sends, b hears."""

    def push(events: Events, rows_a: Carry, rows_b: Carry) -> tuple[Carry, Carry, Array]:
        rows_a = moved(algorithm, rows_a, events.since_a)
        rows_b = moved(algorithm, rows_b, events.since_b)
        ids_a, ids_b = network.node_ids[events.a], network.node_ids[events.b]
        sends = present(network, events.a)
        draws = event_keys(key, events, network.node_ids)
        added = jnp.zeros(STALENESS_BINS, jnp.uint32)
        if algorithm.before_message is not None:
            nodes, info = algorithm.before_message(keys_of(draws, "prepare", 0), rows_a.nodes, ids_a)
            rows_a, added = noted(rows_a, nodes, info, sends, events.is_event)
            sends = both(sends, info.get("sends"))
        silent = rows_a
        values, arrives, rows_a = sent_alone(network, algorithm, draws, rows_a, events, sends, ids_a, ids_b)
        hears = both(present(network, events.b), up(network, events.a, events.b))
        if isinstance(rows_b.heard, counters.Counter):
            rows_b = hearing(rows_b, sent_between(silent, rows_a), both(arrives, hears))
        nodes, info = algorithm.on_message(keys_of(draws, "receive", 0), rows_b.nodes, values, ids_b)
        rows_b, more = noted(rows_b, nodes, info, both(arrives, hears), events.is_event)
        return rows_a, rows_b, added + more

    return push


def sent_alone(
    network: Network,
    algorithm: EventAlgorithm,
    draws: Array,
    rows: Carry,
    events: Events,
    sends: Array | None,
    ids: Array,
    to_ids: Array,
) -> tuple[PyTree, Array | None, Carry]:
    """What one end of each event puts on the air, whether it gets through (None: always), and its rows after it."""
    said = algorithm.message(rows.nodes)
    pays = both(events.is_event, sends)
    if network.channel is PERFECT:
        return said, sends, counted(rows, said, pays)
    return transmit(network, draws, said, rows, ids, pays, to_ids)


def _exchanged(
    network: Network,
    draws: Array,
    said: list[PyTree],
    ends: list[Carry],
    ids: list[Array],
    sends: list[Any],
    is_event: Any,
) -> tuple[list[PyTree], list[Any], list[Carry]]:
    """What both ends put on the air, whether it arrives (None: always), and their rows after it."""
    pays = [both(is_event, one) for one in sends]
    if network.channel is PERFECT:
        return said, sends, [counted(*one) for one in zip(ends, said, pays, strict=True)]
    num = is_event.shape[0]
    rows, split = _joined(ends)
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *said)
    values, arrives, rows = transmit(network, draws, whole, rows, jnp.concatenate(ids), jnp.concatenate(pays), None)
    halves = (slice(0, num), slice(num, None))
    return [jax.tree.map(lambda leaf, s=s: leaf[s], values) for s in halves], [arrives[s] for s in halves], split(rows)


def _joined(ends: list[Carry]) -> tuple[Carry, Any]:
    """The rows of a, then those of b, `[2C]`, and what parts them again."""
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *ends)
    num = ends[0].losses.shape[0]

    def split(rows: Carry) -> list[Carry]:
        # What did not change stays the very same, and need not be written.
        def part(own: Carry, half: slice) -> Carry:
            return jax.tree.map(lambda new, old, mine: mine if new is old else new[half], rows, joined, own)

        return [part(ends[0], slice(0, num)), part(ends[1], slice(num, None))]

    return joined, split


def moved(algorithm: EventAlgorithm, rows: Carry, seconds: Array) -> Carry:
    """The rows so many seconds later, `[C]`, without events."""
    return rows if algorithm.flow is None else rows._replace(nodes=algorithm.flow(rows.nodes, seconds))


def present(network: Network, places: Array) -> Array | None:
    """Whether nodes are there, bool `[C]`; None: all."""
    return None if network.is_present is None else network.is_present[places]


def noted(rows: Carry, nodes: PyTree, info: Info, happens: Array | None, is_event: Array) -> tuple[Carry, Array]:
    """The rows after what happened to some of them (None: all), and how often each staleness was met."""

    def chosen(new: Array, old: Array) -> Array:
        # Rows without an event are not written, so they need no care.
        return new if happens is None or new is old else jnp.where(trees.expand(happens, new), new, old)

    rows = rows._replace(nodes=jax.tree.map(chosen, nodes, rows.nodes))
    if "loss" in info:
        count = info["num_gradients"]
        trained = both(happens, count > 0)
        rows = rows._replace(
            losses=jnp.where(trained, info["loss"].astype(jnp.float32), rows.losses),
            num_gradients=rows.num_gradients + jnp.where(trained, count, 0),
        )
    if "staleness" not in info:
        return rows, jnp.zeros(STALENESS_BINS, jnp.uint32)
    place = jnp.minimum(info["staleness"], STALENESS_BINS - 1)
    met = (place[:, None] == jnp.arange(STALENESS_BINS)[None, :]) & both(is_event, happens)[:, None]
    return rows, jnp.sum(met, axis=0, dtype=jnp.uint32)


def counted(rows: Carry, said: PyTree, sends: Array) -> Carry:
    """The rows with messages that pass through no channel counted, where they are counted here."""
    return _added(rows, message_bits(whole_packet(said)), sends) if rows.counts else rows


def _added(rows: Carry, bits: counters.Counter, sends: Array) -> Carry:
    spent = counters.Counter(low=jnp.where(sends, bits.low, 0), high=jnp.where(sends, bits.high, 0))
    assert rows.counts
    messages, total = rows.counts
    one_each = counters.from_words(sends.astype(jnp.uint32))
    return rows._replace(counts=(counters.add(messages, one_each), counters.add(total, spent)))


_PURPOSES = {"prepare": 0, "receive": 2, "channel": 4}


def keys_of(draws: Array, purpose: str, end: Any) -> Array:
    """Keys of one end of each event, `[C]`: 0 is a, 1 is b; one number, or one an event."""
    return keys.fold_in(draws, _PURPOSES[purpose] + end)


def _both_keys(draws: Array, purpose: str) -> Array:
    """Keys of both ends, `[2C]`: those of a, then those of b."""
    return jnp.concatenate([keys_of(draws, purpose, 0), keys_of(draws, purpose, 1)])


def compressible(said: PyTree) -> Split:
    """The floating leaves of a message, the others, and what joins both lists again.

    Integers (ages, counters) are headers: they are counted and get lost with their message, but no channel rounds them.
    """
    leaves, treedef = jax.tree.flatten(said)
    is_number = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def join(numbers: list[Array], headers: list[Array]) -> PyTree:
        rest = (iter(headers), iter(numbers))
        return jax.tree.unflatten(treedef, [next(rest[which]) for which in is_number])

    numbers, headers = (
        [leaf for leaf, is_it in zip(leaves, is_number, strict=True) if is_it is w] for w in (True, False)
    )
    return numbers, headers, join


def up(network: Network, senders: Array, receivers: Array) -> Array | None:
    """Whether the link from each sender to its receiver works, bool `[C]`; None: all do."""
    if network.is_linked is None:
        return None
    table: Any = network.neighbors
    edges: Any = network.neighbor_edges
    is_it = (table[receivers] == senders[:, None]) & (edges[receivers] < network.num_edges)
    up = network.is_linked.at[edges[receivers]].get(mode="fill", fill_value=False)
    return jnp.any(is_it & up, axis=1)


def transmit(
    network: Network, draws: Array, said: PyTree, rows: Carry, ids: Array, sends: Array, to_ids: Array | None
) -> tuple[PyTree, Array, Carry]:
    """Messages of C events through the channel, `[C, ...]`, or `[2C, ...]` where both ends send (`to_ids` None).

    What is on the air, whether it arrives, and the senders' rows after it.
    """
    # Event by event, so that a draw depends on its event alone.
    num = draws.shape[0]
    ends = ids.shape[0] // num
    numbers, headers, join = compressible(said)
    header_bits = jnp.uint32(trees.num_bits(headers))
    shaped = (numbers, rows.channel, ids)
    by_event = jax.tree.map(lambda leaf: leaf.reshape(ends, num, *leaf.shape[1:]).swapaxes(0, 1), shaped)
    other = by_event[2][:, ::-1] if to_ids is None else to_ids[:, None]

    def one(draw: Array, event: tuple[PyTree, PyTree, Array], receivers: Array) -> tuple[Any, ...]:
        message, state, senders = event
        route = Route(node_ids=senders, senders=senders, receivers=receivers)
        packet = whole_packet(message)
        packet = packet._replace(extra_bits=packet.extra_bits + header_bits)
        state, packet = network.channel.send(draw, state, packet, route)
        delivered = jnp.ones(ends, bool) if packet.delivered is None else packet.delivered
        return packet.values, delivered, state, message_bits(packet)

    out = jax.vmap(one)(keys_of(draws, "channel", 0), by_event, other)
    values, delivered, state, bits = jax.tree.map(
        lambda leaf: leaf.swapaxes(0, 1).reshape(ends * num, *leaf.shape[2:]), out
    )
    rows = _added(rows._replace(channel=trees.select(sends, state, rows.channel)), bits, sends)
    return join(values, headers), sends & delivered, rows
