"""The skirmish: hand-worked ticks, invariants, the scripted enemy, what is seen, bad input, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments.rendering.animation import figure_of
from dlsim.environments.skirmish import battle as skirmish_battle, rules as skirmish_rules
from dlsim.environments.skirmish.enemy import pick, scripted_actions
from dlsim.environments.skirmish.rules import SCENARIOS, Rules, Scenario, units
from dlsim.environments.skirmish.world import skirmish

KEY = jax.random.key(0)
STOP = 4
MARINES = Scenario(units(marine=1), units(marine=1))
DUEL = Rules(MARINES)


def battle(rules, places):
    """A battle at the start, with the units where they are told to be."""
    state = skirmish_rules.start(KEY, rules)
    return state._replace(positions=jnp.asarray(places, jnp.float32))


def fight(rules, state, actions, noise=0.0):
    draws = jnp.full((rules.num_ticks, rules.num_units), noise)
    return skirmish_battle.fight(rules, state, jnp.asarray(actions), draws)


def random_allowed(generator, mask):
    return jnp.asarray([generator.choice(np.flatnonzero(row)) for row in np.asarray(mask)])


@pytest.mark.parametrize(("action", "direction"), [*enumerate([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)])])
def test_a_marine_moves(action, direction):
    state = fight(DUEL, battle(DUEL, [[8, 16], [30, 30]]), [action, STOP])
    np.testing.assert_allclose(state.positions[0] - jnp.asarray([8, 16]), 1.575 * np.array(direction), atol=1e-5)
    np.testing.assert_allclose(state.cooldowns, -0.5)  # eight ticks of 1/16 s


def test_a_marine_dies_of_five_hits():
    state = battle(DUEL, [[10, 16], [14, 16]])
    state, healths = state._replace(cooldowns=jnp.asarray([0.0, 99.0])), []
    for _ in range(6):
        state = fight(DUEL, state, [5, STOP])
        healths.append(float(state.health[1]))
    # Ready at ticks 0, 11, 22, 33, 44: 0.61 s are 9.76 ticks, and the weapon waits until the cooldown is not above zero.
    assert healths == [36, 27, 18, 18, 9, 0]
    np.testing.assert_array_equal(state.alive, [True, False])


@pytest.mark.parametrize(("gap", "hits"), [(4.99, True), (5.0, False)])
def test_range_is_open(gap, hits):
    state = fight(DUEL._replace(num_ticks=1), battle(DUEL, [[10, 16], [10 + gap, 16]]), [5, STOP])
    assert (float(state.health[1]) < 45) == hits
    np.testing.assert_allclose(state.cooldowns[0], 0.61 if hits else -1 / 16, atol=1e-6)


def test_shots_add_up_and_happen_at_once():
    rules = Rules(Scenario(units(marine=3), units(marauder=1)), num_ticks=1)
    state = battle(rules, [[10, 16], [10, 14], [10, 18], [13, 16]])
    state = state._replace(health=state.health.at[0].set(10.0))
    state = fight(rules, state, [5, 5, 5, 5 + 2])  # the enemy counts allies backwards: 2 is the first
    np.testing.assert_array_equal(state.health, [0, 45, 45, 125 - 27])  # who falls has shot


def test_the_dead_neither_move_nor_shoot():
    state = battle(DUEL, [[10, 16], [12, 16]])
    state = state._replace(health=jnp.asarray([0.0, 45.0]))
    for action in (1, 5):
        after = fight(DUEL, state, [action, STOP])
        np.testing.assert_array_equal(after.positions, state.positions)
        assert float(after.health[1]) == 45


def test_the_rim_kills_unless_told_not_to():
    state = battle(DUEL, [[0.1, 16], [30, 30]])
    assert float(fight(DUEL, state, [3, STOP]).health[0]) == 0
    spared = fight(DUEL._replace(walls_kill=False), state, [3, STOP])
    assert float(spared.health[0]) == 45 and float(spared.positions[0, 0]) == 0


def test_units_push_one_another_apart():
    places = jnp.asarray([[10.0, 10], [10.5, 10]])
    moved = skirmish_battle.spread_out(places, np.array([0.375, 0.375]), jnp.asarray([True, True]))
    np.testing.assert_allclose(moved, [[9.875, 10], [10.625, 10]], atol=1e-5)  # each 0.5 (0.75 / 0.5 - 1) / 2
    still = skirmish_battle.spread_out(places, np.array([0.375, 0.375]), jnp.asarray([True, False]))
    np.testing.assert_array_equal(still, places)


def test_mirrored_battles_stay_mirrored():
    rules, generator = Rules(SCENARIOS["2s3z"]), np.random.default_rng(0)
    state = battle(rules, np.zeros((10, 2)))
    own = generator.uniform([10, 10], [15.5, 22], (5, 2))
    state = state._replace(positions=jnp.asarray(np.concatenate([own, [32, 0] + own * [-1, 1]]), jnp.float32))
    step, mask_of = (
        jax.jit(lambda s, a: fight(rules, s, a)),
        jax.jit(lambda s: skirmish_battle.action_mask(rules, s, 0)),
    )
    mirror = np.array([0, 3, 2, 1, 4, 9, 8, 7, 6, 5])  # left is right; e counts from the other end
    for _ in range(30):
        actions = random_allowed(generator, mask_of(state))
        state = step(state, jnp.concatenate([actions, mirror[actions]]))
        image = jnp.asarray([32, 0]) + state.positions[:5] * jnp.asarray([-1, 1])
        np.testing.assert_array_equal(state.health[:5], state.health[5:])
        np.testing.assert_allclose(state.positions[5:], image, atol=1e-4)
        # From here exactly mirrored: pushes in a crowd blow rounding up.
        state = state._replace(positions=state.positions.at[5:].set(image))
    assert float(state.health.sum()) < 10 * 155


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario(name):
    environment, generator = skirmish(name), np.random.default_rng(0)
    scenario = SCENARIOS[name]
    num_agents, num_units = len(scenario.allies), len(scenario.allies) + len(scenario.enemies)
    assert environment.num_agents == num_agents and environment.names[0] == "ally_0"
    assert environment.action_space.num == 5 + len(scenario.enemies)
    assert environment.observation_space.shape == (13 * (num_units - 1) + 10,)
    if name not in ("3s_vs_5z", "smacv2_5_units"):  # shapes alone: the rest takes long to compile
        state, seen = jax.eval_shape(environment.reset, KEY)
        assert seen.shape == (num_agents, 13 * (num_units - 1) + 10) and state.positions.shape == (num_units, 2)
        outcome = jax.eval_shape(environment.step, KEY, state, jax.ShapeDtypeStruct((num_agents,), jnp.int32))
        assert jax.tree.map(jnp.shape, outcome[0]) == jax.tree.map(jnp.shape, state)
        return
    state, seen = jax.jit(environment.reset)(KEY)
    assert seen.shape == (num_agents, *environment.observation_space.shape)
    assert environment.global_state(state).shape == (12 * num_units,)
    np.testing.assert_array_equal(state.health, skirmish_rules.HEALTH[np.asarray(state.types)])
    if scenario.random_types:
        np.testing.assert_array_equal(state.types[:num_agents], state.types[num_agents:])
    step = jax.jit(environment.step)
    for t in range(3):
        actions = random_allowed(generator, environment.action_mask(state))
        state, seen, rewards, dones, _ = step(jax.random.key(t), state, actions)
    assert bool(jnp.isfinite(seen).all()) and rewards.shape == dones.shape == (num_agents,)


def test_a_whole_battle_and_what_comes_after():
    environment, generator = skirmish("3m"), np.random.default_rng(0)
    step, mask_of = jax.jit(environment.step), jax.jit(environment.action_mask)
    state, _ = environment.reset(jax.random.key(5))
    total, dead = np.zeros(3), np.zeros(3, bool)
    for t in range(101):
        mask, before = np.asarray(mask_of(state)), state
        np.testing.assert_array_equal(mask[:, :4].any(1), state.alive[:3])
        assert mask[:, STOP].all()
        actions = [1 if m[1] and not m[5:].any() else generator.choice(np.flatnonzero(m)[-2:]) for m in mask]
        state, seen, rewards, dones, info = step(jax.random.key(t), state, jnp.asarray(actions))
        total += np.asarray(rewards)
        assert not seen[np.asarray(~state.alive[:3])].any()  # the dead see nothing
        np.testing.assert_array_equal(state.positions[:3][dead], before.positions[:3][dead])
        dead = ~np.asarray(state.alive[:3])
        if bool(info["is_over"]):
            break
    assert bool(info["is_over"]) and bool(dones.all()) and not bool(info["is_truncated"])
    assert (total == total[0]).all() and 0 <= total[0] <= 2 + 1e-6  # a team is paid as one
    assert bool(info["has_won"]) == (total[0] >= 1.999)
    after, _, rewards, *_ = step(KEY, state, jnp.asarray([STOP] * 3))
    assert not rewards.any() and jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, state))
    figure_of(environment, state)
    figure_of(environment, environment.reset(KEY)[0])
    assert int(environment.metrics(state)["num_enemies_alive"]) in (0, 1, 2, 3)


def test_time_runs_out():
    environment = skirmish("3m", max_steps=2, enemy_shoots=False)
    state, _ = environment.reset(KEY)
    for t in range(2):
        state, _, _, dones, info = environment.step(jax.random.key(t), state, jnp.full(3, STOP))
        assert bool(info["is_over"]) == bool(info["is_truncated"]) == bool(dones.all()) == (t == 1)


@pytest.mark.parametrize(("is_zero_sum", "paid"), [(False, [1 + 4 / 45, 0.0]), (True, [1.0, -1.0])])
def test_both_teams_as_agents(is_zero_sum, paid):
    environment = skirmish(MARINES, enemy="agents", is_zero_sum=is_zero_sum)
    assert environment.names == ("ally_0", "enemy_0") and environment.action_space.num == 6
    state = battle(DUEL, [[10, 16], [13, 16]])._replace(health=jnp.asarray([45.0, 4.0]))
    _, _, rewards, _, info = environment.step(KEY, state, jnp.asarray([5, STOP]))
    np.testing.assert_allclose(rewards, paid, atol=1e-6)
    assert bool(info["is_over"]) and bool(info["has_won"])


def test_what_a_marine_sees():
    rules = Rules(Scenario(units(marine=2), units(zealot=1)))
    state = battle(rules, [[8, 8], [8, 20], [12.5, 8]])
    state = state._replace(last_attacks=jnp.asarray([0, 0, 6]), cooldowns=jnp.asarray([0.305, 0.0, 0.0]))
    allies, enemies = (skirmish_battle.observe(rules, state, team) for team in (0, 1))
    unseen, zealot = np.zeros(13), [1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]  # its last attack is 6 of 0 to 6
    own = [1, 0.25, 0.25, 0.5, 1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(allies[0], np.concatenate([unseen, zealot, own]), atol=1e-6)
    marine = [1, -0.5, 0, 0, 0, 0, 0.5, 1, 0, 0, 0, 0, 0]  # half the zealot's sight of 9
    np.testing.assert_allclose(enemies[0, 13:26], marine, atol=1e-6)  # allies come in reverse order
    hidden = skirmish_battle.observe(rules._replace(sees_enemy_actions=False), state, 0)
    np.testing.assert_allclose(hidden[0, 13:26], [*zealot[:5], 0, *zealot[6:]], atol=1e-6)
    mask = skirmish_battle.action_mask(rules, state, 0)
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])


def test_the_scripted_enemy():
    rules = Rules(Scenario(units(marine=2), units(marine=1)))
    uniforms = jnp.full((2, 1), 0.3)
    decide = lambda places, **new: [  # noqa: E731
        int(x[0]) for x in scripted_actions(rules, battle(rules, places)._replace(**new), uniforms)
    ]
    far, camp = [[2.0, 2], [2, 30], [24, 16]], jnp.asarray([[8.0, 16.0]])
    assert decide(far, camps=camp) == [3, -1]  # nobody in sight: to the left
    assert decide([[24, 23], [2, 30], [24, 16]], camps=camp) == [0, -1]  # follows whom it sees
    near = [[22.0, 16], [27, 16], [24, 16]]
    assert decide(near) == [5 + 1, 1]  # the nearest is unit 0, the last of those counted backwards
    assert decide(near, aims=jnp.asarray([0])) == [5 + 0, 0]  # but goes on with whom it shot last
    assert decide(near, health=jnp.asarray([0.0, 45.0, 45.0])) == [5, 0]


def test_pick_is_uniform_over_what_is_allowed():
    allowed = jnp.broadcast_to(jnp.asarray([False, True, False, True, True]), (3000, 5))
    picked = pick(jax.random.uniform(KEY, (3000,)), allowed)
    counts = np.bincount(picked, minlength=5) / 3000
    np.testing.assert_allclose(counts, [0, 1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)


def test_random_starts_are_mirrored_or_surround():
    rules = Rules(SCENARIOS["smacv2_5_units"])
    places = jax.vmap(lambda key: skirmish_rules.random_places(key, rules))(jax.random.split(KEY, 400))
    images = jnp.asarray([32, 0]) + places[:, 5:] * jnp.asarray([-1, 1])
    mirrored = np.asarray(jnp.abs(places[:, :5] - images).max((1, 2)) < 1e-4)
    in_middle = np.asarray(jnp.abs(places - 16).max(2) <= 2)
    assert 0.4 < mirrored.mean() < 0.6
    around = in_middle[~mirrored]
    assert (around[:, :5].all(1) | around[:, 5:].all(1)).all()


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: skirmish("2s3y"), "skirmish: scenario must be one of 2s3z"),
        (lambda: skirmish(3), "skirmish: scenario must be a Scenario, got 3"),
        (lambda: skirmish(Scenario((), (0,))), "skirmish: allies must be one unit or more, got none"),
        (lambda: skirmish(Scenario((0,), (6,))), "skirmish: enemies[0] must be an integer in [0, 5], got 6"),
        (lambda: skirmish(enemy="human"), "skirmish: enemy must be one of scripted, agents"),
        (lambda: skirmish(attack="far"), "skirmish: attack must be one of nearest, random"),
        (lambda: skirmish(width=0.0), "skirmish: width must be a number in (0, inf), got 0"),
        (lambda: skirmish(num_ticks=0), "skirmish: num_ticks must be an integer >= 1, got 0"),
        (lambda: skirmish(max_steps=0), "skirmish: max_steps must be an integer >= 1, got 0"),
        (lambda: units(marines=2), "units: a type must be one of marine"),
        (lambda: units(marine=0), "units: marine must be an integer >= 1, got 0"),
    ],
)
def test_bad_factories(call, line):
    with pytest.raises(ValueError) as error:
        call()
    assert line in str(error.value)


@pytest.mark.parametrize(("actions", "line"), [([0, 1], "of shape [3]"), ([0, 1, 8], "in [0, 7], got 8")])
def test_bad_actions(actions, line):
    environment = skirmish("3m")
    state, _ = environment.reset(KEY)
    with pytest.raises(ValueError) as error:
        environment.step(KEY, state, jnp.asarray(actions))
    assert line in str(error.value)
