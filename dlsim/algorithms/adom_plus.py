"""ADOM+: rounds whose number of gradients and of messages are both the least there can be."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.aggregators.linear import aggregate
from dlsim.algorithms.convexity import convexity_of
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class ADOMPlusState(NamedTuple):
    params: PyTree  # [N, ...] x
    params_f: PyTree  # [N, ...] x_f, the point that x's gradients have led to
    dual: PyTree  # [N, ...] y
    dual_f: PyTree  # [N, ...]
    consensus: PyTree  # [N, ...] z
    consensus_f: PyTree  # [N, ...]
    memory: PyTree  # [N, ...] m, what has not been mixed yet


@checks.typed
def adom_plus(
    problem: Problem,
    chi: Any,
    strong_convexity: Any = None,
    smoothness: Any = None,
    *,
    num_gossip_steps: int = 1,
    use_full_gradient: bool = False,
) -> Algorithm:
    """Accelerated decentralised optimisation of mu-strongly convex, L-smooth f_i in the primal.

    With k = L / mu, t1 = 1 / (sqrt(k) + 1/2), t2 = 1 / sqrt(k), s2 = t2 / (16 chi), s1 = 1 / (1/s2 + 1/2) and eta =
    1 / (L t2), alpha = nu = mu / 2, beta = 1 / (2 L), delta = 1 / (17 L), gamma = nu / (14 s2 chi^2), theta = nu / (4 s2):

        x_g = t1 x + (1 - t1) x_f,   y_g = s1 y + (1 - s1) y_f,   z_g = s1 z + (1 - s1) z_f,   g = grad f_i(x_g)
        x' = x + eta alpha (x_g - x') - eta (g - nu x_g - y')
        y' = y + theta beta (g - nu x_g - y') - theta (x' + (y_g + z_g) / nu)
        r = gamma (y_g + z_g) / nu + m,   m' = W r,   z' = z + gamma delta (z_g - z) - (I - W) r
        x_f' = x_g + t2 (x' - x),   y_f' = y_g + s2 (y' - y),   z_f' = z_g - (I - W)(y_g + z_g) / 2

    With Q = `num_gossip_steps` > 1 ("multi-consensus") W^Q stands for W, and chi for 1 / (1 - (1 - 1 / chi)^Q): at Q =
    ceil(chi ln 2) that is 2, and rounds no longer depend on the graph, messages do.

    Args:
      problem: what the nodes learn.
      chi: at least 1 / (1 - rho), rho the second largest modulus of W's eigenvalues: `1 / spectral_gap(network)`; may be
        traced.  With W = I - L / lambda_max ("laplacian" weights, step 1 / lambda_max) it is the paper's chi.
      strong_convexity: mu > 0 of every f_i; None: the problem's own, where it knows; may be traced.
      smoothness: L >= mu of every f_i; likewise.
      num_gossip_steps: Q, structural.
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.

    Returns:
      Algorithm whose state holds seven vectors a node, all but x and x_f from zero; z sums to zero over nodes.
    Cost per round: one gradient, and Q messages of 2 D numbers a neighbour, per node.
    Assumes: connected undirected network, symmetric doubly stochastic weights; links may fail both ways.  Absent nodes keep
      their state, and while they are away z no longer sums to zero.
    Source: Kovalev, Gasanov, Gasnikov, Richtarik, Lower bounds and optimal algorithms for smooth and strongly convex
      decentralized optimization over time-varying networks, NeurIPS 2021.  Differs: stochastic gradients unless
      `use_full_gradient`; y and m start at zero.
    """
    where = "adom_plus"
    mu, smooth = convexity_of(where, problem, strong_convexity, smoothness)
    checks.number(where, "chi", chi, 1.0)
    num_gossip_steps = checks.integer(where, "num_gossip_steps", num_gossip_steps, 1)
    checks.flag(where, "use_full_gradient", use_full_gradient)
    oracle = problem.full_gradient if use_full_gradient else problem.gradient
    chi = 1 / (1 - (1 - 1 / chi) ** num_gossip_steps)
    tau_2 = (mu / smooth) ** 0.5
    tau_1 = 1 / (1 / tau_2 + 0.5)
    sigma_2 = tau_2 / (16 * chi)
    sigma_1 = 1 / (1 / sigma_2 + 0.5)
    eta, alpha, nu = 1 / (smooth * tau_2), mu / 2, mu / 2
    beta, delta = 1 / (2 * smooth), 1 / (17 * smooth)
    gamma, theta = nu / (14 * sigma_2 * chi**2), nu / (4 * sigma_2)
    share = 1 / (1 + eta * alpha)

    def init(key: Array, params: PyTree, network: Network) -> ADOMPlusState:
        del key, network
        zero = trees.zeros_like(params)
        return ADOMPlusState(params, params, zero, zero, zero, zero, zero)

    def step(key: Array, state: ADOMPlusState, network: Network) -> tuple[ADOMPlusState, Network, Info]:
        x_g = _between(tau_1, state.params, state.params_f)
        y_g = _between(sigma_1, state.dual, state.dual_f)
        z_g = _between(sigma_1, state.consensus, state.consensus_f)
        gradient, loss = oracle(keys.stream(key, "batch"), x_g, network.node_ids)
        pull = jax.tree.map(lambda g, x: g - nu * x, gradient, x_g)
        off = trees.add(y_g, z_g)
        # x' = ahead + share eta y', put into the line of y'.
        ahead = jax.tree.map(lambda x, g, p: share * (x + eta * alpha * g - eta * p), state.params, x_g, pull)
        dual = jax.tree.map(
            lambda y, p, a, o: (y + theta * beta * p - theta * (a + o / nu)) / (1 + theta * (beta + share * eta)),
            state.dual, pull, ahead, off,
        )  # fmt: skip
        params = jax.tree.map(lambda a, y: a + share * eta * y, ahead, dual)
        rest = jax.tree.map(lambda o, m: gamma / nu * o + m, off, state.memory)
        _, (mixed_off, memory), network = aggregate(network, key, None, (), (off, rest), num_steps=num_gossip_steps)
        consensus = jax.tree.map(
            lambda z, g, r, w: z + gamma * delta * (g - z) - (r - w), state.consensus, z_g, rest, memory
        )
        new = ADOMPlusState(
            params=params,
            params_f=jax.tree.map(lambda g, new, old: g + tau_2 * (new - old), x_g, params, state.params),
            dual=dual,
            dual_f=jax.tree.map(lambda g, new, old: g + sigma_2 * (new - old), y_g, dual, state.dual),
            consensus=consensus,
            consensus_f=jax.tree.map(lambda g, o, w: g - (o - w) / 2, z_g, off, mixed_off),
            memory=memory,
        )
        new = trees.cast_like(new, state)
        count = gradient_count(problem, network, use_full_gradient)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "doubly_stochastic"}),
        source="Kovalev et al., NeurIPS 2021",
    )


def invariant_consensus(state: ADOMPlusState) -> PyTree:
    """Mean z, `[...]`: zero up to rounding."""
    return trees.mean(state.consensus)


def _between(share: Any, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: b + jnp.asarray(share, b.dtype) * (a - b), new, old)
