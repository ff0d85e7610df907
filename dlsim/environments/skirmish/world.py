"""The skirmish: two teams of units fight on an open field; the rules of SMAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments.environment import Environment, box, check_actions, check_size, discrete
from dlsim.environments.skirmish import battle
from dlsim.environments.skirmish.enemy import scripted_actions
from dlsim.environments.skirmish.rules import (
    HEALTH,
    LETTERS,
    RADIUS,
    SCENARIOS,
    SOURCE,
    TYPES,
    Rules,
    Scenario,
    SkirmishState,
    kinds,
    look_up,
    start,
)

ENEMIES = ("scripted", "agents")
ATTACKS = ("nearest", "random")


def skirmish(
    scenario: str | Scenario = "2s3z",
    enemy: str = "scripted",
    attack: str = "nearest",
    enemy_shoots: bool = True,
    max_steps: int = 101,
    width: float = 32.0,
    height: float = 32.0,
    num_ticks: int = 8,
    walls_kill: bool = True,
    sees_enemy_actions: bool = True,
    is_zero_sum: bool = False,
    win_bonus: float = 1.0,
) -> Environment:
    """A team gets the share of the other team's health that it destroys, and a bonus for being the only one that lives.

    Actions: 0 up, 1 right, 2 down, 3 left, 4 stop, 5 + e attack opponent e.  A unit that is dead is done but keeps its
    team's rewards, so that a sacrifice pays (rewards of dead agents are not 0 here).  The battle is over when a team is
    dead, or the time.  Observations, masks and the world state are those of `skirmish.battle`.

    Args:
        scenario: a name of `SCENARIOS`, or a `Scenario` of one's own.
        enemy: `scripted`: the agents are the allies, against those of `skirmish.enemy`; `agents`: all units are agents.
        attack: whom scripted enemies shoot: `nearest` or `random` opponent in range.
        enemy_shoots: whether scripted enemies ever shoot.
        max_steps: steps of an episode T; 101 is what JaxMARL's 100 amounts to, as it asks before it counts the step.
        width, height: of the map; may be traced.
        num_ticks: ticks of 1/16 s in a step.
        walls_kill: whether a unit at the rim of the map dies.
        sees_enemy_actions: whether observations hold what opponents did last.
        is_zero_sum: only the bonus for those who win, and minus the bonus for those who lose.
        win_bonus: reward for a victory; may be traced.
    """
    where = "skirmish"
    rules = Rules(
        scenario=_scenario(where, scenario),
        width=checks.number(where, "width", width, 0, open_minimum=True),
        height=checks.number(where, "height", height, 0, open_minimum=True),
        num_ticks=checks.integer(where, "num_ticks", num_ticks, 1),
        walls_kill=checks.flag(where, "walls_kill", walls_kill),
        sees_enemy_actions=checks.flag(where, "sees_enemy_actions", sees_enemy_actions),
        is_zero_sum=checks.flag(where, "is_zero_sum", is_zero_sum),
        win_bonus=checks.number(where, "win_bonus", win_bonus),
    )
    checks.one_of(where, "enemy", enemy, ENEMIES)
    checks.one_of(where, "attack", attack, ATTACKS)
    checks.flag(where, "enemy_shoots", enemy_shoots)
    checks.integer(where, "max_steps", max_steps, 1)
    check_size(where, num_ticks=rules.num_ticks, num_units=rules.num_units)
    teams = (0,) if enemy == "scripted" else (0, 1)
    num_agents = rules.num_allies if enemy == "scripted" else rules.num_units
    num_actions = int(battle.num_actions(rules)[:num_agents].max())

    def is_decided(state: SkirmishState) -> Array:
        alive = state.alive
        return ~jnp.any(alive[: rules.num_allies]) | ~jnp.any(alive[rules.num_allies :])

    def observe(state: SkirmishState) -> Array:
        return jnp.concatenate([battle.observe(rules, state, team) for team in teams])

    def reset(key: Array) -> tuple[SkirmishState, Array]:
        state = start(key, rules)
        radius = look_up(RADIUS, kinds(rules, state))
        positions = battle.spread_out(state.positions, radius, state.alive)
        centre = jnp.asarray([rules.width / 2, rules.height / 2])
        state = state._replace(positions=positions, camps=2 * centre - positions[rules.num_allies :])
        return state, observe(state)

    def step(key: Array, state: SkirmishState, actions: Array) -> tuple[SkirmishState, Array, Array, Array, Info]:
        actions = check_actions(where, actions, num_actions, num_agents)
        ended = is_decided(state) | (state.step >= max_steps)
        before = state
        if enemy == "scripted":
            uniforms = jax.random.uniform(keys.stream(key, "enemy"), (2, rules.num_enemies))
            scripted, aims = scripted_actions(rules, state, uniforms, enemy_shoots, attack)
            actions, state = jnp.concatenate([actions, scripted]), state._replace(aims=aims)
        state = battle.fight(rules, state, actions, battle.draws(keys.stream(key, "cooldowns"), rules))
        state = jax.tree.map(lambda old, new: jnp.where(ended, old, new), before, state)
        decided = is_decided(state)
        over = decided | (state.step >= max_steps)
        rewards = battle.team_rewards(rules, before, state)
        sizes = (rules.num_allies, rules.num_enemies)
        paid = jnp.concatenate([jnp.broadcast_to(rewards[team], (sizes[team],)) for team in teams])
        n = rules.num_allies
        has_won = jnp.any(state.alive[:n]) & ~jnp.any(state.alive[n:])
        info = {"is_over": over, "is_truncated": over & ~decided, "has_won": has_won}
        return state, observe(state), jnp.where(ended, 0.0, paid), ~state.alive[:num_agents] | over, info

    def action_mask(state: SkirmishState) -> Array:
        masks = [battle.action_mask(rules, state, team) for team in teams]
        return jnp.concatenate([jnp.pad(mask, ((0, 0), (0, num_actions - mask.shape[1]))) for mask in masks])

    names = tuple(f"ally_{i}" for i in range(rules.num_allies)) + tuple(f"enemy_{i}" for i in range(rules.num_enemies))
    width_seen = battle.NUM_FEATURES * (rules.num_units - 1) + battle.NUM_OWN
    return Environment(
        name="skirmish",
        num_agents=num_agents,
        observation_space=box((width_seen,), -1.0, 1.0),
        action_space=discrete(num_actions),
        reset=reset,
        step=step,
        action_mask=action_mask,
        global_state=lambda state: battle.world_state(rules, state),
        agent_names=names[:num_agents],
        max_steps=max_steps,
        render=lambda state, axes: render(rules, state, axes),
        metrics=lambda state: metrics(rules, state),
        source=SOURCE,
    )


def _scenario(where: str, scenario: str | Scenario) -> Scenario:
    """A scenario by name, or the one given, checked."""
    if isinstance(scenario, str):
        return SCENARIOS[checks.one_of(where, "scenario", scenario, SCENARIOS)]
    checks.instance(where, "scenario", scenario, Scenario, "Use e.g. Scenario(units(marine=3), units(marine=3)).")
    teams = []
    for side in ("allies", "enemies"):
        team = checks.integers(where, side, getattr(scenario, side), minimum=0, maximum=len(TYPES) - 1)
        if len(team) == 0:
            checks.fail(where, side, "one unit or more", "none")
        teams.append(team)
    for name in ("random_places", "random_types"):
        checks.flag(where, name, getattr(scenario, name))
    return scenario._replace(allies=teams[0], enemies=teams[1])


def metrics(rules: Rules, state: SkirmishState) -> Info:
    """Who lives, and the share of each team's health that is left."""
    share, n = state.health / look_up(HEALTH, kinds(rules, state)), rules.num_allies
    return {
        "num_allies_alive": jnp.sum(state.alive[:n]),
        "num_enemies_alive": jnp.sum(state.alive[n:]),
        "ally_health": jnp.mean(share[:n]),
        "enemy_health": jnp.mean(share[n:]),
    }


def render(rules: Rules, state: SkirmishState, axes: Any) -> None:
    """Discs with the letters of their types: allies blue, enemies red, paler as they lose health; a line to the target."""
    from matplotlib.patches import Circle

    positions, types, alive = np.asarray(state.positions), np.asarray(state.types), np.asarray(state.health) > 0
    share = np.asarray(state.health) / HEALTH[types]
    targets = np.asarray(battle.decode(rules, jnp.asarray(state.last_attacks))[1])
    for i in np.flatnonzero(alive):
        colour = "tab:blue" if i < rules.num_allies else "tab:red"
        x, y = (float(c) for c in positions[i])
        axes.add_patch(Circle((x, y), float(RADIUS[types[i]]), color=colour, alpha=0.3 + 0.7 * share[i]))
        axes.text(x, y, LETTERS[types[i]], ha="center", va="center", fontsize=6)
        if targets[i] >= 0:
            axes.plot([x, positions[targets[i], 0]], [y, positions[targets[i], 1]], color=colour, linewidth=0.5)
    axes.set_xlim(0, float(rules.width))
    axes.set_ylim(0, float(rules.height))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")
