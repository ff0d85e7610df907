"""Whose data counts how much where there is no server to weigh by: the nodes' own objectives are scaled."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.variables import keeping_statistics

WEIGHTINGS = ("uniform", "examples")


def weighted(where: str, problem: Problem, weighting: str) -> Problem:
    """The problem whose f_i are scaled by n_i / mean(n), for `"examples"`; for `"uniform"` the problem itself.

    mean_i (n_i / mean n) f_i = sum_i n_i f_i / sum_i n_i, so what a method without a server agrees on is the optimum over
    all examples, and a gradient step is n_i / mean(n) times as long at node i.  Losses are told as they are.
    """
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.one_of(where, "weighting", weighting, WEIGHTINGS)
    if weighting == "uniform":
        return problem
    sizes = np.asarray(problem.num_examples, np.float64)
    if not sizes.sum() > 0:
        checks.fail(where, "weighting", "'uniform' where no node has examples", repr(weighting))
    shares = jnp.asarray(sizes / sizes.mean(), float)

    def scaled(gradient: Any) -> Any:
        def of_rows(key: Array, params: PyTree, node_ids: Array, *examples: Array) -> tuple[PyTree, Array]:
            gradients, losses = gradient(key, params, node_ids, *examples)
            return keeping_statistics(gradients, trees.scale(shares[node_ids], gradients)), losses

        return of_rows

    # argmin s f_i(y) + rho/2 ||y - x||^2 is that of f_i with rho / s; a node without examples stays where it is.
    def eased(rho: Any, node_ids: Array) -> tuple[Array, Array]:
        share = shares[node_ids]
        return rho / jnp.where(share > 0, share, 1), share > 0

    def proximal(params: PyTree, rho: Any, node_ids: Array) -> PyTree:
        assert problem.proximal is not None
        rho, counts = eased(rho, node_ids)
        return trees.select(counts, problem.proximal(params, rho, node_ids), params)

    def solve(params: PyTree, rho: Any, node_ids: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        assert problem.warm_proximal is not None
        rho, counts = eased(rho, node_ids)
        return trees.select(counts, problem.warm_proximal.solve(params, rho, node_ids, memory), (params, memory))

    def conjugate(duals: PyTree, node_ids: Array) -> PyTree:
        assert problem.conjugate is not None
        return problem.conjugate(trees.scale(1 / shares[node_ids], duals), node_ids)

    smoothness, strong_convexity = problem.smoothness, problem.strong_convexity
    has_all = bool((sizes > 0).all())  # what weighs nothing has no conjugate
    return problem._replace(
        gradient=scaled(problem.gradient),
        full_gradient=scaled(problem.full_gradient),
        gradient_at=None if problem.gradient_at is None else scaled(problem.gradient_at),
        proximal=None if problem.proximal is None else proximal,
        warm_proximal=None if problem.warm_proximal is None else problem.warm_proximal._replace(solve=solve),
        with_statistics=None
        if problem.with_statistics is None
        else weighted(where, problem.with_statistics, weighting),
        optimum=None,
        smoothness=None if smoothness is None else lambda: float(shares.max()) * smoothness(),
        strong_convexity=None if strong_convexity is None else lambda: float(shares.min()) * strong_convexity(),
        conjugate=None if problem.conjugate is None or not has_all else conjugate,
    )
