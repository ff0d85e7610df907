"""Synchronization: agents with lights that are to be all on, then all off, and so on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.environment import Environment
from dlsim.environments.swarm import world
from dlsim.environments.swarm.world import SwarmState, Task


def synchronization(
    num_agents: int = 10,
    height: int = 10,
    width: int = 10,
    view: int = 5,
    max_rounds: int = 100,
    reward: str = "score",
) -> Environment:
    """Lights on and off in unison; a point whenever all are alike, and not as at the last point.

    Lights begin on or off with probability 1/2.  Action 5 (SWITCH) turns one's own.  The score grows by 1 in a round after
    which all lights are alike and their number (0 or A) is not that of the last point; the first agreement counts.
    Agents move and push meanwhile, and see the lights in their window.  The shaped reward is the gain in score.

    Args:
        num_agents: agents A.
        height, width: of the grid, its wall included.
        view: cells of the side of an agent's window k, odd.
        max_rounds: rounds of an episode.
        reward: what agents get: `score`, all of them the gain in score; `shaped`, as said above.
    """
    world.check_sizes("synchronization", height, width, 3)
    world.check_room("synchronization", num_agents, (height - 2) * (width - 2))

    def start(key: Array) -> SwarmState:
        terrain = world.walled(height, width)
        positions = grid.place(keys.stream(key, "place"), terrain == world.FREE, num_agents)
        lights = jax.random.bernoulli(keys.stream(key, "lights"), 0.5, (num_agents,))
        return world.new_state(terrain, positions, flags=lights)

    def update(key: Array, before: SwarmState, after: SwarmState, actions: Array) -> SwarmState:
        lights = before.flags ^ (actions == world.SWITCH)
        count = jnp.sum(lights, dtype=jnp.int32)
        scores = ((count == 0) | (count == num_agents)) & (count != before.last_count)
        return after._replace(
            flags=lights,
            score=before.score + scores,
            last_count=jnp.where(scores, count, before.last_count),
        )

    def shaped(before: SwarmState, after: SwarmState) -> Array:
        return jnp.broadcast_to(after.score - before.score, (num_agents,))

    task = Task(name="synchronization", start=start, update=update, shaped=shaped, num_actions=6, feature=3)
    return world.make(task, num_agents, height, width, view, max_rounds, reward)
