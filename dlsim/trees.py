"""Trees of arrays that lead with the node axis."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any


def replicate(tree: PyTree, num: int) -> PyTree:
    """Every leaf `[...]` as `[num, ...]`, the same for all."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *jnp.shape(leaf))), tree)


def take(tree: PyTree, rows: Array) -> PyTree:
    """Rows of every leaf, `[n, ...]`.  The rows must be in range; they are not checked."""
    return jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), tree)


def put(tree: PyTree, rows: Array, values: PyTree) -> PyTree:
    """Every leaf with its `rows` replaced by `values [n, ...]`; rows must be distinct."""
    return jax.tree.map(lambda leaf, value: leaf.at[rows].set(value, unique_indices=True), tree, values)


def expand(rows: Array, like: Array) -> Array:
    """`[n]` as `[n, 1, ...]` with as many axes as `like`."""
    return rows.reshape(rows.shape + (1,) * (like.ndim - rows.ndim))


def select(mask: Array | None, new: PyTree, old: PyTree) -> PyTree:
    """Row by row, `new` where the mask `[n]` holds and `old` elsewhere; `mask=None` means everywhere."""
    if mask is None:
        return new
    return jax.tree.map(lambda a, b: jnp.where(expand(mask, a), a, b), new, old)


def scale(rows: Array, tree: PyTree) -> PyTree:
    """Row i of every leaf times `rows[i]`, in the leaf's dtype."""
    return jax.tree.map(lambda leaf: expand(rows, leaf).astype(leaf.dtype) * leaf, tree)


def add(a: PyTree, b: PyTree) -> PyTree:
    """a + b, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """a - b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def widen(tree: PyTree) -> PyTree:
    """Floating leaves of less than 32 bits as float32, to be reckoned with; the others as they are."""

    def leaf(one: Array) -> Array:
        is_narrow = jnp.issubdtype(one.dtype, jnp.floating) and jnp.dtype(one.dtype).itemsize < 4
        return one.astype(jnp.float32) if is_narrow else one

    return jax.tree.map(leaf, tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Every leaf in the dtype of the same leaf of `like`."""
    return jax.tree.map(lambda leaf, one: leaf.astype(one.dtype), tree, like)


def as_bits(tree: PyTree) -> PyTree:
    """Floating leaves of 16 bits as the integers of the same bits, on a CPU; the others as they are.

    XLA's CPU compiler turns whatever it does to half precision into conversions of whole arrays, to write one row too;
    rows of integers it writes where they lie.
    """

    def leaf(one: Array) -> Array:
        is_half = jnp.issubdtype(one.dtype, jnp.floating) and jnp.dtype(one.dtype).itemsize == 2
        return jax.lax.bitcast_convert_type(one, jnp.uint16) if is_half and jax.default_backend() == "cpu" else one

    return jax.tree.map(leaf, tree)


def from_bits(tree: PyTree, like: PyTree) -> PyTree:
    """`as_bits` undone: every leaf in the dtype of the same leaf of `like`."""

    def leaf(one: Array, wanted: Any) -> Array:
        return one if one.dtype == wanted.dtype else jax.lax.bitcast_convert_type(one, wanted.dtype)

    return jax.tree.map(leaf, tree, like)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of the shapes and dtypes of the leaves."""
    return jax.tree.map(jnp.zeros_like, tree)


def mean(tree: PyTree, weights: Array | None = None) -> PyTree:
    """Mean over the node axis, `[...]`; with `weights [n]` (any scale) the weighted mean.

    A sum of weights of zero gives zero, not NaN: an empty cohort moves nothing.
    """
    if weights is None:
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)  # sums of half precision are float32 in JAX
    total = jnp.sum(weights)
    share = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 0)
    return jax.tree.map(
        lambda leaf, wide: jnp.tensordot(
            share.astype(wide.dtype), wide, axes=1, precision=jax.lax.Precision.HIGHEST
        ).astype(leaf.dtype),
        tree,
        widen(tree),
    )


def squared_norm(tree: PyTree) -> Array:
    """Squared Euclidean norm of each node's row, float32 `[n]`."""
    parts = [
        jnp.sum(jnp.square(leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:]))).astype(jnp.float32), axis=1)
        for leaf in jax.tree.leaves(widen(tree))
    ]
    return sum(parts[1:], start=parts[0])


def num_entries(tree: PyTree) -> int:
    """Numbers held by one node: product of all axes but the first, summed over leaves."""
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(tree))


def num_bits(tree: PyTree) -> int:
    """Bits held by one node, as the leaves' dtypes store them."""
    return sum(math.prod(leaf.shape[1:]) * jnp.dtype(leaf.dtype).itemsize * 8 for leaf in jax.tree.leaves(tree))


def ravel(tree: PyTree) -> tuple[Array, Any]:
    """All leaves side by side as one `[n, D]` array (float32 or wider), and the function that undoes it."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [leaf.shape[1:] for leaf in leaves]
    dtypes = [leaf.dtype for leaf in leaves]
    ends = [0]
    for shape in shapes:
        ends.append(ends[-1] + math.prod(shape))
    widest = jnp.result_type(jnp.float32, *dtypes)
    flat = jnp.concatenate([leaf.reshape(leaf.shape[0], -1).astype(widest) for leaf in leaves], axis=1)

    def unravel(matrix: Array) -> PyTree:
        parts = [
            matrix[:, ends[i] : ends[i + 1]].reshape(matrix.shape[0], *shape).astype(dtypes[i])
            for i, shape in enumerate(shapes)
        ]
        return jax.tree.unflatten(treedef, parts)

    return flat, unravel


def ravel_as_held(tree: PyTree) -> tuple[Array, Any]:
    """`ravel` in the widest dtype among the leaves, in which a message of all of them would be sent."""
    flat, unravel = ravel(tree)
    return flat.astype(jnp.result_type(*jax.tree.leaves(tree))), unravel
