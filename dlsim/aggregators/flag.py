"""Flag: the mean of what everybody said, seen through a subspace that explains most of it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.aggregators.candidates import (
    difference,
    distances_to,
    median_by_entry,
    no_state,
    weighted_sum,
    with_own,
)
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox

CENTRES = ("origin", "own")
RESCALES = ("median",)
SOURCE = "Almasi, Mishra, Vamanan and Ravi, ICLR 2024"
_TOLERANCE = 1e-10  # of the objective: less is not a fall


def flag(
    rank: int | None = None,
    *,
    regularization: Any = 0.0,
    normalize_pairs: bool = False,
    num_iterations: int = 5,
    epsilon: Any = 1e-7,
    centre: str = "origin",
    rescale: str | None = None,
) -> Aggregator:
    """Flag aggregator: the candidates' directions, projected on the r-dimensional subspace that explains them best.

    Of c candidates g_k (own value and what was heard), with x_k = g_k / ||g_k||, the orthonormal Y `[D, r]` minimises

        sum_k sqrt(1 - v_k) + a term of pairs,   v_k = ||Y^T x_k||^2 the quality of candidate k

    by singular value decompositions whose columns are weighed anew each time, from equal weights (the flag mean):

        Y <- the r leading left singular vectors of [a_k x_k | b_kl (x_k - x_l)],   k, l candidates, l != k
        a_k = (|1 - v_k| + eps)^(-1/4),   b_kl = lambda / (c (c - 1)) (|1 - ||Y^T (x_k - x_l)||^2| + eps)^(-1/4)

    until sum_k sqrt(|1 - v_k|) falls no more.  The result is

        u = (1 / r) sum_k Y Y^T x_k

    It needs no bound on how many lie.  What matters, and is left as the paper has it: u has a length of its own, at most
    c / r, whatever the lengths of the g_k, so steps do not shrink at an optimum (`rescale`); the subspace cannot tell x from
    -x, so a reversed gradient has quality 1 and half of them win; liars who agree own a direction where r >= 2.

    Args:
      rank: r >= 1, structural, at most the candidates there are; default ceil((c + 1) / 2), each receiver its own.
      regularization: lambda >= 0 of the pairs, traced; 0 leaves them out.
      normalize_pairs: whether x_k - x_l are brought to length 1 first, those of equal directions left out; structural.
      num_iterations: decompositions, structural; 1 is the flag mean.
      epsilon: eps > 0, traced.
      centre: `"origin"`: candidates are gradients or movements, as at a server; `"own"`: they are models, and
        g_k = v_k - own, to which the result is added; structural.
      rescale: `"median"`: u r / c times the median length of the candidates that have one, in place of u: a mean of
        directions of usual length.  Models ask for it; structural.

    A candidate of length zero has no direction, counts among the c and adds nothing; one that is not finite does not count.
    Weights are not used.
    Cost: one Gram matrix of the candidates, `num_iterations` eigenvalue problems of c x c numbers and one weighted sum: D
      appears in no other place.
    Source: Almasi, Mishra, Vamanan and Ravi, Flag aggregator, ICLR 2024, and the authors' code.  Differs: it starts from the
      flag mean, where the code draws a random Y, which in many dimensions weighs all alike too; 5 iterations in place of 1.
    """
    where = "flag"
    how = _options(where, rank, regularization, normalize_pairs, num_iterations, epsilon)
    checks.one_of(where, "centre", centre, CENTRES)
    if rescale is not None:
        checks.one_of(where, "rescale", rescale, RESCALES)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        around = own if centre == "own" else trees.zeros_like(own)
        directions, lengths, mask = _directions(values, around, mask)
        found = _subspace(_gram(directions), mask, how)
        share = found.shares
        if rescale == "median":
            has_length = mask & (lengths > 0)
            usual = jnp.where(jnp.any(has_length, axis=1), median_by_entry(lengths, has_length), 0)
            share *= (found.rank / jnp.maximum(jnp.sum(mask, axis=1), 1) * usual)[:, None]
        moved = trees.cast_like(weighted_sum(share, directions), own)
        return state, jax.tree.map(jnp.add, own, moved) if centre == "own" else moved

    return Aggregator(init=no_state, apply=apply, source=SOURCE)


def flag_qualities(
    values: PyTree,
    mask: Any | None = None,
    *,
    rank: int | None = None,
    regularization: Any = 0.0,
    normalize_pairs: bool = False,
    num_iterations: int = 5,
    epsilon: Any = 1e-7,
) -> Array:
    """How well the subspace of `flag` explains each candidate, v_k in [0, 1], `[n, K]`; 0 where there is none.

    Args:
      values: candidates about the origin, every leaf `[n, K, ...]`.
      mask: which of them count, bool `[n, K]`; None: all.
      rank, regularization, normalize_pairs, num_iterations, epsilon: as in `flag`.
    """
    where = "flag_qualities"
    how = _options(where, rank, regularization, normalize_pairs, num_iterations, epsilon)
    leaves = jax.tree.leaves(values)
    size = tuple(getattr(leaves[0], "shape", ())[:2]) if leaves else ()
    if len(size) < 2 or any(tuple(getattr(leaf, "shape", ())[:2]) != size for leaf in leaves):
        checks.fail(where, "values", "arrays [n, K, ...]", checks.describe(values))
    if not all(checks.is_real_type(leaf.dtype) for leaf in leaves):
        checks.fail(where, "values", "arrays [n, K, ...] of real numbers", checks.describe(values))
    mask = jnp.ones(size, bool) if mask is None else mask
    if tuple(getattr(mask, "shape", ())) != size or mask.dtype != bool:
        checks.fail(where, "mask", f"None or bool {list(size)}", checks.describe(mask))
    values, mask = jax.tree.map(jnp.asarray, values), jnp.asarray(mask)
    centre = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:, 0]), values)
    directions, _, mask = _directions(values, centre, mask)
    return jnp.where(mask, _subspace(_gram(directions), mask, how).qualities, 0)


class _Options(NamedTuple):
    rank: int | None
    regularization: Any
    normalize_pairs: bool
    num_iterations: int
    epsilon: Any


class _Subspace(NamedTuple):
    """Y by what it does to the directions X `[D, c]`."""

    shares: Array  # [n, c] u = X shares
    qualities: Array  # [n, c]
    rank: Array  # int32 [n]


def _options(
    where: str, rank: Any, regularization: Any, normalize_pairs: Any, num_iterations: Any, epsilon: Any
) -> _Options:
    if rank is not None:
        checks.integer(where, "rank", rank, 1)
    checks.number(where, "regularization", regularization, 0.0)
    checks.flag(where, "normalize_pairs", normalize_pairs)
    checks.integer(where, "num_iterations", num_iterations, 1)
    checks.number(where, "epsilon", epsilon, 0.0, open_minimum=True)
    return _Options(rank, regularization, normalize_pairs, num_iterations, epsilon)


def _directions(values: PyTree, centre: PyTree, mask: Array) -> tuple[PyTree, Array, Array]:
    """(v_k - centre) / ||v_k - centre||, `[n, c, ...]`, the lengths `[n, c]`, and who counts; zero for all others."""
    lengths = distances_to(values, centre)
    mask = mask & jnp.isfinite(lengths.root)
    has_length = mask & (lengths.root > 0)
    scale = jnp.where(has_length, 1 / jnp.where(has_length, lengths.root, 1), 0)

    def leaf(v: Array, c: Array) -> Array:
        way = difference(v, c, lengths.unit)
        return jnp.where(trees.expand(has_length, way), trees.expand(scale, way) * way, 0)

    return jax.tree.map(leaf, values, centre), lengths.value, mask


def _gram(directions: PyTree) -> Array:
    """<x_k, x_l>, `[n, c, c]`: leaf by leaf, so that nothing is put side by side."""

    def leaf(x: Array) -> Array:
        flat = x.reshape(*x.shape[:2], -1)
        return jnp.einsum("nkd,nld->nkl", flat, flat, precision=jax.lax.Precision.HIGHEST)

    return functools.reduce(jnp.add, map(leaf, jax.tree.leaves(directions)))


def _subspace(gram: Array, mask: Array, how: _Options) -> _Subspace:
    """The reweighted decompositions in c x c numbers.

    With C = sum over columns of (weight^2) e e^T, e in the basis of the candidates, and C = L L^T, the left singular
    vectors of X L are X L V / sqrt(w) with V, w the eigenvectors and eigenvalues of L^T (X^T X) L.  Of the r leading ones,
        Y Y^T X = X L V V^T L^-1,    S = X^T Y Y^T X = L^-T V diag(w) V^T L^-1,    v_k = S_kk.
    Directions of eigenvalue zero change neither.
    """
    size, count = mask.shape[1], jnp.sum(mask, axis=1)
    wanted = (count + 2) // 2 if how.rank is None else jnp.full_like(count, how.rank)
    rank = jnp.clip(wanted, 1, jnp.maximum(count, 1))
    is_leading = jnp.arange(size) >= size - rank[:, None]  # eigenvalues come in ascending order
    has_pairs = not checks.is_concrete(how.regularization) or float(how.regularization) > 0
    is_there = mask & (jnp.diagonal(gram, axis1=1, axis2=2) > 0)
    is_pair = is_there[:, :, None] & is_there[:, None, :] & ~jnp.eye(size, dtype=bool)
    share_of_pair = how.regularization / jnp.maximum(count * (count - 1), 1)

    def weight(explained: Array) -> Array:
        """The square of a column's weight."""
        return 1 / jnp.sqrt(jnp.abs(1 - explained) + how.epsilon)

    def between(matrix: Array) -> Array:
        """||x_k - x_l||^2 in the inner product of the matrix."""
        own = jnp.diagonal(matrix, axis1=1, axis2=2)
        return own[:, :, None] + own[:, None, :] - 2 * matrix

    def factor(seen: Array) -> Array:
        """L of the columns' weights, given S."""
        own = weight(jnp.clip(jnp.diagonal(seen, axis1=1, axis2=2), 0, 1))
        if not has_pairs:
            return jnp.sqrt(own)[:, :, None] * jnp.eye(size)
        explained, square = between(seen), jnp.ones_like(gram)
        if how.normalize_pairs:
            square = between(gram)
            is_apart = is_pair & (square > 1e-6)  # the rounding of two equal directions
            square = jnp.where(is_apart, square, 1)
            by_pair = jnp.where(is_apart, weight(jnp.clip(explained / square, 0, 1)) / square, 0)
        else:
            by_pair = jnp.where(is_pair, weight(explained), 0)
        by_pair *= 2 * jnp.square(share_of_pair)[:, None, None]  # both orders
        whole = jnp.sum(by_pair, axis=2) + own
        return jnp.linalg.cholesky(whole[:, :, None] * jnp.eye(size) - by_pair)

    def solve(lower: Array, right: Array, transpose: bool) -> Array:
        if not has_pairs:
            return right / jnp.diagonal(lower, axis1=1, axis2=2)[:, :, None]
        return jax.lax.linalg.triangular_solve(lower, right, left_side=True, lower=True, transpose_a=transpose)

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def decompose(seen: Array) -> tuple[Array, Array]:
        """S, and the shares without 1 / r, of the next Y."""
        lower = factor(seen)
        upper = jnp.swapaxes(lower, 1, 2)
        spectrum, vectors = jnp.linalg.eigh(product(upper, product(gram, lower)))
        kept = jnp.where(is_leading[:, None, :], vectors, 0)
        rows = solve(lower, kept * jnp.sqrt(jnp.maximum(spectrum, 0))[:, None, :], True)
        ones = solve(lower, is_there.astype(gram.dtype)[:, :, None], False)
        shares = product(lower, product(kept, product(jnp.swapaxes(kept, 1, 2), ones)))[:, :, 0]
        return product(rows, jnp.swapaxes(rows, 1, 2)), shares

    def objective(seen: Array) -> Array:
        left = jnp.clip(1 - jnp.diagonal(seen, axis1=1, axis2=2), 0, 1)
        return jnp.sum(jnp.where(is_there, jnp.sqrt(left), 0), axis=1)

    def again(_: Any, best: tuple[Array, ...]) -> tuple[Array, ...]:
        seen, shares, least, is_done = best
        new_seen, new_shares = decompose(seen)
        value = objective(new_seen)
        is_better = ~is_done & (value < least - _TOLERANCE)
        new = trees.select(is_better, (new_seen, new_shares, value), (seen, shares, least))
        return *new, ~is_better

    nothing = (jnp.zeros_like(gram), jnp.zeros_like(gram[:, 0]))
    start = (*nothing, jnp.full(count.shape, jnp.inf, gram.dtype), jnp.zeros(count.shape, bool))
    seen, shares, _, _ = jax.lax.fori_loop(0, how.num_iterations, again, start)
    shares = jnp.where(is_there, shares, 0) / rank[:, None].astype(gram.dtype)
    return _Subspace(shares, jnp.clip(jnp.diagonal(seen, axis1=1, axis2=2), 0, 1), rank)
