"""Weights by examples: what a method without a server agrees on is the optimum over all data, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes

from dlsim import algorithms, networks
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Problem
from dlsim.learning.learn import learn
from dlsim.networks.network import Network

SIZES = np.array([5, 40, 10, 1, 30, 4])
RATE = 0.1


def uneven() -> Problem:
    return six_nodes.problem()._replace(num_examples=SIZES)


def optimum(sizes: np.ndarray) -> np.ndarray:
    """argmin of sum_i n_i f_i: the solution of (sum_i n_i H_i) x = -sum_i n_i q_i."""
    curvature, constant = six_nodes.affine(uneven())
    return np.linalg.solve(np.tensordot(sizes, curvature, 1), -sizes @ constant)


def complete() -> Network:
    return networks.complete(six_nodes.NUM_NODES)


def path() -> Network:
    return networks.path(six_nodes.NUM_NODES)


# Methods with no bias of their own on any graph, and those without one where all models are equal after a round.
METHODS: dict[str, tuple[Callable[[Problem, str], Algorithm], Callable[[], Network], int]] = {
    "gradient_tracking": (
        lambda p, w: algorithms.gradient_tracking(p, optax.sgd(RATE), weighting=w),
        six_nodes.network,
        1500,
    ),
    "k_gt": (lambda p, w: algorithms.k_gt(p, 0.02, num_local_steps=3, weighting=w), six_nodes.network, 3000),
    "exact_diffusion": (
        lambda p, w: algorithms.exact_diffusion(p, optax.sgd(RATE), weighting=w),
        six_nodes.network,
        1500,
    ),
    "d2": (
        lambda p, w: algorithms.d2(p, optax.sgd(RATE), weighting=w),
        lambda: six_nodes.network("lazy_metropolis_hastings"),
        1500,
    ),
    "extra": (lambda p, w: algorithms.extra(p, RATE, weighting=w), six_nodes.network, 1500),
    "nids": (lambda p, w: algorithms.nids(p, RATE, weighting=w), six_nodes.network, 1500),
    "proxskip": (lambda p, w: algorithms.proxskip(p, RATE, 0.5, weighting=w), six_nodes.network, 1500),
    "decentralized_admm": (lambda p, w: algorithms.decentralized_admm(p, weighting=w), six_nodes.network, 1500),
    "decentralized_admm inexact": (
        lambda p, w: algorithms.decentralized_admm(p, num_local_steps=2, weighting=w),
        six_nodes.network,
        1500,
    ),
    "dsgd": (lambda p, w: algorithms.dsgd(p, optax.sgd(RATE), weighting=w), complete, 500),
    "stochastic_gradient_push": (
        lambda p, w: algorithms.stochastic_gradient_push(p, optax.sgd(RATE), weighting=w),
        complete,
        500,
    ),
    "choco_sgd": (lambda p, w: algorithms.choco_sgd(p, optax.sgd(RATE), weighting=w), complete, 500),
    "quasi_global_momentum": (
        lambda p, w: algorithms.quasi_global_momentum(p, RATE, momentum=0.5, weighting=w),
        complete,
        500,
    ),
    "relay_sgd": (lambda p, w: algorithms.relay_sgd(p, optax.sgd(0.02), weighting=w), path, 3000),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_fixed_point_is_the_optimum_over_all_examples(name: str) -> None:
    make, network, num_rounds = METHODS[name]
    algorithm = make(uneven(), "examples")
    process = learn(uneven(), algorithm, network())

    @jax.jit
    def end(key: Any) -> Any:
        return jax.lax.fori_loop(
            0, num_rounds, lambda t, state: process.step(jax.random.fold_in(key, t), state)[0], process.init(key)
        )

    models = np.asarray(algorithm.params(end(jax.random.key(0)).algorithm))
    np.testing.assert_allclose(models, np.tile(optimum(SIZES), (six_nodes.NUM_NODES, 1)), atol=2e-4)
    assert np.abs(optimum(SIZES) - optimum(np.ones(6))).max() > 0.05, "the two optima are told apart"


def test_equal_sizes_change_nothing_but_rounding() -> None:
    even = six_nodes.problem()
    made = [
        six_nodes.play(algorithms.dsgd(even, optax.sgd(RATE), weighting=w), six_nodes.network())
        for w in ("uniform", "examples")
    ]
    for a, b in zip(*(six_nodes.models(states) for states in made), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_proximal_map_is_that_of_the_scaled_objective() -> None:
    """argmin s (x - b)'A(x - b)/2 + rho/2 ||x - c||^2 solves (s A + rho) x = rho c - s q."""
    problem, ids, rho = weighted("here", uneven(), "examples"), jnp.arange(6), jnp.linspace(0.5, 3.0, 6)
    centre = np.random.default_rng(0).standard_normal((6, six_nodes.DIMENSION))
    got = problem.proximal(jnp.asarray(centre, jnp.float32), rho, ids)
    curvature, constant = six_nodes.affine(uneven())
    for i, s in enumerate(SIZES / SIZES.mean()):
        system = s * curvature[i] + float(rho[i]) * np.eye(six_nodes.DIMENSION)
        wanted = np.linalg.solve(system, float(rho[i]) * centre[i] - s * constant[i])
        np.testing.assert_allclose(got[i], wanted, rtol=1e-4, atol=1e-5)


def test_an_unknown_weighting_is_one_line() -> None:
    with pytest.raises(ValueError, match="dsgd: weighting must be one of uniform, examples, got 'size'"):
        algorithms.dsgd(uneven(), optax.sgd(RATE), weighting="size")
    with pytest.raises(ValueError, match="extra: weighting must be 'uniform' where no node has examples"):
        algorithms.extra(uneven()._replace(num_examples=np.zeros(6)), RATE, weighting="examples")
