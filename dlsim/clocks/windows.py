"""Windows: a tape without end, cut into steps of a run, of which the host keeps a stretch on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim import checks, keys
from dlsim.clocks import clocks
from dlsim.clocks.clocks import LONGEST, TICKS_PER_SECOND, Clock, to_ticks
from dlsim.clocks.ends import neighbor_rates
from dlsim.clocks.flights import Post, edges_of, late_tape, room_for
from dlsim.clocks.tapes import COMMUNICATION, Tape, stream_tape
from dlsim.clocks.waves import NOTHING, Blocks, make_waves, one_by_one, pack
from dlsim.core import Array, Feed
from dlsim.networks.network import PERFECT, Network
from dlsim.running.stretches import Room, Stretch, Window, stretches

SLOTS = 2**17  # about how many events are on the device at a time: 4 MB
ENTRIES = 2**20  # of tables with a row a window and a column a node
PILOTS = 3  # tapes that the room for events is measured with
SPARE = 1.25
ENOUGH, MOST_WINDOWS = 8, 1024  # events a node of a tape by which the room for messages is found; its windows at most


class Timing(NamedTuple):
    """When nodes compute and when they communicate; see `timing`."""

    gradient: Clock | None
    communication: Clock | None
    window: float
    serial: bool


def timing(
    gradient: Clock | None = None,
    communication: Clock | None = None,
    *,
    window: float = 1.0,
    serial: bool = False,
) -> Timing:
    """When the nodes of an asynchronous method act, and how much of that is a step of its run.

    Args:
      gradient: the clock of each node's gradient events; default: Poisson, one a second.
      communication: the clock of the communication events, one an edge, a link or a node, as the method says; default:
        Poisson, such that a node takes part in one event a second on average (`neighbor_rates(network, 0.5)` on edges),
        and sends once a second where messages go one way.
      window: simulated seconds a step, above 0.
      serial: play one event at a time and not in waves; the same bits, slowly.
    """
    for name, clock in (("gradient", gradient), ("communication", communication)):
        if clock is not None:
            checks.instance("timing", name, clock, Clock, "Pass e.g. dlsim.clocks.poisson(1.0).")
    checks.known("timing", "window", window, fix="It is structure: build outside jit.")
    checks.number("timing", "window", window, 1e-6, 1e8)
    checks.flag("timing", "serial", serial)
    return Timing(gradient, communication, float(window), serial)


class Windows(NamedTuple):
    """How the windows of a tape come to the device."""

    feed: Feed  # puts into `state.buffer`
    empty: Stretch  # NumPy; `blocks` are Blocks
    seconds: float  # a window
    kinds: tuple[int, ...]
    slots: int = 0  # of messages under way, the one of those that find no room among them


class Needs(NamedTuple):
    """What a method wants of its tape."""

    communication: str  # "edges", "links" or "nodes"
    has_gradients: bool
    has_messages: bool
    messages: bool  # whether the tape counts them: rows uint32 [N], what each node sends
    idle: bool  # rows float32 [N], seconds from each node's last event to the window's end
    changes_sender: bool = False  # whether a sender does something before it speaks
    hears_all: bool = False  # whether it hears what was overtaken on its way too
    bits: float = 0.0  # of a message
    books: bool = (
        False  # columns `gap_a`, `gap_b` float32: seconds since the node's last event, or the window's beginning
    )


class _Shape(NamedTuple):
    windows: int  # P
    blocks: int  # B
    width: int  # C
    ticks: int  # a window
    serial: bool


def windows(network: Network, when: Timing, needs: Needs) -> Windows:
    """The windows of the tapes of a method over a network; one tape a run, drawn from the run's key."""
    ticks = max(1, int(to_ticks(when.window)))
    gradient = when.gradient if when.gradient is not None else clocks.poisson(1.0)
    communication = when.communication
    if communication is None and needs.has_messages:
        communication = clocks.poisson(_usual_rate(network, needs.communication))
    used = (gradient if needs.has_gradients else None, communication if needs.has_messages else None)
    post = _post(network, needs) if network.delays is not None and needs.has_messages else None

    def pieces(key: Array, count: int, trial: Any = None) -> Iterator[Tape]:
        with jax.ensure_compile_time_eval():
            own = keys.stream(key, "tape")
        block, horizon = count * ticks / TICKS_PER_SECOND, LONGEST / TICKS_PER_SECOND
        made = stream_tape(network, *used, own, horizon, block=block, communication=needs.communication)
        made = made if post is None else late_tape(made, post, _of_delays(own), steady=trial is not None)
        return (_with_gaps(tape, ticks) for tape in made) if needs.books else made

    if post is not None:
        post = post._replace(room=_slots(network, post, used, needs, ticks))
    shape, sample = _room(lambda key, count: pieces(key, count, "trial"), network.num_nodes, ticks, when.serial)

    def make(key: Array) -> Iterator[list[Window]]:
        first = 0
        for tape in pieces(key, shape.windows):
            cut = _cut(tape, first, shape, needs, network.num_nodes)
            first += len(cut)
            yield cut

    wanted = {"messages": (needs.messages, np.uint32), "idle": (needs.idle or needs.books, np.float32)}
    tables = {name: np.zeros(network.num_nodes, dtype) for name, (is_wanted, dtype) in wanted.items() if is_wanted}
    if post is not None:
        tables["dropped"] = np.zeros((), np.uint32)
    room = Room(shape.windows, shape.blocks, sample, tables)
    slots = 0 if post is None else post.room + 1
    return Windows(stretches(make, room, "learn"), room.empty, ticks / TICKS_PER_SECOND, sample.kinds, slots)


def _post(network: Network, needs: Needs) -> Post:
    """How messages are under way, the room for them aside."""
    delays: Any = network.delays
    if delays.kind == "links" and not float(delays.values) and network.channel is not PERFECT:
        fix = "Times are known before a message is: pass link_seconds(bits=...), as many as the channel makes of it."
        checks.fail("learn", "delays", "of known sizes where a channel may change them", "link_seconds()", fix)
    in_order = delays.may_overtake and not needs.hears_all
    if in_order and network.is_implicit:
        fix = "Use fixed_seconds, or a sparser topology."
        checks.fail(
            "learn", "network", "one that lists its edges where messages overtake", "a large complete graph", fix
        )
    return Post(
        network=network,
        edges=edges_of(network) if in_order or delays.per == "link" else None,
        is_pair=needs.communication == "edges",
        changes_sender=needs.changes_sender,
        in_order=in_order,
        bits=needs.bits,
        room=0,
    )


def _of_delays(key: Array) -> Array:
    with jax.ensure_compile_time_eval():
        return keys.stream(key, "delays")


def _slots(network: Network, post: Post, used: tuple[Clock | None, Clock | None], needs: Needs, ticks: int) -> int:
    """Messages that there is room for at a time: as given, or by trial tapes."""
    delays: Any = network.delays
    if delays.room is not None:
        return int(delays.room)
    most = 0
    for seed in range(PILOTS):
        with jax.ensure_compile_time_eval():
            own = keys.stream(jax.random.key(seed), "tape")
        horizon = ticks / TICKS_PER_SECOND
        while True:  # until there is enough on it to tell
            (tape,) = stream_tape(network, *used, own, horizon, block=horizon, communication=needs.communication)
            if len(tape) >= ENOUGH * network.num_nodes or horizon >= MOST_WINDOWS * ticks / TICKS_PER_SECOND:
                break
            horizon *= 4
        most = max(most, room_for(tape, post, _of_delays(own)))
    return int(np.ceil(most + 4 * (1 + np.sqrt(most))))


def _usual_rate(network: Network, communication: str) -> Any:
    if communication == "edges":
        return neighbor_rates(network, 0.5)
    if communication == "nodes":
        return 1.0
    degrees = np.bincount(np.asarray(network.senders), minlength=network.num_nodes)
    return 1.0 / degrees[np.asarray(network.senders)]


def _room(pieces: Any, num_nodes: int, ticks: int, serial: bool) -> tuple[_Shape, Blocks]:
    """How many windows go to the device at a time, and into how many blocks of what width, by trial tapes."""
    first = next(pieces(jax.random.key(0), 1))
    expected = max(len(first), 1)
    count = int(np.clip(min(SLOTS // expected, ENTRIES // num_nodes), 1, 1024))
    width, blocks = None, 1
    for seed in range(PILOTS):
        tape = next(pieces(jax.random.key(seed), count))
        sample = pack(make_waves(tape, tape.ticks // ticks), tape, width=width)
        width = sample.width
        blocks = max(blocks, len(tape) if serial else sample.num_blocks)
    room = -(-int(SPARE * blocks + 16) // 32) * 32
    return _Shape(count, room, sample.width, ticks, serial), sample


def _cut(tape: Tape, first: int, shape: _Shape, needs: Needs, num_nodes: int) -> list[Window]:
    """The windows of a piece of tape, which begins with window `first`."""
    num = -(-(tape.stop - tape.start) // shape.ticks)
    index = tape.ticks // shape.ticks - first
    order = one_by_one(tape) if shape.serial else make_waves(tape, index)
    piece = pack(order, tape, width=shape.width)
    position = np.asarray(piece.position)[:, 0]
    has_event = position != NOTHING  # a piece without events is one block without events
    window_of_block = index[position[has_event]] if has_event.any() else np.zeros(0, np.int64)
    ends = np.searchsorted(window_of_block, np.arange(num + 1))
    tables = {}
    if needs.messages:
        tables["messages"] = _sent(tape, index, num, num_nodes, needs.communication == "edges")
    if needs.idle or needs.books:
        tables["idle"] = _idle(tape, index, num, shape.ticks)[:, :num_nodes]
    if tape.num_nodes > num_nodes:
        # The last node is the slot of messages that found no room.
        dropped = index[(tape.kind == COMMUNICATION) & (tape.b == tape.num_nodes - 1)]
        tables["dropped"] = np.bincount(dropped, minlength=num).astype(np.uint32)
    return [
        Window(piece, int(ends[p]), int(ends[p + 1]), {name: table[p] for name, table in tables.items()})
        for p in range(num)
    ]


def _sent(tape: Tape, index: np.ndarray, num: int, num_nodes: int, both: bool) -> np.ndarray:
    """Messages that each node sends, uint32 `[num, N]`: one an event by a, and by b where that is a node that speaks."""
    speaks = tape.kind == COMMUNICATION
    cell = index[speaks] * num_nodes
    b = tape.b[speaks]
    ends = np.concatenate([cell + tape.a[speaks], (cell + b)[b < num_nodes]]) if both else cell + tape.a[speaks]
    return np.bincount(ends, minlength=num * num_nodes).reshape(num, num_nodes).astype(np.uint32)


def _with_gaps(tape: Tape, ticks: int) -> Tape:
    """The tape with the seconds that nodes have had since their last event in this window, or since it began."""
    within = tape.ticks % ticks
    since = {"gap_a": tape.since_a, "gap_b": tape.since_b}
    gaps = {name: clocks.to_seconds(np.minimum(one, within)).astype(np.float32) for name, one in since.items()}
    return dataclasses.replace(tape, columns={**tape.columns, **gaps})


def _idle(tape: Tape, index: np.ndarray, num: int, ticks: int) -> np.ndarray:
    """Seconds from each node's last event to the end of the window, float32 `[num, N]`."""
    last = _before(tape)
    out = np.empty((num, tape.num_nodes), np.float32)
    bounds = np.searchsorted(index, np.arange(num + 1))
    for p in range(num):
        some = slice(bounds[p], bounds[p + 1])
        a, b, at = tape.a[some], tape.b[some], tape.ticks[some]
        np.maximum.at(last, a, at)
        np.maximum.at(last, b[b >= 0], at[b >= 0])
        out[p] = clocks.to_seconds(tape.start + (p + 1) * ticks - last)
    return out


def _before(tape: Tape) -> np.ndarray:
    """Ticks of each node's last event before this piece of the tape, int64 `[N]`."""
    before = tape.last.copy()  # of nodes without an event here
    np.minimum.at(before, tape.a, tape.ticks - tape.since_a)
    pairs = tape.b >= 0
    np.minimum.at(before, tape.b[pairs], (tape.ticks - tape.since_b)[pairs])
    return before
