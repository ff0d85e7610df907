"""Clocks against their distributions, and streams against the whole."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from dlsim import clocks

KEY = jax.random.key(20)
FALSE_ALARM = 1e-3  # seeds are fixed, so a test that passes goes on passing


def per_clock(found, num_clocks):
    """Times of each clock, in seconds."""
    return [clocks.to_seconds(found.ticks[found.rows == row]) for row in range(num_clocks)]


def test_poisson_gaps_are_exponential_and_counts_are_poisson():
    rates = np.geomspace(0.3, 30.0, 40)
    found = clocks.events(clocks.poisson(rates), np.arange(40), KEY, 0, 200.0)
    times = per_clock(found, 40)
    # Gaps up to a fixed horizon favour short ones; the first 50 of each clock do not.
    gaps = np.concatenate([np.diff(one, prepend=0)[:50] * rate for one, rate in zip(times, rates, strict=True)])
    assert len(gaps) == 40 * 50
    assert stats.kstest(gaps, "expon").pvalue > FALSE_ALARM
    counts = np.array([len(one) for one in times])
    assert stats.chi2.sf(((counts - rates * 200) ** 2 / (rates * 200)).sum(), 40) > FALSE_ALARM
    # Given their number, events are uniform in time, and in disjoint windows independent.
    assert stats.kstest(np.concatenate(times) / 200, "uniform").pvalue > FALSE_ALARM
    windows = np.histogram(np.concatenate(times), bins=1000, range=(0, 200))[0]
    expected = rates.sum() * 0.2
    assert FALSE_ALARM < stats.chi2.sf(((windows - expected) ** 2 / expected).sum(), 1000) < 1 - FALSE_ALARM


def test_gaps_of_one_clock_and_of_two_clocks_are_independent():
    found = clocks.events(clocks.poisson(1.0), np.arange(2), KEY, 0, 4000.0)
    first, second = (np.diff(one)[:3500] for one in per_clock(found, 2))
    assert stats.pearsonr(np.log(first), np.log(second)).pvalue > FALSE_ALARM
    assert stats.pearsonr(np.log(first[1:]), np.log(first[:-1])).pvalue > FALSE_ALARM


def test_log_normal_gaps():
    median, sigma = np.array([0.5, 2.0]), np.array([1.0, 0.25])
    times = per_clock(clocks.events(clocks.log_normal(median, sigma), np.arange(2), KEY, 0, 4000.0), 2)
    for one, middle, spread in zip(times, median, sigma, strict=True):
        scores = (np.log(np.diff(one, prepend=0)[:1500]) - np.log(middle)) / spread
        assert len(scores) == 1500 and stats.kstest(scores, "norm").pvalue > FALSE_ALARM


def test_a_heavy_tail_loses_no_event():
    # The mean gap is 90 medians: most events come in bursts that the mean does not announce.
    found = clocks.events(clocks.log_normal(0.01, 3.0), np.arange(5), KEY, 0, 50.0)
    for row in range(5):
        numbers = found.numbers[found.rows == row]
        np.testing.assert_array_equal(np.sort(numbers), np.arange(len(numbers)))
    assert len(found.rows) > 100


def test_deterministic_clocks_do_not_drift():
    period, phase = np.array([0.1, 1 / 3]), np.array([0.05, 0.0])
    times = per_clock(clocks.events(clocks.deterministic(period, phase), np.arange(2), KEY, 0, 1000.0), 2)
    for one, every, begin in zip(times, period, phase, strict=True):
        np.testing.assert_allclose(one, begin + every * np.arange(len(one)), rtol=0, atol=0.6 / clocks.TICKS_PER_SECOND)
    assert [len(one) for one in times] == [10_000, 3000]


def test_the_default_phase_is_a_period():
    found = clocks.events(clocks.deterministic(0.25), np.arange(1), KEY, 0, 1.0)
    assert clocks.to_seconds(found.ticks).tolist() == [0.25, 0.5, 0.75]


def test_a_trace_is_played_as_given_and_then_ends():
    times = [[0.0, 0.5, 7.25], [], [3.0]]
    found = clocks.events(clocks.trace(times), np.arange(3), KEY, 0, 1e6)
    assert [one.tolist() for one in per_clock(found, 3)] == times
    assert clocks.events(clocks.trace(times), np.arange(3), KEY, 0.5, 3.0).ticks.tolist() == [2**29]


@pytest.mark.parametrize(
    "clock",
    [
        clocks.poisson(np.linspace(0.1, 5, 30)),
        clocks.log_normal(1.0, 1.5),
        clocks.deterministic(0.3, 0.1),
        clocks.trace([[0.1 * row, 9.0 + row] for row in range(30)]),
    ],
    ids=["poisson", "log_normal", "deterministic", "trace"],
)
def test_blocks_are_the_whole_and_a_longer_stream_begins_with_a_shorter(clock):
    ids = np.arange(30)
    whole = clocks.events(clock, ids, KEY, 0, 40.0)
    position, pieces = clocks.cursor(clock, ids, KEY), []
    for stop in (0.0, 0.001, 5.0, 5.0, 20.0, 39.9, 40.0):
        piece, position = clocks.advance(clock, position, int(clocks.to_ticks(stop)))
        pieces.append(piece)
    longer = clocks.events(clock, ids, KEY, 0, 80.0)
    joined = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    begins = [column[longer.ticks < clocks.to_ticks(40.0)] for column in longer]
    for columns in (joined, begins):
        found, expected = (np.lexsort((one[1], one[0])) for one in (columns, whole))
        for got, want in zip(columns, whole, strict=True):
            np.testing.assert_array_equal(got[found], want[expected])
    np.testing.assert_array_equal(
        np.sort(clocks.events(clock, ids, KEY, 5.0, 20.0).ticks),
        np.sort(whole.ticks[(whole.ticks >= clocks.to_ticks(5.0)) & (whole.ticks < clocks.to_ticks(20.0))]),
    )


def test_a_draw_belongs_to_its_clock():
    rates = np.linspace(1, 2, 20)
    whole = clocks.events(clocks.poisson(rates), np.arange(20), KEY, 0, 10.0)
    some = np.array([17, 3])
    part = clocks.events(clocks.poisson(rates[some]), some, KEY, 0, 10.0)
    for place, row in enumerate(some):
        np.testing.assert_array_equal(part.ticks[part.rows == place], whole.ticks[whole.rows == row])
    other = clocks.events(clocks.poisson(rates), np.arange(20), jax.random.key(21), 0, 10.0)
    assert not np.isin(other.ticks, whole.ticks).any()


def test_many_more_events_than_are_drawn_at_a_time():
    found = clocks.events(clocks.poisson(1000.0), np.arange(2), KEY, 0, 1200.0)
    assert len(found.ticks) > 2**21 and len(np.unique(found.rows)) == 2
    for row in range(2):
        ticks = found.ticks[found.rows == row]
        assert (np.diff(ticks) > 0).all() and abs(len(ticks) - 1_200_000) < 5 * 1100


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: clocks.poisson(0.0), r"poisson: rate must be a number in \[1e-12, 1.04858e\+06\], got 0\."),
        (lambda: clocks.poisson([1.0, -2.0]), r"poisson: rate\[1\] must be .*, got -2\."),
        (lambda: clocks.poisson(np.array([np.inf])), r"poisson: rate\[0\] must be .*, got inf\."),
        (lambda: clocks.poisson(np.nan), r"poisson: rate must be .*, got nan\."),
        (lambda: clocks.poisson("fast"), r"poisson: rate must be a number, or one a clock \[n\], got 'fast'\."),
        (
            lambda: clocks.poisson(np.ones((2, 2))),
            r"rate must be a number, or one a clock \[n\], got array \[\[1\.0, 1\.0\], \[1\.0, 1\.0\]\]",
        ),
        (lambda: clocks.deterministic(0.0), r"deterministic: period must be .*, got 0\."),
        (lambda: clocks.deterministic(1.0, -1.0), r"deterministic: phase must be .*, got -1\."),
        (lambda: clocks.deterministic([1.0, 2.0], [0.0, 0.0, 0.0]), r"parameters must be of one length, got .*2, 3"),
        (lambda: clocks.log_normal(-1.0, 1.0), r"log_normal: median must be .*, got -1\."),
        (lambda: clocks.log_normal(1.0, np.inf), r"log_normal: sigma must be .*, got inf\."),
        (lambda: clocks.trace(3.0), r"trace: times must be one sequence of seconds a clock, got 3\.0\."),
        (lambda: clocks.trace([1.0, 2.0]), r"trace: times\[0\] must be a sequence of seconds, got 1\.0\."),
        (lambda: clocks.trace([[1.0], [2.0, 2.0]]), r"trace: times\[1\] must be strictly increasing"),
        (lambda: clocks.trace([[np.inf]]), r"trace: times\[0\] must be finite"),
        (lambda: clocks.trace([[-1.0]]), r"trace: times\[0\] must be finite, at least 0"),
        (lambda: clocks.events(clocks.poisson([1.0, 2.0]), np.arange(3), KEY, 0, 1), r"clock must be for 3 clocks"),
        (lambda: clocks.events(clocks.poisson(1.0), np.ones(3), KEY, 0, 1), r"cursor: ids must be integers"),
        (lambda: clocks.events(clocks.poisson(1.0), np.arange(3), KEY, 2, 1), r"events: stop must be a number in \[2,"),
        (lambda: clocks.events(clocks.poisson(1.0), np.arange(3), KEY, 0, 1e12), r"events: stop must be a number"),
    ],
)
def test_bad_input_is_one_clear_line(make, line):
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)
