"""Teleportation against a loop over places, and what becomes of models that are lost."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
from contract import world

import dlsim
from dlsim import algorithms, networks
from dlsim.running import status
from dlsim.running.counters import to_float

NUM, ACTIVE, DIMENSION, RATE = 9, 4, 3, 0.1


def problem() -> dlsim.Problem:
    return dlsim.problems.quadratic(NUM, DIMENSION, heterogeneity=0.5, gradient_noise=0.0, condition_number=3.0)


def rolled(network: Any, num_steps: int, scenario: Any = None, topology: Any = None) -> world.Trajectory:
    topology = networks.path(ACTIVE) if topology is None else topology
    method = algorithms.teleportation(problem(), optax.sgd(RATE), topology)
    return world.roll(dlsim.learn(problem(), method, network, scenario), num_steps)


def test_it_agrees_with_a_loop_over_places() -> None:
    seen = rolled(networks.ring(NUM), 5)
    w = np.array([[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 2]]) / 3  # Metropolis-Hastings on a path
    x = np.asarray(seen.states[0].algorithm.params)
    ids = np.arange(NUM)
    for before, after, info in zip(seen.states[:-1], seen.states[1:], seen.infos, strict=True):
        active = np.asarray(after.algorithm.active)
        assert len(set(active.tolist())) == ACTIVE
        gradients = [
            problem().full_gradient(jax.random.key(0), x[p][None], ids[i : i + 1])[0][0] for p, i in enumerate(active)
        ]
        trained = [x[p] - RATE * np.asarray(gradients[p]) for p in range(ACTIVE)]
        x = np.stack([sum(w[p, q] * trained[q] for q in range(ACTIVE)) for p in range(ACTIVE)])
        np.testing.assert_allclose(after.algorithm.params, x, rtol=1e-5, atol=1e-6)
        assert np.flatnonzero(info["num_gradients"]).tolist() == sorted(active.tolist())
        moved = [int(a != b) for a, b in zip(before.algorithm.active, active, strict=True)]
        traffic = [to_float(s.network.traffic.messages).sum() for s in (before, after)]
        assert traffic[1] - traffic[0] == sum(moved) + 2 * (ACTIVE - 1)


def test_every_node_is_active_about_as_often() -> None:
    seen = rolled(networks.ring(NUM), 60)
    times = np.bincount(np.concatenate([s.algorithm.active for s in seen.states[1:]]), minlength=NUM)
    assert times.sum() == 60 * ACTIVE
    assert abs(times - times.mean()).max() < 16  # five standard deviations of a hypergeometric draw


def test_who_lost_its_model_takes_the_mean_of_what_its_neighbours_say() -> None:
    """All are at rest (rate 0): a mean of equal models is that model, so nothing moves however much is lost."""
    lossy = networks.ring(NUM).with_channel(networks.loss(0.5))
    method = algorithms.teleportation(problem(), optax.sgd(0.0), networks.ring(ACTIVE))
    seen = world.roll(dlsim.learn(problem(), method, lossy), 8)
    worked = [np.count_nonzero(info["num_gradients"]) for info in seen.infos]
    assert 0 < np.mean(worked) < ACTIVE
    np.testing.assert_allclose(seen.last.algorithm.params, seen.states[0].algorithm.params, rtol=1e-5)


def test_where_all_is_lost_models_stay_and_it_is_said() -> None:
    seen = rolled(networks.ring(NUM).with_channel(networks.loss(1.0)), 3, topology=networks.ring(3))
    kept = np.asarray(seen.states[0].algorithm.params)
    lost = [i for i, info in enumerate(seen.infos) if int(np.max(info["status"])) & status.EMPTY_COHORT]
    assert lost  # unless a node follows itself
    same = [
        np.array_equal(np.asarray(seen.states[i + 1].algorithm.params), np.asarray(seen.states[i].algorithm.params))
        for i in lost
    ]
    assert all(same) and kept.shape == (3, DIMENSION)


def test_those_that_are_away_are_not_chosen() -> None:
    seen = rolled(networks.ring(NUM), 6, world.absent((1, 2, 7)))
    chosen = np.concatenate([s.algorithm.active for s in seen.states[1:]])
    assert not set(chosen.tolist()) & {1, 2, 7}


@pytest.mark.parametrize(
    ("topology", "line"),
    [
        (networks.ring(10), "topology must be of at most the problem's 9 nodes, got 10 nodes"),
        (world.directed(), "topology must be row stochastic"),
        (3, "topology must be a Network, got 3"),
    ],
)
def test_bad_topologies(topology: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"teleportation: {line}"):
        algorithms.teleportation(problem(), optax.sgd(RATE), topology)
