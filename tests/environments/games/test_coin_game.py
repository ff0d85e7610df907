"""The coin game: hand-worked moves, the rules in plain Python, symmetry, bad input, a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments.games.coin_game import coin_game
from dlsim.environments.rendering.animation import figure_of

KEY = jax.random.key(0)
RIGHT, LEFT, UP, DOWN, STAY = range(5)
STEPS = [(0, 1), (0, -1), (1, 0), (-1, 0), (0, 0)]


def placed(environment, positions, coins):
    state, _ = environment.reset(KEY)
    return state._replace(positions=jnp.asarray(positions), coins=jnp.asarray(coins))


@pytest.mark.parametrize(
    ("actions", "rewards", "own", "other"),
    [
        ((RIGHT, STAY), (1, 0), (1, 0), (0, 0)),  # red finds the red coin
        ((UP, STAY), (1, -2), (0, 0), (1, 0)),  # red finds the blue coin
        ((STAY, LEFT), (0, 1), (0, 1), (0, 0)),  # blue finds the blue coin
        ((UP, LEFT), (1, -1), (0, 1), (1, 0)),  # both find it
        ((STAY, STAY), (0, 0), (0, 0), (0, 0)),
    ],
)
def test_what_a_coin_pays(actions, rewards, own, other):
    environment = coin_game()
    state = placed(environment, [[0, 0], [1, 1]], [[0, 1], [1, 0]])
    after, _, paid, _, _ = environment.step(KEY, state, jnp.asarray(actions))
    np.testing.assert_array_equal(paid, rewards)
    np.testing.assert_array_equal(after.num_own, own)
    np.testing.assert_array_equal(after.num_other, other)


def test_edges_are_joined():
    environment = coin_game()
    state = placed(environment, [[0, 0], [2, 2]], [[1, 1], [1, 1]])
    state, *_ = environment.step(KEY, state, jnp.asarray([DOWN, RIGHT]))
    np.testing.assert_array_equal(state.positions, [[2, 0], [2, 0]])  # and a cell may be shared


def test_against_plain_rules():
    payoffs = ((1.0, 0.5, -2.0), (0.25, 2.0, -3.0))
    environment, generator = coin_game(num_steps=6, num_games=4, payoffs=payoffs), np.random.default_rng(0)
    step, total = jax.jit(environment.step), np.zeros(2)
    state, _ = environment.reset(KEY)
    for t in range(24):
        actions = generator.integers(0, 5, 2)
        where = [tuple((np.asarray(state.positions)[i] + STEPS[actions[i]]) % 3) for i in range(2)]
        coins = [tuple(coin) for coin in np.asarray(state.coins)]
        expected = np.zeros(2)
        for i in range(2):
            for colour in range(2):
                if where[i] == coins[colour]:
                    expected[i] += payoffs[i][colour]
                    if colour != i:
                        expected[1 - i] += payoffs[1 - i][2]
        state, seen, rewards, dones, info = step(jax.random.key(t), state, jnp.asarray(actions))
        is_last = t % 6 == 5
        np.testing.assert_allclose(rewards, 0 if is_last else expected)
        assert bool(info["is_game_over"]) == is_last and bool(info["is_over"]) == bool(dones.all()) == (t == 23)
        if not is_last:
            assert [tuple(p) for p in np.asarray(state.positions)] == where
            kept = [colour for colour in range(2) if coins[colour] not in where]
            np.testing.assert_array_equal(np.asarray(state.coins)[kept], np.asarray(coins)[kept])
        planes = np.asarray(seen).reshape(2, 3, 3, 4)
        assert (planes.sum((1, 2)) == 1).all() and planes[0][(*np.asarray(state.coins)[1], 3)] == 1
        total += rewards
    assert np.abs(total).sum() > 0
    after, _, rewards, *_ = step(KEY, state, jnp.asarray([0, 0]))
    assert not rewards.any() and int(after.step) == 24


def test_swapping_colours_swaps_rewards():
    environment, generator = coin_game(), np.random.default_rng(1)
    step = jax.jit(environment.step)
    for _ in range(50):
        positions, coins, actions = (
            generator.integers(0, top, shape) for top, shape in ((3, (2, 2)), (3, (2, 2)), (5, 2))
        )
        one = step(KEY, placed(environment, positions, coins), jnp.asarray(actions))
        other = step(KEY, placed(environment, positions[::-1], coins[::-1]), jnp.asarray(actions[::-1]))
        np.testing.assert_array_equal(one[2], other[2][::-1])
        np.testing.assert_array_equal(one[0].positions, other[0].positions[::-1])


def test_coins_come_back_uniformly():
    environment = coin_game()
    state = placed(environment, [[0, 0], [2, 2]], [[0, 1], [1, 0]])
    new = jax.vmap(lambda key: environment.step(key, state, jnp.asarray([RIGHT, STAY]))[0].coins)(
        jax.random.split(KEY, 3000)
    )
    cells = np.asarray(new[:, 0, 0] * 3 + new[:, 0, 1])
    np.testing.assert_allclose(np.bincount(cells, minlength=9) / 3000, 1 / 9, atol=0.03)
    assert (np.asarray(new[:, 1]) == [1, 0]).all()


def test_views_and_shared_rewards():
    environment = coin_game(egocentric=True, shares_rewards=True, size=5)
    state = placed(environment, [[4, 4], [0, 0]], [[4, 0], [1, 1]])
    _, seen, rewards, *_ = environment.step(KEY, state, jnp.asarray([RIGHT, STAY]))
    planes = np.asarray(seen).reshape(2, 5, 5, 4)
    assert planes[0, 2, 2, 0] == planes[1, 2, 2, 0] == 1  # each in the middle
    assert planes[0, 3, 2, 1] == 1 and planes[0, 4, 3, 3] == 1  # red is now at (4, 0), blue one on, the coin two
    np.testing.assert_array_equal(rewards, [1, 1])
    figure_of(environment, state)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: coin_game(size=1), "coin_game: size must be an integer >= 2, got 1"),
        (lambda: coin_game(num_steps=0), "coin_game: num_steps must be an integer >= 1, got 0"),
        (lambda: coin_game(payoffs=[1, 2]), "coin_game: payoffs must be of shape [2, 3], got [2]"),
        (lambda: coin_game(payoffs=np.full((2, 3), np.inf)), "coin_game: payoffs must be finite"),
        (lambda: coin_game().step(KEY, coin_game().reset(KEY)[0], jnp.asarray([0, 5])), "in [0, 4], got 5"),
    ],
)
def test_bad_input(call, line):
    with pytest.raises(ValueError) as error:
        call()
    assert line in str(error.value)


@pytest.mark.needs("jaxmarl")
@pytest.mark.parametrize("egocentric", [False, True])
def test_agrees_with_jaxmarl(egocentric):
    import jaxmarl

    theirs = jaxmarl.make("coin_game", egocentric=egocentric)
    ours, generator = coin_game(egocentric=egocentric), np.random.default_rng(0)
    their_step, step = jax.jit(theirs.step_env), jax.jit(ours.step)
    _, state = theirs.reset(KEY)
    mine, _ = ours.reset(KEY)
    for t in range(100):
        # The same places in both: coins that come back, and new games, are drawn differently.
        mine = mine._replace(
            positions=jnp.stack([state.red_pos, state.blue_pos]),
            coins=jnp.stack([state.red_coin_pos, state.blue_coin_pos]),
        )
        actions = jnp.asarray(generator.integers(0, 5, 2))
        before = mine
        seen, state, rewards, dones, infos = their_step(jax.random.key(t), state, {"0": actions[0], "1": actions[1]})
        mine, looks, paid, over, info = step(jax.random.key(t), mine, actions)
        np.testing.assert_array_equal(paid, [rewards["0"], rewards["1"]])
        assert bool(over.all()) == bool(dones["__all__"]) and bool(info["is_game_over"]) == bool(
            infos["inner_episode_done"]
        )
        gone = np.asarray((before.coins[:, None] == mine.positions).all(2).any(1))
        if not bool(info["is_game_over"]) and not gone.any():
            np.testing.assert_array_equal(looks, [seen["0"], seen["1"]])
