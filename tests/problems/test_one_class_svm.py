"""One-class SVMs: their optimum against scikit-learn's, the proximal map and its gap, metrics, and what is refused."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.core import Problem

KEY = jax.random.key(0)
NU, SIZES = 0.2, (30, 40, 22)


@functools.cache
def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(size, 3)) * (1 + i) + i for i, size in enumerate(SIZES)]


@functools.cache
def made(num_inner_steps: int = 60) -> Problem:
    return problems.one_class_svm(rows(), nu=NU, num_inner_steps=num_inner_steps)


@functools.cache
def features() -> list[np.ndarray]:
    """phi of every example, read off the problem: the gradient of a score is what one active example takes away."""
    flat = np.concatenate(rows())
    rng = np.random.default_rng(0)
    omega, phase = rng.standard_normal((3, 100)) * np.sqrt(0.5), rng.uniform(0, 2 * np.pi, 100)
    lifted = np.sqrt(2 / 100) * np.cos((flat - flat.mean(0)) / flat.std(0) @ omega + phase)
    return np.split(lifted, np.cumsum(SIZES)[:-1])


def objective(i: int, x: np.ndarray) -> float:
    score = features()[i] @ x[:-1] - x[-1]
    return x[:-1] @ x[:-1] / 2 - x[-1] + np.maximum(-score, 0).sum() / (NU * SIZES[i])


@functools.cache
def alone() -> np.ndarray:
    """Every node by itself: proximal point iterations, as `network_lasso` does at nodes without links."""
    lonely = networks.connect(networks.graph(3, np.zeros(0, int), np.zeros(0, int)))
    process = dlsim.learn(made(), algorithms.network_lasso(made(), 1.0), lonely)
    return np.asarray(
        dlsim.simulate(process, seed=0, num_steps=300, record=dlsim.Record(every=300)).params[0], np.float64
    )


def test_alone_each_node_has_the_optimum_of_scikit_learn() -> None:
    """libsvm's dual has alpha in [0, 1] and sum alpha = nu n: its w and b are nu n times these."""
    from sklearn.svm import OneClassSVM

    for i, phi in enumerate(features()):
        other = OneClassSVM(kernel="linear", nu=NU, tol=1e-8).fit(phi)
        w, b = other.coef_[0] / (NU * SIZES[i]), -other.intercept_[0] / (NU * SIZES[i])
        best = objective(i, np.append(w, b))
        assert abs(objective(i, alone()[i]) - best) < 1e-4 * abs(best)
        np.testing.assert_allclose(alone()[i, :-1], w, atol=5e-3)
        np.testing.assert_allclose(alone()[i, -1], b, atol=5e-3)


@pytest.mark.parametrize("method", ["decentralized_admm", "network_lasso"])
def test_together_and_weighed_by_examples_they_have_the_optimum_of_all_data(method: str) -> None:
    """sum_i n_i f_i / sum_i n_i is the one-class SVM of all examples; the memory of the proximal maps goes on."""
    from sklearn.svm import OneClassSVM

    make = {
        "decentralized_admm": lambda: algorithms.decentralized_admm(made(), 0.5, weighting="examples"),
        "network_lasso": lambda: algorithms.network_lasso(made(), 50.0, weighting="examples"),
    }[method]
    process = dlsim.learn(made(), make(), networks.complete(3))
    run = dlsim.simulate(process, seed=0, num_steps=400, record=dlsim.Record(every=400))
    ours = np.asarray(run.params[0], np.float64)
    np.testing.assert_allclose(ours, ours[[0, 0, 0]], atol=2e-3)
    total = NU * sum(SIZES)
    other = OneClassSVM(kernel="linear", nu=NU, tol=1e-8).fit(np.concatenate(features()))
    np.testing.assert_allclose(ours[0, :-1], other.coef_[0] / total, atol=1e-2)
    np.testing.assert_allclose(ours[0, -1], -other.intercept_[0] / total, atol=1e-2)


def test_at_the_optimum_at_most_nu_of_the_examples_are_outside() -> None:
    for i, phi in enumerate(features()):
        assert np.mean(phi @ alone()[i, :-1] - alone()[i, -1] < -1e-3) <= NU


def test_one_example_and_nu_one() -> None:
    """w = phi, b = ||phi||^2."""
    problem = problems.one_class_svm([[[3.0, 4.0]]] * 2, nu=1.0, num_features=None, standardize=False)
    process = dlsim.learn(problem, algorithms.network_lasso(problem, 0.5), networks.path(2))
    run = dlsim.simulate(process, seed=0, num_steps=400, record=dlsim.Record(every=400))
    np.testing.assert_allclose(run.params[0], [[3, 4, 25]] * 2, rtol=1e-3)


@pytest.mark.parametrize("rho", [0.3, 2.0])
def test_the_proximal_map_has_no_duality_gap_once_it_is_warm(rho: float) -> None:
    centre = jnp.asarray(np.random.default_rng(3).normal(size=(3, 101)) * 0.3, float)
    ids, warm = jnp.arange(3), made().warm_proximal
    memory = warm.init(ids)
    gaps = []
    for _ in range(6):
        x, memory = warm.solve(centre, rho, ids, memory)
        gaps.append([gap(i, np.asarray(centre[i], float), rho, np.asarray(x[i], float), memory[i]) for i in range(3)])
    assert min(map(min, gaps)) > -1e-4
    assert max(gaps[-1]) < 1e-4
    assert max(gaps[0]) > max(gaps[-1])


def gap(i: int, v: np.ndarray, r: float, x: np.ndarray, alpha: Any) -> float:
    """Primal less dual value of node i's proximal map, the dual as maximum over alpha of min over (w, b)."""
    alpha, phi = np.asarray(alpha, float)[: SIZES[i]], features()[i]
    assert (alpha >= 0).all() and (alpha <= 1 / (NU * SIZES[i]) * (1 + 1e-6)).all()
    primal = objective(i, x) + r / 2 * np.sum((x - v) ** 2)
    w, b = (r * v[:-1] + phi.T @ alpha) / (1 + r), v[-1] + (1 - alpha.sum()) / r
    inner = w @ w / 2 - b + alpha @ (b - phi @ w) + r / 2 * (np.sum((w - v[:-1]) ** 2) + (b - v[-1]) ** 2)
    return primal - inner


def test_gradients_are_those_of_the_objective() -> None:
    x, ids = jnp.asarray(np.random.default_rng(4).normal(size=(3, 101)), float), jnp.arange(3)
    gradients, losses = made().full_gradient(KEY, x, ids)
    for i in range(3):
        at = np.asarray(x[i], np.float64)
        np.testing.assert_allclose(losses[i], objective(i, at), rtol=1e-4)
        direction = np.random.default_rng(i).normal(size=101)
        slope = (objective(i, at + 1e-6 * direction) - objective(i, at - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(np.asarray(gradients[i]) @ direction, slope, rtol=1e-2, atol=1e-2)
    mean = [np.mean([objective(i, np.asarray(row, np.float64)) for i in range(3)]) for row in x]
    np.testing.assert_allclose(made().evaluate(x, ids)["loss"], mean, rtol=1e-4)


def test_batches_are_of_a_nodes_own_examples_and_unbiased() -> None:
    problem = problems.one_class_svm(rows(), nu=NU, batch_size=8)
    ids, x = jnp.arange(3), jnp.ones((3, 101)) * 0.1
    batch = np.asarray(problem.sample(KEY, ids))
    for i in range(3):
        apart = np.abs(batch[i][:, None] - features()[i][None]).max(axis=2)
        assert apart.min(axis=1).max() < 1e-4
    draws = jax.vmap(lambda key: problem.gradient(key, x, ids)[0])(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(draws.mean(0), problem.full_gradient(KEY, x, ids)[0], atol=0.05)


def held_out(num_normal: tuple[int, ...] = (50, 30, 41), num_outliers: tuple[int, ...] = (10, 25, 13)) -> Any:
    rng = np.random.default_rng(7)
    sets = [
        rng.normal(size=(a + b, 3)) * (1 + i) + i for i, (a, b) in enumerate(zip(num_normal, num_outliers, strict=True))
    ]
    flags = [np.arange(a + b) % (a + b) >= a for a, b in zip(num_normal, num_outliers, strict=True)]
    for one, flag in zip(sets, flags, strict=True):
        one[flag] += 2.5
    return sets, [flag.copy() for flag in flags]


def test_metrics_are_those_of_a_loop() -> None:
    sets, flags = held_out()
    problem = problems.one_class_svm(rows(), nu=NU, test_examples=sets, test_is_outlier=flags)
    flat = np.concatenate(rows())
    rng = np.random.default_rng(0)
    omega, phase = rng.standard_normal((3, 100)) * np.sqrt(0.5), rng.uniform(0, 2 * np.pi, 100)
    found = jax.jit(problem.evaluate)(jnp.asarray(alone(), float), jnp.arange(3))
    expected: dict[str, list[float]] = {}
    for i in range(3):
        phi = np.sqrt(2 / 100) * np.cos((sets[i] - flat.mean(0)) / flat.std(0) @ omega + phase)
        score = phi @ alone()[i, :-1] - alone()[i, -1]
        normal, outlier = score[~flags[i]], score[flags[i]]
        threshold = np.sort(outlier)[int(np.ceil(0.9 * len(outlier))) - 1]
        row = {
            "detection_rate": (outlier < 0).mean(),
            "false_alarm_rate": (normal < 0).mean(),
            "auc": (outlier[:, None] < normal).mean(),
            "false_alarm_rate_at_90": (normal <= threshold).mean(),
        }
        for name, value in row.items():
            expected.setdefault(name, []).append(value)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-3, err_msg=name)
    everywhere = jax.jit(problem.evaluate)(jnp.asarray(alone()[:1], float), None)
    own = jax.jit(problem.evaluate)(jnp.asarray(np.tile(alone()[:1], (3, 1)), float), jnp.arange(3))
    for name in expected:
        np.testing.assert_allclose(everywhere[name][0], np.mean(own[name]), rtol=1e-5)


def test_a_constant_column_and_equal_scores() -> None:
    block = np.ones((2, 5, 2))
    flags = np.array([[True, False, False, True, False]] * 2)
    problem = problems.one_class_svm(block, test_examples=block, test_is_outlier=flags)
    found = jax.jit(problem.evaluate)(jnp.zeros((2, 101)), jnp.arange(2))
    np.testing.assert_allclose(found["auc"], 0.5)
    assert np.isfinite(problem.full_gradient(KEY, jnp.zeros((2, 101)), jnp.arange(2))[0]).all()


def test_less_than_one_example_outside_is_said() -> None:
    with pytest.warns(UserWarning, match=r"^one_class_svm: nu n_i is 0.22 at node 2, less than one example"):
        problem = problems.one_class_svm(rows(), nu=0.01)
    lonely = networks.connect(networks.graph(3, np.zeros(0, int), np.zeros(0, int)))
    process = dlsim.learn(problem, algorithms.network_lasso(problem, 1.0), lonely)
    x = np.asarray(dlsim.simulate(process, seed=0, num_steps=600, record=dlsim.Record(every=600)).params[0], np.float64)
    for i, phi in enumerate(features()):
        assert (phi @ x[i, :-1] - x[i, -1]).min() > -1e-3


def test_bad_input_is_one_clear_line() -> None:
    sets, flags = held_out()
    hole = [one.copy() for one in rows()]
    hole[1][3, 2] = np.nan
    for given, options, line in (
        (
            [*rows(), np.zeros((0, 3))],
            {},
            r"examples\[3\] must be of shape \[n >= 1, 3\], got \[0, 3\]. Leave nodes without data",
        ),
        ([rows()[0], np.zeros((5, 2))], {}, r"examples\[1\] must be of shape \[n >= 1, 3\], got \[5, 2\]"),
        (hole, {}, r"examples\[1\] must be finite, got nan at index \(3, 2\)"),
        (rows(), {"nu": 0.0}, r"nu must be a number in \(0, 1\], got 0"),
        (rows(), {"nu": 1.2}, r"nu must be a number in \(0, 1\], got 1.2"),
        (rows(), {"test_examples": sets}, "test_is_outlier must be given with the other of the two, got None"),
        (
            rows(),
            {"test_examples": sets[:2], "test_is_outlier": flags},
            "test_examples must be of 3 nodes and 3 columns",
        ),
        (
            rows(),
            {"test_examples": sets, "test_is_outlier": [flags[0] & False, *flags[1:]]},
            r"test_is_outlier\[0\] must be",
        ),
        (rows(), {"num_features": 0}, "num_features must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^one_class_svm: {line}"):
            problems.one_class_svm(given, **options)
