"""Wang and Elia's distributed optimisation by feedback control."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class WangEliaState(NamedTuple):
    params: PyTree  # [N, ...]
    integral: PyTree  # [N, ...] z_i


def wang_elia(
    problem: Problem, learning_rate: Any, *, use_full_gradient: bool = False, weighting: str = "uniform"
) -> Algorithm:
    """Disagreement fed back in proportion and by its integral.

        x_i <- x_i - sum_j K_ij (x_j + z_j) - eta g_i(x_i)
        z_i <- z_i + sum_j K_ij x_j                          with the x of before

    from z = 0, with K = (I - W) / 2.  The integrals sum to zero (`invariant_integral`), so a fixed point for constant
    eta has one x, K z_i = -eta grad f_i(x), and is the optimum.

    Args:
      problem: what the nodes learn.
      learning_rate: eta > 0, traced.
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and integrals of all nodes.
    Cost per round: one gradient and two messages of D numbers a neighbour (streams `params` and `integral`), per node.
    Assumes: connected undirected network, symmetric doubly stochastic weights.  Absent nodes keep their state: the
      invariant holds under churn and under links that fail both ways.  A message lost in one direction breaks it for
      good.
    Source: Wang and Elia, Control approach to distributed optimization, Allerton 2010; in discrete time as in Bastianello
      et al. (decent-bench).  Differs: stochastic gradients unless `use_full_gradient`.
    """
    problem = weighted("wang_elia", problem, weighting)
    checks.number("wang_elia", "learning_rate", learning_rate, 0.0, open_minimum=True)
    checks.flag("wang_elia", "use_full_gradient", use_full_gradient)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient

    def init(key: Array, params: PyTree, network: Network) -> WangEliaState:
        del key, network
        return WangEliaState(params, trees.zeros_like(params))

    def step(key: Array, state: WangEliaState, network: Network) -> tuple[WangEliaState, Network, Info]:
        gradient, loss = oracle(keys.stream(key, "batch"), state.params, network.node_ids)
        mixed, network = network.mix(key, state.params, stream="params")
        mixed_integral, network = network.mix(key, state.integral, stream="integral")
        apart = jax.tree.map(lambda x, w: 0.5 * (x - w), state.params, mixed)  # K x
        pull = jax.tree.map(lambda z, w: 0.5 * (z - w), state.integral, mixed_integral)
        params = jax.tree.map(lambda x, k, p, g: x - (k + p) - learning_rate * g, state.params, apart, pull, gradient)
        new = WangEliaState(params, trees.add(state.integral, apart))
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "row_stochastic"}),
        source="Wang and Elia, Allerton 2010",
    )


def invariant_integral(state: WangEliaState) -> PyTree:
    """Mean integral, `[...]`: zero up to rounding."""
    return trees.mean(state.integral)
