"""Schedules: worked examples, conservation, and what reduces to what."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable

import jax
import numpy as np
import pytest

import dlsim
from dlsim import arrivals
from dlsim.arrivals import Jobs, Schedule, first_jobs

SECOND = 2**30


def rows(jobs: Jobs, *names: str) -> list[tuple[float, ...]]:
    return list(zip(*(getattr(jobs, name).tolist() for name in names), strict=True))


def equal(a: Jobs, b: Jobs, *, without: tuple[str, ...] = ()) -> None:
    for field in dataclasses.fields(Jobs):
        if field.name not in without:
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


SPREAD = arrivals.pace(7, np.linspace(0.05, 0.2, 7), 0.01)
RANDOM = arrivals.pace(7, np.linspace(0.05, 0.2, 7), 0.01, sigma=0.5)
MAKERS: dict[str, Callable[[], Schedule]] = {
    "synchronous": lambda: arrivals.synchronous(RANDOM, 5),
    "cohorts": lambda: arrivals.synchronous(RANDOM, 5, cohort_size=3),
    "next arrival": lambda: arrivals.next_arrival(RANDOM, 5, staleness=arrivals.polynomial(0.5)),
    "buffered": lambda: arrivals.buffered(RANDOM, 5, 3),
    "buffered, waiting": lambda: arrivals.buffered(RANDOM, 5, 3, restart="aggregation"),
    "fixed window": lambda: arrivals.fixed_window(SPREAD, 5, 0.3),
    "random window": lambda: arrivals.fixed_window(RANDOM, 5, 0.3, debias=False),
    "infinite window": lambda: arrivals.fixed_window(RANDOM, 5, math.inf),
    "compass": lambda: arrivals.compass(RANDOM, min_steps=4, max_steps=20, latest_factor=1.1),
    "anarchic": lambda: arrivals.anarchic(RANDOM, 5, 4, idle=0.3),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_job_is_used_once_and_starts_from_the_version_of_its_time(name: str) -> None:
    jobs = first_jobs(MAKERS[name](), 3000)
    made = np.cumsum(jobs.is_last) - jobs.is_last  # versions made before each job is used
    np.testing.assert_array_equal(jobs.staleness, made - jobs.start_version)
    assert (jobs.staleness >= 0).all()
    assert (jobs.start < jobs.finish).all()
    assert (jobs.finish <= jobs.use).all()
    assert (np.diff(jobs.use) >= 0).all()
    assert jobs.is_last[jobs.is_direct].all()
    when_made = np.concatenate([[0], jobs.use[jobs.is_last]])
    for client in range(7):
        own = jobs.client == client
        np.testing.assert_array_equal(jobs.number[own], np.arange(own.sum()))
        assert (jobs.start[own][1:] >= jobs.finish[own][:-1]).all()  # one job at a time
        # It starts from a version that exists then, and, unless it starts at that very tick, from the newest.
        begun, version = jobs.start[own], jobs.start_version[own]
        assert (when_made[version] <= begun).all()
        known = version + 1 < len(when_made)
        assert (when_made[version[known] + 1] >= begun[known]).all()


@pytest.mark.parametrize("name", MAKERS)
def test_a_schedule_depends_on_its_seed_alone(name: str) -> None:
    first, again, other = (first_jobs(MAKERS[name](), 500, seed) for seed in (3, 3, 4))
    equal(first, again)
    if name != "fixed window":
        assert not np.array_equal(first.use, other.use)


def test_compass_follows_the_worked_trace() -> None:
    schedule = arrivals.compass(arrivals.pace(4, np.array([1.0, 1.5, 2.0, 4.0])), first_steps=20)
    jobs = first_jobs(schedule, 20)
    found = rows(jobs, "client", "num_steps", "start_version", "staleness", "is_direct", "is_last", "group")
    use = (jobs.use / SECOND).tolist()
    singles = [(0, 20, 0, 0), (1, 20, 0, 1), (2, 20, 0, 2), (3, 20, 0, 3)]
    assert found[:4] == [(*one, True, True, -1) for one in singles]
    assert use[:4] == [20, 30, 40, 80]
    assert found[4:7] == [(0, 100, 1, 3, 0, 0, 0), (1, 60, 2, 2, 0, 0, 0), (2, 40, 3, 1, 0, 1, 0)]
    assert found[7] == (0, 100, 5, 0, 0, 1, 2)
    assert found[8:12] == [
        (0, 20, 6, 0, 0, 0, 1),
        (1, 80, 5, 1, 0, 0, 1),
        (2, 60, 5, 1, 0, 0, 1),
        (3, 40, 4, 2, 0, 1, 1),
    ]
    assert use[4:12] == [120, 120, 120, 220, 240, 240, 240, 240]
    for begin in (12, 16):  # from now on all come together, every 100 seconds
        group = sorted(found[begin : begin + 4])
        assert [one[:2] for one in group] == [(0, 100), (1, 66), (2, 50), (3, 25)]
        assert {one[3] for one in group} == {0}
    assert use[12:] == [340] * 4 + [440] * 4


def test_compass_with_one_number_of_steps_and_equal_speeds_makes_rounds() -> None:
    jobs = first_jobs(arrivals.compass(arrivals.pace(5, 1.0), min_steps=10, max_steps=10), 55)
    assert jobs.is_direct[:5].all()
    later = rows(jobs, "client", "num_steps", "staleness")[5:]
    rounds = [later[i : i + 5] for i in range(0, 50, 5)]
    assert all(sorted(one[0] for one in some) == [0, 1, 2, 3, 4] for some in rounds)
    assert all(one[2] == 0 for some in rounds[1:] for one in some)


def test_late_clients_of_compass_are_buffered_and_go_on() -> None:
    pace = arrivals.pace(6, 1.0, sigma=0.8)
    jobs = first_jobs(arrivals.compass(pace, latest_factor=1.0), 2000)
    waited = (jobs.use > jobs.finish) & ~jobs.is_direct
    assert waited.any()
    assert ((jobs.num_steps >= 20) & (jobs.num_steps <= 100)).all()


def test_fixed_window_follows_the_worked_example() -> None:
    # Times 1 and 1/2, windows of 1/2: {1}, {0, 1}, {1}, ...; d = (2/2, 1/2).
    schedule = arrivals.fixed_window(arrivals.pace(2, 0.0, np.array([1.0, 0.5])), 1, 0.5)
    jobs = first_jobs(schedule, 6)
    assert rows(jobs, "client", "coefficient") == [(1, 0.5), (0, 1.0), (1, 0.5), (1, 0.5), (0, 1.0), (1, 0.5)]
    assert (jobs.use / SECOND).tolist() == [0.5, 1, 1, 1.5, 2, 2]


def test_debiased_coefficients_give_every_client_its_share_of_time() -> None:
    pace = arrivals.linear_speeds(5, 70)
    weights = np.array([1.0, 2, 3, 2, 2])
    for schedule, tolerance in (
        (arrivals.next_arrival(pace, 3, weights=weights, debias=True), 0.01),
        (arrivals.fixed_window(pace, 3, 0.25, weights=weights), 0.01),
        (arrivals.buffered(pace, 3, 2, restart="aggregation", weights=weights, debias=True), 0.01),
        (arrivals.buffered(pace, 3, 2, weights=weights, debias=True), 0.01),
    ):
        jobs = first_jobs(schedule, 20_000)
        given = np.bincount(jobs.client, jobs.coefficient, 5)
        np.testing.assert_allclose(given / given.sum(), weights / 10, atol=tolerance)
    hand = first_jobs(arrivals.next_arrival(arrivals.pace(2, 0.0, np.array([1.0, 0.5])), 1, debias=True), 3)
    np.testing.assert_allclose(sorted(set(hand.coefficient)), [0.75, 1.5])


def test_windows_of_the_slowest_client_are_rounds() -> None:
    pace = arrivals.linear_speeds(6, 60)
    for window in (1.0, math.inf):
        equal(first_jobs(arrivals.fixed_window(pace, 4, window), 60), first_jobs(arrivals.synchronous(pace, 4), 60))


def test_a_buffer_of_all_equal_clients_makes_rounds() -> None:
    pace = arrivals.pace(6, 0.1)
    rounds = first_jobs(arrivals.synchronous(pace, 4), 60)
    equal(first_jobs(arrivals.buffered(pace, 4, 6, restart="aggregation"), 60), rounds)
    one = first_jobs(arrivals.buffered(pace, 4, 1, weights=np.ones(6)), 60)
    equal(one, first_jobs(arrivals.next_arrival(pace, 4), 60))


def test_anarchic_clients_choose_their_steps_and_pauses() -> None:
    idle = np.where(np.arange(7) < 3, 0.1, 10.0)
    jobs = first_jobs(arrivals.anarchic(arrivals.pace(7, 0.01), 5, 4, idle=idle), 8000)
    assert jobs.num_steps.min() == 1
    assert jobs.num_steps.max() == 9
    assert abs(jobs.num_steps.mean() - 5) < 0.1
    counts = np.bincount(jobs.client, minlength=7)
    assert counts[:3].min() > 10 * counts[3:].max()
    fixed = first_jobs(arrivals.anarchic(arrivals.pace(7, 0.01), 5, 4, steps="fixed"), 100)
    assert set(fixed.num_steps) == {5}


def test_damping() -> None:
    assert arrivals.polynomial(0.5)(3) == 0.5
    assert arrivals.constant()(100) == 1
    hinge = arrivals.hinge(2.0, 4.0)
    assert hinge(4) == 1
    assert hinge(6) == 1 / 5


def test_links_make_a_pace() -> None:
    from dlsim.networks import links

    made = arrivals.pace_from_links(
        links(2, latency=0.5, upload=1e3, download=2e3, compute=np.array([0.1, 0.2])), 8, 4e3, 2e3
    )
    np.testing.assert_allclose(made.overhead, 1 + 2 + 2)
    np.testing.assert_allclose(made.seconds_per_step, [0.8, 1.6], rtol=1e-6)


BAD = {
    "pace: overhead must be finite": lambda: arrivals.pace(3, 0.1, math.nan),
    "pace: seconds_per_step must be above 0 for every client, got 0 for client 1": lambda: arrivals.pace(
        2, np.array([1.0, 0.0])
    ),
    "pace: seconds_per_step must be a number, or one for each of 3": lambda: arrivals.pace(3, np.ones(2)),
    "linear_speeds: percent must be": lambda: arrivals.linear_speeds(3, 100),
    "compass: min_steps must be at most max_steps": lambda: arrivals.compass(SPREAD, min_steps=30, max_steps=20),
    "compass: latest_factor must be": lambda: arrivals.compass(SPREAD, latest_factor=0.9),
    "compass: speed_momentum must be": lambda: arrivals.compass(SPREAD, speed_momentum=0.0),
    "buffered: buffer_size must be": lambda: arrivals.buffered(SPREAD, 3, 8),
    "buffered: restart must be": lambda: arrivals.buffered(SPREAD, 3, 2, restart="never"),
    "synchronous: cohort_size must be": lambda: arrivals.synchronous(SPREAD, 3, cohort_size=0),
    "synchronous: weights must be one for each of 7": lambda: arrivals.synchronous(SPREAD, 3, weights=np.ones(3)),
    "synchronous: weights must be finite": lambda: arrivals.synchronous(SPREAD, 3, weights=-np.ones(7)),
    "synchronous: weights must be finite, at least 0, and not all 0, got [1.e+308": lambda: arrivals.synchronous(
        SPREAD, 3, weights=np.full(7, 1e308)
    ),
    "fixed_window: window must be at most the slowest": lambda: arrivals.fixed_window(SPREAD, 3, 50.0),
    "fixed_window: window must be a number in (0, 1.34218e+08], got 0": lambda: arrivals.fixed_window(SPREAD, 3, 0.0),
    "fixed_window: debias must be False": lambda: arrivals.fixed_window(RANDOM, 3, 0.3),
    "next_arrival: num_steps must be": lambda: arrivals.next_arrival(SPREAD, 0),
    "next_arrival: pace must be": lambda: arrivals.next_arrival(1.0, 1),
    "next_arrival: staleness must be": lambda: arrivals.next_arrival(SPREAD, 1, staleness=0.5),
    "anarchic: idle must be in [0, 1.04858e+06], in seconds, got -1": lambda: arrivals.anarchic(
        SPREAD, 1, 1, idle=-np.ones(7)
    ),
    "anarchic: idle must be in [0, 1.04858e+06], in seconds, got 1e+12": lambda: arrivals.anarchic(
        SPREAD, 1, 1, idle=1e12
    ),
    "anarchic: idle must be a number, or one for each of 7": lambda: arrivals.anarchic(SPREAD, 1, 1, idle=np.ones(50)),
    "anarchic: idle must be numbers, got str": lambda: arrivals.anarchic(SPREAD, 1, 1, idle="long"),
    "anarchic: idle must be known numbers, got a tracer": lambda: jax.jit(
        lambda x: arrivals.anarchic(SPREAD, 1, 1, idle=x)
    )(1.0),
    "linear_speeds: percent must be a finite number, got 'all'": lambda: arrivals.linear_speeds(3, "all"),
    "pace: seconds_per_step must be numbers, got str": lambda: arrivals.pace(3, "fast"),
    "synchronous: weights must be numbers, got list": lambda: arrivals.synchronous(SPREAD, 3, weights=["a"] * 7),
    "fixed_window: window must be a finite number, got 'long'": lambda: arrivals.fixed_window(SPREAD, 3, "long"),
    "fixed_window: window must be a finite number, got nan": lambda: arrivals.fixed_window(SPREAD, 3, math.nan),
    "pace_from_links: links must be a Links": lambda: arrivals.pace_from_links(3, 1, 1.0, 1.0),
    "pace_from_links: links and bits must be known, got a tracer": lambda: jax.jit(
        lambda x: arrivals.pace_from_links(dlsim.networks.links(3), 1, x, x)
    )(1.0),
    "polynomial: exponent must be": lambda: arrivals.polynomial(-1.0),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        BAD[line]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "is_warned"),
    [
        ([2, 2], False),
        ([3, 3], True),
        ([2, 3], False),
        ([4, 5], True),
        ([4, 6], True),
        ([1, 9], False),
        ([10.5, 60], True),
    ],
)
def test_mostly_empty_windows_are_warned_of(seconds: list[float], is_warned: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        schedule = arrivals.fixed_window(arrivals.pace(2, 0.0, np.array(seconds)), 1, 1.0)
    jobs = first_jobs(schedule, 2000)
    used = len(np.unique(jobs.use)) / (jobs.use[-1] / SECOND)
    assert (used < 0.499) == is_warned
    assert [str(one.message).startswith("fixed_window: most windows") for one in caught] == [True] * is_warned


@pytest.mark.filterwarnings("ignore:fixed_window")
@pytest.mark.parametrize("seconds", [1.0, 0.3, 0.7, 0.9, 1e-3, 40.0])
@pytest.mark.parametrize("parts", range(1, 11))
def test_windows_of_a_part_of_the_time_are_as_many_as_parts(seconds: float, parts: int) -> None:
    schedule = arrivals.fixed_window(arrivals.pace(3, 0.0, seconds), 1, seconds / parts)
    jobs = first_jobs(schedule, 9)
    np.testing.assert_allclose(jobs.coefficient, parts / 3)
    np.testing.assert_allclose(jobs.use[::3] / SECOND, seconds * np.arange(1, 4), rtol=0, atol=4 * parts / SECOND)
    assert (jobs.staleness == 0).all()


def test_nobody_is_late_at_fixed_speeds() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        speeds = rng.uniform(1, 4, 5) * 10 ** rng.uniform(-3, 0)
        jobs = first_jobs(arrivals.compass(arrivals.pace(5, speeds), latest_factor=1.0), 600)
        ends = np.flatnonzero(jobs.is_last)
        place = np.searchsorted(ends, np.arange(ends[-1] + 1))
        np.testing.assert_array_equal(jobs.group[: ends[-1] + 1], jobs.group[ends[place]])
