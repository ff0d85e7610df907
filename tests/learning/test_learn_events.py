"""Runs of asynchronous methods against their tape: messages, bits, gradients, clock, staleness; bad input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlsim import algorithms, clocks, keys, networks, problems
from dlsim.algorithms.swarm_sgd import _tails
from dlsim.core import EventAlgorithm, Record
from dlsim.learning.event_handlers import STALENESS_BINS, compressible
from dlsim.learning.learn import learn
from dlsim.networks.graphs.graph import graph
from dlsim.networks.network import Network, connect
from dlsim.running import counters
from dlsim.running.simulate import simulate

NUM, DIMENSION, WINDOWS, SECONDS = 12, 6, 5, 0.75
PROBLEM = problems.quadratic(NUM, DIMENSION, heterogeneity=0.5, gradient_noise=0.1, condition_number=4.0)
NETWORK = networks.torus(NUM)
SGD = optax.sgd(0.1)
VALUES = np.random.default_rng(0).standard_normal((NUM, DIMENSION)).astype(np.float32)


def played(algorithm: EventAlgorithm, network: Network = NETWORK, windows: int = WINDOWS, **options: Any) -> Any:
    """A run over some windows of 3/4 seconds."""
    problem = PROBLEM if algorithm.trains else problems.consensus(VALUES)
    process = learn(problem, algorithm, network, options.pop("scenario", None), timing=timing(**options))
    return simulate(process, seed=2, num_steps=windows, record=Record(every=1))


def timing(**options: Any) -> clocks.windows.Timing:
    return clocks.timing(**{"window": SECONDS, **options})


def tape_of(gradient: Any, communication: Any, where: str = "edges", windows: int = WINDOWS) -> clocks.Tape:
    key = keys.stream(jax.random.key(2), "tape")
    return clocks.make_tape(NETWORK, gradient, communication, key, windows * SECONDS, communication=where)


def usual() -> clocks.Tape:
    return tape_of(clocks.poisson(1.0), clocks.poisson(clocks.neighbor_rates(NETWORK, 0.5)))


def test_a_pair_sends_two_messages_and_a_gradient_is_counted_once() -> None:
    run, tape = played(algorithms.ad_psgd(PROBLEM, SGD)), usual()
    is_pair = tape.kind == clocks.COMMUNICATION
    sent = np.bincount(np.concatenate([tape.a[is_pair], tape.b[is_pair]]), minlength=NUM)
    np.testing.assert_array_equal(counters.to_float(run.state.network.traffic.messages), sent)
    np.testing.assert_array_equal(counters.to_float(run.state.network.traffic.bits), sent * 32 * DIMENSION)
    # Step by step: what had happened by the end of each window.
    ends = SECONDS * np.arange(WINDOWS + 1)
    results = run.results
    gradients, pairs = (np.searchsorted(tape.seconds[mask], ends) for mask in (~is_pair, is_pair))
    np.testing.assert_array_equal(results.gradient_evaluations.values, gradients)
    np.testing.assert_array_equal(results.messages_sent.values, 2 * pairs)
    np.testing.assert_array_equal(results.simulated_seconds.values, ends)
    assert results.staleness.values[-1].sum() == gradients[-1]
    mean = (results.staleness.values[-1] * np.arange(STALENESS_BINS)).sum() / gradients[-1]
    assert results.mean_staleness.values[-1] == pytest.approx(mean, rel=1e-6)


def test_a_channel_or_a_scenario_that_does_nothing_changes_no_count() -> None:
    plain = played(algorithms.ad_psgd(PROBLEM, SGD))
    channelled = played(algorithms.ad_psgd(PROBLEM, SGD), NETWORK.with_channel(networks.loss(0.0)))
    watched = played(algorithms.ad_psgd(PROBLEM, SGD), scenario=networks.churn(0.0))
    for other in (channelled, watched):
        for name in ("messages_sent", "bits_sent", "gradient_evaluations", "staleness", "simulated_seconds"):
            np.testing.assert_array_equal(other.results[name].values, plain.results[name].values, err_msg=name)
        np.testing.assert_allclose(other.state.nodes.params, plain.state.nodes.params, rtol=1e-5, atol=1e-6)


def test_a_lost_message_is_paid_for_and_changes_nothing() -> None:
    run = played(algorithms.randomized_gossip(), NETWORK.with_channel(networks.loss(1.0)))
    np.testing.assert_array_equal(run.state.nodes.params, VALUES)
    pairs = tape_of(None, clocks.poisson(clocks.neighbor_rates(NETWORK, 0.5)))
    assert run.results.messages_sent.values[-1] == 2 * len(pairs) > 10


def test_pushes_send_one_message_with_an_age_that_no_channel_touches() -> None:
    tape = tape_of(None, clocks.poisson(1.0), "nodes")
    method = algorithms.gossip_learning(PROBLEM, SGD, num_local_steps=2)
    for network, bits in ((NETWORK, 32 * DIMENSION), (NETWORK.with_channel(networks.top_k(2)), 2 * 32 + 2 * 3)):
        run = played(method, network)
        sent = np.bincount(tape.a, minlength=NUM)
        np.testing.assert_array_equal(counters.to_float(run.state.network.traffic.messages), sent)
        np.testing.assert_array_equal(counters.to_float(run.state.network.traffic.bits), sent * (bits + 32))
        assert run.results.gradient_evaluations.values[-1] == 2 * len(tape)
        age = np.zeros(NUM, int)
        for a, b in zip(tape.a, tape.b, strict=True):
            age[b] = max(age[a], age[b]) + 2
        np.testing.assert_array_equal(run.state.nodes.age, age)


def test_headers_are_split_from_what_channels_touch() -> None:
    message = {"age": jnp.arange(3, dtype=jnp.uint32), "x": jnp.ones((3, 2)), "flag": jnp.ones(3, bool)}
    numbers, integers, join = compressible(message)
    assert [leaf.shape for leaf in numbers] == [(3, 2)] and len(integers) == 2
    doubled = join([2 * leaf for leaf in numbers], integers)
    assert jax.tree.map(lambda leaf: leaf.dtype, doubled) == jax.tree.map(lambda leaf: leaf.dtype, message)
    np.testing.assert_array_equal(doubled["x"], 2)
    np.testing.assert_array_equal(doubled["age"], message["age"])


def test_swarm_sgd_counts_the_steps_of_both() -> None:
    pairs = tape_of(None, clocks.poisson(clocks.neighbor_rates(NETWORK, 0.5)))
    for blocking in (True, False):
        run = played(algorithms.swarm_sgd(PROBLEM, SGD, num_local_steps=3, blocking=blocking))
        assert run.results.gradient_evaluations.values[-1] == 6 * len(pairs)
        assert run.state.staleness[int(not blocking)] == run.state.staleness.sum() == 2 * len(pairs)


def test_geometric_steps() -> None:
    assert len(_tails(1)) == 0
    share = _tails(5) / 2.0**32
    np.testing.assert_allclose(share[:20], 0.8 ** np.arange(1, 21), rtol=1e-6)
    assert 1 + share.sum() == pytest.approx(5.0, rel=1e-5)  # the mean: a sum of tails
    windows = 60
    run = played(algorithms.swarm_sgd(PROBLEM, SGD, num_local_steps=5, steps="geometric"), windows=windows)
    pairs = tape_of(None, clocks.poisson(clocks.neighbor_rates(NETWORK, 0.5)), windows=windows)
    draws = 2 * len(pairs)
    assert draws > 400
    mean = run.results.gradient_evaluations.values[-1] / draws
    assert abs(mean - 5) < 4 * np.sqrt(20 / draws), mean  # the variance is H^2 - H


def test_without_mixing_a2cid2_is_ad_psgd() -> None:
    still = algorithms.A2CiD2Constants(0.0, 0.5, 0.9)
    mixed = played(algorithms.a2cid2(PROBLEM, SGD, still))
    plain = played(algorithms.ad_psgd(PROBLEM, SGD, read="now"))
    np.testing.assert_array_equal(mixed.state.nodes.params, plain.state.nodes.params)
    np.testing.assert_array_equal(mixed.state.staleness, plain.state.staleness)


def test_what_flows_is_measured_at_the_end_of_the_window() -> None:
    method = algorithms.a2cid2(PROBLEM, SGD, algorithms.A2CiD2Constants(0.7))
    run, tape = played(method), usual()
    last = np.zeros(NUM)
    np.maximum.at(last, tape.a, tape.seconds)
    is_pair = tape.b >= 0
    np.maximum.at(last, tape.b[is_pair], tape.seconds[is_pair])
    np.testing.assert_allclose(run.state.idle, WINDOWS * SECONDS - last, rtol=1e-5, atol=1e-6)
    params = method.params(method.flow(run.state.nodes, run.state.idle))
    expected = PROBLEM.evaluate(jnp.mean(params, axis=0, keepdims=True), None)["suboptimality"]
    assert run.results.suboptimality_of_mean.values[-1] == pytest.approx(float(expected[0]), rel=1e-4)


def test_how_time_is_cut_into_windows_does_not_matter() -> None:
    for method in (algorithms.ad_psgd(PROBLEM, SGD), algorithms.a2cid2(PROBLEM, SGD, algorithms.A2CiD2Constants(0.7))):
        long, short = played(method, windows=4, window=1.5), played(method, windows=12, window=0.5)
        np.testing.assert_allclose(long.state.nodes.params, short.state.nodes.params, rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(long.state.staleness, short.state.staleness)


def test_windows_without_events_pass() -> None:
    first, _ = clocks.clock_edges(NETWORK)
    once = clocks.trace([[2.6]] + [[] for _ in first[1:]])
    run = played(algorithms.randomized_gossip(), communication=once)
    np.testing.assert_array_equal(run.results.messages_sent.values, [0, 0, 0, 0, 2, 2])


def lonely() -> Network:
    return connect(graph(NUM, np.arange(NUM - 2), np.arange(1, NUM - 1)))


def constants() -> algorithms.A2CiD2Constants:
    return algorithms.A2CiD2Constants(0.5)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: timing(window=0.0), r"timing: window must be a number in \[1e-06"),
        (lambda: timing(window=float("inf")), r"timing: window must be"),
        (lambda: timing(gradient=1.0), r"timing: gradient must be a Clock"),
        (lambda: timing(communication="fast"), r"timing: communication must be a Clock"),
        (lambda: timing(serial=1), r"timing: serial must be True or False"),
        (lambda: clocks.poisson(0.0), r"poisson: rate must be a number in"),
        (lambda: clocks.poisson([1.0, -1.0]), r"poisson: rate\[1\] must be a number in"),
        (lambda: clocks.poisson(float("inf")), r"poisson: rate must be a number in"),
        (
            lambda: learn(PROBLEM, algorithms.ad_psgd(PROBLEM, SGD), lonely()),
            r"learn: network must be connected for this algorithm",
        ),
        (
            lambda: learn(PROBLEM, algorithms.ad_psgd(PROBLEM, SGD), NETWORK, timing=1.0),
            r"learn: timing must be a Timing",
        ),
        (
            lambda: learn(PROBLEM, algorithms.dsgd(PROBLEM, SGD), NETWORK, timing=timing()),
            r"learn: timing must be None for an algorithm of rounds",
        ),
        (
            lambda: played(algorithms.ad_psgd(PROBLEM, SGD), communication=clocks.poisson([1.0, 2.0])),
            r"make_tape: communication_clock must be for \d+ clocks, got one for 2",
        ),
        (
            lambda: learn(
                PROBLEM, algorithms.ad_psgd(PROBLEM, SGD), NETWORK, networks.time_varying([NETWORK, NETWORK])
            ),
            r"learn: scenario must be one that keeps the topology",
        ),
        (lambda: algorithms.ad_psgd(PROBLEM, SGD, read="later"), r"ad_psgd: read must be one of"),
        (lambda: algorithms.ad_psgd(None, SGD), r"ad_psgd: problem must be a Problem"),
        (lambda: algorithms.randomized_gossip(step_size=0.0), r"randomized_gossip: step_size must"),
        (lambda: algorithms.a2cid2(PROBLEM, SGD, 0.5), r"a2cid2: constants must be an? A2CiD2Constants"),
        (lambda: algorithms.a2cid2(PROBLEM, SGD, constants()._replace(mixing=-1.0)), r"a2cid2: constants\.mixing"),
        (lambda: algorithms.a2cid2(PROBLEM, SGD, constants()._replace(step_size=0.0)), r"a2cid2: constants\.step_size"),
        (lambda: algorithms.a2cid2_constants(lonely()), r"a2cid2_constants: network must be connected"),
        (lambda: algorithms.a2cid2_constants(NETWORK, 0.0), r"a2cid2_constants: rates must be one or \d+ finite"),
        (lambda: algorithms.a2cid2_constants(NETWORK, [1.0, 2.0]), r"a2cid2_constants: rates must be one or"),
        (lambda: algorithms.swarm_sgd(PROBLEM, SGD, num_local_steps=0), r"swarm_sgd: num_local_steps must be"),
        (lambda: algorithms.swarm_sgd(PROBLEM, SGD, steps="random"), r"swarm_sgd: steps must be one of"),
        (lambda: algorithms.swarm_sgd(PROBLEM, SGD, blocking="no"), r"swarm_sgd: blocking must be a bool"),
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, merge="sum"), r"gossip_learning: merge must be one of"),
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, order="UM"), r"gossip_learning: order must be one of"),
        (
            lambda: algorithms.gossip_learning(PROBLEM, SGD, merge="none", order="update_merge"),
            r'gossip_learning: order must be "merge_update" where nothing is merged',
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(make: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_window_with_too_many_events_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks.windows, "SPARE", 0.0)
    first, _ = clocks.clock_edges(NETWORK)
    burst = clocks.trace([np.linspace(1.0, 1.4, 2000), *[[] for _ in first[1:]]])
    with pytest.raises(ValueError, match=r"learn: timing\.window must be such that the events of a window fit"):
        played(algorithms.randomized_gossip(), communication=burst)
