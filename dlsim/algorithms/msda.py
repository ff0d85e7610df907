"""MSDA: accelerated gradients of the dual, each mixed by a Chebyshev polynomial of the weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.convexity import convexity_of
from dlsim.algorithms.gradient_tracking import gradient_count
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network


class MSDAState(NamedTuple):
    params: PyTree  # [N, ...] theta, the gradient of f_i's conjugate at the dual
    dual: PyTree  # [N, ...] x
    dual_before: PyTree  # [N, ...] y


@checks.typed
def msda(
    problem: Problem,
    chi: Any,
    strong_convexity: Any = None,
    smoothness: Any = None,
    *,
    num_gossip_steps: int | None = None,
) -> Algorithm:
    """Multi-step dual accelerated method for mu-strongly convex, L-smooth f_i.

        theta_i = argmin f_i(t) - <x_i, t>,   y' = x - eta P_K(W) theta,   x' = (1 + m) y' - m y

    With q = ((sqrt(chi) - 1) / (sqrt(chi) + 1))^K and k = L / mu:

        eta = mu (1 + q^2) / (1 + q)^2,   m = ((1 + q) sqrt(k) - 1 + q) / ((1 + q) sqrt(k) + 1 - q)
        P_K(W) = I - T_K(c M) / T_K(c),   c = (chi + 1) / (chi - 1),   M = I - 2 chi (I - W) / (chi + 1)

    where T_K is the Chebyshev polynomial of degree K: K mixes.

    Args:
      problem: what the nodes learn, with gradients of conjugates in closed form (`quadratic`, `least_squares`).
      chi: 1 / (1 - rho) for weights W whose eigenvalues but the first lie in [0, rho]; at least 1; may be traced where
        `num_gossip_steps` is given.
      strong_convexity: mu > 0 of every f_i; None: the problem's own, where it knows; may be traced.
      smoothness: L >= mu of every f_i; likewise.
      num_gossip_steps: K, structural; default: the whole part of sqrt(chi), as in the paper.

    Returns:
      Algorithm whose state holds theta, x and y of all nodes; the duals start at zero and sum to zero.
    Cost per round: one gradient of a conjugate (counted as a full gradient) and K messages of D numbers a neighbour.
    Assumes: connected undirected network, symmetric doubly stochastic weights without negative eigenvalues ("lazy_..."
      weights, or "laplacian" with step 1 / lambda_max); links may fail both ways.  Absent nodes keep their state, and while
      they are away the duals no longer sum to zero.
    Source: Scaman, Bach, Bubeck, Lee, Massoulie, Optimal algorithms for smooth and strongly convex distributed
      optimization in networks, ICML 2017, Algorithm 2.
    """
    where = "msda"
    mu, smooth = convexity_of(where, problem, strong_convexity, smoothness)
    conjugate = conjugate_of(where, problem)
    checks.number(where, "chi", chi, 1.0)
    if num_gossip_steps is None:
        checks.known(where, "num_gossip_steps", chi, "given where chi is traced", "It is structure.")
        num_gossip_steps = math.floor(math.sqrt(float(chi)) * (1 + 1e-9))
    num_gossip_steps = checks.integer(where, "num_gossip_steps", num_gossip_steps, 1)
    root = chi**0.5
    q = ((root - 1) / (root + 1)) ** num_gossip_steps
    ratio = (smooth / mu) ** 0.5
    eta = mu * (1 + q**2) / (1 + q) ** 2
    momentum = ((1 + q) * ratio - 1 + q) / ((1 + q) * ratio + 1 - q)

    def init(key: Array, params: PyTree, network: Network) -> MSDAState:
        del key
        zero = trees.zeros_like(params)
        return MSDAState(conjugate(zero, network.node_ids), zero, zero)

    def step(key: Array, state: MSDAState, network: Network) -> tuple[MSDAState, Network, Info]:
        apart, network = _apart(key, state.params, network)
        ahead = jax.tree.map(lambda x, a: x - jnp.asarray(eta, x.dtype) * a, state.dual, apart)
        m = jnp.asarray(momentum, float)
        dual = jax.tree.map(lambda new, old: new + m.astype(new.dtype) * (new - old), ahead, state.dual_before)
        new = MSDAState(conjugate(dual, network.node_ids), dual, ahead)
        _, loss = problem.full_gradient(key, new.params, network.node_ids)
        count = gradient_count(problem, network, True)
        return trees.select(network.is_present, new, state), network, {"loss": loss, "num_gradients": count}

    def _apart(key: Array, theta: PyTree, network: Network) -> tuple[PyTree, Network]:
        """P_K(W) theta."""
        before, now = theta, theta
        scale_before, scale = 1.0, 1.0  # T_{k-1}(c), T_k(c) over the first of them that counts: ratios alone matter
        center = None if num_gossip_steps == 1 else (chi + 1) / (chi - 1)
        for number in range(num_gossip_steps):
            mixed, network = network.mix(keys.fold_in(key, number), now)
            turned = jax.tree.map(lambda x, w: x - jnp.asarray(2 * chi / (chi + 1), x.dtype) * (x - w), now, mixed)
            if number == 0:
                before, now = now, turned
                scale = 1.0 if center is None else center
                continue
            assert center is not None
            ahead = 2 * center * scale - scale_before
            up, down = 2 * center * scale / ahead, scale_before / ahead
            before, now = (
                now,
                jax.tree.map(
                    lambda t, b, up=up, down=down: jnp.asarray(up, t.dtype) * t - jnp.asarray(down, t.dtype) * b,
                    turned,
                    before,
                ),
            )
            scale_before, scale = scale, ahead
        return trees.subtract(theta, now), network

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "symmetric", "doubly_stochastic", "dual_start"}),
        source="Scaman et al., ICML 2017",
    )


def conjugate_of(where: str, problem: Problem) -> Any:
    """The gradients of the conjugates, where the problem has them."""
    if problem.conjugate is None:
        fix = "Use dlsim.problems.quadratic or least_squares."
        checks.fail(where, "problem", "one with a closed gradient of its conjugates", "one without", fix)
    return problem.conjugate


def invariant_dual(state: MSDAState) -> PyTree:
    """Mean dual, `[...]`: zero up to rounding."""
    return trees.mean(state.dual)
