"""Programs of one run as programs of several: side by side, one after the other inside the program, or both."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim.core import Array, PyTree


def for_runs(start: Any, advance: Any, *around: Any, num_runs: int, at_once: int | None) -> tuple[Any, ...]:
    """The same programs for a leading axis of runs; `around` are functions of what leads with it."""
    if num_runs == 1:  # as fast as without the axis, also where a batched product would be slower than a plain one

        def first(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[0], tree)

        def lead(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)  # a constant may come as a NumPy scalar

        return (
            lambda shared, own: lead(start(shared, first(own))),
            lambda shared, own, carry, *counts: lead(advance(shared, first(own), first(carry), *counts)),
            *[lambda shared, *rest, fn=fn: lead(fn(shared, *first(rest))) for fn in around],
        )
    if at_once is None or at_once >= num_runs:

        def side_by_side(fn: Any) -> Any:
            return lambda shared, *rest: jax.vmap(lambda *one: fn(shared, *one))(*rest)

        side = jax.vmap(start, in_axes=(None, 0)), jax.vmap(advance, in_axes=(None, 0, 0, None, None))
        return (*side, *map(side_by_side, around))
    width = None if at_once == 1 else at_once

    def start_in_turn(shared: Any, own: Any) -> Any:
        return jax.lax.map(lambda one: start(shared, one), own, batch_size=width)

    def advance_in_turn(shared: Any, own: Any, carry: Any, *counts: Array) -> Any:
        return jax.lax.map(lambda one: advance(shared, *one, *counts), (own, carry), batch_size=width)

    def in_turn(fn: Any) -> Any:
        return lambda shared, *rest: jax.lax.map(lambda one: fn(shared, *one), rest, batch_size=width)

    return (start_in_turn, advance_in_turn, *map(in_turn, around))
