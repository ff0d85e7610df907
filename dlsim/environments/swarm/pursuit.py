"""Pursuit: agents are to surround a prey that is faster than they are."""

from __future__ import annotations

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.environment import Environment
from dlsim.environments.swarm import world
from dlsim.environments.swarm.world import SwarmState, Task

# Danger in tenths: an agent counts 1, a wall 0.9; whole numbers, so that equal dangers are equal.
AGENT_DANGER, WALL_DANGER = 10, 9
NO_CELL = 2**30


def pursuit(
    num_agents: int = 10,
    height: int = 10,
    width: int = 10,
    view: int = 5,
    max_rounds: int = 100,
    reward: str = "score",
    faithful: bool = True,
) -> Environment:
    """A point whenever the four cells around the prey hold agents or walls; the prey then comes back elsewhere.

    Agents begin in the upper left, rows and columns 1 to max(size // 2, 5), the prey in the lower right.  After the pushes
    a surrounded prey is caught and comes back on the cell of least danger among H * W uniform draws of free cells.  Else
    it moves two cells or none: of all ordered pairs of steps (right, left, down, up) whose two cells and end are empty, to
    the end of least danger if that is less than a bound.  The danger of a cell is the number of agents plus 0.9 of the
    number of walls in rows i - 4 to i + 3 and columns j - 4 to j + 3 on the map.

    Args:
        num_agents: agents A.
        height, width: of the grid, its wall included.
        view: cells of the side of an agent's window k, odd.
        max_rounds: rounds of an episode.
        reward: what agents get: `score`, all of them the gain in score; `shaped`, each by how much nearer it came, in L1
            distance, to where the prey was.
        faithful: two quirks of the reference are kept: the bound is the danger of the cell left of the prey, not of its
            own, and a prey that came back cannot be pushed.
    """
    world.check_sizes("pursuit", height, width, 6)
    checks.flag("pursuit", "faithful", faithful)
    region_height, region_width = min(max(height // 2, 5), height - 2), min(max(width // 2, 5), width - 2)
    overlaps = region_height > height // 2 and region_width > width // 2
    free = min(region_height * region_width - overlaps, (height - 2) * (width - 2) - 1)
    world.check_room("pursuit", num_agents, free)

    def start(key: Array) -> SwarmState:
        terrain = world.walled(height, width)
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
        lower_right = (rows > height // 2) & (columns > width // 2) & (terrain == world.FREE)
        prey = grid.draw(keys.stream(key, "prey"), lower_right, 1)[0]
        upper_left = (rows >= 1) & (rows <= region_height) & (columns >= 1) & (columns <= region_width)
        upper_left = upper_left & ~((rows == prey[0]) & (columns == prey[1]))
        return world.new_state(terrain, grid.place(keys.stream(key, "place"), upper_left, num_agents), prey=prey)

    def update(key: Array, before: SwarmState, after: SwarmState, actions: Array) -> SwarmState:
        threat = danger(after)
        filled = world.occupied(after, has_prey=True)
        around = after.prey + grid.moves()[1:]
        caught = jnp.all(filled[around[:, 0], around[:, 1]])
        back = respawn(key, ~world.occupied(after), threat)  # its own cell is free for it
        away = flee(after.prey, threat, filled, faithful)
        return after._replace(
            prey=jnp.where(caught, back, away),
            prey_is_static=after.prey_is_static | (caught & faithful),
            score=before.score + caught,
        )

    def shaped(before: SwarmState, after: SwarmState) -> Array:
        def distance(state: SwarmState) -> Array:
            return jnp.sum(jnp.abs(state.positions - before.prey), axis=1)

        return (distance(before) - distance(after)).astype(jnp.float32)

    task = Task(name="pursuit", start=start, update=update, shaped=shaped, has_prey=True, feature=5)
    return world.make(task, num_agents, height, width, view, max_rounds, reward)


def danger(state: SwarmState) -> Array:
    """Ten times the danger of every cell, int32 `[H, W]`."""
    agents = world.occupied(state) & (state.terrain == world.FREE)
    weights = AGENT_DANGER * agents + WALL_DANGER * (state.terrain == world.WALL)
    return grid.window_sum(weights.astype(jnp.int32), before=4, after=3)


def respawn_draws(key: Array, free: Array) -> Array:
    """The cells among which a caught prey chooses, in order, int32 `[H * W, 2]`: uniform ones of the free `[H, W]`."""
    return grid.draw(keys.stream(key, "respawn"), free, free.size)


def respawn(key: Array, free: Array, threat: Array) -> Array:
    """Where a caught prey comes back: the first of the cells of least danger among those drawn."""
    cells = respawn_draws(key, free)
    return cells[jnp.argmin(threat[cells[:, 0], cells[:, 1]])]


def flee(prey: Array, threat: Array, filled: Array, faithful: bool) -> Array:
    """Where the prey goes: the first of the ends of least danger, or where it is if none is below the bound."""
    steps = grid.moves()[jnp.asarray([4, 3, 2, 1])]
    first, second = jnp.repeat(steps, 4, axis=0), jnp.tile(steps, (4, 1))
    shape = (filled.shape[0], filled.shape[1])
    empty = jnp.append(~filled.reshape(-1), False)

    def is_empty(offset: Array) -> Array:
        return empty[grid.flat(prey + offset, shape)]

    ends = prey + first + second
    allowed = is_empty(first) & is_empty(second) & is_empty(first + second)
    at_ends = jnp.append(threat.reshape(-1), NO_CELL)[grid.flat(ends, shape)]
    at_ends = jnp.where(allowed, at_ends, NO_CELL)
    best = jnp.argmin(at_ends)
    bound = threat[prey[0], prey[1] - 1] if faithful else threat[prey[0], prey[1]]
    return jnp.where(at_ends[best] < bound, ends[best], prey)
