"""Schedules that are others in a limit, pieces of any size, and how fast they are made."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import pytest

from dlsim import arrivals
from dlsim.arrivals import Jobs, Schedule, first_jobs, participation
from dlsim.arrivals.jobs import JobRows

FIELDS = [field.name for field in dataclasses.fields(Jobs)]
EQUAL = arrivals.pace(6, 0.1)
RANDOM = arrivals.pace(6, np.linspace(0.05, 0.2, 6), 0.01, sigma=0.5)


def assert_equal(a: Jobs, b: Jobs, without: tuple[str, ...] = ()) -> None:
    for name in FIELDS:
        if name not in without:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.filterwarnings("ignore:fixed_window")
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_equal_clients_in_parts_of_their_time_are_rounds_with_a_larger_weight(parts: int) -> None:
    # Windows of a part of the time: all come in the last of them, weighted by the number of parts.
    pace = arrivals.pace(6, 0.0, 1.0)
    rounds = first_jobs(arrivals.synchronous(pace, 4), 60)
    windows = first_jobs(arrivals.fixed_window(pace, 4, 1 / parts), 60)
    np.testing.assert_allclose(windows.coefficient, parts * rounds.coefficient, rtol=1e-15)
    # A fifth of a second is no whole number of ticks, and five of them not quite a second.
    np.testing.assert_allclose(windows.use, rounds.use, atol=parts * 10)
    assert_equal(windows, rounds, without=("coefficient", "start", "finish", "use"))


def test_the_first_cycle_of_single_arrivals_is_a_round_with_rate_m() -> None:
    jobs = first_jobs(arrivals.next_arrival(EQUAL, 4, debias=True), 24)
    np.testing.assert_allclose(jobs.coefficient, 1.0)  # p_i M
    np.testing.assert_array_equal(jobs.start_version[:6], 0)
    np.testing.assert_array_equal(jobs.client, np.tile(np.arange(6), 4))
    np.testing.assert_array_equal(jobs.staleness[6:], 5)  # all others in between, and so for ever


def test_one_client_is_the_same_in_every_schedule() -> None:
    pace = arrivals.pace(1, 0.1, sigma=0.4)
    rounds = first_jobs(arrivals.synchronous(pace, 5), 30)
    assert (rounds.staleness == 0).all()
    assert_equal(first_jobs(arrivals.next_arrival(pace, 5), 30), rounds)
    for restart in ("arrival", "aggregation"):
        assert_equal(first_jobs(arrivals.buffered(pace, 5, 1, restart=restart), 30), rounds)
    assert_equal(first_jobs(arrivals.anarchic(pace, 5, 1, steps="fixed"), 30), rounds)
    still = arrivals.compass(pace, min_steps=5, max_steps=5, latest_factor=50.0)
    assert_equal(first_jobs(still, 30), rounds, without=("is_direct", "group"))


@pytest.mark.parametrize("size", [1, 4, 6])
@pytest.mark.parametrize("pace", [EQUAL, arrivals.pace(6, np.linspace(0.05, 0.2, 6))], ids=["equal", "spread"])
def test_anarchy_without_pauses_and_with_fixed_steps_is_a_buffer(pace: arrivals.Pace, size: int) -> None:
    # Who starts again at a tick sees all that others return at it, or only what came before: versions differ then.
    anarchic = first_jobs(arrivals.anarchic(pace, 4, size, steps="fixed"), 120)
    plain = first_jobs(arrivals.buffered(pace, 4, size), 120)
    assert_equal(anarchic, plain, without=("start_version", "staleness"))
    assert (anarchic.start_version >= plain.start_version).all()
    if size == 6 and pace is EQUAL:
        assert_equal(anarchic, first_jobs(arrivals.synchronous(pace, 4), 120))


def test_a_waiting_buffer_of_all_is_rounds_whatever_the_paces() -> None:
    rounds = first_jobs(arrivals.synchronous(RANDOM, 4), 120, seed=2)
    assert_equal(first_jobs(arrivals.buffered(RANDOM, 4, 6, restart="aggregation"), 120, seed=2), rounds)


def test_equal_speeds_and_one_number_of_steps_make_compass_rounds_to_the_tick() -> None:
    jobs = first_jobs(arrivals.compass(EQUAL, min_steps=4, max_steps=4), 66)
    rounds = first_jobs(arrivals.synchronous(EQUAL, 4), 66)
    # A round of single updates, then two groups at most until all are in one.
    settled = slice(12, 66)
    assert (jobs.staleness[settled] == 0).all()
    for name in ("client", "num_steps", "coefficient", "start", "finish", "use", "is_last"):
        np.testing.assert_array_equal(getattr(jobs, name)[settled], getattr(rounds, name)[settled], err_msg=name)


def test_who_arrives_at_the_latest_time_of_a_group_is_in_time() -> None:
    # Whole and half seconds a step, and no slack: whoever made a group arrives exactly then.
    for speeds in ([1.0, 1.5, 2.0, 4.0], [2.0], [1.0, 1.0, 3.0]):
        schedule = arrivals.compass(arrivals.pace(len(speeds), 0.25 * np.array(speeds)), latest_factor=1.0)
        jobs = first_jobs(schedule, 400)
        ends = np.flatnonzero(jobs.is_last)
        ended_by = jobs.group[ends[np.searchsorted(ends, np.arange(ends[-1] + 1))]]
        np.testing.assert_array_equal(jobs.group[: ends[-1] + 1], ended_by)  # nobody is left to another's aggregation
        assert (jobs.staleness[-50:] == 0).all()


def test_cohorts_are_drawn_uniformly_without_replacement() -> None:
    jobs = first_jobs(arrivals.synchronous(RANDOM, 4, weights=np.arange(1, 7), cohort_size=2), 12_000)
    pairs = np.sort(jobs.client.reshape(-1, 2), axis=1)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    counts = np.unique(pairs[:, 0] * 6 + pairs[:, 1], return_counts=True)[1]
    assert len(counts) == 15
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < 36.1  # of 14 degrees of freedom: exceeded once in a thousand
    share = (jobs.client + 1).reshape(-1, 2)
    np.testing.assert_allclose(jobs.coefficient.reshape(-1, 2), share / share.sum(1, keepdims=True))


def test_a_debiased_buffer_weighs_by_how_often_clients_take_part() -> None:
    pace, weights = arrivals.linear_speeds(5, 70), np.array([1.0, 2, 3, 2, 2]) / 10
    for restart in ("arrival", "aggregation"):
        schedule = arrivals.buffered(pace, 3, 2, restart=restart, weights=weights, debias=True)
        jobs = first_jobs(schedule, 30_000)
        given = np.zeros(5)
        given[jobs.client] = jobs.coefficient
        np.testing.assert_allclose(given * participation(jobs, 5), weights, rtol=0.01)


MAKERS: dict[str, Callable[[], Schedule]] = {
    "synchronous": lambda: arrivals.synchronous(RANDOM, 5),
    "cohorts": lambda: arrivals.synchronous(RANDOM, 5, cohort_size=3),
    "next arrival": lambda: arrivals.next_arrival(RANDOM, 5),
    "buffered": lambda: arrivals.buffered(RANDOM, 5, 3),
    "buffered, waiting": lambda: arrivals.buffered(RANDOM, 5, 3, restart="aggregation"),
    "fixed window": lambda: arrivals.fixed_window(RANDOM, 5, 0.3, debias=False),
    "compass": lambda: arrivals.compass(RANDOM, min_steps=4, max_steps=20, latest_factor=1.1),
    "anarchic": lambda: arrivals.anarchic(RANDOM, 5, 4, idle=0.3),
}


@pytest.mark.parametrize("name", MAKERS)
def test_jobs_are_the_same_in_pieces_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = MAKERS[name]()
    long = first_jobs(schedule, 600, seed=7)
    monkeypatch.setattr(JobRows.__init__, "__defaults__", (1,))
    assert len(next(schedule.jobs(7)).client) <= 10
    assert_equal(first_jobs(schedule, 600, seed=7), long)


LARGE = arrivals.pace(1000, np.random.default_rng(0).uniform(0.05, 0.2, 1000), sigma=0.3)
FAST: dict[str, Callable[[], Schedule]] = {
    "synchronous": lambda: arrivals.synchronous(LARGE, 10),
    "next arrival": lambda: arrivals.next_arrival(LARGE, 10, staleness=arrivals.polynomial(0.5)),
    "buffered": lambda: arrivals.buffered(LARGE, 10, 10),
    "fixed window": lambda: arrivals.fixed_window(LARGE, 10, 0.5, debias=False),
    "compass": lambda: arrivals.compass(LARGE),
    "anarchic": lambda: arrivals.anarchic(LARGE, 5, 10, idle=0.3),
}


@pytest.mark.parametrize("name", FAST)
def test_schedules_of_a_thousand_clients_are_quick(name: str) -> None:
    pieces = FAST[name]().jobs(0)
    next(pieces)
    rates = []
    for _ in range(3):
        start = time.process_time()
        num = sum(len(next(pieces).client) for _ in range(2))
        rates.append(num / (time.process_time() - start))
    assert max(rates) > 20_000  # of CPU time, which other work on the machine hardly moves: 100,000 or so
