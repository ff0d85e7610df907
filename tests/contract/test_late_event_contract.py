"""Messages of methods by clocks that take simulated seconds, whatever else is wrong with the network."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world
from contract.event_table import EVENT_CASES, WORLDS, EventCase, World, churn_and_failures, played, problem_of, rows_of

import dlsim
from dlsim import algorithms, clocks, networks
from dlsim.clocks.flights import ARRIVAL
from dlsim.core import EventAlgorithm, Record
from dlsim.learning.learn import learn
from dlsim.networks.flight.delays import Delays
from dlsim.running import counters
from dlsim.running.programs import compile_process
from dlsim.running.simulate import simulate

WINDOWS = 6
RING, LOSSY = WORLDS[0], WORLDS[2]
RANDOM = networks.log_normal_seconds(0.6, 1.0)
TICK = 1 / clocks.TICKS_PER_SECOND
CASES = {case.id: case for case in EVENT_CASES}
each = pytest.mark.parametrize("name", ["ad_psgd", "swarm_sgd-non_blocking", "gossip_learning"])


@functools.cache
def method(name: str) -> EventAlgorithm:
    case: EventCase = CASES[name]
    return case.make(world.problem(), world.RATE)


def late(place: World, delays: Delays) -> World:
    return place._replace(network=lambda: place.network().with_delays(delays))


def lasting(state: Any) -> Any:
    return state._replace(buffer=())


def test_every_method_is_played_late_or_says_why_not() -> None:
    for case in EVENT_CASES:
        algorithm, network = method(case.id), networks.ring(world.NUM_NODES).with_delays(networks.fixed_seconds(0.5))
        if "prompt" in algorithm.requires or algorithm.may_be_silent:
            with pytest.raises(
                ValueError, match="learn: network must be one without delays for (this algorithm|a method)"
            ):
                learn(problem_of(algorithm), algorithm, network)
            continue
        process = learn(
            problem_of(algorithm), algorithm, network.with_channel(networks.loss(0.1)), churn_and_failures()
        )
        first = jax.eval_shape(process.init, jax.random.key(0))
        last, _ = jax.eval_shape(process.step, jax.random.key(1), first)
        assert jax.tree.structure(first) == jax.tree.structure(last)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


@each
def test_no_delay_is_the_program_without_delays(name: str) -> None:
    texts = []
    for network in (RING.network(), RING.network().with_delays(networks.fixed_seconds(0.0))):
        process = learn(problem_of(method(name)), method(name), network)
        state = jax.eval_shape(process.init, jax.random.key(0))
        jaxpr = str(jax.make_jaxpr(process.step)(jax.random.key(0), state))
        texts.append("\n".join(line for line in jaxpr.splitlines() if " at 0x" not in line))
        assert ("message_staleness" in jax.eval_shape(process.measure, state, {})) is False
    assert texts[0] == texts[1] and len(texts[0]) > 1000


@each
def test_a_delay_in_which_nothing_happens_changes_nothing(name: str) -> None:
    """Of a tick of 2^-30 s, with compressed messages that get lost, over links that fail, to nodes that leave."""
    at_once, after = (
        played(place.process(method(name)), WINDOWS)[0] for place in (LOSSY, late(LOSSY, networks.fixed_seconds(TICK)))
    )
    # What the steps are added to is known anew before it is used.
    first, second = (
        rows._replace(start=()) if "start" in rows._fields else rows for rows in map(rows_of, (at_once, after))
    )
    world.close(first, second)
    for counted in ("messages", "bits"):
        a, b = (counters.to_float(getattr(state.network.traffic, counted)) for state in (at_once, after))
        np.testing.assert_array_equal(a, b)
        assert a.sum() > 10
    np.testing.assert_array_equal(at_once.staleness, after.staleness)
    np.testing.assert_array_equal(at_once.gradient_evaluations, after.gradient_evaluations)
    assert after.heard[0] == after.heard.sum() > 5


@pytest.mark.parametrize("name", ["ad_psgd", "gossip_learning"])
def test_waves_give_the_bits_of_one_event_at_a_time(name: str) -> None:
    place = late(LOSSY, RANDOM)
    serial, waves = (place.process(method(name), serial=is_serial) for is_serial in (True, False))
    one_by_one, together = played(serial, WINDOWS, (None, waves.feed))
    turns = [int(feed.fill(jax.random.key(0), 0)[0].starts.max()) for feed in (serial.feed, waves.feed)]
    assert turns[0] > turns[1]
    world.same(lasting(one_by_one), lasting(together))
    assert np.flatnonzero(np.asarray(together.heard)).max() >= 2
    assert isinstance(together.newest, tuple) == (method(name).hear == "all")


def test_a_run_may_be_cut_anywhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way goes on from checkpoint to checkpoint and from stretch to stretch."""
    monkeypatch.setattr(clocks.windows, "SLOTS", 60)
    process = late(LOSSY, RANDOM).process(method("gossip_learning"))
    length = process.feed.fill(jax.random.key(0), 0)[1]
    assert 1 < length < 5, "choose other SLOTS"
    options = {"record": Record(every=4)}
    unbroken = simulate(process, seed=0, num_steps=8, **options).state
    simulate(process, seed=0, num_steps=4, **options, checkpoint_dir=tmp_path)
    resumed = simulate(process, seed=0, num_steps=8, **options, checkpoint_dir=tmp_path, resume=True).state
    world.same(lasting(resumed), lasting(unbroken))
    assert resumed.heard.sum() > 10


def test_how_time_is_cut_into_windows_does_not_matter() -> None:
    place = late(RING, RANDOM)
    long, short = (played(place.process(method("a2cid2"), window=w), int(9 / w))[0] for w in (1.5, 0.5))
    world.close(rows_of(long), rows_of(short))
    np.testing.assert_array_equal(long.heard, short.heard)
    assert long.heard.sum() > 20


def test_relabelled_nodes_give_relabelled_results() -> None:
    order, delays = (
        np.asarray(world.ORDER),
        networks.trace_seconds(np.random.default_rng(0).random((3, 16)), per="link"),
    )
    network = networks.ring(world.NUM_NODES).with_delays(delays)
    here, there = (
        played(learn(problem_of(method("ad_psgd")), method("ad_psgd"), one, timing=clocks.timing()), WINDOWS)[0]
        for one in (network, network.relabel(order))
    )
    world.close(jax.tree.map(lambda leaf: leaf[order], rows_of(here)), rows_of(there))
    np.testing.assert_array_equal(here.heard, there.heard)


def test_what_finds_no_room_is_lost_and_said() -> None:
    gossip, values = algorithms.randomized_gossip(), np.eye(8, 3, dtype=np.float32)
    found = {}
    for room in (3, 200):
        network = networks.ring(8).with_delays(networks.fixed_seconds(5.0, room=room))
        run = simulate(dlsim.average(values, network, gossip), seed=0, num_steps=20, record=Record(every=20))
        found[room] = run
        sent = run.results.messages_sent.values[-1]
        assert ("BUFFER_OVERFLOW" in str(run.status)) == (room == 3)
        assert run.results.message_staleness.values[-1].sum() < sent
    few, many = (found[room].results.message_staleness.values[-1].sum() for room in (3, 200))
    assert 3 <= few <= 3 * 4 < many  # at most three in five seconds
    assert found[3].results.messages_sent.values[-1] == found[200].results.messages_sent.values[-1]


def test_what_is_kept_is_in_the_estimate_of_memory() -> None:
    size, needed = 20_000, []
    for room in (100, 200):
        network = networks.ring(8).with_delays(networks.fixed_seconds(0.5, room=room))
        process = dlsim.average(np.zeros((8, size), np.float32), network, algorithms.randomized_gossip())
        needed.append(compile_process(process, jax.random.key(0), lambda state, info: {}).bytes_needed)
    assert 0.99 < (needed[1] - needed[0]) / (100 * size * 4) < 3


def test_who_is_away_when_a_message_arrives_misses_it() -> None:
    """Nodes 0 and 1 meet at 0.5 s; it takes one second; node 1 is away in the second window."""
    network = networks.path(2).with_delays(networks.fixed_seconds(1.0))
    when = clocks.timing(communication=clocks.trace([[0.5]]))
    values = np.array([[0.0], [4.0]], np.float32)
    for away, expected in (((), [[2.0], [2.0]]), ((1,), [[2.0], [4.0]])):
        scenario = networks.outages(away, start=1, end=2) if away else None
        process = dlsim.average(values, network, algorithms.randomized_gossip(), scenario, timing=when)
        run = simulate(process, seed=[0, 1], num_steps=3)  # side by side
        np.testing.assert_array_equal(run.state.nodes.params, [expected, expected])
        assert run.results.messages_sent.values.tolist() == [[0, 2, 2, 2]] * 2


# The times themselves, on the host.


def flown(delays: Delays, network: Any = None, horizon: float = 50.0, method_name: str = "ad_psgd") -> Any:
    """Sender, receiver, number and seconds under way of every message that arrives, and when it was sent."""
    network = (networks.ring(8) if network is None else network).with_delays(delays)
    process = learn(problem_of(method(method_name)), method(method_name), network, timing=clocks.timing(window=horizon))
    blocks = process.feed.fill(jax.random.key(0), 0)[0].blocks
    some = (np.asarray(blocks.kinds)[blocks.kind] == ARRIVAL)[:, None] & (blocks.position != clocks.waves.NOTHING)
    return tuple(
        np.asarray(x)[some] for x in (blocks.columns["other"], blocks.a, blocks.number, blocks.since_b, blocks.seconds)
    )


def test_times_are_those_that_were_asked_for() -> None:
    ring = networks.ring(8)
    of_edge = np.linspace(0.1, 1.6, 16)
    sender, receiver, number, seconds, _ = flown(networks.fixed_seconds(of_edge, per="link"))
    edge = {(int(i), int(j)): k for k, (i, j) in enumerate(zip(ring.senders, ring.receivers, strict=True))}
    expected = [of_edge[edge[pair]] for pair in zip(sender.tolist(), receiver.tolist(), strict=True)]
    np.testing.assert_allclose(seconds, expected, rtol=1e-6)
    sender, _, number, seconds, _ = flown(networks.fixed_seconds(np.arange(1, 9) / 8, per="node"))
    np.testing.assert_allclose(seconds, (sender + 1) / 8, rtol=1e-6)
    table = np.array([[0.1] * 8, [0.2] * 8, [0.4] * 7 + [0.8]])
    sender, _, number, seconds, _ = flown(networks.trace_seconds(table, per="node"))
    np.testing.assert_allclose(seconds, table[number % 3, sender], rtol=1e-6)
    rates = networks.links(8, latency=0.25, upload=np.linspace(100, 800, 8), download=300.0)
    linked = ring.with_links(rates)
    for bits in (None, 64.0):
        sender, _, _, seconds, _ = flown(networks.link_seconds(bits), linked)
        size = 32.0 * world.DIMENSION if bits is None else bits
        np.testing.assert_allclose(seconds, 0.25 + size / np.minimum(np.linspace(100, 800, 8)[sender], 300), rtol=1e-6)


def test_random_times_follow_their_law_and_belong_to_the_message() -> None:
    first, other = flown(networks.log_normal_seconds(0.2, 0.7), horizon=400.0), flown(RANDOM, horizon=40.0)
    logs = np.log(first[3] / 0.2)
    assert len(logs) > 2000 and abs(logs.mean()) < 4 * 0.7 / np.sqrt(len(logs)) and abs(logs.std() - 0.7) < 0.05
    # The same draws, whatever the law and however long the tape.
    names = [list(zip(*(column.tolist() for column in found[:3]), strict=True)) for found in (first, other)]
    drawn = dict(zip(names[0], logs.tolist(), strict=True))
    both = [(drawn[name] / 0.7, np.log(t / 0.6)) for name, t in zip(names[1], other[3], strict=True) if name in drawn]
    assert len(both) > 100
    np.testing.assert_allclose(*np.array(both).T, atol=2e-3)
    samples = np.array([0.1, 0.2, 0.5])
    seconds = flown(networks.random_seconds(samples), horizon=400.0)[3]
    shares = [(np.abs(seconds - one) < 1e-4).mean() for one in samples]
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / len(seconds)))


def test_what_cannot_be_is_refused_in_one_line() -> None:
    ring, problem = networks.ring(8), world.problem()
    sgd = optax.sgd(0.1)
    ad_psgd, dsgd = method("ad_psgd"), algorithms.dsgd(problem, sgd)
    large = networks.network.complete_network(8)
    seconds = networks.fixed_seconds(0.5)
    linked = ring.with_links(networks.links(8, upload=8.0))
    shared = ring.with_links(networks.links(8, upload=8.0, upload_cells=0))
    quantized = linked.with_channel(networks.quantize(6)).with_delays(networks.link_seconds())
    prompt = ad_psgd._replace(requires=frozenset({"prompt"}))
    fedbuff = algorithms.fedbuff(problem, sgd, buffer_size=2)
    refused = (
        (lambda: networks.fixed_seconds(-1.0), r"fixed_seconds: seconds must be a number in \[0, 1e\+08\], got -1"),
        (lambda: networks.fixed_seconds([1.0, -2.0], per="link"), r"fixed_seconds: seconds\[1\] must be a number"),
        (lambda: networks.fixed_seconds([1.0, 2.0]), "fixed_seconds: seconds must be a number"),
        (lambda: networks.fixed_seconds(1.0, per="edge"), "fixed_seconds: per must be one of"),
        (lambda: networks.fixed_seconds(1.0, room=0), r"fixed_seconds: room must be an integer"),
        (lambda: networks.random_seconds([]), "random_seconds: samples must be numbers of seconds, one or more"),
        (lambda: networks.log_normal_seconds(0.0, 1.0), "log_normal_seconds: median must be a number in"),
        (lambda: networks.log_normal_seconds(1.0, 6.0), r"log_normal_seconds: sigma must be a number in \[0, 5\]"),
        (lambda: networks.trace_seconds([[1.0, 2.0]]), "trace_seconds: seconds must be"),
        (lambda: networks.link_seconds(0.0), "link_seconds: bits must be a number in"),
        (lambda: jax.jit(lambda d: networks.fixed_seconds(d).values)(1.0), "fixed_seconds: seconds must be known"),
        (lambda: ring.with_delays(networks.fixed_seconds(np.ones(8), per="link")), "of the network's 16 edges"),
        (lambda: ring.with_delays(networks.link_seconds()), "network must be one with links"),
        (lambda: shared.with_delays(networks.link_seconds()), "links.upload_cells must be None"),
        (lambda: learn(problem, ad_psgd, quantized), "learn: delays must be of known sizes where a channel may change"),
        (
            lambda: learn(problem, dsgd, ring.with_delays(seconds)),
            "learn: delays must be in rounds for a method of rounds",
        ),
        (
            lambda: learn(problem, ad_psgd, ring.with_delays(networks.fixed_delay(1))),
            "learn: delays must be in seconds for a method by clocks, got in rounds. Use e.g. dlsim.networks.fixed_sec",
        ),
        (lambda: learn(problem, fedbuff, ring.with_delays(seconds)), "without delays for a method with a schedule"),
        (lambda: learn(problem, prompt, ring.with_delays(seconds)), "one without delays for this algorithm"),
        (lambda: ring.with_delays(seconds).mix(jax.random.key(0), jnp.ones((8, 2))), "mix: delays must be in rounds"),
        (
            lambda: learn(problem, ad_psgd, large.with_delays(RANDOM)),
            "learn: network must be one that lists its edges where messages overtake",
        ),
    )
    for call, line in refused:
        with pytest.raises(ValueError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
    learn(problem, method("gossip_learning"), large.with_delays(RANDOM))
    assert dataclasses.replace(seconds, room=4).room == 4
