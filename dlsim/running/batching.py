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
    return _in_turn(fn, everywhere=False)


def in_turn(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`fn`, of which every device computes a batch one row after the other.

    For functions that hold much at once, or loop until they are done: side by side, all rows would wait for the slowest
    and copy what they hold at each turn.

    Args:
      fn: of arrays and trees of them.
    """
    return _in_turn(fn, everywhere=True)


def _in_turn(fn: Callable[..., PyTree], everywhere: bool) -> Callable[..., PyTree]:
    @jax.custom_batching.custom_vmap
    def alone(*args: PyTree) -> PyTree:
        return fn(*args)

    @alone.def_vmap
    def of_many(axis_size: int, in_batched: list[PyTree], *args: PyTree) -> tuple[PyTree, PyTree]:
        del axis_size
        axes = tuple(jax.tree.map(lambda is_batched: 0 if is_batched else None, in_batched))
        is_row = jax.tree.leaves(in_batched)

        def in_turn(*args: PyTree) -> PyTree:
            leaves, form = jax.tree.flatten(args)

            def row(rows: list[Any]) -> PyTree:  # by `alone`, which a batch around this one must meet as well
                left = iter(rows)
                whole = [next(left) if moves else leaf for leaf, moves in zip(leaves, is_row, strict=True)]
                return alone(*jax.tree.unflatten(form, whole))

            return jax.lax.map(row, [leaf for leaf, moves in zip(leaves, is_row, strict=True) if moves])

        if everywhere:
            out = in_turn(*args)
        else:
            out = jax.lax.platform_dependent(*args, cpu=in_turn, default=jax.vmap(fn, in_axes=axes))
        return out, jax.tree.map(lambda leaf: True, out)

    of_many.follows_call = True  # type: ignore[attr-defined]  # to `dlsim.sweeps.signature`: all it does is in `fn`
    return alone
