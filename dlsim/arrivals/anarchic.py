"""Clients that do as they please: when to return, how much to do, how long to stay away."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.arrivals.coefficients import known_numbers
from dlsim.arrivals.jobs import JobRows, Jobs, Schedule
from dlsim.arrivals.pace import Pace, generator
from dlsim.clocks.clocks import TICKS_PER_SECOND

STEPS = ("fixed", "uniform")
LONGEST_MEAN = 2.0**20  # seconds of a pause (12 days): even a pause many times as long leaves room in the clock


@checks.typed
def anarchic(
    pace: Pace,
    num_steps: int,
    buffer_size: int,
    *,
    steps: str = "uniform",
    idle: Any = 0.0,
) -> Schedule:
    """An aggregation whenever `buffer_size` returns are in; clients choose their local steps and their pauses.

    Every coefficient is 1/m.  A fast client may be in one aggregation more than once.

    Args:
      pace: of the clients.
      num_steps: Kbar, the mean number of local steps; structural.
      buffer_size: m, at least 1; structural.
      steps: `"fixed"`: Kbar always; `"uniform"`: 1 to 2 Kbar - 1, drawn for every job.
      idle: mean seconds that a client stays away between two jobs, exponential, a number or `[M]`; clients with a long
        mean return seldom, which is how arrivals are skewed.
    Source: Yang, Zhang, Khanduri, Liu, Anarchic federated learning, ICML 2022.
    """
    where = "anarchic"
    checks.instance(where, "pace", pace, Pace, "Use dlsim.arrivals.pace(M, seconds_per_step).")
    mean = checks.integer(where, "num_steps", num_steps, 1)
    size = checks.integer(where, "buffer_size", buffer_size, 1)
    checks.one_of(where, "steps", steps, STEPS)
    away = known_numbers(where, "idle", idle)
    if away.shape not in ((), (pace.num_clients,)):
        checks.fail(
            where, "idle", f"a number, or one for each of {pace.num_clients} clients", f"shape {list(away.shape)}"
        )
    bad = ~((away >= 0) & (away <= LONGEST_MEAN))
    if bad.any():
        rule = f"in [0, {LONGEST_MEAN:g}], in seconds"
        checks.fail(where, "idle", rule, f"{float(away.ravel()[np.argmax(bad.ravel())]):g}")
    away = np.broadcast_to(away, (pace.num_clients,)).tolist()

    def jobs(seed: int) -> Iterator[Jobs]:
        times, rows, num = pace.stream(seed), JobRows(), pace.num_clients
        draws = [generator(seed, i, purpose=3) for i in range(num)]
        counts, version = [0] * num, 0
        coming: list[tuple[int, int, int, int, int, int]] = []  # time, 0 returns or 1 begins, client, start, version, Q

        def leave(i: int, now: int) -> None:
            pause = draws[i].exponential(away[i]) if away[i] else 0.0
            heapq.heappush(coming, (now + round(pause * TICKS_PER_SECOND), 1, i, 0, 0, 0))

        for i in range(num):
            leave(i, 0)
        held: list[tuple[int, int, int, int, int]] = []
        while True:
            now, begins, i, start, begun, steps_done = heapq.heappop(coming)
            if begins:
                chosen = mean if steps == "fixed" else int(draws[i].integers(1, 2 * mean))
                heapq.heappush(coming, (now + times.ticks(i, chosen), 0, i, now, version, chosen))
                continue
            held.append((now, i, start, begun, steps_done))
            leave(i, now)
            if len(held) == size:
                for place, (finish, j, start, begun, done) in enumerate(held):
                    row = (j, counts[j], done, begun, version - begun, 1 / size)
                    rows.add(*row, start, finish, now, is_last=place == size - 1)
                    counts[j] += 1
                held, version = [], version + 1
            if rows.is_full:
                yield rows.take()

    return Schedule(where, pace.num_clients, jobs, None, "Yang et al., ICML 2022", waits=False)
