"""Matrix games: textbook payoffs, a NumPy oracle, games of three, bad input, a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments.games.matrix_games import GAMES, matrix_game
from dlsim.environments.rendering.animation import figure_of

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("game", "actions", "rewards"),
    [
        ("prisoners_dilemma", (0, 0), (3, 3)),
        ("prisoners_dilemma", (1, 0), (5, 0)),
        ("prisoners_dilemma", (0, 1), (0, 5)),
        ("prisoners_dilemma", (1, 1), (1, 1)),
        ("stag_hunt", (0, 1), (0, 3)),
        ("chicken", (1, 0), (5, 1)),
        ("matching_pennies", (1, 1), (1, -1)),
        ("battle_of_the_sexes", (0, 0), (3, 2)),
        ("climbing", (1, 2), (6, 6)),
        ("coordination", (1, 1), (1, 1)),
    ],
)
def test_what_games_pay(game, actions, rewards):
    environment = matrix_game(game)
    state, _ = environment.reset(KEY)
    np.testing.assert_array_equal(environment.step(KEY, state, jnp.asarray(actions))[2], rewards)


def test_kinds_of_games():
    for name in ("prisoners_dilemma", "stag_hunt", "chicken"):
        rows, columns = np.array(GAMES[name])
        np.testing.assert_array_equal(rows, columns.T)  # symmetric
    (reward, sucker), (temptation, punishment) = GAMES["prisoners_dilemma"][0]
    assert temptation > reward > punishment > sucker and 2 * reward > temptation + sucker
    np.testing.assert_array_equal(np.sum(GAMES["matching_pennies"], axis=0), 0)


def test_three_agents_against_numpy():
    generator = np.random.default_rng(0)
    payoffs = generator.normal(size=(3, 2, 4, 3)).astype(np.float32)
    environment, nums = matrix_game(payoffs, num_rounds=20), np.array([2, 4, 3])
    np.testing.assert_array_equal(environment.action_mask(None).sum(1), nums)
    step, total = jax.jit(environment.step), np.zeros(3)
    state, seen = environment.reset(KEY)
    assert seen.shape == (3, *environment.observation_space.shape) == (3, 12) and not seen.any()
    for t in range(20):
        actions = generator.integers(0, nums)
        state, seen, rewards, dones, info = step(KEY, state, jnp.asarray(actions))
        expected = payoffs[(slice(None), *actions)]
        np.testing.assert_array_equal(rewards, expected)
        total += expected
        np.testing.assert_allclose(state.rewards, total, rtol=1e-5)
        for i, order in enumerate([(0, 1, 2), (1, 0, 2), (2, 0, 1)]):
            np.testing.assert_array_equal(np.asarray(seen)[i].reshape(3, 4).argmax(1), actions[list(order)])
        assert bool(info["is_over"]) == bool(dones.all()) == (t == 19)
    np.testing.assert_allclose(environment.metrics(state)["mean_reward"], total.mean() / 20, rtol=1e-5)
    after, _, rewards, *_ = step(KEY, state, jnp.zeros(3, int))
    assert not rewards.any() and int(after.step) == 20
    figure_of(environment, state)


def test_payoffs_may_be_swept():
    def paid(scale):
        environment = matrix_game(scale * jnp.asarray(GAMES["prisoners_dilemma"], jnp.float32))
        return environment.step(KEY, environment.reset(KEY)[0], jnp.asarray([1, 0]))[2]

    np.testing.assert_array_equal(jax.vmap(paid)(jnp.asarray([1.0, 2.0])), [[5, 0], [10, 0]])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: matrix_game("prisoner"), "matrix_game: payoffs must be one of prisoners_dilemma"),
        (lambda: matrix_game([[1, 2], [3, 4]]), "matrix_game: payoffs must be of shape [A, n_1, ..., n_A], got [2, 2]"),
        (lambda: matrix_game(3.0), "payoffs must be of shape"),
        (lambda: matrix_game(np.full((1, 2), np.nan)), "matrix_game: payoffs must be finite"),
        (lambda: matrix_game(num_rounds=0), "matrix_game: num_rounds must be an integer >= 1, got 0"),
        (lambda: matrix_game().step(KEY, matrix_game().reset(KEY)[0], jnp.asarray([0, 2])), "in [0, 1], got 2"),
    ],
)
def test_bad_input(call, line):
    with pytest.raises(ValueError) as error:
        call()
    assert line in str(error.value)
