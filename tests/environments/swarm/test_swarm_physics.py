"""Pushing: hand-worked rows and boxes, and random boards against the integer program that the closed form replaces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.swarm_world import SwarmWorld

from dlsim.environments.swarm.physics import Box, push
from dlsim.environments.swarm.transport import plugs

UP, DOWN, LEFT, RIGHT = 1, 2, 3, 4
compiled = jax.jit(push)


def row(actions, width=12, first=2):
    """Columns of agents that stand side by side, the last at the front of a push to the right, after one round."""
    num = len(actions)
    actions = jnp.asarray(actions + [0] * (6 - num))
    positions = jnp.stack([jnp.ones(6, jnp.int32), first + jnp.arange(6, dtype=jnp.int32)], axis=1)
    present = jnp.arange(6) < num
    moved, _ = compiled(positions, present, actions, jnp.zeros(6, bool), jnp.zeros((3, width), bool))
    return (np.asarray(moved)[:num, 1] - first - np.arange(num)).tolist()


@pytest.mark.parametrize(
    ("actions", "steps"),
    [
        ([RIGHT, 0], [1, 1]),
        ([RIGHT, 0, 0], [0, 0, 0]),
        ([RIGHT, RIGHT, 0, 0], [1, 1, 1, 1]),
        ([RIGHT, LEFT], [0, 0]),
        ([RIGHT, RIGHT, RIGHT, LEFT], [1, 1, 1, 1]),  # 6 against 1 + 1 + 1 + 3
        ([RIGHT, RIGHT, LEFT], [0, 0, 0]),
        ([0, RIGHT], [0, 1]),
        ([LEFT, 0, RIGHT], [-1, 0, 1]),
        ([RIGHT, 0, 0, RIGHT], [0, 0, 0, 1]),
    ],
)
def test_a_row_of_agents(actions, steps):
    assert row(actions) == steps


def with_box(positions, actions, solid=None, corner=(3, 3)):
    """A box of 5 x 3 cells with its upper left at `corner`; returns where agents and box are."""
    mask = np.zeros((5, 5), bool)
    mask[:, :3] = True
    num = len(positions)
    rows = jnp.asarray(list(positions) + [(0, 0)] * (8 - num), jnp.int32)
    solid = np.zeros((12, 12), bool) if solid is None else solid
    present = jnp.arange(8) < num
    acts = jnp.asarray(list(actions) + [0] * (8 - num))
    moved, box = compiled(
        rows, present, acts, jnp.zeros(8, bool), jnp.asarray(solid), Box(jnp.asarray(corner), jnp.asarray(mask))
    )
    return np.asarray(moved)[:num].tolist(), np.asarray(box.position).tolist()


def test_five_push_the_box_and_four_do_not():
    column = [(3 + i, 2) for i in range(5)]
    assert with_box(column, [RIGHT] * 5) == ([[3 + i, 3] for i in range(5)], [3, 4])
    assert with_box(column[:4], [RIGHT] * 4) == ([list(p) for p in column[:4]], [3, 3])
    in_line = [(8 + i, 4) for i in range(4)]
    assert with_box(in_line, [UP] * 4)[1] == [3, 3]
    alone = [(8 + i, 3) for i in range(5)]  # five in one column, the last off a map of 12 rows
    assert with_box([(i - 1, j) for i, j in alone], [UP] * 5, corner=(2, 3))[1] == [1, 3]
    tall = [(8, 3), (9, 3), (10, 3), (8, 4), (9, 4)]
    assert with_box(tall, [UP] * 5)[1] == [2, 3]


def test_who_stands_ahead_of_the_box_is_pushed_and_costs_a_sixth():
    ahead = [(4, 6)]
    five = [(3 + i, 2) for i in range(5)]
    assert with_box(five + ahead, [RIGHT] * 5 + [0])[1] == [3, 3]
    six = [*five, (5, 1)]
    assert with_box(six + ahead, [RIGHT] * 6 + [0])[1] == [3, 4]
    # The one ahead pushes on by itself: it needs nothing.
    assert with_box(five + ahead, [RIGHT] * 6) == ([[3 + i, 3] for i in range(5)] + [[4, 7]], [3, 4])
    solid = np.zeros((12, 12), bool)
    solid[4, 6] = True
    assert with_box(five, [RIGHT] * 5, solid)[1] == [3, 3]


def test_a_box_leaves_the_map_and_is_gone():
    five = [(3 + i, 8) for i in range(5)]
    positions, box = with_box(five, [RIGHT] * 5, corner=(3, 9))
    for column in (11, 12):
        assert box == [3, column - 1]
        positions, box = with_box(positions, [RIGHT] * 5, corner=tuple(box))
    assert box == [3, 12]
    # It is off the map now: it stands in nobody's way.
    positions, box = with_box(positions, [RIGHT] * 5, corner=tuple(box))
    assert box == [3, 12] and positions == [[3 + i, 12] for i in range(5)]


def board(rng, with_box):
    """A crowded room, or an open map with a box in it; agents with a common inclination."""
    height, width, num = 9, 10, 36
    solid = np.pad(np.zeros((height - 2, width - 2), bool), 1, constant_values=not with_box)
    mask = plugs(height, width)[0][int(rng.integers(8))]
    corner = rng.integers(-1, 6, 2)
    box = {tuple(c) for c in (np.argwhere(mask) + corner).tolist()} if with_box else set()
    free = [c for c in np.argwhere(~solid).tolist() if tuple(c) not in box]
    cells = [tuple(free[k]) for k in rng.permutation(len(free))]
    for cell in cells[:2]:
        solid[cell] = True
    common = int(rng.integers(1, 5))
    actions = np.where(rng.random(num) < rng.choice([0.6, 0.95]), common, rng.integers(0, 5, num))
    return solid, cells[2 : 2 + num], actions, Box(jnp.asarray(corner), jnp.asarray(mask)), box


@pytest.mark.parametrize("with_box", [False, True])
def test_random_boards_are_those_of_the_integer_program(with_box):
    rng = np.random.default_rng(0)
    moved_boxes = 0
    for number in range(120 if with_box else 40):
        solid, positions, actions, box, cells = board(rng, with_box)
        world = SwarmWorld("transport", solid, positions, 100, box=cells)
        world.push(actions.tolist())
        none = jnp.zeros(36, bool)
        moved, after = compiled(
            jnp.asarray(positions, jnp.int32),
            ~none,
            jnp.asarray(actions),
            none,
            jnp.asarray(solid),
            box if with_box else None,
        )
        assert [tuple(p) for p in np.asarray(moved).tolist()] == world.positions, number
        if with_box:
            corner = np.asarray(after.position)
            assert {tuple(c) for c in (np.argwhere(np.asarray(box.mask)) + corner).tolist()} == world.box, number
            moved_boxes += world.box != cells
    assert not with_box or moved_boxes >= 10


def test_a_mirrored_board_moves_in_the_mirror():
    rng = np.random.default_rng(1)
    solid, positions, actions, _, _ = board(rng, False)
    none = jnp.zeros(36, bool)
    run = functools.partial(compiled, present=~none, is_static=none, box=None)
    # Passes have an order, so only boards in which all go one way look the same in a mirror.
    one_way = jnp.where(jnp.asarray(actions) == actions[0], RIGHT, 0)
    moved, _ = run(jnp.asarray(positions, jnp.int32), actions=one_way, solid=jnp.asarray(solid))
    turned = jnp.asarray([(j, i) for i, j in positions], jnp.int32)
    other, _ = run(turned, actions=jnp.where(one_way == RIGHT, DOWN, 0), solid=jnp.asarray(solid.T))
    assert np.array_equal(np.asarray(moved)[:, ::-1], other)
