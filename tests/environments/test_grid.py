"""The toolbox of grid worlds: planes, windows, draws, and who moves when all move at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from oracles.pathfinding_world import PathfindingWorld

from dlsim.environments import grid
from dlsim.environments.rendering.grid import render_text

OPEN = jnp.zeros((6, 6), bool)
STAY, UP, DOWN, LEFT, RIGHT = range(5)
resolve = jax.jit(grid.resolve_moves, static_argnames="rule")


def after(positions, actions, rule="soft", obstacles=OPEN):
    positions = jnp.asarray(positions, jnp.int32)
    return resolve(positions, positions + grid.moves()[jnp.asarray(actions)], obstacles, rule=rule).tolist()


def test_two_who_would_swap_both_stay():
    assert after([(1, 1), (1, 2)], [RIGHT, LEFT]) == [[1, 1], [1, 2]]
    # One that wants the cell of the first waits as well.
    assert after([(1, 1), (1, 2), (0, 1)], [RIGHT, LEFT, DOWN]) == [[1, 1], [1, 2], [0, 1]]


def test_four_in_a_ring_rotate():
    ring = [(1, 1), (1, 2), (2, 2), (2, 1)]
    assert after(ring, [RIGHT, DOWN, LEFT, UP]) == [[1, 2], [2, 2], [2, 1], [1, 1]]
    assert after(ring, [RIGHT, DOWN, LEFT, UP], "block_both") == [list(cell) for cell in ring]


def test_a_chain_moves_if_its_head_is_free_and_not_otherwise():
    chain = [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert after(chain, [RIGHT] * 4) == [[1, 2], [1, 3], [1, 4], [1, 5]]
    wall = OPEN.at[1, 5].set(True)
    assert after(chain, [RIGHT] * 4, obstacles=wall) == [list(cell) for cell in chain]
    assert after([(1, 2), (1, 3), (1, 4), (1, 5)], [RIGHT] * 4) == [[1, 2], [1, 3], [1, 4], [1, 5]]  # the map ends
    assert after(chain, [RIGHT] * 4, "priority") == [[1, 1], [1, 2], [1, 3], [1, 5]]
    assert after(chain[::-1], [RIGHT] * 4, "priority") == [[1, 5], [1, 4], [1, 3], [1, 2]]
    assert after(chain, [RIGHT] * 4, "block_both") == [[1, 1], [1, 2], [1, 3], [1, 5]]


def test_of_two_that_want_one_cell_the_lower_index_has_it():
    assert after([(1, 1), (1, 3)], [RIGHT, LEFT]) == [[1, 2], [1, 3]]
    assert after([(1, 3), (1, 1)], [LEFT, RIGHT]) == [[1, 2], [1, 1]]
    assert after([(1, 1), (1, 3)], [RIGHT, LEFT], "block_both") == [[1, 1], [1, 3]]


@pytest.mark.parametrize("rule", grid.RULES)
def test_crowds_move_as_they_do_agent_by_agent(rule):
    rng = np.random.default_rng(0)
    for _ in range(60):
        obstacles = rng.random((6, 6)) < 0.15
        free = np.argwhere(~obstacles)
        cells = free[rng.permutation(len(free))[:20]]
        actions = np.where(rng.random(20) < 0.5, rng.integers(1, 5), rng.integers(0, 5, 20))
        world = PathfindingWorld(obstacles.tolist(), [tuple(c) for c in cells.tolist()], lambda *_: (-1, -1))
        world.step(actions.tolist(), rule)
        assert after(cells, actions, rule, jnp.asarray(obstacles)) == [list(p) for p in world.positions]


@given(st.integers(0, 2**31), st.sampled_from(grid.RULES))
def test_nobody_shares_a_cell_swaps_or_enters_an_obstacle(seed, rule):
    rng = np.random.default_rng(seed)
    obstacles = rng.random((6, 6)) < 0.2
    obstacles.flat[:20] = False
    free = np.argwhere(~obstacles)
    cells = free[rng.permutation(len(free))[:18]]
    moved = np.asarray(after(cells, rng.integers(0, 5, 18), rule, jnp.asarray(obstacles)))
    assert len({tuple(c) for c in moved.tolist()}) == 18
    assert not obstacles[tuple(moved.T)].any()
    assert np.abs(moved - cells).sum(axis=1).max() <= 1
    was = {tuple(c): i for i, c in enumerate(cells.tolist())}
    for i, cell in enumerate(moved.tolist()):
        j = was.get(tuple(cell), i)
        assert j == i or moved[j].tolist() != cells[i].tolist()


def test_a_chain_of_a_thousand_is_held_up_at_its_head():
    positions = jnp.stack([jnp.zeros(1000, jnp.int32), jnp.arange(1000)], axis=1)
    targets = positions + jnp.asarray([0, 1])
    obstacles = jnp.zeros((1, 1001), bool)
    assert (resolve(positions, targets, obstacles) == targets).all()
    assert (resolve(positions, targets, obstacles.at[0, 1000].set(True)) == positions).all()


def test_windows_show_what_is_around_and_the_edge():
    plane = jnp.arange(12, dtype=jnp.int32).reshape(3, 4)
    seen = grid.windows(plane, jnp.asarray([[0, 0], [1, 2]]), 3, -1)
    assert seen[0].tolist() == [[-1, -1, -1], [-1, 0, 1], [-1, 4, 5]]
    assert seen[1].tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]


def test_what_is_seen_is_laid_on_a_map():
    plane = jnp.arange(20, dtype=jnp.int32).reshape(4, 5)
    positions = jnp.asarray([[0, 0], [2, 3], [3, 4]])
    maps = np.asarray(grid.unroll(grid.windows(plane, positions, 3, -7), positions, (4, 5), -1))
    for seen, (i, j) in zip(maps, positions.tolist(), strict=True):
        near = (np.abs(np.arange(4) - i)[:, None] <= 1) & (np.abs(np.arange(5) - j) <= 1)
        assert np.array_equal(seen, np.where(near, plane, -1))


def test_steps_are_those_of_a_search_in_breadth():
    rng = np.random.default_rng(0)
    passable = rng.random((12, 7, 9)) < 0.7
    goals = rng.random((12, 7, 9)) < 0.04
    found = np.asarray(grid.steps_to(jnp.asarray(goals), jnp.asarray(passable)))
    for number in range(12):
        wanted = np.where(goals[number], 0, grid.FAR)
        queue = [tuple(cell) for cell in np.argwhere(goals[number])]
        for i, j in queue:
            for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= a < 7 and 0 <= b < 9 and passable[number, a, b] and wanted[a, b] == grid.FAR:
                    wanted[a, b] = wanted[i, j] + 1
                    queue.append((a, b))
        assert np.array_equal(found[number], wanted)


def test_window_sums_are_cut_at_the_edge():
    plane = np.random.default_rng(0).integers(0, 5, (7, 9))
    sums = np.asarray(grid.window_sum(jnp.asarray(plane), before=4, after=3))
    for i in range(7):
        for j in range(9):
            assert sums[i, j] == plane[max(i - 4, 0) : i + 4, max(j - 4, 0) : j + 4].sum()


def test_places_are_distinct_free_and_uniform():
    free = jnp.asarray(np.random.default_rng(0).random((4, 5)) < 0.6)
    num = int(free.sum())
    draw = jax.jit(jax.vmap(lambda key: grid.place(key, free, num - 2)))
    cells = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    counts = np.zeros((4, 5))
    for row in cells:
        assert len({tuple(c) for c in row.tolist()}) == num - 2
        counts[tuple(row.T)] += 1
    assert (counts[~np.asarray(free)] == 0).all()
    expected = 2000 * (num - 2) / num
    assert np.abs(counts[np.asarray(free)] - expected).max() < 5 * np.sqrt(2000 * 2 / num)
    single = np.asarray(grid.draw(jax.random.key(1), free, 4000))
    shares = np.zeros((4, 5))
    np.add.at(shares, tuple(single.T), 1)
    assert (shares[~np.asarray(free)] == 0).all()
    assert np.abs(shares[np.asarray(free)] - 4000 / num).max() < 5 * np.sqrt(4000 / num)


def test_unknown_rules_and_text():
    with pytest.raises(ValueError, match=r"resolve_moves: rule must be one of .*got 'hard'"):
        grid.resolve_moves(jnp.zeros((1, 2), int), jnp.zeros((1, 2), int), OPEN, "hard")
    assert render_text([[2, 0], [7, 8]]) == "W.\nAa"
