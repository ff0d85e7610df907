"""How a function behaves when `jax.vmap` runs it for many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

PyTree = Any


def one_at_a_time(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`fn`, of which a CPU computes a batch one row after the other; other devices compute it at once, as ever.

    For functions that may decompose matrices, such as the start of models with orthogonal layers.  In JAX 0.10 a batch
    of decompositions waits on a thread of the CPU's pool for tasks of that same pool, and as many of them side by side
    as the pool has threads wait for ever.  A single matrix is computed where it is called.

    Args:
      fn: of arrays and trees of them.
    """

    @jax.custom_batching.custom_vmap
    def alone(*args: PyTree) -> PyTree:
        return fn(*args)

    @alone.def_vmap
    def of_many(axis_size: int, in_batched: list[PyTree], *args: PyTree) -> tuple[PyTree, PyTree]:
        del axis_size
        leaves, structure = jax.tree.flatten(args)
        is_batched = jax.tree.leaves(in_batched)

        def whole(batched: list[Any], others: list[Any]) -> Any:
            rows, rest = iter(batched), iter(others)
            return jax.tree.unflatten(structure, [next(rows if is_row else rest) for is_row in is_batched])

        def in_turn(batched: list[Any], others: list[Any]) -> PyTree:
            return jax.lax.map(lambda row: alone(*whole(row, others)), batched)

        def at_once(batched: list[Any], others: list[Any]) -> PyTree:
            return jax.vmap(lambda row: fn(*whole(row, others)))(batched)

        batched = [leaf for leaf, is_row in zip(leaves, is_batched, strict=True) if is_row]
        others = [leaf for leaf, is_row in zip(leaves, is_batched, strict=True) if not is_row]
        out = jax.lax.platform_dependent(batched, others, cpu=in_turn, default=at_once)
        return out, jax.tree.map(lambda leaf: True, out)

    return alone
