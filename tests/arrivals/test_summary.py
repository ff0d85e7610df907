"""Summaries of jobs: counts by hand, and charts that show what they should."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from dlsim import arrivals
from dlsim.arrivals import Schedule, first_jobs, gantt, jobs_per_client, participation, staleness_histogram

COMPASS = arrivals.compass(arrivals.pace(4, np.array([1.0, 1.5, 2.0, 4.0])))  # the worked trace of test_schedules.py
TWO = arrivals.fixed_window(arrivals.pace(2, 0.0, np.array([1.0, 0.5])), 1, 0.5)  # {1}, {0, 1}, {1}, {0, 1}, ...


def test_counts_by_hand() -> None:
    jobs = first_jobs(COMPASS, 20)
    # Staleness 0 1 2 3 | 3 2 1 | 0 | 0 1 1 2 | 0 0 0 0 | 0 0 0 0: eleven, four, three and two.
    found = staleness_histogram(jobs)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [11, 4, 3, 2])
    counts = jobs_per_client(jobs, 5)
    np.testing.assert_array_equal(counts, [6, 5, 5, 4, 0])
    # Nine aggregations: four of one client, then {0, 1, 2}, {0}, and three of all.
    np.testing.assert_allclose(participation(jobs, 4), np.array([6, 5, 5, 4]) / 9)


def test_participation_is_of_whole_aggregations() -> None:
    np.testing.assert_allclose(participation(first_jobs(TWO, 6), 2), [0.5, 1.0])
    # The fifth job is in an aggregation that the sixth ends.
    np.testing.assert_allclose(participation(first_jobs(TWO, 5), 2), [1 / 3, 1.0])


def test_a_fast_client_may_take_part_more_than_once() -> None:
    schedule = arrivals.buffered(arrivals.pace(2, 0.0, np.array([1.0, 10.0])), 1, 2)
    shares = participation(first_jobs(schedule, 2200), 2)
    np.testing.assert_allclose(shares, [20 / 11, 2 / 11], rtol=0.01)
    assert shares.sum() == 2


@pytest.mark.parametrize("num", [1, 4096, 4097, 9000])
def test_the_first_jobs_are_those_of_the_pieces(num: int) -> None:
    schedule = arrivals.next_arrival(arrivals.pace(7, 0.1, sigma=0.5), 3)
    jobs = first_jobs(schedule, num, seed=3)
    long = first_jobs(schedule, 9000, seed=3)
    assert len(jobs.client) == num
    for name in ("client", "number", "use", "coefficient", "is_last"):
        np.testing.assert_array_equal(getattr(jobs, name), getattr(long, name)[:num])
    assert not np.array_equal(first_jobs(schedule, 100, seed=4).use, long.use[:100])


def test_a_chart_has_a_bar_a_job_and_a_line_an_aggregation() -> None:
    figure = gantt(first_jobs(COMPASS, 20), 340.0)
    (panel,) = figure.axes
    rows = [row for row in panel.collections if _is_bars(row)]
    # Jobs that begin before 340 s: 16 of the trace, client by client.
    assert [len(row.get_paths()) for row in rows] == [5, 4, 4, 3]
    first = rows[0].get_paths()[1].get_extents()  # client 0's second job, from 20 to 120 s
    np.testing.assert_allclose([first.x0, first.x1], [20, 120])
    lines = {(float(line.get_xdata()[0]), line.get_linestyle()) for line in panel.lines}
    assert lines == {*((t, ":") for t in (20.0, 30.0, 40.0, 80.0)), *((t, "-") for t in (120.0, 220.0, 240.0, 340.0))}
    labels = sorted(text.get_text() for text in panel.texts)
    assert labels == sorted(map(str, [20] * 4 + [100, 60, 40, 100, 20, 80, 60, 40, 100, 66, 50, 25]))
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0", "1", "2", "3"]
    assert panel.get_xlim() == (0, 340)


def _is_bars(row: Any) -> bool:
    return type(row).__name__ in ("PolyCollection", "BrokenBarHCollection")


def test_a_chart_shows_waiting_and_ends_with_the_last_use() -> None:
    figure = gantt(first_jobs(arrivals.synchronous(arrivals.pace(2, 0.0, np.array([1.0, 3.0])), 1), 4))
    (panel,) = figure.axes
    assert panel.get_xlim() == (0, 6)
    waits = [row.get_segments() for row in panel.collections if not _is_bars(row)]
    ends = sorted((segment[0][0], segment[1][0]) for segments in waits for segment in segments)
    assert ends == [(1.0, 3.0), (4.0, 6.0)]


NONE = first_jobs(TWO, 1).part(slice(0, 0))
LONG = arrivals.next_arrival(arrivals.pace(3, 0.1), 1)
BAD: dict[str, Callable[[], Any]] = {
    "first_jobs: schedule must be a Schedule": lambda: first_jobs(first_jobs(TWO, 1), 3),  # type: ignore[arg-type]
    "first_jobs: num_jobs must be an integer >= 1, got 0": lambda: first_jobs(TWO, 0),
    "first_jobs: seed must be": lambda: first_jobs(TWO, 1, seed=-1),
    "staleness_histogram: jobs must be a Jobs": lambda: staleness_histogram(TWO),  # type: ignore[arg-type]
    "staleness_histogram: jobs must be at least one job, got none": lambda: staleness_histogram(NONE),
    "jobs_per_client: num_clients must be above every client of the jobs (1), got 1": lambda: jobs_per_client(
        first_jobs(TWO, 6), 1
    ),
    "jobs_per_client: num_clients must be an integer": lambda: jobs_per_client(first_jobs(TWO, 6), 2.0),  # type: ignore[arg-type]
    "participation: jobs must be at least one whole aggregation": lambda: participation(
        dataclasses.replace(first_jobs(TWO, 3), is_last=np.zeros(3, bool)), 2
    ),
    "gantt: jobs must be at least one job, got none": lambda: gantt(NONE),
    "gantt: until must be a number in (0, inf), got 0": lambda: gantt(first_jobs(TWO, 6), 0.0),
    "gantt: until must be a finite number or None, got nan": lambda: gantt(first_jobs(TWO, 6), math.nan),
    "gantt: until must be a known number": lambda: jax.jit(lambda t: gantt(first_jobs(TWO, 6), t) and t)(1.0),
    "gantt: jobs must be at most 5000 to draw, got 6000": lambda: gantt(first_jobs(LONG, 6000)),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line(line: str) -> None:
    with pytest.raises(ValueError) as caught:
        BAD[line]()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_any_schedule_can_be_summed_up() -> None:
    schedules: list[Schedule] = [
        TWO,
        COMPASS,
        arrivals.anarchic(arrivals.pace(3, 0.1), 4, 5, idle=0.2),
        arrivals.synchronous(arrivals.pace(5, 0.1), 2, cohort_size=2),
    ]
    for schedule in schedules:
        jobs = first_jobs(schedule, 500)
        assert staleness_histogram(jobs).sum() == 500
        assert jobs_per_client(jobs, schedule.num_clients).sum() == 500
        size = (np.flatnonzero(jobs.is_last)[-1] + 1) / jobs.is_last.sum()
        np.testing.assert_allclose(participation(jobs, schedule.num_clients).sum(), size)
