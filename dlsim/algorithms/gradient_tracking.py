"""Gradient tracking: every node follows an estimate of the network's mean gradient."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms.dsgd import ORDERS
from dlsim.algorithms.estimators import batch_count, estimator_of, full_count
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.graphs import spectral
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class GradientTrackingState(NamedTuple):
    params: PyTree  # [N, ...]
    tracker: PyTree  # [N, ...] y_i, the estimate of the mean gradient
    gradient: PyTree  # [N, ...] g_i at the params
    optimizer_state: PyTree  # [N, ...]
    memory: PyTree  # [N, ...] of the gradient estimator; () without one


@checks.typed
def gradient_tracking(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    order: str = "adapt_then_combine",
    tracker_order: str | None = None,
    estimator: Any = None,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """Stochastic gradient tracking, in all orders, with variance reduction where asked for.

    With `optimizer=optax.sgd(eta)`, weights W and gradients g_i, from y_i = g_i(x_i):

        x_i <- sum_j W_ij (x_j - eta y_j)                  order="adapt_then_combine" (Aug-DGM)
        y_i <- sum_j W_ij (y_j + g_j(x_j new) - g_j(x_j old))

        x_i <- sum_j W_ij x_j - eta y_i                    order="combine_then_adapt" (DIGing)
        y_i <- sum_j W_ij y_j + g_i(x_i new) - g_i(x_i old)

    and with the first line of the one and the second of the other: `tracker_order="combine_then_adapt"` with parameters
    that adapt first is NEXT and SONATA.  With an `estimator` g~_i stands for g_i: `svrg` makes GT-VR, `sarah` GT-SARAH,
    `saga` GT-SAGA.

    The mean of the trackers equals the mean of the latest gradients (`invariant_tracking`), so a fixed point with
    constant eta is the optimum itself, whatever the heterogeneity.

    The step is limited by the network.  With symmetric W of least eigenvalue l and nodes of one curvature, at most L, the
    method is stable if and only if (`stable_step`, times 1 / L)

        eta L < (1 + l)^2 / 2                              order="combine_then_adapt"
        eta L < min(2, (1 + l)^2 / (2 l^2) if l < 0)       order="adapt_then_combine"

        eta L < min(2, (1 - l^2) / |l| if l < 0)           of two different orders

    Metropolis-Hastings weights have l = -1/3 on a ring (2/9 and 2), -3/5 on a torus (2/25 and 2/9).  Where the problem
    knows its L and the optimiser is plain SGD, a rate above the limit is said in a warning.

    Args:
      problem: what the nodes learn.
      optimizer: receives y_i in place of a gradient; plain SGD gives the papers' methods; floats may be traced.
      order: of the parameters: `"adapt_then_combine"`, as by default in `dsgd`, or `"combine_then_adapt"`; structural.
      tracker_order: of the trackers; None: that of the parameters; structural.
      estimator: `algorithms.svrg(...)`, `sarah(...)` or `saga()`; None: the problem's own stochastic gradient.
      use_full_gradient: gradients over all of a node's data; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

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
      and Nedic, Distributed stochastic gradient tracking methods, Math. Program. 2021; Di Lorenzo and Scutari, NEXT:
      in-network nonconvex optimization, IEEE TSIPN 2016.  With an estimator: its own.
    """
    problem = weighted("gradient_tracking", problem, weighting)
    steps = node_optimizer("gradient_tracking", optimizer)
    checks.one_of("gradient_tracking", "order", order, ORDERS)
    tracker_order = order if tracker_order is None else tracker_order
    checks.one_of("gradient_tracking", "tracker_order", tracker_order, ORDERS)
    oracle = estimator_of("gradient_tracking", problem, estimator, use_full_gradient)

    def init(key: Array, params: PyTree, network: Network) -> GradientTrackingState:
        _say_if_unstable(problem, network, optimizer, params, order, tracker_order)
        gradient, memory = oracle.init(keys.stream(key, "batch"), params, network.node_ids)
        return GradientTrackingState(params, gradient, gradient, steps.init(params), memory)

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
        batch = keys.stream(key, "batch")
        gradient, loss, memory, count = oracle.step(batch, params, network.node_ids, state.memory)
        change = trees.subtract(gradient, state.gradient)
        if tracker_order == "adapt_then_combine":
            tracker, network = network.mix(key, trees.add(state.tracker, change), stream="tracker", hear="all")
        else:
            mixed, network = network.mix(key, state.tracker, stream="tracker", hear="all")
            tracker = trees.add(mixed, change)
        new = GradientTrackingState(params, tracker, gradient, optimizer_state, memory)
        info = {"loss": loss, "num_gradients": of_present(count, network)}
        return trees.select(network.is_present, new, state), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "doubly_stochastic"}),
        source="Nedic, Olshevsky and Shi, SIAM J. Optim. 2017; Xu et al., CDC 2015; Pu and Nedic, Math. Program. 2021",
    )


def stable_step(order: str, least_eigenvalue: float, tracker_order: str | None = None) -> float:
    """eta L below which gradient tracking is stable for nodes of one curvature; W symmetric, with this eigenvalue.

    On an eigenvector of W of eigenvalue l, the roots z of (z - l)^2 + c (z - 1) = 0 with c = eta L, or c = l^2 eta L
    where it is adapt-then-combine, l eta L where the orders differ, are the factors of a round.  They are in the unit
    circle as long as z = -1 is none, and their product l^2 - c below 1.
    """
    if tracker_order not in (None, order):
        return min(2.0, (1 - least_eigenvalue**2) / -least_eigenvalue) if least_eigenvalue < 0 else 2.0
    if order == "combine_then_adapt":
        return (1 + least_eigenvalue) ** 2 / 2
    return min(2.0, (1 + least_eigenvalue) ** 2 / (2 * least_eigenvalue**2)) if least_eigenvalue < 0 else 2.0


def _rate_of(optimizer: optax.GradientTransformation, params: PyTree) -> float | None:
    """eta, if the optimiser is x - eta g with a known eta, whatever came before; else None.  `params [N, ...]`."""
    try:
        with jax.ensure_compile_time_eval():
            at = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[1:], leaf.dtype), params)
            state, rates = optimizer.init(at), []
            for gradient in (1.0, -2.0, 1.0):
                update, state = optimizer.update(jax.tree.map(lambda one, g=gradient: g * one, at), state, at)
                rates += [-leaf / gradient for leaf in jax.tree.leaves(update)]
            if not checks.is_concrete(rates):
                return None
            seen = np.concatenate([np.asarray(rate, np.float64).ravel() for rate in rates])
    except Exception:  # it wants arguments of its own, such as the loss: it is not plain
        return None
    return float(seen[0]) if np.allclose(seen, seen[0], rtol=1e-5, atol=0) else None


def _say_if_unstable(
    problem: Problem,
    network: Network,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    order: str,
    tracker_order: str,
) -> None:
    known = checks.is_concrete((network.edge_weights, network.self_weights))
    if problem.smoothness is None or not known or "symmetric" not in network.properties:
        return
    rate = _rate_of(optimizer, params)
    if rate is None:
        return
    with jax.ensure_compile_time_eval():
        smoothness = problem.smoothness()
    if not checks.is_concrete(smoothness):
        return
    step = rate * float(smoothness)
    # Gershgorin: no eigenvalue lies below.  The eigenvalue itself only where that does not settle it.
    least = 0.0 if network.is_implicit else 2 * float(np.min(np.asarray(network.self_weights))) - 1
    if step < stable_step(order, least, tracker_order) or network.num_nodes > spectral.DENSE_NODES:
        return
    least = float(spectral.spectrum(network).min())
    limit = stable_step(order, least, tracker_order)
    if step >= limit:
        is_best = order == "adapt_then_combine" == tracker_order
        other = "" if is_best else ' or use order="adapt_then_combine"'
        warnings.warn(
            f"gradient_tracking: {order} at rate {rate:g} may diverge: eta L = {step:.3g} is not below {limit:.3g}, the "
            f"limit where W's least eigenvalue is {least:.3g}. Lower the rate{other}.",
            stacklevel=2,
        )


def gradient_count(problem: Problem, network: Network, use_full_gradient: bool = False) -> Array:
    """Gradient evaluations of one call of the problem's gradient at every node, uint32 `[N]`; none where absent."""
    counted = full_count if use_full_gradient else batch_count
    return of_present(counted(problem, network.node_ids), network)


def of_present(count: Array, network: Network) -> Array:
    """Counts `[N]` of the nodes that are there; 0 for the absent, whose work is thrown away."""
    return count if network.is_present is None else jnp.where(network.is_present, count, 0)


def invariant_tracking(state: GradientTrackingState) -> PyTree:
    """Mean tracker minus mean latest gradient, `[...]`: zero up to rounding."""
    return trees.subtract(trees.mean(state.tracker), trees.mean(state.gradient))
