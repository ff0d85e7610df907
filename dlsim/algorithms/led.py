"""LED: exact diffusion with local steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dlsim import checks, trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network
from dlsim.problems.variables import without_statistics


class LEDState(NamedTuple):
    params: PyTree  # [N, ...]
    dual: PyTree  # [N, ...] y_i


@checks.typed
def led(
    problem: Problem,
    learning_rate: Any,
    *,
    num_local_steps: int = 5,
    dual_step_size: Any = None,
    weighting: str = "uniform",
) -> Algorithm:
    """Local exact diffusion: K local steps, pulled by a dual, between two exchanges of one message.

        phi_i^0     = x_i
        phi_i^{k+1} = phi_i^k - eta g_i(phi_i^k) - beta y_i,   k = 0..K-1
        x_i <- sum_j W_ij phi_j^K
        y_i <- y_i + phi_i^K - x_i

    from y = 0.  The duals sum to zero (`invariant_dual`), so a fixed point with constant eta is the optimum, whatever
    the heterogeneity.  With K = 1 and beta = 1 it is `d2`.

    Args:
      problem: what the nodes learn.
      learning_rate: eta > 0, traced.
      num_local_steps: K, structural.
      dual_step_size: beta in (0, 1], traced; None: 1 / K.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and duals of all nodes.
    Cost per round: K gradients and one message of D numbers a neighbour, per node: half of `k_gt`'s.
    Assumes: connected undirected network, symmetric doubly stochastic weights, which for beta = 1 / K have their smallest
      eigenvalue above -1/3 (as `d2`; `lazy_metropolis_hastings` has it).  Absent nodes keep their state: the invariant
      holds under churn and under links that fail both ways.  A message lost in one direction breaks it for good.
    Source: Alghunaim, Local exact-diffusion for decentralized optimization and learning, IEEE TAC 2024, Algorithm 1.
      Differs: stochastic gradients; y from zero; beta = 1 / K where none is given.
    """
    problem = weighted("led", problem, weighting)
    checks.number("led", "learning_rate", learning_rate, 0.0, open_minimum=True)
    checks.integer("led", "num_local_steps", num_local_steps, 1)
    beta = 1 / num_local_steps if dual_step_size is None else dual_step_size
    checks.number("led", "dual_step_size", beta, 0.0, 1.0, open_minimum=True)
    import optax

    without_statistics("led", problem)
    local = local_updates(problem, optax.sgd(learning_rate), num_local_steps, where="led")

    def pulled(gradients: PyTree, params: PyTree, dual: PyTree) -> PyTree:
        del params
        return jax.tree.map(lambda g, y: g + (beta / learning_rate) * y, gradients, dual)

    def init(key: Array, params: PyTree, network: Network) -> LEDState:
        del key, network
        return LEDState(params, trees.zeros_like(params))

    def step(key: Array, state: LEDState, network: Network) -> tuple[LEDState, Network, Info]:
        moved, _, info = local.run(
            key, state.params, local.init(state.params), network.node_ids, network.is_present, pulled, state.dual
        )
        mixed, network = network.mix(key, moved)
        dual = jax.tree.map(lambda y, phi, x: y + (phi - x), state.dual, moved, mixed)
        return trees.select(network.is_present, LEDState(mixed, dual), state), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "row_stochastic"}),
        source="Alghunaim, IEEE TAC 2024",
    )


def invariant_dual(state: LEDState) -> PyTree:
    """Mean dual, `[...]`: zero up to rounding."""
    return trees.mean(state.dual)
