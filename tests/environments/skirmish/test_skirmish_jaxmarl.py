"""The skirmish agrees with JaxMARL step by step: same start, same actions, same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import need
from oracles.jaxmarl_noise import cooldown_draws, enemy_draws

from dlsim.environments.skirmish import battle as skirmish_battle
from dlsim.environments.skirmish.enemy import scripted_actions
from dlsim.environments.skirmish.rules import SCENARIOS, Rules, SkirmishState
from dlsim.environments.skirmish.world import skirmish

smax = need("jaxmarl.environments.smax")  # compares with JaxMARL
pytestmark = pytest.mark.needs("jaxmarl")


def battle_of(theirs, num_enemies, enemy_policy=None):
    """JaxMARL's state as ours."""
    aims, camps = jnp.full(num_enemies, -1), jnp.zeros((num_enemies, 2))
    if enemy_policy is not None:
        aims, camps = enemy_policy.last_attacked_enemy, enemy_policy.default_target
    return SkirmishState(
        positions=theirs.unit_positions,
        health=theirs.unit_health,
        cooldowns=theirs.unit_weapon_cooldowns,
        types=theirs.unit_types.astype(jnp.int32),
        last_moves=theirs.prev_movement_actions,
        last_attacks=theirs.prev_attack_actions,
        aims=jnp.asarray(aims, jnp.int32),
        camps=camps,
        step=theirs.step,
    )


def assert_same(ours, theirs, tolerance):
    alive = np.asarray(theirs.unit_alive)
    np.testing.assert_array_equal(ours.alive, alive)
    np.testing.assert_array_equal(ours.health, theirs.unit_health)
    np.testing.assert_allclose(ours.positions[alive], theirs.unit_positions[alive], atol=tolerance)
    np.testing.assert_allclose(ours.cooldowns[alive], theirs.unit_weapon_cooldowns[alive], atol=tolerance)
    np.testing.assert_allclose(ours.last_moves[alive], theirs.prev_movement_actions[alive], atol=tolerance)
    np.testing.assert_array_equal(ours.last_attacks[alive], theirs.prev_attack_actions[alive])


@pytest.mark.parametrize("name", ["3s5z_vs_3s6z", "smacv2_5_units"])
def test_hundred_random_steps(name):
    """From JaxMARL's state in every step: pushes in a crowd blow up the rounding of its directions."""
    theirs = smax.SMAX(scenario=smax.map_name_to_scenario(name))
    ours, rules = skirmish(name, enemy="agents"), Rules(SCENARIOS[name])
    agents, num_actions = theirs.agents, ours.action_space.num
    assert tuple(agents) == ours.names

    def one(state, inputs):
        key, uniforms = inputs
        before = battle_of(state, rules.num_enemies)
        masks = theirs.get_avail_actions(state)
        allowed = jnp.stack([jnp.pad(masks[agent], (0, num_actions - masks[agent].shape[0])) for agent in agents])
        mask = ours.action_mask(before)
        # Attack when possible, most of the time, so that units die: one of the last four allowed actions.
        rank = jnp.cumsum(mask, axis=1)
        last = mask & (rank > rank[:, -1:] - 4)
        actions = jnp.argmax(jnp.where(last, uniforms, -1.0), axis=1)
        seen, after, rewards, dones, _ = theirs.step_env(key, state, dict(zip(agents, actions, strict=True)))
        mine = skirmish_battle.fight(rules, before, actions, cooldown_draws(jax.random.split(key)[0], 8, len(agents)))
        team = skirmish_battle.team_rewards(rules, before, mine)
        paid = [team[0]] * rules.num_allies + [team[1]] * rules.num_enemies
        looks = jnp.concatenate([skirmish_battle.observe(rules, mine, side) for side in (0, 1)])
        over = ~jnp.any(mine.alive[: rules.num_allies]) | ~jnp.any(mine.alive[rules.num_allies :])
        got = (mask, mine, looks, ours.global_state(mine), jnp.stack(paid), ~mine.alive, over)
        expected = (
            allowed.astype(bool),
            battle_of(after, rules.num_enemies),
            jnp.stack([seen[agent] for agent in agents]),
            seen["world_state"],
            jnp.stack([rewards[agent] for agent in agents]),
            jnp.stack([dones[agent] for agent in agents]),
            dones["__all__"],
        )
        # Near one another, so that battles are short; a new one begins when one is over.
        fresh = start(jax.random.fold_in(key, 1))
        after = jax.tree.map(lambda a, b: jnp.where(dones["__all__"], a, b), fresh, after)
        return after, (got, expected)

    def start(key):
        state = theirs.reset(key)[1]
        return state.replace(unit_positions=16 + (state.unit_positions - 16) * 0.4)

    def run(key):
        uniforms = jax.random.uniform(key, (100, len(agents), num_actions))
        return jax.lax.scan(one, start(key), (jax.random.split(key, 100), uniforms))[1]

    got, expected = jax.jit(run)(jax.random.key(0))
    got, expected = (part[:1] + (part[1]._replace(aims=0, camps=0, step=0), *part[2:]) for part in (got, expected))
    for mine, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-5, rtol=1e-5)
    over, dead = np.asarray(expected[-1]), np.asarray(expected[-2])
    assert over.any() and dead.any(1).sum() > 20  # battles were fought and decided


@pytest.mark.parametrize(("name", "attack"), [("2s3z", "closest"), ("5m_vs_6m", "random")])
def test_scripted_enemy(name, attack):
    theirs = smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(name), attack_mode=attack)
    rules = Rules(SCENARIOS[name])
    mode = "nearest" if attack == "closest" else "random"

    def one(state, actions, uniforms, noise):
        scripted, aims = scripted_actions(rules, state, uniforms, True, mode)
        return skirmish_battle.fight(rules, state._replace(aims=aims), jnp.concatenate([actions, scripted]), noise)

    step, their_step = jax.jit(one), jax.jit(theirs.step_env)
    draws, guesses = jax.jit(cooldown_draws, static_argnums=(1, 2)), jax.jit(enemy_draws, static_argnums=1)
    allied_mask = jax.jit(lambda s: skirmish_battle.action_mask(rules, s, 0))
    generator = np.random.default_rng(1)
    _, state = theirs.reset(jax.random.key(3))
    # The first action of a policy fixes its camps, so ours are those of the start.
    mine = battle_of(state.state, rules.num_enemies, state.enemy_policy_state)
    mine = mine._replace(camps=32.0 - mine.positions[rules.num_allies :])
    for t in range(60):
        masks = np.asarray(allied_mask(mine))
        actions = jnp.asarray([1 if m[1] and not m[5:].any() else generator.choice(np.flatnonzero(m)) for m in masks])
        key = jax.random.key(100 + t)
        rest, enemy_key = jax.random.split(key)
        _, state, _, dones, _ = their_step(key, state, dict(zip(theirs.agents, actions, strict=True)))
        mine = step(mine, actions, guesses(enemy_key, rules.num_enemies), draws(rest, 8, rules.num_units))
        assert_same(mine, state.state, 1e-3)
        lives = np.asarray(mine.alive[rules.num_allies :])
        np.testing.assert_array_equal(mine.aims[lives], state.enemy_policy_state.last_attacked_enemy[lives])
        if bool(dones["__all__"]):
            break
    assert bool(dones["__all__"])
