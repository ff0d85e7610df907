"""Following: plans against Dijkstra with the costs of congestion, what a world never does, the script as a policy."""

import heapq
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.pathfinding_world import STEPS, distances

from dlsim.environments.pathfinding import maps, planning
from dlsim.environments.pathfinding.following import follow, follow_policy, following
from dlsim.environments.pathfinding.world import pathfinding
from dlsim.environments.playing import play
from dlsim.environments.policies import random_policy


def dijkstra(blocked, costs, goal):
    """Least cost from every cell to the goal: who enters a cell pays for it."""
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


def penalties(blocked):
    """P from breadth-first distances."""
    mean = np.zeros(blocked.shape)
    for i, j in np.argwhere(~blocked):
        far = [d for d in distances(blocked.tolist(), (int(i), int(j))).values() if d > 0]
        mean[i, j] = np.mean(far) if far else 0
    return np.where(mean > 0, mean.max() / np.where(mean > 0, mean, 1), 1)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_plans_are_those_of_dijkstra_with_the_costs_of_congestion(weights):
    blocked = maps.random_map(9, 8, 0.2, seed=3)
    environment = following(
        blocked, 12, view=5, max_steps=20, static_weight=weights[0], dynamic_weight=weights[1], reward=0.5
    )
    step = jax.jit(environment.step)
    state, observations = jax.jit(environment.reset)(jax.random.key(2))
    counts, penalty, reached, gained = np.zeros((12, 9, 8)), penalties(blocked), np.zeros(12, bool), 0.0
    for t in range(20):
        cells = np.asarray(state.world.positions)
        counts[reached] = 0
        for i in range(12):
            for j in range(12):
                counts[i][tuple(cells[j])] += i != j and np.abs(cells[i] - cells[j]).max() <= 2
            costs = 1 + weights[0] * (penalty - 1) + weights[1] * counts[i]
            value = dijkstra(blocked, costs, tuple(np.asarray(state.world.goals[i]).tolist()))
            assert np.allclose(state.values[i], value, rtol=1e-5)
            there = tuple(np.asarray(state.waypoints[i]).tolist())
            assert np.abs(cells[i] - there).sum() == 1
            assert value[there] + costs[there] == pytest.approx(value[tuple(cells[i])], rel=1e-5)
            # Of the agent's four neighbours the next cell of the path is marked, and no other.
            plane = np.asarray(observations[i, 0])
            marked = [(a, b) for a, b in STEPS[1:] if plane[2 + a, 2 + b] == 1]
            assert marked == [tuple((np.asarray(there) - cells[i]).tolist())] and plane[2, 2] == 1
            for a in range(-2, 3):
                for b in range(-2, 3):
                    k, m = int(cells[i][0]) + a, int(cells[i][1]) + b
                    wall = not (0 <= k < 9 and 0 <= m < 8) or blocked[k, m]
                    assert (plane[2 + a, 2 + b] == -1) == wall
                    seen = (a, b) != (0, 0) and [k, m] in cells.tolist()
                    assert float(observations[i, 1, 2 + a, 2 + b]) == seen
        wanted = np.asarray(state.waypoints)
        state, observations, rewards, _, info = step(jax.random.key(t), state, follow(jax.random.key(t), state))
        followed = (np.asarray(state.world.positions) == wanted).all(axis=1)
        assert rewards.tolist() == (0.5 * followed).tolist()
        reached, gained = np.asarray(info["reached"]), gained + float(rewards.sum())
    assert gained > 0
    frozen, _, rewards, _, _ = step(jax.random.key(0), state, jnp.ones(12, jnp.int32))
    assert not rewards.any() and np.array_equal(frozen.world.positions, state.world.positions)


def roll(environment, policy, num_steps, seed=0):
    """States of the world after each step, as NumPy arrays, and the last measurements."""
    process = play(environment, policy)

    @jax.jit
    def run(key):
        def body(state, key):
            state, info = process.step(key, state)
            return state, (state.world.world, process.measure(state, info))

        return jax.lax.scan(body, process.init(key), jax.random.split(key, num_steps))[1]

    worlds, measured = run(jax.random.key(seed))
    return jax.tree.map(np.asarray, worlds), jax.tree.map(lambda leaf: float(leaf[-1]), measured)


@pytest.mark.parametrize("rule", ["soft", "priority", "block_both"])
def test_a_crowd_that_follows_keeps_the_rules(rule):
    blocked = maps.random_map(9, 8, 0.15, seed=5)
    environment = following(blocked, 12, view=5, max_steps=80, rule=rule)
    worlds, measured = roll(environment, follow_policy(environment), 80)
    parts = maps.components(blocked)
    for before, cells in itertools.pairwise(worlds.positions):
        assert len({tuple(c) for c in cells.tolist()}) == 12 and not blocked[tuple(cells.T)].any()
        assert (np.abs(cells - before).sum(axis=1) <= 1).all()
        assert (parts[tuple(cells.T)] == parts[tuple(before.T)]).all()
        old, new = [tuple(c) for c in before.tolist()], [tuple(c) for c in cells.tolist()]
        who = {cell: i for i, cell in enumerate(old)}
        assert not any(new[i] != old[i] and old[i] == new[who[new[i]]] for i in range(12) if new[i] in who)
    for cells, goals in zip(worlds.positions, worlds.goals, strict=True):
        assert (parts[tuple(cells.T)] == parts[tuple(goals.T)]).all() and (cells != goals).any(axis=1).all()
    assert worlds.num_reached[-1].sum() == measured["num_reached"] > 10
    assert not any(measured["num_repaired"])


def test_who_follows_reaches_more_than_who_wanders():
    blocked = maps.random_map(12, 12, 0.2, seed=1)
    environment = following(blocked, 16, view=5, max_steps=120)
    worlds, follows = roll(environment, follow_policy(environment), 120)
    _, wanders = roll(environment, random_policy(environment), 120)
    assert (worlds.num_reached[-1] > 0).all()
    assert follows["throughput"] > 4 * wanders["throughput"] > 0
    assert follows["throughput"] == pytest.approx(worlds.num_reached[-1].sum() / 120)


def test_who_is_alone_takes_the_shortest_ways():
    blocked = maps.maze_map(9, 9, seed=2, open_walls=0.3)
    environment = following(blocked, 1, view=3, max_steps=120, static_weight=0.0)
    worlds, _ = roll(environment, follow_policy(environment), 120)
    times = np.flatnonzero(np.diff(worlds.num_reached[:, 0])) + 1
    assert len(times) >= 8
    for begin, end in itertools.pairwise(times):
        cell, goal = (tuple(x[begin, 0].tolist()) for x in (worlds.positions, worlds.goals))
        assert end - begin == distances(blocked.tolist(), cell)[goal]


def test_the_policy_does_what_follow_does():
    blocked = maps.room_map(2, 2, 4, seed=0)
    environment = following(blocked, 20, view=3)
    policy = follow_policy(environment, 0.7)
    state, observations = jax.jit(environment.reset)(jax.random.key(3))
    step, act = jax.jit(environment.step), jax.jit(lambda key, seen: policy.act(key, (), seen, None, None)[1])
    script, ahead = jax.jit(lambda key, state: follow(key, state, 0.7)), jax.jit(planning.toward)
    sidesteps = 0
    for t in range(25):
        key = jax.random.key(t)
        actions = act(key, observations)
        assert np.array_equal(actions, script(key, state))
        sidesteps += int(np.sum(np.asarray(actions) != ahead(state.world.positions, state.waypoints)))
        state, observations, *_ = step(key, state, actions)
    assert sidesteps > 0


def test_a_goal_that_is_always_taken_is_planned_for_all_the_same():
    blocked = jnp.zeros((1, 6), bool)
    costs = jnp.ones((1, 1, 6)).at[0, 0, 5].add(1e4)
    values = planning.cost_to_go(blocked, costs, jnp.asarray([[0, 5]]))
    assert values[0, 0].tolist() == [10005.0, 10004.0, 10003.0, 10002.0, 10001.0, 0.0]
    assert planning.waypoints(values, costs, jnp.asarray([[0, 4]]), jnp.asarray([[0, 5]])).tolist() == [[0, 5]]


SPLIT = np.asarray([[0, 0, 1, 0, 0]], bool)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: following(np.zeros((2, 2), bool), 5),
            r"pathfinding: num_agents must be at most 4, the cells to begin",
        ),
        (
            lambda: following(SPLIT, 1, starts=np.asarray([[1, 0, 0, 0, 0]], bool), goals=~SPLIT),
            r"pathfinding: goals must be cells that can be reached from where agents begin, got \(0, 3\) among them\.",
        ),
        (
            lambda: pathfinding(SPLIT, 1, goals=np.asarray([[1, 1, 0, 0, 1]], bool)),
            r"pathfinding: goals must be cells that can be reached from where agents begin, got \(0, 4\) among them\.",
        ),
        (
            lambda: planning.cost_to_go(jnp.zeros((2, 3), bool), jnp.ones((2, 3)), jnp.asarray([[0, 1], [2, 0]])),
            r"cost_to_go: goals must be cells of a map of 2 x 3, got \(2, 0\) among them",
        ),
        (
            lambda: follow_policy(pathfinding(np.zeros((3, 3), bool), 1)),
            r"follow_policy: environment must be of `following`, whose agents see a path, got 'pathfinding'",
        ),
        (
            lambda: follow_policy(following(np.zeros((3, 3), bool), 1, view=1)),
            r"follow_policy: environment must be with a view of 3 or more, to see the next cell, got a view of 1",
        ),
        (lambda: follow_policy(following(np.zeros((3, 3), bool), 1), 1.5), r"follow_policy: sidestep must be"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)
