"""MoDeST against a loop over its tape, FedAvg with the same cohorts, and what it counts."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world

import dlsim
from dlsim import algorithms, networks
from dlsim.core import Scenario
from dlsim.running import status
from dlsim.running.counters import to_float

NUM, DIMENSION, RATE = 20, 3, 0.1


def problem() -> dlsim.Problem:
    return dlsim.problems.quadratic(NUM, DIMENSION, heterogeneity=0.5, gradient_noise=0.0, condition_number=3.0)


def tape(num_rounds: int = 12, **changes: Any) -> networks.SamplingTape:
    return networks.sampling_tape(NUM, num_rounds, **{"sample_size": 5, **changes})


def rolled(played: networks.SamplingTape, num_steps: int, network: Any = None, scenario: Any = None) -> Any:
    method = algorithms.modest(problem(), optax.sgd(RATE), played, num_local_steps=2)
    network = networks.ring(NUM) if network is None else network
    return world.roll(dlsim.learn(problem(), method, network, scenario), num_steps)


@functools.cache
def gradient() -> Any:
    return jax.jit(lambda x, node: problem().full_gradient(jax.random.key(0), x[None], node[None])[0][0])


def trained(x: np.ndarray, node: int) -> np.ndarray:
    for _ in range(2):
        x = x - RATE * np.asarray(gradient()(x, jnp.int32(node)))
    return x


def test_it_agrees_with_a_loop_over_nodes() -> None:
    """Models by name: what each aggregator made, and who started from whose."""
    crashing = networks.turnover(NUM, random_crashes=(11, 2, 8))
    played = tape(num_aggregators=2, success_fraction=0.6, turnover=crashing, seed=5)
    assert played.num_played == 12 and played.aggregators.shape[1] > 2 and not played.used.all((1, 2)).any()
    seen = rolled(played, 12)
    models = {node: np.asarray(jax.tree.leaves(seen.states[0].algorithm.params)[0][0]) for node in range(NUM)}
    for t in range(12):
        made: dict[int, list[np.ndarray]] = {}
        for s, node in enumerate(played.trainers[t]):
            if played.trains[t, s]:
                source = played.aggregators[t - 1, played.start[t, s]] if t else 0
                x = trained(models[int(source)], int(node))
                for a in np.flatnonzero(played.used[t, s]):
                    made.setdefault(int(played.aggregators[t, a]), []).append(x)
        models |= {node: np.mean(all_of, axis=0) for node, all_of in made.items()}
        output = np.asarray(seen.states[t + 1].algorithm.params)[int(seen.states[t + 1].algorithm.output)]
        np.testing.assert_allclose(output, models[int(played.aggregators[t, 0])], rtol=1e-5, atol=1e-6)


def test_with_equal_views_it_is_fedavg_with_the_sample_as_cohort() -> None:
    played = tape()

    def step(key: jax.Array, state: Any, network: networks.Network) -> Any:
        del key
        return state + 1, network.replace(cohort=jnp.asarray(played.trainers)[state])

    asked = Scenario(init=lambda key, network: jnp.zeros((), jnp.int32), step=step)
    fedavg = algorithms.fedavg(problem(), optax.sgd(RATE), num_local_steps=2, weighting="uniform")
    server = world.roll(dlsim.learn(problem(), fedavg, networks.ring(NUM), asked), 8)
    peers = rolled(played, 8)
    for a, b in zip(server.states, peers.states, strict=True):
        np.testing.assert_allclose(a.algorithm.params, b.algorithm.params[0], rtol=2e-5, atol=1e-6)


def test_what_it_counts() -> None:
    played = tape(num_aggregators=2)
    seen = rolled(played, 12)
    sent = to_float(seen.last.network.traffic.messages).sum()
    assert sent == played.models.sum() + played.small.sum()
    bits = to_float(seen.last.network.traffic.bits).sum()
    assert bits == played.models.sum() * (32 * DIMENSION + 128 * NUM) + played.small.sum() * 256
    clock = seen.last.network.traffic.clock
    assert float(clock.seconds) + 1e-9 * float(clock.nanoseconds) == pytest.approx(played.seconds.sum(), rel=1e-5)
    for t, info in enumerate(seen.infos):
        assert np.count_nonzero(info["num_gradients"]) == 5 and int(info["round_models"]) == played.models[t]


def test_where_the_system_has_stalled_or_the_tape_is_over_the_model_stays_and_it_is_said() -> None:
    gone = networks.turnover(NUM, crashes_at=np.where(np.arange(NUM) > 0, 3.0, np.inf))
    played = tape(6, turnover=gone)
    assert played.num_played < 4
    seen = rolled(played, 8)
    flags = [int(np.max(info["status"])) for info in seen.infos]
    assert [bool(f & status.EMPTY_COHORT) for f in flags] == [t >= played.num_played for t in range(8)]
    assert [bool(f & status.BUFFER_OVERFLOW) for f in flags] == [t >= 6 for t in range(8)]
    assert np.array_equal(seen.last.algorithm.params, seen.states[played.num_played].algorithm.params)
    assert to_float(seen.last.network.traffic.messages).sum() == to_float(seen.states[6].network.traffic.messages).sum()


def test_messages_that_are_lost_are_not_in_the_mean() -> None:
    """At rest (all optima alike, from there) nothing moves, whoever is heard: means have weights that sum to one."""
    lossy = networks.ring(NUM).with_channel(networks.loss(0.4))
    method = algorithms.modest(problem(), optax.sgd(0.0), tape(), num_local_steps=1)
    seen = world.roll(dlsim.learn(problem(), method, lossy), 10)
    worked = [np.count_nonzero(info["num_gradients"]) for info in seen.infos]
    assert worked[0] == 5 and 1 <= np.mean(worked[1:]) < 5
    np.testing.assert_allclose(seen.last.algorithm.params, seen.states[0].algorithm.params, rtol=1e-5)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="modest: tape must be of the problem's 20 nodes, got one of 8"):
        algorithms.modest(problem(), optax.sgd(RATE), networks.sampling_tape(8, 3, sample_size=3))
    with pytest.raises(ValueError, match="modest: tape must be a SamplingTape"):
        algorithms.modest(problem(), optax.sgd(RATE), 3)
    linked = networks.ring(NUM).with_links(networks.links(NUM, upload=1e6))
    process = dlsim.learn(problem(), algorithms.modest(problem(), optax.sgd(RATE), tape()), linked)
    with pytest.raises(ValueError, match="modest: network must be one without links"):
        process.init(jax.random.key(0))
