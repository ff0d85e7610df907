"""Small cells: radio by hand, walks, outages, budgets, the market as a Process, scripts, and bad input."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import environments
from dlsim.environments import Radio, cell_market, script_bidding, script_waiting, small_cells
from dlsim.environments.cells import radio as cell_radio
from dlsim.environments.rendering.animation import figure_of


def played(environment, actions, steps=30, seed=0):
    """All states of an environment under a function of the state."""
    state, seen = jax.jit(environment.reset)(jax.random.key(seed))
    step = jax.jit(environment.step)
    states = [state]
    for t in range(steps):
        state, seen, rewards, _, _ = step(jax.random.key(t + 1), state, actions(state))
        states.append(state)
    return states, seen, rewards


def test_signal_over_noise_by_hand():
    radio = Radio(shadowing_db=0.0)
    stations = jnp.array([[0.0, 0.0], [100.0, 0.0], [0.0, 300.0], [1000.0, 1000.0]])
    users = jnp.array([[20.0, 0.0], [0.0, 1.0]])
    made = cell_radio.links(radio, users, stations, jax.random.key(0), 2)
    np.testing.assert_array_equal(made.serving, [0, 0])
    np.testing.assert_array_equal(made.near, [[1, 2], [1, 2]])
    distances = np.maximum(np.linalg.norm(np.asarray(users)[:, None] - np.asarray(stations), axis=2), 10.0)
    power = 10 ** ((30.0 - 30.0 - 36.7 * np.log10(distances)) / 10)
    noise = 10**-9.5
    for user in range(2):
        own, first, second, far = power[user]
        bottom = noise + 0.1 * (own + far) + 0.1 * 0.05 * second
        np.testing.assert_allclose(made.sinr[user, 0], first / bottom, rtol=1e-4)
        np.testing.assert_allclose(made.serving_sinr[user], own / (noise + 0.1 * (first + second + far)), rtol=1e-4)
        np.testing.assert_allclose(made.efficiency[user, 0], np.log2(1 + first / bottom), rtol=1e-4)


def test_nulling_helps_and_blocks_of_users_change_nothing(monkeypatch):
    key, length = jax.random.key(1), float(cell_radio.side(Radio(), 20))
    assert np.isclose(length, 1000 * np.sqrt(20 / 60))
    stations, users = cell_radio.scatter(key, 20, length), cell_radio.scatter(jax.random.key(2), 50, length)
    nulled = cell_radio.links(Radio(), users, stations, key, 3)
    loud = cell_radio.links(Radio(nulling=1.0), users, stations, key, 3)
    assert (np.asarray(nulled.sinr) > np.asarray(loud.sinr)).all()
    np.testing.assert_array_equal(nulled.serving_sinr, loud.serving_sinr)
    monkeypatch.setattr(cell_radio, "BLOCK", 7 * 20)
    for one, other in zip(nulled, cell_radio.links(Radio(), users, stations, key, 3), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_users_stay_in_the_square_and_at_their_speed():
    environment = small_cells(30, 6, speed=2000.0, blockages=0.0)
    states, _, rewards = played(environment, lambda s: jnp.zeros((30, 3)), 100)
    length = float(cell_radio.side(Radio(), 6))
    for before, after in itertools.pairwise(states):
        users = np.asarray(after.users)
        assert users.min() >= 0 and users.max() <= length
        moved = np.linalg.norm(users - np.asarray(before.users), axis=1)
        assert moved.max() <= 2000.0 * 0.002 * (1 + 1e-3)
    assert not np.any(np.asarray(rewards)) and int(states[-1].blocked.sum()) == 0
    np.testing.assert_allclose(np.linalg.norm(states[-1].heading, axis=1), 2000.0, rtol=1e-4)


def test_links_break_as_often_as_they_should():
    environment = small_cells(400, 8, blockages=5.0, handover=0.02, speed=0.0)
    states, _, _ = played(environment, lambda s: jnp.zeros((400, 3)), 60)
    started = sum(
        int(np.sum((np.asarray(after.blocked) == 10) & (np.asarray(before.blocked) <= 1)))
        for before, after in itertools.pairwise(states)
    )
    # A user whose link is well, or is being handed over now, breaks with 1 - exp(-5 * 0.002).
    exposed = sum(int(np.sum(np.asarray(s.blocked) <= 1)) for s in states[:-1])
    expected = exposed * -np.expm1(-0.01)
    assert abs(started - expected) < 4 * np.sqrt(expected)
    for before, after in itertools.pairwise(states):
        going = np.asarray(before.blocked) > 1
        np.testing.assert_array_equal(np.asarray(after.blocked)[going], np.asarray(before.blocked)[going] - 1)


def test_bids_cost_tokens_and_bandwidth_is_conserved():
    environment = small_cells(60, 6, blockages=50.0, refill=0.0, most_tokens=1.0, bandwidth=7.0)
    states, _, _ = played(environment, lambda s: jnp.ones((60, 3)), 80)
    for before, after in itertools.pairwise(states):
        assert np.all(np.asarray(after.tokens) >= 0) and np.all(np.asarray(after.tokens) <= np.asarray(before.tokens))
        sold = np.zeros(6)
        np.add.at(sold, np.asarray(before.links.near), np.asarray(after.allocation))
        bid = np.asarray(after.prices) > 0
        np.testing.assert_allclose(sold[bid], 7.0, rtol=1e-4)
        assert not np.any(np.asarray(after.allocation)[np.asarray(before.blocked) == 0])
    # One token buys one budget for one lease of 25 rounds.
    assert float(states[-1].tokens.min()) < 1e-6
    first = int(np.argmax(np.asarray(states[1].blocked) > 0))
    spent = [float(s.tokens[first]) for s in states]
    assert np.isclose(spent[1] - spent[2], 1 / 25, rtol=1e-3)


def test_bandwidth_is_used_after_the_negotiation_only():
    environment = small_cells(60, 6, blockages=20.0, negotiation=5)
    states, seen, _ = played(environment, lambda s: jnp.ones((60, 3)) / 3, 60)
    last = states[-1]
    got, wanted = np.asarray(last.got_by_age), np.asarray(last.wanted_by_age)
    assert not np.any(got[:5]) and np.all(got[5:40] > 0) and np.all(got <= wanted + 1e-4)
    assert seen.shape == (60, 13)
    np.testing.assert_allclose(last.wanted - last.lost, 0.002 * got.sum(), rtol=1e-3)


def test_rewards_are_what_is_lacking():
    environment = small_cells(40, 6, blockages=20.0, max_steps=20)
    waiting = played(environment, lambda s: jnp.zeros((40, 3)), 19)
    np.testing.assert_array_equal(waiting[2], -np.asarray(waiting[0][-2].blocked > 0, np.float32))
    state = waiting[0][-1]
    _, _, _, dones, info = environment.step(jax.random.key(0), state, jnp.zeros((40, 3)))
    assert bool(info["is_over"]) and bool(info["is_truncated"]) and np.all(dones)


def test_a_market_beats_waiting_and_caps_leave_more_to_others():
    def lost(policy):
        process = environments.play(small_cells(60, 12, blockages=1.0), policy)
        run = dlsim.simulate(process, seed=[0, 1], num_steps=250, record=dlsim.Record(every=250), progress=False)
        return run.results.lost_share.values[:, -1], run.results.mean_price.values[:, -1]

    (market, low), (waiting, none), (whole, high) = (
        lost(p) for p in (script_bidding(), script_waiting(), script_bidding(is_capped=False))
    )
    np.testing.assert_allclose(waiting, 1.0, rtol=1e-5)
    assert np.all(market < 0.7) and np.all(none == 0) and np.all(low < high)
    assert np.all(market <= whole + 0.02)


def test_the_process_comes_to_the_equilibrium():
    process = cell_market(40, 8, optimum_rounds=300)
    run = dlsim.simulate(process, seed=[0, 1], num_steps=60, record=dlsim.Record(every=1), progress=False)
    gap = run.results.utility_gap.values
    assert np.isnan(gap[:, 0]).all() and np.all(np.diff(gap[:, 1:]) <= 1e-5)
    assert np.all(gap[:, -1] < 1e-3) and np.all(gap[:, 1] > 0.1)
    means = run.results.geometric_means.values[:, -1]
    np.testing.assert_allclose(means[:, 0], means[:, -1], rtol=1e-2)  # the market, and its equilibrium
    np.testing.assert_allclose(run.results.bytes_sent.values[0], 2 * 8 * 3 * 40 * np.arange(61))
    doubtful = cell_market(40, 8, optimum_rounds=300, uncertainty=0.5)
    worse = dlsim.simulate(doubtful, seed=[0, 1], num_steps=60, record=dlsim.Record(every=60), progress=False)
    assert np.all(worse.results.utility_gap.values[:, -1] > gap[:, -1])


def test_it_can_be_drawn():
    environment = small_cells(30, 6, blockages=20.0)
    states, _, _ = played(environment, lambda s: jnp.ones((30, 3)), 5)
    figure = figure_of(environment, states[-1])
    assert len(figure.axes[0].collections) == 3 and figure.axes[0].lines


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_cells(0), "small_cells: num_users must be an integer >= 1"),
        (lambda: small_cells(5, 3, cluster=3), r"small_cells: cluster must be an integer in \[1, 2\], got 3"),
        (lambda: small_cells(bandwidth=-1.0), "small_cells: bandwidth must be a number in"),
        (lambda: small_cells(handover=0.0), "small_cells: handover must be a number in"),
        (lambda: small_cells(radio=3), "small_cells: radio must be a Radio, got 3"),
        (lambda: small_cells(radio=Radio(activity=2.0)), "small_cells: radio.activity must be a number in"),
        (lambda: small_cells(radio=Radio(density=0.0)), "small_cells: radio.density must be a number in"),
        (lambda: cell_market(10, 1), "cell_market: num_stations must be an integer >= 2"),
        (lambda: cell_market(uncertainty=-1.0), "cell_market: uncertainty must be a number in"),
        (lambda: script_bidding(0), "script_bidding: cluster must be an integer >= 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_script_for_another_cluster_is_told():
    process = environments.play(small_cells(10, 6, cluster=2), script_bidding(3))
    with pytest.raises(ValueError, match="script_bidding: observations must be of shape"):
        jax.eval_shape(lambda key: process.step(key, process.init(key)), jax.random.key(0))
