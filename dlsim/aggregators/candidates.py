"""What the rules share: a node's own value beside what it heard, with a mask."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim.core import Array, PyTree
from dlsim.networks.network import Inbox

UNROLLED = 16  # candidates up to which sums, orders and pairs over them are written out, each a loop over entries


def no_state(params: PyTree) -> tuple[()]:
    """The state of a rule that remembers nothing."""
    del params
    return ()


def with_own(own: PyTree, inbox: Inbox) -> tuple[PyTree, Array]:
    """Values `[n, K + 1, ...]`, the node's own first, and which of them count, bool `[n, K + 1]`."""
    values = jax.tree.map(lambda o, v: jnp.concatenate([o[:, None], v], axis=1), own, inbox.values)
    present = jnp.ones((inbox.mask.shape[0], 1), bool)
    return values, jnp.concatenate([present, inbox.mask], axis=1)


def sorted_by_entry(values: Array, mask: Array) -> Array:
    """Every coordinate's values in ascending order along axis 1; those that do not count, or are NaN, last, as infinity.

    A few candidates go through a network of comparisons, which vectorises: XLA sorts column by column on a CPU.
    """
    counts = _like(mask, values) & ~jnp.isnan(values)
    filled = jnp.where(counts, values, jnp.asarray(jnp.inf, values.dtype))
    size = values.shape[1]
    if size > UNROLLED:
        return jnp.sort(filled, axis=1)
    lanes = [filled[:, k] for k in range(size)]
    for i, j in _comparisons(size):
        lanes[i], lanes[j] = jnp.minimum(lanes[i], lanes[j]), jnp.maximum(lanes[i], lanes[j])
    return jnp.stack(lanes, axis=1)


@functools.cache
def _comparisons(size: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merge sort of `size` lanes: pairs (i, j), i < j, to be put in order one after the other."""
    pairs = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for start in range(k % p, size - k, 2 * k):
                for i in range(start, min(start + k, size - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs.append((i, i + k))
            k //= 2
        p *= 2
    return tuple(pairs)


def ranks(values: Array) -> Array:
    """The place of each value in ascending order along the last axis; of equal ones the first is before."""
    return jnp.argsort(jnp.argsort(values, axis=-1, stable=True), axis=-1)


def pick(ordered: Array, rank: Array) -> Array:
    """Of `[n, K, ...]` the entries of `rank [n]` along axis 1."""
    if ordered.shape[1] <= UNROLLED:  # in one loop with what made them, where it is one
        return functools.reduce(
            lambda found, k: jnp.where(_like(rank == k, ordered[:, k]), ordered[:, k], found),
            range(1, ordered.shape[1]),
            ordered[:, 0],
        )
    index = rank.reshape(-1, *(1,) * (ordered.ndim - 1)).astype(jnp.int32)
    return jnp.take_along_axis(ordered, jnp.broadcast_to(index, (ordered.shape[0], 1, *ordered.shape[2:])), axis=1)[
        :, 0
    ]


def median_by_entry(values: Array, mask: Array) -> Array:
    """The median of each coordinate over axis 1 among those that count; of an even number, the middle two's mean."""
    ordered, count = sorted_by_entry(values, mask), jnp.sum(mask, axis=1)
    low, high = pick(ordered, (count - 1) // 2), pick(ordered, count // 2)
    both = low + high
    return jnp.where(jnp.isfinite(both), both / 2, low / 2 + high / 2)  # the sum of two large numbers overflows


def mean_of_nearest(values: Array, mask: Array, count: Array) -> Array:
    """Each coordinate's mean over the `count [n]` values nearest to its median, among those that count.

    Of two as near the lower comes first.  In order of size the nearest are neighbours: those from the first s on with
    v_s + v_(s + count) >= twice the median, which holds to the bit where the two are those that the median is between.
    """
    ordered, there = sorted_by_entry(values, mask), jnp.sum(mask, axis=1)
    if values.shape[1] <= UNROLLED:
        return _mean_of_nearest(jax.lax.optimization_barrier(list(jnp.moveaxis(ordered, 1, 0))), there, count)
    twice = pick(ordered, (there - 1) // 2) + pick(ordered, there // 2)
    ranks = jnp.arange(mask.shape[1])

    def starts_at(s: Array) -> Array:
        above = pick(ordered, jnp.minimum(s + count, mask.shape[1] - 1))
        is_last = (s + count >= there).reshape(-1, *(1,) * (values.ndim - 2))
        is_number = ordered[:, s] > -jnp.inf
        return is_last | (is_number & ~(ordered[:, s] + above < twice))  # what is not a number is far above

    start = jnp.argmax(jax.lax.map(starts_at, ranks), axis=0)[:, None]
    rank = ranks.reshape(-1, *(1,) * (values.ndim - 2))
    last = start + count.reshape(-1, *(1,) * (values.ndim - 1))
    kept = jnp.where((rank >= start) & (rank < last), ordered, 0)
    return (jnp.sum(kept, axis=1) / count.reshape(-1, *(1,) * (values.ndim - 2))).astype(values.dtype)


def _mean_of_nearest(lanes: list[Array], there: Array, count: Array) -> Array:
    """The same of few candidates, each coordinate's in ascending order."""
    size, like = len(lanes), lanes[0]
    there, count = (_like(number, like) for number in (there, count))

    def at(place: Array) -> Array:
        return functools.reduce(lambda found, k: jnp.where(place == k, lanes[k], found), range(1, size), lanes[0])

    twice = at((there - 1) // 2) + at(there // 2)
    start = jnp.zeros(like.shape, jnp.int32)
    for s in range(size - 1, -1, -1):
        above = at(jnp.minimum(s + count, size - 1))
        holds = (s + count >= there) | ((lanes[s] > -jnp.inf) & ~(lanes[s] + above < twice))
        start = jnp.where(holds, s, start)
    kept = [jnp.where((k >= start) & (k < start + count), lanes[k], 0) for k in range(size)]
    return (functools.reduce(jnp.add, kept) / count).astype(like.dtype)


def weighted_sum(weights: Array, values: PyTree) -> PyTree:
    """sum_k weights[i, k] values[i, k] for every leaf; weight zero silences a value, be it infinite."""

    def leaf(v: Array) -> Array:
        w = _like(weights, v).astype(v.dtype)
        if not 0 < v.shape[1] <= UNROLLED:
            return jnp.sum(jnp.where(w == 0, 0, w * v), axis=1)
        parts = [jnp.where(w[:, k] == 0, 0, w[:, k] * v[:, k]) for k in range(v.shape[1])]
        return functools.reduce(jnp.add, parts)

    return jax.tree.map(leaf, values)


def mixtures(shares: Array, values: PyTree) -> PyTree:
    """sum_k shares[i, b, k] values[i, k] for every b, `[n, B, ...]`; a share of zero silences a value, be it infinite.

    One after the other, so that no `[n, B, K, D]` is ever held.
    """
    rows = jax.lax.map(lambda one: weighted_sum(one, values), jnp.moveaxis(shares, 1, 0))
    return jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1), rows)


class Lengths(NamedTuple):
    """Euclidean lengths as `root / unit`: the length itself, or its square, need not be a number of the dtype."""

    root: Array
    unit: Array  # a power of two

    @property
    def value(self) -> Array:
        """The lengths, infinite beyond the dtype's range."""
        return self.root / self.unit


def distances_to(values: PyTree, centre: PyTree) -> Lengths:
    """||v_k - centre||, `[n, K]`, whatever the scale: no square overflows or vanishes.  Not finite where v_k is not."""
    return _lengths(functools.partial(_squares, values, centre), None)


def clip_scale(lengths: Lengths, radius: Any) -> Array:
    """s such that s (unit d) = d min(1, radius / ||d||), `[n, K]`: zero where a length is not finite.

    radius / ||d|| may be too small for the dtype where unit * d is not.
    """
    root, unit = lengths
    scale = jnp.minimum(1 / unit, radius / jnp.maximum(root, jnp.finfo(root.dtype).tiny))
    return jnp.where(jnp.isfinite(root), scale, 0)


def squared_distances(values: PyTree) -> Array:
    """||v_k - v_l||^2 of all pairs of a node's candidates, `[n, K, K]`, from the differences themselves.

    One candidate after the other, so that no `[n, K, K, D]` is ever held.  Equal candidates have equal rows.
    """
    return _pair_squares(values, None)


def distances(values: PyTree, squares: Array, is_wanted: Array) -> Array:
    """||v_k - v_l|| of the pairs that are wanted, `[n, K, K]`, given `squared_distances`; whatever the scale."""
    return _lengths(functools.partial(_pair_squares, values), is_wanted, squares).value


def is_off_scale(squares: Array) -> Array:
    """Whether a sum of squares left the dtype's range, or may have lost parts of it below."""
    return (squares == jnp.inf) | (squares < _smallest(squares.dtype))


def _lengths(squares_of: Any, is_wanted: Array | None, squares: Array | None = None) -> Lengths:
    """Roots of sums of squares; those out of range once more, in a unit of their own, if there are any at all.

    The barriers keep the compiler from holding the differences, `[n, K, D]`, for one use after the other, and from
    joining the root to the sum, which then runs a number at a time.
    """
    squares = jax.lax.optimization_barrier(squares_of(None) if squares is None else squares)
    off = is_off_scale(squares)
    is_wanted = off if is_wanted is None else off & is_wanted
    scale = jnp.asarray(2.0 ** _exponent(squares.dtype), squares.dtype)
    one = jnp.ones((), squares.dtype)
    unit = jnp.where(off, jnp.where(squares == jnp.inf, 1 / scale, scale), one)

    def plain() -> Lengths:
        return Lengths(jnp.sqrt(squares), jnp.ones_like(squares))

    def wide() -> Lengths:
        again = jax.lax.optimization_barrier(squares_of(jax.lax.optimization_barrier(unit)))
        return Lengths(jnp.sqrt(jnp.where(off, again, squares)), unit)

    return jax.lax.cond(jnp.any(is_wanted), wide, plain)


def _squares(values: PyTree, centre: PyTree, unit: Array | None) -> Array:
    """Sums of the squares of unit * (v_k - centre), `[n, K]`, float32 or wider."""
    if unit is not None:
        values, centre = jax.lax.optimization_barrier((values, centre))

    def leaf(v: Array, c: Array) -> Array:
        return jnp.sum(jnp.square(difference(v, c, unit)).reshape(*v.shape[:2], -1), axis=-1)

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(leaf, values, centre)))


def _pair_squares(values: PyTree, unit: Array | None) -> Array:
    size = jax.tree.leaves(values)[0].shape[1]
    if 1 < size <= UNROLLED:
        return _half_of_pairs(values, unit, size)

    def row(k: Array) -> Array:
        centre = jax.tree.map(lambda v: jax.lax.dynamic_index_in_dim(v, k, axis=1, keepdims=False), values)
        mine = None if unit is None else jax.lax.dynamic_index_in_dim(unit, k, axis=1, keepdims=False)
        return _squares(values, centre, mine)

    return jnp.moveaxis(jax.lax.map(row, jnp.arange(jax.tree.leaves(values)[0].shape[1])), 0, 1)


def _half_of_pairs(values: PyTree, unit: Array | None, size: int) -> Array:
    """Each pair once."""
    rows = []
    for k in range(size - 1):
        rest, centre = (jax.tree.map(lambda v: v[:, at], values) for at in (slice(k + 1, None), k))  # noqa: B023
        mine = None if unit is None else unit[:, k, k + 1 :]
        # The barrier keeps one loop a row, one after the other: joined, they run a number at a time.
        values, found = jax.lax.optimization_barrier((values, _squares(rest, centre, mine)))
        rows.append(jnp.pad(found, ((0, 0), (k + 1, 0))))
    upper = jnp.stack([*rows, jnp.zeros_like(rows[0])], axis=1)
    # Zero, or no number where a value is none: XLA keeps the product.
    own = functools.reduce(
        jnp.add,
        [jnp.sum((v * 0).astype(upper.dtype).reshape(*v.shape[:2], -1), axis=2) for v in jax.tree.leaves(values)],
    )
    return upper + jnp.swapaxes(upper, 1, 2) + own[:, :, None] * jnp.eye(size, dtype=upper.dtype)


def difference(values: Array, centre: Array, unit: Array | None = None) -> Array:
    """unit * (v_k - centre) of one leaf, `[n, K, ...]`, float32 or wider; `unit [n, K]` holds powers of two."""
    wide = jnp.promote_types(jnp.float32, values.dtype)
    v, c = values.astype(wide), centre.astype(wide)[:, None]
    if unit is None:
        return v - c
    # Down before the difference, which may overflow; up after it, where the values themselves would.
    down, up = (_like(bound(unit.astype(wide), 1), v) for bound in (jnp.minimum, jnp.maximum))
    return (v * down - c * down) * up


def _exponent(dtype: Any) -> int:
    """Of a unit that brings whatever left the range of squares back into it: 76 in float32."""
    return int(0.6 * jnp.finfo(dtype).maxexp)


def _smallest(dtype: Any) -> float:
    """A sum of squares above it has lost no digits to squares too small to be held: 2^-80 in float32."""
    return float(2.0 ** -int(0.63 * jnp.finfo(dtype).maxexp))


def _like(rows: Array, values: Array) -> Array:
    """`[n]` or `[n, K]` with as many axes as the values."""
    return rows.reshape(rows.shape + (1,) * (values.ndim - rows.ndim))
