"""Averaging of given vectors: W^t x, the spectrum's rate, push-sum's oracle, what is conserved, what is measured."""

from __future__ import annotations

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world

import dlsim
from dlsim import aggregators, algorithms, clocks, networks, problems
from dlsim.core import Process, Record
from dlsim.networks.network import Network

NUM, DIMENSION, ROUNDS = world.NUM_NODES, 3, 12
VALUES = np.random.default_rng(1).standard_normal((NUM, DIMENSION)).astype(np.float32) + 1
MEAN = VALUES.mean(axis=0, dtype=np.float64)


def iterates(process: Process, name: str = "params") -> np.ndarray:
    """What every node holds after each round, `[T + 1, N, D]`."""
    record = Record(every=1, fn=lambda state, info: {"x": getattr(state.algorithm, name)})
    return dlsim.simulate(process, seed=0, num_steps=ROUNDS, record=record).results["x"].values.astype(np.float64)


def measured(process: Process, num_steps: int = ROUNDS, **options: Any) -> Any:
    return dlsim.simulate(process, **{"seed": 0, "num_steps": num_steps, "record": Record(every=1), **options})


def dense(network: Network) -> np.ndarray:
    return networks.mixing_matrix(network).toarray()


def squared(rows: np.ndarray) -> Any:
    """(1/N) sum_i ||x_i||^2."""
    return np.sum(np.square(rows), axis=-1).mean(axis=-1)


@pytest.mark.parametrize("make", [world.uneven, world.complete, lambda: world.directed("row_stochastic")])
def test_gossip_is_powers_of_the_mixing_matrix(make: Any) -> None:
    network = make()
    found, matrix = iterates(dlsim.average(VALUES, network)), dense(network)
    for t in range(ROUNDS + 1):
        expected = np.linalg.matrix_power(matrix, t) @ VALUES
        np.testing.assert_allclose(found[t], expected, atol=2e-6, err_msg=f"round {t}")


def test_the_error_falls_by_the_second_eigenvalue_a_round() -> None:
    network = networks.ring(16)
    second = np.cos(2 * np.pi * np.arange(16) / 16).astype(np.float32)[:, None]  # the slowest of all
    run = measured(dlsim.average(5 + second, network))
    rho = networks.second_eigenvalue(network)
    assert rho == pytest.approx((1 + 2 * np.cos(2 * np.pi / 16)) / 3, rel=1e-6)
    np.testing.assert_allclose(run.results.distance, 0.5 * rho ** (2 * np.arange(ROUNDS + 1)), rtol=1e-4)
    np.testing.assert_array_equal(run.results.messages_sent, 32 * np.arange(ROUNDS + 1))
    np.testing.assert_array_equal(run.results.gradient_evaluations, 0)
    assert "train_loss" not in run.results and run.status.ok


def test_what_is_measured_is_what_is_left_and_what_was_lost() -> None:
    """On a row-stochastic network the mean moves: to the Perron average, which is another number."""
    network = world.directed("row_stochastic")
    run, found = measured(dlsim.average(VALUES, network)), iterates(dlsim.average(VALUES, network))
    results = run.results
    np.testing.assert_allclose(results.distance, squared(found - MEAN), rtol=1e-4)
    np.testing.assert_allclose(results.distance, results.consensus_distance + results.distance_of_mean, rtol=1e-4)
    spread = squared(VALUES - MEAN)
    np.testing.assert_allclose(results.loss, (results.distance + spread) / 2, rtol=1e-5)
    assert results.distance_of_mean.values[-1] > 1e-3
    kept_sum = measured(dlsim.average(VALUES, world.uneven())).results
    assert kept_sum.distance_of_mean.values.max() < 1e-11


def test_push_sum_is_its_oracle_and_finds_the_mean_on_a_directed_graph() -> None:
    network = world.directed()
    matrix, push_sum = dense(network), algorithms.push_sum()
    assert "doubly_stochastic" not in network.properties
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-6)
    process = dlsim.average(VALUES, network, push_sum)
    biased, weights = iterates(process, "biased"), iterates(process, "push_weight")
    x, w = VALUES.astype(np.float64), np.ones(NUM)
    for t in range(ROUNDS + 1):
        np.testing.assert_allclose(biased[t], x, atol=5e-6, err_msg=f"round {t}")
        np.testing.assert_allclose(weights[t], w, atol=1e-6)
        np.testing.assert_allclose([weights[t].sum(), *biased[t].sum(axis=0)], [NUM, *NUM * MEAN], rtol=1e-5)
        x, w = matrix @ x, matrix @ w
    assert np.ptp(weights[-1]) > 0.5
    run = measured(process, 200)
    np.testing.assert_allclose(push_sum.params(run.state.algorithm), np.broadcast_to(MEAN, VALUES.shape), atol=1e-5)
    assert run.results.distance.values[-1] < 1e-10 and run.status.ok


def test_push_sum_on_doubly_stochastic_weights_is_gossip() -> None:
    plain = iterates(dlsim.average(VALUES, world.uneven()))
    pushed = iterates(dlsim.average(VALUES, world.uneven(), algorithms.push_sum()), "biased")
    np.testing.assert_allclose(pushed, plain, atol=1e-6)


def test_absent_nodes_keep_what_they_have_and_push_sum_keeps_the_sum() -> None:
    scenario, away = world.absent(), list(world.ABSENT)
    for algorithm, network in ((algorithms.gossip(), world.uneven()), (algorithms.push_sum(), world.directed())):
        process = dlsim.average(VALUES, network, algorithm, scenario)
        last = measured(process).state.algorithm
        np.testing.assert_allclose(np.asarray(algorithm.params(last))[away], VALUES[away], rtol=1e-6)
        held = last.params if hasattr(last, "params") else last.biased
        np.testing.assert_allclose(np.sum(held, axis=0), NUM * MEAN, rtol=1e-5)


def test_pairs_that_meet_by_clocks_need_no_problem() -> None:
    network, seeds = networks.complete(NUM), 64
    timing = clocks.timing(communication=clocks.poisson(clocks.neighbor_rates(network, 0.5)), window=0.5)
    process = dlsim.average(VALUES, network, algorithms.randomized_gossip(), timing=timing)
    results = measured(process, 4, seed=range(seeds)).results
    assert results.distance_of_mean.max() < 1e-10
    np.testing.assert_array_equal(results.gradient_evaluations, 0)
    # On the complete graph all directions are alike: E ||x - mean||^2 falls by exp(-2 a (1 - a) lambda_2 t), a = 1/2.
    rate = np.asarray(clocks.neighbor_rates(network, 0.5)).mean() * NUM / 2
    share = results.distance.values[:, 4] / squared(VALUES - MEAN)
    assert abs(share.mean() - np.exp(-rate * 2)) < 4 * share.std(ddof=1) / np.sqrt(seeds)


def test_choco_without_gradient_steps_is_choco_gossip() -> None:
    problem = problems.consensus(VALUES)
    algorithm = algorithms.choco_sgd(problem, optax.sgd(0.0), consensus_step_size=0.3)
    network = world.uneven().with_channel(networks.top_k(1))
    run = measured(dlsim.average(VALUES, network, algorithm), 300)
    assert run.results.distance.values[-1] < 1e-3 * run.results.distance.values[0]
    assert run.results.distance_of_mean.values[-1] < 1e-9


def test_gradients_of_the_problem_are_those_of_its_losses() -> None:
    problem, ids = problems.consensus({"a": VALUES, "b": VALUES[:, 0]}), jnp.asarray([4, 1])
    x = jax.tree.map(lambda leaf: leaf[:2], {"a": jnp.ones((2, DIMENSION)), "b": jnp.zeros(2)})
    gradients, losses = problem.gradient(jax.random.key(0), x, ids)
    batch = problem.sample(jax.random.key(0), ids)
    for row in range(2):
        own, one = (jax.tree.map(lambda leaf, row=row: leaf[row], tree) for tree in (x, batch))
        loss, gradient = jax.value_and_grad(problem.loss)(own, one)
        np.testing.assert_allclose(loss, losses[row], rtol=1e-6)
        jax.tree.map(lambda a, b, row=row: np.testing.assert_allclose(a, b[row], rtol=1e-6), gradient, gradients)
    near = problem.proximal(x, 2.0, ids)
    np.testing.assert_allclose(near["a"], (VALUES[[4, 1]] + 2 * np.ones((2, DIMENSION))) / 3, rtol=1e-6)
    np.testing.assert_allclose(problem.optimum["a"], MEAN, rtol=1e-6)
    assert float(problem.evaluate(jax.tree.map(lambda leaf: leaf[None], problem.optimum))["distance"][0]) < 1e-12
    # D-SGD starts from the vectors, each its own optimum, so the first round is one of gossip.
    dsgd = algorithms.dsgd(problems.consensus(VALUES), optax.sgd(0.5))
    trained = measured(dlsim.average(VALUES, networks.complete(NUM), dsgd), 2)
    assert trained.results.distance.values[1] < 1e-10 and trained.results.gradient_evaluations.values[-1] == 2 * NUM


def test_values_are_swept_as_data_and_nodes_in_another_order_hold_their_own() -> None:
    traced = []

    def make(scale: Any) -> Process:
        traced.append(isinstance(scale, jax.core.Tracer))
        return dlsim.average(scale * VALUES, world.uneven())

    results = dlsim.sweep(make, scale=[0.5, 2.0], num_steps=ROUNDS, record=Record(every=ROUNDS), seed=0)
    assert any(traced)
    np.testing.assert_allclose(results.distance.sel(scale=2.0), 16 * results.distance.sel(scale=0.5), rtol=1e-5)
    order = np.asarray(world.ORDER)
    moved = iterates(dlsim.average(VALUES, world.uneven().relabel(order)))
    np.testing.assert_allclose(moved, iterates(dlsim.average(VALUES, world.uneven()))[:, order], atol=1e-6)


def test_an_aggregator_takes_the_place_of_the_mean_and_servers_start_from_one_model() -> None:
    attacked = networks.complete(NUM).with_channel(networks.byzantine((0,), "sign_flip", 50.0))
    ends = {
        name: measured(dlsim.average(VALUES, attacked, algorithms.gossip(aggregator=rule))).results.distance.values[-1]
        for name, rule in (("mean", None), ("median", aggregators.median()))
    }
    assert ends["median"] < 1 < ends["mean"]
    problem = problems.consensus(VALUES)
    served = dlsim.learn(problem, algorithms.fedavg(problem, optax.sgd(1.0)), networks.complete(NUM))
    assert measured(served, 1).results.distance.values.tolist()[-1] < 1e-10


def test_what_becomes_infinite_is_said() -> None:
    lost = networks.ring(NUM).with_channel(networks.gaussian_noise(3e38))
    assert not measured(dlsim.average(VALUES, lost)).status.ok


def test_every_method_without_a_problem_is_tried_here() -> None:
    def is_free(name: str) -> bool:
        signature = inspect.signature(getattr(algorithms, name))
        return signature.return_annotation == "Algorithm" and "problem" not in signature.parameters

    assert {name for name in algorithms.__all__ if is_free(name)} == {"gossip", "push_sum"}


@pytest.mark.parametrize("make", [algorithms.gossip, algorithms.push_sum])
def test_states_are_a_fixed_point_and_runs_resume(make: Any, tmp_path: Any) -> None:
    process = dlsim.average(VALUES, world.uneven().with_channel(world.halving()), make())
    first = jax.eval_shape(process.init, jax.random.key(0))
    last, _ = jax.eval_shape(process.step, jax.random.key(1), first)
    assert jax.tree.structure(first) == jax.tree.structure(last)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    whole = measured(process, 6)
    measured(process, 3, checkpoint_dir=str(tmp_path))
    world.same(measured(process, 6, checkpoint_dir=str(tmp_path), resume=True).state, whole.state)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: dlsim.average(VALUES[:3], world.uneven()), "average: values must be of the network's 8 nodes, got 3"),
        (lambda: dlsim.average(VALUES, world.directed()), r"average: algorithm must be given where .*push_sum\(\)"),
        (
            lambda: dlsim.average(VALUES, world.directed("row_stochastic"), algorithms.push_sum()),
            r'learn: network must be column_stochastic .* Use weights="column_stochastic"',
        ),
        (lambda: dlsim.average(VALUES, VALUES), "average: network must be a Network"),
        (
            lambda: dlsim.average(VALUES, world.uneven(), "gossip"),
            "average: algorithm must be an Algorithm or an Event",
        ),
        (lambda: problems.consensus(np.full((3, 2), np.nan)), "consensus: values must be finite"),
        (lambda: problems.consensus(3.0), "consensus: values must be numbers, leaves"),
        (lambda: problems.consensus({"a": np.ones(3), "b": np.ones(4)}), r"consensus: values must be .* leading sizes"),
        (lambda: problems.consensus({"a": "x"}), "consensus: values must be numbers"),
        (lambda: algorithms.gossip(aggregator="median"), "gossip: aggregator must be an Aggregator"),
    ],
)
def test_bad_input(call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [algorithms.gossip, algorithms.push_sum])
def test_values_that_overflow_are_told_of(method):
    """Noise of 1e38 a round adds up to infinity in float32; the methods have no losses that would show it."""
    loud = networks.ring(6).with_channel(networks.gaussian_noise(1e38))
    process = dlsim.average(np.ones((6, 2)), loud, method())
    run = dlsim.simulate(process, seed=0, num_steps=60, progress=False)
    first = re.search(r"NOT_FINITE first at step (\d+), node (\d)", str(run.status))
    step, node = map(int, first.groups())
    finite = [
        np.isfinite(dlsim.simulate(process, seed=0, num_steps=num, progress=False).params[0]).all(1)
        for num in (step, step + 1)
    ]
    assert step > 0 and finite[0].all()
    assert np.flatnonzero(~finite[1])[0] == node
