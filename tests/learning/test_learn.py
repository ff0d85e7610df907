"""`learn`: the round, what it measures, what it costs, and what it refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world

from dlsim import networks
from dlsim.algorithms import choco_sgd, decentralized_admm, dsgd
from dlsim.core import PROPERTIES, REQUIREMENTS, Process, Record
from dlsim.learning.learn import learn
from dlsim.networks.graphs.graph import graph
from dlsim.networks.network import connect
from dlsim.problems import quadratic
from dlsim.running import counters
from dlsim.running.simulate import simulate


def process(scenario: Any = None, network: Any = None, num_local_steps: int = 1) -> Process:
    problem = world.problem()
    algorithm = dsgd(problem, optax.sgd(world.RATE), num_local_steps=num_local_steps)
    return learn(problem, algorithm, world.uneven() if network is None else network, scenario)


def test_what_is_measured() -> None:
    run = simulate(process(num_local_steps=3), seed=0, num_steps=4, record=Record(every=2))
    results, params = run.results, np.asarray(run.state.algorithm.params)
    problem = world.problem()
    expected = np.asarray(problem.evaluate(params, None)["suboptimality"])
    np.testing.assert_allclose(results.suboptimality.values[-1], expected.mean(), rtol=1e-5)
    centre = params.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(
        results.suboptimality_of_mean.values[-1], problem.evaluate(centre, None)["suboptimality"][0], rtol=1e-5
    )
    spread = np.mean(np.sum((params - centre) ** 2, axis=1))
    np.testing.assert_allclose(results.consensus_distance.values[-1], spread, rtol=1e-5)
    assert results.consensus_distance.values[0] == 0
    assert np.isnan(results.train_loss.values[0])
    np.testing.assert_array_equal(results.gradient_evaluations.values, [0, 2 * 3 * 8, 4 * 3 * 8])
    np.testing.assert_array_equal(results.messages_sent.values, [0, 2 * 20, 4 * 20])  # 10 links, both ways
    np.testing.assert_array_equal(results.bits_sent.values, results.messages_sent.values * 32 * world.DIMENSION)
    np.testing.assert_array_equal(results.simulated_seconds.values, [0, 0, 0])
    assert "num_present" not in results


def test_all_nodes_start_alike_and_the_key_decides() -> None:
    state = process().init(jax.random.key(0))
    assert (state.algorithm.params == state.algorithm.params[0]).all()
    a, b = (simulate(process(), seed=s, num_steps=3).state.algorithm.params for s in (0, 1))
    assert not np.array_equal(a, b)


def test_bits_pass_32_bits_exactly() -> None:
    network = world.uneven()
    traffic = network.state.traffic
    nearly = counters.Counter(low=jnp.full(world.NUM_NODES, 2**32 - 100, jnp.uint32), high=traffic.bits.high)
    started = network.with_state(network.state._replace(traffic=traffic._replace(bits=nearly)))
    run = simulate(process(network=started), seed=0, num_steps=5, record=Record(every=1))
    expected = 8 * (2**32 - 100) + np.arange(6) * 20 * 32 * world.DIMENSION
    np.testing.assert_array_equal(run.results.bits_sent.values, expected)
    per_node = counters.to_float(run.state.network.traffic.bits)
    np.testing.assert_array_equal(
        per_node, 2**32 - 100 + 5 * 32 * world.DIMENSION * np.asarray(network.out_degrees, np.float64)
    )


def test_simulated_seconds_are_messages_then_the_slowest_gradient() -> None:
    compute = np.full(world.NUM_NODES, 0.001)
    compute[4] = 0.5
    links = networks.links(world.NUM_NODES, latency=0.25, upload=1000.0, download=1e9, compute=jnp.asarray(compute))
    run = simulate(process(network=world.uneven().with_links(links), num_local_steps=2), seed=0, num_steps=4)
    most_sent = int(np.asarray(world.uneven().out_degrees).max()) * 32 * world.DIMENSION
    each = most_sent / 1000.0 + 0.25 + 2 * 0.5
    np.testing.assert_allclose(run.results.simulated_seconds.values, each * np.arange(5), rtol=1e-6)


def test_absent_nodes_are_counted_out() -> None:
    run = simulate(process(world.absent((2, 5), from_step=1)), seed=0, num_steps=3, record=Record(every=1))
    assert run.results.num_present.values.tolist() == [0, 8, 6, 6]
    np.testing.assert_array_equal(run.results.gradient_evaluations.values, [0, 8, 14, 20])


def test_train_loss_is_over_those_who_trained() -> None:
    everyone_but_four = tuple(i for i in range(world.NUM_NODES) if i != 4)
    problem = world.problem(gradient_noise=0.0)
    algorithm = dsgd(problem, optax.sgd(world.RATE))
    run = simulate(learn(problem, algorithm, world.uneven(), world.absent(everyone_but_four)), seed=0, num_steps=1)
    start = jnp.zeros((1, world.DIMENSION))
    _, loss = problem.full_gradient(jax.random.key(0), start, jnp.asarray([4]))
    np.testing.assert_allclose(run.results.train_loss.values[-1], loss[0], rtol=1e-6)
    nobody = learn(problem, algorithm, world.uneven(), world.absent(tuple(range(world.NUM_NODES))))
    assert np.isnan(simulate(nobody, seed=0, num_steps=1).results.train_loss.values[-1])


def test_channel_states_belong_to_the_run() -> None:
    network = world.uneven().with_channel(world.halving())
    run = simulate(process(network=network), seed=0, num_steps=3)
    assert list(run.state.network.channels) == ["mix"]
    assert network.state.channels == {}
    again = simulate(process(network=network), seed=0, num_steps=3)
    world.same(run.state, again.state)


def test_the_parts_are_cited() -> None:
    with_channel = process(network=world.uneven().with_channel(world.halving()))
    assert "a toy" in with_channel.sources
    assert any("Lian" in source for source in with_channel.sources)


def test_the_users_network_survives_the_run() -> None:
    network = world.uneven()
    before = jax.tree.map(np.array, network)
    simulate(process(network=network), seed=0, num_steps=3)
    world.same(jax.tree.map(np.array, network), before)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (world.halves, "network must be connected for this algorithm, got .*Add edges"),
        (world.directed, 'network must be row_stochastic for this algorithm, got .*weights="row_stochastic"'),
        (lambda: networks.ring(6), "network must be of the problem's 8 nodes, got 6 nodes"),
    ],
)
def test_unfit_networks_are_one_line(network: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        process(network=network())
    assert "\n" not in str(caught.value)


def test_channels_and_scenarios_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"scenario must be a Scenario, got Channel\. A Channel goes to network\."):
        process(scenario=world.halving())
    with pytest.raises(ValueError, match=r"channel must be a Channel, got Scenario\. A Scenario goes to `learn`"):
        world.uneven().with_channel(world.absent())


def test_a_network_of_one_node_runs() -> None:
    single = quadratic(1, 3, heterogeneity=0.0)
    network = connect(graph(1, np.zeros(0), np.zeros(0)))
    run = simulate(learn(single, dsgd(single, optax.sgd(0.5)), network), seed=0, num_steps=20)
    assert run.results.suboptimality.values[-1] < 0.1 * run.results.suboptimality.values[0]
    assert run.results.bits_sent.values[-1] == 0


def test_a_method_whose_state_belongs_to_edges_refuses_new_ones() -> None:
    period = networks.one_peer_exponential(8)
    problem = quadratic(8, 3)
    for algorithm in (choco_sgd(problem, optax.sgd(0.1)), decentralized_admm(problem)):
        with pytest.raises(ValueError, match="learn: scenario must be one that keeps the topology for this algorithm"):
            learn(problem, algorithm, networks.ring(8), networks.time_varying(period))


@pytest.mark.parametrize(
    ("requires", "line"),
    [
        (
            frozenset({"doubly-stochastic"}),
            r"learn: algorithm\.requires must be one of doubly_stochastic, .*connected.*server, got 'doubly-stochastic'\. "
            r"Did you mean 'doubly_stochastic'\?",
        ),
        (frozenset({"connected", "gossip"}), r"algorithm\.requires must be one of .*, got 'gossip'\."),
        ("connected", r"algorithm\.requires must be a set of names, got 'connected'\. Pass e\.g\. frozenset"),
        (None, r"algorithm\.requires must be a set of names, got None"),
    ],
)
def test_names_that_no_network_can_have_are_refused(requires: Any, line: str) -> None:
    problem = quadratic(6, 3)
    algorithm = dsgd(problem, optax.sgd(0.1))._replace(requires=requires)
    with pytest.raises(ValueError, match=line) as caught:
        learn(problem, algorithm, networks.complete(6))
    for name in REQUIREMENTS if isinstance(requires, frozenset) else ():
        assert name in str(caught.value)


def test_names_of_a_scenarios_networks_are_known_ones() -> None:
    problem = quadratic(6, 3)
    algorithm = dsgd(problem, optax.sgd(0.1))
    moving = networks.epidemic(2)._replace(properties=frozenset({"connected", "row-stochastic"}))
    with pytest.raises(
        ValueError, match=r"scenario\.properties must be one of row_stochastic, .*Did you mean 'row_stoch"
    ):
        learn(problem, algorithm, networks.complete(6), moving)
    for network in (networks.ring(6), networks.complete(5000), networks.exponential(6)):
        assert network.properties <= set(PROPERTIES)
    assert networks.epidemic(2).properties <= set(PROPERTIES)
