"""Flocking: agents are to form a hollow square, anywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments import grid
from dlsim.environments.environment import Environment
from dlsim.environments.swarm import world
from dlsim.environments.swarm.assignment import assignment_bounds, assignment_cost
from dlsim.environments.swarm.ring_distance import MOST_CELLS, bracket, ring
from dlsim.environments.swarm.world import SwarmState, Task

FAR = 2**20
BLOCK = 64  # translations looked at side by side
NUM_ROUNDS = 10  # of sharper bounds


def flocking(
    num_agents: int = 10,
    height: int = 10,
    width: int = 10,
    view: int = 5,
    max_rounds: int = 100,
    reward: str = "score",
    distance: str = "assignment",
) -> Environment:
    """The score is the most by which the distance E to the shape was ever below that of the beginning; done at E = 0.

    The shape is the ring of a square of side A // 4 + 1, n = 4 (A // 4) cells (A = 10: 3 x 3 without its middle).  E is the
    least, over translations that bring a cell of the ring onto an agent, of the least total L1 distance of the cells to
    different agents; agents beyond n are free.

    Args:
        num_agents: agents A, at least 4.
        height, width: of the grid, its wall included; the room must hold the shape.
        view: cells of the side of an agent's window k, odd.
        max_rounds: rounds of an episode.
        reward: what agents get: `score`, all of them the gain in score; `shaped`, all of them 0.1 of what E fell.
        distance: what stands for E.  `assignment`: E itself, exact, at a cost of about n^2 A a translation that is tried.
            `plan`, for populations of thousands (A a multiple of 4): the cost of one assignment found in O(A log A), at
            least E, and 0 just where E is; a bound from below comes with it, the most by which the two were apart so far
            is the metric `distance_tolerance`, and neither `distance` nor the score is further than that from the exact
            one.  `nearest`: the least over the same translations of the sum of the distances to the nearest agents,
            whoever else is nearest to it: at most E, zero when E is, linear in cells and agents.

    The tolerance of `plan` is proved in each run and known only from it.  Of the distance it was, for 10,000 agents, 0.01 %
    where they were strewn evenly, 0.05 % in one crowd, 2 % along a diagonal, 15 % for two unequal crowds in opposite
    corners and up to 21 % within a few cells of the shape; for 200 agents 12 % evenly, and up to 37 %.  Most of it is the
    bound's: the plans of 600 to 2,400 agents were 0.2 to 6 % dearer than a solver's for the same translation.

    Differs: the reference always draws with seed 42, and its shaped reward has the opposite sign.
    """
    checks.one_of("flocking", "distance", distance, ("assignment", "plan", "nearest"))
    checks.integer("flocking", "num_agents", num_agents, 4)
    side = num_agents // 4 + 1
    world.check_sizes("flocking", height, width, side + 2)
    world.check_room("flocking", num_agents, (height - 2) * (width - 2))

    if distance == "plan":
        _check_plan(num_agents, height, width)

    def to_shape(state: SwarmState) -> tuple[Array, ...]:
        """The distance, and, if it is not exact, the most by which it may be too long."""
        if distance == "plan":
            low, high = bracket(state.positions, side)
            return high, high - low
        if distance == "nearest":
            return (jnp.min(lower_bounds(state.positions, (height, width), side)),)
        return (shape_distance(state.positions, (height, width), side),)

    def start(key: Array) -> SwarmState:
        terrain = world.walled(height, width)
        positions = grid.place(keys.stream(key, "place"), terrain == world.FREE, num_agents)
        state = world.new_state(terrain, positions)
        now, *slack = to_shape(state)
        return state._replace(distance=jnp.stack([now, now, *slack]))

    def update(key: Array, before: SwarmState, after: SwarmState, actions: Array) -> SwarmState:
        first, (now, *slack) = before.distance[0], to_shape(after)
        slack = [jnp.maximum(before.distance[2], new) for new in slack]
        gain = (first - now).astype(jnp.float32)
        return after._replace(distance=jnp.stack([first, now, *slack]), score=jnp.maximum(before.score, gain))

    def shaped(before: SwarmState, after: SwarmState) -> Array:
        return jnp.broadcast_to(0.1 * (before.distance[1] - after.distance[1]), (num_agents,))

    task = Task(
        name="flocking", start=start, update=update, shaped=shaped, is_done=lambda state: state.distance[1] == 0
    )
    environment = world.make(task, num_agents, height, width, view, max_rounds, reward)
    return environment._replace(metrics=_plan_metrics) if distance == "plan" else environment


def _plan_metrics(state: SwarmState) -> Info:
    """Those of all swarms, the distance now, and how far it or the score may be from the exact one."""
    return {**world.metrics(state), "distance": state.distance[1], "distance_tolerance": state.distance[2]}


def _check_plan(num_agents: int, height: int, width: int) -> None:
    if num_agents % 4:
        rule, fix = "a multiple of 4 for distance='plan'", f"Use {num_agents - num_agents % 4}."
        checks.fail("flocking", "num_agents", rule, num_agents, fix)
    most = min(MOST_CELLS, (2**31 - 1) // (2 * (height + width)))
    if num_agents > most:
        checks.fail("flocking", "num_agents", f"at most {most} for distance='plan' on this grid", num_agents)


def lower_bounds(positions: Array, shape: tuple[int, int], side: int) -> Array:
    """For every translation of the ring, the sum of the L1 distances from its cells to their nearest agents.

    int32 `[H + side - 1, W + side - 1]`, entry (i, j) for the ring whose square begins at row i - side + 1 and column
    j - side + 1; 2^20 or more where no cell of the ring is on an agent.  A sum over a ring is two differences of running
    sums along rows and two along columns.
    """
    margin = side - 1
    wide = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    agents = grid.index_plane(positions + margin, wide) >= 0
    near = jnp.where(agents, 0, FAR).astype(jnp.int32)
    for axis in (0, 1):
        along = jnp.arange(wide[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        after = jax.lax.cummin(near - along, axis) + along
        near = jnp.minimum(after, jax.lax.cummin(near + along, axis, reverse=True) - along)
    touches = _ring_sums(agents.astype(jnp.int32), side) > 0
    return jnp.where(touches, _ring_sums(near, side), FAR)


def _ring_sums(plane: Array, side: int) -> Array:
    """Sums over the ring of every square of this side, `[H - side + 1, W - side + 1]`."""
    num_rows, num_columns = plane.shape[0] - side + 1, plane.shape[1] - side + 1
    rows = jnp.cumsum(jnp.pad(plane, ((0, 0), (1, 0))), axis=1)
    columns = jnp.cumsum(jnp.pad(plane, ((1, 0), (0, 0))), axis=0)
    across = rows[:, side:] - rows[:, :num_columns]
    down = columns[side - 1 : side - 1 + num_rows] - columns[1 : 1 + num_rows]  # without the corners
    return across[:num_rows] + across[side - 1 :] + down[:, :num_columns] + down[:, side - 1 :]


def shape_distance(positions: Array, shape: tuple[int, int], side: int) -> Array:
    """E of `flocking`, int32 `[]`.

    Translations are looked at in the order of their lower bounds, a block at a time, until the next bound is no less than
    the best cost found.  In a block the bounds are made sharper, and only those below the best cost are worked out.
    """
    cells, margin = jnp.asarray(ring(side)), side - 1
    bounds = lower_bounds(positions, shape, side)
    width = bounds.shape[1]
    # No more translations than pairs of an agent and a cell bring one onto the other.
    num_blocks = -(-min(positions.shape[0] * cells.shape[0], bounds.size) // BLOCK)
    bounds = jnp.pad(bounds.reshape(-1), (0, max(0, num_blocks * BLOCK - bounds.size)), constant_values=FAR)
    order = jnp.argsort(bounds)[: num_blocks * BLOCK].reshape(num_blocks, BLOCK)
    bounds = bounds[order]

    def try_block(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        block, best = carry
        starts = grid.unflat(order[block], width) - margin
        goals = (cells[:, None] + starts).astype(jnp.int32)  # [n, BLOCK, 2]
        costs = jnp.sum(jnp.abs(positions[:, None, None] - goals), axis=-1)  # [A, n, BLOCK]
        sharper = assignment_bounds(costs, NUM_ROUNDS)
        sharper = jnp.where(bounds[block] < FAR, jnp.maximum(sharper, bounds[block]), FAR)
        return block + 1, _least_cost(costs, sharper, best)

    def goes_on(carry: tuple[Array, Array]) -> Array:
        block, best = carry
        return (block < num_blocks) & (bounds[jnp.minimum(block, num_blocks - 1), 0] < best)

    return jax.lax.while_loop(goes_on, try_block, (jnp.asarray(0), jnp.asarray(FAR, jnp.int32)))[1]


def _least_cost(costs: Array, bounds: Array, best: Array) -> Array:
    """The least of `best` and the costs of the assignments `[A, n, B]` whose lower bounds `[B]` are below it."""

    def work_out(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, best = carry
        which = jnp.argmin(left)
        cost = assignment_cost(costs[:, :, which].T)
        return jnp.where(jnp.arange(left.shape[0]) == which, FAR, left), jnp.minimum(best, cost)

    return jax.lax.while_loop(lambda carry: jnp.min(carry[0]) < carry[1], work_out, (bounds, best))[1]
