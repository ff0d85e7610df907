"""EXTRA: an exact first-order algorithm."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class ExtraState(NamedTuple):
    params: PyTree  # [N, ...] x^k
    correction: PyTree  # [N, ...] c_i, what mixing left over so far; tends to eta grad f_i(x*)


def extra(
    problem: Problem,
    learning_rate: Any,
    *,
    theta: Any = 0.5,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """EXTRA with W~ = theta I + (1 - theta) W.

        x^1     = W x^0 - eta g(x^0)
        x^{k+2} = (I + W) x^{k+1} - W~ x^k - eta (g(x^{k+1}) - g(x^k))

    and summed over the rounds, which is what is computed, from c = 0:

        x_i <- sum_j W_ij x_j - eta g_i(x_i) + c_i
        c_i <- c_i + theta (sum_j W_ij x_j - x_i)      with the x of before: c = sum over rounds of (W - W~) x

    One product serves both W and W~.  The corrections sum to zero (`invariant_correction`), so the fixed point for
    constant eta, c_i = eta grad f_i(x), is the optimum.

    Args:
      problem: what the nodes learn.
      learning_rate: eta > 0, traced.
      theta: in (0, 1], traced; the paper's theory is for at most 1/2, its own choice.  1 gives W~ = I, which is x - eta g
        plus what mixing changed (decent-bench's SimpleGT): damped by the gradients alone.
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and corrections of all nodes.
    Cost per round: one gradient and one message of D numbers a neighbour, per node.
    Assumes: connected undirected network, symmetric doubly stochastic weights; eta < 2 lambda_min(W~) / L.  Absent
      nodes keep x and c, and their weight stays with their neighbours: the corrections still sum to zero and the fixed
      point is the same, so the method stays exact under churn and under links that fail both ways.  A message lost in
      one direction breaks the sum for good.
    Source: Shi, Ling, Wu and Yin, EXTRA: an exact first-order algorithm for decentralized consensus optimization,
      SIAM J. Optim. 2015, Algorithm 1.  Differs: stochastic gradients unless `use_full_gradient`.
    """
    problem = weighted("extra", problem, weighting)
    checks.number("extra", "learning_rate", learning_rate, 0.0, open_minimum=True)
    checks.number("extra", "theta", theta, 0.0, 1.0, open_minimum=True)
    checks.flag("extra", "use_full_gradient", use_full_gradient)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient

    def init(key: Array, params: PyTree, network: Network) -> ExtraState:
        del key, network
        return ExtraState(params, trees.zeros_like(params))

    def step(key: Array, state: ExtraState, network: Network) -> tuple[ExtraState, Network, Info]:
        gradient, loss = oracle(keys.stream(key, "batch"), state.params, network.node_ids)
        mixed, network = network.mix(key, state.params)
        params = jax.tree.map(lambda m, g, c: m - learning_rate * g + c, mixed, gradient, state.correction)
        correction = jax.tree.map(lambda c, m, x: c + theta * (m - x), state.correction, mixed, state.params)
        new = ExtraState(params, correction)
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "row_stochastic"}),
        source="Shi, Ling, Wu and Yin, SIAM J. Optim. 2015",
    )


def invariant_correction(state: ExtraState) -> PyTree:
    """Mean correction, `[...]`: zero up to rounding."""
    return trees.mean(state.correction)
