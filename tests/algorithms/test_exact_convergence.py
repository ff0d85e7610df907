"""The exact methods, side by side: straight to the optimum, linearly, where D-SGD stalls at its bias."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes

from dlsim import algorithms, networks
from dlsim.core import Algorithm, Problem, Scenario

Matrix = np.ndarray
# (W [ND, ND], H [ND, ND], eta) -> (A, B) of the error's recursion e(k+2) = A e(k+1) + B e(k), worked out on paper
Recursion = Callable[[Matrix, Matrix, float], tuple[Matrix, Matrix]]

RATE = 0.3
NUM_ROUNDS = 800


def half(w: Matrix) -> Matrix:
    """(I + W) / 2."""
    return (np.eye(len(w)) + w) / 2


def tracking(power: int) -> Recursion:
    """Gradient tracking without its tracker; W^power stands before the change of the gradients."""

    def recursion(w: Matrix, h: Matrix, eta: float) -> tuple[Matrix, Matrix]:
        pull = eta * np.linalg.matrix_power(w, power) @ h
        return 2 * w - pull, pull - w @ w

    return recursion


def d2(w: Matrix, h: Matrix, eta: float) -> tuple[Matrix, Matrix]:
    identity = np.eye(len(w))
    return w @ (2 * identity - eta * h), w @ (eta * h - identity)


def diffusion(w: Matrix, h: Matrix, eta: float) -> tuple[Matrix, Matrix]:
    """Exact diffusion, and NIDS and ProxSkip where they are the same."""
    return d2(half(w), h, eta)


def extra(w: Matrix, h: Matrix, eta: float) -> tuple[Matrix, Matrix]:
    return np.eye(len(w)) + w - eta * h, eta * h - half(w)


class Row(NamedTuple):
    name: str
    make: Callable[[Problem, Any], Algorithm]
    recursion: Recursion | None = None  # where the error obeys one of two terms
    weights: str = "metropolis_hastings"
    moves_by_mean_gradient: bool = True  # the mean model moves by -eta times the mean gradient in every round
    has_full_gradient: bool = True
    num_gradients: int | None = 1  # batches a round; None: a pass over the data


ROWS = (
    Row(
        "gradient_tracking-combine_then_adapt",
        lambda p, full: algorithms.gradient_tracking(
            p, optax.sgd(RATE), order="combine_then_adapt", use_full_gradient=full
        ),
        tracking(0),
    ),
    Row(
        "gradient_tracking-adapt_then_combine",
        lambda p, full: algorithms.gradient_tracking(
            p, optax.sgd(RATE), order="adapt_then_combine", use_full_gradient=full
        ),
        tracking(2),
    ),
    Row(
        "k_gt-one_step",
        lambda p, full: algorithms.k_gt(p, RATE, num_local_steps=1),
        tracking(1),
        has_full_gradient=False,
    ),
    Row(
        "k_gt",
        lambda p, full: algorithms.k_gt(p, RATE / 3, num_local_steps=3),
        moves_by_mean_gradient=False,
        has_full_gradient=False,
        num_gradients=3,
    ),
    Row("extra", lambda p, full: algorithms.extra(p, RATE, use_full_gradient=full), extra),
    Row("nids", lambda p, full: algorithms.nids(p, RATE, use_full_gradient=full), diffusion),
    Row(
        "nids-own_rates",
        lambda p, full: algorithms.nids(p, RATE * jnp.linspace(0.7, 1.3, p.num_nodes), use_full_gradient=full),
        moves_by_mean_gradient=False,
    ),
    Row(
        "exact_diffusion",
        lambda p, full: algorithms.exact_diffusion(p, optax.sgd(RATE), use_full_gradient=full),
        diffusion,
    ),
    Row(
        "d2",
        lambda p, full: algorithms.d2(p, optax.sgd(RATE), use_full_gradient=full),
        d2,
        weights="lazy_metropolis_hastings",
    ),
    Row("proxskip-always", lambda p, full: algorithms.proxskip(p, RATE, 1.0, use_full_gradient=full), diffusion),
    Row("proxskip", lambda p, full: algorithms.proxskip(p, RATE, 0.5, use_full_gradient=full)),
    Row(
        "decentralized_admm",
        lambda p, full: algorithms.decentralized_admm(p, 0.2),
        moves_by_mean_gradient=False,
        has_full_gradient=False,
        num_gradients=None,
    ),
    Row(
        "decentralized_admm-inexact",
        lambda p, full: algorithms.decentralized_admm(
            p, 0.2, num_local_steps=2, local_learning_rate=RATE, use_full_gradient=full
        ),
        moves_by_mean_gradient=False,
        num_gradients=2,
    ),
)
DSGD = Row(
    "dsgd", lambda p, full: algorithms.dsgd(p, optax.sgd(RATE)), moves_by_mean_gradient=False, has_full_gradient=False
)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def trajectory(
    row: Row,
    scenario: Scenario | None = None,
    num_rounds: int = NUM_ROUNDS,
    use_full_gradient: bool = False,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Models after rounds 0..T, float64 [T + 1, N, D], and the optimum [D], computed with 64-bit numbers."""
    with jax.enable_x64(True):
        problem = six_nodes.problem(**options)
        network = six_nodes.network(row.weights)
        algorithm = row.make(problem, use_full_gradient)
        key = jax.random.key(0)
        world = () if scenario is None else scenario.init(key, network)

        def step(carry: Any, key: Any) -> Any:
            state, network_state, world = carry
            now = network.with_state(network_state)
            if scenario is not None:
                world, now = scenario.step(key, world, now)
            state, now, _ = algorithm.step(key, state, now)
            return (state, now.state, world), algorithm.params(state)

        first = algorithm.init(key, jnp.asarray(six_nodes.start()), network)
        keys = jax.random.split(key, num_rounds)
        _, models = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((first, network.state, world))
        models = np.concatenate([np.asarray(algorithm.params(first))[None], models])
        assert models.dtype == np.float64
        return models, np.asarray(problem.optimum)


@functools.cache
def plain(row: Row) -> tuple[np.ndarray, np.ndarray]:
    return trajectory(row)


def distances(models: np.ndarray, optimum: np.ndarray) -> np.ndarray:
    """Root of the mean squared distance of the nodes from the optimum, [T + 1]."""
    return np.sqrt(np.mean(np.sum((models - optimum) ** 2, axis=2), axis=1))


def fit(distance: np.ndarray, high: float, low: float) -> tuple[float, float]:
    """Slope a round of log distance between two levels, and the share of its variance that a line explains."""
    rounds = np.flatnonzero((distance < high) & (distance > low))
    assert len(rounds) > 20, "too few rounds to tell a line"
    logs = np.log(distance[rounds])
    slope, intercept = np.polyfit(rounds, logs, 1)
    return float(slope), 1 - float(np.var(logs - slope * rounds - intercept) / np.var(logs))


def stacked(row: Row) -> tuple[Matrix, Matrix]:
    """W and H acting on all N D numbers."""
    problem = six_nodes.problem()
    curvature, _ = six_nodes.affine(problem)
    num_nodes, dimension = curvature.shape[:2]
    mixing = np.kron(six_nodes.matrix(row.weights), np.eye(dimension))
    blocks = np.zeros((num_nodes * dimension, num_nodes * dimension))
    for i in range(num_nodes):
        rows = slice(i * dimension, (i + 1) * dimension)
        blocks[rows, rows] = curvature[i]
    return mixing, blocks


@every_row
def test_it_reaches_the_optimum_linearly(row: Row) -> None:
    distance = distances(*plain(row))
    slope, explained = fit(distance, 1e-2, 1e-9)
    assert slope < -0.015
    assert explained > 0.97, "not a straight line in log distance"
    assert distance[-1] < 1e-6 * distance[0]


def test_dsgd_stalls_at_its_bias() -> None:
    """At the fixed point of x <- W (x - eta (H x + q)), which is not the optimum; from there on, nothing."""
    models, optimum = plain(DSGD)
    curvature, blocks = stacked(DSGD)
    _, constant = six_nodes.affine(six_nodes.problem())
    identity = np.eye(len(blocks))
    bias = np.linalg.solve(identity - curvature @ (identity - RATE * blocks), -RATE * curvature @ constant.ravel())
    np.testing.assert_allclose(models[-1].ravel(), bias, atol=1e-6)
    distance = distances(models, optimum)
    assert distance[-1] > 0.1
    assert distance[NUM_ROUNDS // 2] == pytest.approx(distance[-1], rel=1e-6)


def test_scaffold_is_exact_where_fedavg_drifts() -> None:
    """Client drift has a fixed point of its own, x = mean of what K local steps make of x; SCAFFOLD's is the optimum."""
    rate, steps = RATE / 3, 5
    scaffold = Row("scaffold", lambda p, full: algorithms.scaffold(p, rate, num_local_steps=steps))
    fedavg = Row("fedavg", lambda p, full: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=steps))
    distance = distances(*trajectory(scaffold, num_rounds=400))
    slope, explained = fit(distance, 1e-2, 1e-9)
    assert slope < -0.05
    assert explained > 0.97, "not a straight line in log distance"

    models, optimum = trajectory(fedavg, num_rounds=400)
    curvature, constant = six_nodes.affine(six_nodes.problem())
    identity = np.eye(six_nodes.DIMENSION)
    shrunk = [np.linalg.matrix_power(identity - rate * h, steps) for h in curvature]
    gained = [
        -rate * sum(np.linalg.matrix_power(identity - rate * h, k) for k in range(steps)) @ q
        for h, q in zip(curvature, constant, strict=True)
    ]
    drifted = np.linalg.solve(identity - np.mean(shrunk, axis=0), np.mean(gained, axis=0))
    np.testing.assert_allclose(models[-1, 0], drifted, atol=1e-6)
    assert np.linalg.norm(drifted - optimum) > 0.01


def test_dsgd_is_exact_without_heterogeneity() -> None:
    """The bias is heterogeneity's: all minima in one place, no bias."""
    distance = distances(*trajectory(DSGD, heterogeneity=0.0))
    assert distance[-1] < 1e-9


@pytest.mark.parametrize("row", [row for row in ROWS if row.recursion is not None], ids=lambda row: row.name)
def test_the_error_obeys_its_recursion_and_the_rate_is_its_spectral_radius(row: Row) -> None:
    assert row.recursion is not None
    models, optimum = plain(row)
    now, before = row.recursion(*stacked(row), RATE)
    errors = (models - optimum).reshape(len(models), -1)
    for t in range(60):
        np.testing.assert_allclose(errors[t + 2], now @ errors[t + 1] + before @ errors[t], atol=1e-7)
    identity = np.eye(len(now))
    companion = np.block([[now, before], [identity, np.zeros_like(now)]])
    moduli = np.abs(np.linalg.eigvals(companion))
    # Modulus one belongs to the conserved sum (of corrections, of trackers less gradients), which starts at zero.
    radius = moduli[moduli < 1 - 1e-6].max()
    distance = distances(models, optimum)
    slope, _ = fit(distance, 1e-3, 1e-10)
    assert slope == pytest.approx(np.log(radius), rel=0.05)


@pytest.mark.parametrize("row", [row for row in ROWS if row.moves_by_mean_gradient], ids=lambda row: row.name)
def test_with_one_curvature_for_all_the_mean_model_is_gradient_descent(row: Row) -> None:
    """Then the mean of the nodes' gradients is the gradient at the mean model, on any graph."""
    models, _ = trajectory(row, num_rounds=20, shared_curvature=True)
    with jax.enable_x64(True):
        curvature, constant = six_nodes.affine(six_nodes.problem(shared_curvature=True))
    mean = models[0].mean(axis=0)
    assert np.ptp(models[10], axis=0).max() > 0.01, "the nodes agree, so nothing was shown"
    for t in range(20):
        np.testing.assert_allclose(models[t].mean(axis=0), mean, atol=1e-6, err_msg=f"after round {t}")
        mean = mean - RATE * (curvature.mean(axis=0) @ mean + constant.mean(axis=0))


@every_row
@pytest.mark.parametrize(
    "scenario",
    [networks.churn(0.1, 0.5), networks.link_failure(0.3)],
    ids=["churn", "link_failure"],
)
def test_it_stays_exact_where_nodes_and_links_come_and_go(row: Row, scenario: Scenario) -> None:
    distance = distances(*trajectory(row, scenario, num_rounds=2000))
    assert distance[-1] < 1e-6 * distance[0]
    assert fit(distance, 1e-2, 1e-6)[0] < -0.005


@pytest.mark.parametrize(
    "row", [row for row in (*ROWS, DSGD) if row.num_gradients is not None], ids=lambda row: row.name
)
def test_noise_alone_sets_the_floor(row: Row) -> None:
    """The error around an exact method's limit is the same sequence whatever the heterogeneity; D-SGD's limit moves."""
    little, much = (
        distances(*trajectory(row, gradient_noise=0.01, heterogeneity=level, num_rounds=1200))[-100:]
        for level in (0.1, 4.0)
    )
    assert little.min() > 1e-3, "no noise, no floor"
    if row is DSGD:
        assert much.mean() > 3 * little.mean()
    else:
        np.testing.assert_allclose(much, little, rtol=1e-3)


@pytest.mark.parametrize("row", [row for row in ROWS if row.has_full_gradient], ids=lambda row: row.name)
def test_full_gradients_know_no_noise(row: Row) -> None:
    models, optimum = trajectory(row, use_full_gradient=True, gradient_noise=1.0)
    np.testing.assert_allclose(models, plain(row)[0], atol=1e-9)
    assert distances(models, optimum)[-1] < 1e-6


@every_row
def test_gradients_are_counted(row: Row) -> None:
    sizes = np.arange(3, 3 + six_nodes.NUM_NODES, dtype=np.int32)
    problem = six_nodes.problem()._replace(num_examples=sizes, batch_size=2)
    there = np.asarray([True, True, False, True, True, True])
    network = six_nodes.network(row.weights).replace(is_present=jnp.asarray(there))
    for use_full_gradient in (False, True) if row.has_full_gradient else (False,):
        algorithm = row.make(problem, use_full_gradient)
        state = algorithm.init(jax.random.key(0), jnp.asarray(six_nodes.start()), network)
        _, _, info = algorithm.step(jax.random.key(0), state, network)
        calls = 1 if row.num_gradients is None else row.num_gradients
        one = sizes if use_full_gradient or row.num_gradients is None else np.full_like(sizes, 2)
        np.testing.assert_array_equal(info["num_gradients"], np.where(there, calls * one, 0))
        assert info["num_gradients"].dtype == jnp.uint32
