"""Shortest paths on grids with congestion costs, many agents at once, on the device; the Follower, which walks by them.

Costs are of entering a cell.  The cost-to-go of agent a from cell s is

    V_a(goal) = 0,    V_a(s) = min over the neighbours n of s of c_a(n) + V_a(n)

found by sweeps down, up, right and left over all cells with a running minimum, again until nothing changes.  A sweep
settles every straight stretch, so the number of rounds is that of the turns of the longest best path over two, at most.

Source: Skrynnik, Andreychuk, Nesterova, Yakovlev, Panov, Learn to Follow: Decentralized Lifelong Multi-Agent Pathfinding via
Planning and Learning, AAAI 2024.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.environment import as_array

UNREACHABLE = jnp.inf
SOURCES_AT_ONCE = 64


def cost_to_go(obstacles: Array, costs: Array, goals: Array, max_rounds: int | None = None) -> Array:
    """V of every agent, float32 `[A, H, W]`; infinite at obstacles and where there is no way.

    Args:
        obstacles: bool `[H, W]`.
        costs: of entering each cell, above 0, float `[A, H, W]`, or `[H, W]` for all alike.
        goals: int32 `[A, 2]`, on the map; to one on an obstacle nothing leads.
        max_rounds: rounds of sweeps at most; by default as many as any map of this size may need.  The rounds end when
            nothing changes; copies side by side end together.
    """
    where = "cost_to_go"
    obstacles = as_array(where, "obstacles", obstacles, (None, None), "bools")
    goals = as_array(where, "goals", goals, (None, 2), "integers")
    height, width = obstacles.shape
    num = goals.shape[0]
    costs = _as_costs(where, costs, (num, height, width))
    if checks.is_concrete(costs) and not bool(jnp.all(costs > 0)):
        checks.fail(where, "costs", "above 0", f"{float(jnp.min(costs)):g} among them")
    if checks.is_concrete(goals) and not np.all(grid.is_inside(goals, (height, width))):
        lost = tuple(int(x) for x in np.asarray(goals)[~np.asarray(grid.is_inside(goals, (height, width)))][0])
        checks.fail(where, "goals", f"cells of a map of {height} x {width}", f"{lost} among them")
    if max_rounds is None:
        max_rounds = height * width // 2 + 2
    checks.integer(where, "max_rounds", max_rounds, 1)
    # Agents last: a sweep is a running minimum over rows of long vectors.
    entering = jnp.moveaxis(costs, 0, -1) if costs.ndim == 3 else costs[:, :, None]
    entering = jnp.where(obstacles[:, :, None], UNREACHABLE, entering).astype(jnp.float32)
    entering = jnp.broadcast_to(entering, (height, width, num))
    at_goal = goals[:, 0] * width + goals[:, 1]
    cells = jnp.arange(height * width, dtype=jnp.int32).reshape(height, width, 1)
    start = jnp.where((cells == at_goal) & ~obstacles[:, :, None], 0.0, UNREACHABLE)

    def sweep(values: Array, entering: Array) -> Array:
        """Down and up: from row to row, each cell may do what the one before it does, after entering that."""
        for reverse in (False, True):

            def row(before: Array, here: tuple[Array, Array]) -> tuple[Array, Array]:
                value, cost = here
                best = jnp.minimum(value, before)
                return best + cost, best

            edge = jnp.full(values.shape[1:], UNREACHABLE)
            values = jax.lax.scan(row, edge, (values, entering), reverse=reverse)[1]
        return values

    across = jnp.swapaxes(entering, 0, 1)

    def turn(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, values, _ = carry
        new = sweep(values, entering)
        new = jnp.swapaxes(sweep(jnp.swapaxes(new, 0, 1), across), 0, 1)
        return number + 1, new, jnp.any(new < values)

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        return carry[2] & (carry[0] < max_rounds)

    values = jax.lax.while_loop(goes_on, turn, (jnp.asarray(0), start, jnp.asarray(True)))[1]
    return jnp.moveaxis(jnp.where(obstacles[:, :, None], UNREACHABLE, values), -1, 0)


def _as_costs(where: str, costs: Any, shape: tuple[int, ...]) -> Array:
    """Costs of each agent `[A, H, W]`, or `[H, W]` for all alike."""
    costs = costs if isinstance(costs, jax.Array) else checks.finite(where, "costs", costs)
    return as_array(where, "costs", costs, shape if np.ndim(costs) == 3 else shape[1:])


def static_penalty(obstacles: Any) -> Array:
    """P(c) = max_c' d(c') / d(c) >= 1, d(c) the mean distance from c to all cells it can reach; float32 `[H, W]`.

    Central cells cost more.  Cells that reach no other, and obstacles, have 1.  Once a map: about cells^2 / 64 rounds of
    sweeps, `SOURCES_AT_ONCE` cells side by side.
    """
    blocked = as_array("static_penalty", "obstacles", obstacles, (None, None)).astype(bool)
    height, width = blocked.shape
    num_blocks = -(-height * width // SOURCES_AT_ONCE)
    cells = jnp.minimum(jnp.arange(num_blocks * SOURCES_AT_ONCE), height * width - 1)

    def mean_distance(cells: Array) -> Array:
        far = cost_to_go(blocked, jnp.ones((height, width)), grid.unflat(cells, width))
        reached = jnp.isfinite(far)
        total = jnp.sum(jnp.where(reached, far, 0), axis=(1, 2))
        return total / jnp.maximum(jnp.sum(reached, axis=(1, 2)) - 1, 1)

    blocks = jax.lax.map(mean_distance, cells.reshape(num_blocks, SOURCES_AT_ONCE))
    mean = blocks.reshape(-1)[: height * width].reshape(height, width)
    return jnp.where(mean > 0, jnp.max(mean) / jnp.where(mean > 0, mean, 1), 1.0)


def neighbor_costs(values: Array, costs: Array, positions: Array) -> Array:
    """c(n) + V(n) of the cells above, below, left and right of each agent, `[A, 4]`; infinite off the map."""
    height, width = values.shape[-2:]
    around = positions[:, None] + grid.moves()[1:]
    there = grid.is_inside(around, (height, width))
    cells = jnp.where(there[..., None], around, 0)
    index = jnp.arange(positions.shape[0])[:, None]
    entering = costs[cells[..., 0], cells[..., 1]] if costs.ndim == 2 else costs[index, cells[..., 0], cells[..., 1]]
    return jnp.where(there, entering + values[index, cells[..., 0], cells[..., 1]], UNREACHABLE)


def waypoints(values: Array, costs: Array, positions: Array, goals: Array) -> Array:
    """The next cell of each one's best path, int32 `[A, 2]`; who is at its goal, or has no way to it, gets the goal.

    Of equally good neighbours the first of up, down, left and right is taken.
    """
    where = "waypoints"
    if not isinstance(values, jax.Array | np.ndarray):
        checks.fail(where, "values", "an array, as cost_to_go gives it", checks.describe(values))
    checks.shape(where, "values", values, (None, None, None))
    costs = _as_costs(where, costs, values.shape)
    positions = as_array(where, "positions", positions, (values.shape[0], 2), "integers")
    goals = as_array(where, "goals", goals, (values.shape[0], 2), "integers")
    ahead = neighbor_costs(values, costs, positions)
    best = jnp.argmin(ahead, axis=1)
    none = jnp.all(positions == goals, axis=1) | ~jnp.isfinite(jnp.min(ahead, axis=1))
    return jnp.where(none[:, None], goals, positions + grid.moves()[best + 1])


def toward(positions: Array, targets: Array) -> Array:
    """The action that goes from each position to a neighbouring cell, 0 where the target is not one, int32 `[A]`."""
    same = jnp.all((targets - positions)[:, None] == grid.moves(), axis=-1)
    return jnp.argmax(same, axis=1).astype(jnp.int32)


def path_windows(values: Array, costs: Array, obstacles: Array, positions: Array, goals: Array, view: int) -> Array:
    """What the Follower's policy sees of map and path, float32 `[A, view, view]`: -1 obstacle, 1 path, 0 else.

    The path is followed from the agent on, its own cell included, until it leaves the window or is at the goal.
    """
    half = view // 2
    index = jnp.arange(view, dtype=jnp.int32)

    def mark(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cells, plane, walks = carry
        cells = jnp.where(walks[:, None], waypoints(values, costs, cells, goals), cells)
        at = cells - positions + half
        walks = walks & jnp.all((at >= 0) & (at < view), axis=1)
        here = (at[:, 0, None, None] == index[:, None]) & (at[:, 1, None, None] == index)
        return cells, plane | (here & walks[:, None, None]), walks

    plane = jnp.zeros((positions.shape[0], view, view), bool).at[:, half, half].set(True)
    walks = jnp.isfinite(values[jnp.arange(positions.shape[0]), positions[:, 0], positions[:, 1]])
    # A path inside the window visits each of its cells at most once.
    path = jax.lax.fori_loop(0, view * view - 1, mark, (positions, plane, walks))[1]
    blocked = grid.windows(obstacles, positions, view, True)
    return jnp.where(blocked, -1.0, path.astype(jnp.float32))


def sightings(positions: Array, shape: tuple[int, int], view: int) -> Array:
    """1 where each agent sees another one now, float32 `[A, H, W]`; never at its own cell."""
    num, half = positions.shape[0], view // 2
    taken = grid.index_plane(positions, shape) >= 0
    rows = jnp.abs(jnp.arange(shape[0]) - positions[:, :1]) <= half
    columns = jnp.abs(jnp.arange(shape[1]) - positions[:, 1:]) <= half
    seen = taken & rows[:, :, None] & columns[:, None, :]
    return seen.astype(jnp.float32).at[jnp.arange(num), positions[:, 0], positions[:, 1]].set(0.0)
