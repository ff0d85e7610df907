"""The five swarm tasks against a world of objects whose pushes are integer programs; views, messages, metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.swarm_world import SwarmWorld

from dlsim.environments import grid
from dlsim.environments.environment import auto_reset
from dlsim.environments.swarm import world as swarm
from dlsim.environments.swarm.flocking import flocking
from dlsim.environments.swarm.foraging import foraging
from dlsim.environments.swarm.metrics import message_metrics
from dlsim.environments.swarm.pursuit import pursuit, respawn_draws
from dlsim.environments.swarm.synchronization import synchronization
from dlsim.environments.swarm.transport import transport

TASKS = [pursuit, synchronization, foraging, flocking, transport]
SYMBOLS = ".*WBPNFAa"
IDS = [task.__name__ for task in TASKS]


@functools.cache
def built(task, **options):
    """An environment with compiled functions; short episodes."""
    environment = task(**{"max_rounds": 12, **options})
    return environment, jax.jit(environment.reset), jax.jit(environment.step)


heard_from = jax.jit(swarm.heard_from, static_argnames="view")


def oracle_of(environment, state):
    extra = {}
    if environment.name in ("synchronization", "foraging"):
        extra["flags"] = np.asarray(state.flags)
    if environment.name == "pursuit":
        extra["prey"] = tuple(int(x) for x in state.prey)
    if environment.name == "transport":
        corner = np.asarray(state.box_position)
        extra["box"] = [tuple(int(x) for x in cell + corner) for cell in np.argwhere(np.asarray(state.box_mask))]
    return SwarmWorld(environment.name, state.terrain, state.positions, environment.max_steps, **extra)


@functools.partial(jax.jit, static_argnames="environment_size")
def biased(key, drift, environment_size):
    """Random actions, more of one direction: agents gather at walls and boxes and push each other."""
    num_agents, num_actions = environment_size
    random = jax.random.randint(key, (num_agents,), 0, num_actions)
    toward = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.6, random.shape)
    return jnp.where(toward, drift, random)


def decode(environment, observations, view):
    """Symbols of the views, from the planes."""
    planes = np.asarray(observations)[:, : view * view * 8].reshape(environment.num_agents, view, view, 8)
    codes = np.where(planes.any(axis=-1), planes.argmax(axis=-1) + 1, 0)
    return np.vectorize(lambda code: SYMBOLS[code])(codes)


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_agrees_with_the_world_of_objects_step_by_step(task):
    environment, reset, step = built(task)
    for seed in range(4):
        key = jax.random.key(seed)
        state, observations = reset(key)
        world = oracle_of(environment, state)
        gained = 0.0
        for t in range(12):
            key, act_key, step_key = jax.random.split(key, 3)
            drift = (seed + t // 4) % 4 + 1
            actions = biased(act_key, drift, (10, environment.action_space.num))
            assert [tuple(p) for p in np.asarray(state.positions).tolist()] == world.positions, (seed, t)
            seen = decode(environment, observations, 5)
            for k in range(environment.num_agents):
                if state.inside[k]:
                    wanted = np.asarray(world.view(k, 5))
                    assert np.array_equal(np.where(wanted == "Y", ".", wanted), seen[k]), (seed, t, k)
            world.step(np.asarray(actions).tolist(), functools.partial(respawn_draws, step_key))
            state, observations, rewards, _, info = step(step_key, state, actions)
            gained += float(rewards.max())
            assert float(info["score"]) == pytest.approx(world.score), (seed, t)
            assert gained == pytest.approx(world.score)
            if environment.name in ("synchronization", "foraging"):
                assert np.asarray(state.flags).tolist() == world.flags
            if environment.name == "pursuit":
                assert tuple(np.asarray(state.prey).tolist()) == world.prey
            if bool(info["is_over"]):
                break


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_nobody_shares_a_cell_or_enters_what_is_solid(task):
    environment = task(num_agents=20, **({"size": 12} if task is foraging else {"height": 12, "width": 11}))

    def run(key):
        def body(state, key):
            actions = jax.random.randint(key, (20,), 0, environment.action_space.num)
            after, *_ = environment.step(key, state, actions)
            return after, (after.positions, after.inside, after.prey, after.box_position)

        state, _ = environment.reset(key)
        _, seen = jax.lax.scan(body, state, jax.random.split(key, 60))
        return state, seen

    states, (positions, inside, prey, box) = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 8))
    for copy in range(8):
        solid = {tuple(c) for c in np.argwhere(np.asarray(states.terrain[copy]) != 0).tolist()}
        before = np.ones(20, bool)
        for t in range(60):
            here = np.asarray(inside[copy, t])
            assert not (here & ~before).any()
            before = here
            cells = [tuple(p) for p in np.asarray(positions[copy, t])[here].tolist()]
            if environment.name == "pursuit":
                cells.append(tuple(np.asarray(prey[copy, t]).tolist()))
            if environment.name == "transport":
                corner = np.asarray(box[copy, t])
                cells += [tuple(c) for c in (np.argwhere(np.asarray(states.box_mask[copy])) + corner).tolist()]
            assert len(set(cells)) == len(cells)
            assert not set(cells) & solid


def test_lights_that_follow_the_round_score_every_round_but_the_first():
    environment = synchronization()

    @jax.jit
    def run(state, keys):
        return jax.lax.scan(body, state, keys)

    def body(state, key):
        actions = jnp.where(state.flags != (state.round % 2 == 0), swarm.SWITCH, 0)
        state, _, rewards, _, info = environment.step(key, state, actions)
        return state, (rewards, info["is_over"])

    state, _ = built(synchronization)[1](jax.random.key(3))
    state, (rewards, over) = run(state, jax.random.split(jax.random.key(0), 110))
    assert float(state.score) >= 99
    assert float(rewards[:, 0].sum()) == float(state.score)
    assert np.asarray(over).argmax() == 99 and int(state.round) == 100  # nothing happens after the end


def test_transport_counts_the_round_in_which_agents_leave_and_is_done_when_all_have_left():
    environment, reset, step = built(transport, num_agents=2, max_rounds=100)
    state, _ = reset(jax.random.key(0))
    state = state._replace(
        terrain=state.terrain.at[9, 1:3].set(swarm.FREE),
        positions=jnp.asarray([[9, 1], [8, 1]], jnp.int32),
        box_position=jnp.asarray([20, 20]),
        box_mask=jnp.zeros((5, 5), bool),
    )
    down = jnp.full(2, 2)
    state, _, rewards, dones, info = step(jax.random.key(0), state, down)
    assert float(state.score) == 1.0 and rewards.tolist() == [1.0, 1.0] and dones.tolist() == [True, False]
    assert not environment.contact(state).any()  # who has left neither hears nor is heard
    assert (heard_from(state, 5) == -1).all()
    state, observations, rewards, dones, info = step(jax.random.key(0), state, down)
    assert float(state.score) == pytest.approx(1.99)
    assert rewards.tolist() == pytest.approx([0.0, 0.99])
    assert bool(info["is_over"]) and not bool(info["is_truncated"]) and dones.all()
    assert not observations.any()
    assert state.positions.tolist() == [[10, 1], [10, 1]]


def test_messages_reach_those_in_the_window_and_nobody_else():
    environment, reset, step = built(synchronization, num_agents=30, height=14, width=9, view=5)
    state, _ = reset(jax.random.key(1))
    state, *_ = step(jax.random.key(2), state, jnp.ones(30, jnp.int32))
    state = state._replace(
        positions=state.positions.at[4].set(jnp.asarray([14, 3])), inside=state.inside.at[4].set(False)
    )
    positions = np.asarray(state.positions)
    near = np.abs(positions[:, None] - positions[None]).max(axis=2) <= 2
    near[4] = near[:, 4] = False
    near &= ~np.eye(30, dtype=bool)
    assert np.array_equal(environment.contact(state), near)
    heard = np.asarray(heard_from(state, 5))
    for i in range(30):
        assert sorted(heard[i][heard[i] >= 0]) == np.flatnonzero(near[i]).tolist()
    values, mask = grid.hear(jnp.asarray(heard), jnp.arange(60.0).reshape(30, 2))
    assert np.array_equal(values.sum(axis=1), near @ np.arange(60.0).reshape(30, 2))
    assert np.array_equal(mask.sum(axis=1), near.sum(axis=1))


@pytest.mark.parametrize("task", [pursuit, flocking, transport])
def test_copies_auto_reset_and_rewards(task):
    environment = auto_reset(task(max_rounds=5, reward="shaped"))

    def run(key):
        def body(state, key):
            actions = jax.random.randint(key, (10,), 0, environment.action_space.num)
            state, observations, rewards, _, info = environment.step(key, state, actions)
            return state, (observations, rewards, info["is_over"], state.round, environment.action_mask(state))

        state, observations = environment.reset(key)
        return observations, jax.lax.scan(body, state, jax.random.split(key, 12))[1]

    first, (observations, rewards, over, rounds, mask) = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 3))
    assert first.shape == (3, 10, *environment.observation_space.shape) == (3, 10, 206)
    assert observations.shape == (3, 12, 10, 206) and observations.dtype == jnp.float32
    assert np.isfinite(rewards).all() and mask.all()
    wanted = [False, False, False, False, True] * 2 + [False, False]
    if environment.name != "flocking":  # which is done when the shape is there
        assert over.tolist() == [wanted] * 3
        assert rounds[0].tolist() == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]


def test_group_metrics_of_a_row_that_pushes():
    _, reset, step = built(synchronization, num_agents=4, height=8, width=8)
    state, _ = reset(jax.random.key(0))
    positions = jnp.asarray([[1, 1], [1, 2], [4, 4], [5, 4]], jnp.int32)
    state = state._replace(positions=positions, visited=jnp.zeros((8, 8), bool).at[tuple(positions.T)].set(True))
    state, _, _, _, info = step(jax.random.key(0), state, jnp.asarray([4, 0, 1, 2]))
    assert state.positions.tolist() == [[1, 2], [1, 3], [3, 4], [6, 4]]
    assert float(info["directional_entropy"]) == pytest.approx(np.log2(3))
    assert float(info["stillness"]) == 0.25 and float(info["dominant_action"]) == 0.25
    assert float(info["polarisation"]) == 0.25  # up and down cancel, one goes right
    assert float(info["displacement"]) == 1.0
    assert int(info["pairs_kept"]) == 1 and int(info["pushes"]) == 1 and int(info["cells_visited"]) == 7


def test_what_is_said_is_counted_in_words():
    texts = ["go 12", "", "where?", "34"]
    found = message_metrics(texts, np.asarray([[1.0, 0.0], [9.0, 9.0], [0.0, 2.0], [-3.0, 0.0]]))
    lengths = np.asarray([5, 6, 2])
    assert found["mean_length"] == pytest.approx(lengths.mean()) and found["std_length"] == pytest.approx(lengths.std())
    assert found["questions"] == pytest.approx(1 / 3) and found["digits"] == pytest.approx(4 / 13)
    assert found["similarity"] == pytest.approx(-1 / 3)  # of cosines 0, -1 and 0
    assert all(np.isnan(value) for value in message_metrics(["", ""], np.zeros((2, 3))).values())
    with pytest.raises(ValueError, match=r"message_metrics: texts must be a sequence of strings, got 'hello'"):
        message_metrics("hello")
    with pytest.raises(ValueError, match=r"message_metrics: embeddings must be of shape \[4, D\], got \[3, 2\]"):
        message_metrics(texts, np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: pursuit(view=4), r"pursuit: view must be odd.*got 4\. Use 5\."),
        (lambda: pursuit(num_agents=26), r"pursuit: num_agents must be at most 25, the free cells, got 26"),
        (lambda: pursuit(height=5), r"pursuit: height must be an integer >= 6, got 5"),
        (lambda: transport(height=7), r"transport: height must be an integer >= 8, got 7"),
        (lambda: foraging(size=7), r"foraging: size must be an integer >= 8, got 7"),
        (lambda: foraging(num_agents=60), r"foraging: num_agents must be at most 50, the free cells, got 60"),
        (lambda: flocking(num_agents=3), r"flocking: num_agents must be an integer >= 4, got 3"),
        (lambda: flocking(num_agents=40), r"flocking: height must be an integer >= 13, got 10"),
        (lambda: flocking(distance="far"), r"flocking: distance must be one of nearest, assignment, plan, got 'far'"),
        (lambda: synchronization(num_agents=65), r"synchronization: num_agents must be at most 64"),
        (lambda: synchronization(reward="sum"), r"synchronization: reward must be one of score, shaped, got 'sum'"),
        (lambda: synchronization(max_rounds=0), r"synchronization: max_rounds must be an integer >= 1, got 0"),
    ],
)
def test_bad_sizes_are_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_unknown_actions_are_refused_in_one_line():
    environment, reset, _ = built(pursuit)
    state, _ = reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"pursuit: actions must be integers in \[0, 4\], got 5"):
        environment.step(jax.random.key(0), state, jnp.full(10, 5))
    with pytest.raises(ValueError, match=r"pursuit: actions must be of shape \[10\], got \[9\]"):
        environment.step(jax.random.key(0), state, jnp.zeros(9, jnp.int32))
    with pytest.raises(ValueError, match=r"pursuit: actions must be integers, got dtype float32"):
        environment.step(jax.random.key(0), state, jnp.zeros(10))
