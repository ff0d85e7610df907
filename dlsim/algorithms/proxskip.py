"""ProxSkip, decentralised: communicate with a probability, and lose nothing by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class ProxSkipState(NamedTuple):
    params: PyTree  # [N, ...]
    control_variate: PyTree  # [N, ...] h_i


@checks.typed
def proxskip(
    problem: Problem,
    learning_rate: Any,
    probability: Any = 0.1,
    *,
    consensus_step_size: Any = 0.5,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """Decentralised ProxSkip (Scaffnew over a graph): local steps corrected by a control variate, mixing now and then.

        x^_i     = x_i - eta (g_i(x_i) - h_i)
        with probability p, the same coin for all nodes:
            x_i  <- (1 - c) x^_i + c sum_j W_ij x^_j
            h_i  <- h_i + (p / eta) (x_i - x^_i)
        else x_i <- x^_i

    from h = 0.  The control variates sum to zero (`invariant_control`) and tend to the nodes' gradients at the optimum.

    Args:
      problem: what the nodes learn.
      learning_rate: eta > 0, traced.
      probability: p in (0, 1] of communicating in a step, traced; 1 / sqrt(condition number) is the paper's choice.
      consensus_step_size: c in (0, 1], traced.  (1 - c) I + c W must be positive semidefinite: 1/2 is always safe, and
        c may go up to 1 / (1 - lambda_min(W)).
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and control variates of all nodes.
    Cost per step: one gradient, and with probability p one message of D numbers a neighbour, per node.  Where runs are
      vectorised, a step takes the time of a mix whatever the coin says; traffic is counted by the coin.
    Assumes: connected undirected network, symmetric doubly stochastic weights.  Absent nodes keep their state, and
      their neighbours mix without them, which keeps the invariant, as do links that fail both ways; a message lost in
      one direction breaks it for good.
    Source: Mishchenko, Malinovsky, Stich and Richtarik, ProxSkip: yes! local gradient steps provably lead to
      communication acceleration! Finally! ICML 2022, the decentralised algorithm (its gamma tau / p is c here).
      Differs: stochastic gradients unless `use_full_gradient`.
    """
    problem = weighted("proxskip", problem, weighting)
    checks.number("proxskip", "learning_rate", learning_rate, 0.0, open_minimum=True)
    checks.number("proxskip", "probability", probability, 0.0, 1.0, open_minimum=True)
    checks.number("proxskip", "consensus_step_size", consensus_step_size, 0.0, 1.0, open_minimum=True)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient

    def init(key: Array, params: PyTree, network: Network) -> ProxSkipState:
        del key, network
        return ProxSkipState(params, trees.zeros_like(params))

    def step(key: Array, state: ProxSkipState, network: Network) -> tuple[ProxSkipState, Network, Info]:
        gradient, loss = oracle(keys.stream(key, "batch"), state.params, network.node_ids)
        local = jax.tree.map(lambda x, g, h: x - learning_rate * (g - h), state.params, gradient, state.control_variate)

        def communicate(network: Network) -> tuple[PyTree, PyTree, Network]:
            mixed, network = network.mix(key, local)
            moved = jax.tree.map(lambda x, m: consensus_step_size * (m - x), local, mixed)
            pull = probability / learning_rate
            control = jax.tree.map(lambda h, d: h + pull * d, state.control_variate, moved)
            return trees.add(local, moved), control, network

        def skip(network: Network) -> tuple[PyTree, PyTree, Network]:
            return local, state.control_variate, network

        # float32 whatever the mode: a coin must not depend on the width of the numbers.
        coin = jax.random.uniform(keys.stream(key, "communicate"), (), jnp.float32) < probability
        params, control, network = jax.lax.cond(coin, communicate, skip, network)
        new = ProxSkipState(params, control)
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "row_stochastic"}),
        source="Mishchenko, Malinovsky, Stich and Richtarik, ICML 2022",
    )


def invariant_control(state: ProxSkipState) -> PyTree:
    """Mean control variate, `[...]`: zero up to rounding."""
    return trees.mean(state.control_variate)
