"""The skirmish: what happens in a step, what is paid for it, and what units see.

All units act at once in every tick.  A unit that attacks hits if its target is in range, both live and its weapon is
ready; it is then busy for its cooldown and a uniform share of -1 to 2 ticks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.core import Array
from dlsim.environments.geometry import length, others
from dlsim.environments.skirmish.rules import (
    ATTACK,
    COOLDOWN,
    DIRECTIONS,
    HEALTH,
    NUM_MOVES,
    RADIUS,
    RANGE,
    SIGHT,
    SPEED,
    STOP,
    Rules,
    SkirmishState,
    kinds,
    look_up,
)

CLOSE = 1e-6  # keeps two units in one place from dividing by zero
NUM_FEATURES = 13  # of another unit: health, offset, last move, last attack, cooldown, type
NUM_OWN = 10  # of the unit itself: health, place, cooldown, type


def num_actions(rules: Rules) -> np.ndarray:
    """How many actions each unit has, `[U]`."""
    of_team = [NUM_MOVES + rules.num_enemies, NUM_MOVES + rules.num_allies]
    return np.repeat(of_team, [rules.num_allies, rules.num_enemies])


def draws(key: Array, rules: Rules) -> Array:
    """What hits add to cooldowns, in ticks: uniform in [-1, 2), `[ticks, U]`."""
    return jax.random.uniform(key, (rules.num_ticks, rules.num_units), minval=-1.0, maxval=2.0)


def decode(rules: Rules, actions: Array) -> tuple[Array, Array]:
    """Directions `[U, 2]` and the unit each unit attacks, int32 `[U]` (-1: none) from actions `[U]`.

    Action 5 + e of an ally is unit n + e; of an enemy unit n - 1 - e, since enemies count from the middle outwards.
    """
    opponent = actions - NUM_MOVES
    is_ally = np.arange(rules.num_units) < rules.num_allies
    target = jnp.where(is_ally, rules.num_allies + opponent, rules.num_allies - 1 - opponent)
    moves = jnp.where(actions[:, None, None] == np.arange(4)[:, None], DIRECTIONS, 0.0).sum(1)
    return moves, jnp.where(opponent >= 0, target, -1)


def fight(rules: Rules, state: SkirmishState, actions: Array, noise: Array) -> SkirmishState:
    """The battle one step later, from actions of all units `[U]` and the draws for cooldowns `[ticks, U]`."""
    types = kinds(rules, state)
    speed, attack, reach, radius, pause = (
        look_up(table, types)
        for table in (
            SPEED,
            ATTACK,
            RANGE,
            RADIUS,
            COOLDOWN,
        )
    )
    moves, target = decode(rules, actions)
    stride = moves * (speed * rules.tick)[:, None]
    # Sums over the first axis: the second is then the quick one.  A gather or scatter of units would be slower.
    numbers = np.arange(rules.num_units)
    is_target = target == numbers[:, None]  # bool [unit, shooter]
    hit_by = jnp.where(target[:, None] == numbers, attack[:, None], 0.0)  # [shooter, unit]
    size = jnp.asarray([rules.width, rules.height])

    def tick(carry: tuple[Array, Array, Array], draw: Array) -> tuple[tuple[Array, Array, Array], None]:
        positions, health, cooldowns = carry
        alive = health > 0
        dx, dy = (
            jnp.sum(jnp.where(is_target, c[:, None], 0.0), axis=0) - c for c in (positions[:, 0], positions[:, 1])
        )
        target_lives = jnp.any(is_target & alive[:, None], axis=0)
        hits = (jnp.sqrt(dx * dx + dy * dy) < reach) & alive & target_lives & (cooldowns <= 0)
        health = jnp.maximum(health - jnp.sum(jnp.where(hits[:, None], hit_by, 0.0), axis=0), 0.0)
        cooldowns = jnp.where(hits, pause + draw * rules.tick, cooldowns - rules.tick)
        positions = jnp.where(alive[:, None], jnp.clip(positions + stride, 0.0, size), positions)
        if rules.walls_kill:
            health = jnp.where(jnp.any((positions <= 0) | (positions >= size), axis=1), 0.0, health)
        return (spread_out(positions, radius, health > 0), health, cooldowns), None

    carry = (state.positions, state.health, state.cooldowns)
    (positions, health, cooldowns), _ = jax.lax.scan(tick, carry, noise)
    return state._replace(
        positions=positions,
        health=health,
        cooldowns=cooldowns,
        last_moves=moves,
        last_attacks=jnp.where(target >= 0, actions, 0),
        step=state.step + 1,
    )


def spread_out(positions: Array, radius: Any, alive: Array) -> Array:
    """Units that live and overlap push one another: x_i += sum_j (x_i - x_j) max(0, (r_i + r_j) / |x_i - x_j| - 1) / 2."""
    x, y = positions[:, 0], positions[:, 1]
    dx, dy = x - x[:, None], y - y[:, None]  # [j, i]: sums over the first axis are quicker
    apart = jnp.sqrt(dx * dx + dy * dy) + CLOSE
    overlap = jnp.maximum((radius[:, None] + radius) / apart - 1.0, 0.0)
    overlap = jnp.where(alive[:, None] & alive, overlap, 0.0)
    return positions + jnp.stack([jnp.sum(dx * overlap, axis=0), jnp.sum(dy * overlap, axis=0)], axis=1) / 2


def team_rewards(rules: Rules, before: SkirmishState, after: SkirmishState) -> tuple[Array, Array]:
    """Rewards of the allies and of the enemies, `[]` each: the share of the others' health that went, and the bonus."""
    full = look_up(HEALTH, kinds(rules, after))
    lost, n = (before.health - after.health) / full, rules.num_allies
    lives = jnp.any(after.alive[:n]), jnp.any(after.alive[n:])
    bonus = [jnp.where(lives[own] & ~lives[1 - own], rules.win_bonus, 0.0) for own in (0, 1)]
    if rules.is_zero_sum:
        return bonus[0] - bonus[1], bonus[1] - bonus[0]
    return jnp.mean(lost[n:]) + bonus[0], jnp.mean(lost[:n]) + bonus[1]


def features(rules: Rules, state: SkirmishState) -> tuple[Array, Array, Array]:
    """Of each unit `[U, *]`: health share; share of the cooldown left; one-hot type."""
    types = kinds(rules, state)
    health = state.health / look_up(HEALTH, types)
    cooldown = jnp.clip(state.cooldowns / look_up(COOLDOWN, types), 0.0, 1.0)
    return health[:, None], cooldown[:, None], (state.types[:, None] == np.arange(6)) * 1.0


def observe(rules: Rules, state: SkirmishState, team: int) -> Array:
    """What the units of a team see, `[n, 13 (U - 1) + 10]`: other units, and then themselves.

    Allies come first, then enemies; for enemies all in reverse order.  Of another unit: health share, offset over the
    own sight, last direction, last attack over the number of its actions less 1, cooldown share, type; 0 if it is out of
    sight or either is dead.  Of itself: health share, place over the size of the map, cooldown share, type; 0 if dead.
    """
    flip = slice(None, None, -1 if team else 1)
    n = rules.num_enemies if team else rules.num_allies
    health, cooldown, type_bits = (part[flip] for part in features(rules, state))
    positions, alive = state.positions[flip], state.alive[flip]
    sight = look_up(SIGHT, kinds(rules, state))[flip][:n]
    moves = state.last_moves[flip]
    attacks = (state.last_attacks / (num_actions(rules) - 1))[flip, None]
    if not rules.sees_enemy_actions:
        is_own = (np.arange(rules.num_units) < n)[:, None]
        moves, attacks = moves * is_own, attacks * is_own
    dx = positions[:, 0] - positions[:n, :1]
    dy = positions[:, 1] - positions[:n, 1:]
    seen = (jnp.sqrt(dx * dx + dy * dy) < sight[:, None]) & alive & alive[:n, None]
    of_unit = jnp.concatenate([moves, attacks, cooldown, type_bits], axis=1)
    shape = (n, rules.num_units)
    seen_units = jnp.concatenate(
        [
            jnp.broadcast_to(health, (*shape, 1)),
            (dx / sight[:, None])[..., None],
            (dy / sight[:, None])[..., None],
            jnp.broadcast_to(of_unit, (*shape, NUM_FEATURES - 3)),
        ],
        axis=-1,
    )
    seen_units = others(jnp.where(seen[..., None], seen_units, 0.0)).reshape(n, -1)
    place = positions[:n] / jnp.asarray([rules.width, rules.height])
    own = jnp.concatenate([health[:n], place, cooldown[:n], type_bits[:n]], axis=1)
    return jnp.concatenate([seen_units, jnp.where(alive[:n, None], own, 0.0)], axis=1)[flip]


def action_mask(rules: Rules, state: SkirmishState, team: int) -> Array:
    """What the units of a team may do, bool `[n, 5 + opponents]`: the dead only stop, attacks need range and life."""
    flip = slice(None, None, -1 if team else 1)
    n = rules.num_enemies if team else rules.num_allies
    positions, alive = state.positions[flip], state.alive[flip]
    reach = look_up(RANGE, kinds(rules, state))[flip][:n]
    near = length(positions[None, n:] - positions[:n, None]) < reach[:, None]
    moves = alive[:n, None] | (np.arange(NUM_MOVES) == STOP)
    return jnp.concatenate([moves, near & alive[n:] & alive[:n, None]], axis=1)[flip]


def world_state(rules: Rules, state: SkirmishState) -> Array:
    """The whole battle, `[12 U]`: ten features a unit (health share, place, seconds of cooldown, type), teams, types."""
    health, _, type_bits = features(rules, state)
    whole = jnp.concatenate([health, state.positions, state.cooldowns[:, None], type_bits], axis=1)
    whole = jnp.where(state.alive[:, None], whole, 0.0).reshape(-1)
    is_enemy = (np.arange(rules.num_units) >= rules.num_allies) * 1.0
    return jnp.concatenate([whole, is_enemy, state.types.astype(whole.dtype)])
