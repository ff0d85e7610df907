"""The k largest of every row, exactly, without sorting: by counting how many numbers reach a threshold."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from dlsim.core import Array
from dlsim.running.meshes import by_part

KEPT = 3  # numbers that stand for a group of a row; a fourth one among the largest sends the row to `_alone`
CROWDED = 0.17  # of the largest in a group on average, beyond which groups of three are no help
SHORT = 128  # numbers a row, up to which sorting is as good and sooner compiled
LANES = 8  # counts that are added up number by number before they are added up along a row


def largest(values: Array, k: int, around: tuple[int, int] | None = None) -> Array:
    """Which numbers `[n, D]` are the k largest of their row, bool; of equal ones those with the lower index.

    Floats are compared by magnitude, in the order of `jax.lax.top_k` (NaN above infinity); unsigned integers are compared
    as they are.  Each device looks through its own rows.

    What is looked for is a threshold that exactly k numbers of a row reach.  The interval it lies in is made smaller, as one
    of integers: bits of floats without sign are in the order of the floats.  A pass over all numbers costs what it costs to
    read them, so three numbers stand for each group of them, the largest three.  They decide a row unless four of its
    largest are in one group.  Rows that are not decided, the few that are left when most are, and those with equals at the
    threshold, are looked through alone, a few at a time.  `around`: words between which the k-th largest lies in most rows;
    the others are looked through alone too.  Zeros, of which a sparse message has many, are no numbers to look for: rows
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
    if size > KEPT:
        threshold, _ = _halve(_of_groups(keys, size), k, few, floor)
        count = how_many(keys >= threshold[:, None])  # those that do not stand for their group as well
    elif around is None:
        threshold, count = _halve(keys, k, few, floor)
    else:
        threshold, count = _between(keys, k, few, around)
    last = jnp.full(num, dimension, jnp.int32)

    def alone(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        is_open, threshold, last = state
        rows = jax.lax.top_k(is_open.astype(jnp.float32), few)[1]
        found, end = _alone(ordered(values.at[rows].get(mode="promise_in_bounds")), k, floor)
        return (
            is_open.at[rows].set(False, unique_indices=True),
            threshold.at[rows].set(found, unique_indices=True),
            last.at[rows].set(end, unique_indices=True),
        )

    is_known = (count <= k) if around is None else (count == k)
    state = (~is_known, threshold, last)
    _, threshold, last = jax.lax.while_loop(lambda state: jnp.any(state[0]), alone, state)
    if floor == 1:
        threshold, last = _filled(keys, k, count < k, threshold, last)
    place = jnp.arange(dimension, dtype=jnp.int32)
    return (keys > threshold[:, None]) | ((keys == threshold[:, None]) & (place < last[:, None]))


def _filled(keys: Array, k: int, is_short: Array, threshold: Array, last: Array) -> tuple[Array, Array]:
    """Threshold and last place of rows with fewer than k numbers that are not zero: with them go the first zeros."""

    def fill(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        is_short, threshold, last = state
        missing = k - how_many(keys > 0)
        before = how_many(jnp.cumsum(keys == 0, axis=1, dtype=jnp.int32) < missing[:, None])
        last = jnp.where(is_short, before.astype(last.dtype) + 1, last)
        return jnp.zeros_like(is_short), jnp.where(is_short, jnp.zeros_like(threshold), threshold), last

    # A loop of one turn or none: of runs side by side, a condition would be computed for all.
    state = jax.lax.while_loop(lambda state: jnp.any(state[0]), fill, (is_short, threshold, last))
    return state[1], state[2]


def ordered(values: Array) -> Array:
    """Magnitudes of floats, or unsigned integers, as signed integers of the same order and width."""
    signed = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(values, signed)
    if jnp.issubdtype(values.dtype, jnp.floating):
        return bits & jnp.iinfo(signed).max
    return bits ^ jnp.iinfo(signed).min


def _of_groups(keys: Array, size: int) -> Array:
    """The three largest of every group of `size` numbers, and the numbers left over, `[n, 3 groups + rest]`."""
    num, dimension = keys.shape
    groups = dimension // size
    together = keys[:, : size * groups].reshape(num, size, groups)
    low = jnp.asarray(jnp.iinfo(keys.dtype).min, keys.dtype)

    def merge(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        (a1, a2, a3), (b1, b2, b3) = a, b
        second = jnp.maximum(jnp.minimum(a1, b1), jnp.maximum(a2, b2))
        third = jnp.maximum(jnp.maximum(a3, b3), jnp.maximum(jnp.minimum(a1, b2), jnp.minimum(a2, b1)))
        return jnp.maximum(a1, b1), second, third

    nothing = jnp.full_like(together, low)
    tops = jax.lax.reduce((together, nothing, nothing), (low, low, low), merge, (1,))
    return jnp.concatenate([*tops, keys[:, size * groups :]], axis=1)


def how_many(mask: Array) -> Array:
    """How many of a row hold, int32 `[n]`: lanes first, since a sum along a row waits for each of its additions."""
    width = mask.shape[1] // LANES
    total = jnp.sum(mask[:, LANES * width :].astype(jnp.int32), axis=1)
    if width:
        parts = [mask[:, lane * width : (lane + 1) * width].astype(jnp.int32) for lane in range(LANES)]
        total = total + jnp.sum(sum(parts[1:], start=parts[0]), axis=1)
    return total


def _halve(keys: Array, k: int, few: int, floor: int) -> tuple[Array, Array]:
    """A threshold that at least k numbers of a row reach, and how many, `[n]`: k, in all rows but `few` and equals.

    Rows with fewer than k numbers from `floor` on have their threshold there.
    """
    bound = jnp.maximum(_bound(keys, k), jnp.asarray(floor, keys.dtype))

    is_found = how_many(keys > bound[:, None]) < k  # many equals, zeros most of all
    high = jnp.where(is_found, bound, jnp.max(keys, axis=1))
    return _search(keys, k, few, bound, high)


def _between(keys: Array, k: int, few: int, around: tuple[int, int]) -> tuple[Array, Array]:
    """As `_halve`, for words: the threshold is between two of them, or the row's count comes out as another than k."""
    low, high = (jnp.full(keys.shape[0], word - 2**31, keys.dtype) for word in around)
    return _search(keys, k, few, low, high)


# Low, high, how many reach low, how many are beyond high, turn.
_Bracket = tuple[Array, Array, Array, Array, Array]


def _search(keys: Array, k: int | Array, few: int, low: Array, high: Array) -> tuple[Array, Array]:
    """The interval from low to high made smaller, where the counts at its ends say that k is reached, or in its middle.

    Counts fall evenly over a small interval, so that a few passes are near; with few numbers left, and in one of three
    turns in case that they do not, it is halved.  `k` may be one a row.
    """

    def going(state: _Bracket) -> Array:
        low, high, count, _, _ = state
        return jnp.sum((count > k) & (low < high)) > few

    def step(state: _Bracket) -> _Bracket:
        low, high, count, beyond, turn = state  # `beyond` are larger than high
        gap = _gap(low, high)
        share = (count - k + 0.5).astype(jnp.float32) / jnp.maximum(count - beyond, 1).astype(jnp.float32)
        share = jnp.where((turn % 3 == 2) | (count - k < 8), 0.5, jnp.clip(share, 2.0**-10, 1 - 2.0**-10))
        # From 1 to the gap itself, whose float may be rounded up.
        ahead = jnp.clip(share * gap.astype(jnp.float32), 0, 2.0 ** (8 * gap.dtype.itemsize) * (1 - 2.0**-23))
        ahead = jnp.clip(jnp.ceil(ahead).astype(gap.dtype), 1, jnp.maximum(gap, 1))
        middle = low + jax.lax.bitcast_convert_type(ahead, low.dtype)
        reached = how_many(keys >= middle[:, None])
        moves, is_up = (count > k) & (low < high), reached >= k
        return (
            jnp.where(moves & is_up, middle, low),
            jnp.where(moves & ~is_up, middle - 1, high),
            jnp.where(moves & is_up, reached, count),
            jnp.where(moves & ~is_up, reached, beyond),
            turn + 1,
        )

    count = how_many(keys >= low[:, None])
    state = (low, high, count, jnp.zeros_like(count), jnp.zeros((), jnp.int32))
    threshold, _, count, _, _ = jax.lax.while_loop(going, step, state)
    return threshold, count


def _gap(low: Array, high: Array) -> Array:
    """high - low, unsigned: it may not fit the type."""
    unsigned = jnp.dtype(f"uint{8 * low.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(high, unsigned) - jax.lax.bitcast_convert_type(low, unsigned)


def _bound(keys: Array, k: int) -> Array:
    """A number that at least k of a row reach: the least of the maxima of k parts of it."""
    per_part = keys.shape[1] // k
    parts = keys[:, : per_part * k].reshape(keys.shape[0], per_part, k)
    return jnp.min(jnp.max(parts, axis=1), axis=1)


def _alone(keys: Array, k: int, floor: int) -> tuple[Array, Array]:
    """Of a few rows the k-th largest number, and the place before which its equals are among the k, `[n]`."""
    threshold, count = _halve(keys, k, 0, floor)
    return threshold, _last(keys, threshold, count, k)


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
    threshold, count = _search(keys, k, 0, jnp.zeros(keys.shape[0], keys.dtype), jnp.max(keys, axis=1))
    place = jnp.arange(keys.shape[1], dtype=jnp.int32)
    last = _last(keys, threshold, count, k)
    return (keys > threshold[:, None]) | ((keys == threshold[:, None]) & (place < last[:, None]))


def reached_by(values: Array, k: Array) -> Array:
    """A key (`ordered`) that the k largest magnitudes of each row and their equals reach, and no other, `[n]`.

    `k [n]` from 1 to D may be data.
    """
    keys = ordered(values)
    return _search(keys, k, 0, jnp.zeros(keys.shape[0], keys.dtype), jnp.max(keys, axis=1))[0]
