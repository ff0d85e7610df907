"""Schedules at clients whose optimiser starts anew each round: they count rounds, and stand still within one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from oracles import federated
from six_nodes import EVERYONE, NUM_NODES, RATE

import dlsim
from dlsim import algorithms
from dlsim.algorithms.optimizers import at_round
from dlsim.core import Algorithm, Problem

ROUNDS = 6
SCHEDULE = optax.piecewise_constant_schedule(RATE, {2: 0.5, 3: 0.0})  # halved in round 2, nothing from round 3 on
RATES = [float(SCHEDULE(t)) for t in range(ROUNDS)]
COHORTS = [list(range(NUM_NODES))] * ROUNDS

METHODS: dict[str, Callable[[Problem, Any], Algorithm]] = {
    "fedavg": lambda p, o: algorithms.fedavg(p, o, num_local_steps=3),
    "fedprox": lambda p, o: algorithms.fedprox(p, o, num_local_steps=3, proximal_weight=0.5),
    "fedavg momentum": lambda p, o: algorithms.fedavg(p, o, num_local_steps=3, server_optimizer=optax.sgd(1.0, 0.5)),
}
WAYS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "schedule": lambda: optax.sgd(SCHEDULE),
    "scale_by_schedule": lambda: optax.chain(optax.scale_by_schedule(SCHEDULE), optax.scale(-1.0)),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE),
    "masked": lambda: optax.masked(optax.sgd(SCHEDULE), True),
}


def models(algorithm: Algorithm, rounds: int = ROUNDS) -> np.ndarray:
    return six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), EVERYONE[:rounds]))


def test_the_schedule_is_what_is_said_above() -> None:
    np.testing.assert_allclose(RATES, [RATE, RATE, RATE / 2, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_fedavg_follows_the_schedule_by_the_round(way: str) -> None:
    problem = six_nodes.problem()
    found = models(algorithms.fedavg(problem, WAYS[way](), num_local_steps=3))
    sizes = np.ones(NUM_NODES)
    expected = federated.fedavg(six_nodes.gradients(problem), six_nodes.start()[0], RATES, 3, sizes, COHORTS)
    six_nodes.agree(found, expected)


@pytest.mark.parametrize("method", ["fedavg", "fedprox"])
def test_nothing_moves_when_the_rate_is_zero(method: str) -> None:
    found = models(METHODS[method](six_nodes.problem(), optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.0}))), 8)
    moved = np.abs(np.diff(found, axis=0)).max(axis=1)
    assert (moved[:3] > 1e-3).all() and not moved[3:].any()


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_that_is_constant_is_the_number(method: str) -> None:
    problem = six_nodes.problem()
    plain = models(METHODS[method](problem, optax.sgd(RATE)))
    np.testing.assert_allclose(models(METHODS[method](problem, optax.sgd(lambda count: RATE))), plain, rtol=1e-6)


def test_adam_counts_its_own_steps_and_its_rate_the_rounds() -> None:
    """Bias correction belongs to moments that start anew: each round is that of Adam at the number."""
    problem = six_nodes.problem()
    found = models(algorithms.fedavg(problem, optax.adam(SCHEDULE), num_local_steps=3))
    for t in range(3):
        fixed = algorithms.fedavg(problem, optax.adam(RATES[t]), num_local_steps=3)
        state = fixed.init(jax.random.key(0), jnp.asarray(six_nodes.start()), six_nodes.network())
        state, _, _ = fixed.step(jax.random.key(t), state._replace(params=jnp.asarray(found[t])), six_nodes.network())
        np.testing.assert_allclose(found[t + 1], state.params, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_follows_a_schedule(option: str) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.scaffold(problem, SCHEDULE, num_local_steps=3, option=option)
    gradient, start = six_nodes.gradients(problem), six_nodes.start()[0]
    expected = federated.scaffold(gradient, start, NUM_NODES, RATES, 1.0, 3, COHORTS, option)
    found = models(algorithm)
    six_nodes.agree(found, expected)
    np.testing.assert_array_equal(found[-1], found[-2])


def test_a_round_in_which_nobody_came_counts() -> None:
    present = EVERYONE[:4].copy()
    present[1] = False
    rate = optax.piecewise_constant_schedule(0.1, {1: 0.0})
    algorithm = algorithms.fedavg(six_nodes.problem(), optax.sgd(rate))
    states = six_nodes.play(algorithm, six_nodes.network(), present)
    found = six_nodes.models(states)
    assert np.abs(found[1] - found[0]).max() > 1e-3
    np.testing.assert_array_equal(found[2], found[1])
    np.testing.assert_array_equal(found[4], found[2])


def test_decentralised_nodes_keep_their_optimiser_and_count_steps() -> None:
    """Two local steps a round: a schedule that ends after the fourth step stops everything after the second round."""
    rate = optax.piecewise_constant_schedule(0.1, {4: 0.0})
    process = dlsim.learn(
        six_nodes.problem(),
        algorithms.isolated_training(six_nodes.problem(), optax.sgd(rate), num_local_steps=2),
        six_nodes.network(),
    )
    found = dlsim.simulate(process, seed=0, num_steps=5, record=dlsim.Record(fn=lambda s, i: {"x": s.algorithm.params}))
    x = found.results.x.values
    assert np.abs(x[1] - x[0]).max() > 1e-3
    np.testing.assert_array_equal(x[4], x[3])


def test_only_counters_that_stand_for_time_are_set() -> None:
    optimizer = optax.chain(
        optax.add_noise(0.1, 0.5, key=0),
        optax.ema(0.9),
        optax.adam(SCHEDULE),
        optax.conditionally_transform(optax.scale_by_schedule(SCHEDULE), lambda step: step > 2),
    )
    state = at_round(optimizer.init(jnp.zeros(3)), jnp.int32(7))
    assert int(state[0].count) == 7
    assert int(state[1].count) == 0
    assert int(state[2][0].count) == 0 and int(state[2][1].count) == 7
    assert int(state[3].step) == 7 and int(state[3].inner_state.count) == 7


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.sgd(0.1), optax.apply_every(3)),
        optax.MultiSteps(optax.sgd(0.1), 3),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    ],
    ids=["apply_every", "multi_steps", "plateau"],
)
def test_what_must_outlive_a_round_is_refused(optimizer: Any) -> None:
    algorithm = algorithms.fedavg(six_nodes.problem(), optimizer)
    with pytest.raises(
        ValueError, match=r"^fedavg: client_optimizer must be one whose state may start anew each round, "
    ):
        models(algorithm)
    assert np.isfinite(models_of_nodes(optimizer)).all()


def models_of_nodes(optimizer: Any) -> np.ndarray:
    """Nodes that keep their optimiser may accumulate."""
    return models(algorithms.dsgd(six_nodes.problem(), optimizer))
