"""Foraging: agents carry food from a source to a nest, around inner walls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.environment import Environment
from dlsim.environments.swarm import world
from dlsim.environments.swarm.world import SwarmState, Task


def foraging(
    num_agents: int = 10, size: int = 10, view: int = 5, max_rounds: int = 100, reward: str = "score"
) -> Environment:
    """A point for every piece of food brought to the nest.

    Food and nest are blocks of 2 x 2 cells in opposite corners of a square room.  By the toss of a coin the inner walls are
    rows or columns 4, 8, ... below size - 4; the even ones span [0, size - ceil(size / 3) + 1), the odd ones
    [size // 3, size).  Where their number is odd, food and nest are on the same side (the open end of no wall).  After the
    pushes an agent next to food carries some; one next to the nest delivers what it carries, and the score grows by 1.

    Args:
        num_agents: agents A.
        size: side of the grid, its wall included, at least 8.
        view: cells of the side of an agent's window k, odd.
        max_rounds: rounds of an episode.
        reward: what agents get: `score`, all of them the gain in score; `shaped`, each 0.5 when it takes or delivers food,
            else max(0, 0.05 - 0.01 d), d the L1 distance to the next cell of what it needs.

    Differs: the reference pays 0.5 for every round spent next to the food.
    """
    checks.integer("foraging", "size", size, 8)
    world.check_sizes("foraging", size, size, 8)
    walls = inner_walls(size)
    free = int((size - 2) ** 2 - 8 - max((plane[1:-1, 1:-1]).sum() for plane in walls))
    world.check_room("foraging", num_agents, free)

    def start(key: Array) -> SwarmState:
        terrain = layout(keys.stream(key, "layout"), size)
        positions = grid.place(keys.stream(key, "place"), terrain == world.FREE, num_agents)
        return world.new_state(terrain, positions, flags=jnp.zeros(num_agents, bool))

    def update(key: Array, before: SwarmState, after: SwarmState, actions: Array) -> SwarmState:
        carrying = after.flags | _next_to(after, world.FOOD)
        delivers = carrying & _next_to(after, world.NEST)
        return after._replace(flags=carrying & ~delivers, score=before.score + jnp.sum(delivers))

    def shaped(before: SwarmState, after: SwarmState) -> Array:
        target = jnp.where(after.flags[:, None], _corner(after, world.NEST), _corner(after, world.FOOD))
        # Rows target and target + 1: how far off they are, nothing between them.
        apart = jnp.maximum(jnp.maximum(target - after.positions, after.positions - target - 1), 0)
        near = jnp.maximum(0.0, 0.05 - 0.01 * jnp.sum(apart, axis=1))
        delivers = (before.flags | _next_to(after, world.FOOD)) & _next_to(after, world.NEST)
        return jnp.where(delivers | (before.flags != after.flags), 0.5, near)

    task = Task(name="foraging", start=start, update=update, shaped=shaped, feature=4)
    return world.make(task, num_agents, size, size, view, max_rounds, reward)


def inner_walls(size: int) -> np.ndarray:
    """Cells of the inner walls when they are rows, and when they are columns, bool `[2, size, size]`."""
    plane = np.zeros((size, size), bool)
    for number, row in enumerate(_wall_lines(size)):
        if number % 2 == 0:
            plane[row, : size - -(-size // 3) + 1] = True
        else:
            plane[row, size // 3 :] = True
    return np.stack([plane, plane.T])


def _wall_lines(size: int) -> range:
    return range(4, size - 4, 4)


def layout(key: Array, size: int) -> Array:
    """A drawn terrain with walls, food and nest, int8 `[size, size]`."""
    coins = jax.random.bernoulli(key, 0.5, (3,))
    far = size - 3
    food = jnp.where(coins[:2], far, 1)
    nest = jnp.where(coins[:2], 1, far)
    axis = coins[2].astype(jnp.int32)  # 0: the walls are rows
    if len(_wall_lines(size)) % 2 == 1:
        same_side = jnp.arange(2) == 1 - axis
        food, nest = jnp.where(same_side, 1, food), jnp.where(same_side, 1, nest)
    rows, columns = jnp.arange(size)[:, None], jnp.arange(size)

    def block(corner: Array) -> Array:
        return ((rows - corner[0]) // 2 == 0) & ((columns - corner[1]) // 2 == 0)

    terrain = jnp.where(jnp.asarray(inner_walls(size))[axis], world.WALL, world.walled(size, size))
    terrain = jnp.where(block(nest), world.NEST, terrain)
    return jnp.where(block(food), world.FOOD, terrain).astype(jnp.int8)


def _next_to(state: SwarmState, what: int) -> Array:
    """Who stands next to (above, below, left or right of) a cell of this terrain, bool `[A]`."""
    near = jnp.any(grid.neighbors(state.terrain == what, False), axis=0)
    return near[state.positions[:, 0], state.positions[:, 1]]


def _corner(state: SwarmState, what: int) -> Array:
    """The first row and column of a block, int32 `[2]`."""
    return grid.unflat(jnp.argmax((state.terrain == what).reshape(-1)), state.terrain.shape[1])
