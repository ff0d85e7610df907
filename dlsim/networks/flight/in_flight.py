"""Messages under way: what is kept of them, and what of it has arrived.

With S = max_rounds + 1 the messages of the last S exchanges of a stream are kept, `[n, S, ...]` for n senders, those of
exchange t at place t mod S: memory grows with senders and not with links.  A link says only when each of them arrives,
int32 `[L, S]`.  A message of exchange s with a delay of d arrives in exchange s + d, if it was sent (both ends present and
the link up in s), is not lost by the channel, and its receiver is there when it comes.  Channels act when it is sent.

What a receiver makes of it is the method's to say (`hear`):

    "newest"   of each sender the newest message that has arrived and is at most max_rounds old, again and again until a
               newer one comes.  Where there is none (before the first arrival; after as many losses) it is as where a
               message is lost: the receiver keeps the weight.  For what is a value by itself: models.
    "all"      every message counts once, in the exchange in which it arrives, with the weight it was sent with.  Until then
               its weight is under way, with nobody.  For what adds up: increments, masses, trackers.

To hear the newest costs one row a link, wherever it is kept, as without delays; to hear all where delays vary from message to
message costs S products, as several may arrive at once, and one product where they do not.

Reports to a server and swaps in pairs are taken in once; of two from one sender that arrive together, the newer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, PyTree
from dlsim.networks.fields import NetworkFields
from dlsim.networks.flight import delays as delaying
from dlsim.networks.flight.delays import Transmissions
from dlsim.running import counters

STALENESS_BINS = 64  # the last one holds all that is staler
TOPOLOGY = ("senders", "receivers", "edge_weights", "neighbors", "neighbor_edges", "neighbor_weights", "is_edge")


class Flight(NamedTuple):
    """The messages of one stream, S = max_rounds + 1 exchanges of them.  Exchanges count from 1, so zeros are nothing."""

    values: PyTree  # [n, S, ...]
    arrives: Any  # int32 [L, S] exchange in which each arrives, 0: never; () where one delay says it all
    weights: Any  # [E, S] that each was sent with, where they are made in the step; else ()
    topology: dict[str, Array]  # [S, ...] the links of each exchange, where they change
    round: Array  # int32 [] exchanges so far
    met: counters.Counter  # [STALENESS_BINS] how many messages were heard so many exchanges after they were sent
    is_late: Array  # bool []: in the last exchange something was to take longer than the buffer


class Heard(NamedTuple):
    """What of a stream is heard now, as `combine` needs it."""

    hear: str
    values: PyTree  # [n, S, ...]
    slots: Any  # int32 [] or [L] place of the message that a link hears; None: several, see `mask`
    mask: Array  # bool, like `slots`: whether it hears one; [L, S] which of them where there are several
    weights: Array | None  # [E, S] that they were sent with; None: the network's
    topology: dict[str, Array]


def post(
    network: Any,
    key: Array,
    stream: str,
    values: PyTree,
    sent: Transmissions,
    is_sent: Array | None,
    *,
    hear: str = "newest",
    present: Array | None = None,
    weights: Array | None = None,
) -> tuple[Heard, Any]:
    """Send `values` `[n, ...]` on their way: what is heard in this exchange, and the network after it.

    Args:
      key: of the stream.
      is_sent: bool `[L]`, which transmissions are made and will not be lost; None: all.
      hear: `"newest"`, `"all"`, or `"once"`: of what arrives now, the newest.
      present: bool `[N]`, which receivers are there now; None: all.
      weights: `[E]` that messages are sent with where they are not the network's.
    """
    delays = network.delays
    size = delays.max_rounds + 1
    rounds, is_out = delaying.draw(stream, delays, key, sent, network.links)
    if is_out is not None:
        is_sent = ~is_out if is_sent is None else is_sent & ~is_out
    # One delay and nothing that can be missing: every link hears the same place.
    is_plain = delays.is_one and present is None and (is_sent is None or jnp.ndim(is_sent) == 0)
    flight = _opened(network, stream, values, sent, is_plain, weights)
    now = flight.round + 1
    place = now % size
    kept = jax.tree.map(lambda ring, new: ring.at[:, place].set(new), flight.values, values)
    topology = {name: ring.at[place].set(getattr(network, name)) for name, ring in flight.topology.items()}
    sent_with = flight.weights if weights is None else flight.weights.at[:, place].set(weights)
    arrives = flight.arrives
    if is_plain:
        slots: Any = (now - rounds) % size
        ages: Any = rounds
        mask = now > rounds if is_sent is None else (now > rounds) & is_sent
    else:
        due = jnp.broadcast_to(now + rounds, (sent.num,))
        arrives = arrives.at[:, place].set(due if is_sent is None else jnp.where(is_sent, due, 0))
        there = None
        if present is not None:
            receivers: Any = sent.receivers
            there = present[topology["receivers"].T if topology else receivers[:, None]]  # [L, S or 1]
            arrives = jnp.where(~there & (arrives == now), 0, arrives)
        slots, mask, ages = _found(arrives, now, rounds, hear, delays, bool(topology))
        if there is not None and hear == "newest" and not topology:
            mask &= there[:, 0]
    new = Flight(
        values=kept,
        arrives=arrives,
        weights=sent_with,
        topology=topology,
        round=now,
        met=counters.add(flight.met, _ages(ages, mask, network, sent)),
        is_late=jnp.zeros((), bool) if is_out is None else jnp.any(is_out),
    )
    heard = Heard(
        hear=hear,
        values=kept,
        slots=slots,
        mask=mask,
        weights=None if weights is None else sent_with,
        topology=topology,
    )
    if network.probe is not None:
        return heard, network
    under_way = {**(network.state.in_flight or {}), stream: new}
    return heard, network.with_state(network.state._replace(in_flight=under_way))


def _opened(
    network: NetworkFields, stream: str, values: PyTree, sent: Transmissions, is_plain: bool, weights: Array | None
) -> Flight:
    """The stream as it is, or with nothing under way at its first exchange."""
    if network.probe is None and stream in network.state.in_flight:
        flight: Flight = network.state.in_flight[stream]
        return flight
    delays: Any = network.delays
    size = delays.max_rounds + 1

    def ring(leaf: Array) -> Array:
        return jnp.zeros((leaf.shape[0], size, *leaf.shape[1:]), leaf.dtype)

    links = {name: getattr(network, name) for name in TOPOLOGY if delays.is_changing and sent.are_links}
    flight = Flight(
        values=jax.tree.map(ring, values),
        arrives=() if is_plain else jnp.zeros((sent.num, size), jnp.int32),
        weights=() if weights is None else jnp.zeros((sent.num, size), weights.dtype),
        topology={k: jnp.zeros((size, *leaf.shape), leaf.dtype) for k, leaf in links.items() if leaf is not None},
        round=jnp.zeros((), jnp.int32),
        met=counters.counter((STALENESS_BINS,)),
        is_late=jnp.zeros((), bool),
    )
    if network.probe is not None:
        network.probe.flights[stream] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), flight)
    return flight


def _found(
    arrives: Array, now: Array, rounds: Array, hear: str, delays: Any, changing: bool
) -> tuple[Any, Array, Array]:
    """Which place each link hears, whether there is one, and how old it is, as in `Heard`."""
    size = arrives.shape[1]
    by_place = (now - jnp.arange(size)) % size  # [S] age of what is there
    is_new = arrives == now
    if changing and delays.is_one:  # the links are those of the exchange in which the message was sent
        slot = (now - rounds) % size
        return slot, is_new[:, slot], rounds
    if hear == "all" and (changing or not delays.is_constant):
        return None, is_new, by_place
    # With a constant delay at most one message of a link arrives at a time.
    has = is_new if hear != "newest" else (arrives > 0) & (arrives <= now)
    ages = jnp.min(jnp.where(has, by_place, size), axis=1)
    return (now - ages) % size, ages < size, ages


def _ages(ages: Array, mask: Array, network: Any, sent: Transmissions) -> counters.Counter:
    """How many messages are heard at each age: `[]` and `[]`, `[]` and `[L]`, `[L]` and `[L]`, or `[S]` and `[L, S]`."""
    bins = jnp.arange(STALENESS_BINS)
    ages = jnp.minimum(ages, STALENESS_BINS - 1)
    if mask.ndim == 0 and network.is_implicit and sent.are_links:
        size = jnp.uint32(network.num_nodes)
        return counters.product(jnp.where((ages == bins) & mask, size, 0), size - 1)
    if mask.ndim == 0:
        is_edge = network.is_edge if sent.are_links else None
        num = jnp.uint32(sent.num) if is_edge is None else jnp.sum(is_edge, dtype=jnp.uint32)
        return counters.from_words(jnp.where((ages == bins) & mask, num, 0))
    if ages.ndim == 1 and mask.ndim == 1:
        kept = min(network.delays.max_rounds + 1, STALENESS_BINS)
        met = jnp.sum((ages[:, None] == bins[:kept]) & mask[:, None], axis=0, dtype=jnp.uint32)
        return counters.from_words(jnp.zeros(STALENESS_BINS, jnp.uint32).at[:kept].set(met))
    met = jnp.sum(mask, axis=0, dtype=jnp.uint32)  # [] or [S]
    return counters.from_words(jnp.zeros(STALENESS_BINS, jnp.uint32).at[ages].add(met))


def rows(heard: Heard, row: Array | None = None) -> PyTree:
    """The message that each transmission hears, `[L, ...]`; `row` `[L]` says whose, by default its own."""
    slots: Any = heard.slots

    def of(ring: Array) -> Array:
        if jnp.ndim(slots) == 0:
            now = ring[:, slots]
            return now if row is None else now[row]
        place = (jnp.arange(ring.shape[0]) if row is None else row) * ring.shape[1] + slots
        return ring.reshape(-1, *ring.shape[2:]).at[place].get(mode="promise_in_bounds")

    return jax.tree.map(of, heard.values)


def staleness(flights: dict[str, Flight]) -> counters.Counter:
    """How many messages of all streams were heard at each age so far, `[STALENESS_BINS]`."""
    met = counters.counter((STALENESS_BINS,))
    for flight in flights.values():
        met = counters.add(met, flight.met)
    return met


def slotted(network: Any, slots: Array, size: int) -> Any:
    """The network as one that hears rows `sender * S + slot` of the kept messages laid out flat, `[N S, ...]`.

    Its weights are to be given with the product; a grid is none, as every link may hear another place.
    """
    neighbors, edges = network.neighbors, network.neighbor_edges
    if neighbors is not None:
        neighbors = neighbors * size + slots.at[edges].get(mode="fill", fill_value=0)
    lowering = {"shifts": "neighbors", "average": "dense"}.get(network.lowering, network.lowering)
    return network.replace(
        senders=network.senders * size + slots, neighbors=neighbors, lowering=lowering, grid=None, offsets=None
    )


def flat(values: PyTree) -> PyTree:
    """Kept messages `[n, S, ...]` as rows `[n S, ...]`."""
    return jax.tree.map(lambda ring: ring.reshape(-1, *ring.shape[2:]), values)


def at(network: Any, topology: dict[str, Array], place: Array) -> Any:
    """The network with the links of the exchange whose messages are at a place; its own where links do not change."""
    if not topology:
        return network
    then = {name: ring[place] for name, ring in topology.items()}
    return network.replace(**then, matrix=None, grid=None, offsets=None)


def check_newest(where: str, network: Any) -> None:
    """`"newest"` is defined, or one line."""
    if "row_stochastic" not in network.properties:
        fix = 'Pass hear="all", as push_sum does.'
        checks.fail(where, "hear", "'all' where the rows of the weights do not sum to one", "'newest'", fix)
    if network.delays.is_changing and not network.delays.is_one:
        fix = 'Use fixed_delay(rounds), or a method that hears "all", such as stochastic_gradient_push.'
        checks.fail(
            where, "delays", "the same for all where a scenario replaces the topology", network.delays.kind, fix
        )
