"""Least squares on each node's own examples: gradients, proximal maps and conjugates in closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info, Problem
from dlsim.problems.blocks import check_rows
from dlsim.problems.values import fits

_HIGHEST = jax.lax.Precision.HIGHEST


@checks.typed
def least_squares(inputs: Any, targets: Any, *, ridge: float = 0.0) -> Problem:
    """Linear regression, node i on its m examples (a_ik, b_ik):

        f_i(x) = (1/m) sum_k (a_ik' x - b_ik)^2 + ridge / 2 ||x||^2

    A gradient is over all of a node's examples, at the cost of one product with the D x D matrix H_i = 2 A_i' A_i / m +
    ridge I.  The smallest and the largest eigenvalue of the H_i are the problem's mu and L.

    Parameters are one array `[D]` that starts at 0.  `evaluate` gives `loss` f, `suboptimality` f - f* (without
    cancellation) and `distance` ||x - x*||^2, of which the first is the mean over nodes.

    Args:
      inputs: a `[N, m, D]`.
      targets: b `[N, m]`.
      ridge: at least 0; above it where a node has fewer examples than D, or the H_i are singular.
    """
    where = "least_squares"
    a = checks.array(where, "inputs", inputs, (None, None, None)).astype(np.float64)
    num_nodes, num_examples, dimension = a.shape
    b = checks.array(where, "targets", targets, (num_nodes, num_examples)).astype(np.float64)
    checks.known(where, "ridge", ridge, fix="It decides what is solved on the host: sweep it as structure.")
    checks.number(where, "ridge", ridge, 0.0)
    fits(where, "inputs", num_nodes * dimension, dimension)
    curvature = 2 * np.einsum("nmi,nmj->nij", a, a) / num_examples + ridge * np.eye(dimension)  # [N, D, D]
    linear = 2 * np.einsum("nmi,nm->ni", a, b) / num_examples
    eigenvalues = np.linalg.eigvalsh(curvature)
    if eigenvalues[:, 0].min() <= 1e-10 * eigenvalues[:, -1].max():
        got = f"the smallest eigenvalue {eigenvalues[:, 0].min():.3g}"
        checks.fail(where, "inputs", "of full rank at every node, without a ridge", got, "Pass ridge=1e-3, say.")
    mean = curvature.mean(0)
    best = np.linalg.solve(mean, linear.mean(0))
    at_best = curvature @ best - linear  # [N, D] gradients at the optimum
    least = np.mean(np.square(a @ best - b), axis=1) + ridge / 2 * (best @ best)  # [N] losses there
    optimum, tilt, matrices = (jnp.asarray(x, float) for x in (best, at_best, curvature))
    inverse, losses, middle = (jnp.asarray(x, float) for x in (np.linalg.inv(curvature), least, mean))

    def rows(table: Array, node_ids: Array) -> Array:
        check_rows(where, node_ids, num_nodes)
        return table.at[node_ids].get(mode="promise_in_bounds")

    def times(matrices: Array, z: Array) -> Array:
        return jnp.einsum("nij,nj->ni", matrices, z, precision=_HIGHEST)

    def full_gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        del key
        z = params - optimum
        curved, own = times(rows(matrices, node_ids), z), rows(tilt, node_ids)
        return curved + own, jnp.sum(z * (curved / 2 + own), axis=1) + rows(losses, node_ids)

    def loss(params: Array, batch: Array) -> Array:
        # A batch is the ids of the nodes whose examples it is.
        return jnp.mean(full_gradient(None, jnp.broadcast_to(params, (*batch.shape, dimension)), batch)[1])  # type: ignore[arg-type]

    def proximal(params: Array, rho: Any, node_ids: Array) -> Array:
        rho = jnp.broadcast_to(jnp.asarray(rho, optimum.dtype), node_ids.shape)[:, None]
        shifted = rows(matrices, node_ids) + rho[..., None] * jnp.eye(dimension)
        return optimum + jnp.linalg.solve(shifted, (rho * (params - optimum) - rows(tilt, node_ids))[..., None])[..., 0]

    def conjugate(duals: Array, node_ids: Array) -> Array:
        return optimum + times(rows(inverse, node_ids), duals - rows(tilt, node_ids))

    def evaluate(params: Array, node_ids: Array | None = None) -> Info:
        del node_ids  # the objective is the same for all
        z = params - optimum
        above = jnp.sum(z * jnp.matmul(z, middle, precision=_HIGHEST), axis=1) / 2
        return {
            "loss": above + jnp.mean(losses),
            "suboptimality": above,
            "distance": jnp.sum(jnp.square(z), axis=1),
        }

    return Problem(
        num_nodes=num_nodes,
        init=lambda key: jnp.zeros_like(optimum),
        loss=loss,
        sample=lambda key, node_ids: node_ids[:, None],
        gradient=full_gradient,
        full_gradient=full_gradient,
        evaluate=evaluate,
        num_examples=np.full(num_nodes, num_examples, np.int32),
        batch_size=num_examples,
        optimum=optimum,
        proximal=proximal,
        smoothness=lambda: float(eigenvalues[:, -1].max()),
        strong_convexity=lambda: float(eigenvalues[:, 0].min()),
        conjugate=conjugate,
    )
