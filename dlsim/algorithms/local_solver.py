"""What methods of multipliers ask of a node: the minimum of its own objective and a quadratic pull.

    argmin_x f_i(x) + (rho_i / 2) ||x||^2 - <t_i, x>,     that is prox of f_i / rho_i at t_i / rho_i.

Exact where the problem has its proximal map, closed or by iterations that go on from the last round's; else K gradient
steps from the present x_i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.core import Array, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class LocalSolver(NamedTuple):
    init: Any  # (params [N, ...], network) -> memory [N, ...]; () where nothing is remembered
    # (key, params [N, ...], target [N, ...], rho [N], memory, network) -> (params, memory, losses [N], gradients [N])
    solve: Any


def local_solver(
    where: str,
    problem: Problem,
    num_local_steps: int | None,
    local_learning_rate: Any,
    optimizer: optax.GradientTransformation | None,
    use_full_gradient: bool,
) -> LocalSolver:
    """By the proximal map where `num_local_steps` is None; else by K steps.

    They are x <- (x - eta (g_i(x) - t_i)) / (1 + rho_i eta), implicit in the quadratic part, so that large rho do not force
    small steps; with an `optimizer` its own, x <- x + u(g_i(x) - t_i + rho_i x), whose state is the memory.
    """
    checks.number(where, "local_learning_rate", local_learning_rate, 0.0, open_minimum=True)
    if num_local_steps is not None:
        checks.integer(where, "num_local_steps", num_local_steps, 1)
    elif optimizer is not None:
        checks.fail(where, "num_local_steps", "an integer >= 1 with an optimizer", None, "Pass 5, say.")
    else:
        return _by_proximal(where, problem)
    return _by_steps(where, problem, num_local_steps, local_learning_rate, optimizer, use_full_gradient)


def _by_proximal(where: str, problem: Problem) -> LocalSolver:
    closed, warm = problem.proximal, problem.warm_proximal
    if closed is None and warm is None:
        fix = "Pass num_local_steps=5 for the inexact form."
        checks.fail(where, "problem", "one with a closed proximal map", "one without", fix)

    def init(params: PyTree, network: Network) -> PyTree:
        del params
        return () if warm is None or closed is not None else warm.init(network.node_ids)

    def solve(key: Array, params: PyTree, target: PyTree, rho: Array, memory: PyTree, network: Network) -> Any:
        pulled, ids = rho > 0, network.node_ids
        centre = trees.scale(1 / jnp.where(pulled, rho, 1), target)
        # A node without neighbours minimises its own f_i: at once, or by proximal point iterations of weight 1.
        if closed is not None:
            solved = closed(centre, rho, ids)
        else:
            assert warm is not None
            centre = trees.select(pulled, centre, params)
            solved, memory = warm.solve(centre, jnp.where(pulled, rho, 1), ids, memory)
        _, loss = problem.full_gradient(key, solved, ids)
        return solved, memory, loss, gradient_count(problem, network, use_full_gradient=True)

    return LocalSolver(init, solve)


def _by_steps(
    where: str,
    problem: Problem,
    num_local_steps: int,
    local_learning_rate: Any,
    optimizer: optax.GradientTransformation | None,
    use_full_gradient: bool,
) -> LocalSolver:
    oracle = problem.full_gradient if use_full_gradient else problem.gradient
    steps = None if optimizer is None else node_optimizer(where, optimizer)

    def init(params: PyTree, network: Network) -> PyTree:
        del network
        return () if steps is None else steps.init(params)

    def solve(key: Array, params: PyTree, target: PyTree, rho: Array, memory: PyTree, network: Network) -> Any:
        def local(carry: tuple[PyTree, PyTree], k: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            (params, memory), at = carry, jax.random.fold_in(key, k)
            gradient, loss = oracle(at, params, network.node_ids)
            if steps is not None:
                whole = jax.tree.map(lambda g, t, x: g - t + x, gradient, target, trees.scale(rho, params))
                updates, memory = steps.update(at, network.node_ids, whole, memory, params, loss)
                return (trees.add(params, updates), memory), loss
            moved = jax.tree.map(lambda x, g, t: x - local_learning_rate * (g - t), params, gradient, target)
            return (trees.scale(1 / (1 + local_learning_rate * rho), moved), ()), loss

        (params, memory), losses = jax.lax.scan(local, (params, memory), jnp.arange(num_local_steps))
        count = num_local_steps * gradient_count(problem, network, use_full_gradient)
        return params, memory, jnp.mean(losses, axis=0), count

    return LocalSolver(init, solve)
