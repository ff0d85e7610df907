"""Distances and offsets of points in the plane, `[..., 2]`, as worlds of bodies use them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim.core import Array


def squared_length(vectors: Array) -> Array:
    """Squared Euclidean length along the last axis, which holds x and y."""
    return jnp.square(vectors[..., 0]) + jnp.square(vectors[..., 1])


def length(vectors: Array) -> Array:
    """Euclidean length along the last axis; its gradient at zero is zero."""
    square = squared_length(vectors)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def offsets(positions: Array, targets: Array) -> Array:
    """Where each target is as seen from each position, `[A, M, 2]`."""
    return targets[None] - positions[:, None]


def others(pairs: Array) -> Array:
    """Pairs `[n, M, ...]`, n <= M, without the diagonal: `[n, M - 1, ...]`, in order.  Slices only, no gather."""
    num, width, rest = pairs.shape[0], pairs.shape[1], pairs.shape[2:]
    flat, end = pairs.reshape(num * width, *rest), 1 + (num - 1) * (width + 1)
    blocks = flat[1:end].reshape(num - 1, width + 1, *rest)[:, :-1].reshape((num - 1) * width, *rest)
    return jnp.concatenate([blocks, flat[end:]]).reshape(num, width - 1, *rest)


def touches(positions: Array, radii: Any, targets: Array, target_radii: Any) -> Array:
    """Whether discs overlap, bool `[A, M]`."""
    reach = jnp.asarray(radii)[:, None] + jnp.asarray(target_radii)
    return length(offsets(positions, targets)) < reach
