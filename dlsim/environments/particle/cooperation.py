"""Particle tasks in which agents share a purpose: simple, simple spread, speaker and listener, reference."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info
from dlsim.environments.environment import Environment
from dlsim.environments.geometry import length, offsets, others, touches
from dlsim.environments.particle.world import ParticleState, Task, make, world_of

NO_LIMIT = float("inf")


def rows(*parts: Array) -> Array:
    """Parts `[A, ...]` side by side, each flattened to `[A, *]`."""
    return jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)


def check_counts(where: str, **counts: int) -> None:
    """How many agents or landmarks of a kind there are: at least one each, and pairs that can be numbered."""
    for argument, value in counts.items():
        checks.integer(where, argument, value, 1)
    total, most = sum(counts.values()), math.isqrt(checks.LARGEST_INTEGER)
    if total > most:
        checks.fail(where, " + ".join(counts), f"at most {most}, of which all see all", total, "Use fewer.")


def simple(num_agents: int = 1, num_landmarks: int = 1, max_steps: int = 26, continuous: bool = False) -> Environment:
    """Agents are to be where the landmarks are; no contacts.

    Reward: minus the sum of squared distances to all landmarks.  Sees: velocity, offsets of the landmarks.

    Args:
        num_agents, num_landmarks: A and L.
        max_steps, continuous: as in `particle.world.make`.
    """
    check_counts("simple", num_agents=num_agents, num_landmarks=num_landmarks)
    world = world_of([(num_agents, 0.15, 5.0, NO_LIMIT)], [(num_landmarks, 0.2)])

    def observe(state: ParticleState) -> Array:
        return rows(state.velocities, offsets(state.positions, state.landmarks))

    def rewards(state: ParticleState) -> Array:
        return -jnp.sum(jnp.square(offsets(state.positions, state.landmarks)), axis=(1, 2))

    return make(Task("simple", world, observe, rewards), max_steps, continuous)


def simple_spread(
    num_agents: int = 3,
    num_landmarks: int = 3,
    local_ratio: float = 0.5,
    max_steps: int = 26,
    continuous: bool = False,
) -> Environment:
    """Agents are to cover all landmarks and keep off each other.

    Reward: local_ratio * -(agents that the agent touches) + (1 - local_ratio) * -(sum over landmarks of the distance of
    the nearest agent).  Sees: velocity, position, offsets of landmarks, offsets of others, and two zeros for each other
    agent, whose words there would be heard if any spoke.

    Args:
        num_agents, num_landmarks: A and L.
        local_ratio: weight of an agent's own contacts, in [0, 1]; may be traced.
        max_steps, continuous: as in `particle.world.make`.
    """
    check_counts("simple_spread", num_agents=num_agents, num_landmarks=num_landmarks)
    checks.probability("simple_spread", "local_ratio", local_ratio)
    world = world_of([(num_agents, 0.15, 5.0, NO_LIMIT)], [(num_landmarks, 0.05)], agents_collide=True)
    radii = world.radii[:num_agents]
    silence = np.zeros((num_agents, 2 * (num_agents - 1)), np.float32)

    def observe(state: ParticleState) -> Array:
        to_others = others(offsets(state.positions, state.positions))
        to_landmarks = offsets(state.positions, state.landmarks)
        return rows(state.velocities, state.positions, to_landmarks, to_others, jnp.asarray(silence))

    def contacts(state: ParticleState) -> Array:
        touching = touches(state.positions, radii, state.positions, radii) & ~np.eye(num_agents, dtype=bool)
        return jnp.sum(touching, axis=1)

    def gaps(state: ParticleState) -> Array:
        return jnp.min(length(offsets(state.positions, state.landmarks)), axis=0)

    def rewards(state: ParticleState) -> Array:
        return -local_ratio * contacts(state) - (1 - local_ratio) * jnp.sum(gaps(state))

    def metrics(state: ParticleState) -> Info:
        return {"gap": jnp.mean(gaps(state)), "num_contacts": jnp.sum(contacts(state)) // 2}

    task = Task("simple_spread", world, observe, rewards, metrics=metrics)
    return make(task, max_steps, continuous)


def speaker_listener(max_steps: int = 26, continuous: bool = False) -> Environment:
    """A speaker that cannot move knows the goal among three landmarks; a mute listener is to go there.

    Reward of both: minus the squared distance of the listener to the goal.  Actions: the speaker's three symbols, the
    listener's five moves.  Sees: the speaker the goal's colour (0.65 in its place, 0.15 elsewhere), the listener its
    velocity, the landmarks' offsets, and what the speaker said.

    Args:
        max_steps, continuous: as in `particle.world.make`.
    """
    world = world_of(
        [(2, 0.075, 5.0, NO_LIMIT)],
        [(3, 0.04)],
        can_move=np.array([False, True]),
        can_speak=np.array([True, False]),
        num_symbols=3,
    )

    def observe(state: ParticleState) -> Array:
        colour = jnp.where(jnp.arange(3) == state.goals[0], 0.65, 0.15)
        to_landmarks = (state.landmarks - state.positions[1]).reshape(-1)
        heard = jnp.concatenate([state.velocities[1], to_landmarks, state.messages[0]])
        return jnp.stack([jnp.concatenate([colour, jnp.zeros(heard.shape[0] - 3)]), heard])

    def rewards(state: ParticleState) -> Array:
        gap = jnp.sum(jnp.square(state.positions[1] - state.landmarks[state.goals[0]]))
        return jnp.broadcast_to(-gap, (2,))

    def metrics(state: ParticleState) -> Info:
        return {"gap": length(state.positions[1] - state.landmarks[state.goals[0]])}

    names = ("speaker_0", "listener_0")
    task = Task("speaker_listener", world, observe, rewards, num_goals=1, agent_names=names, metrics=metrics)
    return make(task, max_steps, continuous)


def reference(local_ratio: float = 0.5, max_steps: int = 26, continuous: bool = False) -> Environment:
    """Two agents that each know the other's goal among three landmarks tell it by ten symbols while they move.

    Reward: local_ratio * own + (1 - local_ratio) * the mean of both, where an agent's own is minus the distance of the
    other agent to the other's goal.  Actions: move + 5 * symbol.  Sees: velocity, landmarks' offsets, the colour of the
    other's goal (0.75 in its place, 0.25 elsewhere), what the other said.

    Args:
        local_ratio: weight of the own reward, in [0, 1]; may be traced.
        max_steps, continuous: as in `particle.world.make`.
    """
    checks.probability("reference", "local_ratio", local_ratio)
    speaking = np.ones(2, bool)
    world = world_of([(2, 0.15, 5.0, NO_LIMIT)], [(3, 0.2)], can_speak=speaking, num_symbols=10)

    def observe(state: ParticleState) -> Array:
        colours = jnp.where(state.goals[::-1, None] == jnp.arange(3), 0.75, 0.25)
        return rows(state.velocities, offsets(state.positions, state.landmarks), colours, state.messages[::-1])

    def rewards(state: ParticleState) -> Array:
        own = -length(state.positions - state.landmarks[state.goals])[::-1]
        return local_ratio * own + (1 - local_ratio) * jnp.mean(own)

    def metrics(state: ParticleState) -> Info:
        return {"gap": jnp.mean(length(state.positions - state.landmarks[state.goals]))}

    return make(Task("reference", world, observe, rewards, num_goals=2, metrics=metrics), max_steps, continuous)
