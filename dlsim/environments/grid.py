"""Toolbox of grid worlds: planes `[H, W]`, windows around agents, who moves when all move at once, placement draws.

Positions are int32 `[A, 2]` (row, column).  Nothing here costs more than the agents plus the cells: two agents meet only
through planes that hold the index of who stands, or wants to stand, on a cell.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array

NUM_MOVES = 5
RULES = ("soft", "priority", "block_both")
FAR = 2**20  # more steps than any way has


def check_view(where: str, view: int) -> int:
    """The cells of a window's side: odd, so that one is in the middle."""
    view = checks.integer(where, "view", view, 1)
    if view % 2 == 0:
        checks.fail(where, "view", "odd, so that the agent is in the middle", view, f"Use {view + 1}.")
    return view


def moves() -> Array:
    """Steps of actions 0 stay, 1 up, 2 down, 3 left, 4 right, int32 `[5, 2]`."""
    return jnp.asarray([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], jnp.int32)


def is_inside(positions: Array, shape: tuple[int, int]) -> Array:
    """Whether positions `[..., 2]` lie on a grid of this shape, bool `[...]`."""
    rows, columns = positions[..., 0], positions[..., 1]
    return (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])


def flat(positions: Array, shape: tuple[int, int], present: Array | None = None) -> Array:
    """Cell numbers row * W + column of positions `[A, 2]`; H * W, a cell beyond the last, for who is not on the grid."""
    there = is_inside(positions, shape)
    there = there if present is None else there & present
    return jnp.where(there, positions[..., 0] * shape[1] + positions[..., 1], shape[0] * shape[1])


def index_plane(positions: Array, shape: tuple[int, int], present: Array | None = None) -> Array:
    """The index of who stands on each cell, -1 for nobody, int32 `[H, W]`; only who is `present` and inside counts."""
    num = positions.shape[0]
    plane = jnp.full(shape[0] * shape[1], -1, jnp.int32)
    return plane.at[flat(positions, shape, present)].set(jnp.arange(num, dtype=jnp.int32), mode="drop").reshape(shape)


def pad(plane: Array, width: int, value: float) -> Array:
    """The plane `[H, W]` with a ring of `width` cells around it, `[H + 2 width, W + 2 width]`."""
    return jnp.pad(plane, width, constant_values=value)


def windows(plane: Array, positions: Array, size: int, outside: float) -> Array:
    """What is around each position: `[A, size, size]` of a plane `[H, W]`, `outside` beyond its edge; `size` is odd."""
    padded = pad(plane, size // 2, outside)
    top = jnp.clip(positions, 0, jnp.asarray(plane.shape) - 1)

    def cut(corner: Array) -> Array:
        return jax.lax.dynamic_slice(padded, (corner[0], corner[1]), (size, size))

    return jax.vmap(cut)(top)


def unroll(seen: Array, positions: Array, shape: tuple[int, int], unseen: float) -> Array:
    """What each one sees, `[A, k, k]` around its position, laid on maps of their own `[A, H, W]`; `unseen` elsewhere."""
    half = seen.shape[1] // 2
    blank = jnp.full((shape[0] + 2 * half, shape[1] + 2 * half), unseen, seen.dtype)

    def lay(window: Array, corner: Array) -> Array:
        return jax.lax.dynamic_update_slice(blank, window, (corner[0], corner[1]))

    plane = jax.vmap(lay)(seen, jnp.clip(positions, 0, jnp.asarray(shape) - 1))
    return plane[:, half : half + shape[0], half : half + shape[1]]


def steps_to(goals: Array, passable: Array) -> Array:
    """Least number of steps to the next goal over cells that can be passed, int32 `[..., H, W]`; FAR where none leads.

    Args:
        goals: bool `[..., H, W]`; one may walk onto a goal that cannot be passed, not across it.
        passable: bool `[..., H, W]`.
    """
    start = jnp.where(goals, 0, FAR).astype(jnp.int32)
    edges = [(0, 0)] * (goals.ndim - 2)

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        steps, _ = carry
        wide = jnp.pad(steps, [*edges, (1, 1), (1, 1)], constant_values=FAR)
        up, down = wide[..., :-2, 1:-1], wide[..., 2:, 1:-1]
        left, right = wide[..., 1:-1, :-2], wide[..., 1:-1, 2:]
        near = jnp.minimum(jnp.minimum(up, down), jnp.minimum(left, right)) + 1
        new = jnp.where(passable, jnp.minimum(steps, jnp.minimum(near, FAR)), start)
        return new, jnp.any(new != steps)

    return jax.lax.while_loop(lambda carry: carry[1], spread, (start, jnp.asarray(True)))[0]


def neighbors(plane: Array, outside: float) -> Array:
    """The values above, below, left and right of every cell, `[4, H, W]`."""
    padded = pad(plane, 1, outside)
    return jnp.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])


def place(key: Array, free: Array, num: int) -> Array:
    """`num` different cells, uniform among the free cells `[H, W]`, in random order, int32 `[num, 2]`.

    There must be that many free cells: a factory knows the number, a draw inside `jit` does not.
    """
    bits = jax.random.bits(key, (free.size,), jnp.uint32) >> 1
    order = jnp.argsort(jnp.where(free.reshape(-1), bits, jnp.uint32(2**32 - 1)))
    return unflat(order[:num].astype(jnp.int32), free.shape[1])


def draw(key: Array, free: Array, num: int) -> Array:
    """`num` independent uniform free cells, int32 `[num, 2]`; the cell (0, 0) where no cell is free."""
    rank = jnp.cumsum(free.reshape(-1).astype(jnp.int32))
    total = rank[-1]
    wanted = jnp.floor(jax.random.uniform(key, (num,)) * total).astype(jnp.int32)
    cells = jnp.searchsorted(rank, jnp.minimum(wanted, total - 1) + 1)
    return unflat(jnp.where(total > 0, cells, 0).astype(jnp.int32), free.shape[1])


def unflat(cells: Array, width: int) -> Array:
    """Positions `[..., 2]` of cell numbers `[...]` on a grid of this width."""
    return jnp.stack([cells // width, cells % width], axis=-1)


def window_sum(plane: Array, before: int, after: int) -> Array:
    """Sums over rows i - before to i + after and columns j - before to j + after, cut at the edge, `[H, W]`."""
    for axis in (0, 1):
        length = plane.shape[axis]
        total = jnp.concatenate([jnp.zeros_like(jax.lax.slice_in_dim(plane, 0, 1, axis=axis)), plane], axis)
        total = jnp.cumsum(total, axis)
        index = jnp.arange(length)
        plane = jnp.take(total, jnp.minimum(index + after + 1, length), axis) - jnp.take(
            total, jnp.maximum(index - before, 0), axis
        )
    return plane


def visible(plane: Array, positions: Array, size: int) -> Array:
    """The indices of who else stands in each one's window, -1 for nobody, int32 `[A, size * size]`.

    `plane` is the `index_plane` of those who can be seen.  One cell holds one agent, so this is everybody within a
    Chebyshev distance of size // 2, at a cost of A * size^2.
    """
    seen = windows(plane, positions, size, -1).reshape(positions.shape[0], size * size)
    return seen.at[:, size * size // 2].set(-1)


def hear(seen: Array, messages: Array) -> tuple[Array, Array]:
    """What each hears: messages `[A, D]` of those it sees `[A, K]` as `[A, K, D]`, zero where nobody is; bool `[A, K]`."""
    mask = seen >= 0
    values = messages.at[jnp.maximum(seen, 0)].get(mode="promise_in_bounds")
    return jnp.where(mask[..., None], values, 0), mask


def resolve_moves(positions: Array, targets: Array, obstacles: Array, rule: str = "soft") -> Array:
    """Where everybody stands after all moved at once, int32 `[A, 2]`.

    Nobody enters an obstacle or leaves the grid.  `soft`: two who would swap both stay; of those who want one cell the
    lowest index has it; who would enter the cell of one who stays, stays.  One may follow into a cell that is being left,
    and three or more may rotate.  `block_both`: who wants a cell that another wants too, or that somebody stands on,
    stays.  `priority`: one after the other by index, each to its cell if nobody is on it at that moment (a loop of A).

    Args:
        positions: int32 `[A, 2]`, all different.
        targets: wanted cells, int32 `[A, 2]`, each one's own cell or next to it.
        obstacles: bool `[H, W]`.
        rule: `soft`, `priority` or `block_both`.
    """
    checks.one_of("resolve_moves", "rule", rule, RULES)
    num, shape = positions.shape[0], (obstacles.shape[0], obstacles.shape[1])
    here = flat(positions, shape)
    there = flat(targets, shape)
    free = jnp.append(~obstacles.reshape(-1), False)
    there = jnp.where(free[there], there, here)
    index = jnp.arange(num, dtype=jnp.int32)
    who = jnp.full(obstacles.size + 1, num, jnp.int32).at[here].set(index)
    if rule == "priority":
        return unflat(_one_by_one(here, there, who), shape[1])
    wants = there != here
    other = jnp.where(wants, who[there], num)  # who stands where I want to be
    if rule == "block_both":
        contenders = jnp.zeros(obstacles.size + 1, jnp.int32).at[there].add(wants.astype(jnp.int32))
        return unflat(jnp.where(wants & (other == num) & (contenders[there] == 1), there, here), shape[1])
    swaps = wants & (jnp.append(there, -1)[other] == here)
    # Who swaps does not move, so it takes the cell from nobody: the lowest index is found among the rest.
    wanted = jnp.where(wants & ~swaps, there, obstacles.size)
    first = jnp.full(obstacles.size + 1, num, jnp.int32).at[wanted].min(index)
    stays = ~wants | swaps | (first[there] != index)
    return unflat(jnp.where(_held_up(stays, other), here, there), shape[1])


def _held_up(stays: Array, ahead: Array) -> Array:
    """Who stays because somebody ahead stays, bool `[A]`: each looks twice as far ahead in every turn."""

    def look(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        held, link, _ = carry
        further = held | held[link]
        return further, link[link], jnp.any(further != held)

    num = stays.shape[0]
    padded = jnp.append(stays, False)
    link = jnp.append(ahead, num)  # the row after the last is nobody, who never holds anyone up
    return jax.lax.while_loop(lambda carry: carry[2], look, (padded, link, jnp.asarray(True)))[0][:num]


def _one_by_one(here: Array, there: Array, who: Array) -> Array:
    """The rule `priority`: cell numbers `[A]` after each moved in turn."""
    num = here.shape[0]

    def move(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        cells, who = carry
        goes = who[there[i]] == num
        new = jnp.where(goes, there[i], here[i])
        who = who.at[here[i]].set(num).at[new].set(i.astype(jnp.int32))
        return cells.at[i].set(new), who

    return jax.lax.fori_loop(0, num, move, (here, who))[0]
