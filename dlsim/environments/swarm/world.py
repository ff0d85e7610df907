"""Swarm tasks on a small grid: what the five have in common (state, views, messages, one round).

Agents see a window of k x k cells, know where they are, may say something to those in their window, and push each other.
A round: what was said is heard; all decide on the same state; pushes (`swarm.physics`); the task's own update; who is off
the map is out.

Source: Ruan, Huang, Wen, Sun, Benchmarking LLMs' Swarm Intelligence (SwarmBench), 2025, and its public code (rules only).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, Info
from dlsim.environments import grid
from dlsim.environments.environment import Environment, box, check_actions, check_size, discrete
from dlsim.environments.swarm import physics
from dlsim.environments.swarm.metrics import group_metrics

FREE, WALL, NEST, FOOD = 0, 1, 2, 3  # of `terrain`
# What a view shows: 0 nothing, else one of these.
OFF_MAP, SEEN_WALL, SEEN_BOX, SEEN_PREY, SEEN_NEST, SEEN_FOOD, AGENT, AGENT_DARK = range(1, 9)
NUM_SYMBOLS = 8
NUM_FEATURES = 6
SWITCH = 5
SOURCE = "Ruan et al., Benchmarking LLMs' Swarm Intelligence, 2025"


class SwarmState(NamedTuple):
    """One world.  What a task does not use stays as it was."""

    positions: Array  # int32 [A, 2] row, column; off the map for who has left
    inside: Array  # bool [A]
    terrain: Array  # int8 [H, W]
    flags: Array  # bool [A] light on, or carrying food; True in tasks that have neither
    prey: Array  # int32 [2]
    prey_is_static: Array  # bool []
    box_position: Array  # int32 [2]
    box_mask: Array  # bool [5, 5]
    score: Array  # float32 []
    distance: Array  # int32 [2] at the start and now, [3] with the tolerance of inexact ones (flocking)
    last_count: Array  # int32 [] lights on when they last agreed, -1 for never (synchronization)
    visited: Array  # bool [H, W] cells on which an agent has been
    round: Array  # int32 []


class Task(NamedTuple):
    """What makes one of the five: placement, the update after the pushes, when it is done, what to reward."""

    name: str
    start: Callable[[Array], SwarmState]
    update: Callable[[Array, SwarmState, SwarmState, Array], SwarmState]  # (key, before, after the pushes, actions)
    shaped: Callable[[SwarmState, SwarmState], Array]  # (before, after) -> float32 [A]
    is_done: Callable[[SwarmState], Array] = lambda state: jnp.asarray(False)
    has_prey: bool = False
    has_box: bool = False
    num_actions: int = grid.NUM_MOVES
    feature: int | None = None  # where an agent's own flag, or the score, stands among the features


def walled(height: int, width: int) -> Array:
    """An empty room with a wall around it, int8 `[H, W]`."""
    return jnp.full((height, width), WALL, jnp.int8).at[1:-1, 1:-1].set(FREE)


def new_state(terrain: Array, positions: Array, **fields: Any) -> SwarmState:
    """A world in which nothing has happened yet; `fields` are what the task has beside agents and walls."""
    num = positions.shape[0]
    everyone = jnp.ones(num, bool)
    shape = (terrain.shape[0], terrain.shape[1])
    state = SwarmState(
        positions=positions,
        inside=everyone,
        terrain=terrain,
        flags=everyone,
        prey=jnp.full(2, -1, jnp.int32),
        prey_is_static=jnp.asarray(False),
        box_position=jnp.full(2, -1, jnp.int32),
        box_mask=jnp.zeros((5, 5), bool),
        score=jnp.zeros(()),
        distance=jnp.zeros(2, jnp.int32),
        last_count=jnp.asarray(-1, jnp.int32),
        visited=grid.index_plane(positions, shape) >= 0,
        round=jnp.zeros((), jnp.int32),
    )
    return state._replace(**fields)


def shape_of(state: SwarmState) -> tuple[int, int]:
    """(H, W)."""
    return state.terrain.shape[0], state.terrain.shape[1]


def symbols(state: SwarmState, has_prey: bool, has_box: bool) -> Array:
    """What stands on each cell, int8 `[H, W]`: 0 or one of the symbols."""
    shape = shape_of(state)
    plane = jnp.zeros(shape, jnp.int8)
    for terrain, symbol in ((WALL, SEEN_WALL), (NEST, SEEN_NEST), (FOOD, SEEN_FOOD)):
        plane = jnp.where(state.terrain == terrain, jnp.int8(symbol), plane)
    if has_box:
        boxed = physics.inner(physics.box_plane(_box(state), shape))
        plane = jnp.where(boxed, SEEN_BOX, plane).astype(jnp.int8)
    plane = plane.reshape(-1)
    if has_prey:
        plane = plane.at[grid.flat(state.prey, shape)].set(SEEN_PREY, mode="drop")
    cells = grid.flat(state.positions, shape, state.inside)
    plane = plane.at[cells].set(jnp.where(state.flags, AGENT, AGENT_DARK).astype(jnp.int8), mode="drop")
    return plane.reshape(shape)


def occupied(state: SwarmState, has_prey: bool = False) -> Array:
    """Cells on which something stands, bool `[H, W]` (the box is not looked for)."""
    return symbols(state, has_prey, has_box=False) > 0


def _with_cells(visited: Array, cells: Array) -> Array:
    return visited.reshape(-1).at[cells].set(True, mode="drop").reshape(visited.shape)


def _box(state: SwarmState) -> physics.Box:
    return physics.Box(state.box_position, state.box_mask)


def observe(task: Task, state: SwarmState, view: int, max_rounds: int) -> Array:
    """What the agents see, float32 `[A, view^2 * 8 + 6]`; zeros for who has left.

    The window as one plane of 0 and 1 a symbol (off the map, wall, box, prey, nest, food, agent, agent whose light is off
    or who carries nothing), one's own cell empty; then row and column and round as fractions, light, carrying, score.
    """
    num = state.positions.shape[0]
    plane = symbols(state, task.has_prey, task.has_box)
    seen = grid.windows(plane, state.positions, view, OFF_MAP).reshape(num, view * view)
    seen = seen.at[:, view * view // 2].set(0)
    seen = jnp.where(state.inside[:, None], seen, 0)
    planes = (seen[:, :, None] == jnp.arange(1, NUM_SYMBOLS + 1, dtype=jnp.int8)).astype(jnp.float32)
    place = state.positions / jnp.asarray([plane.shape[0] - 1, plane.shape[1] - 1], jnp.float32)
    features = jnp.zeros((num, NUM_FEATURES)).at[:, :2].set(place).at[:, 2].set(state.round / max_rounds)
    if task.feature is not None:
        own = state.score if task.has_prey else state.flags.astype(jnp.float32)
        features = features.at[:, task.feature].set(own)
    features = jnp.where(state.inside[:, None], features, 0)
    return jnp.concatenate([planes.reshape(num, -1), features], axis=1)


def contact(state: SwarmState, view: int) -> Array:
    """Who hears whom, bool `[A, A]`: agents on the map within a Chebyshev distance of view // 2, nobody itself."""
    apart = jnp.max(jnp.abs(state.positions[:, None] - state.positions), axis=2)
    near = (apart <= view // 2) & state.inside[:, None] & state.inside
    return near & ~jnp.eye(state.positions.shape[0], dtype=bool)


def heard_from(state: SwarmState, view: int) -> Array:
    """Whom each agent hears, int32 `[A, view^2]`, -1 for nobody: `contact` in lists, for populations of thousands.

    With `grid.hear` it is the inbox of any message `[A, D]`.
    """
    seen = grid.visible(grid.index_plane(state.positions, shape_of(state), state.inside), state.positions, view)
    return jnp.where(state.inside[:, None], seen, -1)


def make(task: Task, num_agents: int, height: int, width: int, view: int, max_rounds: int, reward: str) -> Environment:
    """The environment of a task; `view`, `max_rounds` and `reward` as in the factories of the tasks."""
    where = task.name
    grid.check_view(where, view)
    check_size(where, num_agents=num_agents, features=view * view * NUM_SYMBOLS + NUM_FEATURES)
    checks.integer(where, "max_rounds", max_rounds, 1)
    checks.one_of(where, "reward", reward, ("score", "shaped"))

    def is_over(state: SwarmState) -> Array:
        return task.is_done(state) | (state.round >= max_rounds)

    def reset(key: Array) -> tuple[SwarmState, Array]:
        state = task.start(key)
        return state, observe(task, state, view, max_rounds)

    def step(key: Array, state: SwarmState, actions: Array) -> tuple[SwarmState, Array, Array, Array, Info]:
        actions = check_actions(where, actions, num_actions=task.num_actions, num_agents=num_agents)
        ended = is_over(state)
        actions = jnp.where(state.inside, actions, 0)
        pushed = _push(task, state, actions)
        after = task.update(key, state, pushed, actions)
        shape = shape_of(state)
        inside = state.inside & grid.is_inside(after.positions, shape)
        after = after._replace(
            inside=inside,
            visited=_with_cells(state.visited, grid.flat(after.positions, shape, inside)),
            round=state.round + 1,
        )
        gain = jnp.broadcast_to(after.score - state.score, (num_agents,)) if reward == "score" else None
        rewards = task.shaped(state, after) if gain is None else gain
        info = group_metrics(state, after, actions)
        after = jax.tree.map(lambda old, new: jnp.where(ended, old, new), state, after)
        over = is_over(after)
        info = {**info, "score": after.score, "is_over": over, "is_truncated": over & ~task.is_done(after)}
        rewards = jnp.where(state.inside & ~ended, rewards, 0.0)
        return after, observe(task, after, view, max_rounds), rewards, ~after.inside | over, info

    def action_mask(state: SwarmState) -> Array:
        return state.inside[:, None] | (jnp.arange(task.num_actions) == 0)

    def render(state: SwarmState, axes: Any) -> None:
        from dlsim.environments.rendering.grid import draw_symbols

        draw_symbols(symbols(state, task.has_prey, task.has_box), axes)

    return Environment(
        name=task.name,
        num_agents=num_agents,
        observation_space=box((view * view * NUM_SYMBOLS + NUM_FEATURES,)),
        action_space=discrete(task.num_actions),
        reset=reset,
        step=step,
        action_mask=action_mask,
        contact=lambda state: contact(state, view),
        max_steps=max_rounds,
        render=render,
        metrics=metrics,
        source=SOURCE,
    )


def _push(task: Task, state: SwarmState, actions: Array) -> SwarmState:
    """The state after the pushes of this round."""
    positions, present = state.positions, state.inside
    is_static = jnp.zeros(positions.shape[0], bool)
    if task.has_prey:
        positions = jnp.concatenate([positions, state.prey[None]])
        present = jnp.append(present, True)
        actions = jnp.append(actions, 0)
        is_static = jnp.append(is_static, state.prey_is_static)
    large = _box(state) if task.has_box else None
    positions, large = physics.push(positions, present, actions, is_static, state.terrain != FREE, large)
    if task.has_prey:
        state = state._replace(prey=positions[-1])
        positions = positions[:-1]
    if large is not None:
        state = state._replace(box_position=large.position)
    return state._replace(positions=positions)


def metrics(state: SwarmState) -> Info:
    """Score, round, agents on the map and cells visited so far."""
    return {
        "score": state.score,
        "round": state.round,
        "num_inside": jnp.sum(state.inside),
        "cells_visited": jnp.sum(state.visited),
    }


def check_sizes(where: str, height: int, width: int, smallest: int) -> None:
    """Sizes of a grid that has cells enough, and not more than can be numbered."""
    checks.integer(where, "height", height, smallest)
    checks.integer(where, "width", width, smallest)
    check_size(where, height=height, width=width)


def check_room(where: str, num_agents: int, free: int) -> None:
    """The agents fit: `free` is the least number of cells that the task leaves for them."""
    checks.integer(where, "num_agents", num_agents, 1)
    if num_agents > free:
        checks.fail(where, "num_agents", f"at most {free}, the free cells", num_agents, "Use a larger grid.")
