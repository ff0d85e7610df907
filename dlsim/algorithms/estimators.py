"""Gradient estimators with a memory: what stands in for a stochastic gradient whose variance is to vanish.

    g~_i = svrg(probability)(problem)      a snapshot and its full gradient, renewed now and then
    g~_i = sarah(period)(problem)          differences of successive gradients, begun anew by a full one
    g~_i = saga()(problem)                 a table of one gradient an example

They are handed to methods that take `estimator=` (`gradient_tracking`, `lt_admm`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.sampling import batch_positions
from dlsim.problems.variables import without_statistics

LARGEST_TABLE = 2**33  # numbers in the table of `saga`


class Estimator(NamedTuple):
    """A gradient with a memory, of n nodes at a time; every leaf of `memory` leads with n.

    `init(key, params [n, ...], node_ids [n]) -> (gradients, memory)`;
    `step(key, params, node_ids, memory) -> (gradients, losses [n], memory, num_gradients uint32 [n])`.
    """

    init: Any
    step: Any


MakeEstimator = Callable[[Problem], Estimator]


def estimator_of(where: str, problem: Problem, estimator: Any, use_full_gradient: bool) -> Estimator:
    """The estimator that a method asks for: one with a memory, or the problem's own gradients."""
    checks.flag(where, "use_full_gradient", use_full_gradient)
    if estimator is None:
        return _memoryless(problem, use_full_gradient)
    if use_full_gradient:
        checks.fail(where, "use_full_gradient", "False with an estimator", True, "Full gradients have no variance.")
    checks.function(where, "estimator", estimator, "svrg(...), sarah(...) or saga()")
    without_statistics(where, problem)
    made: Estimator = estimator(problem)
    return made


def full_count(problem: Problem, node_ids: Array) -> Array:
    """Gradient evaluations of one full gradient of these nodes, uint32 `[n]`."""
    return jnp.asarray(problem.num_examples, jnp.uint32)[node_ids]


def batch_count(problem: Problem, node_ids: Array) -> Array:
    """Gradient evaluations of one stochastic gradient of these nodes, uint32 `[n]`."""
    return jnp.full(node_ids.shape, problem.evaluations, jnp.uint32)


def _memoryless(problem: Problem, use_full_gradient: bool) -> Estimator:
    oracle = problem.full_gradient if use_full_gradient else problem.gradient
    counted = full_count if use_full_gradient else batch_count

    def init(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, tuple[()]]:
        return oracle(key, params, node_ids)[0], ()

    def step(key: Array, params: PyTree, node_ids: Array, memory: tuple[()]) -> tuple[PyTree, Array, tuple[()], Array]:
        gradient, loss = oracle(key, params, node_ids)
        return gradient, loss, memory, counted(problem, node_ids)

    return Estimator(init, step)


class Snapshot(NamedTuple):
    params: PyTree  # [n, ...] tau_i
    gradient: PyTree  # [n, ...] grad f_i(tau_i)


@checks.typed
def svrg(probability: Any = 0.1, *, is_common: bool = False) -> MakeEstimator:
    """Loopless SVRG: every node holds a snapshot tau_i, and renews it with a probability.

        tau_i <- x_i with probability p
        g~_i = g_i(x_i; batch) - g_i(tau_i; batch) + grad f_i(tau_i)

    Unbiased; its variance goes to zero with x_i - x* and tau_i - x*.

    Args:
      probability: p in (0, 1], traced.
      is_common: one coin for all nodes; structural.  Full gradients are computed for all nodes at once, in rounds in which
        any of them needs one: with coins of their own and many nodes that is every round.
    Cost: two gradients, and with probability p a full one.  `init` takes a full one.
    Source: Jiang, Zeng, Sun and Chen, Distributed stochastic gradient tracking algorithm with variance reduction for
      non-convex optimization (GT-VR), IEEE TNNLS 2022; Kovalev, Horvath and Richtarik, ALT 2020 (loopless SVRG).
    """
    checks.number("svrg", "probability", probability, 0.0, 1.0, open_minimum=True)

    def bound(problem: Problem) -> Estimator:
        def init(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Snapshot]:
            gradient, _ = problem.full_gradient(key, params, node_ids)
            return gradient, Snapshot(params, gradient)

        def step(
            key: Array, params: PyTree, node_ids: Array, memory: Snapshot
        ) -> tuple[PyTree, Array, Snapshot, Array]:
            stream = keys.stream(key, "snapshot")
            if is_common:
                is_new = jnp.broadcast_to(jax.random.uniform(stream, (), jnp.float32) < probability, node_ids.shape)
            else:
                is_new = keys.node_uniform(stream, node_ids, 1)[:, 0] < probability
            memory = renewed(problem, key, params, node_ids, memory, is_new)
            here, loss = problem.gradient(key, params, node_ids)
            there, _ = problem.gradient(key, memory.params, node_ids)
            gradient = trees.add(trees.subtract(here, there), memory.gradient)
            count = 2 * batch_count(problem, node_ids) + jnp.where(is_new, full_count(problem, node_ids), 0)
            return gradient, loss, memory, count.astype(jnp.uint32)

        return Estimator(init, step)

    return bound


def renewed(problem: Problem, key: Array, params: PyTree, node_ids: Array, old: Snapshot, is_new: Array) -> Snapshot:
    """Snapshots of the nodes that take one now; full gradients are computed if any does."""

    def take() -> Snapshot:
        return trees.select(is_new, Snapshot(params, problem.full_gradient(key, params, node_ids)[0]), old)

    return jax.lax.cond(jnp.any(is_new), take, lambda: old)


class Differences(NamedTuple):
    params: PyTree  # [n, ...] x_i of the step before
    gradient: PyTree  # [n, ...] g~_i of the step before
    age: Array  # int32 [n] steps since the last full gradient


@checks.typed
def sarah(period: int = 10) -> MakeEstimator:
    """SARAH: the change of a stochastic gradient is added to the estimate before; every so often a full one begins anew.

        g~_i <- grad f_i(x_i)                                                 every `period` steps
        g~_i <- g_i(x_i; batch) - g_i(x_i before; batch) + g~_i               in between

    Biased from one step to the next, of a variance that grows with the distance walked since the full gradient.

    Args:
      period: q + 1 steps from one full gradient to the next, structural.
    Cost: two gradients, or a full one.  `init` takes a full one.
    Source: Xin, Khan and Kar, Fast decentralized nonconvex finite-sum optimization with recursive variance reduction
      (GT-SARAH), SIAM J. Optim. 2022.
    """
    checks.integer("sarah", "period", period, 1)

    def bound(problem: Problem) -> Estimator:
        def init(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Differences]:
            gradient, _ = problem.full_gradient(key, params, node_ids)
            return gradient, Differences(params, gradient, jnp.zeros(node_ids.shape, jnp.int32))

        def step(
            key: Array, params: PyTree, node_ids: Array, memory: Differences
        ) -> tuple[PyTree, Array, Differences, Array]:
            age = (memory.age + 1) % period
            here, loss = problem.gradient(key, params, node_ids)
            before, _ = problem.gradient(key, memory.params, node_ids)
            moved = trees.add(trees.subtract(here, before), memory.gradient)
            gradient = renewed(problem, key, params, node_ids, Snapshot(params, moved), age == 0).gradient
            batch, whole = 2 * batch_count(problem, node_ids), full_count(problem, node_ids)
            count = jnp.where(age == 0, whole, batch).astype(jnp.uint32)
            return gradient, loss, Differences(params, gradient, age), count

        return Estimator(init, step)

    return bound


class Table(NamedTuple):
    gradients: PyTree  # [n, M, ...] of each of a node's examples, where it was last seen; zero beyond its own
    mean: PyTree  # [n, ...]


def saga() -> MakeEstimator:
    """SAGA: every node remembers one gradient an example, as it was when the example was last drawn.

        g~_i = mean over the batch of (grad f_ih(x_i) - table_ih) + mean_h table_ih
        table_ih <- grad f_ih(x_i)                                             for the h of the batch

    Unbiased; its variance goes to zero with the distance to the optimum.  Batches are drawn without replacement.

    Cost: one gradient of the batch, example by example; memory of M times the parameters, M the largest node's number
      of examples.  `init` takes one gradient an example.
    Source: Xin, Khan and Kar, Variance-reduced decentralized stochastic optimization with accelerated convergence
      (GT-SAGA), IEEE TSP 2020.  Differs: batches of any size.
    """

    def bound(problem: Problem) -> Estimator:
        if problem.gradient_at is None:
            checks.fail("saga", "problem", "one with examples to go through", "one without", "Use svrg() or sarah().")
        sizes = np.asarray(problem.num_examples)
        most, batch_size = int(sizes.max()), int(problem.batch_size)
        if sizes.min() < batch_size:
            got = f"{sizes.min()} of node {sizes.argmin()} for batches of {batch_size}"
            checks.fail("saga", "problem", "one whose nodes hold a batch of distinct examples", got)
        examples: Any = problem.gradient_at

        def one_by_one(key: Array, params: PyTree, node_ids: Array, places: Array) -> tuple[PyTree, Array]:
            """Gradients and losses at places `[n, B]`, every leaf `[n, B, ...]`."""

            def at(place: Array) -> tuple[PyTree, Array]:
                made: tuple[PyTree, Array] = examples(
                    key, params, node_ids, place[:, None], jnp.ones((place.shape[0], 1), bool)
                )
                return made

            made: tuple[PyTree, Array] = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), jax.lax.map(at, places.T))
            return made

        def init(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Table]:
            width = sum(leaf.size for leaf in jax.tree.leaves(params))
            if width * most > LARGEST_TABLE:
                got = f"{width * most:.3g}"
                checks.fail(
                    "saga", "the table", f"of at most {LARGEST_TABLE:.3g} numbers", got, "Use svrg() or sarah()."
                )
            held = jnp.asarray(sizes)[node_ids]
            places = jnp.broadcast_to(jnp.arange(most, dtype=jnp.int32), (node_ids.shape[0], most))
            is_own = places < held[:, None]
            gradients, _ = one_by_one(key, params, node_ids, jnp.where(is_own, places, 0))
            table = jax.tree.map(
                lambda leaf: jnp.where(is_own.reshape(is_own.shape + (1,) * (leaf.ndim - 2)), leaf, 0), gradients
            )
            mean = trees.scale(1 / held, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1), table))
            return mean, Table(table, mean)

        def step(key: Array, params: PyTree, node_ids: Array, memory: Table) -> tuple[PyTree, Array, Table, Array]:
            held = jnp.asarray(sizes)[node_ids]
            places = batch_positions(keys.stream(key, "positions"), node_ids, held, batch_size)
            seen, losses = one_by_one(key, params, node_ids, places)
            rows = jnp.arange(node_ids.shape[0])[:, None]
            changes = jax.tree.map(lambda new, table: new - table[rows, places], seen, memory.gradients)
            total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1), changes)
            gradient = trees.add(trees.scale(jnp.full(held.shape, 1 / batch_size), total), memory.mean)
            table = jax.tree.map(
                lambda table, new: table.at[rows, places].set(new, unique_indices=True), memory.gradients, seen
            )
            mean = trees.add(memory.mean, trees.scale(1 / held, total))
            return gradient, jnp.mean(losses, axis=1), Table(table, mean), batch_count(problem, node_ids)

        return Estimator(init, step)

    return bound
