"""Broadcast and Snowball: plain loops, rounds by the formulas, faults, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import keys, networks, trust
from dlsim.trust.draws import peers, subset


def run(process, num_steps, seed=0, every=1):
    return dlsim.simulate(
        process, seed=seed, num_steps=num_steps, record=dlsim.Record(every=every), progress=False
    ).results


def test_subsets_are_distinct_whole_and_uniform() -> None:
    words = keys.node_bits(jax.random.key(0), jnp.arange(3000), 3)
    found = np.sort(np.asarray(subset(words, jnp.full(3000, 5))), axis=1)
    assert (found[:, 1:] > found[:, :-1]).all() and found.min() == 0 and found.max() == 4
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 10
    # Multinomial, 300 each: a standard deviation of 16.4.
    assert np.abs(counts - 300).max() < 4.5 * 16.4
    np.testing.assert_array_equal(subset(words[:1], jnp.array([2])), [[0, 1, -1]])
    np.testing.assert_array_equal(subset(words[:1], jnp.array([0])), [[-1, -1, -1]])


def test_peers_are_others_or_neighbours() -> None:
    key = jax.random.key(1)
    found = np.asarray(peers(key, networks.complete(9), 4))
    assert all(len(set(row)) == 4 and i not in row for i, row in enumerate(found.tolist()))
    ring = np.asarray(peers(key, networks.ring(9), 3))
    assert all({(i - 1) % 9, (i + 1) % 9, -1} == set(row) for i, row in enumerate(ring.tolist()))
    everyone = np.sort(np.asarray(peers(key, networks.complete(5), 4)), axis=1)
    assert everyone.tolist() == [[j for j in range(5) if j != i] for i in range(5)]


@pytest.mark.parametrize("manner", ["push", "pull", "push_pull"])
def test_a_rumour_spreads_as_in_a_plain_loop(manner: str) -> None:
    network = networks.complete(16)
    process = trust.broadcast(network, fanout=2, manner=manner, rumour_bits=100)
    state, step = process.init(jax.random.key(0)), jax.jit(process.step)
    knows = np.asarray(state.own.is_informed).copy()
    messages = bits = 0
    for t in range(4):
        key = jax.random.key(t)
        state, _ = step(key, state)
        before, mine = knows.copy(), keys.stream(key, "broadcast")
        if manner != "pull":
            called = np.asarray(peers(keys.stream(mine, "tell"), network, 2))
            for i in np.flatnonzero(before):
                knows[called[i]] = True
                messages, bits = messages + 2, bits + 200
        if manner != "push":
            called = np.asarray(peers(keys.stream(mine, "ask"), network, 2))
            for i in np.flatnonzero(~before):
                told = int(before[called[i]].sum())
                knows[i] |= told > 0
                messages, bits = messages + 2 + told, bits + 640 + 100 * told
        np.testing.assert_array_equal(state.own.is_informed, knows)
        found = process.measure(state, {})
        assert int(found["messages_sent"].low) == messages and int(found["bits_sent"].low) == bits


def test_push_takes_the_rounds_of_the_formula_and_one_to_all_others() -> None:
    found = run(trust.broadcast(networks.complete(1024)), 30, seed=range(10), every=30).rounds_to_all.isel(step=-1)
    # log2 N + ln N = 16.9; a spread of 1.2 over seeds.
    assert float(found.mean()) == pytest.approx(np.log2(1024) + np.log(1024), abs=2)
    assert int(run(trust.broadcast(networks.complete(9), fanout=8), 1).rounds_to_all[-1]) == 1


def test_channels_churn_and_links_reach_a_rumour() -> None:
    lossy = networks.complete(64).with_channel(networks.loss(1.0))
    assert int(run(trust.broadcast(lossy, manner="push_pull"), 3).num_informed[-1]) == 1
    away = run(trust.broadcast(networks.complete(64), manner="push_pull", scenario=networks.crash(1, 1.0)), 3)
    assert int(away.num_present[-1]) == 0 and int(away.num_informed[-1]) == int(away.num_informed[1])
    timed = networks.complete(64).with_links(networks.links(64, upload=1e6, download=1e6))
    seconds = run(trust.broadcast(timed, manner="pull", rumour_bits=10_000), 3).simulated_seconds.values
    # A question of 320 bits, then one answer at least: more than 0.01 s a round while somebody knows and somebody asks.
    assert (np.diff(seconds) > 0.00032 - 1e-9).all() and seconds[-1] > 0.01


def test_snowball_is_a_plain_loop() -> None:
    num = 30
    network = networks.complete(num)
    process = trust.snowball(network, sample_size=5, majority=3, decide_after=3, byzantine=0.2)
    state, step = process.init(jax.random.key(5)), jax.jit(process.step)
    likes, lies = (np.asarray(x).copy() for x in (state.own.preference, state.own.is_byzantine))
    assert lies.sum() == 6 and likes.sum() == 15
    confidence, last, count, done = np.zeros((num, 2), int), [-1] * num, [0] * num, [False] * num
    for t in range(8):
        key = jax.random.key(t)
        state, _ = step(key, state)
        called = np.asarray(peers(keys.stream(key, "snowball"), network, 5))
        before = likes.copy()
        for i in range(num):
            if lies[i] or done[i]:
                continue
            said = [1 - before[i] if lies[j] else before[j] for j in called[i]]
            winner = next((c for c in (0, 1) if said.count(c) >= 3), None)
            if winner is None:
                count[i], last[i] = 0, -1
                continue
            confidence[i, winner] += 1
            if confidence[i, winner] > confidence[i, 1 - winner]:
                likes[i] = winner
            count[i] = count[i] + 1 if winner == last[i] else 1
            last[i], done[i] = winner, count[i] >= 3
        np.testing.assert_array_equal(state.own.preference, likes)
        np.testing.assert_array_equal(state.own.streak, count)
        np.testing.assert_array_equal(state.own.is_decided, done)
    assert any(done)


def test_a_unanimous_start_decides_after_beta_rounds_and_halves_agree() -> None:
    """One program, shares as data."""

    def play(share_of_ones, byzantine, num_rounds):
        process = trust.snowball(networks.complete(200), share_of_ones=share_of_ones, byzantine=byzantine)
        key = jax.random.key(0)

        def one(t, state):
            return process.step(jax.random.fold_in(key, t), state)[0]

        return process.measure(jax.lax.fori_loop(0, num_rounds, one, process.init(key)), {})

    played = jax.jit(play)
    assert float(played(1.0, 0.0, 14)["share_decided"]) == 0 and int(played(1.0, 0.0, 15)["rounds_to_all"]) == 15
    halves = played(0.5, 0.1, 120)
    assert float(halves["share_decided"]) == float(halves["agreement"]) == 1
    assert float(halves["share_of_ones"]) in (0.0, 1.0)


NINE = networks.complete(9)
CASES = [
    (lambda: trust.broadcast(NINE, fanout=0), r"broadcast: fanout must be an integer in \[1, 8\], got 0"),
    (
        lambda: trust.broadcast(networks.complete(100), fanout=70),
        "broadcast: fanout must be at most 64, or 99 for all, got 70",
    ),
    (lambda: trust.broadcast(NINE, manner="shout"), "broadcast: manner must be one of"),
    (lambda: trust.broadcast(NINE, num_sources=10), r"broadcast: num_sources must be an integer in \[1, 9\], got 10"),
    (lambda: trust.broadcast(networks.complete(1)), "broadcast: network must be of at least 2 nodes, got 1 nodes"),
    (lambda: trust.broadcast(NINE.with_delays(networks.fixed_delay(2))), "network must be one without delays"),
    (lambda: trust.snowball(NINE, sample_size=9), r"snowball: sample_size must be an integer in \[1, 8\], got 9"),
    (
        lambda: trust.snowball(NINE, sample_size=8, majority=4),
        "majority must be above half of sample_size=8 and .*, got 4",
    ),
    (lambda: trust.snowball(NINE, sample_size=8, byzantine=1.1), r"byzantine must be a number in \[0, 1\], got 1.1"),
    (lambda: trust.snowball(NINE, sample_size=8, decide_after=0), "decide_after must be an integer >= 1, got 0"),
]


@pytest.mark.parametrize(("make", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_bad_input_is_one_line(make, line) -> None:
    with pytest.raises(ValueError, match=line):
        make()
