"""Decentralised consensus ADMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.local_solver import local_solver
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class DecentralizedADMMState(NamedTuple):
    params: PyTree  # [N, ...]
    dual: PyTree  # [N, ...] alpha_i
    neighbor_sum: PyTree  # [N, ...] sum over neighbours of x_i + x_j at the latest exchange
    memory: PyTree  # [N, ...] of what solves the local problem: an optimiser, a proximal map by iterations; else ()


@checks.typed
def decentralized_admm(
    problem: Problem,
    penalty: Any = 1.0,
    *,
    num_local_steps: int | None = None,
    local_learning_rate: Any = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """Decentralised ADMM: each node solves its own problem, pulled towards its neighbours.

        x_i     <- argmin_x f_i(x) + <alpha_i, x> + c sum_{j in N(i)} ||x - (x_i + x_j) / 2||^2
        alpha_i <- alpha_i + c sum_{j in N(i)} (x_i - x_j)

    The first line is a proximal map: of f_i with weight 2 c d_i at (c sum_j (x_i + x_j) - alpha_i) / (2 c d_i).  It is
    exact where the problem has it (`problem.proximal`, `problem.warm_proximal`) and `num_local_steps` is None; else it is K
    gradient steps on that objective from the present x_i.  K = 1 is DLM; with an `optimizer` the steps are its own, and the
    method is DiNNO.

    Args:
      problem: what the nodes learn.
      penalty: c > 0, traced.
      num_local_steps: K, structural; None: the proximal map.
      local_learning_rate: eta > 0 of the K steps, traced.  They are implicit in the quadratic part, so that large
        penalties do not force small steps: x <- (x - eta (g_i(x) + alpha_i - c sum_j (x_i + x_j))) / (1 + 2 c d_i eta).
      optimizer: takes the K steps, from x <- x + u(g_i(x) + alpha_i - c sum_j (x_i + x_j) + 2 c d_i x), in place of
        `local_learning_rate`; its state goes on from round to round; floats may be traced.
      use_full_gradient: of the K steps: over all of a node's data; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and duals of all nodes, and what each heard last.
    Cost per round: one message of D numbers a neighbour, per node; K gradients, or one proximal map (counted as the
      examples it reads).  On the standard workload (100 nodes, a CPU) a round with K = 1 (DLM) takes 1.8 to 2 times one of
      D-SGD: duals and sums over links are read and written beside the models.
    Assumes: connected undirected network that lists its edges; mixing weights are not used.  All nodes start alike.
      Absent nodes keep their state, and over a link that failed a node hears itself, so that the link pulls at nothing:
      the duals still sum to zero (`invariant_dual`), and the method stays exact under churn and under links that fail
      both ways.  A message lost in one direction breaks the sum for good.
    Source: Shi, Ling, Yuan, Wu and Yin, On the linear convergence of the ADMM in decentralized consensus optimization,
      IEEE TSP 2014.  Differs: the inexact form; with K = 1 it is Ling, Shi, Wu and Ribeiro, DLM: decentralized
      linearized alternating direction method of multipliers, IEEE TSP 2015, whose rho is 1 / eta.  With an optimiser: Yu,
      Vincent and Schwager, DiNNO: distributed neural network optimization for multi-robot collaborative learning, RA-L 2022.
    """
    problem = weighted("decentralized_admm", problem, weighting)
    checks.number("decentralized_admm", "penalty", penalty, 0.0, open_minimum=True)
    local = local_solver(
        "decentralized_admm", problem, num_local_steps, local_learning_rate, optimizer, use_full_gradient
    )

    def init(key: Array, params: PyTree, network: Network) -> DecentralizedADMMState:
        del key
        if network.is_implicit:
            checks.fail("decentralized_admm", "network", "one that lists its edges", "a large complete graph")
        # Nobody has spoken yet, but all start alike, so a node knows its neighbours' parameters.
        sums = trees.scale(2 * network.in_degrees.astype(float), params)
        return DecentralizedADMMState(params, trees.zeros_like(params), sums, local.init(params, network))

    def step(
        key: Array, state: DecentralizedADMMState, network: Network
    ) -> tuple[DecentralizedADMMState, Network, Info]:
        rho = 2 * penalty * network.in_degrees.astype(float)
        target = jax.tree.map(lambda s, a: penalty * s - a, state.neighbor_sum, state.dual)  # rho times the centre
        batches = keys.stream(key, "batch")
        params, memory, loss, count = local.solve(batches, state.params, target, rho, state.memory, network)
        params = trees.select(network.is_present, params, state.params)
        # Weight one a link and none of its own: the sum over neighbours.  A link that fails leaves its one to x_i, so
        # x_i + x_j becomes 2 x_i and x_i - x_j nothing.
        ones = (jnp.ones(network.num_edges), jnp.zeros(network.num_nodes))
        heard, network = network.mix(key, params, weights=ones)
        own = trees.scale(network.in_degrees.astype(float), params)
        dual = jax.tree.map(lambda a, o, h: a + penalty * (o - h), state.dual, own, heard)
        new = DecentralizedADMMState(params, dual, trees.add(own, heard), memory)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"common_start", "fixed_topology", "connected", "undirected", "row_stochastic"}),
        source="Shi, Ling, Yuan, Wu and Yin, IEEE TSP 2014",
    )


def invariant_dual(state: DecentralizedADMMState) -> PyTree:
    """Mean dual, `[...]`: zero up to rounding."""
    return trees.mean(state.dual)
