"""What the scripts of the swarm tasks share: observations taken apart, and walking."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.swarm import world

UNSEEN = -1
WAIT = 1  # further steps that one rather walks than waits, so that who is held up steps aside
WANDER = 0.05  # probability of a step at random
SOURCE = "Scripts for the tasks of Ruan et al., Benchmarking LLMs' Swarm Intelligence, 2025"


class Sight(NamedTuple):
    """What agents observe, taken apart."""

    window: Array  # int32 [A, k, k] symbols of `swarm`, 0 for nothing and for oneself
    positions: Array  # int32 [A, 2]
    time: Array  # float32 [A] share of the rounds that are over
    light: Array  # bool [A]
    carries: Array  # bool [A]
    score: Array  # float32 [A], 0 where the task does not tell it

    def on_map(self, shape: tuple[int, int]) -> Array:
        """The symbols on maps of their own, int32 `[A, H, W]`; UNSEEN elsewhere."""
        return grid.unroll(self.window, self.positions, shape, UNSEEN)


def look(observations: Array, view: int, shape: tuple[int, int]) -> Sight:
    """Observations `[A, view^2 * 8 + 6]` of the tasks, taken apart; `shape` is that of the grid."""
    num, size = observations.shape[0], view * view * world.NUM_SYMBOLS
    checks.shape("look", "observations", observations, (num, size + world.NUM_FEATURES))
    planes = observations[:, :size].reshape(num, view, view, world.NUM_SYMBOLS)
    window = jnp.round(planes @ jnp.arange(1.0, world.NUM_SYMBOLS + 1)).astype(jnp.int32)
    features = observations[:, size:]
    place = jnp.round(features[:, :2] * (jnp.asarray(shape, jnp.float32) - 1)).astype(jnp.int32)
    return Sight(window, place, features[:, 2], features[:, 3] > 0.5, features[:, 4] > 0.5, features[:, 5])


def is_agent(symbols: Array) -> Array:
    """Which symbols are those of agents."""
    return (symbols == world.AGENT) | (symbols == world.AGENT_DARK)


def walk(key: Array, steps: Array, positions: Array, taken: Array, detour: int = grid.FAR) -> Array:
    """A step towards the goals, int32 `[A]`: to the cell from which the fewest steps are left, ties at random.

    Args:
        steps: left from each cell, int32 `[A, H, W]` (`grid.steps_to`); who has no way stays.
        positions: int32 `[A, 2]`.
        taken: cells on which others stand, bool `[A, H, W]`.
        detour: further steps that one rather walks than into another agent, which pushes it.
    """
    num, height, width = steps.shape
    draws = keys.node_uniform(key, jnp.arange(num), grid.NUM_MOVES + 2)
    ends = positions[:, None] + grid.moves()
    cells = jnp.clip(ends[..., 0], 0, height - 1) * width + jnp.clip(ends[..., 1], 0, width - 1)
    left = jnp.take_along_axis(steps.reshape(num, -1), cells, axis=1)
    left = jnp.where(grid.is_inside(ends, (height, width)), left, grid.FAR)
    left = left + detour * jnp.take_along_axis(taken.reshape(num, -1), cells, axis=1)
    waits = (jnp.arange(grid.NUM_MOVES) == 0) & (left[:, :1] > 0)
    left = left + jnp.where(waits, WAIT, 0)
    best = jnp.argmin(left + draws[:, : grid.NUM_MOVES] / 2, axis=1).astype(jnp.int32)
    best = jnp.where(jnp.min(left, axis=1) < grid.FAR, best, 0)
    random = jnp.floor(draws[:, -1] * grid.NUM_MOVES).astype(jnp.int32)
    return jnp.where(draws[:, -2] < WANDER, random, best)


def wander(key: Array, num: int) -> Array:
    """One of the four moves, int32 `[A]`."""
    return 1 + jnp.floor(4 * keys.node_uniform(key, jnp.arange(num), 1)[:, 0]).astype(jnp.int32)


def check_sizes(where: str, view: int, shape: tuple[int, int]) -> None:
    """One line for sizes that no task has."""
    grid.check_view(where, view)
    world.check_sizes(where, *shape, 3)


def next_waypoint(key: Array, waypoint: Array, plane: Array) -> Array:
    """Where to look next, int32 `[A, 2]`: once the last cell (0, 0 for none) is in the window, another out of it.

    `plane` is `Sight.on_map`, `[A, H, W]`; cells of the room are equally likely.
    """
    num, height, width = plane.shape
    open_cells = (plane == UNSEEN) & (world.walled(height, width) == world.FREE)
    draws = keys.node_uniform(key, jnp.arange(num), height * width)
    fresh = grid.unflat(jnp.argmax(jnp.where(open_cells.reshape(num, -1), draws, -1.0), axis=1), width)
    seen = plane[jnp.arange(num), waypoint[:, 0], waypoint[:, 1]] != UNSEEN
    return jnp.where((seen | jnp.all(waypoint == 0, axis=1))[:, None], fresh, waypoint).astype(jnp.int32)
