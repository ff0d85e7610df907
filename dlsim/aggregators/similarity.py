"""Who says too nearly the same as somebody else: cosines of what was heard, and the weights that FoolsGold makes of them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dlsim.aggregators.candidates import is_off_scale
from dlsim.core import Array, PyTree

_EPSILON = 1e-5  # FoolsGold's, so that no ratio and no logarithm is of zero
_NOTHING = 16  # machine epsilons: a cosine nearer to 1 is 1 but for rounding
_CONFIDENT = 0.99  # what stands for a weight of one, whose logit is infinite


def cosines(values: PyTree, mask: Array) -> Array:
    """cos(v_a, v_b) of every pair of a receiver's vectors, `[n, M, M]` of values `[n, M, ...]`: one Gram matrix a receiver.

    Zero on the diagonal, for what is not in the mask `[n, M]`, is not finite or is zero.  Whatever the scale of a vector:
    where a square leaves the range of the dtype, all are measured once more in units of their own.
    """
    mask = mask & is_finite(values)
    gram = _gram(values, None)
    # By the diagonal alone: no product of two is larger than both squares.
    squares = jnp.where(mask, jnp.diagonal(gram, axis1=1, axis2=2), 1)
    gram = jax.lax.cond(jnp.any(is_off_scale(squares)), lambda: _gram(values, _largest(values, mask)), lambda: gram)
    squares = jnp.diagonal(gram, axis1=1, axis2=2)
    # Twice the root of one square, so that a vector and its copy have exactly one.
    scale = jnp.sqrt(squares[:, :, None] * squares[:, None, :])
    is_pair = mask[:, :, None] & mask[:, None, :] & ~jnp.eye(mask.shape[1], dtype=bool)
    return jnp.where(is_pair & (scale > 0), gram / jnp.where(scale > 0, scale, 1), 0)


def is_finite(values: PyTree) -> Array:
    """Which vectors of `[n, M, ...]` hold finite numbers alone, bool `[n, M]`."""
    found = [jnp.all(jnp.isfinite(v.reshape(*v.shape[:2], -1)), axis=2) for v in jax.tree.leaves(values)]
    return functools.reduce(jnp.logical_and, found)


def foolsgold_weights(cosine: Array, mask: Array) -> Array:
    """FoolsGold's weight of each of those that are compared, before they are scaled: `[n, M]` in [0, 1], of `cosines`.

        M_a = max_b C_ab + 1e-5;   C_ab <- C_ab M_a / M_b where M_a < M_b (pardon);   w_a = 1 - max_b C_ab, in [0, 1]

    with C_aa = 0.  A weight that is zero but for rounding is zero.
    """
    most = jnp.max(cosine, axis=2) + _EPSILON
    pardon = jnp.minimum(1, most[:, :, None] / most[:, None, :])
    weights = jnp.clip(1 - jnp.max(cosine * pardon, axis=2), 0, 1)
    return jnp.where(mask & (weights > _NOTHING * jnp.finfo(cosine.dtype).eps), weights, 0)


def confident(weights: Array) -> Array:
    """Weights `[n, K]` as large as can be for the best of them, and pulled apart:  w <- w / max w, 1 becoming 0.99, then

        w <- ln(w / (1 - w) + 1e-5) + 0.5, in [0, 1]

    All zero where no weight is above zero.
    """
    most = jnp.max(weights, axis=1, keepdims=True, initial=0)
    share = jnp.minimum(weights / jnp.where(most > 0, most, 1), _CONFIDENT)
    return jnp.clip(jnp.log(share / (1 - share) + _EPSILON) + 0.5, 0, 1)


def _gram(values: PyTree, unit: Array | None) -> Array:
    """<v_a, v_b> of all pairs, float32 or wider, `[n, M, M]`; with `unit` of v_a / unit_a."""

    def leaf(v: Array) -> Array:
        flat = v.reshape(*v.shape[:2], -1).astype(jnp.promote_types(jnp.float32, v.dtype))
        flat = flat if unit is None else flat / unit[:, :, None].astype(flat.dtype)
        return jnp.einsum("nad,nbd->nab", flat, flat, precision=jax.lax.Precision.HIGHEST)

    return functools.reduce(jnp.add, [leaf(v) for v in jax.tree.leaves(values)])


def _largest(values: PyTree, mask: Array) -> Array:
    """Of each vector the largest entry's size, 1 where there is none, `[n, M]`."""
    sizes = [jnp.max(jnp.abs(v.reshape(*v.shape[:2], -1)), axis=2, initial=0) for v in jax.tree.leaves(values)]
    size = functools.reduce(jnp.maximum, [one.astype(jnp.float32) for one in sizes])
    return jnp.where(mask & (size > 0), size, 1)
