"""The skirmish: a scripted team.

A unit goes on shooting whom it shot last while that one is in range, else it shoots the nearest (or any) opponent in
range; with nobody in range it walks along the axis closest to the direction of a random opponent that it sees, or, if it
sees none, of its own place at the start turned half round the centre of the map.
"""

from __future__ import annotations

import jax.numpy as jnp

from dlsim.core import Array
from dlsim.environments.geometry import length
from dlsim.environments.skirmish.rules import DIRECTIONS, NUM_MOVES, RANGE, SIGHT, Rules, SkirmishState, kinds, look_up


def pick(uniform: Array, allowed: Array) -> Array:
    """One of the allowed `[n, M]` a row, all as likely, by uniform numbers `[n]` in [0, 1); int32 `[n]`."""
    rank = jnp.cumsum(allowed, axis=1)
    return jnp.argmax(rank >= (1.0 - uniform[:, None]) * rank[:, -1:], axis=1)


def scripted_actions(
    rules: Rules, state: SkirmishState, uniforms: Array, shoots: bool = True, attack: str = "nearest"
) -> tuple[Array, Array]:
    """Actions of the enemies and whom they aim at now, int32 `[E]` each.

    Args:
        rules, state: of the battle.
        uniforms: `[2, E]` in [0, 1): for a random opponent to shoot, and one to follow.
        shoots: whether they ever attack.
        attack: `nearest` or `random` opponent in range.
    """
    n = rules.num_allies
    types = kinds(rules, state)[n:]
    own, alive = state.positions[n:], state.alive
    opponents = state.positions[:n][::-1]  # enemies count from the middle outwards
    away = opponents[None] - own[:, None]
    distance = length(away)
    both_live = alive[:n][::-1] & alive[n:, None]
    seen = both_live & (distance < look_up(SIGHT, types)[:, None])
    in_range = seen & (distance < look_up(RANGE, types)[:, None])
    number = jnp.arange(n)
    keeps = jnp.any(in_range & (number == state.aims[:, None]), axis=1)
    if attack == "random":
        fresh = pick(uniforms[0], in_range)
    else:
        fresh = jnp.argmin(jnp.where(in_range, distance, jnp.inf), axis=1)
    aim = jnp.where(keeps, state.aims, fresh).astype(jnp.int32)
    can_shoot = jnp.any(in_range, axis=1)
    followed = pick(uniforms[1], seen)[:, None] == number
    to_followed = jnp.sum(jnp.where(followed[..., None], away, 0.0), axis=1)
    heading = jnp.where(jnp.any(seen, axis=1, keepdims=True), to_followed, state.camps - own)
    scores = jnp.sum(heading[:, None] * DIRECTIONS, axis=2)
    move = jnp.argmax(scores, axis=1).astype(jnp.int32)
    actions = jnp.where(can_shoot, NUM_MOVES + aim, move) if shoots else move
    return actions, jnp.where(can_shoot, aim, -1)
