"""Quasi-global momentum: momentum from the model's own movement, mixing included."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class QuasiGlobalMomentumState(NamedTuple):
    params: PyTree  # [N, ...]
    momentum: PyTree  # [N, ...] m^_i


@checks.typed
def quasi_global_momentum(
    problem: Problem,
    learning_rate: Any,
    *,
    momentum: Any = 0.9,
    smoothing: Any = None,
    nesterov: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """QG-DSGDm: D-SGD whose momentum follows the change of the mixed model instead of local gradients.

        m_i   = beta m^_i + g_i(x_i)                 (Nesterov: the step is g_i + beta m_i)
        x_i'  = sum_j W_ij (x_j - eta m_j)
        m^_i <- mu m^_i + (1 - mu) (x_i - x_i') / eta
        x_i  <- x_i'

    With beta = 0 this is adapt-then-combine D-SGD.

    Args:
      problem: what the nodes learn.
      learning_rate: eta, traced.
      momentum: beta in [0, 1), traced.
      smoothing: mu in [0, 1], traced; None: beta, the paper's choice.
      nesterov: QG-DSGDm-N; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Assumes: connected network, doubly stochastic weights.  Cost per round: one gradient and one message of D numbers a
      neighbour.  Absent nodes keep their state.
    Source: Lin, Karimireddy, Stich and Jaggi, Quasi-global momentum: accelerating decentralized deep learning on
      heterogeneous data, ICML 2021, Algorithm 1.
    """
    problem = weighted("quasi_global_momentum", problem, weighting)
    checks.number("quasi_global_momentum", "learning_rate", learning_rate, 0.0, open_minimum=True)
    checks.number("quasi_global_momentum", "momentum", momentum, 0.0, 1.0, open_maximum=True)
    mu = momentum if smoothing is None else checks.number("quasi_global_momentum", "smoothing", smoothing, 0.0, 1.0)

    def init(key: Array, params: PyTree, network: Network) -> QuasiGlobalMomentumState:
        del key, network
        return QuasiGlobalMomentumState(params, trees.zeros_like(params))

    def step(
        key: Array, state: QuasiGlobalMomentumState, network: Network
    ) -> tuple[QuasiGlobalMomentumState, Network, Info]:
        gradient, loss = problem.gradient(keys.stream(key, "batch"), state.params, network.node_ids)
        heavy = jax.tree.map(lambda m, g: momentum * m + g, state.momentum, gradient)
        if nesterov:
            heavy = jax.tree.map(lambda m, g: g + momentum * m, heavy, gradient)
        adapted = jax.tree.map(lambda x, m: x - learning_rate * m, state.params, heavy)
        params, network = network.mix(key, adapted)
        followed = jax.tree.map(
            lambda m, old, new: mu * m + (1 - mu) * (old - new) / learning_rate, state.momentum, state.params, params
        )
        new = trees.select(network.is_present, QuasiGlobalMomentumState(params, followed), state)
        return new, network, {"loss": loss, "num_gradients": gradient_count(problem, network)}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "row_stochastic"}),
        source="Lin, Karimireddy, Stich and Jaggi, ICML 2021",
    )
