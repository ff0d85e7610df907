"""What happens at the events of a tape whose messages take time: sending, and hearing what has arrived.

A meeting of two nodes is two messages, each under way by itself: what each says is read at the meeting, through the channel
then, and what it does to the other is done when it arrives, to the other as it is by then.  The same keys are drawn from as
without delays, so a delay that nothing happens in changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim.clocks.flights import ARRIVAL
from dlsim.clocks.play import Events, event_keys
from dlsim.clocks.tapes import COMMUNICATION, GRADIENT
from dlsim.core import Array, EventAlgorithm, PyTree
from dlsim.learning.event_handlers import (
    Carry,
    gradient_fn,
    hearing,
    keys_of,
    moved,
    noted,
    present,
    sent_alone,
    sent_between,
    up,
)
from dlsim.learning.measures import STALENESS_BINS
from dlsim.networks.messages import both
from dlsim.networks.network import PERFECT, Network
from dlsim.running import counters


class Slot(NamedTuple):
    """A message under way, every leaf `[P, ...]`."""

    values: PyTree
    gets_through: Any  # bool; () where nothing can be lost when it is sent
    bits: Any  # Counter, where books are kept


def empty_slots(
    algorithm: EventAlgorithm, network: Network, nodes: PyTree, num: int, can_fail: bool, books: bool
) -> Slot:
    """Room for `num` messages."""
    said = jax.eval_shape(algorithm.message, nodes)
    return Slot(
        values=jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape[1:]), leaf.dtype), said),
        gets_through=jnp.zeros(num, bool) if can_fail or network.channel is not PERFECT else (),
        bits=counters.counter((num,)) if books else (),
    )


def late_event_fns(algorithm: EventAlgorithm, network: Network, key: Array, kinds: tuple[int, ...]) -> dict[int, Any]:
    """As `event_fns`, for the kinds of `dlsim.clocks.flights`; what is added up are two counts by staleness."""
    nothing = jnp.zeros(STALENESS_BINS, jnp.uint32)
    found: dict[int, Any] = {
        COMMUNICATION: _send_fn(algorithm, network, key),
        ARRIVAL: _arrival_fn(algorithm, network, key),
    }
    if GRADIENT in kinds:
        gradient = gradient_fn(algorithm, network, key)

        def on_gradient(events: Events, rows: Carry) -> tuple[Carry, tuple[Array, Array]]:
            rows, added = gradient(events, rows)
            return rows, (added, nothing)

        found[GRADIENT] = on_gradient
    return found


def _send_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    is_pair = algorithm.communication == "edges"

    def send(events: Events, rows: Carry, slot: Slot) -> tuple[Carry, Slot, tuple[Array, Array]]:
        rows = moved(algorithm, rows, events.since_a)
        other, end = events.columns["other"], events.columns["end"]
        ids, to_ids = network.node_ids[events.a], network.node_ids[other]
        draws = _draws(key, network, events, events.a, other)
        sends = present(network, events.a)
        is_up = up(network, events.a, other)
        if is_pair:
            sends = both(sends, present(network, other))
        added = jnp.zeros(STALENESS_BINS, jnp.uint32)
        if algorithm.before_message is not None:
            nodes, info = algorithm.before_message(keys_of(draws, "prepare", end), rows.nodes, ids)
            rows, added = noted(rows, nodes, info, sends, events.is_event)
        silent = rows
        # Both ends of a link that is down know it before they meet; who sends on its own finds out by losing its message.
        sends = both(sends, is_up) if is_pair else sends
        values, arrives, rows = sent_alone(network, algorithm, draws, rows, events, sends, ids, to_ids)
        arrives = arrives if is_pair else both(arrives, is_up)
        slot = Slot(
            values=values,
            gets_through=slot.gets_through if arrives is None else arrives,
            bits=sent_between(silent, rows) if isinstance(slot.bits, counters.Counter) else (),
        )
        return rows, slot, (added, jnp.zeros(STALENESS_BINS, jnp.uint32))

    return send


def _arrival_fn(algorithm: EventAlgorithm, network: Network, key: Array) -> Any:
    is_pair = algorithm.communication == "edges"
    hear = algorithm.on_message if algorithm.on_late is None else algorithm.on_late

    def arrive(events: Events, rows: Carry, slot: Slot) -> tuple[Carry, Slot, tuple[Array, Array]]:
        rows = moved(algorithm, rows, events.since_a)
        sender, end = events.columns["other"], events.columns["end"]
        draws = _draws(key, network, events, sender, events.a)
        through = None if isinstance(slot.gets_through, tuple) else slot.gets_through
        happens = both(through, present(network, events.a))
        if isinstance(slot.bits, counters.Counter):
            rows = hearing(rows, slot.bits, happens)
        if not isinstance(rows.newest, tuple):
            rows, is_newest = _in_order(rows, events, happens)
            happens = both(happens, is_newest)
        purpose = keys_of(draws, "receive", 1 - end if is_pair else 0)
        nodes, info = hear(purpose, rows.nodes, slot.values, network.node_ids[events.a])
        rows, added = noted(rows, nodes, info, happens, events.is_event)
        place = jnp.clip(events.columns["age"], 0, STALENESS_BINS - 1)
        met = (place[:, None] == jnp.arange(STALENESS_BINS)[None, :]) & both(events.is_event, happens)[:, None]
        return rows, slot, (added, jnp.sum(met, axis=0, dtype=jnp.uint32))

    return arrive


def _in_order(rows: Carry, events: Events, happens: Array | None) -> tuple[Carry, Array]:
    """Whether no later message of the same link has been heard before."""
    place = events.columns["place"][:, None]
    number = events.number + jnp.uint32(1)
    last = jnp.take_along_axis(rows.newest, place, axis=1)[:, 0]
    is_newest = number > last
    takes = both(happens, is_newest)
    newest = jnp.where(takes, number, last)
    here = jnp.arange(rows.newest.shape[1])[None, :] == place
    return rows._replace(newest=jnp.where(here, newest[:, None], rows.newest)), is_newest


def _draws(key: Array, network: Network, events: Events, sender: Array, receiver: Array) -> Array:
    """The keys of the communication events that messages belong to, `[C]`."""
    is_a = events.columns["end"] == 0
    a, b = jnp.where(is_a, sender, receiver), jnp.where(is_a, receiver, sender)
    return event_keys(key, events._replace(kind=COMMUNICATION, a=a, b=b), network.node_ids)
