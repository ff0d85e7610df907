"""K-GT: gradient tracking with local steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dlsim import checks, trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network
from dlsim.problems.variables import without_statistics


class KGTState(NamedTuple):
    params: PyTree  # [N, ...]
    correction: PyTree  # [N, ...] c_i


def k_gt(
    problem: Problem,
    local_learning_rate: Any,
    *,
    num_local_steps: int = 5,
    communication_step_size: Any = 1.0,
    weighting: str = "uniform",
) -> Algorithm:
    """K local steps, each corrected towards the network's mean gradient, between two exchanges.

        x_i^{k+1} = x_i^k - eta_l (g_i(x_i^k) + c_i),   k = 0..K-1
        z_i = (x_i^0 - x_i^K) / (K eta_l)
        c_i <- c_i - z_i + sum_j W_ij z_j
        x_i <- sum_j W_ij (x_j^0 - K eta_l eta_c z_j)

    from c = 0.  The corrections sum to zero (`invariant_correction`).  With K = 1 and eta_c = 1 it is gradient tracking
    that adapts before it combines the parameters and after it combines the tracker z, the order between the two of
    `gradient_tracking`.

    Args:
      problem: what the nodes learn.
      local_learning_rate: eta_l > 0, traced.
      num_local_steps: K, structural.
      communication_step_size: eta_c > 0, traced; below 1 it damps the step of a round, K eta_l eta_c.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and corrections of all nodes.
    Cost per round: K gradients and two messages of D numbers a neighbour (streams `params`, `progress`), per node.
    Assumes: connected network, doubly stochastic weights.  An absent node keeps its state; where W is symmetric the
      corrections then still sum to zero, also under links that fail both ways.  A message lost in one direction breaks
      that for good.
    Source: Liu, Lin, Koloskova and Stich, Decentralized gradient tracking with local steps, Optimization Methods and
      Software 2024, Algorithm 1.
      Differs: c starts at zero instead of at the mean of the first gradients minus node i's own, which would need a
      network-wide average before the first round.
    """
    problem = weighted("k_gt", problem, weighting)
    checks.number("k_gt", "local_learning_rate", local_learning_rate, 0.0, open_minimum=True)
    checks.number("k_gt", "communication_step_size", communication_step_size, 0.0, open_minimum=True)
    import optax

    without_statistics("k_gt", problem)
    local = local_updates(problem, optax.sgd(local_learning_rate), num_local_steps, where="k_gt")
    reach = num_local_steps * local_learning_rate

    def corrected(gradients: PyTree, params: PyTree, correction: PyTree) -> PyTree:
        del params
        return trees.add(gradients, correction)

    def init(key: Array, params: PyTree, network: Network) -> KGTState:
        del key, network
        return KGTState(params, trees.zeros_like(params))

    def step(key: Array, state: KGTState, network: Network) -> tuple[KGTState, Network, Info]:
        moved, _, info = local.run(
            key,
            state.params,
            local.init(state.params),
            network.node_ids,
            network.is_present,
            corrected,
            state.correction,
        )
        progress = jax.tree.map(lambda x, y: (x - y) / reach, state.params, moved)
        ahead = jax.tree.map(lambda x, z: x - reach * communication_step_size * z, state.params, progress)
        params, network = network.mix(key, ahead, stream="params")
        heard, network = network.mix(key, progress, stream="progress", hear="all")
        correction = jax.tree.map(lambda c, z, w: c + (w - z), state.correction, progress, heard)
        new = trees.select(network.is_present, KGTState(params, correction), state)
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "doubly_stochastic"}),
        source="Liu, Lin, Koloskova and Stich, OMS 2024",
    )


def invariant_correction(state: KGTState) -> PyTree:
    """Mean correction, `[...]`: zero up to rounding."""
    return trees.mean(state.correction)
