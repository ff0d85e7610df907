"""The script for the transport task: find out which plug it is, stack up behind it, push it aside and out, and leave."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.environment import check_size
from dlsim.environments.policies import Policy
from dlsim.environments.swarm.sight import SOURCE, UNSEEN, check_sizes, is_agent, look, walk
from dlsim.environments.swarm.transport import NUM_PLUGS, NUM_STAGES, plug_ways
from dlsim.networks.network import Inbox


class Crew(NamedTuple):
    possible: Array  # bool [A, 8] plugs that nothing speaks against
    favorite: Array  # int32 [A] the first of them to look for; -1 before one is drawn
    stage: Array  # int32 [A] of the box, as last seen or heard
    time: Array  # float32 [A] when


def script_transport(messages: bool = True, *, height: int = 10, width: int = 10, view: int = 5) -> Policy:
    """Movers who know the eight plugs and their way out.

    A plug is possible until something was seen that is on its map in none of its stages.  A mover takes the first
    possible one, counted from a number of its own, and the stage that agrees with its window, the last it knew if that
    does.  It walks to the nearest cell behind the box from which it can push: next to it, or behind another agent that
    is; there it pushes.  Once the box is gone it leaves through the gap.  A message is (possible or not, of eight plugs;
    stage; time at which the sender saw it); what others have ruled out is ruled out, the newest stage holds.
    """
    check_sizes("script_transport", view, (height, width))
    for name, size in (("height", height), ("width", width)):
        checks.integer("script_transport", name, size, 8)
    check_size("script_transport", plugs=NUM_PLUGS, stages=NUM_STAGES, height=height, width=width)
    checks.flag("script_transport", "messages", messages)
    shape = (height, width)
    ways = plug_ways(height, width)

    def act(key: Array, memory: Crew, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del allowed
        sight = look(observations, view, shape)
        plane = sight.on_map(shape)
        memory, plug = _think(key, ways.symbols, memory, plane, sight.time, heard)
        taken = is_agent(plane)
        depths = jnp.asarray(ways.depths)[plug, memory.stage]
        push = jnp.asarray(ways.actions)[plug, memory.stage]
        # The cell ahead of each in the direction of the push: whether somebody, or oneself, stands there.
        filled = taken | _cells_of(sight.positions, shape)
        ahead = jnp.stack(
            [filled, *(jnp.roll(filled, shift, axis) for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)))]
        )
        ahead = ahead[push, jnp.arange(plug.shape[0])]
        slots = (depths == 1) | ((depths > 1) & ahead)
        here = _cells_of(sight.positions, shape)
        pushes = jnp.any(slots & here, axis=(1, 2))
        free = jnp.asarray(ways.symbols)[plug, memory.stage] == 0
        steps = grid.steps_to(slots & ~taken & ~here, free & ~taken)
        actions = walk(keys.stream(key, "walk"), steps, sight.positions, taken)
        said = None
        if messages:
            rest = jnp.stack([memory.stage.astype(jnp.float32), memory.time], axis=1)
            said = jnp.concatenate([memory.possible.astype(jnp.float32), rest], axis=1)
        return memory, jnp.where(pushes, push, actions), said

    def init(num: int) -> Crew:
        nothing = jnp.full(num, -1, jnp.int32)
        return Crew(jnp.ones((num, NUM_PLUGS), bool), nothing, jnp.zeros(num, jnp.int32), jnp.full(num, -1.0))

    return Policy(act, init, NUM_PLUGS + 2 if messages else 0, SOURCE)


def _think(
    key: Array, maps: np.ndarray, memory: Crew, plane: Array, time: Array, heard: Inbox | None
) -> tuple[Crew, Array]:
    """What is known now, and the plug that is taken for the one, int32 `[A]`."""
    num = plane.shape[0]
    possible, stage, when = memory.possible, memory.stage, memory.time
    if heard is not None:
        values, mask = heard.values, heard.mask
        possible &= ~jnp.any(mask[..., None] & (values[..., :NUM_PLUGS] < 0.5), axis=1)
        times = jnp.where(mask, values[..., NUM_PLUGS + 1], -1.0)
        newest = jnp.argmax(times, axis=1)[:, None]
        newer = jnp.max(times, axis=1) > when
        said = jnp.round(jnp.take_along_axis(values[..., NUM_PLUGS], newest, 1)[:, 0]).astype(jnp.int32)
        stage = jnp.where(newer, jnp.clip(said, 0, NUM_STAGES - 1), stage)
        when = jnp.where(newer, jnp.max(times, axis=1), when)
    matches = _agrees(maps, plane)
    possible &= jnp.any(matches, axis=2)
    possible |= ~jnp.any(possible, axis=1, keepdims=True)  # something odd was heard or seen: begin anew
    draws = keys.node_uniform(keys.stream(key, "favorite"), jnp.arange(num), 1)[:, 0]
    drawn = jnp.floor(draws * NUM_PLUGS).astype(jnp.int32)
    favorite = jnp.where(memory.favorite < 0, drawn, memory.favorite)
    order = (jnp.arange(NUM_PLUGS) - favorite[:, None]) % NUM_PLUGS
    plug = jnp.argmin(jnp.where(possible, order, NUM_PLUGS), axis=1)
    row = jnp.arange(num)
    mine = matches[row, plug]  # [A, 6]
    later = jnp.where(mine, (jnp.arange(NUM_STAGES) - stage[:, None]) % NUM_STAGES, NUM_STAGES)
    stage = jnp.where(jnp.any(mine, axis=1), jnp.argmin(later, axis=1), stage)
    tells = jnp.any(mine, axis=1) & ~jnp.all(mine, axis=1)
    when = jnp.where(tells, time, when)
    return Crew(possible, favorite, stage.astype(jnp.int32), when), plug


def _agrees(maps: np.ndarray, plane: Array) -> Array:
    """Whether what is seen is that of each plug and stage, bool `[A, 8, 6]`."""
    known = (plane != UNSEEN) & ~is_agent(plane)
    own = jnp.asarray(maps).reshape(NUM_PLUGS * NUM_STAGES, -1)
    there, seen = known.reshape(plane.shape[0], 1, -1), plane.reshape(plane.shape[0], 1, -1)
    return ~jnp.any(there & (seen != own), axis=2).reshape(-1, NUM_PLUGS, NUM_STAGES)


def _cells_of(positions: Array, shape: tuple[int, int]) -> Array:
    """The cell of each, bool `[A, H, W]`."""
    place = positions @ jnp.asarray([shape[1], 1])
    return (jnp.arange(shape[0] * shape[1]) == place[:, None]).reshape(-1, *shape)
