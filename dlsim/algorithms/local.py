"""Local training: what every learning method does between two exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.core import Array, Info, Problem, PyTree

if TYPE_CHECKING:
    import optax


class LocalUpdates(NamedTuple):
    """`init(params [n, ...]) -> optimizer_state`; `run(...)` does the steps, see `local_updates`."""

    init: Any
    run: Any
    num_steps: int


def local_updates(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    num_local_steps: int = 1,
    *,
    where: str = "local_updates",
) -> LocalUpdates:
    """K local optimiser steps at every node:  x_i <- x_i + u(g_i(x_i)), K times, u the optimiser's update.

    `run(key, params [n, ...], optimizer_state, node_ids [n], is_present=None, correct=None, extra=())` gives
    `(params, optimizer_state, info)` with `info["loss"] [n]`, the batch loss averaged over the steps, and
    `info["num_gradients"] [n]`, the gradient evaluations done (batch size times steps).  `correct(gradients, params,
    extra) -> gradients` changes the gradients before the optimiser sees them (a proximal term, a control variate);
    `extra [n, ...]` is handed through to it.  Absent nodes keep their parameters and optimiser state.  With `onto
    [n, ...]` the updates, computed at `params` all the same, are added to these models, which are returned.

    Nodes run in blocks where the problem asks for it (`problem.node_block`): a block's gradients, optimiser state and
    parameters stay in cache from the first local step to the last.  Blocks change the result by rounding alone.
    `where` is the name of the method, for its error lines.
    """
    num_local_steps = checks.integer(where, "num_local_steps", num_local_steps, 1)
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.optimizer(where, "optimizer", optimizer)

    def block(
        key: Array, node_ids: Array, params: PyTree, optimizer_state: PyTree, extra: PyTree, onto: PyTree, correct: Any
    ) -> tuple[PyTree, PyTree, Array]:
        import optax

        def step(carry: tuple[PyTree, PyTree, PyTree], step_key: Array) -> tuple[tuple[PyTree, PyTree, PyTree], Array]:
            params, optimizer_state, onto = carry
            gradients, losses = problem.gradient(step_key, params, node_ids)
            if correct is not None:
                gradients = correct(gradients, params, extra)
            updates, optimizer_state = jax.vmap(optimizer.update)(gradients, optimizer_state, params)
            onto = None if onto is None else optax.apply_updates(onto, updates)
            return (optax.apply_updates(params, updates), optimizer_state, onto), losses

        start = (params, optimizer_state, onto)
        if num_local_steps == 1:
            (params, optimizer_state, onto), losses = step(start, keys.stream(key, "batch"))
            return params if onto is None else onto, optimizer_state, losses
        step_keys = keys.fold_in(keys.stream(key, "batch"), jnp.arange(num_local_steps))
        (params, optimizer_state, onto), losses = jax.lax.scan(step, start, step_keys)
        return params if onto is None else onto, optimizer_state, jnp.mean(losses, axis=0)

    def run(
        key: Array,
        params: PyTree,
        optimizer_state: PyTree,
        node_ids: Array,
        is_present: Array | None = None,
        correct: Any = None,
        extra: PyTree = (),
        onto: PyTree = None,
    ) -> tuple[PyTree, PyTree, Info]:
        from dlsim.problems.blocks import map_nodes

        def of_block(
            params: PyTree, optimizer_state: PyTree, node_ids: Array, extra: PyTree, onto: PyTree
        ) -> tuple[Any, ...]:
            return block(key, node_ids, params, optimizer_state, extra, onto, correct)

        mapped = map_nodes(of_block, problem.node_block)
        new_params, new_state, losses = mapped(params, optimizer_state, node_ids, extra, onto)
        count = jnp.full(losses.shape, num_local_steps * problem.batch_size, jnp.uint32)
        count = count if is_present is None else jnp.where(is_present, count, 0)
        new_params = trees.select(is_present, new_params, params if onto is None else onto)
        new_state = trees.select(is_present, new_state, optimizer_state)
        return new_params, new_state, {"loss": losses, "num_gradients": count}

    return LocalUpdates(init=lambda params: jax.vmap(optimizer.init)(params), run=run, num_steps=num_local_steps)


def local_events(
    problem: Problem, optimizer: optax.GradientTransformation, num_local_steps: int = 1, *, where: str
) -> LocalUpdates:
    """`local_updates` for nodes that act at events of their own: `run(keys [n], params, optimizer_state, node_ids,
    onto=None)`.

    Row k draws from `keys[k]` alone, whatever company its event is in.
    """
    local = local_updates(problem, optimizer, num_local_steps, where=where)

    def run(key: Array, params: PyTree, optimizer_state: PyTree, node_ids: Array, onto: PyTree = None) -> Any:
        def one(key: Array, params: PyTree, optimizer_state: PyTree, node_ids: Array, onto: PyTree) -> Any:
            return local.run(key, params, optimizer_state, node_ids, onto=onto)

        return _by_row(one)(key, params, optimizer_state, node_ids, onto)

    return local._replace(run=run)


def _by_row(fn: Any) -> Any:
    """`fn(key, *rows)` for rows with a key each: `(keys [n], *rows [n, ...])`."""

    def one(key: Array, *rows: PyTree) -> Any:
        single = jax.tree.map(lambda leaf: leaf[None], rows)
        return jax.tree.map(lambda leaf: leaf[0], fn(key, *single))

    return jax.vmap(one)


def local_jobs(problem: Problem, optimizer: optax.GradientTransformation, *, where: str) -> Any:
    """Local work whose length is data: `run(keys [n], params [n, ...], node_ids [n], num_steps [n])`.

    Returns `(params after, mean gradient [n, ...], info)`: row k does num_steps[k] optimiser steps from a fresh optimiser
    state, drawing from `keys[k]` alone; the others wait for the longest.  The mean is over the gradients on the way.
    """
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.optimizer(where, "optimizer", optimizer)
    gradient = _by_row(problem.gradient)

    def run(key: Array, params: PyTree, node_ids: Array, num_steps: Array) -> tuple[PyTree, PyTree, Info]:
        import optax

        def step(k: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            params, optimizer_state, total, loss = carry
            draws = keys.fold_in(key, k)
            gradients, losses = gradient(draws, params, node_ids)
            updates, stepped = jax.vmap(optimizer.update)(gradients, optimizer_state, params)
            works = k < num_steps
            new = (
                optax.apply_updates(params, updates),
                stepped,
                jax.tree.map(jnp.add, total, gradients),
                loss + losses,
            )
            return trees.select(works, new, carry)

        start = (params, jax.vmap(optimizer.init)(params), trees.zeros_like(params), jnp.zeros(num_steps.shape))
        params, _, total, loss = jax.lax.fori_loop(0, jnp.max(num_steps), step, start)
        share = 1 / jnp.maximum(num_steps, 1).astype(jnp.float32)
        count = (num_steps * problem.batch_size).astype(jnp.uint32)
        return params, trees.scale(share, total), {"loss": share * loss, "num_gradients": count}

    return run
