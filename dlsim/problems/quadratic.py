"""Quadratics whose heterogeneity, noise and conditioning are exactly what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Problem
from dlsim.problems.blocks import check_rows
from dlsim.problems.values import fits

_HIGHEST = jax.lax.Precision.HIGHEST


class QuadraticBatch(NamedTuple):
    """One draw of every node's stochastic objective; a batch of B = 1."""

    node_ids: Array  # int32 [n, 1]
    noise: Array  # [n, 1, D]


class _Curvature(NamedTuple):
    """A_1, ..., A_N, of which `apply`, `solve` and `mean` are all that anybody needs."""

    apply: Callable[[Array, Array], Array]  # (z [n, D], node_ids [n]) -> A_i z_i
    solve: Callable[[Array, Array, Array], Array]  # (z, rho [] or [n], node_ids) -> (A_i + rho I)^-1 z_i
    mean: Callable[[Array], Array]  # (z [n, D]) -> (mean of all A_i) z


@checks.typed
def quadratic(
    num_nodes: int,
    dimension: int,
    *,
    heterogeneity: Any = 1.0,
    gradient_noise: Any = 0.0,
    condition_number: Any = 10.0,
    curvature: str = "diagonal",
    shared_curvature: bool = False,
    seed: int = 0,
) -> Problem:
    """f_i(x) = 1/2 (x - b_i)' A_i (x - b_i), with a known optimum x* of f = (1/N) sum_i f_i.

    Every A_i has the eigenvalues 1/kappa, ..., 1, evenly spaced on a log scale, so f_i is 1-smooth and
    1/kappa-strongly convex, with kappa = `condition_number`.  The gradients at the optimum are drawn first, and b_i
    follows from them:

        grad f_i(x) = A_i (x - x*) + zeta v_i,    sum_i v_i = 0,    (1/N) sum_i ||v_i||^2 = 1
        b_i = x* - zeta A_i^-1 v_i

    so that (1/N) sum_i ||grad f_i(x*) - grad f(x*)||^2 = zeta^2 = `heterogeneity` (with `shared_curvature`, at every
    x), and x* depends neither on it nor on kappa.  The stochastic objective is f_i(x) + xi'(x - x*), with
    xi ~ N(0, sigma^2/D I): E||g_i - grad f_i||^2 = sigma^2 = `gradient_noise`, over all D coordinates together.

    Parameters are one array `[D]`; they start at 0, and ||x*|| = 1.  `evaluate` gives `loss` f, `suboptimality` f - f*
    (without cancellation, so it can fall to the square of the rounding error) and `distance` ||x - x*||^2.

    Args:
      num_nodes: N.
      dimension: D.
      heterogeneity: zeta^2 >= 0; may be traced.  One node alone has none, and must be given 0.
      gradient_noise: sigma^2 >= 0; may be traced.
      condition_number: kappa >= 1 of every A_i; may be traced.  Their mean is better conditioned unless shared.
      curvature: `"diagonal"`, each node with the eigenvalues in an order of its own, memory 2ND; or `"dense"`, each
        with random eigenvectors, memory 2ND^2 + ND.
      shared_curvature: one A for all nodes.
      seed: of the instance; structural.

    Source: the class and its constants as in Koloskova et al., A unified theory of decentralized SGD with changing
      topology and local updates, ICML 2020.
    """
    num_nodes = checks.integer("quadratic", "num_nodes", num_nodes, 1)
    dimension = checks.integer("quadratic", "dimension", dimension, 1)
    checks.one_of("quadratic", "curvature", curvature, ("diagonal", "dense"))
    checks.instance("quadratic", "shared_curvature", shared_curvature, bool)
    fits("quadratic", "dimension", dimension, dimension * (dimension if curvature == "dense" else 1))
    fits("quadratic", "num_nodes", num_nodes, num_nodes * dimension)
    checks.number("quadratic", "heterogeneity", heterogeneity, 0.0)
    checks.number("quadratic", "gradient_noise", gradient_noise, 0.0)
    checks.number("quadratic", "condition_number", condition_number, 1.0)
    seed = checks.integer("quadratic", "seed", seed, 0)
    if num_nodes == 1 and checks.is_concrete(heterogeneity) and heterogeneity > 0:
        checks.fail("quadratic", "heterogeneity", "0 for one node", heterogeneity, "Pass heterogeneity=0.0.")

    rng = np.random.default_rng(seed)
    optimum_host = rng.standard_normal(dimension)
    optimum = jnp.asarray(optimum_host / np.linalg.norm(optimum_host), float)
    shifts = _shifts(rng, num_nodes, dimension)
    zeta = jnp.sqrt(jnp.asarray(heterogeneity, float))
    linear = zeta * jnp.asarray(shifts, float)  # [N, D] gradients at the optimum
    make = _diagonal if curvature == "diagonal" else _dense
    matrices, mean_inverse = make(rng, shifts, condition_number, shared_curvature)
    constant = jnp.asarray(heterogeneity, float) * jnp.asarray(mean_inverse, float) / 2  # [N]; f* is their mean
    best = jnp.mean(constant)
    is_noisy = not (checks.is_concrete(gradient_noise) and gradient_noise == 0)
    noise_std = jnp.sqrt(jnp.asarray(gradient_noise, float) / dimension)

    def sample(key: Array, node_ids: Array) -> QuadraticBatch:
        noise = jnp.zeros((node_ids.shape[0], dimension), linear.dtype)
        if is_noisy:
            drawn = keys.node_normal(keys.stream(key, "gradient_noise"), node_ids, dimension)
            noise = noise_std * drawn.astype(linear.dtype)
        return QuadraticBatch(node_ids[:, None], noise[:, None])

    def value_and_gradient(params: Array, node_ids: Array, noise: Array | None) -> tuple[Array, Array]:
        z = params - optimum
        curved = matrices.apply(z, node_ids)
        tilt = _rows(linear, node_ids) if noise is None else _rows(linear, node_ids) + noise
        return curved + tilt, jnp.sum(z * (curved / 2 + tilt), axis=1) + _rows(constant, node_ids)

    def loss(params: Array, batch: QuadraticBatch) -> Array:
        rows = jnp.broadcast_to(params, batch.noise.shape)
        return jnp.mean(value_and_gradient(rows, batch.node_ids, batch.noise)[1])

    def gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        check_rows("quadratic", node_ids, num_nodes)
        return value_and_gradient(params, node_ids, sample(key, node_ids).noise[:, 0] if is_noisy else None)

    def full_gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        del key
        check_rows("quadratic", node_ids, num_nodes)
        return value_and_gradient(params, node_ids, None)

    def proximal(params: Array, rho: Any, node_ids: Array) -> Array:
        # A (y - x*) + zeta v + rho (y - x) = 0
        rho = jnp.asarray(rho, linear.dtype)
        weight = rho[:, None] if rho.ndim else rho
        return optimum + matrices.solve(weight * (params - optimum) - _rows(linear, node_ids), rho, node_ids)

    def conjugate(duals: Array, node_ids: Array) -> Array:
        # A (x - x*) + zeta v = dual
        return optimum + matrices.solve(duals - _rows(linear, node_ids), jnp.zeros((), linear.dtype), node_ids)

    def evaluate(params: Array, node_ids: Array | None = None) -> Info:
        del node_ids  # the objective is the same for all
        z = params - optimum
        suboptimality = jnp.sum(z * matrices.mean(z), axis=1) / 2
        return {
            "loss": suboptimality + best,
            "suboptimality": suboptimality,
            "distance": jnp.sum(jnp.square(z), axis=1),
        }

    return Problem(
        num_nodes=num_nodes,
        init=lambda key: jnp.zeros_like(optimum),
        loss=loss,
        sample=sample,
        gradient=gradient,
        full_gradient=full_gradient,
        evaluate=evaluate,
        num_examples=np.ones(num_nodes, np.int32),
        batch_size=1,
        optimum=optimum,
        proximal=proximal,
        smoothness=lambda: 1.0,
        strong_convexity=lambda: 1 / condition_number,
        conjugate=conjugate,
    )


def _rows(table: Array, node_ids: Array) -> Array:
    return table.at[node_ids].get(mode="promise_in_bounds")


def _shifts(rng: np.random.Generator, num_nodes: int, dimension: int) -> np.ndarray:
    """v [N, D], float64: sum zero, mean squared norm 1 (or all zero, for one node)."""
    v = rng.standard_normal((num_nodes, dimension))
    v -= v.mean(axis=0)
    total = np.sqrt(np.mean(np.sum(v * v, axis=1)))
    return v / total if num_nodes > 1 else np.zeros_like(v)


def _eigenvalues(condition_number: Any, positions: np.ndarray) -> Any:
    """kappa^-u for u in [0, 1]: on the host where kappa is known, else traced."""
    if checks.is_concrete(condition_number):
        return np.power(float(condition_number), -positions)
    return jnp.power(condition_number, -jnp.asarray(positions, float))


def _positions(dimension: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, dimension) if dimension > 1 else np.zeros(1)


def _diagonal(
    rng: np.random.Generator, shifts: np.ndarray, condition_number: Any, shared: bool
) -> tuple[_Curvature, Any]:
    """Diagonal A_i, and v_i' A_i^-1 v_i [N]."""
    num_nodes, dimension = shifts.shape
    order = np.argsort(rng.random((1 if shared else num_nodes, dimension)), axis=1)
    host = _eigenvalues(condition_number, _positions(dimension)[order])
    mean_inverse = (shifts * shifts / host).sum(axis=1)
    values, mean = jnp.asarray(host, float), jnp.asarray(host.mean(axis=0), float)

    def of(node_ids: Array) -> Array:
        return values if shared else _rows(values, node_ids)

    def solve(z: Array, rho: Array, node_ids: Array) -> Array:
        return z / (of(node_ids) + (rho[:, None] if rho.ndim else rho))

    return _Curvature(apply=lambda z, node_ids: of(node_ids) * z, solve=solve, mean=lambda z: mean * z), mean_inverse


def _dense(rng: np.random.Generator, shifts: np.ndarray, condition_number: Any, shared: bool) -> tuple[_Curvature, Any]:
    """A_i = Q_i diag(eigenvalues) Q_i' with random orthogonal Q_i, and v_i' A_i^-1 v_i [N]."""
    num_nodes, dimension = shifts.shape
    basis, upper = np.linalg.qr(rng.standard_normal((1 if shared else num_nodes, dimension, dimension)))
    basis = basis * np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, None, :]  # uniform over the orthogonal group
    host = _eigenvalues(condition_number, _positions(dimension))
    mean_inverse = ((shifts[:, None, :] @ basis)[:, 0] ** 2 / host).sum(axis=1)
    vectors, values = jnp.asarray(basis, float), jnp.asarray(host, float)
    matrices = jnp.einsum("nij,j,nkj->nik", vectors, values, vectors, precision=_HIGHEST)
    mean = jnp.mean(matrices, axis=0)

    def times(table: Array, z: Array, node_ids: Array, transpose: bool = False) -> Array:
        if shared:
            return jnp.matmul(z, table[0] if transpose else table[0].T, precision=_HIGHEST)
        pattern = "nji,nj->ni" if transpose else "nij,nj->ni"
        return jnp.einsum(pattern, _rows(table, node_ids), z, precision=_HIGHEST)

    def solve(z: Array, rho: Array, node_ids: Array) -> Array:
        coordinates = times(vectors, z, node_ids, transpose=True)
        return times(vectors, coordinates / (values + (rho[:, None] if rho.ndim else rho)), node_ids)

    return (
        _Curvature(
            apply=lambda z, node_ids: times(matrices, z, node_ids),
            solve=solve,
            mean=lambda z: jnp.matmul(z, mean.T, precision=_HIGHEST),
        ),
        mean_inverse,
    )
