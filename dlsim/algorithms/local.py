"""Local training: what every learning method does between two exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems.variables import keeping_statistics, trained, with_statistics

if TYPE_CHECKING:
    import optax


class LocalUpdates(NamedTuple):
    """`init(params [n, ...]) -> optimizer_state`; `run(...)` does the steps, see `local_updates`."""

    init: Any
    run: Any
    num_steps: int  # of the node that takes most
    steps_of: Any  # (node_ids [n]) -> int32 [n], how many each takes


class Objective(NamedTuple):
    """What is added to a node's loss while it trains; both `(..., params [n, ...], extra [n, ...])`."""

    correct: Any  # (gradients, params, extra) -> gradients
    penalty: Any = None  # (params, extra) -> [n]; None: there is none to speak of, only gradients are corrected


def local_updates(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    num_local_steps: int = 1,
    *,
    num_local_epochs: int | None = None,
    restarts: bool = False,
    where: str = "local_updates",
    argument: str = "optimizer",
) -> LocalUpdates:
    """K local steps at every node:  x_i <- x_i + u(g_i(x_i)), K = `num_local_steps` times, u the update of `optimizer`.

    `run(key, params [n, ...], optimizer_state, node_ids [n], is_present=None, correct=None, extra=(), onto=None,
    round=None, first=None)` gives `(params, optimizer_state, info)` with `info["loss"] [n]`, the batch loss averaged over
    the steps, and `info["num_gradients"] [n]`, the gradient evaluations done (batch size times steps, and what a line search
    takes).
    `correct(gradients, params, extra) -> gradients` (or an Objective) changes the gradients before the optimiser sees
    them (a proximal term, a control variate); `extra [n, ...]` is handed through to it.  Absent nodes keep their
    parameters and optimiser state.  With `onto [n, ...]` the updates, computed at `params` all the same, are added to
    these models, which are returned.  With `round` the optimiser's schedules count rounds, see `node_optimizer`.  Where a
    round's K steps are done in parts, `first` is the number of a part's first step: its steps draw what they would in one go.

    With `num_local_epochs` = E a node goes E times through its own data, each time in an order drawn anew, in batches of
    the problem's size of which the last may be smaller: K_i = E ceil(m_i / B) steps, the others wait for the longest.

    Nodes run in blocks where the problem asks for it (`problem.node_block`): a block's gradients, optimiser state and
    parameters stay in cache from the first local step to the last.  Blocks change the result by rounding alone.
    `where` and `argument` are the names of the method and its optimiser, for the error lines; `restarts` says that the
    optimiser's state starts anew each round.
    """
    checks.text("local_updates", "where", where)
    checks.text(where, "argument", argument)
    checks.flag(where, "restarts", restarts)
    problem = with_statistics(checks.instance(where, "problem", problem, Problem, "See dlsim.problems."))
    steps = node_optimizer(where, optimizer, argument, restarts=restarts)
    work = _batches(problem, num_local_steps, num_local_epochs, where)

    def block(
        key: Array,
        node_ids: Array,
        params: PyTree,
        optimizer_state: PyTree,
        extra: PyTree,
        onto: PyTree,
        objective: Objective | None,
        round: Array | None,
        first: Any,
    ) -> tuple[PyTree, PyTree, Array, Array]:
        import optax

        def step(carry: tuple[Any, ...], batch: _Batch) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
            params, optimizer_state, onto = carry
            gradients, losses, loss_of = _gradients(problem, batch, params, node_ids, objective, extra)
            updates, new_state = steps.update(
                batch.key, node_ids, gradients, optimizer_state, params, losses, loss_of, round
            )
            asked = steps.evaluations(new_state)
            asked = jnp.zeros(node_ids.shape, jnp.uint32) if asked is None else asked.astype(jnp.uint32)
            moved = None if onto is None else optax.apply_updates(onto, updates)
            new = (optax.apply_updates(params, updates), new_state, moved)
            if batch.works is not None:
                new = trees.select(batch.works, new, carry)
                losses, asked = jnp.where(batch.works, losses, 0.0), jnp.where(batch.works, asked, 0)
            return new, (losses, asked)

        start = (params, optimizer_state, onto)
        (params, optimizer_state, onto), losses, asked = work.go(step, start, key, node_ids, first)
        return params if onto is None else onto, optimizer_state, losses, asked

    def run(
        key: Array,
        params: PyTree,
        optimizer_state: PyTree,
        node_ids: Array,
        is_present: Array | None = None,
        correct: Any = None,
        extra: PyTree = (),
        onto: PyTree = None,
        round: Array | None = None,
        first: Any = None,
    ) -> tuple[PyTree, PyTree, Info]:
        from dlsim.problems.blocks import map_nodes

        objective = correct if correct is None or isinstance(correct, Objective) else Objective(correct)

        def of_block(
            params: PyTree, optimizer_state: PyTree, node_ids: Array, extra: PyTree, onto: PyTree
        ) -> tuple[Any, ...]:
            return block(key, node_ids, params, optimizer_state, extra, onto, objective, round, first)

        mapped = map_nodes(of_block, problem.node_block)
        new_params, new_state, losses, asked = mapped(params, optimizer_state, node_ids, extra, onto)
        count = work.evaluations(node_ids) + asked * jnp.uint32(problem.evaluations)
        count = count if is_present is None else jnp.where(is_present, count, 0)
        new_params = trees.select(is_present, new_params, params if onto is None else onto)
        new_state = trees.select(is_present, new_state, optimizer_state)
        return new_params, new_state, {"loss": losses, "num_gradients": count}

    return LocalUpdates(init=steps.init, run=run, num_steps=work.most, steps_of=work.steps_of)


class _Batch(NamedTuple):
    """What a local step works on: a draw by its key, or these of each node's own examples."""

    key: Array
    positions: Array | None = None  # int32 [n, B]
    mask: Array | None = None  # bool [n, B]
    works: Array | None = None  # bool [n], None: all


class _Batches(NamedTuple):
    """How a round's local steps come by their batches."""

    go: Any  # (step, start, key, node_ids, first) -> (end, losses [n], evaluations of line searches [n])
    evaluations: Any  # (node_ids) -> uint32 [n]
    steps_of: Any  # (node_ids) -> int32 [n]
    most: int


def _batches(problem: Problem, num_local_steps: int, num_local_epochs: int | None, where: str) -> _Batches:
    num_local_steps = checks.integer(where, "num_local_steps", num_local_steps, 1)
    if num_local_epochs is not None:
        if num_local_steps != 1:
            checks.fail(where, "num_local_steps", "left out where num_local_epochs is given", num_local_steps)
        return _epochs(problem, checks.integer(where, "num_local_epochs", num_local_epochs, 1), where)

    def go(step: Any, start: Any, key: Array, node_ids: Array, first: Any) -> tuple[Any, Array, Array]:
        del node_ids
        if num_local_steps == 1 and first is None:
            end, (losses, asked) = step(start, _Batch(keys.stream(key, "batch")))
            return end, losses, asked
        numbers = jnp.arange(num_local_steps) if first is None else first + jnp.arange(num_local_steps)
        step_keys = keys.fold_in(keys.stream(key, "batch"), numbers)
        end, (losses, asked) = jax.lax.scan(lambda carry, key: step(carry, _Batch(key)), start, step_keys)
        return end, jnp.mean(losses, axis=0), jnp.sum(asked, axis=0)

    return _Batches(
        go=go,
        evaluations=lambda node_ids: jnp.full(node_ids.shape, num_local_steps * problem.evaluations, jnp.uint32),
        steps_of=lambda node_ids: jnp.full(node_ids.shape, num_local_steps, jnp.int32),
        most=num_local_steps,
    )


def _epochs(problem: Problem, num_local_epochs: int, where: str) -> _Batches:
    if problem.gradient_at is None:
        fix = "Use num_local_steps, or dlsim.problems.classification, supervised or logistic."
        checks.fail(where, "problem", "one with examples to go through for num_local_epochs", "one without", fix)
    size = problem.batch_size
    sizes = np.asarray(problem.num_examples).astype(np.int32)
    longest = -(-int(sizes.max()) // size)  # batches of an epoch of the largest node

    def batches_of(node_ids: Array) -> Array:
        return -(-jnp.asarray(sizes)[node_ids] // size)

    def go(step: Any, start: Any, key: Array, node_ids: Array, first: Any) -> tuple[Any, Array, Array]:
        from dlsim.problems.sampling import permutations

        del first  # epochs are done in one go
        own = jnp.asarray(sizes)[node_ids]
        stream = keys.stream(key, "epoch")

        def batch(order: Array, epoch_key: Array, b: Array) -> _Batch:
            place = b * size + jnp.arange(size)
            mask = place[None, :] < own[:, None]
            positions = jax.lax.dynamic_slice_in_dim(order, b * size, size, axis=1)
            return _Batch(keys.fold_in(epoch_key, b), jnp.where(mask, positions, 0), mask, works=b * size < own)

        def epoch(carry: Any, e: Array) -> tuple[Any, tuple[Array, Array]]:
            epoch_key = keys.fold_in(stream, e)
            order = permutations(keys.stream(epoch_key, "order"), node_ids, own, longest * size)
            carry, (losses, asked) = jax.lax.scan(
                lambda carry, b: step(carry, batch(order, epoch_key, b)), carry, jnp.arange(longest)
            )
            return carry, (jnp.sum(losses, axis=0), jnp.sum(asked, axis=0))

        end, (losses, asked) = jax.lax.scan(epoch, start, jnp.arange(num_local_epochs))
        taken = (num_local_epochs * batches_of(node_ids)).astype(losses.dtype)
        return end, jnp.sum(losses, axis=0) / taken, jnp.sum(asked, axis=0)

    return _Batches(
        go=go,
        evaluations=lambda node_ids: (num_local_epochs * problem.num_passes * jnp.asarray(sizes)[node_ids]).astype(
            jnp.uint32
        ),
        steps_of=lambda node_ids: num_local_epochs * batches_of(node_ids),
        most=num_local_epochs * longest,
    )


def _gradients(
    problem: Problem, batch: _Batch, params: PyTree, node_ids: Array, objective: Objective | None, extra: PyTree
) -> tuple[PyTree, Array, Any]:
    """Gradients `[n, ...]`, losses `[n]`, and `loss_of(params [...], row)`, one node's loss and gradient elsewhere.

    Losses are those of what is minimised, penalty and all, where the penalty is known; else None stands for the function
    (what a line search would see is not what the gradients are of).
    """

    def at(params: PyTree, node_ids: Array, part: _Batch, extra: PyTree) -> tuple[PyTree, Array]:
        if part.positions is None:
            gradients, losses = problem.gradient(part.key, params, node_ids)
        else:
            examples: Any = problem.gradient_at
            gradients, losses = examples(part.key, params, node_ids, part.positions, part.mask)
        if objective is not None:
            gradients = keeping_statistics(gradients, objective.correct(gradients, params, extra))
        return gradients, losses

    def full(losses: Array, params: PyTree, extra: PyTree) -> Array:
        if objective is None or objective.penalty is None:
            return losses
        return losses + objective.penalty(trained(params), trained(extra))

    def loss_of(params: PyTree, row: Array) -> tuple[Array, PyTree]:
        one = jax.tree.map(lambda leaf: leaf[None], params)
        mine = trees.take(extra, row[None])
        part = _Batch(batch.key, *trees.take((batch.positions, batch.mask), row[None]))
        gradients, losses = at(one, node_ids[row[None]], part, mine)
        return full(losses, one, mine)[0], jax.tree.map(lambda leaf: leaf[0], gradients)

    gradients, losses = at(params, node_ids, batch, extra)
    is_whole = objective is None or objective.penalty is not None
    return gradients, full(losses, params, extra), loss_of if is_whole else None


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

        return by_row(one)(key, params, optimizer_state, node_ids, onto)

    return local._replace(run=run)


def by_row(fn: Any) -> Any:
    """`fn(key, *rows)` for rows with a key each: `(keys [n], *rows [n, ...])`."""

    def one(key: Array, *rows: PyTree) -> Any:
        single = jax.tree.map(lambda leaf: leaf[None], rows)
        return jax.tree.map(lambda leaf: leaf[0], fn(key, *single))

    return jax.vmap(one)


def local_jobs(
    problem: Problem, optimizer: optax.GradientTransformation, *, where: str, argument: str = "client_optimizer"
) -> Any:
    """Local work whose length is data: `run(keys [n], params [n, ...], node_ids [n], num_steps [n], versions [n])`.

    Returns `(params after, mean gradient [n, ...], info)`: row k does num_steps[k] optimiser steps from a fresh optimiser
    state, drawing from `keys[k]` alone; the others wait for the longest.  The mean is over the gradients on the way.
    The optimiser's schedules count versions: they stand at versions[k], the version that job began with, all along.
    """
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    steps = node_optimizer(where, optimizer, argument, restarts=True)
    gradient = by_row(problem.gradient)

    def run(
        key: Array, params: PyTree, node_ids: Array, num_steps: Array, versions: Array
    ) -> tuple[PyTree, PyTree, Info]:
        import optax

        def step(k: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            params, optimizer_state, total, loss, asked = carry
            draws = keys.fold_in(key, k)
            gradients, losses = gradient(draws, params, node_ids)

            def loss_of(at: PyTree, row: Array) -> tuple[Array, PyTree]:
                one = jax.tree.map(lambda leaf: leaf[None], at)
                gradients, losses = problem.gradient(draws[row], one, node_ids[row[None]])
                return losses[0], jax.tree.map(lambda leaf: leaf[0], gradients)

            updates, stepped = steps.update(
                draws, node_ids, gradients, optimizer_state, params, losses, loss_of, versions
            )
            more = steps.evaluations(stepped)
            works = k < num_steps
            new = (
                optax.apply_updates(params, updates),
                stepped,
                jax.tree.map(jnp.add, total, gradients),
                loss + losses,
                asked if more is None else asked + more.astype(jnp.uint32),
            )
            return trees.select(works, new, carry)

        nothing = (jnp.zeros(num_steps.shape), jnp.zeros(num_steps.shape, jnp.uint32))
        start = (params, steps.init(params), trees.zeros_like(params), *nothing)
        params, _, total, loss, asked = jax.lax.fori_loop(0, jnp.max(num_steps), step, start)
        share = 1 / jnp.maximum(num_steps, 1).astype(jnp.float32)
        count = (num_steps.astype(jnp.uint32) + asked) * jnp.uint32(problem.evaluations)
        return params, trees.scale(share, total), {"loss": share * loss, "num_gradients": count}

    return run
