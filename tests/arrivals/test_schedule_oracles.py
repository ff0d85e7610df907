"""Schedules against plain event loops written from the papers, in exact fractions where the paper has real numbers."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest

from dlsim import arrivals
from dlsim.arrivals import Pace, first_jobs

SECOND = 2**30
NUDGE = Fraction(1, 10**6)  # of a step: measured speeds are whole ticks over whole steps


class Used(NamedTuple):
    client: int
    num_steps: int
    start_version: int
    staleness: int
    is_direct: bool
    start: int
    finish: int
    use: int


class Ward(NamedTuple):
    """A group of FedCompass: the members under way, those back, and when they are expected."""

    waiting: set[int]
    back: list[int]
    times: list[Fraction]  # expected, latest


def plain_compass(pace: Pace, least: int, most: int, factor: float, momentum: float, num: int, seed: int) -> list[Any]:
    """Aggregations, lists of `Used`; a dictionary of everything a client is at, and a list of all that will happen."""
    # 1.05 is meant as 21/20, not as the float a little above it, which moves a timer by a tick.
    times, scale, new = pace.stream(seed), Fraction(str(factor)), Fraction(str(momentum))
    version, made = 0, 0
    speed: dict[int, Fraction] = {}
    at: dict[int, tuple[int, int, int]] = {}  # steps, start, version
    group_of: dict[int, int] = {}
    groups: dict[int, Ward] = {}
    late: list[tuple[int, int, int, int, int]] = []
    back: dict[int, tuple[int, int, int, int, int]] = {}
    coming: list[tuple[Fraction, int, int]] = []
    out: list[list[Used]] = []

    def send(i: int, now: int, steps: int) -> None:
        at[i] = (steps, now, version)
        heapq.heappush(coming, (Fraction(now + times.ticks(i, steps)), 0, i))

    def assign(i: int, now: int) -> None:
        nonlocal made
        joins = [(math.floor((g.times[0] - now) / speed[i] + NUDGE), name) for name, g in groups.items()]
        joins = [(q, name) for q, name in joins if least <= q <= most]
        if joins:
            steps, name = max(joins)
        else:
            kept = []
            for g in groups.values():
                if now < g.times[1]:
                    fastest = min(speed[j] for j in g.waiting | set(g.back))
                    kept.append(math.floor((g.times[1] + fastest * most - now) / speed[i] + NUDGE))
            kept = [q for q in kept if q <= most]
            steps = max(max(kept), least) if kept else most
            name, made = made, made + 1
            groups[name] = Ward(
                set(), [], [now + steps * speed[i], now + scale * steps * speed[i] + Fraction(steps, 2) + 1]
            )
            heapq.heappush(coming, (groups[name].times[1], 1, name))
        groups[name].waiting.add(i)
        group_of[i] = name
        send(i, now, steps)

    def aggregate(name: int, now: int) -> None:
        nonlocal version
        group = groups[name]
        members = group.back.copy()
        used = late + [back[i] for i in members]
        out.append([Used(i, q, v, version - v, False, s, f, now) for i, q, v, s, f in used])
        late.clear()
        group.back.clear()
        group.times[:] = [Fraction(0), Fraction(0)]
        version += 1
        for i in sorted(members, key=lambda j: (speed[j], j)):
            assign(i, now)
        if not group.waiting:
            del groups[name]

    for i in range(pace.num_clients):
        send(i, 0, least)
    while sum(map(len, out)) < num:
        when, kind, who = heapq.heappop(coming)
        now = math.ceil(when)
        if kind == 1:
            if who in groups and groups[who].back:
                aggregate(who, now)
            continue
        steps, start, begun = at[who]
        measured = Fraction(now - start, steps)
        speed[who] = (1 - new) * speed[who] + new * measured if who in speed else measured
        if who not in group_of:
            out.append([Used(who, steps, begun, version - begun, True, start, now, now)])
            version += 1
            assign(who, now)
            continue
        name = group_of[who]
        group = groups[name]
        group.waiting.remove(who)
        if now > group.times[1]:
            if not group.waiting and not group.back:
                del groups[name]
            late.append((who, steps, begun, start, now))
            assign(who, now)
        else:
            group.back.append(who)
            back[who] = (who, steps, begun, start, now)
            if not group.waiting:
                aggregate(name, now)
    return out


def aggregations(schedule: arrivals.Schedule, num: int, seed: int) -> list[set[Used]]:
    """The whole ones among the first `num` jobs, each as a set: the order within one does not matter here."""
    jobs = first_jobs(schedule, num, seed)
    columns = [getattr(jobs, name).tolist() for name in Used._fields]
    out, begin = [], 0
    for end in (np.flatnonzero(jobs.is_last) + 1).tolist():
        out.append({Used(*(column[k] for column in columns)) for k in range(begin, end)})
        begin = end
    return out


@pytest.mark.parametrize("factor", [1.05, 1.2, 1.5])
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.6])
def test_compass_is_what_the_paper_says(sigma: float, factor: float) -> None:
    for seed in range(3):
        speeds = np.random.default_rng(seed).uniform(0.1, 0.9, 9)
        pace = arrivals.pace(9, speeds, 0.2, sigma=sigma)
        schedule = arrivals.compass(pace, min_steps=6, max_steps=30, latest_factor=factor, speed_momentum=0.75)
        found = aggregations(schedule, 1200, seed)
        expected = plain_compass(pace, 6, 30, factor, 0.75, 1200, seed)
        assert len(found) > 100
        assert found == [set(one) for one in expected[: len(found)]]
        if sigma == 0.6:  # some come late: they wait for an aggregation of others, at work on their next job
            used = [one for some in found for one in some]
            begun = {(one.client, one.start) for one in used}
            assert any(one.use > one.finish and (one.client, one.finish) in begun for one in used)


def plain_buffer(pace: Pace, size: int, waits: bool, num: int, seed: int) -> list[set[Used]]:
    """FedBuff, asking every client again and again; `size` 1 is FedAsync."""
    times, clients = pace.stream(seed), range(pace.num_clients)
    work = {i: (times.ticks(i, 4), 0, 0) for i in clients}  # finish, start, version
    version, held, out = 0, [], []
    while sum(map(len, out)) < num:
        i = min(work, key=lambda j: (work[j][0], j))
        finish, start, begun = work.pop(i)
        held.append((i, begun, start, finish))
        free = [] if waits else [i]
        if len(held) == size:
            out.append({Used(j, 4, v, version - v, False, s, f, finish) for j, v, s, f in held})
            free = [one[0] for one in held] if waits else free
            version, held = version + 1, []
        for j in free:
            work[j] = (finish + times.ticks(j, 4), finish, version)
    return out


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("restart", ["arrival", "aggregation"])
def test_buffers_are_what_the_papers_say(restart: str, size: int, sigma: float) -> None:
    # Whole and half seconds: many arrivals at one tick.
    pace = arrivals.pace(8, 0.0, np.array([1, 1, 1.5, 2, 2, 2.5, 3, 3.5]), sigma=sigma)
    found = aggregations(arrivals.buffered(pace, 4, size, restart=restart), 800, 5)
    expected = plain_buffer(pace, size, restart == "aggregation", 800, 5)
    assert found == expected[: len(found)]
    assert len(found) >= 800 // size
    if size == 1 and restart == "arrival":
        assert aggregations(arrivals.next_arrival(pace, 4), 800, 5) == found


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_windows_are_what_the_paper_says(sigma: float) -> None:
    seconds = np.array([0.2, 0.3, 0.45, 0.8, 1.0])
    pace, ticks = arrivals.pace(5, 0.0, seconds, sigma=sigma), SECOND // 5
    found = aggregations(arrivals.fixed_window(pace, 4, 0.2, debias=False), 600, 2)
    times = pace.stream(2)
    work = [(times.ticks(i, 4), 0, 0) for i in range(5)]
    version, now, expected = 0, 0, []
    width = ticks + 1  # 0.2 s is no whole number of ticks: the next, into which 0.2 s of work fit
    while len(expected) < len(found):
        now += width
        back = [i for i in range(5) if work[i][0] <= now]
        if back:
            expected.append({Used(i, 4, work[i][2], version - work[i][2], False, *work[i][1::-1], now) for i in back})
            version += 1
        for i in back:
            work[i] = (now + times.ticks(i, 4), now, version)
    assert found == expected
