"""Lifelong pathfinding against a world that moves agent by agent; goals, throughput, maps, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.pathfinding_world import PathfindingWorld

from dlsim.environments.environment import auto_reset
from dlsim.environments.pathfinding import maps
from dlsim.environments.pathfinding.maps import parse_pogema
from dlsim.environments.pathfinding.tables import map_tables
from dlsim.environments.pathfinding.world import next_goals, pathfinding

draw_goals = jax.jit(next_goals)


@pytest.mark.parametrize("rule", ["soft", "priority", "block_both"])
def test_agrees_with_the_world_of_agents_step_by_step(rule):
    blocked = maps.random_map(9, 8, 0.2, seed=4)
    environment = pathfinding(blocked, 22, view=5, max_steps=40, rule=rule)
    tables = jax.tree.map(jnp.asarray, map_tables("pathfinding", blocked)[0])
    step = jax.jit(environment.step)
    state, observations = jax.jit(environment.reset)(jax.random.key(0))

    def draw(agent, number, cell):
        index = jnp.full(1, agent), jnp.full(1, number), jnp.asarray([cell])
        return tuple(draw_goals(tables, state.which_map, state.goal_seed, *index)[0].tolist())

    world = PathfindingWorld(blocked.tolist(), [tuple(p) for p in np.asarray(state.positions).tolist()], draw)
    rng = np.random.default_rng(0)
    for t in range(40):
        assert [tuple(p) for p in np.asarray(state.goals).tolist()] == world.goals
        assert np.array_equal(observations, np.asarray(world.observe(2)))
        # Mostly toward the goal, so that goals are reached and paths cross.
        actions = rng.integers(0, 5, 22)
        ahead = np.asarray(state.goals) - np.asarray(state.positions)
        greedy = np.where(ahead[:, 0] < 0, 1, np.where(ahead[:, 0] > 0, 2, np.where(ahead[:, 1] < 0, 3, 4)))
        actions = np.where(rng.random(22) < 0.6, greedy, actions)
        state, observations, rewards, dones, info = step(jax.random.key(t), state, jnp.asarray(actions))
        assert rewards.tolist() == world.step(actions.tolist(), rule)
        assert [tuple(p) for p in np.asarray(state.positions).tolist()] == world.positions
    assert np.asarray(state.num_reached).tolist() == world.reached and sum(world.reached) > 20
    assert float(environment.metrics(state)["throughput"]) == pytest.approx(sum(world.reached) / 40)
    assert bool(info["is_over"]) and bool(info["is_truncated"]) and dones.all()
    frozen, _, rewards, _, _ = step(jax.random.key(0), state, jnp.ones(22, jnp.int32))
    assert np.array_equal(frozen.positions, state.positions) and int(frozen.round) == 40 and not rewards.any()


def test_goals_are_uniform_in_the_component_and_never_where_one_stands():
    blocked = np.asarray([[0, 0, 1, 0, 0], [0, 0, 1, 0, 1]], bool)
    tables = jax.tree.map(jnp.asarray, map_tables("pathfinding", blocked)[0])
    num = 6000
    at = jnp.tile(jnp.asarray([[0, 1], [1, 3]]), (num // 2, 1))
    none = jnp.zeros((), jnp.int32)
    goals = np.asarray(draw_goals(tables, none, jnp.uint32(5), jnp.arange(num), jnp.zeros(num, int), at))
    for first, cells in ((0, [(0, 0), (1, 0), (1, 1)]), (1, [(0, 3), (0, 4)])):
        drawn = [tuple(g) for g in goals[first::2].tolist()]
        assert set(drawn) == set(cells)
        share = 1 / len(cells)
        for cell in cells:
            assert abs(drawn.count(cell) / 3000 - share) < 5 * np.sqrt(share / 3000)
    # The goal of an agent does not depend on who else is there.
    few = draw_goals(tables, none, jnp.uint32(5), jnp.arange(7, 9), jnp.zeros(2, int), at[7:9])
    assert np.array_equal(few, goals[7:9])


def test_letters_say_where_agents_begin_and_where_goals_are():
    blocked, starts, goals = parse_pogema("@@#$$\n.!!!#\n")
    assert blocked.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    environment = pathfinding(blocked, 3, view=3, starts=starts, goals=goals)
    states, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), 50))
    begun = {tuple(p) for p in np.asarray(states.positions).reshape(-1, 2).tolist()}
    wanted = {tuple(g) for g in np.asarray(states.goals).reshape(-1, 2).tolist()}
    assert begun == {(0, 0), (0, 1), (1, 0)} and wanted == {(0, 3), (0, 4), (1, 0)}


def test_each_episode_draws_one_of_several_maps():
    one, two = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:, 3], two[3] = True, True
    environment = auto_reset(pathfinding(np.stack([one, two]), 5, view=3, max_steps=3))

    @jax.jit
    def run(key):
        def body(state, key):
            actions = jax.random.randint(key, (5,), 0, 5)
            state, *_ = environment.step(key, state, actions)
            return state, state

        return jax.lax.scan(body, environment.reset(key)[0], jax.random.split(key, 60))[1]

    states = run(jax.random.key(0))
    which = np.asarray(states.which_map)
    assert set(which.tolist()) == {0, 1}
    stack = np.stack([one, two])
    for t in range(60):
        cells = np.asarray(states.positions[t])
        assert not stack[which[t]][tuple(cells.T)].any() and len({tuple(c) for c in cells.tolist()}) == 5
        assert not stack[which[t]][tuple(np.asarray(states.goals[t]).T)].any()
    mask = np.asarray(environment.action_mask(jax.tree.map(lambda leaf: leaf[-1], states)))
    assert mask[:, 0].all() and mask.shape == (5, 5)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: pathfinding(np.zeros((2, 2), bool), 5),
            r"pathfinding: num_agents must be at most 4, the cells to begin on",
        ),
        (lambda: pathfinding(np.zeros((2, 2), bool), 1, view=4), r"pathfinding: view must be odd.*got 4\. Use 5\."),
        (lambda: pathfinding(np.ones((2, 2), bool), 1), r"pathfinding: obstacles must be a map with cells from which"),
        (
            lambda: pathfinding(np.zeros((2, 2)), 1),
            r"pathfinding: obstacles must be bool \[H, W\] or \[K, H, W\], got float64",
        ),
        (lambda: pathfinding(np.zeros((3, 3), bool), 1, rule="hard"), r"pathfinding: rule must be one of .*got 'hard'"),
        (
            lambda: pathfinding(np.asarray([[0, 1, 0, 0]], bool), 1, starts=np.ones((1, 4), bool)),
            r"pathfinding: starts must be cells from which two goals or more can be reached, got \(0, 0\) among them",
        ),
        (
            lambda: pathfinding(np.zeros((2, 2), bool), 1, goals=np.ones((2, 3), bool)),
            r"pathfinding: goals must be bool of the shape of obstacles, \[2, 2\], got bool \[2, 3\]",
        ),
        (lambda: parse_pogema("..\n."), r"parse_pogema: row 1 must be 2 cells wide, as the first, got 1"),
        (lambda: parse_pogema("..\n.?"), r"parse_pogema: row 1 must be of . # @ \$ ! and letters, got '\?'"),
        (lambda: parse_pogema(""), r"parse_pogema: text must be rows of cells, got nothing"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_maps_must_be_known():
    with pytest.raises(ValueError, match=r"pathfinding: obstacles must be a known array, got a tracer"):
        jax.jit(lambda blocked: pathfinding(blocked, 1).reset(jax.random.key(0)))(jnp.zeros((3, 3), bool))
