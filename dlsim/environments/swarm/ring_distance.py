"""The ring that flocking agents are to form: its cells, and fast bounds from both sides on the way to it.

For as many agents as cells, E is the least over translations t of the least cost of an assignment of the cells q + t to the
agents p, in L1 distance.  `bracket` gives numbers below and above it.

**Below**, for all translations at once.  The L1 distance is the sum of what separates rows and columns, and at least what
separates i + j, and i - j.  On a line the least cost of an assignment is sum_k |p_(k) - q_(k) - t| of the sorted points, and
its least over t is at a median of the differences.  So E is at least the sum of these for rows and columns, and at least
that for i + j and that for i - j; four sorts.

**Above**, the cost of a plan.  The translation is that of the bound for rows and columns, or the next that brings a cell
onto an agent.  Every shortest way from an agent to a cell of the ring can go straight to the ring, where it comes to at most
four points (up, down, left, right), and on along the ring: L1 distances between cells on one side or on neighbouring sides
are those along the ring, and a way to the opposite side can cross first.  Given where the agents enter, the rest is
transport on a circle: with F_i agents going from cell i to i + 1, less one constant c for all i, the cost is sum_i |F_i - c|
and c a median of F.  Agents begin with their nearest entries; then prices on the ring, which fall along the flow by nearly
one a cell (by less where there is little; flows are averaged over the turns), make them choose again.  The cheapest plan of
all turns counts.

Everything is in whole numbers, so that the same positions give the same numbers however the program is batched.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.core import Array

NUM_TURNS = 24
UNIT = 1024  # of a price
SCALE = 16  # of an averaged flow
SMOOTHING = (24, 8)  # eighths of the mean flow up to which prices do not yet fall by a whole one: at first, at last
MOST_CELLS = 46_340  # whose square, which the flows of all cells may sum to, is still below 2^31


def ring(side: int) -> np.ndarray:
    """Cells of the ring of a square, int32 `[4 (side - 1), 2]`."""
    index = np.arange(side - 1)
    low, high = np.zeros_like(index), np.full_like(index, side - 1)
    sides = [(low, index), (index, high), (high, side - 1 - index), (side - 1 - index, low)]
    cells = np.concatenate([np.stack(pair, axis=1) for pair in sides])
    return cells[np.lexsort(cells.T[::-1])].astype(np.int32)


def bracket(positions: Array, side: int) -> Array:
    """At least and at most E, int32 `[2]`; positions int32 `[4 (side - 1), 2]`.  The second is 0 just where E is."""
    least, start = _least(positions, side)
    cost, entry = _entries(positions - start, side - 1)
    which = jnp.argmin(jnp.min(cost, axis=1))  # the agent that is nearest to the ring is brought onto it
    start = start + _way_to_ring(positions[which] - start, side - 1)
    cost, entry = _entries(positions - start, side - 1)
    return jnp.stack([least, _plan_cost(cost, entry)])


def _least(positions: Array, side: int) -> tuple[Array, Array]:
    """The bound from below, int32 `[]`, and the translation of rows and columns that it is taken at, int32 `[2]`."""
    axes = np.asarray([[1, 0, 1, 1], [0, 1, 1, -1]], np.int32)
    cells = np.sort((ring(side) @ axes).T, axis=1)
    apart = jnp.sort((positions @ axes).T, axis=1) - cells
    middle = jnp.sort(apart, axis=1)[:, apart.shape[1] // 2]
    costs = jnp.sum(jnp.abs(apart - middle[:, None]), axis=1)
    return jnp.maximum(costs[0] + costs[1], jnp.maximum(costs[2], costs[3])), middle[:2]


def _entries(places: Array, last: int) -> tuple[Array, Array]:
    """Steps from places `[A, 2]` to where they come to the ring of rows and columns 0 to `last`, and those cells' numbers.

    int32 `[A, 4]` each: up, right, down, left; cells are numbered clockwise from the corner (0, 0).
    """
    inner = jnp.clip(places, 0, last)
    row, column = inner[:, 0], inner[:, 1]
    steps = jnp.stack([row, last - column, last - row, column], axis=1)
    cells = jnp.stack([column, last + row, 3 * last - column, 4 * last - row], axis=1)
    return steps + jnp.sum(jnp.abs(places - inner), axis=1)[:, None], cells % (4 * last)


def _way_to_ring(place: Array, last: int) -> Array:
    """The shortest step, int32 `[2]`, by which the ring of rows and columns 0 to `last` comes onto this place."""
    inner = jnp.clip(place, 0, last)
    row, column = inner[0], inner[1]
    there = jnp.asarray([[0, 0], [0, last], [last, 0], [0, 0]], jnp.int32)
    there = there.at[0, 1].set(column).at[1, 0].set(row).at[2, 1].set(column).at[3, 0].set(row)
    return place - there[jnp.argmin(jnp.stack([row, last - column, last - row, column]))]


def _plan_cost(cost: Array, entry: Array) -> Array:
    """The cost of the cheapest plan found, int32 `[]`, given steps and numbers of the entries `[A, 4]`."""
    num = cost.shape[0]

    def turn(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, best = carry
        smoothing = jnp.maximum(SMOOTHING[0] - number, SMOOTHING[1])
        choice = jnp.argmin(cost * UNIT + _prices(mean, smoothing)[entry], axis=1)[:, None]
        entering = jnp.take_along_axis(entry, choice, axis=1)[:, 0]
        flow = jnp.cumsum(jnp.zeros(num, jnp.int32).at[entering].add(1) - 1)
        flow = flow - _median(flow)
        total = jnp.sum(jnp.take_along_axis(cost, choice, axis=1)) + jnp.sum(jnp.abs(flow))
        mean = mean + (2 * (SCALE * flow - mean)) // (number + 2)  # later turns count more
        return mean, jnp.minimum(best, total)

    start = (jnp.zeros(num, jnp.int32), jnp.asarray(2**31 - 1, jnp.int32))
    return jax.lax.fori_loop(0, NUM_TURNS, turn, start)[1]


def _prices(flow: Array, smoothing: Array) -> Array:
    """What one more agent that enters at each cell is asked for what it costs on the ring, in units of 1 / UNIT, int32 `[n]`.

    Less than the whole cost, so that of entries that come to the same the nearest is taken.
    """
    num = flow.shape[0]
    width = jnp.maximum(smoothing * (jnp.sum(jnp.abs(flow) // SCALE) // num) // 8, 1) * SCALE
    falls = jnp.clip(flow, -width, width) * (UNIT // SCALE) // (width // SCALE)
    total = jnp.sum(falls)
    falls = falls - total // num - (jnp.arange(num) < total % num)  # once around, it is the price of the beginning
    return (falls - jnp.cumsum(falls)) // 5 * 4


def _median(values: Array) -> Array:
    """The lower median of values in [-n, n], by halving, int32 `[]`."""
    num = values.shape[0]

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        holds = 2 * jnp.sum(values <= middle) >= num
        return jnp.where(holds, low, middle + 1), jnp.where(holds, middle, high)

    ends = (jnp.asarray(-num, jnp.int32), jnp.asarray(num, jnp.int32))
    return jax.lax.fori_loop(0, (2 * num).bit_length(), halve, ends)[0]
