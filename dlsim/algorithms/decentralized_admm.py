"""Decentralised consensus ADMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class DecentralizedADMMState(NamedTuple):
    params: PyTree  # [N, ...]
    dual: PyTree  # [N, ...] alpha_i
    neighbor_sum: PyTree  # [N, ...] sum over neighbours of x_i + x_j at the latest exchange
    optimizer_state: PyTree  # [N, ...]; () without an optimiser


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
    exact where the problem has a closed one (`problem.proximal`) and `num_local_steps` is None; else it is K gradient
    steps on that objective from the present x_i.  With an `optimizer` those steps are its own, and the method is DiNNO.

    Args:
      problem: what the nodes learn.
      penalty: c > 0, traced.
      num_local_steps: K, structural; None: the closed proximal map.
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
      examples it reads).
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
    checks.number("decentralized_admm", "local_learning_rate", local_learning_rate, 0.0, open_minimum=True)
    if num_local_steps is not None:
        checks.integer("decentralized_admm", "num_local_steps", num_local_steps, 1)
    elif optimizer is not None:
        checks.fail("decentralized_admm", "num_local_steps", "an integer >= 1 with an optimizer", None, "Pass 5, say.")
    elif problem.proximal is None:
        fix = "Pass num_local_steps=5 for the inexact form."
        checks.fail("decentralized_admm", "problem", "one with a closed proximal map", "one without", fix)

    oracle = problem.full_gradient if use_full_gradient else problem.gradient
    steps = None if optimizer is None else node_optimizer("decentralized_admm", optimizer)

    def init(key: Array, params: PyTree, network: Network) -> DecentralizedADMMState:
        del key
        if network.is_implicit:
            checks.fail("decentralized_admm", "network", "one that lists its edges", "a large complete graph")
        # Nobody has spoken yet, but all start alike, so a node knows its neighbours' parameters.
        sums = trees.scale(2 * network.in_degrees.astype(float), params)
        return DecentralizedADMMState(
            params, trees.zeros_like(params), sums, () if steps is None else steps.init(params)
        )

    def solve(
        key: Array, state: DecentralizedADMMState, network: Network
    ) -> tuple[tuple[PyTree, PyTree], Array, Array]:
        rho = 2 * penalty * network.in_degrees.astype(float)
        target = jax.tree.map(lambda s, a: penalty * s - a, state.neighbor_sum, state.dual)  # rho times the centre
        if num_local_steps is None:
            proximal: Any = problem.proximal
            # Alone on its network a node has no penalty, and minimises its own f_i.
            centre = trees.scale(1 / jnp.where(rho > 0, rho, 1), target)
            solved = proximal(centre, rho, network.node_ids)
            _, loss = problem.full_gradient(key, solved, network.node_ids)
            return (solved, ()), loss, gradient_count(problem, network, use_full_gradient=True)

        def local(carry: tuple[PyTree, PyTree], k: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            (params, optimizer_state), at = carry, jax.random.fold_in(key, k)
            gradient, loss = oracle(at, params, network.node_ids)
            if steps is not None:
                whole = jax.tree.map(lambda g, t, x: g - t + x, gradient, target, trees.scale(rho, params))
                updates, optimizer_state = steps.update(at, network.node_ids, whole, optimizer_state, params, loss)
                return (trees.add(params, updates), optimizer_state), loss
            moved = jax.tree.map(lambda x, g, t: x - local_learning_rate * (g - t), params, gradient, target)
            return (trees.scale(1 / (1 + local_learning_rate * rho), moved), ()), loss

        start = (state.params, state.optimizer_state)
        made, losses = jax.lax.scan(local, start, jnp.arange(num_local_steps))
        return made, jnp.mean(losses, axis=0), num_local_steps * gradient_count(problem, network, use_full_gradient)

    def step(
        key: Array, state: DecentralizedADMMState, network: Network
    ) -> tuple[DecentralizedADMMState, Network, Info]:
        (params, optimizer_state), loss, count = solve(keys.stream(key, "batch"), state, network)
        params = trees.select(network.is_present, params, state.params)
        # Weight one a link and none of its own: the sum over neighbours.  A link that fails leaves its one to x_i, so
        # x_i + x_j becomes 2 x_i and x_i - x_j nothing.
        ones = (jnp.ones(network.num_edges), jnp.zeros(network.num_nodes))
        heard, network = network.mix(key, params, weights=ones)
        own = trees.scale(network.in_degrees.astype(float), params)
        dual = jax.tree.map(lambda a, o, h: a + penalty * (o - h), state.dual, own, heard)
        new = DecentralizedADMMState(params, dual, trees.add(own, heard), optimizer_state)
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
