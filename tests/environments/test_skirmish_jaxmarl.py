"""The skirmish agrees with JaxMARL step by step: same start, same actions, same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.jaxmarl_noise import cooldown_draws, enemy_draws

from dlsim.environments import skirmish_battle
from dlsim.environments.skirmish import skirmish
from dlsim.environments.skirmish_enemy import scripted_actions
from dlsim.environments.skirmish_rules import SCENARIOS, Rules, SkirmishState

smax = pytest.importorskip("jaxmarl.environments.smax", reason="compares with JaxMARL: pip install jaxmarl==0.2.0")


def battle_of(theirs, enemy_policy=None):
    """JaxMARL's state as ours."""
    num_enemies = int((theirs.unit_teams == 1).sum())
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
def test_battle_of_random_units(name):
    theirs = smax.SMAX(scenario=smax.map_name_to_scenario(name))
    ours, rules = skirmish(name, enemy="agents"), Rules(SCENARIOS[name])
    fight = jax.jit(lambda state, actions, noise: skirmish_battle.fight(rules, state, actions, noise))
    look = jax.jit(lambda s: [skirmish_battle.observe(rules, s, t) for t in (0, 1)])
    paid = jax.jit(lambda a, b: skirmish_battle.team_rewards(rules, a, b))
    mask_of, world_of = jax.jit(ours.action_mask), jax.jit(ours.global_state)
    their_step, their_masks = jax.jit(theirs.step_env), jax.jit(theirs.get_avail_actions)
    draws = jax.jit(cooldown_draws, static_argnums=(1, 2))
    agents, generator = theirs.agents, np.random.default_rng(0)
    assert tuple(agents) == ours.names
    _, state = theirs.reset(jax.random.key(0))
    # Near one another, so that the battle is short.
    state = state.replace(unit_positions=16 + (state.unit_positions - 16) * 0.4)
    mine = battle_of(state)
    total = 0.0
    for t in range(40):
        masks = np.asarray(mask_of(mine))
        for i, mask in enumerate(their_masks(state).values()):
            np.testing.assert_array_equal(masks[i, : len(mask)], mask)
            assert not masks[i, len(mask) :].any()
        # Attack when possible, most of the time, so that units die.
        actions = np.array([generator.choice(np.flatnonzero(m)[-4:]) for m in masks])
        key = jax.random.key(t)
        before = state
        seen, state, rewards, dones, _ = their_step(key, state, dict(zip(agents, jnp.asarray(actions), strict=True)))
        # From JaxMARL's state in every step: pushes in a crowd blow up the rounding of its directions.
        before = battle_of(before)
        mine = fight(before, jnp.asarray(actions), draws(jax.random.split(key)[0], 8, len(agents)))
        assert_same(mine, state, 5e-5)
        np.testing.assert_allclose(jnp.concatenate(look(mine)), [seen[a] for a in agents], atol=5e-5)
        np.testing.assert_allclose(world_of(mine), seen["world_state"], atol=5e-5)
        team = paid(before, mine)
        np.testing.assert_allclose([team[0], team[1]], [rewards[agents[0]], rewards[agents[-1]]], atol=1e-6)
        total += float(team[0])
        if bool(dones["__all__"]):
            break
    assert total > 0.3 and bool((~mine.alive).any())  # something was decided, or the test shows little


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
    mine = battle_of(state.state, state.enemy_policy_state)
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
