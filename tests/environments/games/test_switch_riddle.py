"""The switch riddle: hand-worked games, the rules in plain Python, fair draws, bad input, a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments.games.switch_riddle import switch_riddle
from dlsim.environments.rendering.animation import figure_of

KEY = jax.random.key(0)


def test_telling_too_early_kills():
    environment = switch_riddle()
    state, _ = environment.reset(KEY)
    state, _, rewards, dones, info = environment.step(KEY, state, jnp.full(3, 2))
    np.testing.assert_array_equal(rewards, [-1, -1, -1])
    assert bool(dones.all()) and bool(info["is_over"]) and not bool(info["is_truncated"])


def test_the_one_in_the_room_counts_itself():
    environment = switch_riddle()
    state, _ = environment.reset(KEY)
    state = state._replace(in_room=jnp.int32(2), has_been=jnp.asarray([True, True, False]))
    _, _, rewards, _, _ = environment.step(KEY, state, jnp.asarray([0, 0, 2]))
    np.testing.assert_array_equal(rewards, [1, 1, 1])
    _, _, rewards, _, info = environment.step(KEY, state, jnp.asarray([2, 2, 0]))  # who is outside is not heard
    assert not rewards.any() and not bool(info["is_over"])


def test_the_bulb_is_seen_in_the_room_alone():
    environment = switch_riddle()
    state, seen = environment.reset(KEY)
    np.testing.assert_array_equal(seen.sum(0), [1, 0])
    state, seen, *_ = environment.step(KEY, state, jnp.ones(3, int))
    expected = np.zeros((3, 2))
    expected[int(state.in_room)] = 1
    np.testing.assert_array_equal(seen, expected)
    state, seen, *_ = environment.step(KEY, state, jnp.ones(3, int))
    assert not bool(state.bulb) and float(seen[:, 1].sum()) == 0
    assert bool(switch_riddle(bulb=True).reset(KEY)[0].bulb)


@pytest.mark.parametrize("num_agents", [3, 5])
def test_against_plain_rules(num_agents):
    environment, generator = switch_riddle(num_agents, 2.0, -3.0), np.random.default_rng(0)
    step, horizon, outcomes = jax.jit(environment.step), 4 * num_agents - 6, set()
    for game in range(30):
        state, _ = environment.reset(jax.random.key(game))
        bulb, been = False, set()
        for t in range(horizon):
            inside = int(state.in_room)
            been.add(inside)
            can_tell = len(been) == num_agents or generator.random() < 0.1
            actions = generator.integers(0, 3 if can_tell else 2, num_agents)
            action = actions[inside]
            state, _, rewards, dones, info = step(jax.random.key(100 * game + t), state, jnp.asarray(actions))
            bulb ^= action == 1
            paid = 0.0 if action != 2 else 2.0 if len(been) == num_agents else -3.0
            assert bool(state.bulb) == bulb and (np.asarray(rewards) == paid).all()
            assert bool(info["is_over"]) == bool(dones.all()) == (action == 2 or t == horizon - 1)
            assert bool(info["is_truncated"]) == (action != 2 and t == horizon - 1)
            assert int(environment.metrics(state)["num_visitors"]) == len(been)
            outcomes.add(paid)
            if action == 2:
                break
        after, _, rewards, dones, _ = step(KEY, state, jnp.full(num_agents, 2))
        assert not rewards.any() and bool(dones.all()) and int(after.step) == int(state.step)
    assert outcomes == {0.0, 2.0, -3.0}


def test_visitors_are_uniform():
    environment = switch_riddle(4)
    keys = jax.random.split(KEY, 4000)
    first = jax.vmap(lambda key: environment.reset(key)[0].in_room)(keys)
    state, _ = environment.reset(KEY)
    later = jax.vmap(lambda key: environment.step(key, state, jnp.zeros(4, int))[0].in_room)(keys)
    for rooms in (first, later):
        np.testing.assert_allclose(np.bincount(rooms, minlength=4) / 4000, 0.25, atol=0.03)


def test_picture_and_sizes():
    environment = switch_riddle(6)
    state, seen = environment.reset(KEY)
    assert environment.max_steps == 18 and seen.shape == (6, *environment.observation_space.shape)
    figure_of(environment, state)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: switch_riddle(2), "switch_riddle: num_agents must be an integer >= 3, got 2"),
        (
            lambda: switch_riddle(reward_dead=float("nan")),
            "switch_riddle: reward_dead must be a finite number, got nan",
        ),
        (lambda: switch_riddle().step(KEY, switch_riddle().reset(KEY)[0], jnp.asarray([0, 3, 0])), "in [0, 2], got 3"),
    ],
)
def test_bad_input(call, line):
    with pytest.raises(ValueError) as error:
        call()
    assert line in str(error.value)


@pytest.mark.needs("jaxmarl")
def test_agrees_with_jaxmarl():
    import jaxmarl

    theirs = jaxmarl.make("switch_riddle", num_agents=4)
    ours, generator = switch_riddle(4), np.random.default_rng(0)
    their_step, step = jax.jit(theirs.step_env), jax.jit(ours.step)
    for game in range(10):
        # Both draw a uniform agent from the key itself, so the same key is the same game.
        seen, state = theirs.reset(jax.random.key(game))
        mine, looks = ours.reset(jax.random.key(game))
        for t in range(10):
            actions = jnp.asarray(generator.choice(3, 4, p=[0.5, 0.4, 0.1]))
            key = jax.random.key(1000 * game + t)
            seen, state, rewards, dones, _ = their_step(key, state, dict(zip(theirs.agents, actions, strict=True)))
            mine, looks, paid, over, _ = step(key, mine, actions)
            np.testing.assert_array_equal(looks, jnp.stack([seen[a] for a in theirs.agents]))
            np.testing.assert_array_equal(paid, jnp.stack([rewards[a] for a in theirs.agents]))
            assert bool(over.all()) == bool(dones["__all__"])
            if bool(dones["__all__"]):
                break
