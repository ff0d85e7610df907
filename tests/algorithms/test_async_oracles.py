"""Asynchronous methods against loops over events in plain NumPy, on the same tape."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
import six_nodes as six
from oracles import asynchronous as oracles

from dlsim import algorithms, clocks, keys, problems
from dlsim.core import EventAlgorithm, Problem, Record
from dlsim.learning.event_handlers import STALENESS_BINS
from dlsim.learning.learn import learn
from dlsim.running.simulate import simulate

WINDOWS = 12
PROBLEM, NETWORK = six.problem(), six.network()
GRADIENT = six.gradients(PROBLEM)
START = np.zeros((six.NUM_NODES, six.DIMENSION))


def played(algorithm: EventAlgorithm, problem: Problem = PROBLEM) -> Any:
    process = learn(problem, algorithm, NETWORK, timing=clocks.timing())
    return simulate(process, seed=4, num_steps=WINDOWS, record=Record(every=WINDOWS)).state


def tape(communication: str = "edges", has_gradients: bool = True) -> clocks.Tape:
    """What the run above goes through."""
    rate = clocks.neighbor_rates(NETWORK, 0.5) if communication == "edges" else 1.0
    gradient = clocks.poisson(1.0) if has_gradients else None
    key = keys.stream(jax.random.key(4), "tape")
    return clocks.make_tape(NETWORK, gradient, clocks.poisson(rate), key, WINDOWS, communication=communication)


def close(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-4, atol=1e-5)


def counted(staleness: list[int]) -> np.ndarray:
    return np.bincount(staleness, minlength=STALENESS_BINS)


def test_randomized_gossip() -> None:
    values = np.random.default_rng(0).standard_normal((six.NUM_NODES, six.DIMENSION)).astype(np.float32)
    state = played(algorithms.randomized_gossip(step_size=0.3), problems.consensus(values))
    close(state.nodes.params, oracles.randomized_gossip(values, tape(has_gradients=False), 0.3))


@pytest.mark.parametrize(("read", "momentum"), [("start", 0.0), ("start", 0.6), ("now", 0.0)])
def test_ad_psgd(read: str, momentum: float) -> None:
    state = played(algorithms.ad_psgd(PROBLEM, optax.sgd(six.RATE, momentum=momentum or None), read=read))
    params, staleness = oracles.ad_psgd(GRADIENT, START, tape(), six.RATE, read, momentum)
    close(state.nodes.params, params)
    np.testing.assert_array_equal(state.staleness, counted(staleness))
    assert read == "now" or len(set(staleness)) > 2


def test_a2cid2() -> None:
    constants = algorithms.a2cid2_constants(NETWORK)
    state = played(algorithms.a2cid2(PROBLEM, optax.sgd(six.RATE), constants))
    params, momentum = oracles.a2cid2(GRADIENT, START, tape(), six.RATE, constants)
    close(state.nodes.params, params)
    close(state.nodes.momentum, momentum)
    assert np.abs(params - momentum).max() > 0.01


@pytest.mark.parametrize("blocking", [True, False])
def test_swarm_sgd(blocking: bool) -> None:
    state = played(algorithms.swarm_sgd(PROBLEM, optax.sgd(six.RATE), num_local_steps=3, blocking=blocking))
    close(state.nodes.params, oracles.swarm_sgd(GRADIENT, START, tape(has_gradients=False), six.RATE, 3, blocking))


@pytest.mark.parametrize(
    ("merge", "order", "num_local_steps"),
    [("age_weighted", "merge_update", 1), ("age_weighted", "update_merge", 2), ("average", "merge_update", 2),
     ("none", "merge_update", 1)],
)  # fmt: skip
def test_gossip_learning(merge: str, order: str, num_local_steps: int) -> None:
    options = {"merge": merge, "order": order, "num_local_steps": num_local_steps}
    state = played(algorithms.gossip_learning(PROBLEM, optax.sgd(six.RATE), **options))
    expected = oracles.gossip_learning(GRADIENT, START, tape("nodes", False), six.RATE, **options)
    close(state.nodes.params, expected[0])
    np.testing.assert_array_equal(state.nodes.age, expected[1])
    np.testing.assert_array_equal(state.staleness, counted(expected[2]))
    assert len(set(expected[1].tolist())) > 1
