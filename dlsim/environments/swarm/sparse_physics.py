"""Worlds far larger than their populations: units are sorted, cells are not looked at.

The pushes of `swarm.physics` and who stands where, the same to the bit, at a cost that hardly depends on the map.  Along a
push, units that touch stand next to each other in the order of their cells, and a push changes no order within a line.  The
need of a unit is a function x -> max(b, x + a) of the need x ahead; such functions are closed under composition, so that the
needs of all chains are one associative scan, O(U log U) for U units.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlsim.core import Array
from dlsim.environments import grid

INFINITE = 2**20  # less the forces of a line it is still more than nothing, which is all that is asked of it
NEVER = -(2**28)
CELLS_PER_UNIT = 256  # from here on sorting is faster than going over the cells (10 to 10,000 units, 2 CPU cores)


def is_wide(shape: tuple[int, ...], num_units: int) -> bool:
    """Whether a map of this shape is so empty that its units are better sorted."""
    return shape[0] * shape[1] >= CELLS_PER_UNIT * num_units


def finder(positions: Array, shape: tuple[int, int], present: Array) -> Callable[[Array], Array]:
    """A function from positions `[A, 2]` to the index of who stands there, -1 for nobody; as `grid.index_plane`."""
    outside = shape[0] * shape[1]
    cells = grid.flat(positions, shape, present)
    order = jnp.argsort(cells)
    held = cells[order]

    def who(places: Array) -> Array:
        wanted = grid.flat(places, shape)
        slot = jnp.minimum(jnp.searchsorted(held, wanted), held.shape[0] - 1)
        return jnp.where((held[slot] == wanted) & (wanted < outside), order[slot], -1).astype(jnp.int32)

    return who


def push(positions: Array, present: Array, costs: Array, is_static: Array, solid: Array) -> Array:
    """Positions int32 `[U, 2]` after one round of pushing.

    Args:
        positions, present, is_static, solid: as in `swarm.physics.push`.
        costs: int32 `[4, U]`, weight less force of each unit in the passes up, down, left and right.
    """
    shape = (solid.shape[0], solid.shape[1])
    blocked = jnp.append(solid.reshape(-1), False)  # nothing is in the way off the map
    for axis in (0, 1):
        line, along = positions[:, 1 - axis], positions[:, axis]
        order = jnp.argsort(
            jnp.where(present & grid.is_inside(positions, shape), line * (shape[axis] + 2) + along, 2**30)
        )
        for direction in (2 * axis + 1, 2 * axis + 2):
            forward = direction % 2 == 1  # the front of a chain comes first
            rank = order if forward else order[::-1]
            place = positions[rank]
            there = present[rank] & grid.is_inside(place, shape)
            ahead = place + grid.moves()[direction]
            touches = jnp.all(ahead[1:] == place[:-1], axis=1) & there[1:] & there[:-1]
            touches = jnp.concatenate([jnp.zeros(1, bool), touches])
            stuck = is_static[rank] | (~touches & blocked[grid.flat(ahead, shape)])
            goes = there & _goes(costs[direction - 1][rank], touches, stuck)
            steps = jnp.where(goes[:, None], grid.moves()[direction], 0)
            positions = positions.at[rank].add(steps, unique_indices=True)
    return positions


def _goes(costs: Array, touches: Array, stuck: Array) -> Array:
    """Who moves, bool `[U]`, of units front first; `touches`: the one before is directly ahead; `stuck`: never moves."""
    add = jnp.where(touches & ~stuck, costs, NEVER)
    least = jnp.where(stuck, INFINITE, jnp.maximum(0, jnp.where(touches, 0, costs)))

    def then(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return (
            jnp.maximum(first[0] + second[0], NEVER),
            jnp.maximum(second[1], first[1] + second[0]),
        )

    needs = jax.lax.associative_scan(then, (add, least))[1]  # a chain begins with a constant
    num = costs.shape[0]
    index = jnp.arange(num, dtype=jnp.int32)
    supplied = jax.lax.cummin(
        jnp.where(needs == 0, index, num), reverse=True
    )  # the next that needs nothing, from here back
    end = jax.lax.cummin(jnp.where(jnp.append(touches[1:], False), num, index), reverse=True)  # of the chain
    return supplied <= end
