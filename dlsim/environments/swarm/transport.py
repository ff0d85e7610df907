"""Transport: a large box plugs the way out; agents push it out together and leave."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.environment import Environment, check_size
from dlsim.environments.swarm import physics, world
from dlsim.environments.swarm.world import SwarmState, Task

NUM_PLUGS = 8
BOX_CELLS = 13
NUM_STAGES = 6  # of a box on its way out


def transport(
    num_agents: int = 10,
    height: int = 10,
    width: int = 10,
    view: int = 5,
    max_rounds: int = 100,
    reward: str = "score",
) -> Environment:
    """Every agent that leaves the map in round t of T, counted from 0, brings (T - t) / T points.

    The wall has a gap of four cells at a corner.  The box, a block of 3 x 3 cells with a bar of 1 x 4 that fills the gap,
    lies in one of eight ways (four corners, two sides), each as likely.  It weighs 5, so that five agents have to push.
    The episode is done when all agents are off the map.

    Args:
        num_agents: agents A.
        height, width: of the grid, its wall included, at least 8.
        view: cells of the side of an agent's window k, odd.
        max_rounds: rounds of an episode T.
        reward: what agents get: `score`, all of them the gain in score; `shaped`, each 1 when it leaves, 0.5 when the box
            moved, and -0.2 between wall and box, else max(0, 0.05 - 0.01 d), d its L1 distance to the box.

    Differs: the distance to the box uses the box's column, where the reference takes its row twice.
    """
    world.check_sizes("transport", height, width, 8)
    check_size("transport", plugs=NUM_PLUGS, height=height, width=width)
    world.check_room("transport", num_agents, (height - 2) * (width - 2) - 9)
    masks, corners, walls = plugs(height, width)

    def start(key: Array) -> SwarmState:
        which = jax.random.randint(keys.stream(key, "plug"), (), 0, NUM_PLUGS)
        terrain = jnp.where(jnp.asarray(walls)[which], world.WALL, world.FREE).astype(jnp.int8)
        large = physics.Box(jnp.asarray(corners)[which], jnp.asarray(masks)[which])
        boxed = physics.inner(physics.box_plane(large, (height, width)))
        free = (world.walled(height, width) == world.FREE) & ~boxed
        positions = grid.place(keys.stream(key, "place"), free, num_agents)
        return world.new_state(terrain, positions, box_position=large.position, box_mask=large.mask)

    def update(key: Array, before: SwarmState, after: SwarmState, actions: Array) -> SwarmState:
        leave = before.inside & ~grid.is_inside(after.positions, (height, width))
        return after._replace(score=before.score + jnp.sum(leave) * ((max_rounds - before.round) / max_rounds))

    def shaped(before: SwarmState, after: SwarmState) -> Array:
        moved = jnp.any(before.box_position != after.box_position)
        wedged = after.inside & _wedged(after)
        near = jnp.maximum(0.0, 0.05 - 0.01 * _distance_to_box(after))
        return 1.0 * (before.inside & ~after.inside) + 0.5 * moved + jnp.where(wedged, -0.2, near)

    task = Task(
        name="transport",
        start=start,
        update=update,
        shaped=shaped,
        is_done=lambda state: ~jnp.any(state.inside),
        has_box=True,
    )
    return world.make(task, num_agents, height, width, view, max_rounds, reward)


class PlugWays(NamedTuple):
    """The way out of each of the eight boxes, in stages: as it was, pushed aside, and one, two, three, four cells out.

    Aside, since the block leans on the wall beside the gap; in the last stage it is off the map.
    """

    symbols: np.ndarray  # int32 [8, 6, H, W] what is on the map without agents, in symbols of `swarm`
    actions: np.ndarray  # int32 [8, 6] that lead to the next stage; in the last one, out of the gap
    depths: np.ndarray  # int32 [8, 6, H, W] cells from which to push: 1 behind the box, 2 behind that, 3; else 0


def plug_ways(height: int, width: int) -> PlugWays:
    """How to push out the boxes of a grid of this size."""
    masks, corners, walls = plugs(height, width)
    symbols = np.zeros((NUM_PLUGS, NUM_STAGES, height, width), np.int32)
    depths = np.zeros_like(symbols)
    actions = np.zeros((NUM_PLUGS, NUM_STAGES), np.int32)
    steps = np.asarray(grid.moves())
    for plug, (mask, corner, wall) in enumerate(zip(masks, corners, walls, strict=True)):
        transposed, up, left = bool(plug & 4), bool(plug & 2), bool(plug & 1)
        vertical, horizontal = (1 if up else 2), (3 if left else 4)
        out, aside = (horizontal, vertical) if transposed else (vertical, horizontal)
        for stage in range(NUM_STAGES):
            action = aside if stage == 0 else out
            moved = np.argwhere(mask) + corner + (stage > 0) * steps[aside] + max(stage - 1, 0) * steps[out]
            there = moved[((moved >= 0) & (moved < [height, width])).all(axis=1)]
            plane = np.where(wall, world.SEEN_WALL, 0)
            plane[tuple(there.T)] = world.SEEN_BOX
            symbols[plug, stage], actions[plug, stage] = plane, action
            depths[plug, stage] = _behind(plane, steps[action]) if len(there) else _gap(wall)
    return PlugWays(symbols, actions, depths)


def _behind(plane: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Free cells in line behind the box, numbered from it, three deep."""
    depths = np.zeros_like(plane)
    for cell in np.argwhere(plane == world.SEEN_BOX):
        for depth in (1, 2, 3):
            behind = tuple(cell - depth * step)
            if not all(0 <= x < size for x, size in zip(behind, plane.shape, strict=True)) or plane[behind] != 0:
                break
            depths[behind] = depth
    return depths


def _gap(wall: np.ndarray) -> np.ndarray:
    """The cells of the rim that are not wall."""
    rim = np.ones(wall.shape, bool)
    rim[1:-1, 1:-1] = False
    return (rim & ~wall).astype(np.int32)


def plugs(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The eight boxes: masks bool `[8, 5, 5]`, corners int32 `[8, 2]` on the map, walls with their gap bool `[8, H, W]`."""
    masks, corners, walls = [], [], []
    for transposed in (False, True):
        for up in (False, True):
            for left in (False, True):
                shape = (width, height) if transposed else (height, width)
                box, wall = np.zeros(shape, bool), np.ones(shape, bool)
                box[-4:-1, -5:-2] = True
                box[-1, -4:] = True
                wall[1:-1, 1:-1] = False
                wall[-1, -4:] = False
                if transposed:
                    box, wall = box.T, wall.T
                if up:
                    box, wall = box[::-1], wall[::-1]
                if left:
                    box, wall = box[:, ::-1], wall[:, ::-1]
                cells = np.argwhere(box)
                corner = cells.min(axis=0)
                mask = np.zeros((5, 5), bool)
                mask[tuple((cells - corner).T)] = True
                masks.append(mask)
                corners.append(corner)
                walls.append(wall)
    return np.stack(masks), np.stack(corners).astype(np.int32), np.stack(walls)


def _distance_to_box(state: SwarmState) -> Array:
    """L1 distance of every agent to the next cell of the box, int32 `[A]`."""
    cells = grid.unflat(jnp.nonzero(state.box_mask.reshape(-1), size=BOX_CELLS)[0], 5) + state.box_position
    return jnp.min(jnp.sum(jnp.abs(state.positions[:, None] - cells), axis=2), axis=1)


def _wedged(state: SwarmState) -> Array:
    """Who has wall and box among the cells above and below, or left and right, away from the edge, bool `[A]`."""
    plane = world.symbols(state, has_prey=False, has_box=True)
    wall = grid.neighbors(plane == world.SEEN_WALL, False)
    large = grid.neighbors(plane == world.SEEN_BOX, False)
    vertical = (wall[0] | wall[1]) & (large[0] | large[1])
    horizontal = (wall[2] | wall[3]) & (large[2] | large[3])
    inner = jnp.zeros(plane.shape, bool).at[1:-1, 1:-1].set(True)
    wedged = (vertical | horizontal) & inner
    top = jnp.clip(state.positions, 0, jnp.asarray(plane.shape) - 1)
    return wedged[top[:, 0], top[:, 1]]
