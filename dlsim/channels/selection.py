"""The k largest of every row, exactly, without sorting: by counting how many numbers reach a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from dlsim.channels.rows import how_many
from dlsim.channels.thresholds import (
    KEPT,
    LONG,
    between_ends,
    between_given,
    between_guesses,
    of_each,
    of_groups,
    ordered,
)
from dlsim.core import Array
from dlsim.running.meshes import by_part

CROWDED = 0.17  # of the largest in a group on average, beyond which groups of three are no help
SHORT = 128  # numbers a row, up to which sorting is as good and sooner compiled


def largest(values: Array, k: int, around: tuple[int, int] | None = None) -> Array:
    """Which numbers `[n, D]` are the k largest of their row, bool; of equal ones those with the lower index.

    Floats are compared by magnitude, in the order of `jax.lax.top_k` (NaN above infinity); signed integers are compared
    as they are.  Each device looks through its own rows.

    What is looked for is a threshold that exactly k numbers of a row reach.  The interval it lies in is made smaller, as one
    of integers: bits of floats without sign are in the order of the floats.  A pass over all numbers costs what it costs to
    read them, so three numbers stand for each group of them, the largest three.  They decide a row unless four of its
    largest are in one group.  Rows that are not decided, the few that are left when most are, and those with equals at the
    threshold, are looked through alone, a few at a time.  `around`: integers between which the k-th largest lies in most
    rows; without them, of a long row with many to look for, a part says where; where that is wrong, a row is looked
    through alone too.  Zeros, of which a sparse message has many, are no numbers to look for: rows
    with fewer than k others are filled up with them in the end.
    """
    return by_part(lambda rows: _largest(rows, k, around), values.shape[0])(values)


# Compiled once where it is called outside of a program too, loops and all.
@partial(jax.jit, static_argnums=(1, 2))
def _largest(values: Array, k: int, around: tuple[int, int] | None) -> Array:
    num, dimension = values.shape
    keys = ordered(values)
    # The least key that counts.
    floor = 1 if jnp.issubdtype(values.dtype, jnp.floating) else jnp.iinfo(keys.dtype).min
    if k >= dimension:
        return jnp.ones(values.shape, bool)
    if dimension <= SHORT:
        places = jax.lax.top_k(keys, k)[1]
        nothing = jnp.zeros(dimension, bool)
        return jax.vmap(lambda at: nothing.at[at].set(True, unique_indices=True))(places)
    few = min(num, max(16, num // 32))
    size = math.floor(CROWDED * dimension / k)
    is_grouped = size > KEPT
    if is_grouped:
        threshold, _ = between_ends(of_groups(keys, size), k, few, floor)
        count = how_many(keys >= threshold[:, None])  # those that do not stand for their group as well
    elif around is not None:
        threshold, count = between_given(keys, k, few, around)
    elif dimension >= LONG:
        threshold, count = between_guesses(keys, k, few, floor)
    else:
        threshold, count = between_ends(keys, k, few, floor)

    def keys_of(rows: Array) -> Array:
        where = values if is_grouped else keys
        found = where.at[rows].get(mode="promise_in_bounds")
        return ordered(found) if is_grouped else found

    def alone(state: tuple[Array, ...]) -> tuple[Array, ...]:
        rows, _ = _first(state[0], few)
        found = _alone(keys_of(rows), k, floor)
        news = (jnp.zeros_like(rows, bool), *found)
        return tuple(old.at[rows].set(new, unique_indices=True) for old, new in zip(state, news, strict=True))

    state: tuple[Array, ...] = (count > k, threshold, count, jnp.full(num, dimension, jnp.int32))
    _, threshold, count, last = jax.lax.while_loop(lambda state: jnp.any(state[0]), alone, state)
    if floor == 1:
        threshold, last = _filled(keys_of, k, few, count < k, threshold, last)
    place = jnp.arange(dimension, dtype=jnp.int32)
    return (keys > threshold[:, None]) | ((keys == threshold[:, None]) & (place < last[:, None]))


def _filled(
    keys_of: Callable[[Array], Array], k: int, few: int, is_short: Array, threshold: Array, last: Array
) -> tuple[Array, Array]:
    """Threshold and last place of rows with fewer than k numbers that are not zero: with them go the first zeros.

    A few rows at a time, read where they lie: the keys of all as an operand of the loop would be written out first.
    """

    def fill(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        is_short, threshold, last = state
        rows, is_one = _first(is_short, few)
        keys = keys_of(rows)
        missing = k - how_many(keys > 0)
        before = how_many(jnp.cumsum(keys == 0, axis=1, dtype=jnp.int32) < missing[:, None])
        return (
            is_short.at[rows].set(False, unique_indices=True),
            threshold.at[rows].set(jnp.where(is_one, 0, threshold[rows]), unique_indices=True),
            last.at[rows].set(jnp.where(is_one, before.astype(last.dtype) + 1, last[rows]), unique_indices=True),
        )

    # A loop of no turn in most messages: of runs side by side, a condition would be computed for all.
    state = jax.lax.while_loop(lambda state: jnp.any(state[0]), fill, (is_short, threshold, last))
    return state[1], state[2]


def _first(mask: Array, few: int) -> tuple[Array, Array]:
    """Rows of `few` entries, those that hold before others, and which of them do."""
    rows = jax.lax.top_k(mask.astype(jnp.float32), few)[1]
    return rows, mask[rows]


def _alone(keys: Array, k: int, floor: int) -> tuple[Array, Array, Array]:
    """Of a few rows the k-th largest, how many reach it (k, or fewer), and before which place its equals are, `[n]`."""
    threshold, count = between_ends(keys, k, 0, floor)
    return threshold, jnp.minimum(count, k), _last(keys, threshold, count, k)


def _last(keys: Array, threshold: Array, count: Array, k: int | Array) -> Array:
    """The place before which equals of the threshold, which `count` of a row reach, are among its k, int32 `[n]`."""
    above, equal = keys > threshold[:, None], keys == threshold[:, None]
    place = jnp.arange(keys.shape[1], dtype=jnp.int32)

    def going(state: tuple[Array, Array]) -> Array:
        return jnp.any((count > k) & (state[0] < state[1]))

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = state  # before `high` there are enough of them, before `low` there are not
        middle = (low + high) // 2
        enough = how_many(above | (equal & (place < middle[:, None]))) >= k
        moves = (count > k) & (low < high)
        return jnp.where(moves & ~enough, middle + 1, low), jnp.where(moves & enough, middle, high)

    zero = jnp.zeros(keys.shape[0], jnp.int32)
    return jax.lax.while_loop(going, step, (zero, jnp.full_like(zero, keys.shape[1])))[1]


def largest_of_each(values: Array, k: Array) -> Array:
    """Which numbers `[n, D]` are the k largest magnitudes of their row, bool; of equal ones those with the lower index.

    `k [n]` from 1 to D may be data.
    """
    keys = ordered(values)
    threshold, count = of_each(keys, k)

    def with_equals(keys: Array, threshold: Array, count: Array) -> Array:
        place = jnp.arange(keys.shape[1], dtype=jnp.int32)
        last = _last(keys, threshold, count, k)
        return (keys > threshold[:, None]) | ((keys == threshold[:, None]) & (place < last[:, None]))

    def without(keys: Array, threshold: Array, count: Array) -> Array:
        del count
        return keys >= threshold[:, None]

    return jax.lax.cond(jnp.any(count > k), with_equals, without, keys, threshold, count)  # type: ignore[no-any-return]
