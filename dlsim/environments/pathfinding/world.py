"""Lifelong pathfinding: agents on a grid of obstacles walk to a goal, get another, and walk on.

Source: the rules of POGEMA (Skrynnik, Andreychuk, Borzilov, Chernyavskiy, Yakovlev, Panov, POGEMA: A Benchmark Platform for
Cooperative Multi-Agent Pathfinding, ICLR 2025), as used by Skrynnik et al., Learn to Follow, AAAI 2024.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments import grid
from dlsim.environments.environment import Environment, box, check_actions, check_size, discrete
from dlsim.environments.pathfinding.tables import Maps, count_agents, map_tables

SOURCE = "Skrynnik et al., POGEMA, ICLR 2025"


class PathfindingState(NamedTuple):
    """Where everybody is, and wants to be."""

    positions: Array  # int32 [A, 2] row, column
    goals: Array  # int32 [A, 2]
    num_reached: Array  # int32 [A] goals reached so far
    which_map: Array  # int32 [] of the maps that were given
    goal_seed: Array  # uint32 [] goal k of agent i depends on this seed, i, k and where i is, on no other agent
    round: Array  # int32 []


def pathfinding(
    obstacles: Any,
    num_agents: int | None = None,
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
        num_agents: agents A; None: as many as `starts` or `goals` name.
        view: cells of a window's side, 2 R + 1.
        max_steps: steps of an episode T.
        rule: who moves when several want a cell: `soft`, `priority` or `block_both`.
        starts: where agents begin.  Bool, as `obstacles`: cells of which each agent draws one; by default all from which at
            least two goals can be reached.  Integers `[A, 2]`: row and column of each agent.  Integers `[E, A, 2]`: E
            kinds of episode, of which each reset draws one.
        goals: where they go.  Bool: cells that may be goals; by default all that are free.  Integers `[A, 2]` or `[E, A,
            2]`: the first goal of each agent, whose later ones are drawn from all free cells.  Places in `starts` and
            `goals` of one number E, or of K maps, belong together.  Obstacles among cells (bool) do not count.

    Returns:
        Environment with observations int8 `[A, 3, view, view]`, 0 or 1; `metrics` holds the `throughput`, goals a step.
    """
    where = "pathfinding"
    grid.check_view(where, view)
    checks.integer(where, "max_steps", max_steps, 1)
    checks.one_of(where, "rule", rule, grid.RULES)
    tables, places = map_tables(where, obstacles, starts, goals)
    num_agents = count_agents(where, num_agents, tables, places)
    check_size(where, num_agents=num_agents, window=3 * view * view)
    on_device = jax.tree.map(jnp.asarray, tables)
    ids = jnp.arange(num_agents, dtype=jnp.int32)
    num_maps = tables.obstacles.shape[0]
    num_kinds = max(num_maps, *(1 if given is None else given.shape[0] for given in places))

    def map_of(state: PathfindingState) -> Any:
        # Of one map alone, copies side by side share it, and all that is made of it but once.
        return state.which_map if num_maps > 1 else 0

    def obstacles_of(state: PathfindingState) -> Array:
        return on_device.obstacles[map_of(state)]

    def reset(key: Array) -> tuple[PathfindingState, Array]:
        kind = jax.random.randint(keys.stream(key, "map"), (), 0, num_kinds, dtype=jnp.int32)
        which = kind if num_maps > 1 else jnp.int32(0)
        seed = jax.random.bits(keys.stream(key, "goals"), (), jnp.uint32)
        none = jnp.zeros(num_agents, jnp.int32)
        if places.starts is None:
            positions = grid.place(keys.stream(key, "place"), on_device.starts[which], num_agents)
        else:
            positions = jnp.asarray(places.starts)[kind % len(places.starts)]
        if places.goals is None:
            goals = next_goals(on_device, which, seed, ids, none, positions)
        else:
            goals = jnp.asarray(places.goals)[kind % len(places.goals)]
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
        observation_space=box((3, view, view), 0.0, 1.0)._replace(dtype="int8"),
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
