"""The riddle, the coins and the matrices: plain loops, hand-worked rounds, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments import coin_game, figure_of, matrix_game, switch_riddle
from dlsim.environments.coin_game import PAYOFFS, CoinState, play as play_coins

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))


def test_a_riddle_is_the_plain_game():
    environment = switch_riddle(4)
    step, generator = jax.jit(environment.step), np.random.default_rng(0)
    told = 0
    for episode in range(30):
        state, seen = environment.reset(jax.random.key(episode))
        been, bulb, room = set(), False, int(state.in_room)
        for t in range(4 * 4 - 6):
            expected = np.zeros((4, 2))
            expected[room] = (1, bulb)
            np.testing.assert_array_equal(seen, expected)
            been.add(room)
            tells = len(been) == 4 or generator.random() < 0.05
            action = 2 if tells else int(generator.integers(0, 2))
            actions = generator.integers(0, 3, 4)
            actions[room] = action
            state, seen, rewards, dones, info = step(jax.random.key(1000 * episode + t), state, jnp.asarray(actions))
            bulb ^= action == 1
            np.testing.assert_allclose(rewards, (1.0 if len(been) == 4 else -1.0) if tells else 0.0)
            over = tells or t == 9
            assert bool(info["is_over"]) == over == bool(dones.all()) and bool(info["is_truncated"]) == (
                not tells and over
            )
            told += tells
            if over:
                break
            room = int(state.in_room)
    assert told > 5


def test_telling_at_once_loses_and_the_horizon_is_that_of_the_paper():
    environment = switch_riddle(3)
    state, _ = environment.reset(jax.random.key(0))
    *_, rewards, dones, _ = environment.step(jax.random.key(1), state, jnp.full(3, 2))
    assert environment.max_steps == 6 and (rewards == -1).all() and dones.all()


def test_visitors_are_uniform():
    environment = switch_riddle(3)
    rooms = jax.vmap(lambda key: environment.reset(key)[0].in_room)(jax.random.split(jax.random.key(0), 3000))
    np.testing.assert_allclose(np.bincount(rooms) / 3000, 1 / 3, atol=0.04)


def test_coins_are_the_plain_game():
    generator, found = np.random.default_rng(0), 0
    for _ in range(300):
        positions, coins, fresh = generator.integers(0, 3, (3, 2, 2))
        actions = generator.integers(0, 5, 2)
        none = jnp.zeros(2, jnp.int32)
        state = CoinState(jnp.asarray(positions), jnp.asarray(coins), none, none, jnp.int32(0))
        after, rewards = play_coins(state, jnp.asarray(actions), jnp.asarray(fresh), jnp.asarray(PAYOFFS), 3)
        expected, new, left = np.zeros(2), [], coins.copy()
        for i in range(2):
            new.append((positions[i] + MOVES[actions[i]]) % 3)
        for i in range(2):
            for coin in range(2):
                if (new[i] == coins[coin]).all():
                    found += 1
                    expected[i] += 1
                    left[coin] = fresh[coin]
                    if coin != i:
                        expected[1 - i] -= 2
        np.testing.assert_array_equal(after.positions, new)
        np.testing.assert_array_equal(after.coins, left)
        np.testing.assert_allclose(rewards, expected)
        # Colours and agents swapped, rewards swap.
        flipped = state._replace(positions=state.positions[::-1], coins=state.coins[::-1])
        other = play_coins(flipped, jnp.asarray(actions[::-1]), jnp.asarray(fresh[::-1]), jnp.asarray(PAYOFFS), 3)[1]
        np.testing.assert_allclose(other, rewards[::-1])
    assert found > 50


def test_games_of_coins_end_one_by_one():
    environment = coin_game(num_steps=3, num_games=2)
    state, seen = environment.reset(jax.random.key(0))
    assert seen.shape == (2, 36) and (seen.sum(1) == 4).all()
    for t in range(1, 8):
        state, _, rewards, _, info = jax.jit(environment.step)(jax.random.key(t), state, jnp.array([0, 2]))
        assert bool(info["is_game_over"]) == (t in (3, 6)) and bool(info["is_over"]) == (t >= 6)
        assert t not in (3, 6, 7) or (rewards == 0).all()


@pytest.mark.parametrize("game", ["prisoners_dilemma", "climbing", "matching_pennies"])
def test_matrices_pay_what_they_say(game):
    from dlsim.environments.matrix_games import GAMES

    environment = matrix_game(game, num_rounds=12)
    table, generator = np.asarray(GAMES[game], float), np.random.default_rng(0)
    state, seen = environment.reset(jax.random.key(0))
    assert (seen == 0).all()
    for t in range(12):
        actions = generator.integers(0, table.shape[1], 2)
        state, seen, rewards, _, info = environment.step(jax.random.key(t), state, jnp.asarray(actions))
        np.testing.assert_allclose(rewards, table[:, actions[0], actions[1]])
        hot = np.eye(table.shape[1])
        np.testing.assert_array_equal(
            seen, [[*hot[actions[0]], *hot[actions[1]]], [*hot[actions[1]], *hot[actions[0]]]]
        )
    assert bool(info["is_over"])


def test_three_players_with_different_numbers_of_actions():
    table = np.random.default_rng(0).normal(size=(3, 2, 3, 4))
    environment = matrix_game(table, num_rounds=5)
    state, _ = environment.reset(jax.random.key(0))
    np.testing.assert_array_equal(environment.action_mask(state).sum(1), [2, 3, 4])
    _, seen, rewards, *_ = environment.step(jax.random.key(0), state, jnp.array([1, 2, 3]))
    np.testing.assert_allclose(rewards, table[:, 1, 2, 3], rtol=1e-6)
    assert seen.shape == (3, 12)


@pytest.mark.parametrize("environment", [switch_riddle(3), coin_game(), matrix_game()], ids=lambda e: e.name)
def test_pictures(environment):
    state, _ = environment.reset(jax.random.key(0))
    assert figure_of(environment, state).axes[0].get_title() == environment.name


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: switch_riddle(2), "switch_riddle: num_agents must be an integer >= 3, got 2"),
        (lambda: coin_game(size=1), "coin_game: size must be an integer >= 2"),
        (lambda: coin_game(payoffs=np.ones((2, 2))), r"coin_game: payoffs must be of shape \[2, 3\]"),
        (
            lambda: matrix_game("prisoners_dilema"),
            "matrix_game: payoffs must be one of .*Did you mean 'prisoners_dilemma'",
        ),
        (lambda: matrix_game(np.ones((2, 3))), r"matrix_game: payoffs must be of shape \[A, n_1, ..., n_A\]"),
        (lambda: matrix_game(np.full((1, 2), np.nan)), "matrix_game: payoffs must be finite"),
        (
            lambda: switch_riddle(3).step(
                jax.random.key(0), switch_riddle(3).reset(jax.random.key(0))[0], jnp.array([0, 9, 0])
            ),
            "switch_riddle: actions must be",
        ),
    ],
)
def test_bad_input(make, line):
    with pytest.raises(ValueError, match=line):
        make()
