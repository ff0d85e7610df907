"""The riddle of the prisoners and the bulb."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info
from dlsim.environments.environment import Environment, box, check_actions, discrete

NOTHING, SWITCH, TELL = range(3)


class RiddleState(NamedTuple):
    """What happened so far."""

    bulb: Array  # bool [] on or off
    in_room: Array  # int32 [] the agent in the room now
    has_been: Array  # bool [A] who was in the room in a step that is over
    has_told: Array  # bool [] somebody told, and the game is over
    step: Array  # int32 []


def switch_riddle(
    num_agents: int = 3, reward_alive: float = 1.0, reward_dead: float = -1.0, bulb: bool = False
) -> Environment:
    """In every step one agent, drawn uniformly, is in a room with a bulb, which is the only way to talk to the others.

    Actions, of which only that of the agent in the room counts: 0 nothing, 1 switch the bulb, 2 tell that everybody has
    been in the room.  Telling ends the game: all get `reward_alive` if it is so, and else `reward_dead`.  Otherwise it
    ends after 4 A - 6 steps.  Sees: whether it is in the room, and if so the bulb.

    Args:
        num_agents: agents A, 3 or more.
        reward_alive, reward_dead: of all agents; may be traced.
        bulb: whether it is on at the start.

    Source: Foerster, Assael, de Freitas, Whiteson, Learning to Communicate with Deep Multi-Agent Reinforcement Learning,
    NeurIPS 2016, with the rules of Rutherford et al., JaxMARL, NeurIPS 2024.
    """
    where = "switch_riddle"
    checks.integer(where, "num_agents", num_agents, 3, limit=2**29)
    checks.number(where, "reward_alive", reward_alive)
    checks.number(where, "reward_dead", reward_dead)
    checks.flag(where, "bulb", bulb)
    max_steps = 4 * num_agents - 6

    def observe(state: RiddleState) -> Array:
        here = jnp.arange(num_agents) == state.in_room
        return jnp.stack([here, here & state.bulb], axis=1).astype(jnp.float32)

    def visitor(key: Array) -> Array:
        return jax.random.randint(key, (), 0, num_agents, jnp.int32)

    def reset(key: Array) -> tuple[RiddleState, Array]:
        state = RiddleState(
            bulb=jnp.asarray(bulb, bool),
            in_room=visitor(key),
            has_been=jnp.zeros(num_agents, bool),
            has_told=jnp.asarray(False),
            step=jnp.int32(0),
        )
        return state, observe(state)

    def step(key: Array, state: RiddleState, actions: Array) -> tuple[RiddleState, Array, Array, Array, Info]:
        action = check_actions(where, actions, 3, num_agents)[state.in_room]
        ended = state.has_told | (state.step >= max_steps)
        has_been = state.has_been | (jnp.arange(num_agents) == state.in_room)
        after = RiddleState(
            bulb=state.bulb ^ (action == SWITCH),
            in_room=visitor(key),
            has_been=has_been,
            has_told=action == TELL,
            step=state.step + 1,
        )
        after = jax.tree.map(lambda old, new: jnp.where(ended, old, new), state, after)
        told = jnp.where(jnp.all(has_been), reward_alive, reward_dead)
        reward = jnp.where(after.has_told & ~ended, told, 0.0)
        over = after.has_told | (after.step >= max_steps)
        info = {"is_over": over, "is_truncated": over & ~after.has_told}
        return after, observe(after), jnp.full(num_agents, reward), jnp.full(num_agents, over), info

    def render(state: RiddleState, axes: Any) -> None:
        colours = ["tab:green" if been else "0.7" for been in np.asarray(state.has_been)]
        axes.scatter(np.arange(num_agents), np.zeros(num_agents), c=colours, s=200)
        lit = "gold" if bool(state.bulb) else "0.2"
        axes.scatter([int(state.in_room)], [0.5], c=lit, s=300, marker="*")
        axes.set_xlim(-1, num_agents)
        axes.set_ylim(-1, 1)
        axes.set_axis_off()

    return Environment(
        name=where,
        num_agents=num_agents,
        observation_space=box((2,), 0.0, 1.0),
        action_space=discrete(3),
        reset=reset,
        step=step,
        max_steps=max_steps,
        render=render,
        metrics=lambda state: {"num_visitors": jnp.sum(state.has_been), "has_told": state.has_told},
        source="Foerster et al., NeurIPS 2016",
    )
