"""Sharpness-aware minimisation: gradients where the loss is worst nearby."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.maps import without_maps
from dlsim.problems.variables import keeping_statistics, trained, with_statistics, with_trained

SOURCE = "Foret, Kleiner, Mobahi and Neyshabur, ICLR 2021"


def sharpness_aware(problem: Problem, rho: Any = 0.01) -> Problem:
    """The same problem, whose gradients are those at the worst point within `rho`, to first order (SAM):

        g = grad f_i(x_i; batch),   d = rho g / (||g|| + 1e-12),   gradient at node i = grad f_i(x_i + d; batch)

    with one batch, and one set of draws, for both.  ||g|| is the norm of a node's whole gradient, summed in float32, so
    that ||d|| = rho whatever the scale of the loss, and d = 0 where g = 0.  Any method and any optax optimiser takes it:
    the optimiser sees this gradient where it would have seen g.  `dsgd(sharpness_aware(problem, rho), optax.sgd(eta),
    num_local_steps=K)` is DFedSAM, with `num_gossip_steps=Q` DFedSAM-MGS, `fedavg` of it FedSAM.

    The loss that a gradient tells is that at x_i.  Full gradients and proximal maps are not sharpness-aware: the former
    stay exact, a closed form of the latter is gone.  Running statistics (BatchNorm) move by the first pass alone.

    Args:
      rho: >= 0; may be traced.  A Python number 0 gives the problem itself back, and a traced one that is 0 the right
        numbers at twice the work.  Near a minimum steps do not vanish: iterates hover at a distance of order rho.
    Cost: two gradients in place of one, and so they are counted (`num_passes`).
    Source: Foret, Kleiner, Mobahi and Neyshabur, Sharpness-aware minimization for efficiently improving generalization,
      ICLR 2021; Shi et al., Improving the model consistency of decentralized federated learning, ICML 2023 (DFedSAM,
      rho = 0.01).
    """
    where = "sharpness_aware"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.number(where, "rho", rho, 0.0)
    if isinstance(rho, int | float) and rho == 0:
        return problem
    inner = with_statistics(problem)
    twice = _twice(inner, rho)
    made = twice if inner is problem else problem._replace(num_passes=twice.num_passes, with_statistics=twice)
    return without_maps(made)._replace(source="; ".join(filter(None, (problem.source, SOURCE))))


def _twice(problem: Problem, rho: Any) -> Problem:
    """The problem whose two ways to a stochastic gradient go by the worst point nearby."""

    def by(oracle: Any) -> Any:
        def gradient(key: Array, params: PyTree, node_ids: Array, *batch: Array) -> tuple[PyTree, Array]:
            first, losses = oracle(key, params, node_ids, *batch)
            norm = jnp.sqrt(trees.squared_norm(trained(first)))
            away = trees.scale(rho / (norm + 1e-12), trees.widen(trained(first)))
            there = trees.cast_like(trees.add(trees.widen(trained(params)), away), trained(params))
            second, _ = oracle(key, with_trained(params, there), node_ids, *batch)
            return keeping_statistics(first, second), losses

        return gradient

    at = problem.gradient_at
    return problem._replace(
        gradient=by(problem.gradient),
        gradient_at=None if at is None else by(at),
        num_passes=2 * problem.num_passes,
    )
