"""Clocks: independent renewal processes that say when nodes and edges act.

Time is counted in ticks, int64 on the host, `TICKS_PER_SECOND` = 2^30 to a second: sums and comparisons are exact, and
seconds are derived from them.  A gap between two events of a clock depends on (key, clock id, event number) alone, and
times are sums of gaps, so the events up to T are the first of those up to 2T, whatever the blocks they were made in.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array

TICKS_PER_SECOND = 2**30  # a tick is 0.93 ns
LONGEST = 2**57  # ticks, 4.2 years: the sum of a time before it and a gap of NEVER fits in int64
NEVER = 2**61  # ticks, the longest gap
HIGHEST_RATE = float(2**20)  # events a second: a mean gap of 1024 ticks, so that whole ticks do not show
LOWEST_RATE = 1e-12
FARTHEST = float(2**32)  # seconds: in ticks they fit in int64
DRAWS = 2**20  # at a time: what fits in a cache


class GapsFn(Protocol):
    def __call__(self, words: np.ndarray, rows: np.ndarray, numbers: np.ndarray, /) -> np.ndarray: ...


class Clock(NamedTuple):
    """A renewal process for each of n nodes or edges.

    `gaps(words uint32 [2, L], rows [L], numbers [L]) -> int64 [L]`: ticks from event `number - 1` (or time 0) to event
    `number` of the clock in position `row`, given two random words of its own; at least 1, or 0 for event 0.
    """

    gaps: GapsFn
    rate: np.ndarray  # float64 [] or [n] expected events a second; says how many to draw at a time, nothing else
    size: int | None  # n that the parameters were given for; None: any
    is_random: bool


class Cursor(NamedTuple):
    """Where a stream of events stands."""

    words: np.ndarray  # uint32 [n, 2] the clocks' own keys
    numbers: np.ndarray  # int64 [n] events so far
    last: np.ndarray  # int64 [n] ticks of the last one, 0 before it


class ClockEvents(NamedTuple):
    """Events of clocks, each clock's in order."""

    rows: np.ndarray  # int32 [M] positions of the clocks
    ticks: np.ndarray  # int64 [M]
    numbers: np.ndarray  # int64 [M] of the event at its clock, from 0


def to_ticks(seconds: Any) -> np.ndarray:
    """Whole ticks nearest to a time in seconds, int64; times are within 2^32 seconds (136 years)."""
    checks.known("to_ticks", "seconds", seconds, "known numbers", "Clocks are made outside jit and vmap.")
    return _ticks(checks.array("to_ticks", "seconds", seconds, None, -FARTHEST, FARTHEST))


def to_seconds(ticks: Any) -> np.ndarray:
    """Seconds, float64: exact below 2^53 ticks (97 days)."""
    array = checks.host("to_seconds", "ticks", ticks, "whole numbers")
    if not np.issubdtype(array.dtype, np.integer):
        checks.fail("to_seconds", "ticks", "whole numbers", checks.describe(ticks), "Seconds become ticks by to_ticks.")
    return array.astype(np.int64) / TICKS_PER_SECOND


def _ticks(seconds: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(seconds, np.float64) * TICKS_PER_SECOND).astype(np.int64)


def poisson(rate: Any) -> Clock:
    """A Poisson process: exponential gaps.

    Args:
      rate: events a second, a number or one a clock, `[n]`; in [1e-12, 2^20].
    """
    rate = _parameter("poisson", "rate", rate, LOWEST_RATE, HIGHEST_RATE)
    mean = TICKS_PER_SECOND / rate

    def gaps(words: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return _whole(-np.log(uniform(words)) * _at(mean, rows))

    return Clock(gaps=gaps, rate=rate, size=_size("poisson", rate), is_random=True)


def deterministic(period: Any, phase: Any = None) -> Clock:
    """Events at `phase`, `phase + period`, `phase + 2 period`, ..., each rounded to a tick, so that none drifts.

    Args:
      period: seconds, a number or one a clock, `[n]`; in [2^-20, 1e8].
      phase: seconds until the first event, likewise, at least 0; default: one period.
    """
    period = _parameter("deterministic", "period", period, 1 / HIGHEST_RATE, 1e8)
    phase = period if phase is None else _parameter("deterministic", "phase", phase, 0.0, 1e8)

    def time(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.minimum(_at(phase, rows) + numbers * _at(period, rows), NEVER / TICKS_PER_SECOND)

    def gaps(words: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        del words
        before = np.where(numbers > 0, _ticks(time(rows, numbers - 1)), 0)
        return np.maximum(_ticks(time(rows, numbers)) - before, numbers > 0)

    return Clock(gaps=gaps, rate=1 / period, size=_size("deterministic", period, phase), is_random=False)


def log_normal(median: Any, sigma: Any) -> Clock:
    """Independent gaps `median * exp(sigma * z)`, z standard normal: compute times with a heavy tail.

    Args:
      median: seconds, a number or one a clock, `[n]`; in [2^-20, 1e8].
      sigma: standard deviation of the logarithm, likewise, in [0, 5].  The mean gap is median * exp(sigma^2 / 2).
    """
    median = _parameter("log_normal", "median", median, 1 / HIGHEST_RATE, 1e8)
    sigma = _parameter("log_normal", "sigma", sigma, 0.0, 5.0)

    def gaps(words: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        from scipy.special import ndtri

        del numbers
        return _whole(np.exp(_at(sigma, rows) * ndtri(uniform(words))) * _at(median * TICKS_PER_SECOND, rows))

    rate = np.exp(-(sigma**2) / 2) / median
    return Clock(gaps=gaps, rate=rate, size=_size("log_normal", median, sigma), is_random=True)


def trace(times: Any) -> Clock:
    """Events at given times, for example measured ones; none after the last.

    Args:
      times: one sequence of seconds a clock, each strictly increasing and at least 0; it may be empty.
    """
    wanted = ("one sequence of seconds a clock", "E.g. [[0.5, 1.2]].")
    rows = []
    for index, row in enumerate(checks.sequence("trace", "times", times, *wanted)):
        made = checks.host("trace", f"times[{index}]", row, "a sequence of seconds")
        if made.ndim != 1 or (made.size and not checks.is_real_type(made.dtype)):
            checks.fail("trace", f"times[{index}]", "a sequence of seconds", checks.describe(row), wanted[1])
        rows.append(made.astype(np.float64))
    if not rows:
        checks.fail("trace", "times", wanted[0], "none", wanted[1])
    ticks = []
    for index, row in enumerate(rows):
        if not np.isfinite(row).all() or (len(row) and (row[0] < 0 or row[-1] * TICKS_PER_SECOND >= LONGEST)):
            checks.fail("trace", f"times[{index}]", "finite, at least 0 and below 2^27 seconds", _brief(row))
        ticks.append(_ticks(row))
        if (np.diff(ticks[-1]) <= 0).any():
            checks.fail("trace", f"times[{index}]", "strictly increasing (by a tick of 2^-30 s)", _brief(row))
    lengths = np.array([len(row) for row in ticks])
    starts = np.cumsum(lengths + 1) - (lengths + 1)
    # After its last event a clock waits for ever.
    flat = np.concatenate([np.append(np.diff(row, prepend=0), NEVER) for row in ticks]).astype(np.int64)

    def gaps(words: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        del words
        return flat[starts[rows] + np.minimum(numbers, lengths[rows])]

    ends = np.array([row[-1] if len(row) else 1.0 for row in rows])
    return Clock(gaps=gaps, rate=lengths / np.maximum(ends, 1e-9), size=len(rows), is_random=False)


@checks.typed
def cursor(clock: Clock, ids: Any, key: Array) -> Cursor:
    """The start of a stream.

    Args:
      clock: of any number of clocks, or of as many as there are ids.
      ids: what draws belong to: a number a clock, `[n]` (node ids), or two, `[n, 2]` (the node ids of an edge's ends).
      key: of the whole stream.
    """
    checks.known("cursor", "ids and key", (ids, key), "known values", "Draw events outside jit and vmap.")
    ids = checks.host("cursor", "ids", ids, "integers of shape [n] or [n, 2]")
    if not np.issubdtype(ids.dtype, np.integer) or ids.ndim not in (1, 2) or (ids.ndim == 2 and ids.shape[1] != 2):
        checks.fail("cursor", "ids", "integers of shape [n] or [n, 2]", f"{ids.dtype} {list(ids.shape)}")
    if clock.size not in (None, len(ids)):
        checks.fail(
            "cursor", "clock", f"for {len(ids)} clocks", f"one for {clock.size}", "Give one number, or one a clock."
        )
    if ids.ndim == 1:
        ids = np.stack([ids, np.full_like(ids, -1)], axis=1)  # as uint32 the last word, which is no node's id
    words = own_words(key, ids) if clock.is_random else np.zeros((len(ids), 2), np.uint32)
    zeros = np.zeros(len(ids), np.int64)
    return Cursor(words=words, numbers=zeros, last=zeros)


@checks.typed
def advance(clock: Clock, position: Cursor, stop: int) -> tuple[ClockEvents, Cursor]:
    """The events from where the stream stands to tick `stop` (exclusive), and where it stands then."""
    if not 0 <= stop <= LONGEST:
        checks.fail("advance", "stop", "in [0, 2^57] ticks (4.2 years)", stop)
    if clock.size not in (None, len(position.numbers)):
        got = f"one for {clock.size}"
        checks.fail("advance", "clock", f"for the {len(position.numbers)} clocks of the position", got)
    numbers, last = position.numbers.copy(), position.last.copy()
    rate = np.broadcast_to(clock.rate, numbers.shape)
    todo, hunger = np.arange(len(numbers), dtype=np.int32), np.ones(len(numbers))
    pieces: list[ClockEvents] = []
    while len(todo):
        expected = rate[todo] * ((stop - last[todo]) / TICKS_PER_SECOND)
        wanted = np.minimum(np.ceil(hunger[todo] * (expected + np.sqrt(expected))) + 1, DRAWS).astype(np.int64)
        num_now = max(1, int(np.searchsorted(np.cumsum(wanted), DRAWS, side="right")))
        now, wanted = todo[:num_now], wanted[:num_now]
        piece, kept = _draw(clock, now, wanted, position.words, numbers, last, stop)
        pieces.append(piece)
        hunger[now] *= 2  # tails that are heavier than the mean says are reached in few passes
        todo = np.concatenate([now[kept == wanted], todo[num_now:]])
    empty = np.zeros(0, np.int64)
    pieces = pieces or [ClockEvents(rows=empty.astype(np.int32), ticks=empty, numbers=empty)]
    events = ClockEvents(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))
    return events, Cursor(words=position.words, numbers=numbers, last=last)


@checks.typed
def events(clock: Clock, ids: Any, key: Array, start: float, stop: float) -> ClockEvents:
    """The events in [start, stop) seconds, each clock's in order.

    They are found from time 0 on, since a time is a sum of gaps: to go through a long horizon in blocks, use `cursor` and
    `advance`.

    Args:
      clock, ids, key: see `cursor`.
      start, stop: seconds, 0 <= start <= stop.
    """
    checks.known("events", "start and stop", (start, stop), "known numbers", "Draw events outside jit and vmap.")
    checks.number("events", "start", start, 0.0)
    checks.number("events", "stop", stop, float(start), LONGEST / TICKS_PER_SECOND)
    position = cursor(clock, ids, key)
    if start > 0:
        _, position = advance(clock, position, int(to_ticks(start)))
    return advance(clock, position, int(to_ticks(stop)))[0]


def key_words(key: Array) -> np.ndarray:
    """The two words that a key lends to the generator, uint32 `[2]` (see `dlsim.keys`)."""
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.random.key_data(key)).astype(np.uint32)[..., :2]


def own_words(key: Array, ids: np.ndarray) -> np.ndarray:
    """Two words, uint32 `[L, 2]`, that belong to a key and a pair of ids, `[L, 2]`: a key of each pair's own."""
    return _hash(key_words(key), ids.astype(np.uint32))


def draw_words(words: np.ndarray, numbers: np.ndarray, purpose: int = 0) -> np.ndarray:
    """Two random words, uint32 `[2, L]`, of each clock (`words [L, 2]`) for its event `numbers [L]`."""
    counters = np.stack([numbers.astype(np.uint32), np.full(len(numbers), purpose, np.uint32)], axis=1)
    return np.ascontiguousarray(_hash(words, counters).T)


def _draw(
    clock: Clock,
    now: np.ndarray,
    wanted: np.ndarray,
    words: np.ndarray,
    numbers: np.ndarray,
    last: np.ndarray,
    stop: int,
) -> tuple[ClockEvents, np.ndarray]:
    """Up to `wanted` events of each clock of `now` before `stop`; moves `numbers` and `last` on; how many there were."""
    begins = np.cumsum(wanted) - wanted
    rows = np.repeat(now, wanted)
    within = np.arange(len(rows)) - np.repeat(begins, wanted)
    event_numbers = numbers[rows] + within
    drawn = draw_words(words[rows], event_numbers) if clock.is_random else np.zeros((2, 0), np.uint32)
    gaps = clock.gaps(drawn, rows, event_numbers)
    # Differences of one running sum are exact modulo 2^64, and so up to the first event after `stop`.
    ticks = np.cumsum(gaps)
    ticks -= np.repeat(ticks[begins] - gaps[begins] - last[now], wanted)
    is_late = np.where((ticks >= stop) | (gaps >= NEVER), within, np.repeat(wanted, wanted))
    kept = np.minimum.reduceat(is_late, begins)
    numbers[now] += kept
    moved = kept > 0
    last[now[moved]] = ticks[(begins + kept - 1)[moved]]
    is_kept = within < np.repeat(kept, wanted)
    return ClockEvents(rows=rows[is_kept], ticks=ticks[is_kept], numbers=event_numbers[is_kept]), kept


@cache
def _generator() -> Any:
    from jax.extend.random import threefry_2x32

    return jax.jit(lambda keys, counters: jax.vmap(threefry_2x32)(keys, counters))


def _hash(words: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Threefry-2x32 of each counter `[L, 2]` under one key `[2]` or keys `[L, 2]`, on the CPU; uint32 `[L, 2]`."""
    length = len(counters)
    padded = 1 << max(10, (length - 1).bit_length())  # few lengths, few compilations
    words = np.broadcast_to(words, counters.shape)
    fill = ((0, padded - length), (0, 0))
    with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        drawn = _generator()(jnp.asarray(np.pad(words, fill)), jnp.asarray(np.pad(counters, fill)))
    return np.asarray(drawn)[:length]


def uniform(words: np.ndarray) -> np.ndarray:
    """Centres of 2^53 cells of (0, 1), float64."""
    high, low = words[0] >> np.uint32(5), words[1] >> np.uint32(6)
    return (high * 67108864.0 + low + 0.5) * 2.0**-53


def _whole(ticks: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(ticks), 1, NEVER).astype(np.int64)


def _at(value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return value if value.ndim == 0 else value[rows]


def _parameter(where: str, argument: str, value: Any, least: float, most: float) -> np.ndarray:
    """Finite numbers in [least, most], `[]` or `[n]`, float64; names the first bad one."""
    wanted = "a number, or one a clock [n]"
    array = checks.host(where, argument, value, wanted)
    if not checks.is_real_type(array.dtype) or array.ndim > 1 or array.size == 0:
        checks.fail(where, argument, wanted, checks.describe(value))
    array = array.astype(np.float64)
    bad = ~((array >= least) & (array <= most))
    if bad.any():
        index = int(np.argmax(bad)) if array.ndim else None
        name = argument if index is None else f"{argument}[{index}]"
        got = float(array) if index is None else float(array[index])
        checks.fail(where, name, f"a number in [{least:g}, {most:g}]", f"{got:g}")
    return array


def _size(where: str, *parameters: np.ndarray) -> int | None:
    """How many clocks the parameters are for."""
    sizes = {len(value) for value in parameters if value.ndim}
    if len(sizes) > 1:
        checks.fail(where, "parameters", "of one length", f"lengths {sorted(sizes)}")
    return sizes.pop() if sizes else None


def _brief(row: np.ndarray) -> str:
    return np.array2string(row, threshold=6, edgeitems=2, precision=9)
