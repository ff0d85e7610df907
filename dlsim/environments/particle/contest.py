"""Particle tasks of two sides: tag, adversary, push, crypto, world-comm.  Adversaries are the first rows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dlsim.core import Array, Info
from dlsim.environments.environment import Environment
from dlsim.environments.geometry import length, offsets, others, touches
from dlsim.environments.particle.cooperation import NO_LIMIT, check_counts, rows
from dlsim.environments.particle.world import ParticleState, Task, make, world_of

PUSH_COLOURS = np.array([0.1, 0.9, 0.1, 0.1, 0.1, 0.9], np.float32)  # of the two landmarks


def names_of(num_adversaries: int, num_good: int) -> tuple[str, ...]:
    """`adversary_0`, ..., `agent_0`, ..."""
    return tuple(f"adversary_{i}" for i in range(num_adversaries)) + tuple(f"agent_{i}" for i in range(num_good))


def padded(*groups: Array) -> Array:
    """Observations of groups `[a, o]` below each other, with zeros behind the shorter ones."""
    width = max(group.shape[1] for group in groups)
    return jnp.concatenate([jnp.pad(group, ((0, 0), (0, width - group.shape[1]))) for group in groups])


def leaving(positions: Array) -> Array:
    """What it costs to leave the field: over c = |x|, |y|, 0 below 0.9, 10 (c - 0.9) below 1, else min(exp(2c - 2), 10)."""
    far = jnp.abs(positions)
    beyond = jnp.where(far < 1.0, (far - 0.9) * 10, jnp.minimum(jnp.exp(2 * far - 2), 10.0))
    return jnp.sum(jnp.where(far < 0.9, 0.0, beyond), axis=-1)


def tag(
    num_good: int = 1, num_adversaries: int = 3, num_obstacles: int = 2, max_steps: int = 26, continuous: bool = False
) -> Environment:
    """Adversaries hunt faster prey among obstacles.

    Reward: each adversary +10 for every (prey, adversary) that touch; prey -10 for each adversary it touches and minus
    `leaving`.  Sees: velocity, position, offsets of obstacles and of other agents; adversaries also the velocity of the
    last prey (for `num_good` = 1: the prey).

    Args:
        num_good, num_adversaries, num_obstacles: how many.
        max_steps, continuous: as in `particle.world.make`.

    Differs: with several prey JaxMARL reads the contacts of a prey at the row of the agent, out of range, so that it gets
    the last prey's; here each gets its own.
    """
    check_counts("tag", num_good=num_good, num_adversaries=num_adversaries, num_obstacles=num_obstacles)
    world = world_of(
        [(num_adversaries, 0.075, 3.0, 1.0), (num_good, 0.05, 4.0, 1.3)],
        [(num_obstacles, 0.2)],
        agents_collide=True,
        num_obstacles=num_obstacles,
    )
    n, num_agents = num_adversaries, world.num_agents

    def observe(state: ParticleState) -> Array:
        to_others = others(offsets(state.positions, state.positions))
        to_landmarks = offsets(state.positions, state.landmarks)
        seen = rows(state.velocities, state.positions, to_landmarks, to_others)
        prey = jnp.broadcast_to(state.velocities[-1], (n, 2))
        return padded(rows(seen[:n], prey), seen[n:])

    def contacts(state: ParticleState) -> Array:
        radii = world.radii
        return touches(state.positions[n:], radii[n:num_agents], state.positions[:n], radii[:n])

    def rewards(state: ParticleState) -> Array:
        caught = contacts(state)
        prey = -10.0 * jnp.sum(caught, axis=1) - leaving(state.positions[n:])
        return jnp.concatenate([jnp.full((n,), 10.0 * jnp.sum(caught)), prey])

    def metrics(state: ParticleState) -> Info:
        return {"num_contacts": jnp.sum(contacts(state))}

    names = names_of(num_adversaries, num_good)
    task = Task("tag", world, observe, rewards, agent_names=names, adversaries=n, metrics=metrics)
    return make(task, max_steps, continuous)


def adversary(
    num_good: int = 2, num_adversaries: int = 1, num_landmarks: int = 2, max_steps: int = 26, continuous: bool = False
) -> Environment:
    """Good agents know which landmark is the goal and are to hide it from adversaries, who do not; no contacts.

    Reward: good agents sum of the adversaries' distances to the goal - least distance of a good agent to it; adversaries
    minus their own distance to it.  Sees: (good agents) the goal's offset, landmarks' offsets, others' offsets.

    Args:
        num_good, num_adversaries, num_landmarks: how many.
        max_steps, continuous: as in `particle.world.make`.
    """
    check_counts("adversary", num_good=num_good, num_adversaries=num_adversaries, num_landmarks=num_landmarks)
    world = world_of([(num_adversaries + num_good, 0.15, 5.0, NO_LIMIT)], [(num_landmarks, 0.08)])
    n = num_adversaries

    def observe(state: ParticleState) -> Array:
        to_others = others(offsets(state.positions, state.positions))
        seen = rows(offsets(state.positions, state.landmarks), to_others)
        return padded(seen[:n], rows((state.landmarks[state.goals[0]] - state.positions)[n:], seen[n:]))

    def rewards(state: ParticleState) -> Array:
        gaps = length(state.positions - state.landmarks[state.goals[0]])
        good = jnp.sum(gaps[:n]) - jnp.min(gaps[n:])
        return jnp.concatenate([-gaps[:n], jnp.broadcast_to(good, (num_good,))])

    names = names_of(num_adversaries, num_good)
    task = Task("adversary", world, observe, rewards, num_goals=1, agent_names=names, adversaries=n)
    return make(task, max_steps, continuous)


def push(num_good: int = 1, num_adversaries: int = 1, max_steps: int = 26, continuous: bool = False) -> Environment:
    """Good agents know which of two landmarks is theirs; adversaries are to keep them from it by pushing.

    Reward: good agents minus their distance to the goal; adversaries least distance of a good agent - their own.  Sees:
    velocity, (good agents) the goal's offset and its colour (0.75 in place 1 + goal of three, 0.25 elsewhere), landmarks'
    offsets, (good agents) colours of the landmarks, others' offsets.

    Args:
        num_good, num_adversaries: how many.
        max_steps, continuous: as in `particle.world.make`.
    """
    check_counts("push", num_good=num_good, num_adversaries=num_adversaries)
    num_agents, n = num_adversaries + num_good, num_adversaries
    world = world_of([(num_agents, 0.05, 5.0, NO_LIMIT)], [(2, 0.2)], agents_collide=True)

    def observe(state: ParticleState) -> Array:
        to_landmarks = offsets(state.positions, state.landmarks)
        to_others = others(offsets(state.positions, state.positions))
        to_goal = state.landmarks[state.goals[0]] - state.positions
        colour = jnp.where(jnp.arange(3) == state.goals[0] + 1, 0.75, 0.25)
        colours = [jnp.broadcast_to(c, (num_good, c.shape[0])) for c in (colour, jnp.asarray(PUSH_COLOURS))]
        good = rows(state.velocities[n:], to_goal[n:], colours[0], to_landmarks[n:], colours[1], to_others[n:])
        return padded(rows(state.velocities[:n], to_landmarks[:n], to_others[:n]), good)

    def rewards(state: ParticleState) -> Array:
        gaps = length(state.positions - state.landmarks[state.goals[0]])
        return jnp.concatenate([jnp.min(gaps[n:]) - gaps[:n], -gaps[n:]])

    names = names_of(num_adversaries, num_good)
    task = Task("push", world, observe, rewards, num_goals=1, agent_names=names, adversaries=n)
    return make(task, max_steps, continuous)


def crypto(max_steps: int = 26, continuous: bool = False) -> Environment:
    """Alice tells Bob one of two words under a key that both have; Eve overhears and is to guess the word.

    Nobody moves; all say one of four symbols, a word is 255 in one place of four.  With e_i the squared distance between
    what agent i said and the word: Eve gets -e_Eve, Alice and Bob e_Eve - e_Bob; all 0 while every message is zero.
    Rows: Eve, Alice, Bob.  Sees: Eve what Alice said; Alice word and key; Bob the key and what Alice said.

    Args:
        max_steps, continuous: as in `particle.world.make`.
    """
    world = world_of(
        [(3, 0.05, 5.0, NO_LIMIT)],
        [(2, 0.05)],
        can_move=np.zeros(3, bool),
        can_speak=np.ones(3, bool),
        num_symbols=4,
    )

    def words(state: ParticleState) -> Array:
        return jnp.where(state.goals[:, None] == jnp.arange(4), 255.0, 0.0)  # the word, the key

    def observe(state: ParticleState) -> Array:
        word, key = words(state)
        said = state.messages[1]
        return jnp.stack(
            [
                jnp.concatenate([said, jnp.zeros(4)]),
                jnp.concatenate([word, key]),
                jnp.concatenate([key, said]),
            ]
        )

    def rewards(state: ParticleState) -> Array:
        error = jnp.sum(jnp.square(state.messages - words(state)[0]), axis=1)
        good = error[0] - error[2]
        return jnp.where(jnp.any(state.messages != 0), jnp.stack([-error[0], good, good]), 0.0)

    names = ("eve_0", "alice_0", "bob_0")
    task = Task("crypto", world, observe, rewards, num_goals=2, agent_names=names, adversaries=1)
    return make(task, max_steps, continuous)


def world_comm(
    num_good: int = 2,
    num_adversaries: int = 4,
    num_obstacles: int = 1,
    num_food: int = 2,
    num_forests: int = 2,
    max_steps: int = 26,
    continuous: bool = False,
) -> Environment:
    """Tag with food for the prey and forests that hide whoever is in them from all but the adversaries' leader, who speaks.

    Reward: adversaries 5 for each (prey, adversary) that touch - 0.1 * distance of the nearest prey; prey -5 for each
    adversary it touches - 2 `leaving` + 2 for each food it touches - 0.05 * distance of the nearest food.  An agent sees
    another if both are in one forest or both in none.  Sees: velocity, position, landmarks' offsets (obstacles, food,
    forests), others' offsets, then adversaries: velocities of the last two others, which forests it is in (1, else -1),
    what the leader said; prey: which forests it is in, velocity of the last other.

    Args:
        num_good, num_adversaries, num_obstacles, num_food, num_forests: how many; the leader is the first adversary.
        max_steps, continuous: as in `particle.world.make`.
    """
    check_counts(
        "world_comm",
        num_good=num_good,
        num_adversaries=num_adversaries,
        num_obstacles=num_obstacles,
        num_food=num_food,
        num_forests=num_forests,
    )
    n, num_agents = num_adversaries, num_adversaries + num_good
    world = world_of(
        [(n, 0.075, 3.0, 1.0), (num_good, 0.045, 4.0, 1.3)],
        [(num_obstacles, 0.2), (num_food, 0.03), (num_forests, 0.3)],
        agents_collide=True,
        num_obstacles=num_obstacles,
        can_speak=np.arange(num_agents) == 0,
        num_symbols=4,
    )
    radii, ground = world.radii[:num_agents], world.radii[num_agents:]
    food, forests = slice(num_obstacles, num_obstacles + num_food), slice(num_obstacles + num_food, None)
    num_last = min(2, num_agents - 1)

    def observe(state: ParticleState) -> Array:
        inside = touches(state.positions, radii, state.landmarks[forests], ground[forests])
        hidden = jnp.any(inside, axis=1)
        together = jnp.any(inside[:, None] & inside[None], axis=2) | (~hidden[:, None] & ~hidden[None])
        sees = (together | (np.arange(num_agents) == 0)[:, None])[..., None]
        to_others = others(jnp.where(sees, offsets(state.positions, state.positions), 0.0))
        speeds = others(jnp.where(sees, jnp.broadcast_to(state.velocities, (num_agents, num_agents, 2)), 0.0))
        seen = rows(state.velocities, state.positions, offsets(state.positions, state.landmarks), to_others)
        flags = jnp.where(inside, 1.0, -1.0)
        heard = jnp.broadcast_to(state.messages[0], (n, 4))
        hunters = rows(seen[:n], speeds[:n, -num_last:], flags[:n], heard)
        return padded(hunters, rows(seen[n:], flags[n:], speeds[n:, -1:]))

    def rewards(state: ParticleState) -> Array:
        hunters, prey = state.positions[:n], state.positions[n:]
        caught = touches(prey, radii[n:], hunters, radii[:n])
        eaten = touches(prey, radii[n:], state.landmarks[food], ground[food])
        hungry = jnp.min(length(offsets(prey, state.landmarks[food])), axis=1)
        of_prey = 2.0 * jnp.sum(eaten, axis=1) - 5.0 * jnp.sum(caught, axis=1) - 2 * leaving(prey) - 0.05 * hungry
        of_hunters = 5.0 * jnp.sum(caught) - 0.1 * jnp.min(length(offsets(hunters, prey)), axis=1)
        return jnp.concatenate([of_hunters, of_prey])

    names = ("leadadversary_0", *names_of(n - 1, num_good))
    task = Task("world_comm", world, observe, rewards, agent_names=names, adversaries=n)
    return make(task, max_steps, continuous)
