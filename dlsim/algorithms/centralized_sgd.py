"""Centralised SGD: the reference that sees all data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.optimizers import server_optimizer
from dlsim.algorithms.server_round import WEIGHTINGS, as_one, first
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class CentralizedSGDState(NamedTuple):
    params: PyTree  # [...]
    optimizer_state: PyTree


def centralized_sgd(
    problem: Problem, optimizer: optax.GradientTransformation, *, weighting: str = "uniform"
) -> Algorithm:
    """One model, one gradient from every node's data a step:  x <- x + u(sum_i p_i g_i(x)).

    Nothing is sent and nothing lost; what an ideal network with one shared model would do.  With SGD and uniform
    weights this is adapt-then-combine D-SGD on the complete graph.

    Args:
      problem: what the nodes learn.
      optimizer: receives the mean gradient; floats may be traced.
      weighting: `"uniform"` (the mean of the f_i) or `"examples"` (the mean over all data); structural.

    Data of absent nodes is not used; with nobody there nothing moves.
    """
    checks.instance("centralized_sgd", "problem", problem, Problem, "See dlsim.problems.")
    one = server_optimizer("centralized_sgd", optimizer, "optimizer")
    checks.one_of("centralized_sgd", "weighting", weighting, WEIGHTINGS)

    def init(key: Array, params: PyTree, network: Network) -> CentralizedSGDState:
        del key, network
        model = first(params)
        return CentralizedSGDState(model, one.init(model))

    def step(key: Array, state: CentralizedSGDState, network: Network) -> tuple[CentralizedSGDState, Network, Info]:
        import optax

        copies = trees.replicate(state.params, network.num_nodes)
        gradients, losses = problem.gradient(keys.stream(key, "batch"), copies, network.node_ids)
        weights = jnp.ones(network.num_nodes)
        if weighting == "examples":
            weights = jnp.asarray(problem.num_examples, float)[network.node_ids]
        if network.is_present is not None:
            weights = jnp.where(network.is_present, weights, 0)
        gradient, loss = trees.mean(gradients, weights), trees.mean(losses, weights)
        updates, optimizer_state = one.update(key, gradient, state.optimizer_state, state.params, loss)
        new = CentralizedSGDState(optax.apply_updates(state.params, updates), optimizer_state)
        someone = jnp.any(weights > 0)
        new = jax.tree.map(lambda a, b: jnp.where(someone, a, b), new, state)
        return new, network, {"loss": losses, "num_gradients": gradient_count(problem, network)}

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: as_one(state.params),
        requires=frozenset({"common_start"}),
    )
