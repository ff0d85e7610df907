"""Counts and sums along the rows of messages, as cheap as reading them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from dlsim.core import Array

LANES = 8  # numbers that are added up side by side before they are added up along a row


def how_many(mask: Array) -> Array:
    """How many of a row hold, int32 `[n]`."""
    return total(mask.astype(jnp.int32))


def how_many_each(masks: Sequence[Array]) -> list[Array]:
    """`how_many` of several masks of the same numbers, which are read once for two of them: a word holds both counts."""
    if masks and masks[0].shape[1] >= 2**16:
        return [how_many(mask) for mask in masks]
    counts: list[Array] = []
    for first, second in itertools.zip_longest(masks[::2], masks[1::2]):
        if second is None:
            counts.append(how_many(first))
            continue
        both = total(jnp.where(first, jnp.uint32(1), 0) + jnp.where(second, jnp.uint32(2**16), 0))
        counts += [(both & 0xFFFF).astype(jnp.int32), (both >> 16).astype(jnp.int32)]
    return counts


def total(values: Array) -> Array:
    """The sum of each row of `[n, D]`, `[n]`: lanes first, since a sum along a row waits for each of its additions."""
    lanes, rest = _lanes(values, jnp.add)
    if jnp.issubdtype(lanes.dtype, jnp.floating):
        # On a CPU, XLA hands sums of floats over to a library, additions that lead to them included, and writes out what
        # is added up, all D numbers of it: four to five times the time.  What is no addition stays where it is.
        lanes = jnp.where(jnp.isnan(lanes), jnp.nan, lanes)
    return jnp.sum(rest, axis=1) + jnp.sum(lanes, axis=1)


def greatest(values: Array) -> Array:
    """The largest of each row of integers `[n, D]`, `[n]`."""
    parts = [part for part in _lanes(values, jnp.maximum) if part.shape[1]]
    return functools.reduce(jnp.maximum, [jnp.max(part, axis=1) for part in parts])


def _lanes(values: Array, join: Callable[[Array, Array], Array]) -> tuple[Array, Array]:
    """Rows `[n, D // LANES]` of what lies side by side together, and what is left over."""
    width = values.shape[1] // LANES
    lanes = functools.reduce(join, [values[:, lane * width : (lane + 1) * width] for lane in range(LANES)])
    return lanes, values[:, LANES * width :]
