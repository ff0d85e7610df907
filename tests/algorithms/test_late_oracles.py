"""Asynchronous methods whose messages take time, against a heap of events in plain NumPy."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
import six_nodes as six
from oracles import late_events as oracles

from dlsim import algorithms, clocks, keys, networks, problems
from dlsim.core import EventAlgorithm, Problem, Record
from dlsim.learning.event_handlers import STALENESS_BINS
from dlsim.learning.learn import learn
from dlsim.running.simulate import simulate

WINDOWS = 12
PROBLEM, NETWORK = six.problem(), six.network()
GRADIENT = six.gradients(PROBLEM)
START = np.zeros((six.NUM_NODES, six.DIMENSION))
PER_LINK = np.random.default_rng(1).uniform(0.1, 2.5, NETWORK.num_edges)
LATE = networks.fixed_seconds(PER_LINK, per="link")
OF_LINK = {
    (int(i), int(j)): int(clocks.to_ticks(seconds))
    for i, j, seconds in zip(NETWORK.senders, NETWORK.receivers, PER_LINK, strict=True)
}
VALUES = np.random.default_rng(0).standard_normal((six.NUM_NODES, six.DIMENSION)).astype(np.float32)


def by_link(sender: int, receiver: int, number: int) -> int:
    del number
    return OF_LINK[sender, receiver]


def played(algorithm: EventAlgorithm, problem: Problem = PROBLEM, delays: Any = LATE, **options: Any) -> Any:
    process = learn(problem, algorithm, NETWORK.with_delays(delays), timing=clocks.timing(**options))
    run = simulate(process, seed=4, num_steps=WINDOWS, record=Record(every=WINDOWS))
    assert run.status.ok, run.status
    return run.state


def events(communication: str = "edges", has_gradients: bool = True, delay: Any = by_link) -> Any:
    """What the run above goes through."""
    rate = clocks.neighbor_rates(NETWORK, 0.5) if communication == "edges" else 1.0
    gradient = clocks.poisson(1.0) if has_gradients else None
    key = keys.stream(jax.random.key(4), "tape")
    tape = clocks.make_tape(NETWORK, gradient, clocks.poisson(rate), key, WINDOWS, communication=communication)
    return oracles.happenings(tape, delay, communication == "edges")


def close(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-4, atol=1e-5)


def heard(state: Any, run: oracles.Run) -> None:
    np.testing.assert_array_equal(state.heard, np.bincount(run.staleness, minlength=STALENESS_BINS))
    assert len(set(run.staleness)) > 2


def test_randomized_gossip() -> None:
    state = played(algorithms.randomized_gossip(step_size=0.3), problems.consensus(VALUES))
    run = oracles.randomized_gossip(VALUES, events(has_gradients=False), 0.3)
    close(state.nodes.params, oracles.stacked(run, "x"))
    heard(state, run)


def test_ad_psgd() -> None:
    state = played(algorithms.ad_psgd(PROBLEM, optax.sgd(six.RATE)))
    run, ages = oracles.ad_psgd(GRADIENT, START, events(), six.RATE)
    close(state.nodes.params, oracles.stacked(run, "x"))
    np.testing.assert_array_equal(state.staleness, np.bincount(ages, minlength=STALENESS_BINS))
    heard(state, run)


def test_a2cid2() -> None:
    constants = algorithms.a2cid2_constants(NETWORK)
    state = played(algorithms.a2cid2(PROBLEM, optax.sgd(six.RATE), constants))
    run = oracles.a2cid2(GRADIENT, START, events(), six.RATE, constants)
    # The heap moves nodes at sendings too; the last events of both are the same.
    close(state.nodes.params, oracles.stacked(run, "x"))
    close(state.nodes.momentum, oracles.stacked(run, "tilde"))
    heard(state, run)


@pytest.mark.parametrize("blocking", [True, False])
def test_swarm_sgd(blocking: bool) -> None:
    state = played(algorithms.swarm_sgd(PROBLEM, optax.sgd(six.RATE), num_local_steps=3, blocking=blocking))
    run = oracles.swarm_sgd(GRADIENT, START, events(has_gradients=False), six.RATE, 3, blocking)
    close(state.nodes.params, oracles.stacked(run, "x"))
    heard(state, run)


def test_gossip_learning() -> None:
    state = played(algorithms.gossip_learning(PROBLEM, optax.sgd(six.RATE)))
    run, behind = oracles.gossip_learning(GRADIENT, START, events("nodes", False), six.RATE)
    close(state.nodes.params, oracles.stacked(run, "x"))
    np.testing.assert_array_equal(state.nodes.age, [row["age"] for row in run.rows])
    np.testing.assert_array_equal(state.staleness, np.bincount(behind, minlength=STALENESS_BINS))
    heard(state, run)


def test_messages_that_overtake_each_other() -> None:
    """Times from a table by the number of the meeting: of two over one link the later may come first, and counts then."""
    table = [3.0, 0.4, 2.2, 0.1, 1.3]
    late = networks.trace_seconds(table)

    def by_number(sender: int, receiver: int, number: int) -> int:
        del sender, receiver
        return int(clocks.to_ticks(table[number % len(table)]))

    fast = clocks.poisson(clocks.neighbor_rates(NETWORK, 2.0))
    key = keys.stream(jax.random.key(4), "tape")
    tape = clocks.make_tape(NETWORK, None, fast, key, WINDOWS)
    runs = [
        oracles.randomized_gossip(VALUES, oracles.happenings(tape, by_number, True), 0.3, in_order)
        for in_order in (True, False)
    ]
    assert len(runs[1].staleness) > 1.2 * len(runs[0].staleness)
    gossip, problem = algorithms.randomized_gossip(step_size=0.3), problems.consensus(VALUES)
    for run, hear in zip(runs, ("newest", "all"), strict=True):
        state = played(gossip._replace(hear=hear), problem, late, communication=fast)
        close(state.nodes.params, oracles.stacked(run, "x"))
        heard(state, run)
        assert state.under_way.values.shape[0] > run.most_under_way
