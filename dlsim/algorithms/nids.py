"""NIDS: a network-independent step size, for composite objectives."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class NIDSState(NamedTuple):
    params: PyTree  # [N, ...] x^k
    correction: PyTree  # [N, ...] s^k = z^k - x^{k-1} + eta g(x^{k-1}), zero before the first step
    shrinkage: PyTree  # [N, ...] z^k - x^k, what the proximal map took away; () without one


@checks.typed
def nids(
    problem: Problem,
    learning_rate: Any,
    *,
    proximal: Any = None,
    consensus_step_size: Any = 0.5,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """NIDS: minimise mean_i f_i(x) + r_i(x) with a step size that does not depend on the network.

        z^1     = x^0 - eta g(x^0)
        z^{k+1} = z^k - x^k + W~ (2 x^k - x^{k-1} - eta (g(x^k) - g(x^{k-1})))
        x^k     = prox_{eta r}(z^k)

    with W~ = I - c (I - W), c = `consensus_step_size`.  Without r it is exact diffusion's recursion, begun by a round
    without mixing.  What is computed, with s^1 = 0 and psi = x^k - eta g(x^k):

        s_i <- s_i + sum_j (W~ - I)_ij phi_j,   phi_i = psi_i + s_i - (z_i - x_i)
        z_i <- psi_i + s_i

    Each node may have its own eta_i; then W~ = I - c diag(eta_i / max eta) (I - W), and sum_i s_i / eta_i = 0
    (`invariant_correction`).

    Args:
      problem: the smooth parts f_i.
      learning_rate: eta > 0, a float or one a node `[N]` (by node id); traced.  Below 2 / L_i, whatever the graph.
      proximal: (tree [N, ...], eta [N]) -> prox of eta_i r_i at row i; None: r = 0.
      consensus_step_size: c in (0, 1], traced.  W~ must be positive semidefinite: 1/2 is always safe, and c may go up
        to 1 / (1 - lambda_min(W)).
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and corrections of all nodes.
    Cost per round: one gradient and one message of D numbers a neighbour, per node.  `init` takes one gradient more,
      which is not counted.
    Assumes: connected undirected network, symmetric doubly stochastic weights.  Absent nodes keep their state: the
      invariant holds and the fixed point is the same, so the method stays exact under churn and under links that fail
      both ways.  A message lost in one direction breaks the invariant for good.
    Source: Li, Shi and Yan, A decentralized proximal-gradient method with network independent step-sizes and separated
      convergence rates, IEEE TSP 2019, Algorithm 1, with its Lambda = diag(eta_i) and its c = ours / max eta.
      Differs: stochastic gradients unless `use_full_gradient`.
    """
    problem = weighted("nids", problem, weighting)
    if getattr(learning_rate, "ndim", 0) == 0 and not isinstance(learning_rate, list | tuple):
        checks.number("nids", "learning_rate", learning_rate, 0.0, open_minimum=True)
    else:
        checks.shape("nids", "learning_rate", learning_rate, (problem.num_nodes,))
        checks.finite("nids", "learning_rate", learning_rate)
        if checks.is_concrete(learning_rate) and not (np.asarray(learning_rate) > 0).all():
            checks.fail("nids", "learning_rate", "above 0 at every node", f"{np.min(learning_rate):g}")
    if proximal is not None:
        checks.function("nids", "proximal", proximal, "a function of (tree, eta)")
    checks.number("nids", "consensus_step_size", consensus_step_size, 0.0, 1.0, open_minimum=True)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient
    rates = jnp.broadcast_to(jnp.asarray(learning_rate, float), (problem.num_nodes,))

    def shrink(z: PyTree, eta: Array) -> tuple[PyTree, PyTree]:
        """prox(z) and z - prox(z)."""
        if proximal is None:
            return z, ()
        params = proximal(z, eta)
        return params, trees.subtract(z, params)

    def init(key: Array, params: PyTree, network: Network) -> NIDSState:
        eta = rates[network.node_ids]
        gradient, _ = oracle(keys.stream(key, "batch"), params, network.node_ids)
        new_params, shrinkage = shrink(trees.subtract(params, trees.scale(eta, gradient)), eta)
        return NIDSState(new_params, trees.zeros_like(params), shrinkage)

    def step(key: Array, state: NIDSState, network: Network) -> tuple[NIDSState, Network, Info]:
        eta = rates[network.node_ids]
        gradient, loss = oracle(keys.stream(key, "batch"), state.params, network.node_ids)
        adapted = trees.subtract(state.params, trees.scale(eta, gradient))
        said = trees.add(adapted, state.correction)
        if proximal is not None:
            said = trees.subtract(said, state.shrinkage)
        mixed, network = network.mix(key, said)
        share = consensus_step_size * eta / jnp.max(rates)
        correction = trees.add(state.correction, trees.scale(share, trees.subtract(mixed, said)))
        params, shrinkage = shrink(trees.add(adapted, correction), eta)
        new = NIDSState(params, correction, shrinkage)
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "row_stochastic"}),
        source="Li, Shi and Yan, IEEE TSP 2019",
    )


def invariant_correction(state: NIDSState, learning_rate: Any = 1.0) -> PyTree:
    """Mean of s_i / eta_i, `[...]`, up to scale: zero up to rounding.  `learning_rate` by row where nodes differ."""
    rows = jax.tree.leaves(state.params)[0].shape[0]
    return trees.mean(state.correction, 1 / jnp.broadcast_to(jnp.asarray(learning_rate), (rows,)))
