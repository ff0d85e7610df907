"""The skirmish: unit types, scenarios, the state of a battle, and how one begins.

Source: the rules of SMAX in Rutherford et al., JaxMARL, NeurIPS 2024, after Samvelyan et al., The StarCraft Multi-Agent
Challenge, AAMAS 2019, and Ellis et al., SMACv2, NeurIPS 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array

SOURCE = "Rutherford et al., JaxMARL (SMAX), NeurIPS 2024"

TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
LETTERS = "mMsZzh"
SPEED = np.array([3.15, 2.25, 4.13, 3.15, 4.13, 3.15], np.float32)  # map units a second
ATTACK = np.array([9, 10, 13, 8, 5, 12], np.float32)  # health of a hit
RANGE = np.array([5, 6, 6, 2, 2, 5], np.float32)
SIGHT = np.array([9, 10, 10, 9, 8, 9], np.float32)
RADIUS = np.array([0.375, 0.5625, 0.625, 0.5, 0.375, 0.625], np.float32)
HEALTH = np.array([45, 125, 160, 150, 35, 80], np.float32)
COOLDOWN = np.array([0.61, 1.07, 1.87, 0.86, 0.5, 0.59], np.float32)  # seconds between hits

MOST_UNITS = 2**15  # of a type in a team: pairs of units are still numbered by int32
NUM_MOVES = 5  # up, right, down, left, stop; then attacks
STOP = 4
DIRECTIONS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]], np.float32)


class Scenario(NamedTuple):
    """Who fights whom."""

    allies: tuple[int, ...]  # places in `TYPES`
    enemies: tuple[int, ...]
    random_places: bool = False  # mirrored or surrounded, in place of two camps
    random_types: bool = False  # uniform, the same for both teams


def units(**counts: int) -> tuple[int, ...]:
    """Types of a team, in the order given: `units(stalker=2, zealot=3)`."""
    for name, count in counts.items():
        checks.one_of("units", "a type", name, TYPES)
        checks.integer("units", name, count, 1, limit=MOST_UNITS)
    return tuple(TYPES.index(name) for name, count in counts.items() for _ in range(count))


SCENARIOS = {
    "3m": Scenario(units(marine=3), units(marine=3)),
    "8m": Scenario(units(marine=8), units(marine=8)),
    "25m": Scenario(units(marine=25), units(marine=25)),
    "2s3z": Scenario(units(stalker=2, zealot=3), units(stalker=2, zealot=3)),
    "3s5z": Scenario(units(stalker=3, zealot=5), units(stalker=3, zealot=5)),
    "5m_vs_6m": Scenario(units(marine=5), units(marine=6)),
    "10m_vs_11m": Scenario(units(marine=10), units(marine=11)),
    "27m_vs_30m": Scenario(units(marine=27), units(marine=30)),
    "3s5z_vs_3s6z": Scenario(units(stalker=3, zealot=5), units(stalker=3, zealot=6)),
    "3s_vs_5z": Scenario(units(stalker=3), units(zealot=5)),
    "6h_vs_8z": Scenario(units(hydralisk=6), units(zealot=8)),
    "smacv2_5_units": Scenario(units(marine=5), units(marine=5), True, True),
    "smacv2_10_units": Scenario(units(marine=10), units(marine=10), True, True),
    "smacv2_20_units": Scenario(units(marine=20), units(marine=20), True, True),
}


class Rules(NamedTuple):
    """What never changes in a battle of U units: n allies, then the enemies.  Floats may be tracers."""

    scenario: Scenario
    width: float = 32.0
    height: float = 32.0
    num_ticks: int = 8  # of an environment step
    tick: float = 1 / 16  # seconds
    walls_kill: bool = True
    sees_enemy_actions: bool = True
    is_zero_sum: bool = False
    win_bonus: float = 1.0

    @property
    def num_allies(self) -> int:
        return len(self.scenario.allies)

    @property
    def num_enemies(self) -> int:
        return len(self.scenario.enemies)

    @property
    def num_units(self) -> int:
        return self.num_allies + self.num_enemies


class SkirmishState(NamedTuple):
    """A battle: allies first, then enemies."""

    positions: Array  # [U, 2]
    health: Array  # [U]
    cooldowns: Array  # [U] seconds until the next hit; negative once that is over
    types: Array  # int32 [U]
    last_moves: Array  # [U, 2] direction of the last action
    last_attacks: Array  # int32 [U] last action if it was an attack, else 0
    aims: Array  # int32 [E] what scripted enemies shoot at, as the number of an opponent; -1: nobody
    camps: Array  # [E, 2] where scripted enemies go while they see nobody
    step: Array  # int32 []

    @property
    def alive(self) -> Array:
        """bool `[U]`."""
        return self.health > 0


def kinds(rules: Rules, state: SkirmishState) -> Any:
    """Types of all units `[U]`: a constant where the scenario fixes them."""
    if rules.scenario.random_types:
        return state.types
    return np.array(rules.scenario.allies + rules.scenario.enemies)


def look_up(table: np.ndarray, types: Any) -> Any:
    """A property of each unit, `[U]`."""
    return table[types] if isinstance(types, np.ndarray) else jnp.asarray(table)[types]


def start(key: Array, rules: Rules) -> SkirmishState:
    """The first state, before units that overlap push one another."""
    scenario, num_units = rules.scenario, rules.num_units
    types = jnp.asarray(scenario.allies + scenario.enemies, jnp.int32)
    if scenario.random_types:
        types = jax.random.randint(keys.stream(key, "types"), (num_units,), 0, len(TYPES), jnp.int32)
        twins = min(rules.num_allies, rules.num_enemies)
        types = types.at[rules.num_allies : rules.num_allies + twins].set(types[:twins])
    places = random_places if scenario.random_places else camps
    positions = places(keys.stream(key, "places"), rules)
    centre = jnp.asarray([rules.width / 2, rules.height / 2])
    return SkirmishState(
        positions=positions,
        health=jnp.asarray(HEALTH)[types],
        cooldowns=jnp.zeros(num_units),
        types=types,
        last_moves=jnp.zeros((num_units, 2)),
        last_attacks=jnp.zeros(num_units, jnp.int32),
        aims=jnp.full(rules.num_enemies, -1, jnp.int32),
        camps=2 * centre - positions[rules.num_allies :],
        step=jnp.int32(0),
    )


def camps(key: Array, rules: Rules) -> Array:
    """Two camps a quarter and three quarters across the map, each unit up to 2 off in x and y; `[U, 2]`."""
    noise = jax.random.uniform(key, (rules.num_units, 2), minval=-2.0, maxval=2.0)
    is_enemy = jnp.arange(rules.num_units) >= rules.num_allies
    across = jnp.where(is_enemy, 0.75 * rules.width, 0.25 * rules.width)
    return jnp.stack([across, jnp.full(rules.num_units, rules.height / 2)], axis=1) + noise


def random_places(key: Array, rules: Rules) -> Array:
    """With equal chances mirrored or surrounded, `[U, 2]`."""
    which = jax.random.uniform(keys.stream(key, "which")) < 0.5
    return jnp.where(
        which, surrounded(keys.stream(key, "surrounded"), rules), mirrored(keys.stream(key, "mirrored"), rules)
    )


def mirrored(key: Array, rules: Rules) -> Array:
    """Allies uniform in the left half, enemies their mirror images; those without an image uniform in the right half."""
    places = jax.random.uniform(key, (rules.num_units, 2)) * jnp.asarray([rules.width / 2, rules.height])
    twins = min(rules.num_allies, rules.num_enemies)
    images = places.at[rules.num_allies : rules.num_allies + twins].set(places[:twins])
    is_enemy = jnp.arange(rules.num_units) >= rules.num_allies
    return jnp.stack([jnp.where(is_enemy, rules.width - images[:, 0], images[:, 0]), images[:, 1]], axis=1)


def surrounded(key: Array, rules: Rules) -> Array:
    """One team, by a fair coin, around the centre; each unit of the other in one of four groups on the half diagonals."""
    coin, groups, along, noise = jax.random.split(key, 4)
    num_units = rules.num_units
    inside = (jnp.arange(num_units) < rules.num_allies) == jax.random.bernoulli(coin)
    centre = jnp.asarray([rules.width / 2, rules.height / 2])
    corners = jnp.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]) * 2 * centre
    part = jax.random.uniform(along, (4, 1))
    group = jax.random.randint(groups, (num_units,), 0, 4)
    outside = (part * centre + (1 - part) * corners)[group]
    return jnp.where(inside[:, None], centre, outside) + jax.random.uniform(
        noise, (num_units, 2), minval=-2.0, maxval=2.0
    )
