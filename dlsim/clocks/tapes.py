"""Tapes: what happens when, as arrays sorted by time.

A tape holds gradient events on nodes and communication events on edges, or whatever its kinds stand for: a kind is an
int that the reader of the tape gives a meaning to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dlsim import checks, keys
from dlsim.clocks import clocks
from dlsim.clocks.clocks import Clock, ClockEvents, Cursor, to_ticks
from dlsim.clocks.ends import ClockedEnds, clocked_ends
from dlsim.core import Array
from dlsim.networks.graphs.graph import Graph
from dlsim.networks.network import Network

Source = tuple[int, Clock, ClockedEnds, Cursor]  # kind, clock, whose it is, how far it is

GRADIENT, COMMUNICATION = 0, 1  # kinds of events: a gradient at a node; a message over an edge, a link or by a node
LONGEST_TAPE = 2**31 - 2  # events in one piece: positions are int32


@dataclasses.dataclass(frozen=True)
class Tape:
    """M events in order of time, on the host.  Nodes are positions in the network.

    Two events at one tick stand in order of kind, then of the ids of a, then of b (`make_tape`), or as given (`tape`).
    `number` counts the events of one clock from 0, so that (kind, a, b, number) names an event whatever else happens:
    draws belong to it (see `event_keys`).  `since_a` and `since_b` are the ticks since the node's last event, or since
    time 0, for what evolves between events; `last` has the node's last event up to the end of this piece of the tape.
    """

    kind: np.ndarray  # int32 [M]
    a: np.ndarray  # int32 [M]
    b: np.ndarray  # int32 [M], -1 where one node is involved
    ticks: np.ndarray  # int64 [M], not decreasing
    number: np.ndarray  # int64 [M]
    since_a: np.ndarray  # int64 [M]
    since_b: np.ndarray  # int64 [M], 0 where one node is involved
    num_nodes: int
    start: int  # ticks
    stop: int  # ticks, exclusive
    last: np.ndarray  # int64 [N] ticks
    kinds: tuple[tuple[int, bool], ...]  # those that its clocks can make, and whether they involve two nodes
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # [M, ...] of the user's own

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def seconds(self) -> np.ndarray:
        """Times of the events, float64 `[M]`."""
        return clocks.to_seconds(self.ticks)

    @property
    def remaining(self) -> np.ndarray:
        """Ticks from each node's last event to the end of the tape, int64 `[N]`."""
        return self.stop - self.last


def make_tape(
    network: Network | Graph,
    gradient_clock: Clock | None,
    communication_clock: Clock | None,
    key: Array,
    horizon: float,
    *,
    communication: str = "edges",
) -> Tape:
    """All events of the first `horizon` seconds.

    A draw depends on the key, the ids of the nodes involved and the event's number at its clock: a longer tape begins
    with a shorter one, and another edge, or another order of the nodes, changes no other clock's events.

    Args:
      network: whose nodes and edges have clocks.
      gradient_clock: events of kind 0, one clock a node, in order of position; None: no such events.
      communication_clock: events of kind 1; None: no such events.
      key: the random numbers.
      horizon: seconds, above 0.
      communication: whose clocks these are: "edges", one a pair of linked nodes, a the one with the lower id, in the
        order of `clock_edges`; "links", one a directed edge, a sending to b, in the order of the network's edges;
        "nodes", one a node a, whose partner b is each time drawn uniformly among those that a sends to.
    """
    (whole,) = stream_tape(
        network, gradient_clock, communication_clock, key, horizon, block=horizon, communication=communication
    )
    if not len(whole):
        checks.fail(
            "make_tape", "horizon", "long enough for an event", f"{float(horizon):g} s", "Raise it, or the rates."
        )
    return whole


def stream_tape(
    network: Network | Graph,
    gradient_clock: Clock | None,
    communication_clock: Clock | None,
    key: Array,
    horizon: float,
    *,
    block: float,
    communication: str = "edges",
) -> Iterator[Tape]:
    """The same events piece by piece, for horizons longer than memory: pieces of `block` seconds, which may be empty.

    One after the other the pieces are the tape of `make_tape`; `since_a` and `since_b` reach back across pieces.

    Args:
      block: seconds a piece, above 0; the last one may be shorter.
      network, gradient_clock, communication_clock, key, horizon, communication: see `make_tape`.
    """
    where = "make_tape"
    longest = clocks.LONGEST / clocks.TICKS_PER_SECOND
    outside = ("known values", "Make tapes outside jit and vmap.")
    checks.known(where, "key and network", (key, network), *outside)
    checks.known(where, "horizon and block", (horizon, block), *outside)
    checks.number(where, "horizon", horizon, 0.0, longest, open_minimum=True)
    checks.number(where, "block", block, 0.0, open_minimum=True)
    checks.instance(where, "network", network, (Network, Graph))
    checks.key(where, "key", key)
    for name, clock in (("gradient_clock", gradient_clock), ("communication_clock", communication_clock)):
        if clock is not None:
            checks.instance(where, name, clock, Clock, "Pass e.g. dlsim.clocks.poisson(1.0).")
    if gradient_clock is None and communication_clock is None:
        checks.fail(where, "clocks", "at least one", "None for both")
    ends = clocked_ends(network, communication)
    sources = []
    if gradient_clock is not None:
        sources.append(_source(GRADIENT, gradient_clock, ends.nodes, key))
    if communication_clock is not None:
        sources.append(_source(COMMUNICATION, communication_clock, ends.communication(), key))
    return _pieces(sources, ends.num_nodes, int(to_ticks(horizon)), max(1, int(to_ticks(min(block, horizon)))))


@checks.typed
def tape(
    num_nodes: int,
    kind: Any,
    a: Any,
    b: Any,
    ticks: Any,
    *,
    number: Any = None,
    stop: int | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Tape:
    """A tape from arrays of one's own, e.g. arrivals at a server: sorted by time, events at one tick staying as given.

    Args:
      num_nodes: N.
      kind: ints that the reader gives a meaning to, at least 0, `[M]` or one for all.
      a, b: nodes, `[M]`; b is -1 where one node is involved.
      ticks: when (see `to_ticks`), `[M]`, at least 0.
      number: the event's number at its clock, `[M]`; default: the earlier events of the same kind, a and b.
      stop: ticks where the tape ends; default: after the last event.
      columns: arrays `[M, ...]` that travel with the events (versions, coefficients, ...).
    """
    num_nodes = checks.integer("tape", "num_nodes", num_nodes, 1)
    ticks = _integers("ticks", ticks)
    length = len(ticks)
    if length == 0:
        checks.fail("tape", "ticks", "of at least one event", "none")
    a, b = _integers("a", a, length), _integers("b", b, length)
    kind = checks.host("tape", "kind", kind, f"an integer, or integers [{length}]")
    kind = _integers("kind", np.broadcast_to(kind, length) if kind.ndim == 0 else kind, length)
    for name, entries, least, most in (
        ("kind", kind, 0, 2**31 - 1),
        ("a", a, 0, num_nodes - 1),
        ("b", b, -1, num_nodes - 1),
        ("ticks", ticks, 0, clocks.LONGEST),
    ):
        bad = (entries < least) | (entries > most)
        if bad.any():
            checks.fail("tape", f"{name}[{int(np.argmax(bad))}]", f"in [{least}, {most}]", int(entries[np.argmax(bad)]))
    if (a == b).any():
        checks.fail("tape", f"b[{int(np.argmax(a == b))}]", "another node than a, or -1", int(b[np.argmax(a == b)]))
    order = np.argsort(ticks, kind="stable")
    kind, a, b, ticks = kind[order], a[order], b[order], ticks[order]
    number = _count(kind, a, b) if number is None else _integers("number", number, length)[order]
    stop = (
        int(ticks[-1]) + 1
        if stop is None
        else checks.integer("tape", "stop", stop, int(ticks[-1]) + 1, limit=clocks.LONGEST)
    )
    kept = {}
    for name, column in (columns or {}).items():
        values = checks.host("tape", f"columns[{name!r}]", column)
        if values.shape[:1] != (length,):
            checks.fail("tape", f"columns[{name!r}]", f"as long as ticks ({length})", f"shape {list(values.shape)}")
        kept[name] = values[order]
    last = np.zeros(num_nodes, np.int64)
    return link_events(kind, a, b, ticks, number, last, 0, stop, _kinds(kind, b), kept)


def check_tape(where: str, tape: Tape, network: Network | Graph) -> None:
    """One clear line if the tape was made for another graph: other nodes, or events between nodes that are not linked."""
    checks.text("check_tape", "where", where)
    checks.instance(where, "tape", tape, Tape, "Make one with dlsim.clocks.make_tape.")
    checks.instance(where, "network", network, (Network, Graph))
    ends = clocked_ends(network, "edges")
    fix = "Make the tape with the network it is played on."
    if ends.num_nodes != tape.num_nodes:
        checks.fail(where, "tape", f"for {ends.num_nodes} nodes", f"one for {tape.num_nodes}", fix)
    if ends.is_implicit:
        return
    pairs = tape.b >= 0
    low, high = np.minimum(tape.a, tape.b)[pairs], np.maximum(tape.a, tape.b)[pairs]
    code = low.astype(np.int64) * tape.num_nodes + high
    first, second = ends.pairs()
    known = np.sort(first.astype(np.int64) * tape.num_nodes + second)
    is_known = known[np.minimum(np.searchsorted(known, code), len(known) - 1)] == code if len(known) else code < 0
    if not is_known.all():
        bad = int(np.argmin(is_known))
        checks.fail(where, "tape", "one for this graph", f"an event between nodes {low[bad]} and {high[bad]}", fix)


def _source(kind: int, clock: Clock, ends: ClockedEnds, key: Array) -> Source:
    name = ("gradient_clock", "communication_clock")[kind]
    if clock.size not in (None, len(ends.ids)):
        fix = "Give one number, or one a clock in the order that make_tape names."
        checks.fail("make_tape", name, f"for {len(ends.ids)} clocks", f"one for {clock.size}", fix)
    with jax.ensure_compile_time_eval():  # the key is known, even while something else is traced
        own_key = keys.stream(key, ("gradient clock", "communication clock")[kind])
    return kind, clock, ends, clocks.cursor(clock, ends.ids, own_key)


def _pieces(sources: list[Source], num_nodes: int, horizon: int, block: int) -> Iterator[Tape]:
    last = np.zeros(num_nodes, np.int64)
    for start in range(0, horizon, block):
        stop = min(start + block, horizon)
        drawn = []
        for index, (kind, clock, sides, position) in enumerate(sources):
            found, position = clocks.advance(clock, position, stop)
            sources[index] = (kind, clock, sides, position)
            drawn.append((kind, sides, found, position.words))
        piece = _merge(drawn, last, start, stop)
        last = piece.last
        yield piece


def _merge(
    drawn: list[tuple[int, ClockedEnds, ClockEvents, np.ndarray]], last: np.ndarray, start: int, stop: int
) -> Tape:
    """One piece of tape from the events of each kind."""
    ticks = np.concatenate([found.ticks for _, _, found, _ in drawn])
    if len(ticks) > LONGEST_TAPE:
        checks.fail("make_tape", "horizon", f"for at most {LONGEST_TAPE} events", f"one for {len(ticks)}", "Stream it.")
    number = np.concatenate([found.numbers for _, _, found, _ in drawn])
    kind = np.concatenate([np.full(len(found.rows), kind, np.int32) for kind, _, found, _ in drawn])
    sides = [ends.at(found.rows, found.numbers, words) for _, ends, found, words in drawn]
    a, b = (np.concatenate(side) for side in zip(*sides, strict=True))
    before = np.cumsum([0, *(len(ends.ids) for _, ends, _, _ in drawn)])
    rank = np.concatenate([before[i] + ends.rank[found.rows] for i, (_, ends, found, _) in enumerate(drawn)])
    order = _sorted(ticks, rank)
    kinds = tuple((kind, kind == COMMUNICATION) for kind, _, _, _ in drawn)
    return link_events(kind[order], a[order], b[order], ticks[order], number[order], last, start, stop, kinds, {})


def _sorted(ticks: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Order of time, then of rank: equal times are rare with random clocks and sorted apart."""
    order = np.argsort(ticks)
    later = np.diff(ticks[order]) > 0
    tied = np.flatnonzero(~(np.append(later, True) & np.append(True, later)))
    if len(tied):
        run = np.cumsum(np.append(True, later))[tied]
        order[tied] = order[tied][np.lexsort((rank[order[tied]], run))]
    return order


def link_events(
    kind: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    ticks: np.ndarray,
    number: np.ndarray,
    last: np.ndarray,
    start: int,
    stop: int,
    kinds: tuple[tuple[int, bool], ...],
    columns: Mapping[str, np.ndarray],
) -> Tape:
    """A tape with the time since each node's last event; `last [N]` is where the piece before it ended."""
    from scipy.sparse import coo_array

    length, num_nodes = len(ticks), len(last)
    # Both ends of all events, grouped by node in order of time: a matrix of nodes x ends, sorted by its rows.
    ends = np.stack([a, np.where(b < 0, num_nodes, b)], axis=1).astype(np.int32).ravel()
    places = np.arange(2 * length, dtype=np.int32 if 2 * length < 2**31 else np.int64)
    shape = (num_nodes + 1, max(2 * length, 1))
    table = coo_array((np.ones(2 * length, np.int8), (ends, places)), shape=shape).tocsr()
    grouped, first = table.indices, table.indptr
    at = ticks[grouped // 2]
    before = np.empty_like(at)
    before[1:] = at[:-1]
    has_events = np.flatnonzero(np.diff(first[:-1]))
    before[first[has_events]] = last[has_events]
    flat = np.empty(2 * length, np.int64)
    flat[grouped] = at - before
    after = last.copy()
    after[has_events] = at[first[has_events + 1] - 1]
    since = flat.reshape(length, 2)
    return Tape(
        kind=kind.astype(np.int32),
        a=a.astype(np.int32),
        b=b.astype(np.int32),
        ticks=ticks,
        number=number.astype(np.int64),
        since_a=np.ascontiguousarray(since[:, 0]),
        since_b=np.where(b < 0, 0, since[:, 1]),
        num_nodes=num_nodes,
        start=start,
        stop=stop,
        last=after,
        kinds=kinds,
        columns=columns,
    )


def _kinds(kind: np.ndarray, b: np.ndarray) -> tuple[tuple[int, bool], ...]:
    """The kinds on a tape, and whether their events involve two nodes."""
    found = []
    for value in np.unique(kind).tolist():
        has_b = b[kind == value] >= 0
        if has_b.any() and not has_b.all():
            checks.fail("tape", f"b of kind {value}", "-1 in all of its events, or in none", "both")
        found.append((value, bool(has_b.any())))
    return tuple(found)


def _count(kind: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many earlier events have the same kind, a and b."""
    order = np.lexsort((np.arange(len(a)), b, a, kind))
    same = (np.diff(kind[order]) == 0) & (np.diff(a[order]) == 0) & (np.diff(b[order]) == 0)
    begins = np.flatnonzero(np.append(True, ~same))
    number = np.empty(len(a), np.int64)
    number[order] = np.arange(len(a)) - np.repeat(begins, np.diff(np.append(begins, len(a))))
    return number


def _integers(name: str, values: Any, length: int | None = None) -> np.ndarray:
    expected = "integers [M]" if length is None else f"integers [{length}]"
    array = checks.host("tape", name, values, expected)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (length is not None and len(array) != length):
        checks.fail("tape", name, expected, f"{array.dtype} {list(array.shape)}")
    return array.astype(np.int64)
