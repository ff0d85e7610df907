"""Messages under way on a tape: each is sent at one event and heard at a later one, of its own.

Where messages take time (`Network.with_delays`), a communication event becomes a sending at each node that speaks, and an
arrival at each that is to hear.  In between the message lies in one of P slots; which one is found here, in order of time,
so a slot is given again when its message has been heard, the one that has been free for longest first.  On the tape slots
are nodes beyond the N that exist, and so what is heard waits for what was said, and a slot for the message before, as
events wait for each other at a node.  What finds no slot free goes to a last one that nobody reads: it is lost, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dlsim.clocks import clocks
from dlsim.clocks.tapes import COMMUNICATION, GRADIENT, Tape, link_events
from dlsim.core import Array
from dlsim.networks.flight.timed import Posted, flight_seconds
from dlsim.networks.network import Network, host_graph

ARRIVAL = 2  # a message that was under way is there; a is who hears it, b its slot


class Edges(NamedTuple):
    """Where links are in a network's list of edges."""

    code: np.ndarray  # int64 [E] receiver N + sender, sorted
    place: np.ndarray  # int64 [E]
    first: np.ndarray  # int64 [N] of those that a node hears over

    def of(self, sender: np.ndarray, receiver: np.ndarray) -> np.ndarray:
        """Places of links, int64 `[L]`."""
        wanted = receiver.astype(np.int64) * len(self.first) + sender
        found: np.ndarray = self.place[np.searchsorted(self.code, wanted)]
        return found


class Post(NamedTuple):
    """What a network's delays make of a method's messages."""

    network: Network
    edges: Edges | None  # None: nobody asks
    is_pair: bool  # at a communication event both ends speak
    changes_sender: bool  # a sender does something before it speaks
    in_order: bool  # what was overtaken is not heard: arrivals say at which place of the receiver's table their link is
    bits: float  # of a message
    room: int  # slots, the last one aside


class Mail(NamedTuple):
    """Messages, in the order in which they are sent; NumPy `[L]`."""

    sent: np.ndarray  # int64 ticks
    arrives: np.ndarray  # int64 ticks
    sender: np.ndarray  # int32
    receiver: np.ndarray  # int32
    end: np.ndarray  # int32: 0 where the sender is the event's a, 1 where it is b
    number: np.ndarray  # int64 of the event at its clock
    seen: np.ndarray  # int64: what had happened to the sender when it spoke; known once it has
    slot: np.ndarray  # int64, likewise; -1: not known yet

    def part(self, some: np.ndarray) -> Mail:
        """Some of the messages."""
        return Mail(*(column[some] for column in self))


def edges_of(network: Network) -> Edges:
    """The links of a network, to be found by their ends."""
    graph = host_graph(network)
    code = graph.receivers.astype(np.int64) * graph.num_nodes + graph.senders
    order = np.argsort(code)
    return Edges(code[order], order, np.searchsorted(graph.receivers, np.arange(graph.num_nodes)))


def late_tape(pieces: Iterator[Tape], post: Post, key: Array, *, steady: bool = False) -> Iterator[Tape]:
    """The pieces of a tape with what is sent in them under way.

    Kinds are `GRADIENT`, `COMMUNICATION` (a sends; b is a slot) and `ARRIVAL` (a hears; b is that slot); at one tick they
    come in this order.  Columns, int32: `other`, who hears, or who sent; `end`, whether the sender was a (0) or b (1) of
    the event; of arrivals `age`, what has happened to the sender since, gradients taken and messages heard, and where
    order counts `place`, that of the link among those that the receiver hears over.

    Args:
      pieces: of `stream_tape`.
      post: see there.
      key: of the delays that are drawn.
      steady: begin as if it had gone on like in the first piece, for trials.
    """
    num = post.network.num_nodes
    free = deque(range(post.room))
    last = np.zeros(num + post.room + 1, np.int64)
    happened = np.zeros(num, np.int64)
    waiting: Mail | None = None
    for piece in pieces:
        new = _mail(piece, post, key)
        if waiting is None:
            waiting = _wrapped(new, piece, free, post.room) if steady else new.part(np.zeros(0, np.int64))
        piece, waiting, happened = _with_arrivals(piece, waiting, new, post, free, last, happened)
        last = piece.last
        yield piece


def room_for(tape: Tape, post: Post, key: Array) -> int:
    """How many messages are under way at the worst, if it went on and on like on this tape."""
    mail = _mail(tape, post, key)
    if not len(mail.sent):
        return 0
    span = tape.stop - tape.start
    begin, rest = mail.sent - tape.start, (mail.arrives - mail.sent) % span
    rounds = int(((mail.arrives - mail.sent) // span).sum())
    wrapped = int((begin + rest >= span).sum())
    at = np.concatenate([begin, (begin + rest) % span])
    step = np.concatenate([np.ones(len(begin), np.int64), -np.ones(len(begin), np.int64)])
    level = np.cumsum(step[np.lexsort((-step, at))])
    return rounds + wrapped + max(int(level.max()), 0)


def _mail(tape: Tape, post: Post, key: Array) -> Mail:
    """What is sent on a piece of tape, in order."""
    rows = np.flatnonzero(tape.kind == COMMUNICATION)
    ends = 2 if post.is_pair else 1
    rows, end = np.repeat(rows, ends), np.tile(np.arange(ends, dtype=np.int32), len(rows))
    a, b = tape.a[rows], tape.b[rows]
    sender, receiver = np.where(end == 0, a, b), np.where(end == 0, b, a)
    network, delays = post.network, post.network.delays
    assert delays is not None
    edges, drawn = np.zeros(len(rows), np.int64), np.full(len(rows), 0.5)
    if delays.per == "link" and post.edges is not None:
        edges = post.edges.of(sender, receiver)
    if delays.kind in ("random", "log_normal") and len(rows):
        ids = np.asarray(network.node_ids).astype(np.int64)
        words = clocks.own_words(key, np.stack([ids[sender], ids[receiver]], axis=1))
        drawn = clocks.uniform(clocks.draw_words(words, tape.number[rows]))
    posted = Posted(sender, receiver, edges, tape.number[rows], drawn)
    taken = clocks.to_ticks(flight_seconds(delays, posted, network.links, post.bits)) if len(rows) else 0
    unknown = np.full(len(rows), -1, np.int64)
    sent = tape.ticks[rows]
    return Mail(sent, sent + taken, sender, receiver, end, tape.number[rows], unknown, unknown.copy())


def _wrapped(mail: Mail, piece: Tape, free: deque[int], room: int) -> Mail:
    """What is under way when a piece like this one begins, of pieces like it before: as many as later arrive in one."""
    span = piece.stop - piece.start
    some = mail.part(mail.arrives >= piece.stop)
    slots = [free.popleft() if free else room for _ in some.sent]
    arrives = piece.start + (some.arrives - piece.start) % span
    return some._replace(arrives=arrives, slot=np.asarray(slots, np.int64), seen=np.zeros(len(slots), np.int64))


def _with_arrivals(
    piece: Tape, waiting: Mail, new: Mail, post: Post, free: deque[int], last: np.ndarray, happened: np.ndarray
) -> tuple[Tape, Mail, np.ndarray]:
    """A piece with its sendings and arrivals, what is under way at its end, and what has happened to each node by then."""
    num, begun = post.network.num_nodes, len(waiting.sent)
    mail = Mail(*(np.concatenate(columns) for columns in zip(waiting, new, strict=True)))
    local = np.flatnonzero(piece.kind == GRADIENT)
    sent, heard = np.arange(begun, len(mail.sent)), np.flatnonzero(mail.arrives < piece.stop)
    # A row an event: which of the three it is, its tick, and its local place or its message.
    kind = np.repeat(np.array([GRADIENT, COMMUNICATION, ARRIVAL], np.int32), (len(local), len(sent), len(heard)))
    which = np.concatenate([local, sent, heard])
    ticks = np.concatenate([piece.ticks[local], mail.sent[sent], mail.arrives[heard]])
    order = np.lexsort((which, kind, ticks))
    kind, which, ticks = kind[order], which[order], ticks[order]
    slot = _slots(kind, which, mail.slot, free, post.room)
    is_kept = (kind != ARRIVAL) | (slot != post.room)
    kind, which, ticks, slot = kind[is_kept], which[is_kept], ticks[is_kept], slot[is_kept]

    is_local, is_arrival = kind == GRADIENT, kind == ARRIVAL
    place, message = np.where(is_local, which, 0), np.where(is_local, 0, which)

    def of(local_column: np.ndarray, of_sent: np.ndarray, of_heard: np.ndarray) -> np.ndarray:
        out = np.zeros(len(kind), np.int64)
        for mask, column, rows in (
            (is_local, local_column, place),
            (kind == COMMUNICATION, of_sent, message),
            (is_arrival, of_heard, message),
        ):
            out[mask] = column[rows[mask]]
        return out

    a = of(piece.a, mail.sender, mail.receiver)
    nobody = np.zeros(len(piece), np.int64)
    changes = kind != COMMUNICATION if not post.changes_sender else np.ones(len(kind), bool)
    count = _Counts(a, changes, happened)
    is_sent = kind == COMMUNICATION
    mail.seen[message[is_sent]] = count.until(a[is_sent], np.flatnonzero(is_sent) + 1)
    age = np.zeros(len(kind), np.int64)
    heard_now = message[is_arrival]
    # What arrives at one instant is heard at once: both halves of a meeting, say.
    begins = np.append(True, (np.diff(ticks) > 0) | (np.diff(kind) != 0)) if len(kind) else np.zeros(0, bool)
    instant = np.maximum.accumulate(np.where(begins, np.arange(len(kind)), 0))
    age[is_arrival] = count.until(mail.sender[heard_now], instant[is_arrival]) - mail.seen[heard_now]
    columns = {
        "other": of(nobody, mail.receiver, mail.sender).astype(np.int32),
        "end": of(nobody, mail.end, mail.end).astype(np.int32),
        "age": age.astype(np.int32),
    }
    if post.in_order:
        assert post.edges is not None
        receivers = mail.receiver[heard_now]
        place_of = np.zeros(len(kind), np.int32)
        place_of[is_arrival] = post.edges.of(mail.sender[heard_now], receivers) - post.edges.first[receivers]
        columns["place"] = place_of
    b = np.where(is_local, -1, num + slot)
    number = of(piece.number, mail.number, mail.number)
    kinds = (*((one, False) for one, _ in piece.kinds if one == GRADIENT), (COMMUNICATION, True), (ARRIVAL, True))
    tape = link_events(kind, a, b, ticks, number, last, piece.start, piece.stop, kinds, columns)
    still = np.ones(len(mail.sent), bool)
    still[heard] = False
    still &= mail.slot != post.room
    return tape, mail.part(still), count.after


def _slots(kind: np.ndarray, which: np.ndarray, slot: np.ndarray, free: deque[int], room: int) -> np.ndarray:
    """The slot of each event's message, int64 `[M]`; -1 of events without one.  Writes those that are given into `slot`."""
    given, out = slot.tolist(), []
    for one, message in zip(kind.tolist(), which.tolist(), strict=True):
        if one == GRADIENT:
            out.append(-1)
        elif one == COMMUNICATION:
            given[message] = free.popleft() if free else room
            out.append(given[message])
        else:
            out.append(given[message])
            if given[message] != room:
                free.append(given[message])
    slot[:] = given
    return np.asarray(out, np.int64)


class _Counts:
    """How much had happened to nodes before places of a piece."""

    def __init__(self, a: np.ndarray, changes: np.ndarray, before: np.ndarray) -> None:
        self._size, self._before = len(a) + 1, before
        at = np.flatnonzero(changes)
        self._keys = np.sort(a[at] * self._size + at)
        self.after = before + np.bincount(a[at], minlength=len(before))

    def until(self, nodes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Before each place, at its node."""
        nodes = nodes.astype(np.int64)
        first, end = (np.searchsorted(self._keys, nodes * self._size + p) for p in (0, places))
        counted: np.ndarray = self._before[nodes] + end - first
        return counted
