"""Gradient tracking: every node follows an estimate of the network's mean gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.dsgd import ORDERS
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class GradientTrackingState(NamedTuple):
    params: PyTree  # [N, ...]
    tracker: PyTree  # [N, ...] y_i, the estimate of the mean gradient
    gradient: PyTree  # [N, ...] g_i at the params
    optimizer_state: PyTree  # [N, ...]


@checks.typed
def gradient_tracking(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    order: str = "combine_then_adapt",
    use_full_gradient: bool = False,
) -> Algorithm:
    """Stochastic gradient tracking, in both orders.

    With `optimizer=optax.sgd(eta)`, weights W and gradients g_i, from y_i = g_i(x_i):

        x_i <- sum_j W_ij x_j - eta y_i                    order="combine_then_adapt" (DIGing)
        y_i <- sum_j W_ij y_j + g_i(x_i new) - g_i(x_i old)

        x_i <- sum_j W_ij (x_j - eta y_j)                  order="adapt_then_combine" (Aug-DGM)
        y_i <- sum_j W_ij (y_j + g_j(x_j new) - g_j(x_j old))

    The mean of the trackers equals the mean of the latest gradients (`invariant_tracking`), so a fixed point with
    constant eta is the optimum itself, whatever the heterogeneity.

    Args:
      problem: what the nodes learn.
      optimizer: receives y_i in place of a gradient; plain SGD gives the papers' methods; floats may be traced.
      order: `"combine_then_adapt"` or `"adapt_then_combine"`; structural.
      use_full_gradient: gradients over all of a node's data; structural.

    Returns:
      Algorithm whose state holds the parameters, trackers, latest gradients and optimiser states of all nodes.
    Cost per round: one gradient and two messages of D numbers a neighbour (streams `params` and `tracker`), per node.
      `init` takes one gradient more, which is not counted.
    Assumes: connected network, doubly stochastic weights.  An absent node keeps x, y and g, and its weight stays with
      its neighbours: where W is symmetric, the invariant holds under churn and under links that fail both ways, and
      the method stays exact.  A message lost in one direction, or an absent node where W is not symmetric, breaks the
      invariant for good, and the limit is then off by what was lost.
    Source: Nedic, Olshevsky and Shi, Achieving geometric convergence for distributed optimization over time-varying
      graphs, SIAM J. Optim. 2017 (DIGing); Xu et al., Augmented distributed gradient methods, CDC 2015 (Aug-DGM); Pu
      and Nedic, Distributed stochastic gradient tracking methods, Math. Program. 2021.
    """
    checks.instance("gradient_tracking", "problem", problem, Problem, "See dlsim.problems.")
    steps = node_optimizer("gradient_tracking", optimizer)
    checks.one_of("gradient_tracking", "order", order, ORDERS)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient

    def init(key: Array, params: PyTree, network: Network) -> GradientTrackingState:
        gradient, _ = oracle(keys.stream(key, "batch"), params, network.node_ids)
        return GradientTrackingState(params, gradient, gradient, steps.init(params))

    def step(key: Array, state: GradientTrackingState, network: Network) -> tuple[GradientTrackingState, Network, Info]:
        updates, optimizer_state = steps.update(
            key, network.node_ids, state.tracker, state.optimizer_state, state.params
        )
        if order == "adapt_then_combine":
            params, network = network.mix(key, trees.add(state.params, updates), stream="params")
        else:
            mixed, network = network.mix(key, state.params, stream="params")
            params = trees.add(mixed, updates)
        params = trees.select(network.is_present, params, state.params)
        gradient, loss = oracle(keys.stream(key, "batch"), params, network.node_ids)
        change = trees.subtract(gradient, state.gradient)
        if order == "adapt_then_combine":
            tracker, network = network.mix(key, trees.add(state.tracker, change), stream="tracker")
        else:
            mixed, network = network.mix(key, state.tracker, stream="tracker")
            tracker = trees.add(mixed, change)
        new = GradientTrackingState(params, tracker, gradient, optimizer_state)
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "doubly_stochastic"}),
        source="Nedic, Olshevsky and Shi, SIAM J. Optim. 2017; Xu et al., CDC 2015; Pu and Nedic, Math. Program. 2021",
    )


def gradient_count(problem: Problem, network: Network, use_full_gradient: bool = False) -> Array:
    """Gradient evaluations of one call of the problem's gradient at every node, uint32 `[N]`; none where absent."""
    if use_full_gradient:
        count = jnp.asarray(problem.num_examples, jnp.uint32)[network.node_ids]
    else:
        count = jnp.full(network.num_nodes, problem.batch_size, jnp.uint32)
    return count if network.is_present is None else jnp.where(network.is_present, count, 0)


def invariant_tracking(state: GradientTrackingState) -> PyTree:
    """Mean tracker minus mean latest gradient, `[...]`: zero up to rounding."""
    return trees.subtract(trees.mean(state.tracker), trees.mean(state.gradient))
