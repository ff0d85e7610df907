"""Counters that do not overflow and a clock that does not lose its small steps, without 64-bit arithmetic.

Bits sent pass 2^32 within seconds of a large run, and float32 stops counting at 2^24; a pair of uint32 words counts to
2^64.  Simulated time is kept in whole seconds and nanoseconds for the same reason.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Counter(NamedTuple):
    """An unsigned 64-bit count in two words, any shape."""

    low: Array  # uint32
    high: Array  # uint32


class Clock(NamedTuple):
    """Simulated time since the start, any shape."""

    seconds: Array  # uint32
    nanoseconds: Array  # uint32, below 10^9


def counter(shape: tuple[int, ...] = ()) -> Counter:
    """Counters that stand at zero."""
    return Counter(low=jnp.zeros(shape, jnp.uint32), high=jnp.zeros(shape, jnp.uint32))


def clock(shape: tuple[int, ...] = ()) -> Clock:
    """Clocks that stand at zero."""
    return Clock(seconds=jnp.zeros(shape, jnp.uint32), nanoseconds=jnp.zeros(shape, jnp.uint32))


def add(a: Counter, b: Counter) -> Counter:
    """a + b, with the carry of the low words."""
    low = a.low + b.low
    return Counter(low=low, high=a.high + b.high + (low < a.low).astype(jnp.uint32))


def product(a: Array, b: Array) -> Counter:
    """a * b of two uint32 arrays in full, by halves of 16 bits."""
    a, b = jnp.broadcast_arrays(a.astype(jnp.uint32), b.astype(jnp.uint32))
    a_low, a_high, b_low, b_high = a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16
    low, high = a_low * b_low, a_high * b_high
    middle = a_low * b_high + (low >> 16)  # at most 2^32 - 2^16: no carry
    middle_2 = a_high * b_low + (middle & 0xFFFF)
    return Counter(low=a * b, high=high + (middle >> 16) + (middle_2 >> 16))


def from_words(low: Array) -> Counter:
    """Counters that stand at numbers of 32 bits."""
    low = low.astype(jnp.uint32)
    return Counter(low=low, high=jnp.zeros_like(low))


def total(count: Counter) -> Counter:
    """Sum over all entries, exact."""
    zero = jnp.zeros((), jnp.uint32)
    # Where all nodes do the same, what is summed is a constant: left to itself XLA would sum it up while compiling, which
    # takes seconds for a million nodes.
    flat = jax.lax.optimization_barrier(Counter(low=count.low.ravel(), high=count.high.ravel()))
    low, high = jax.lax.reduce(tuple(flat), (zero, zero), lambda a, b: tuple(add(Counter(*a), Counter(*b))), (0,))
    return Counter(low=low, high=high)


def advance(time: Clock, seconds: Array) -> Clock:
    """Time moved on by `seconds` (float32, non-negative)."""
    whole = jnp.floor(seconds)
    nanoseconds = time.nanoseconds + jnp.round((seconds - whole) * 1e9).astype(jnp.uint32)
    carry = nanoseconds // jnp.uint32(1_000_000_000)
    return Clock(
        seconds=time.seconds + whole.astype(jnp.uint32) + carry,
        nanoseconds=nanoseconds - carry * jnp.uint32(1_000_000_000),
    )


def as_float(count: Counter) -> Array:
    """The count as float32, in a program."""
    return count.high.astype(jnp.float32) * 2.0**32 + count.low.astype(jnp.float32)


def to_float(value: Counter | Clock) -> np.ndarray:
    """On the host: the count, or the time in seconds, as float64."""
    if isinstance(value, Counter):
        return np.asarray(value.high, np.float64) * 2.0**32 + np.asarray(value.low, np.float64)
    return np.asarray(value.seconds, np.float64) + np.asarray(value.nanoseconds, np.float64) * 1e-9
