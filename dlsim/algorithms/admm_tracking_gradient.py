"""ADMM-tracking gradient: gradient tracking whose averages are found by ADMM."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dlsim import checks, keys, trees
from dlsim.algorithms import edge_duals
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.edge_messages import sum_at_receivers
from dlsim.networks.network import Network


class ADMMTrackingState(NamedTuple):
    params: PyTree  # [N, ...]
    duals: PyTree  # two trees [E, ...]: z_ij of the parameters and of the gradients


@checks.typed
def admm_tracking_gradient(
    problem: Problem,
    learning_rate: Any,
    *,
    step_size: Any = 0.1,
    penalty: Any = 1.0,
    relaxation: Any = 0.5,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """ATG: every node follows estimates of the mean parameters and the mean gradient which consensus ADMM makes.

        (y_i, s_i) = ((x_i, g_i(x_i)) + sum_j z_ij) / (1 + rho d_i)
        x_i  <- x_i + gamma (y_i - delta s_i - x_i)
        z_ij <- (1 - alpha) z_ij + alpha (2 rho (y_j, s_j) - z_ji)

    from z = 0, with d_i neighbours.  At a fixed point y and s are the means of x and g and the same everywhere, and
    y - x = delta s sums to zero over the nodes: it is the optimum, whatever the heterogeneity, and whichever messages are
    lost on the way.

    Args:
      problem: what the nodes learn.
      learning_rate: delta > 0, traced.  A step moves along delta gamma times the mean gradient.
      step_size: gamma in (0, 1], traced; the averages are to be faster than the parameters.
      penalty: rho > 0, traced.
      relaxation: alpha in (0, 1), traced.
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters of all nodes and two variables at each end of a link.
    Cost per round: one gradient and one message of 2 D numbers a neighbour, a different one each; state (1 + 2 d) D a node.
    Assumes: connected undirected network that lists its edges, the same all the time; mixing weights are not used.
      Absent nodes keep their state; lost messages leave their z as it was: the fixed point stays the optimum.
    Source: Carnevale, Bastianello, Notarstefano and Carli, ADMM-tracking gradient for distributed optimization over
      asynchronous and unreliable networks, IEEE TAC 2025.  Differs: stochastic gradients unless `use_full_gradient`.
    """
    where = "admm_tracking_gradient"
    problem = weighted(where, problem, weighting)
    for name, value in {"learning_rate": learning_rate, "penalty": penalty}.items():
        checks.number(where, name, value, 0.0, open_minimum=True)
    checks.number(where, "step_size", step_size, 0.0, 1.0, open_minimum=True)
    checks.number(where, "relaxation", relaxation, 0.0, 1.0, open_minimum=True, open_maximum=True)
    checks.flag(where, "use_full_gradient", use_full_gradient)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient

    def init(key: Array, params: PyTree, network: Network) -> ADMMTrackingState:
        del key
        nothing = trees.zeros_like(params)
        return ADMMTrackingState(params, edge_duals.start(where, network, (nothing, nothing)))

    def step(key: Array, state: ADMMTrackingState, network: Network) -> tuple[ADMMTrackingState, Network, Info]:
        gradient, loss = oracle(keys.stream(key, "batch"), state.params, network.node_ids)
        total = trees.add((state.params, gradient), sum_at_receivers(network, state.duals))
        y, s = said = trees.scale(1 / (1 + penalty * edge_duals.degrees(network)), total)
        params = jax.tree.map(lambda x, y, s: x + step_size * (y - learning_rate * s - x), state.params, y, s)
        duals, network = edge_duals.exchange(network, key, state.duals, said, penalty, relaxation)
        count = gradient_count(problem, network, use_full_gradient)
        new = ADMMTrackingState(trees.select(network.is_present, params, state.params), duals)
        return new, network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=edge_duals.REQUIRES,
        source="Carnevale, Bastianello, Notarstefano and Carli, IEEE TAC 2025",
    )
