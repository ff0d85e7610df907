"""Rows mixed by blocks of columns, so that what one block reads and writes stays in the cache.

Mixing needs every row several times, once a neighbour, and writes every row: with all columns at once a row has left the
cache before it is needed again, and the result cannot be written where its input lies.  A block of columns of all rows is
copied together, stays in the cache while it is mixed, and takes its own place: the array is read once and written once,
and there is no second one.  (XLA writes a block by one core; measured on two cores, see
`experiments/benchmarks/traffic.py`, and not on many.)
"""

from __future__ import annotations

from typing import Protocol

import jax

from dlsim import trees
from dlsim.running.meshes import num_parts

Array = jax.Array

LEAST_BYTES = 2**25  # of a whole array: smaller ones are mixed as fast all at once (2 cores, 2 MiB of cache each)
BLOCK_BYTES = 2**20  # of one block; it and the rows it is written to fit in a core's cache of 2 MiB
LINE = 64  # bytes that memory moves at a time; a block's rows begin and end with one where they can


class MixFn(Protocol):
    def __call__(self, values: Array, own: Array, /) -> Array: ...


def by_columns(mix: MixFn, values: Array, own: Array) -> Array:
    """`mix(values [N, F], own [M, F]) -> [M, F]`, which treats columns independently, block by block where that pays.

    Each column is computed as it would be by `mix` on all: blocks change speed and memory alone.
    """
    width = own.shape[1]
    size = block_columns(values, own)
    if size >= width:
        return mix(values, own)
    is_own = values is own

    def block(mixed: Array, start: Array | int, size: int) -> Array:
        mine = trees.from_bits(jax.lax.dynamic_slice_in_dim(mixed, start, size, axis=1), own)
        heard = mine if is_own else jax.lax.dynamic_slice_in_dim(values, start, size, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(mixed, trees.as_bits(mix(heard, mine)), start, axis=1)

    whole = width // size
    mixed = jax.lax.fori_loop(0, whole, lambda i, mixed: block(mixed, i * size, size), trees.as_bits(own))
    if width % size:
        mixed = block(mixed, whole * size, width - whole * size)
    made: Array = trees.from_bits(mixed, own)
    return made


def block_columns(values: Array, own: Array) -> int:
    """Columns at a time; all of them where blocks would not pay."""
    width = own.shape[1]
    if jax.default_backend() != "cpu" or num_parts() > 1:
        return width
    column = max(values.shape[0], own.shape[0]) * own.dtype.itemsize
    if column * width < LEAST_BYTES:
        return width
    size = max(1, BLOCK_BYTES // max(column, 1))
    if size >= width:
        return width
    line = max(1, LINE // own.dtype.itemsize)
    if size < line:  # a row of a block would be less than a line, which would be moved again for the next block
        return line
    # Blocks of one size leave no remainder to compile for.
    sizes = range(size // line * line, size // 2, -line)
    return next((part for part in sizes if width % part == 0), size // line * line)
