"""64-bit counting in pairs of words, against Python's integers; the clock against decimal arithmetic."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from hypothesis import given, strategies as st

from dlsim.running import counters

words = st.integers(0, 2**32 - 1)


def count(value: int) -> counters.Counter:
    return counters.Counter(jnp.uint32(value % 2**32), jnp.uint32(value >> 32))


def as_int(value: counters.Counter) -> int:
    return (int(value.high) << 32) + int(value.low)


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_add(a: int, b: int) -> None:
    assert as_int(counters.add(count(a), count(b))) == (a + b) % 2**64


@given(words, words)
def test_product(a: int, b: int) -> None:
    assert as_int(counters.product(jnp.uint32(a), jnp.uint32(b))) == a * b


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=40))
def test_total(values: list[int]) -> None:
    low = jnp.asarray([v % 2**32 for v in values], jnp.uint32)
    high = jnp.asarray([v >> 32 for v in values], jnp.uint32)
    assert as_int(counters.total(counters.Counter(low, high))) == sum(values)


@given(st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=30), st.integers(0, 10**9 - 1))
def test_the_clock_against_fractions(steps: list[float], start: int) -> None:
    """Every step is rounded to a nanosecond once, and nothing is lost after that."""
    time, exact = counters.Clock(jnp.uint32(7), jnp.uint32(start)), 7 + Fraction(start, 10**9)
    for step in steps:
        time = counters.advance(time, jnp.float32(step))
        assert int(time.nanoseconds) < 10**9
        exact += Fraction(step)
    # A fraction of a second in float32 times 1e9 is off by at most 2^-24 of it.
    got = Fraction(int(time.seconds)) + Fraction(int(time.nanoseconds), 10**9)
    assert abs(got - exact) <= len(steps) * Fraction(61, 10**9)


def test_to_float() -> None:
    assert counters.to_float(count(2**40 + 3)) == 2**40 + 3


def test_the_clock_keeps_small_steps() -> None:
    """Ten thousand steps of a tenth of a millisecond after a year: float32 would not move at all."""
    year = 365 * 24 * 3600
    time = counters.Clock(jnp.uint32(year), jnp.uint32(999_999_990))
    for _ in range(100):
        time = counters.advance(time, jnp.float32(1e-4))
    assert int(time.nanoseconds) < 10**9
    np.testing.assert_allclose(counters.to_float(time) - year, 0.99999999 + 0.01, atol=1e-6)
    time = counters.advance(counters.clock(), jnp.float32(12.75))
    assert (int(time.seconds), int(time.nanoseconds)) == (12, 750_000_000)
