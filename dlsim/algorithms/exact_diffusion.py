"""Exact diffusion and D2: adapt, correct, combine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class ExactDiffusionState(NamedTuple):
    params: PyTree  # [N, ...]
    correction: PyTree  # [N, ...] x^k - psi^k, zero before the first step; tends to eta grad f_i(x*)
    optimizer_state: PyTree  # [N, ...]


@checks.typed
def exact_diffusion(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """Exact diffusion: adapt-then-combine without its bias.

        psi_i^{k+1} = x_i^k - eta g_i(x_i^k)                        adapt
        phi_i^{k+1} = psi_i^{k+1} + x_i^k - psi_i^k                 correct
        x_i^{k+1}   = sum_j W~_ij phi_j^{k+1},  W~ = (I + W) / 2    combine

    with psi^0 = x^0.  The corrections x^k - psi^k sum to zero (`invariant_correction`): a round adds (W~ - I) phi to
    them.  So the fixed point for constant eta is the optimum.

    Args:
      problem: what the nodes learn.
      optimizer: makes the adapt step; `optax.sgd(eta)` gives the paper's method; floats may be traced.
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters, corrections and optimiser states of all nodes.
    Cost per round: one gradient and one message of D numbers a neighbour, per node.
    Assumes: connected undirected network, symmetric doubly stochastic weights; eta < 2 / L, whatever the graph.  Absent
      nodes keep x and psi: the corrections still sum to zero and the fixed point is the same, so the method stays exact
      under churn and under links that fail both ways.  A message lost in one direction breaks the sum for good.
    Source: Yuan, Ying, Zhao and Sayed, Exact diffusion for distributed optimization and learning: part I, IEEE TSP
      2019, Algorithm 1.  Differs: stochastic gradients unless `use_full_gradient`; equal weights on all nodes' losses.
    """
    return _corrected(problem, optimizer, use_full_gradient, weighting, is_lazy=True)


@checks.typed
def d2(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """D2, decentralised training over decentralised data: exact diffusion with W itself in place of (I + W) / 2.

        x^1     = W (x^0 - eta g(x^0))
        x^{k+1} = W (2 x^k - x^{k-1} - eta (g(x^k) - g(x^{k-1})))

    Args:
      problem: what the nodes learn.
      optimizer: makes the step from x^k; `optax.sgd(eta)` gives the paper's method; floats may be traced.
      use_full_gradient: gradients over all of a node's data; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns, cost, absent nodes: as `exact_diffusion`.
    Assumes: connected undirected network, symmetric doubly stochastic weights with their smallest eigenvalue above
      -1/3; it diverges below.  `weights="lazy_metropolis_hastings"` has it; plain Metropolis-Hastings weights do not
      on even rings, for one.
    Source: Tang, Lian, Yan, Zhang and Liu, D2: decentralized training over decentralized data, ICML 2018.
    """
    return _corrected(problem, optimizer, use_full_gradient, weighting, is_lazy=False)


def _corrected(
    problem: Problem, optimizer: optax.GradientTransformation, use_full_gradient: bool, weighting: str, is_lazy: bool
) -> Algorithm:
    where = "exact_diffusion" if is_lazy else "d2"
    problem = weighted(where, problem, weighting)
    steps = node_optimizer(where, optimizer)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient
    share = 0.5 if is_lazy else 1.0  # W~ = I + share (W - I)

    def init(key: Array, params: PyTree, network: Network) -> ExactDiffusionState:
        del key, network
        return ExactDiffusionState(params, trees.zeros_like(params), steps.init(params))

    def step(key: Array, state: ExactDiffusionState, network: Network) -> tuple[ExactDiffusionState, Network, Info]:
        gradient, loss = oracle(keys.stream(key, "batch"), state.params, network.node_ids)
        updates, optimizer_state = steps.update(
            key, network.node_ids, gradient, state.optimizer_state, state.params, loss
        )
        corrected = jax.tree.map(lambda x, u, c: x + u + c, state.params, updates, state.correction)
        mixed, network = network.mix(key, corrected)
        moved = jax.tree.map(lambda m, phi: share * (m - phi), mixed, corrected)
        # x - psi is summed up from what mixing moves, not taken as a difference of two large numbers.
        correction = trees.add(state.correction, moved)
        new = ExactDiffusionState(trees.add(corrected, moved), correction, optimizer_state)
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "row_stochastic"}),
        source="Yuan et al., IEEE TSP 2019" if is_lazy else "Tang et al., ICML 2018",
    )


def invariant_correction(state: ExactDiffusionState) -> PyTree:
    """Mean correction x - psi, `[...]`: zero up to rounding."""
    return trees.mean(state.correction)
