"""Schedules in which clients take one number of local steps: rounds, single arrivals, buffers, fixed windows."""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.arrivals.coefficients import Damping, check_damping, client_weights
from dlsim.arrivals.jobs import JobRows, Jobs, Schedule
from dlsim.arrivals.pace import Pace, generator
from dlsim.clocks.clocks import LONGEST, TICKS_PER_SECOND

RESTARTS = ("arrival", "aggregation")
_FRABONI = "Fraboni et al., JMLR 2023"


def synchronous(pace: Pace, num_steps: int, *, weights: Any = None, cohort_size: int | None = None) -> Schedule:
    """FedAvg: a round ends when the slowest of its clients is back; all of them, or a cohort drawn for each round.

    Coefficients: p_i over the sum of the cohort's.

    Args:
      pace: of the clients.
      num_steps: K, structural.
      weights: `[M]` importances, normalised; default equal.
      cohort_size: clients a round, drawn without replacement; default all.
    Source: McMahan et al., AISTATS 2017.
    """
    where = "synchronous"
    _check(where, pace, num_steps)
    share = client_weights(where, weights, pace.num_clients)
    size = pace.num_clients
    if cohort_size is not None:
        size = checks.integer(where, "cohort_size", cohort_size, 1, pace.num_clients)

    def jobs(seed: int) -> Iterator[Jobs]:
        times, rows = pace.stream(seed), JobRows()
        draws = generator(seed, pace.num_clients, purpose=2)
        counts = [0] * pace.num_clients
        version = now = 0
        while True:
            cohort = range(pace.num_clients)
            if size < pace.num_clients:
                cohort = np.sort(draws.choice(pace.num_clients, size, replace=False)).tolist()
            back = sorted((now + times.ticks(i, num_steps), i) for i in cohort)
            end = back[-1][0]
            total = 1.0 if size == pace.num_clients else float(share[list(cohort)].sum())
            if total == 0:
                checks.fail(where, "weights", "above 0 for some client of every cohort", "0 for all of one")
            for place, (finish, i) in enumerate(back):
                last = place == size - 1
                rows.add(i, counts[i], num_steps, version, 0, share[i] / total, now, finish, end, is_last=last)
                counts[i] += 1
            now, version = end, version + 1
            if rows.is_full:
                yield rows.take()

    return Schedule(where, pace.num_clients, jobs, 1, "McMahan et al., AISTATS 2017")


@checks.typed
def next_arrival(
    pace: Pace, num_steps: int, *, weights: Any = None, staleness: Damping | None = None, debias: bool = False
) -> Schedule:
    """FedAsync: every arrival is an aggregation, and the client starts again at once from the new version.

    Coefficients: c_i = p_i s(tau), or with `debias` d_i = p_i T_i sum_j 1/T_j, with which every client moves the model
    in proportion to p_i although the fast ones come more often.

    Args:
      pace: of the clients; of fixed times for `debias`.
      num_steps: K, structural.
      weights: `[M]` importances, normalised; default equal.  For the weight 1 of plain FedAsync, give the server rate M.
      staleness: how staleness damps, e.g. `polynomial(0.5)`; default not at all.
      debias: see above; damping by staleness, which is not alike for all clients, is not made up for.
    Source: Xie, Koyejo, Gupta, OPT 2020; the coefficients d_i: Fraboni et al., JMLR 2023.
    """
    where = "next_arrival"
    _check(where, pace, num_steps)
    share = client_weights(where, weights, pace.num_clients)
    if debias:
        taken = _fixed(where, pace, num_steps, "debias").astype(np.float64)
        share = share * taken * np.sum(1 / taken)
    return _buffered(where, pace, num_steps, 1, "arrival", share, check_damping(where, staleness), "OPT 2020")


@checks.typed
def buffered(
    pace: Pace,
    num_steps: int,
    buffer_size: int,
    *,
    restart: str = "arrival",
    weights: Any = None,
    staleness: Damping | None = None,
    debias: bool = False,
) -> Schedule:
    """FedBuff: an aggregation whenever `buffer_size` clients are back.

    Coefficients: s(tau)/c, or p_i s(tau) where `weights` are given; with `debias` p_i over the share of aggregations that
    client i takes part in, as counted over a long run of the schedule.

    Args:
      pace: of the clients.
      num_steps: K, structural.
      buffer_size: c, from 1 to M; structural.
      restart: `"arrival"`: a client starts again at once, from the version there is; `"aggregation"`: it waits until what
        it brought is used, and starts from the new version.
      weights, staleness: see `next_arrival`.
      debias: see above; damping by staleness, which is not alike for all clients, is not made up for.
    Source: Nguyen et al., Federated learning with buffered asynchronous aggregation, AISTATS 2022 ("arrival");
      Fraboni et al., JMLR 2023 ("aggregation", debias).
    """
    where = "buffered"
    _check(where, pace, num_steps)
    size = checks.integer(where, "buffer_size", buffer_size, 1, pace.num_clients)
    checks.one_of(where, "restart", restart, RESTARTS)
    damping = check_damping(where, staleness)
    share = client_weights(where, weights, pace.num_clients)
    if debias:
        flat = np.ones(pace.num_clients)
        counted = _buffered(where, pace, num_steps, size, restart, flat, damping, "")
        share = share / _frequency(counted)
    elif weights is None:
        share = np.full(pace.num_clients, 1 / size)
    return _buffered(where, pace, num_steps, size, restart, share, damping, "Nguyen et al., AISTATS 2022")


def _buffered(
    where: str, pace: Pace, num_steps: int, size: int, restart: str, share: np.ndarray, damping: Damping, source: str
) -> Schedule:
    waits = restart == "aggregation"

    def jobs(seed: int) -> Iterator[Jobs]:
        times, rows, num = pace.stream(seed), JobRows(), pace.num_clients
        under_way = [(times.ticks(i, num_steps), i, 0, 0) for i in range(num)]  # finish, client, start, version
        heapq.heapify(under_way)
        counts, version = [0] * num, 0
        held: list[tuple[int, int, int, int]] = []
        while True:
            job = heapq.heappop(under_way)
            held.append(job)
            now, full = job[0], len(held) == size
            if full:
                for place, (finish, i, start, begun) in enumerate(held):
                    stale = version - begun
                    coefficient = float(share[i]) * damping(stale)
                    last = place == size - 1
                    rows.add(i, counts[i], num_steps, begun, stale, coefficient, start, finish, now, is_last=last)
                    counts[i] += 1
                version += 1
            freed = ([other[1] for other in held] if full else []) if waits else [job[1]]
            held = [] if full else held
            for i in freed:
                heapq.heappush(under_way, (now + times.ticks(i, num_steps), i, now, version))
            if rows.is_full:
                yield rows.take()

    return Schedule(where, pace.num_clients, jobs, None, source)


@checks.typed
def fixed_window(pace: Pace, num_steps: int, window: float, *, weights: Any = None, debias: bool = True) -> Schedule:
    """FedFix: an aggregation every `window` seconds, of whoever is back; a client waits for it and starts anew from there.

    Coefficients: d_i = p_i ceil(T_i / window), the windows that client i takes, so that all move the model in proportion
    to p_i; p_i without `debias`.  Windows in which nobody came make no version.

    Args:
      pace: of the clients; of fixed times for `debias`.
      num_steps: K, structural.
      window: seconds, above 0 and at most the slowest client's time, with which this is FedAvg; or `math.inf`: each
        aggregation waits for all clients, which is FedAvg too.
      weights: `[M]` importances, normalised; default equal.
      debias: see above.
    Source: Fraboni, Vidal, Kameni, Lorenzi, JMLR 2023.
    """
    where = "fixed_window"
    _check(where, pace, num_steps)
    share = client_weights(where, weights, pace.num_clients)
    typical = pace.ticks(num_steps)
    checks.known(where, "window", window, "a known number of seconds above 0")
    if isinstance(window, float) and window == math.inf:
        return synchronous(pace, num_steps, weights=weights)._replace(name=where, source=_FRABONI)
    checks.number(where, "window", window, 0.0, LONGEST / TICKS_PER_SECOND, open_minimum=True)
    # Up to a whole tick: a window of T/s rounded down would leave s of them a tick short of T, and the client out.
    ticks = max(1, math.ceil(float(window) * TICKS_PER_SECOND))
    if ticks == typical.max() + 1:
        ticks -= 1  # the slowest client's own time, which was rounded down
    if ticks > typical.max() and pace.is_fixed:
        slowest = float(typical.max()) / TICKS_PER_SECOND
        fix = "With the slowest client's time, or math.inf, it is FedAvg."
        checks.fail(where, "window", f"at most the slowest client's {slowest:g} s", f"{window:g}", fix)
    windows = -(-typical // ticks)
    if debias:
        share = share * -(-_fixed(where, pace, num_steps, "debias") // ticks)
    if pace.is_fixed and _used_share(windows) < 0.5:
        warnings.warn(f"{where}: most windows of {window:g} s are empty; nobody is back that soon.", stacklevel=2)

    def jobs(seed: int) -> Iterator[Jobs]:
        times, rows, num = pace.stream(seed), JobRows(), pace.num_clients
        start, version = np.zeros(num, np.int64), np.zeros(num, np.int64)
        finish = np.array([times.ticks(i, num_steps) for i in range(num)], np.int64)
        counts, made = [0] * num, 0
        while True:
            now = max(1, -(-int(finish.min()) // ticks)) * ticks
            back = np.flatnonzero(finish <= now)
            back = back[np.lexsort((back, finish[back]))].tolist()
            for i in back:
                stale = made - int(version[i])
                numbers = (counts[i], num_steps, int(version[i]), stale, float(share[i]))
                rows.add(i, *numbers, int(start[i]), int(finish[i]), now, is_last=i == back[-1])
                counts[i] += 1
            made += 1
            for i in back:
                start[i], version[i], finish[i] = now, made, now + times.ticks(i, num_steps)
            if rows.is_full:
                yield rows.take()

    most = int(windows.max()) if pace.is_fixed else None
    return Schedule(where, pace.num_clients, jobs, most, _FRABONI)


def _used_share(windows: np.ndarray, horizon: int = 2**16) -> float:
    """The share of windows in which somebody is back, where client i is after every `windows[i]`."""
    periods = np.unique(windows)
    if periods[0] * 2 > horizon:  # so rare that no count is needed, unless very many differ
        return float(np.sum(1 / periods))
    span = min(math.lcm(*periods.tolist()), horizon)
    is_used = np.zeros(span, bool)
    for period in periods.tolist():
        is_used[period - 1 :: period] = True
    return float(is_used.mean())


def _frequency(schedule: Schedule, cycles: int = 200) -> np.ndarray:
    """The share of aggregations each client takes part in, over at least so many jobs of every client."""
    counts, aggregations = np.zeros(schedule.num_clients, np.int64), 0
    for piece in schedule.jobs(0):
        counts += np.bincount(piece.client, minlength=schedule.num_clients)
        aggregations += int(piece.is_last.sum())
        if counts.min() >= cycles:
            break
    return counts / aggregations


def _fixed(where: str, pace: Pace, num_steps: int, name: str) -> np.ndarray:
    if not pace.is_fixed:
        checks.fail(where, name, "False where times are random", "True", "The coefficients need known times.")
    return pace.ticks(num_steps)


def _check(where: str, pace: Any, num_steps: Any) -> None:
    checks.instance(where, "pace", pace, Pace, "Use dlsim.arrivals.pace(M, seconds_per_step).")
    checks.integer(where, "num_steps", num_steps, 1)
