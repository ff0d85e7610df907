"""Thresholds that exactly k numbers of a row reach, found by counting how many reach a guess, without sorting."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim.channels.rows import greatest, how_many
from dlsim.core import Array

KEPT = 3  # numbers that stand for a group of a row
NEAR = 2  # numbers by which a guess may be off, so that one more pass finds the right one
HALVED = 16  # numbers of which three are kept, again and again, to find the three of a row
SAMPLED = 8  # of so many numbers of a long row one tells between what the threshold lies
LONG = 2048  # numbers a row, from which on it is worth asking a sample


def ordered(values: Array) -> Array:
    """Magnitudes of floats, or signed integers as they are, as signed integers of the same order and width."""
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    signed = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(values, signed) & jnp.iinfo(signed).max


def of_groups(keys: Array, size: int) -> Array:
    """The three largest of every group of `size` numbers, and the numbers left over, `[n, 3 groups + rest]`."""
    num, dimension = keys.shape
    groups = dimension // size
    together = keys[:, : size * groups].reshape(num, size, groups)
    return jnp.concatenate([*_three_largest(together), keys[:, size * groups :]], axis=1)


def _three_largest(keys: Array) -> tuple[Array, Array, Array]:
    """The three largest along the second axis, the largest first."""

    def merge(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        (a1, a2, a3), (b1, b2, b3) = a, b
        second = jnp.maximum(jnp.minimum(a1, b1), jnp.maximum(a2, b2))
        third = jnp.maximum(jnp.maximum(a3, b3), jnp.maximum(jnp.minimum(a1, b2), jnp.minimum(a2, b1)))
        return jnp.maximum(a1, b1), second, third

    low = jnp.asarray(jnp.iinfo(keys.dtype).min, keys.dtype)
    nothing = jnp.full_like(keys, low)
    first, second, third = jax.lax.reduce((keys, nothing, nothing), (low, low, low), merge, (1,))
    return first, second, third


def between_ends(keys: Array, k: int, few: int, floor: int) -> tuple[Array, Array]:
    """A threshold that at least k numbers of a row reach, and how many, `[n]`: k, in all rows but `few` and equals.

    Rows with fewer than k numbers from `floor` on have their threshold there.
    """
    bound = jnp.maximum(_bound(keys, k), jnp.asarray(floor, keys.dtype))
    beyond = how_many(keys > bound[:, None])
    is_found = beyond < k  # many equals, zeros most of all
    high = jnp.where(is_found, bound, greatest(keys))
    return _finished(keys, k, _search(keys, k, few, bound, high, jnp.where(is_found, beyond, 0)))


def between_given(keys: Array, k: int, few: int, around: tuple[int, int]) -> tuple[Array, Array]:
    """As `between_ends`, for rows whose threshold is between two integers; else more than k of the row are counted."""
    low, high = (jnp.full(keys.shape[0], end, keys.dtype) for end in around)
    return _within(keys, k, few, low, high, jnp.iinfo(keys.dtype).min)


def between_guesses(keys: Array, k: int, few: int, floor: int) -> tuple[Array, Array]:
    """As `between_ends`, for long rows: between numbers that a part of the row says; else more than k are counted."""
    low, high = _guessed(keys, k, few, floor, 3.0)
    return _within(keys, k, few, low, high, floor)


def _guessed(keys: Array, k: int | Array, few: int, floor: int, spreads: float) -> tuple[Array, Array]:
    """Ends between which the k-th largest lies, by so many standard deviations of what one of `SAMPLED` numbers says."""
    sample = keys[:, ::SAMPLED]
    num = sample.shape[1]
    rank = jnp.broadcast_to(jnp.asarray(k, jnp.float32) * (num / keys.shape[1]), keys.shape[:1])
    spread = spreads * jnp.sqrt(rank * (1 - rank / num)) + 1
    at_most = jnp.clip(jnp.ceil(rank + spread).astype(jnp.int32), 1, num)
    at_least = jnp.clip(jnp.floor(rank - spread).astype(jnp.int32), 1, num)
    top = greatest(keys)
    low = _search(sample, at_most, few, jnp.full_like(top, floor), top).low
    high = jnp.where(rank > spread, _search(sample, at_least, few, low, top).high, top)
    return low, jnp.maximum(low, high)


def reached_by(values: Array, k: Array) -> Array:
    """A key (`ordered`) that the k largest magnitudes of each row and their equals reach, and no other, `[n]`.

    `k [n]` from 1 to D may be data.
    """
    return of_each(ordered(values), k)[0]


def of_each(keys: Array, k: Array) -> tuple[Array, Array]:
    """The k-th largest key of each row, and how many reach it, `[n]`: k, or more where it has equals."""
    low, high = jnp.zeros(keys.shape[0], keys.dtype), greatest(keys)
    beyond: Array | int = 0
    if keys.shape[1] >= LONG:
        low, high, beyond = _true_ends(keys, k, _guessed(keys, k, 0, 0, 6.0), high)
    return _finished(keys, k, _search(keys, k, 0, low, high, beyond))


def _true_ends(keys: Array, k: Array, guessed: tuple[Array, Array], top: Array) -> tuple[Array, Array, Array]:
    """Guessed ends, or zero and `top` in their places where they are wrong; and how many numbers are beyond the higher."""
    low, high = guessed
    beyond = how_many(keys > high[:, None])
    is_beyond = beyond >= k
    low = jnp.where(is_beyond | (how_many(keys >= low[:, None]) < k), 0, low)
    return low, jnp.where(is_beyond, top, high), jnp.where(is_beyond, 0, beyond)


class _Bracket(NamedTuple):
    """An interval `[low, high]` that the k-th largest is in, and how many numbers reach it and are beyond it, `[n]`."""

    low: Array
    high: Array
    reached: Array
    beyond: Array


def _search(keys: Array, k: int | Array, few: int, low: Array, high: Array, beyond: Array | int = 0) -> _Bracket:
    """The interval between the ends made smaller, where the counts at its ends say that k is reached, or in its middle.

    Counts fall evenly over a small interval, so that a few passes are near; in one of four turns, in case that they do
    not, it is halved.  It is small enough within `NEAR` numbers, in all rows but `few`.  `beyond` numbers are larger than
    `high`.  `k` may be one a row.
    """

    def going(state: tuple[_Bracket, Array]) -> Array:
        return jnp.sum(_is_open(state[0], k) & ~_is_near(state[0], k)) > few

    def step(state: tuple[_Bracket, Array]) -> tuple[_Bracket, Array]:
        (low, high, count, beyond), turn = state
        gap = _gap(low, high)
        share = (count - k + 0.5).astype(jnp.float32) / jnp.maximum(count - beyond, 1).astype(jnp.float32)
        share = jnp.where(turn % 4 == 3, 0.5, jnp.clip(share, 2.0**-10, 1 - 2.0**-10))
        # From 1 to the gap itself, whose float may be rounded up.
        ahead = jnp.clip(share * gap.astype(jnp.float32), 0, 2.0 ** (8 * gap.dtype.itemsize) * (1 - 2.0**-23))
        ahead = jnp.clip(jnp.ceil(ahead).astype(gap.dtype), 1, jnp.maximum(gap, 1))
        middle = low + jax.lax.bitcast_convert_type(ahead, low.dtype)
        reached = how_many(keys >= middle[:, None])
        moves, is_up = _is_open(state[0], k), reached >= k
        bracket = _Bracket(
            jnp.where(moves & is_up, middle, low),
            jnp.where(moves & ~is_up, middle - 1, high),
            jnp.where(moves & is_up, reached, count),
            jnp.where(moves & ~is_up, reached, beyond),
        )
        return bracket, turn + 1

    count = how_many(keys >= low[:, None])
    start = _Bracket(low, high, count, jnp.broadcast_to(jnp.asarray(beyond, count.dtype), count.shape))
    return jax.lax.while_loop(going, step, (start, jnp.zeros((), jnp.int32)))[0]


def _is_open(bracket: _Bracket, k: int | Array) -> Array:
    return (bracket.reached > k) & (bracket.beyond < k) & (bracket.low < bracket.high)


def _is_near(bracket: _Bracket, k: int | Array) -> Array:
    return (bracket.reached - k <= NEAR) | (k - bracket.beyond <= NEAR)


def _finished(keys: Array, k: int | Array, bracket: _Bracket) -> tuple[Array, Array]:
    """Threshold and count of rows: of those that are near, the right ones, by the numbers next to one of the ends."""
    low, high, count, beyond = bracket
    more, fewer = count - k, k - beyond
    from_low = more <= NEAR
    # From the low end, the smallest are looked for: the largest of the numbers turned round.
    turned = -from_low.astype(keys.dtype)
    end = jnp.where(from_low, ~low, high)
    turned_keys = keys ^ turned[:, None]
    inside = jnp.where(turned_keys <= end[:, None], turned_keys, jnp.iinfo(keys.dtype).min)
    while inside.shape[1] > 8 * HALVED:  # along a row, where one addition waits for another, only the last few
        inside = of_groups(inside, HALVED)
    three = _three_largest(inside)
    place = jnp.where(from_low, more, fewer - 1)
    found = jnp.where(place == 0, three[0], jnp.where(place == 1, three[1], three[2])) ^ turned
    # Equals on both sides of the place: no threshold is between them.
    pair = jnp.where(from_low, more, fewer)
    split = jnp.where(pair == 1, three[0] != three[1], jnp.where(pair == 2, three[1] != three[2], True))
    is_found = _is_open(bracket, k) & _is_near(bracket, k)
    return jnp.where(is_found, found, low), jnp.where(is_found & split, k, count)


def _within(keys: Array, k: int, few: int, low: Array, high: Array, floor: int) -> tuple[Array, Array]:
    """As `between_ends`, between ends that may be wrong: then more than k of the row are counted."""
    bracket = _search(keys, k, few, low, high, how_many(keys > high[:, None]))
    threshold, count = _finished(keys, k, bracket)
    is_outside = ((bracket.reached < k) & (low > floor)) | (bracket.beyond >= k)
    return threshold, jnp.where(is_outside, k + 1, count)


def _gap(low: Array, high: Array) -> Array:
    """high - low, unsigned: it may not fit the type."""
    unsigned = jnp.dtype(f"uint{8 * low.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(high, unsigned) - jax.lax.bitcast_convert_type(low, unsigned)


def _bound(keys: Array, k: int) -> Array:
    """A number that at least k of a row reach: the least of the maxima of k parts of it."""
    per_part = keys.shape[1] // k
    parts = keys[:, : per_part * k].reshape(keys.shape[0], per_part, k)
    return jnp.min(jnp.max(parts, axis=1), axis=1)
