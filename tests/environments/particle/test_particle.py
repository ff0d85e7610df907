"""Particle worlds: hand-worked positions, a NumPy oracle, invariants, bad input, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import particle_world

from dlsim.environments.environment import auto_reset
from dlsim.environments.particle import world as particle
from dlsim.environments.particle.contest import adversary, crypto, push, tag, world_comm
from dlsim.environments.particle.cooperation import reference, simple, simple_spread, speaker_listener
from dlsim.environments.rendering.animation import figure_of

TASKS = {
    "simple": (simple, 1, 4, 5),
    "simple_spread": (simple_spread, 3, 18, 5),
    "speaker_listener": (speaker_listener, 2, 11, 5),
    "reference": (reference, 2, 21, 50),
    "tag": (tag, 4, 16, 5),
    "adversary": (adversary, 3, 10, 5),
    "push": (push, 2, 19, 5),
    "crypto": (crypto, 3, 8, 4),
    "world_comm": (world_comm, 6, 34, 20),
}


def random_actions(environment, generator):
    mask = np.ones((environment.num_agents, environment.action_space.num), bool)
    if environment.action_mask is not None:
        mask = np.asarray(environment.action_mask(None))
    return jnp.asarray([generator.choice(np.flatnonzero(row)) for row in mask])


def test_a_push_and_a_rest():
    environment = simple(num_agents=1)
    state, _ = environment.reset(jax.random.key(0))
    state = state._replace(positions=jnp.zeros((1, 2)))
    step = jax.jit(environment.step)
    state, *_ = step(jax.random.key(0), state, jnp.asarray([2]))
    np.testing.assert_allclose(state.positions, [[0, 0]], atol=1e-7)
    np.testing.assert_allclose(state.velocities, [[0.5, 0]], rtol=1e-6)
    state, *_ = step(jax.random.key(0), state, jnp.asarray([0]))
    np.testing.assert_allclose(state.positions, [[0.05, 0]], rtol=1e-6)
    np.testing.assert_allclose(state.velocities, [[0.375, 0]], rtol=1e-6)


def test_contact_at_the_sum_of_radii_and_head_on():
    world = particle.world_of([(2, 0.15, 5.0, np.inf)], [(1, 0.05)], agents_collide=True)
    places = jnp.asarray([[0.0, 0.0], [0.3, 0.0]])
    forces = particle.contact_forces(world, places, jnp.zeros((1, 2)))
    np.testing.assert_allclose(forces, [[-0.1 * np.log(2), 0], [0.1 * np.log(2), 0]], rtol=1e-3, atol=1e-6)
    near = particle.contact_forces(world, jnp.asarray([[0.0, 0.0], [0.1, 0.07]]), jnp.zeros((1, 2)))
    np.testing.assert_allclose(near.sum(0), 0, atol=1e-5)  # momentum
    assert float(near[0, 0]) < 0 < float(near[1, 0])


def test_discs_in_one_place_stay_finite_and_differentiable():
    world = particle.world_of([(2, 0.15, 5.0, np.inf)], [(1, 0.05)], agents_collide=True)
    total = lambda p: jnp.sum(particle.contact_forces(world, p, jnp.zeros((1, 2))) ** 2)  # noqa: E731
    value, gradient = jax.value_and_grad(total)(jnp.zeros((2, 2)))
    assert float(value) == 0 and bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("seed", range(3))
def test_spread_against_oracle(seed):
    environment, generator = simple_spread(num_agents=4, local_ratio=0.3), np.random.default_rng(seed)
    step = jax.jit(environment.step)
    state, _ = environment.reset(jax.random.key(seed))
    state = state._replace(positions=state.positions * 0.4)  # so that they touch
    positions, velocities = np.asarray(state.positions), np.asarray(state.velocities)
    num_contacts = 0
    for _ in range(26):
        moves = generator.integers(0, 5, 4)
        state, seen, rewards, dones, info = step(jax.random.key(0), state, jnp.asarray(moves))
        arguments = [np.full(4, 5.0), np.full(4, np.inf), np.full(4, 0.15), []]
        positions, velocities = particle_world.step(positions, velocities, [], moves, *arguments)
        np.testing.assert_allclose(state.positions, positions, atol=2e-4)
        expected = particle_world.spread_rewards(positions, np.asarray(state.landmarks), 0.3)
        np.testing.assert_allclose(rewards, expected, atol=2e-3)
        others = np.concatenate([positions[j] - positions[1] for j in (0, 2, 3)])
        np.testing.assert_allclose(seen[1, 10:16], others, atol=5e-4)
        num_contacts += int(environment.metrics(state)["num_contacts"])
    assert num_contacts > 0 and bool(dones.all()) and bool(info["is_truncated"])


def test_tag_against_oracle():
    environment, generator = tag(num_good=2, num_adversaries=3), np.random.default_rng(0)
    step = jax.jit(environment.step)
    state, _ = environment.reset(jax.random.key(1))
    state = state._replace(positions=state.positions * 0.3, landmarks=state.landmarks * 0.5)
    positions, velocities = np.asarray(state.positions), np.asarray(state.velocities)
    paid = 0.0
    accelerations, speeds = np.array([3.0] * 3 + [4.0] * 2), np.array([1.0] * 3 + [1.3] * 2)
    radii = np.array([0.075] * 3 + [0.05] * 2)
    for _ in range(26):
        moves = generator.integers(0, 5, 5)
        state, _, rewards, *_ = step(jax.random.key(0), state, jnp.asarray(moves))
        arguments = [np.asarray(state.landmarks), moves, accelerations, speeds, radii, [0.2, 0.2]]
        positions, velocities = particle_world.step(positions, velocities, *arguments)
        np.testing.assert_allclose(state.positions, positions, atol=1e-3)
        np.testing.assert_allclose(rewards, particle_world.tag_rewards(positions, 3), atol=2e-2)
        # From here with the same numbers, so that a contact at the threshold is one on both sides.
        positions, velocities = np.asarray(state.positions), np.asarray(state.velocities)
        assert 10 * int(environment.metrics(state)["num_contacts"]) == float(rewards[0])
        paid += float(rewards[0])
    assert paid > 0


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name):
    make, num_agents, width, num_actions = TASKS[name]
    environment, generator = make(), np.random.default_rng(0)
    assert (environment.num_agents, environment.observation_space.shape) == (num_agents, (width,))
    assert environment.action_space.num == num_actions and len(environment.names) == num_agents
    state, seen = jax.jit(environment.reset)(jax.random.key(0))
    step = jax.jit(environment.step)
    assert seen.shape == (num_agents, width) and bool((jnp.abs(state.positions) <= 1).all())
    for t in range(26):
        previous = state
        state, seen, rewards, dones, info = step(jax.random.key(t), state, random_actions(environment, generator))
        assert seen.shape == (num_agents, width) and rewards.shape == dones.shape == (num_agents,)
        assert bool(jnp.isfinite(seen).all()) and bool(jnp.isfinite(rewards).all())
        assert bool(info["is_over"]) == bool(dones.all()) == (t == 25)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, previous)
    after, _, rewards, dones, _ = step(jax.random.key(0), state, random_actions(environment, generator))
    assert not rewards.any() and bool(dones.all())  # what comes after the end is ignored
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, state))
    figure_of(environment, state)


@pytest.mark.parametrize("name", TASKS)
def test_floats_do_what_whole_actions_do(name):
    make, generator = TASKS[name][0], np.random.default_rng(3)
    whole, floats = make(), make(continuous=True)
    world_actions = random_actions(whole, generator)
    state, _ = whole.reset(jax.random.key(2))
    after, seen, rewards, *_ = jax.jit(whole.step)(jax.random.key(0), state, world_actions)
    width = floats.action_space.shape[0]
    values = np.zeros((whole.num_agents, width), np.float32)
    num_symbols = state.messages.shape[1]
    num_moves = width - num_symbols
    mask = np.ones((whole.num_agents, whole.action_space.num), bool)
    if whole.action_mask is not None:
        mask = np.asarray(whole.action_mask(None))
    for i, action in enumerate(np.asarray(world_actions)):
        count = int(mask[i].sum())
        speaks = count == num_symbols or (num_symbols > 0 and count == 5 * num_symbols)
        moves = count % 5 == 0 and num_moves > 0
        if moves:
            values[i, action % 5] = 1
        if speaks:
            values[i, num_moves + (action // 5 if moves else action)] = 1
    other, seen_other, rewards_other, *_ = jax.jit(floats.step)(jax.random.key(0), state, jnp.asarray(values))
    np.testing.assert_allclose(other.positions, after.positions)
    np.testing.assert_allclose(other.velocities, after.velocities)
    np.testing.assert_array_equal(other.messages, after.messages)
    np.testing.assert_allclose(seen_other, seen)
    np.testing.assert_allclose(rewards_other, rewards)


def test_words_are_heard_and_nobody_moves_the_speaker():
    environment = speaker_listener()
    state, seen = environment.reset(jax.random.key(0))
    goal = int(state.goals[0])
    expected = np.full(3, 0.15, np.float32)
    expected[goal] = 0.65
    np.testing.assert_allclose(seen[0, :3], expected)
    after, seen, *_ = environment.step(jax.random.key(0), state, jnp.asarray([2, 1]))
    np.testing.assert_array_equal(seen[1, -3:], [0, 0, 1])
    np.testing.assert_array_equal(after.positions[0], state.positions[0])
    assert float(after.velocities[1, 0]) == -0.5
    gap = np.hypot(*(after.positions[1] - after.landmarks[goal]))
    np.testing.assert_allclose(environment.metrics(after)["gap"], gap, rtol=1e-5)
    silent, seen, *_ = environment.step(jax.random.key(0), state, jnp.asarray([4, 0]))  # not a symbol
    assert not silent.messages.any()


def test_crypto_pays_the_listener_who_guesses():
    environment = crypto()
    state, _ = environment.reset(jax.random.key(0))
    state = state._replace(goals=jnp.asarray([1, 0]))
    state, seen, rewards, *_ = environment.step(jax.random.key(0), state, jnp.asarray([0, 3, 1]))
    eve, bob = 1 + 255.0**2, 254.0**2
    np.testing.assert_allclose(rewards, [-eve, eve - bob, eve - bob])
    np.testing.assert_array_equal(seen[0, :4], [0, 0, 0, 1])
    np.testing.assert_array_equal(seen[1], [0, 255, 0, 0, 255, 0, 0, 0])


def test_relabelling_agents_relabels_everything():
    environment = simple_spread(num_agents=4)
    state, _ = environment.reset(jax.random.key(0))
    state = state._replace(positions=state.positions * 0.3)
    order, actions = jnp.asarray([2, 0, 3, 1]), jnp.asarray([1, 2, 3, 4])
    after, _, rewards, *_ = environment.step(jax.random.key(0), state, actions)
    moved = state._replace(positions=state.positions[order], velocities=state.velocities[order])
    other, _, other_rewards, *_ = environment.step(jax.random.key(0), moved, actions[order])
    np.testing.assert_allclose(other.positions, after.positions[order], atol=1e-6)
    np.testing.assert_allclose(other_rewards, rewards[order], atol=1e-6)


def test_forests_hide_and_the_leader_sees_all():
    environment = world_comm()
    state, _ = environment.reset(jax.random.key(0))
    places = jnp.asarray([[-1.0, -1], [-0.9, 1], [1, 1], [1, -1], [0.5, 0.5], [-0.5, 0.2]])
    state = state._replace(positions=places, landmarks=jnp.asarray([[9.0, 9], [8, 8], [7, 7], [0.5, 0.5], [-5, -5]]))
    seen = environment.step(jax.random.key(0), state, jnp.zeros(6, int))[1]
    to_others = seen[:, 14:24].reshape(6, 5, 2)
    np.testing.assert_allclose(to_others[0, 3], [1.5, 1.5])  # the leader sees the prey in the forest
    np.testing.assert_array_equal(to_others[1, 3], [0, 0])  # others do not
    np.testing.assert_allclose(to_others[1, 4], [0.4, -0.8], atol=1e-6)  # but the one outside
    assert not to_others[4].any()  # and who is in it sees nobody outside


def test_copies_and_hyperparameters_are_vmapped():
    def first_reward(ratio, key):
        environment = simple_spread(local_ratio=ratio)
        state, _ = environment.reset(key)
        return environment.step(key, state._replace(positions=jnp.zeros((3, 2)) + 0.01), jnp.zeros(3, int))[2][0]

    keys, ratios = jax.random.split(jax.random.key(0), 2), jnp.asarray([0.0, 1.0])
    rewards = jax.jit(jax.vmap(first_reward))(ratios, keys)
    assert float(rewards[1]) == -2.0 and float(rewards[0]) < 0
    np.testing.assert_allclose(rewards[0], first_reward(0.0, keys[0]), rtol=1e-5)


def test_auto_reset_begins_anew():
    environment = auto_reset(simple_spread(max_steps=3))
    state, _ = environment.reset(jax.random.key(0))
    step = jax.jit(environment.step)
    steps = []
    for t in range(7):
        state, _, _, _, info = step(jax.random.key(t), state, jnp.zeros(3, int))
        steps.append((int(state.step), bool(info["is_over"])))
    assert steps == [(1, False), (2, False), (0, True), (1, False), (2, False), (0, True), (1, False)]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: simple_spread(num_agents=0), "simple_spread: num_agents must be an integer >= 1, got 0"),
        (lambda: simple_spread(local_ratio=1.5), "local_ratio must be a number in [0, 1], got 1.5"),
        (lambda: tag(num_good=0), "tag: num_good must be an integer >= 1"),
        (lambda: simple(max_steps=0), "simple: max_steps must be an integer >= 1, got 0"),
        (lambda: world_comm(num_food=0), "world_comm: num_food must be"),
    ],
)
def test_bad_factories(call, line):
    with pytest.raises(ValueError) as error:
        call()
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("continuous", "actions", "line"),
    [
        (False, [0, 1], "actions must be of shape [3], got [2]"),
        (False, [0, 1, 5], "actions must be integers in [0, 4], got 5"),
        (False, [0.0, 1.0, 2.0], "actions must be integers, got dtype float32"),
        (True, [[0.0] * 4] * 3, "actions must be of shape [3, 5], got [3, 4]"),
    ],
)
def test_bad_actions(continuous, actions, line):
    environment = simple_spread(continuous=continuous)
    state, _ = environment.reset(jax.random.key(0))
    with pytest.raises(ValueError) as error:
        environment.step(jax.random.key(0), state, jnp.asarray(actions))
    assert line in str(error.value)
