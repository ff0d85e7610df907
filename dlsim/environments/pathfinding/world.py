"""Lifelong pathfinding: agents on a grid of obstacles walk to a goal, get another, and walk on.

Source: the rules of POGEMA (Skrynnik, Andreychuk, Borzilov, Chernyavskiy, Yakovlev, Panov, POGEMA: A Benchmark Platform for
Cooperative Multi-Agent Pathfinding, ICLR 2025), as used by Skrynnik et al., Learn to Follow, AAAI 2024.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments import grid
from dlsim.environments.environment import Environment, box, check_actions, discrete
from dlsim.environments.pathfinding import maps

SOURCE = "Skrynnik et al., POGEMA, ICLR 2025"


class PathfindingState(NamedTuple):
    """Where everybody is, and wants to be."""

    positions: Array  # int32 [A, 2] row, column
    goals: Array  # int32 [A, 2]
    num_reached: Array  # int32 [A] goals reached so far
    which_map: Array  # int32 [] of the maps that were given
    goal_seed: Array  # uint32 [] goal k of agent i depends on this seed, i, k and where i is, on no other agent
    round: Array  # int32 []


class Maps(NamedTuple):
    """Tables of K maps of one size."""

    obstacles: np.ndarray  # bool [K, H, W]
    starts: np.ndarray  # bool [K, H, W] where an agent may begin
    goals: np.ndarray  # int32 [K, F] goal cells, those of a component side by side, the rest 0
    of_cell: (
        np.ndarray
    )  # int32 [K, H, W, 3] of each cell: where the goals of its component begin in that list, how many
    # they are, and its own place among them (their number if it is none)


def pathfinding(
    obstacles: Any,
    num_agents: int,
    view: int = 11,
    max_steps: int = 512,
    rule: str = "soft",
    starts: Any = None,
    goals: Any = None,
) -> Environment:
    """Agents get 1 for every goal they reach, and a new goal at once.

    Actions 0 stay, 1 up, 2 down, 3 left, 4 right; all move at once by `grid.resolve_moves`.  A goal is uniform among the
    goal cells that can be reached from where the agent is, other than that cell.  An agent sees a window around it: a
    plane of obstacles (the map ends in obstacles), one of other agents, and one with a 1 at its goal, or at the cell of the
    window's rim next to it.

    Args:
        obstacles: bool `[H, W]`, or several maps `[K, H, W]` of which each episode draws one.
        num_agents: agents A.
        view: cells of a window's side, 2 R + 1.
        max_steps: steps of an episode T.
        rule: who moves when several want a cell: `soft`, `priority` or `block_both`.
        starts: cells where agents may begin, bool, as `obstacles`; by default all from which at least two goals can be
            reached.
        goals: cells that may be goals; by default all that are free.  Obstacles among `starts` and `goals` do not count.

    Returns:
        Environment with observations int8 `[A, 3, view, view]`, 0 or 1; `metrics` holds the `throughput`, goals a step.
    """
    where = "pathfinding"
    checks.integer(where, "view", view, 1)
    if view % 2 == 0:
        checks.fail(where, "view", "odd, so that the agent is in the middle", view, f"Use {view + 1}.")
    checks.integer(where, "max_steps", max_steps, 1)
    checks.one_of(where, "rule", rule, grid.RULES)
    checks.integer(where, "num_agents", num_agents, 1)
    tables = map_tables(obstacles, starts, goals)
    room = int(tables.starts.sum(axis=(1, 2)).min())
    if num_agents > room:
        checks.fail(where, "num_agents", f"at most {room}, the cells to begin on", num_agents, "Use a larger map.")
    on_device = jax.tree.map(jnp.asarray, tables)
    ids = jnp.arange(num_agents, dtype=jnp.int32)

    def map_of(state: PathfindingState) -> Any:
        # Of one map alone, copies side by side share it, and all that is made of it but once.
        return state.which_map if tables.obstacles.shape[0] > 1 else 0

    def obstacles_of(state: PathfindingState) -> Array:
        return on_device.obstacles[map_of(state)]

    def reset(key: Array) -> tuple[PathfindingState, Array]:
        num_maps = tables.obstacles.shape[0]
        which = jax.random.randint(keys.stream(key, "map"), (), 0, num_maps, dtype=jnp.int32)
        seed = jax.random.bits(keys.stream(key, "goals"), (), jnp.uint32)
        positions = grid.place(keys.stream(key, "place"), on_device.starts[which], num_agents)
        none = jnp.zeros(num_agents, jnp.int32)
        goals = next_goals(on_device, which, seed, ids, none, positions)
        state = PathfindingState(positions, goals, none, which, seed, jnp.zeros((), jnp.int32))
        return state, observe(state, obstacles_of(state), view)

    def step(key: Array, state: PathfindingState, actions: Array) -> tuple[PathfindingState, Array, Array, Array, Info]:
        actions = check_actions(where, actions, grid.NUM_MOVES, num_agents)
        blocked = obstacles_of(state)
        ended = state.round >= max_steps
        targets = state.positions + grid.moves()[jnp.where(ended, 0, actions)]
        positions = grid.resolve_moves(state.positions, targets, blocked, rule)
        reached = jnp.all(positions == state.goals, axis=1)
        num_reached = state.num_reached + reached
        drawn = next_goals(on_device, map_of(state), state.goal_seed, ids, num_reached, positions)
        state = state._replace(
            positions=positions,
            goals=jnp.where(reached[:, None], drawn, state.goals),
            num_reached=num_reached,
            round=state.round + ~ended,
        )
        over = state.round >= max_steps
        info = {
            "is_over": over,
            "is_truncated": over,
            "reached": reached,
            "num_blocked": jnp.sum(jnp.any(positions != targets, axis=1), dtype=jnp.int32),
        }
        dones = jnp.broadcast_to(over, (num_agents,))
        return state, observe(state, blocked, view), reached.astype(jnp.float32), dones, info

    def action_mask(state: PathfindingState) -> Array:
        blocked = grid.pad(obstacles_of(state), 1, True)
        cells = state.positions[:, None] + grid.moves() + 1
        return ~blocked[cells[..., 0], cells[..., 1]]

    def render(state: PathfindingState, axes: Any) -> None:
        from dlsim.environments.rendering.grid import draw_paths

        draw_paths(tables.obstacles[int(state.which_map)], state.positions, state.goals, axes)

    return Environment(
        name=where,
        num_agents=num_agents,
        observation_space=box((3, view, view), 0.0, 1.0),
        action_space=discrete(grid.NUM_MOVES),
        reset=reset,
        step=step,
        action_mask=action_mask,
        max_steps=max_steps,
        render=render,
        metrics=metrics,
        source=SOURCE,
    )


def metrics(state: PathfindingState) -> Info:
    """Throughput (goals reached a step so far), goals reached and step."""
    total = jnp.sum(state.num_reached)
    return {"throughput": total / jnp.maximum(state.round, 1), "num_reached": total, "round": state.round}


def observe(state: PathfindingState, obstacles: Array, view: int) -> Array:
    """Obstacles, other agents and the direction of the goal, int8 `[A, 3, view, view]` of 0 and 1."""
    num, half = state.positions.shape[0], view // 2
    shape = (obstacles.shape[0] + 2 * half, obstacles.shape[1] + 2 * half)
    taken = jnp.zeros(shape[0] * shape[1], jnp.int8).at[grid.flat(state.positions + half, shape)].set(1)
    walls = grid.pad(obstacles.astype(jnp.int8), half, 1)
    # The plane of goals comes along empty: one cut a window makes the whole block, of which two cells are written after.
    planes = jnp.stack([walls, taken.reshape(shape), jnp.zeros(shape, jnp.int8)])

    def cut(corner: Array) -> Array:
        return jax.lax.dynamic_slice(planes, (0, corner[0], corner[1]), (3, view, view))

    agents = jnp.arange(num)
    aim = jnp.clip(state.goals - state.positions, -half, half) + half
    seen = jax.vmap(cut)(state.positions).at[agents, 1, half, half].set(0)
    return seen.at[agents, 2, aim[:, 0], aim[:, 1]].set(1)


def next_goals(maps_: Maps, which: Any, seed: Array, ids: Array, number: Array, positions: Array) -> Array:
    """Goal `number` `[A]` of each agent, given where it is: uniform among the goals of its component but its own cell."""
    first, count, rank = jnp.moveaxis(maps_.of_cell[which, positions[:, 0], positions[:, 1]], -1, 0)
    key = jax.random.fold_in(jax.random.key(0), seed)
    # A goal cell is not drawn for who stands on it: the draw is among the others, in their order.
    others = count - (rank < count)
    # The generator wants its counters batched alike: the ids follow the numbers into a `vmap`.
    drawn = jnp.floor(keys.edge_uniform(key, ids + 0 * number, number) * others).astype(jnp.int32)
    drawn = jnp.minimum(drawn, others - 1)
    return grid.unflat(maps_.goals[which, first + drawn + (drawn >= rank)], maps_.obstacles.shape[2])


def map_tables(obstacles: Any, starts: Any = None, goals: Any = None) -> Maps:
    """The tables of one map `[H, W]` or several `[K, H, W]`; components and goals are found on the host."""
    where = "pathfinding"
    if not checks.is_concrete(obstacles):
        checks.fail(where, "obstacles", "a known array", "a tracer", "Pass several maps [K, H, W] instead.")
    stack = np.asarray(obstacles)
    if stack.ndim not in (2, 3) or stack.dtype != bool:
        checks.fail(where, "obstacles", "bool [H, W] or [K, H, W]", f"{stack.dtype} {list(stack.shape)}")
    stack = stack[None] if stack.ndim == 2 else stack
    free_goals = ~stack & _mask(where, "goals", goals, stack)
    tables = [_tables_of(one, mask) for one, mask in zip(stack, free_goals, strict=True)]
    of_cell = np.stack([table[1] for table in tables])
    longest = max(len(table[0]) for table in tables)
    cells = np.stack([np.pad(table[0], (0, longest - len(table[0]))) for table in tables])
    enough = ~stack & (of_cell[..., 1] >= 2)
    if starts is not None:
        wanted = _mask(where, "starts", starts, stack) & ~stack
        if (wanted & ~enough).any():
            cell = tuple(int(x) for x in np.argwhere(wanted & ~enough)[0][1:])
            checks.fail(where, "starts", "cells from which two goals or more can be reached", f"{cell} among them")
        enough = wanted
    if not enough.any(axis=(1, 2)).all():
        checks.fail(where, "obstacles", "a map with cells from which two goals can be reached", "none")
    if goals is not None:
        _check_reached(where, free_goals, enough, of_cell[..., 0])
    return Maps(stack, enough, cells.astype(np.int32), of_cell)


def _check_reached(where: str, goals: np.ndarray, starts: np.ndarray, first: np.ndarray) -> None:
    """Every goal that was asked for is in the component of a cell to begin on; `first` tells components with goals apart."""
    for wanted, begins, begin in zip(goals, starts, first, strict=True):
        lost = wanted & ~np.isin(begin, begin[begins])
        if lost.any():
            cell = tuple(int(x) for x in np.argwhere(lost)[0])
            fix = "Open a way, or leave it out."
            checks.fail(where, "goals", "cells that can be reached from where agents begin", f"{cell} among them", fix)


def _mask(where: str, name: str, value: Any, stack: np.ndarray) -> np.ndarray:
    """A mask given for the maps, or everything."""
    if value is None:
        return np.ones(stack.shape, bool)
    mask = np.asarray(value)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape != stack.shape or mask.dtype != bool:
        checks.fail(
            where, name, f"bool of the shape of obstacles, {list(stack.shape)}", f"{mask.dtype} {list(mask.shape)}"
        )
    return mask


def _tables_of(obstacles: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one map: goal cells sorted by component, and the three numbers of every cell."""
    labels = maps.components(obstacles).reshape(-1)
    cells = np.flatnonzero(goals.reshape(-1))
    cells = cells[np.argsort(labels[cells], kind="stable")]
    counts = np.bincount(labels[cells], minlength=max(int(labels.max()) + 1, 1))
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    count = np.where(labels >= 0, counts[labels], 0)
    first = np.where(labels >= 0, begins[labels], 0)
    rank = count.copy()
    rank[cells] = np.arange(len(cells)) - begins[labels[cells]]
    of_cell = np.stack([first, count, rank], axis=-1).astype(np.int32)
    return cells, of_cell.reshape(*obstacles.shape, 3)


def parse_pogema(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Obstacles, starts and goals, bool `[H, W]` each, of a map in letters.

    `.` free, to begin on and as a goal; `#` obstacle; `@` free, to begin on only; `$` free, as a goal only; `!` free only.
    """
    rows = [line for line in text.splitlines() if line.strip()]
    where = "parse_pogema"
    if not rows:
        checks.fail(where, "text", "rows of cells", "nothing")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            checks.fail(where, f"row {number}", f"{len(rows[0])} cells wide, as the first", len(row))
        unknown = set(row) - set(".#@$!")
        if unknown:
            checks.fail(where, f"row {number}", "of the letters . # @ $ !", repr(min(unknown)))
    cells = np.asarray([list(row) for row in rows])
    return cells == "#", np.isin(cells, list(".@")), np.isin(cells, list(".$"))
