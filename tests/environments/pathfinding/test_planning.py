"""Costs-to-go, penalties, paths; the Follower's world against plans made agent by agent."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.pathfinding_world import STEPS, distances

from dlsim.environments.pathfinding import maps, planning
from dlsim.environments.pathfinding.following import follow, following
from dlsim.environments.pathfinding.world import pathfinding

cost_to_go = jax.jit(planning.cost_to_go)
static_penalty = jax.jit(planning.static_penalty)


def dijkstra(blocked, costs, goal):
    """Cost-to-go cell by cell: who enters a cell pays for it."""
    values = np.full(blocked.shape, np.inf)
    values[goal] = 0
    queue = [(0.0, goal)]
    while queue:
        value, (i, j) = heapq.heappop(queue)
        if value > values[i, j]:
            continue
        for a, b in STEPS[1:]:
            k, m = i + a, j + b
            inside = 0 <= k < blocked.shape[0] and 0 <= m < blocked.shape[1]
            if inside and not blocked[k, m] and value + costs[i, j] < values[k, m]:
                values[k, m] = value + costs[i, j]
                heapq.heappush(queue, (values[k, m], (k, m)))
    return values


@pytest.mark.parametrize("kind", ["random", "maze", "rooms"])
def test_costs_to_go_are_those_of_dijkstra(kind):
    blocked = {
        "random": maps.random_map(13, 13, 0.3, seed=1),
        "maze": maps.maze_map(13, 13, seed=1),
        "rooms": maps.room_map(2, 2, 5, seed=1),
    }[kind]
    rng = np.random.default_rng(0)
    costs = rng.integers(1, 9, (4, 13, 13)).astype(np.float32)
    free = np.argwhere(~blocked)
    goals = free[rng.permutation(len(free))[:4]]
    values = np.asarray(cost_to_go(jnp.asarray(blocked), jnp.asarray(costs), jnp.asarray(goals)))
    for k in range(4):
        assert np.array_equal(values[k], dijkstra(blocked, costs[k], tuple(goals[k])))


def test_on_an_empty_grid_the_cost_is_the_distance_and_a_corridor_takes_its_length():
    goals = jnp.asarray([[2, 3], [0, 0]])
    values = np.asarray(cost_to_go(jnp.zeros((5, 6), bool), jnp.ones((5, 6)), goals))
    rows, columns = np.indices((5, 6))
    for value, (i, j) in zip(values, goals.tolist(), strict=True):
        assert np.array_equal(value, abs(rows - i) + abs(columns - j))
    environment = pathfinding(np.zeros((1, 5), bool), 1)
    state, _ = environment.reset(jax.random.key(0))
    state = state._replace(positions=jnp.asarray([[0, 0]]), goals=jnp.asarray([[0, 4]]))
    step = jax.jit(environment.step)
    for t in range(4):
        assert int(state.num_reached[0]) == 0
        value = planning.cost_to_go(jnp.zeros((1, 5), bool), jnp.ones((1, 5)), state.goals)
        way = planning.waypoints(value, jnp.ones((1, 5)), state.positions, state.goals)
        state, *_ = step(jax.random.key(t), state, planning.toward(state.positions, way))
    assert int(state.num_reached[0]) == 1


def test_a_spiral_settles_and_too_few_rounds_do_not():
    blocked = np.zeros((11, 11), bool)
    blocked[1::2] = True
    for number, row in enumerate(range(1, 11, 2)):
        blocked[row, 10 if number % 2 == 0 else 0] = False
    ends = jnp.asarray([[10, 10]])
    far = distances(blocked.tolist(), (10, 10))
    values = cost_to_go(jnp.asarray(blocked), jnp.ones((11, 11)), ends)
    assert float(values[0, 0, 0]) == far[0, 0] == 60
    few = planning.cost_to_go(jnp.asarray(blocked), jnp.ones((11, 11)), ends, max_rounds=1)
    assert not np.isfinite(float(few[0, 0, 0]))


def test_penalties_of_a_corridor_and_of_any_map():
    assert static_penalty(np.zeros((1, 3), bool)).tolist() == [[1.0, 1.5, 1.0]]
    blocked = maps.random_map(9, 10, 0.3, seed=2)
    penalty = np.asarray(static_penalty(blocked))
    mean = np.zeros(blocked.shape)
    for i, j in np.argwhere(~blocked):
        far = [d for d in distances(blocked.tolist(), (int(i), int(j))).values() if d > 0]
        mean[i, j] = np.mean(far) if far else 0
    wanted = np.where(mean > 0, mean.max() / np.where(mean > 0, mean, 1), 1)
    assert np.allclose(penalty, wanted, rtol=1e-5) and penalty.min() == 1


def test_who_has_no_way_or_is_there_gets_the_goal_itself():
    blocked = jnp.asarray([[0, 1, 0], [0, 1, 0]], bool)
    goals = jnp.asarray([[0, 2], [1, 0]])
    positions = jnp.asarray([[0, 0], [1, 0]])
    values = cost_to_go(blocked, jnp.ones((2, 3)), goals)
    assert planning.waypoints(values, jnp.ones((2, 3)), positions, goals).tolist() == goals.tolist()
    assert planning.toward(positions, goals).tolist() == [0, 0]


def test_a_path_is_drawn_until_it_leaves_the_window():
    blocked = jnp.zeros((7, 7), bool).at[3, 4].set(True)
    goals, positions = jnp.asarray([[3, 6], [3, 3]]), jnp.asarray([[3, 3], [2, 2]])
    values = cost_to_go(blocked, jnp.ones((7, 7)), goals)
    seen = planning.path_windows(values, jnp.ones((7, 7)), blocked, positions, goals, 3)
    assert seen[0].tolist() == [[0, 1, 1], [0, 1, -1], [0, 0, 0]]
    assert seen[1].tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_others_are_counted_where_they_were_seen_since_the_goal_changed():
    blocked = maps.room_map(1, 2, 5)
    environment = following(blocked, 8, view=5, max_steps=40)
    step = jax.jit(environment.step)
    state, observations = jax.jit(environment.reset)(jax.random.key(1))
    assert observations.shape == (8, 2, 5, 5)
    counts = np.zeros((8, *blocked.shape))
    kept, total = np.zeros(8, bool), 0.0
    penalty = np.asarray(static_penalty(blocked))
    for t in range(30):
        cells = np.asarray(state.world.positions)
        counts[kept] = 0
        near = np.abs(cells[:, None] - cells[None]).max(axis=2) <= 2
        for i in range(8):
            for j in range(8):
                counts[i][tuple(cells[j])] += i != j and near[i, j]
            value = dijkstra(blocked, penalty + counts[i], tuple(np.asarray(state.world.goals[i]).tolist()))
            assert np.allclose(state.values[i], np.where(blocked, np.inf, value), rtol=1e-5)
            k, m = np.asarray(state.waypoints[i])
            at_goal = cells[i].tolist() == [k, m]
            assert at_goal or value[k, m] + (penalty + counts[i])[k, m] == pytest.approx(
                value[tuple(cells[i])], rel=1e-5
            )
        assert np.array_equal(state.sighted, counts)
        actions = follow(jax.random.key(t), state)
        before = state
        state, _, rewards, _, info = step(jax.random.key(t), state, actions)
        there = (np.asarray(state.world.positions) == np.asarray(before.waypoints)).all(axis=1)
        assert np.allclose(rewards, 0.01 * there)
        kept, total = np.asarray(info["reached"]), total + float(rewards.sum())
    assert int(state.world.num_reached.sum()) >= 3 and total > 0


def test_congestion_costs_raise_the_throughput_of_a_warehouse():
    blocked, starts, goals = maps.warehouse_map(3, 2, 6, 1)

    @jax.jit
    def throughput(weight):
        environment = following(
            blocked, 18, max_steps=150, static_weight=0.0, dynamic_weight=weight, starts=starts, goals=goals
        )

        def body(state, key):
            state, *_ = environment.step(key, state, follow(key, state))
            return state, None

        state, _ = environment.reset(jax.random.key(0))
        state, _ = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 150))
        return environment.metrics(state)["throughput"]

    with_costs, without = jax.jit(jax.vmap(throughput))(jnp.asarray([1.0, 0.0]))
    assert float(with_costs) > 1.2 * float(without) > 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: following(np.ones((3, 3), bool), 1), r"following: obstacles must be a map with a free cell, got none"),
        (lambda: following(np.zeros((2, 3, 3), bool), 1), r"following: obstacles must be bool of shape \[H, W\]"),
        (
            lambda: following(np.zeros((3, 3), bool), 1, static_weight=-1.0),
            r"following: static_weight must be a number in",
        ),
        (lambda: following(np.zeros((3, 3), bool), 1, view=2), r"pathfinding: view must be odd"),
        (
            lambda: planning.cost_to_go(jnp.zeros((3, 3), bool), jnp.ones((2, 3, 3)), jnp.zeros((1, 2), int)),
            r"cost_to_go: costs must be of shape \[1, 3, 3\], got \[2, 3, 3\]",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()
