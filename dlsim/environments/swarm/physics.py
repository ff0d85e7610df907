"""Rigid pushing on a grid: who moves when agents push in rows, against each other and against one large box.

A round has four passes, up, down, left and right, each on the positions the last one left.  In a pass with direction d an
agent whose action is d has the force 2; one that pushes the opposite way has no force and weighs 2 more; the rest have no
force.  Agents and prey weigh 1, the box 5.  Objects that touch along d hand force on: what is pushed with at least its
weight moves if all ahead of it moves, and hands on what is left.  Static cells never move.

The reference solves an integer program a pass: move as many objects as can move.  Here it is solved in closed form with
two scans of each line.  From the front back, every unit v has a need

    need(v) = infinite            if the cell ahead is static, or holds a unit whose need is infinite
    need(v) = max(0, weight(v) + need(ahead) - force(v))    else, with need(ahead) = 0 for an empty cell

and from the back to the front, v moves if it or a unit behind it in its unbroken chain needs nothing; moving units hand on
r(v) = r(behind) + force(v) - weight(v).  The box needs its weight and what the chains ahead of its leading cells need,
and is supplied with r of the chains behind its trailing cells, for which it is itself without need.  If it is supplied it
moves with all that is ahead of it; if not the scans are done again with a static box.  This is exact where no line meets
the box twice, as for the eight boxes of the transport task.  In worlds without a box whose cells outnumber their units by
far, the same is worked out over sorted units (`swarm.sparse_physics`).

Source: Ruan et al., Benchmarking LLMs' Swarm Intelligence, 2025, and its public code (rules only).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.swarm import sparse_physics

FORCE = 2
WEIGHT = 1
BOX_WEIGHT = 5
MARGIN = 5  # cells around the map: room for a box, at most 5 cells long, that leaves it
INFINITE = 2**20
# What lies on a cell, or else the weight less the force of the unit there.
EMPTY, STATIC, BOX = 100, 101, 102


class Box(NamedTuple):
    """One large object."""

    position: Array  # int32 [2], of the mask's first row and column; may be off the map
    mask: Array  # bool [5, 5]


def box_plane(box: Box, shape: tuple[int, int]) -> Array:
    """The cells of the box on the map with its margin, bool `[H + 2 MARGIN, W + 2 MARGIN]`; none once it has left."""
    plane = jnp.zeros((shape[0] + 2 * MARGIN, shape[1] + 2 * MARGIN), bool)
    start = jnp.clip(box.position + MARGIN, 0, jnp.asarray(plane.shape) - box.mask.shape[0])
    plane = jax.lax.dynamic_update_slice(plane, box.mask, (start[0], start[1]))
    return plane & jnp.any(inner(plane))


def inner(plane: Array) -> Array:
    """The map without its margin."""
    return plane[MARGIN:-MARGIN, MARGIN:-MARGIN]


def push(
    positions: Array, present: Array, actions: Array, is_static: Array, solid: Array, box: Box | None = None
) -> tuple[Array, Box | None]:
    """Positions and box after one round of pushing.

    Args:
        positions: int32 `[U, 2]` of the units, which weigh 1 each.
        present: bool `[U]`; who is not, or is off the map, neither moves nor stands in the way.
        actions: int32 `[U]`: 1 up, 2 down, 3 left, 4 right; anything else pushes nothing.
        is_static: bool `[U]`: units that cannot be moved.
        solid: bool `[H, W]`: cells that never move.
        box: the large object, where the world has one.
    """
    shape = (solid.shape[0], solid.shape[1])
    if box is None and sparse_physics.is_wide(shape, positions.shape[0]):
        costs = jnp.stack([_costs(actions, direction) for direction in (1, 2, 3, 4)])
        return sparse_physics.push(positions, present, costs, is_static, solid), None
    ground = jnp.where(solid, STATIC, EMPTY)
    if box is not None:
        ground = grid.pad(ground, MARGIN, EMPTY)
    for direction in (1, 2, 3, 4):
        cost = jnp.where(is_static, STATIC, _costs(actions, direction))
        there = present & grid.is_inside(positions, shape)
        offset = 0 if box is None else MARGIN
        cells = grid.flat(positions + offset, (ground.shape[0], ground.shape[1]), there)
        if box is None:
            code = _with_units(ground, cells, cost)
            moving = _moving(code, _needs(code, direction, 0), direction, False)[0]
        else:
            boxed = box_plane(box, shape)
            code = _with_units(jnp.where(boxed, BOX, ground), cells, cost)
            moving, box_moves = _moving_with_box(code, boxed, direction)
            box = box._replace(position=box.position + jnp.where(box_moves, grid.moves()[direction], 0))
        goes = there & jnp.append(moving.reshape(-1), False)[cells]
        positions = positions + jnp.where(goes[:, None], grid.moves()[direction], 0)
    return positions, box


def _costs(actions: Array, direction: int) -> Array:
    """Weight less force of units with these actions, when all push in this direction."""
    opposite = direction - 1 if direction % 2 == 0 else direction + 1
    return jnp.where(actions == direction, WEIGHT - FORCE, jnp.where(actions == opposite, WEIGHT + FORCE, WEIGHT))


def _with_units(ground: Array, cells: Array, cost: Array) -> Array:
    return ground.reshape(-1).at[cells].set(cost, mode="drop").reshape(ground.shape)


def _lines(plane: Array, direction: int) -> Array:
    """The plane with the direction of the push along its first axis (a push left or right runs along columns)."""
    return plane if direction <= 2 else plane.T


def _needs(code: Array, direction: int, box_need: Array | int) -> Array:
    """What each cell lacks to move, from the front back, in the orientation of `_lines`."""
    lines = _lines(code, direction)

    def step(ahead: Array, row: Array) -> tuple[Array, Array]:
        unit = jnp.where(ahead >= INFINITE, INFINITE, jnp.maximum(0, row + ahead))
        other = jnp.where(row == STATIC, INFINITE, jnp.where(row == BOX, box_need, 0))
        need = jnp.where(row < EMPTY, unit, other)
        return need, need

    start = jnp.zeros(lines.shape[1], lines.dtype)
    return jax.lax.scan(step, start, lines, reverse=direction % 2 == 0)[1]


def _moving(code: Array, needs: Array, direction: int, box_moves: Array | bool) -> tuple[Array, Array]:
    """Who moves, bool `[H, W]`, and what force they hand on, from the back to the front."""

    def step(behind: tuple[Array, Array], rows: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        row, need = rows
        moves, rest = behind
        goes = (row < EMPTY) & ((need == 0) | moves)
        rest = jnp.where(goes, rest - row, 0)
        return (goes | ((row == BOX) & box_moves), rest), (goes, rest)

    lines = _lines(code, direction)
    start = (jnp.zeros(lines.shape[1], bool), jnp.zeros(lines.shape[1], lines.dtype))
    moving, rest = jax.lax.scan(step, start, (lines, needs), reverse=direction % 2 == 1)[1]
    return _lines(moving, direction), _lines(rest, direction)


def _moving_with_box(code: Array, boxed: Array, direction: int) -> tuple[Array, Array]:
    """Who moves, bool `[H, W]`, and whether the box does."""
    step = -1 if direction % 2 == 1 else 1
    box = _lines(boxed, direction)
    needs = _needs(code, direction, 0)
    rest = _lines(_moving(code, needs, direction, False)[1], direction)
    # The margin is wide enough that nothing comes in again at the other end of the map.
    leading = box & ~jnp.roll(box, -step, axis=0)
    trailing = box & ~jnp.roll(box, step, axis=0)
    need = BOX_WEIGHT + jnp.sum(jnp.where(leading, jnp.minimum(jnp.roll(needs, -step, axis=0), INFINITE), 0))
    supply = jnp.sum(jnp.where(trailing, jnp.roll(rest, step, axis=0), 0))
    box_moves = (supply >= need) & jnp.any(box)
    needs = _needs(code, direction, jnp.where(box_moves, 0, INFINITE))
    return _moving(code, needs, direction, box_moves)[0], box_moves
