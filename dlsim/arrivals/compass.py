"""FedCompass' scheduler: clients get as many local steps as make them come back together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.arrivals.coefficients import STRUCTURE, Damping, check_damping, client_weights, polynomial
from dlsim.arrivals.jobs import JobRows, Jobs, Schedule
from dlsim.arrivals.pace import Pace

ARRIVAL, TIMER = 0, 1  # at one tick arrivals come first


class Settings(NamedTuple):
    min_steps: int
    max_steps: int
    latest_factor: float
    momentum: float
    first_steps: int
    damping: Damping
    weights: np.ndarray


@checks.typed
def compass(
    pace: Pace,
    *,
    min_steps: int = 20,
    max_steps: int = 100,
    latest_factor: float = 1.2,
    speed_momentum: float = 0.9,
    first_steps: int | None = None,
    staleness: Damping | None = None,
    weights: Any = None,
) -> Schedule:
    """FedCompass: the server guesses each client's speed, and gives it the number of steps that lets it arrive with others.

    Clients that are to arrive together are a group.  A group is aggregated when all its members are back, or at its latest
    time; who comes later waits in a buffer for the next aggregation, and has new work at once.  Each client's first work
    is applied alone.  Coefficients: p_i s(tau).

    Args:
      pace: of the clients; may be random.
      min_steps, max_steps: bounds of a client's local steps; structural.
      latest_factor: lambda, at least 1: a group's latest time is that of lambda times its work.
      speed_momentum: mu in (0, 1]: the weight of the newest measurement of a client's speed.
      first_steps: local steps of everyone's first job; default `min_steps` (the authors' code: `max_steps`).
      staleness: s; default `polynomial(0.5)`.
      weights: `[M]` importances p_i, normalised; default equal.
    Source: Li et al., FedCompass, ICLR 2024.  Departure from the authors' code, which raises stale updates,
      (1 + tau)^+a: here they are damped, as in the paper.
    """
    where = "compass"
    checks.instance(where, "pace", pace, Pace, "Use dlsim.arrivals.pace(M, seconds_per_step).")
    least = checks.integer(where, "min_steps", min_steps, 1)
    most = checks.integer(where, "max_steps", max_steps, 1)
    if least > most:
        checks.fail(where, "min_steps", f"at most max_steps ({most})", least)
    first = least if first_steps is None else checks.integer(where, "first_steps", first_steps, 1, most)
    for name, value in (("latest_factor", latest_factor), ("speed_momentum", speed_momentum)):
        checks.known(where, name, value, fix=STRUCTURE)
    checks.number(where, "latest_factor", latest_factor, 1.0)
    checks.number(where, "speed_momentum", speed_momentum, 0.0, 1.0, open_minimum=True)
    settings = Settings(
        min_steps=least,
        max_steps=most,
        latest_factor=float(latest_factor),
        momentum=float(speed_momentum),
        first_steps=first,
        damping=polynomial(0.5) if staleness is None else check_damping(where, staleness),
        weights=client_weights(where, weights, pace.num_clients),
    )
    return Schedule(
        where, pace.num_clients, lambda seed: _Server(pace, settings, seed).run(), None, "Li et al., ICLR 2024"
    )


class _Group:
    def __init__(self, name: int, expected: float, latest: float) -> None:
        self.name, self.expected, self.latest = name, expected, latest
        self.waiting: set[int] = set()
        self.arrived: list[int] = []


class _Work(NamedTuple):
    """A job that is back and not yet used."""

    client: int
    number: int
    num_steps: int
    version: int
    start: int
    finish: int
    group: int


class _Server:
    """One run of the schedule.  Times in ticks; expected times are real numbers, since speeds are."""

    def __init__(self, pace: Pace, settings: Settings, seed: int) -> None:
        num = pace.num_clients
        self._set, self._times = settings, pace.stream(seed)
        self._rows = JobRows()
        self._events: list[tuple[int, int, int]] = []  # time, ARRIVAL or TIMER, client or group
        self._groups: dict[int, _Group] = {}
        self._next_group = 0
        self._late: list[_Work] = []  # the general buffer
        self._version = 0
        self._speed = [0.0] * num  # ticks a step; 0: not known yet
        self._steps, self._start, self._begun, self._count = [0] * num, [0] * num, [0] * num, [0] * num
        self._group_of: list[int | None] = [None] * num
        self._back: dict[int, _Work] = {}
        for i in range(num):
            self._send(i, 0, settings.first_steps)

    def run(self) -> Iterator[Jobs]:
        while True:
            now, kind, who = heapq.heappop(self._events)
            if kind == ARRIVAL:
                self._arrives(who, now)
            elif who in self._groups and self._groups[who].arrived:
                self._aggregate(self._groups[who], now)
            if self._rows.is_full:
                yield self._rows.take()

    def _send(self, i: int, now: int, num_steps: int) -> None:
        self._steps[i], self._start[i], self._begun[i] = num_steps, now, self._version
        heapq.heappush(self._events, (now + self._times.ticks(i, num_steps), ARRIVAL, i))

    def _arrives(self, i: int, now: int) -> None:
        measured = (now - self._start[i]) / self._steps[i]
        momentum = self._set.momentum
        self._speed[i] = (1 - momentum) * self._speed[i] + momentum * measured if self._speed[i] else measured
        name = self._group_of[i]
        work = _Work(
            i, self._count[i], self._steps[i], self._begun[i], self._start[i], now, -1 if name is None else name
        )
        self._count[i] += 1
        if name is None:
            self._use(work, now, is_direct=True, is_last=True)
            self._version += 1
            self._assign(i, now)
            return
        group = self._groups[name]
        group.waiting.discard(i)
        if now > group.latest:
            self._late.append(work)
            self._forget(group)
            self._assign(i, now)
            return
        group.arrived.append(i)
        self._back[i] = work
        if not group.waiting:
            self._aggregate(group, now)

    def _use(self, work: _Work, now: int, *, is_last: bool, is_direct: bool = False) -> None:
        stale = self._version - work.version
        coefficient = float(self._set.weights[work.client]) * self._set.damping(stale)
        self._rows.add(
            work.client,
            work.number,
            work.num_steps,
            work.version,
            stale,
            coefficient,
            work.start,
            work.finish,
            now,
            is_last=is_last,
            is_direct=is_direct,
            group=work.group,
        )

    def _aggregate(self, group: _Group, now: int) -> None:
        members = group.arrived
        used = [*self._late, *(self._back.pop(i) for i in members)]
        for place, work in enumerate(used):
            self._use(work, now, is_last=place == len(used) - 1)
        self._late = []
        self._version += 1
        group.arrived, group.expected, group.latest = [], 0.0, 0.0  # closed
        for i in sorted(members, key=lambda i: (self._speed[i], i)):
            self._assign(i, now)
        self._forget(group)

    def _forget(self, group: _Group) -> None:
        if not group.waiting and not group.arrived:
            self._groups.pop(group.name, None)

    def _assign(self, i: int, now: int) -> None:
        """Join the group that leaves most steps, or make one that meets another at the end of its next round."""
        speed, least, most = self._speed[i], self._set.min_steps, self._set.max_steps
        best, joined = -1, None
        for group in self._groups.values():
            steps = _floor((group.expected - now) / speed)
            if least <= steps <= most and steps >= best:
                best, joined = steps, group
        if joined is None:
            best = self._new_steps(now, speed)
            # A measured speed is off by up to half a tick a step, and the work's own time is a whole number of ticks.
            latest = now + self._set.latest_factor * best * speed + best / 2 + 1
            joined = _Group(self._next_group, now + best * speed, latest)
            self._groups[joined.name] = joined
            self._next_group += 1
            heapq.heappush(self._events, (math.ceil(latest), TIMER, joined.name))
        joined.waiting.add(i)
        self._group_of[i] = joined.name
        self._send(i, now, best)

    def _new_steps(self, now: int, speed: float) -> int:
        """As many as meet the end of another group's next round, or the most there are."""
        most = self._set.max_steps
        kept = -1
        for group in self._groups.values():
            if now >= group.latest:
                continue
            fastest = min(self._speed[j] for j in [*group.waiting, *group.arrived])
            steps = _floor((group.latest + fastest * most - now) / speed)
            if steps <= most:
                kept = max(kept, steps)
        if kept < 0:
            return most
        return max(kept, self._set.min_steps)


def _floor(steps: float) -> int:
    # Ticks are whole and speeds are not: what is within a millionth of a whole step is one.
    return math.floor(steps + 1e-6)
