"""Hand-worked positions of the swarm tasks: captures, carrying, shapes, boxes; assignments; pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.swarm_world import SwarmWorld
from scipy.optimize import linear_sum_assignment

from dlsim.environments import grid
from dlsim.environments.swarm import world as swarm
from dlsim.environments.swarm.assignment import assignment_bounds, assignment_cost
from dlsim.environments.swarm.flocking import flocking, lower_bounds, ring, shape_distance
from dlsim.environments.swarm.foraging import foraging, inner_walls, layout
from dlsim.environments.swarm.pursuit import pursuit, respawn_draws
from dlsim.environments.swarm.transport import plugs, transport

STAY, UP, DOWN, LEFT, RIGHT = range(5)
to_ring = jax.jit(shape_distance, static_argnums=(1, 2))


@pytest.mark.parametrize("faithful", [True, False])
def test_a_surrounded_prey_is_caught_and_comes_back(faithful):
    environment = pursuit(num_agents=4, faithful=faithful)
    step = jax.jit(environment.step)
    state, _ = jax.jit(environment.reset)(jax.random.key(0))
    state = state._replace(prey=jnp.asarray([1, 5]), positions=jnp.asarray([[1, 4], [1, 6], [2, 5], [4, 4]]))
    world = SwarmWorld("pursuit", state.terrain, state.positions, 100, prey=(1, 5))
    for t in range(3):
        key = jax.random.key(t)
        actions = [STAY, STAY, STAY, RIGHT]
        state, _, rewards, _, _ = step(key, state, jnp.asarray(actions))
        world.step(actions, functools.partial(respawn_draws, key))
        if t == 0:
            assert rewards.tolist() == [1.0] * 4 and bool(state.prey_is_static) == faithful
            assert tuple(state.prey.tolist()) == world.prey != (1, 5)
        if faithful:
            assert tuple(state.prey.tolist()) == world.prey and float(state.score) == world.score
    # Now an agent pushes the prey: only one that never came back, or an unfaithful one, can be moved.
    state = state._replace(prey=jnp.asarray([5, 5]), positions=jnp.asarray([[5, 4], [1, 1], [1, 2], [1, 3]]))
    state, *_ = step(jax.random.key(5), state, jnp.asarray([RIGHT, STAY, STAY, STAY]))
    assert state.positions[0].tolist() == ([5, 4] if faithful else [5, 5])


def test_food_is_carried_to_the_nest():
    environment = foraging(num_agents=1, reward="shaped")
    step = jax.jit(environment.step)
    state, _ = jax.jit(environment.reset)(jax.random.key(0))
    terrain = swarm.walled(10, 10).at[1:3, 1:3].set(swarm.FOOD).at[1:3, 5:7].set(swarm.NEST)
    state = state._replace(terrain=terrain, positions=jnp.asarray([[4, 2]]))
    state, _, rewards, *_ = step(jax.random.key(0), state, jnp.asarray([UP]))
    assert bool(state.flags[0]) and float(rewards[0]) == 0.5 and float(state.score) == 0
    state, _, rewards, *_ = step(jax.random.key(0), state, jnp.asarray([RIGHT]))
    assert bool(state.flags[0]) and float(rewards[0]) == pytest.approx(0.05 - 0.03)  # at (3, 3): the nest is 3 away
    for _ in range(2):
        state, _, rewards, *_ = step(jax.random.key(0), state, jnp.asarray([RIGHT]))
    assert not bool(state.flags[0]) and float(state.score) == 1 and float(rewards[0]) == 0.5


def test_inner_walls_and_corners_of_foraging():
    rows = inner_walls(10)[0]
    assert np.argwhere(rows).tolist() == [[4, j] for j in range(7)]
    two = inner_walls(13)[0]
    assert np.argwhere(two).tolist() == [[4, j] for j in range(9)] + [[8, j] for j in range(4, 13)]
    terrain = np.asarray(jax.vmap(lambda key: layout(key, 10))(jax.random.split(jax.random.key(0), 60)))
    shapes = {plane.tobytes() for plane in terrain}
    assert len(shapes) == 4  # walls in rows or columns, food near or far
    for plane in terrain:
        assert (plane == swarm.FOOD).sum() == 4 == (plane == swarm.NEST).sum()
        assert (plane[1:3] == swarm.FOOD).all(axis=0).any() or (plane[:, 1:3] == swarm.FOOD).all(axis=1).any()
        assert (plane == swarm.WALL).sum() == 36 + 6


@pytest.mark.parametrize("size", [8, 9, 10, 13, 16, 20, 25])
def test_food_and_nest_are_in_corners_and_can_be_reached(size):
    terrains = np.asarray(jax.vmap(lambda key: layout(key, size))(jax.random.split(jax.random.key(0), 40)))
    steps = jax.jit(grid.steps_to)(jnp.asarray(terrains == swarm.FOOD), jnp.asarray(terrains == swarm.FREE))
    for terrain, far in zip(terrains, np.asarray(steps), strict=True):
        inner = next(plane for plane in inner_walls(size) if (terrain[plane] == swarm.WALL).all())
        rim = np.ones((size, size), bool)
        rim[1:-1, 1:-1] = False
        assert np.array_equal(terrain == swarm.WALL, inner | rim)  # neither stands in a wall or its gap
        corners = [np.argwhere(terrain == what).min(axis=0) for what in (swarm.FOOD, swarm.NEST)]
        assert all(x in (1, size - 3) for corner in corners for x in corner)
        num_walls = len(range(4, size - 4, 4))
        assert (corners[0] != corners[1]).sum() == (1 if num_walls % 2 else 2)
        beside = np.argwhere(terrain == swarm.NEST)
        assert any(far[i + a, j + b] < grid.FAR for i, j in beside for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))


def test_the_eight_plugs_fill_their_gaps():
    masks, corners, walls = plugs(10, 10)
    assert len({(mask.tobytes(), tuple(corner)) for mask, corner in zip(masks, corners, strict=True)}) == 8
    for mask, corner, wall in zip(masks, corners, walls, strict=True):
        cells = np.argwhere(mask) + corner
        plane = np.zeros((10, 10), bool)
        plane[tuple(cells.T)] = True
        assert len(cells) == 13 and not (plane & wall).any()
        rim = np.ones((10, 10), bool)
        rim[1:-1, 1:-1] = False
        assert (wall | plane)[rim].all() and (~wall & rim).sum() == 4
    first = np.argwhere(masks[0]) + corners[0]  # the corner of the page
    assert first.tolist() == [[i, j] for i in (6, 7, 8) for j in (5, 6, 7)] + [[9, j] for j in (6, 7, 8, 9)]


def test_the_distance_to_a_ring():
    cells = jnp.asarray(ring(3)) + 2
    extra = jnp.asarray([[8, 8], [1, 8]], jnp.int32)
    assert int(to_ring(jnp.concatenate([cells, extra]), (10, 10), 3)) == 0
    apart = cells.at[0].add(jnp.asarray([-1, 0]))
    assert int(to_ring(jnp.concatenate([apart, extra]), (10, 10), 3)) == 1
    assert len(ring(12 // 4 + 1)) == 12
    rng = np.random.default_rng(0)
    for num in (6, 10, 12):
        for _ in range(12):
            places = rng.permutation(64)[:num]
            positions = np.stack([places // 8 + 1, places % 8 + 1], axis=1)
            world = SwarmWorld("flocking", np.zeros((10, 10)), positions, 100)
            assert int(to_ring(jnp.asarray(positions), (10, 10), num // 4 + 1)) == world.first
            assert int(lower_bounds(jnp.asarray(positions), (10, 10), num // 4 + 1).min()) <= world.first


def test_flocking_scores_the_best_distance_and_ends_in_the_shape():
    for distance in ("assignment", "nearest"):
        environment = flocking(num_agents=8, distance=distance)
        step = jax.jit(environment.step)
        state, _ = jax.jit(environment.reset)(jax.random.key(0))
        cells = jnp.asarray(ring(3)) + 2
        state = state._replace(positions=cells.at[0].add(jnp.asarray([-1, 0])), distance=jnp.asarray([5, 1]))
        away = jnp.asarray([STAY] * 7 + [DOWN])
        state, _, _, _, info = step(jax.random.key(0), state, away)
        assert state.distance.tolist() == [5, 2] and float(state.score) == 3 and not bool(info["is_over"])
        state, *_ = step(jax.random.key(0), state, jnp.asarray([DOWN] + [STAY] * 6 + [UP]))
        assert state.distance.tolist() == [5, 0] and float(state.score) == 5


@pytest.mark.parametrize(("rows", "columns", "most"), [(8, 10, 12), (5, 5, 4), (12, 14, 30), (1, 3, 5)])
def test_assignments_are_those_of_scipy(rows, columns, most):
    costs = np.random.default_rng(0).integers(0, most, (100, rows, columns))
    found = np.asarray(jax.jit(jax.vmap(assignment_cost))(jnp.asarray(costs)))
    wanted = np.asarray([cost[linear_sum_assignment(cost)].sum() for cost in costs])
    assert np.array_equal(found, wanted)
    bounds = np.asarray(assignment_bounds(jnp.asarray(np.moveaxis(costs, 0, -1).swapaxes(0, 1)), 10))
    assert (bounds <= wanted).all() and (bounds >= costs.min(axis=2).sum(axis=1)).all()


def test_more_rows_than_columns_have_no_assignment():
    with pytest.raises(
        ValueError, match=r"assignment_cost: costs must be of a shape \[R, M\] with R <= M, got \[3, 2\]"
    ):
        assignment_cost(jnp.zeros((3, 2), jnp.int32))


def test_agents_that_push_the_plug_out_leave_through_the_gap():
    environment = transport(num_agents=5)
    step = jax.jit(environment.step)
    state, _ = jax.jit(environment.reset)(jax.random.key(0))
    masks, corners, walls = plugs(10, 10)
    above = jnp.asarray([[5, 6], [4, 6], [5, 7], [4, 7], [5, 8]])
    state = state._replace(
        terrain=jnp.where(jnp.asarray(walls[0]), swarm.WALL, swarm.FREE).astype(jnp.int8),
        box_position=jnp.asarray(corners[0]),
        box_mask=jnp.asarray(masks[0]),
        positions=above,
    )
    # Down it is stuck: its left column stands on the wall, only four columns are open.
    stuck, *_ = step(jax.random.key(0), state, jnp.full(5, DOWN))
    assert stuck.box_position.tolist() == [6, 5]
    # Right, three rows from behind with 2 + 2 + 1 agents, and then down.
    beside = jnp.asarray([[6, 4], [6, 3], [7, 4], [7, 3], [8, 4]])
    state, *_ = step(jax.random.key(0), state._replace(positions=beside), jnp.full(5, RIGHT))
    assert state.box_position.tolist() == [6, 6]
    state, gained = state._replace(positions=above), []
    for t in range(6):
        state, _, rewards, _, info = step(jax.random.key(t), state, jnp.full(5, DOWN))
        gained.append(rewards.tolist())
        assert state.box_position.tolist() == [min(7 + t, 10), 6]  # off the map at row 10, and gone
    assert gained[:4] == [[0.0] * 5] * 4
    assert gained[4] == pytest.approx([3 * 0.95] * 5)  # three leave in round 5 of 100, counted from 0
    assert gained[5] == pytest.approx([0, 2 * 0.94, 0, 2 * 0.94, 0], abs=1e-5)
    assert float(state.score) == pytest.approx(3 * 0.95 + 2 * 0.94) and bool(info["is_over"])


def test_shaped_rewards_of_transport():
    environment = transport(num_agents=3, reward="shaped")
    state, _ = jax.jit(environment.reset)(jax.random.key(0))
    masks, corners, walls = plugs(10, 10)
    state = state._replace(
        terrain=jnp.where(jnp.asarray(walls[0]), swarm.WALL, swarm.FREE).astype(jnp.int8),
        box_position=jnp.asarray(corners[0]),
        box_mask=jnp.asarray(masks[0]),
        positions=jnp.asarray([[5, 6], [3, 6], [7, 8]]),  # the last is wedged between box and wall
    )
    _, _, rewards, *_ = jax.jit(environment.step)(jax.random.key(0), state, jnp.zeros(3, jnp.int32))
    assert rewards.tolist() == pytest.approx([0.04, 0.02, -0.2])
