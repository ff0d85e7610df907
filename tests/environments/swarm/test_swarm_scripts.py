"""Scripts of the swarm tasks: what they read off their observations, hand-worked decisions, and what they reach."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.core import Record
from dlsim.environments import flocking, foraging, grid, play, pursuit, random_policy, synchronization, transport
from dlsim.environments.swarm import scripts, world as swarm
from dlsim.environments.swarm.sight import UNSEEN, look, next_waypoint, walk
from dlsim.environments.swarm.transport import plug_ways, plugs
from dlsim.environments.swarm.transport_script import script_transport
from dlsim.networks.network import Inbox
from dlsim.running.simulate import simulate

STAY, UP, DOWN, LEFT, RIGHT = range(5)
KEY = jax.random.key(0)
ROOM = swarm.walled(10, 10) == swarm.FREE
TASKS = {"pursuit": pursuit, "foraging": foraging, "flocking": flocking, "transport": transport}


def inbox(size, *values) -> Inbox:
    """What agents hear who hear at most one message each, of this size; None for nothing."""
    rows = jnp.asarray([[[0.0] * size if value is None else value] for value in values])
    mask = jnp.asarray([[value is not None] for value in values])
    return Inbox(rows, mask.astype(jnp.float32), mask, jnp.zeros(mask.shape, jnp.int32))


def shown(task, positions, **changes):
    """What is observed, in views of 5 x 5, of a state some of which is set by hand."""
    environment = task(num_agents=max(4, len(positions)))
    state, _ = environment.reset(jax.random.key(1))
    there = {"inside": jnp.ones(len(positions), bool), "flags": jnp.ones(len(positions), bool)}
    changes = {name: jnp.asarray(value) for name, value in changes.items()}
    state = state._replace(**{**there, "positions": jnp.asarray(positions, jnp.int32), **changes})
    kind = swarm.Task(
        name=environment.name,
        start=None,
        update=None,
        shaped=None,
        has_prey=task is pursuit,
        has_box=task is transport,
        feature={synchronization: 3, foraging: 4, pursuit: 5}.get(task),
    )
    return swarm.observe(kind, state, 5, 100)


def acts(policy, num, *arguments):
    """What a policy does with so many keys, stacked."""
    return jax.jit(jax.vmap(lambda key: policy.act(key, *arguments)))(jax.random.split(KEY, num))


@pytest.mark.parametrize("task", [*TASKS.values(), synchronization])
def test_observations_are_taken_apart(task):
    environment = task(num_agents=8, view=7)
    state, observations = environment.reset(jax.random.key(3))
    sight = look(observations, 7, (10, 10))
    assert np.array_equal(sight.positions, state.positions)
    plane = np.asarray(swarm.symbols(state, environment.name == "pursuit", environment.name == "transport"))
    seen = np.asarray(sight.on_map((10, 10)))
    for agent, (i, j) in enumerate(np.asarray(state.positions)):
        wanted = plane.copy()
        wanted[i, j] = 0
        rows, columns = np.abs(np.arange(10) - i)[:, None], np.abs(np.arange(10) - j)
        assert np.array_equal(seen[agent], np.where(np.maximum(rows, columns) <= 3, wanted, UNSEEN))
    if environment.name == "synchronization":
        assert np.array_equal(sight.light, state.flags)


def test_walking_takes_shortest_ways_around_others_and_steps_aside():
    goals = jnp.zeros((1, 10, 10), bool).at[0, 4, 7].set(True)
    steps = grid.steps_to(goals, ROOM)
    nobody = jnp.zeros((1, 10, 10), bool)

    def steps_from(place, taken, detour=grid.FAR):
        chosen = jax.vmap(lambda key: walk(key, steps, jnp.asarray([place]), taken, detour))
        return chosen(jax.random.split(KEY, 60))[:, 0].tolist()

    assert steps_from([4, 2], nobody).count(RIGHT) >= 45  # but for steps at random
    ahead = nobody.at[0, 4, 3].set(True)
    tries = steps_from([4, 2], ahead)
    assert tries.count(RIGHT) <= 5 and min(tries.count(action) for action in (UP, DOWN, STAY)) > 8
    assert steps_from([4, 2], ahead, 0).count(RIGHT) >= 45
    assert steps_from([4, 7], nobody).count(STAY) >= 50
    lost = walk(KEY, jnp.full((1, 10, 10), grid.FAR), jnp.asarray([[4, 2]]), nobody)
    assert lost.tolist() == [STAY]


def test_waypoints_are_cells_out_of_sight_and_stay_until_seen():
    plane = jnp.full((1, 10, 10), UNSEEN).at[0, :5].set(0)
    look_next = jax.jit(jax.vmap(next_waypoint, (0, None, None)))
    several = jax.random.split(KEY, 30)
    fresh = np.asarray(look_next(several, jnp.asarray([[0, 0]]), plane))[:, 0]
    assert fresh[:, 0].min() == 5 and fresh[:, 0].max() == 8 and fresh[:, 1].min() >= 1 and fresh[:, 1].max() <= 8
    assert (look_next(several, jnp.asarray([[7, 3]]), plane) == jnp.asarray([7, 3])).all()
    assert look_next(several, jnp.asarray([[3, 3]]), plane)[:, 0, 0].min() == 5


def test_lights_wait_then_change_and_follow_the_majority():
    policy = scripts.script_synchronization(2)
    act = jax.jit(policy.act)
    alike = shown(synchronization, [[2, 2], [2, 3], [8, 8]], flags=[True, True, False])
    memory, actions, said = act(KEY, policy.init(3), alike, None, None)
    assert memory.tolist() == [1, 1, 1] and (actions != swarm.SWITCH).all() and said is None
    memory, actions, _ = act(KEY, memory, alike, None, None)
    assert memory.tolist() == [0, 0, 2]  # the last is alone: it waits, and does not change
    assert (actions == swarm.SWITCH).tolist() == [True, True, False]
    mixed = shown(synchronization, [[2, 2], [2, 3], [2, 4]], flags=[False, True, True])
    memory, actions, _ = act(KEY, memory, mixed, None, None)
    assert memory.tolist() == [0, 0, 0] and (actions == swarm.SWITCH).tolist() == [True, False, False]
    even = shown(synchronization, [[2, 2], [2, 3]], flags=[False, True])
    switched = acts(policy, 80, policy.init(2), even, None, None)[1] == swarm.SWITCH
    assert (np.abs(np.mean(switched, axis=0) - 0.5) < 4 * 0.5 / np.sqrt(80)).all()


def test_hunters_hear_of_the_prey_come_wait_beside_it_and_forget():
    policy = scripts.script_pursuit()
    act = jax.jit(policy.act)
    far = shown(pursuit, [[1, 1], [4, 2]], prey=[8, 8])
    memory, _, said = act(KEY, policy.init(2), far, None, inbox(3, None, None))
    assert memory.time.tolist() == [-1, -1] and said[:, 2].tolist() == [-1, -1]
    told, actions, said = acts(policy, 20, memory, far, None, inbox(3, None, [4.0, 5.0, 0.0]))
    assert told.prey[0, 1].tolist() == [4, 5] and told.time[0].tolist() == [-1, 0]
    assert actions[:, 1].tolist().count(RIGHT) >= 15 and said[0, 1].tolist() == [4, 5, 0]
    beside = shown(pursuit, [[1, 1], [4, 4]], prey=[4, 5])
    memory, actions, said = act(KEY, memory, beside, None, inbox(3, None, None))
    assert int(actions[1]) == STAY and said[1].tolist() == [4, 5, 0] and said[0, 2] == -1
    caught = shown(pursuit, [[1, 1], [4, 4]], prey=[8, 8], score=1.0, round=5)
    memory, _, said = act(KEY, memory, caught, None, inbox(3, [4.0, 5.0, 0.04], None))
    assert memory.time.tolist() == [-1, -1]  # what was said before it was caught is not believed
    gone = shown(pursuit, [[1, 1], [4, 4]], prey=[8, 8], round=7)
    memory, _, _ = act(KEY, memory._replace(score=jnp.zeros(2)), gone, None, inbox(3, None, [5.0, 5.0, 0.06]))
    assert memory.time.tolist() == [-1, -1] and memory.missed.tolist() == pytest.approx([0.05, 0.07])


def test_foragers_remember_and_tell_where_food_and_nest_are():
    policy = scripts.script_foraging()
    act = jax.jit(policy.act)
    terrain = swarm.walled(10, 10).at[1:3, 1:3].set(swarm.FOOD).at[7:9, 7:9].set(swarm.NEST)
    start = shown(foraging, [[4, 3], [6, 6]], terrain=terrain, flags=[False, True])
    memory, _, said = act(KEY, policy.init(2), start, None, inbox(4, None, None))
    assert said.tolist() == [[2, 1, -1, -1], [-1, -1, 7, 7]]
    away = shown(foraging, [[4, 5], [6, 3]], terrain=terrain, flags=[False, True])
    _, chosen, told = acts(policy, 40, memory, away, None, inbox(4, said[1].tolist(), None))
    assert told[0].tolist() == [[2, 1, 7, 7], [-1, -1, 7, 7]]
    assert np.isin(chosen[:, 0], [UP, LEFT]).mean() > 0.8  # back to the food it saw
    assert np.isin(chosen[:, 1], [DOWN, RIGHT]).mean() > 0.8  # to the nest


def test_flocks_average_their_centres():
    policy = scripts.script_flocking()
    act = jax.jit(policy.act)
    start = shown(flocking, [[2, 2], [2, 3], [2, 4], [8, 8]])
    _, _, said = act(KEY, policy.init(4), start, None, None)
    assert said.tolist() == [[2, 3], [2, 3], [2, 3], [-1, -1]]
    memory = policy.init(4)._replace(centre=said)
    heard = Inbox(
        jnp.asarray([[[4.0, 5.0]], [[-1.0, -1.0]], [[0.0, 0.0]], [[6.0, 6.0]]]),
        jnp.ones((4, 1)),
        jnp.asarray([[True], [True], [False], [True]]),
        jnp.zeros((4, 1), jnp.int32),
    )
    _, _, said = act(KEY, memory, start, None, heard)
    assert said.tolist() == [[3, 4], [2, 3], [2, 3], [6, 6]]
    silent = scripts.script_flocking(False)
    assert silent.message_size == 0 and jax.eval_shape(silent.act, KEY, silent.init(4), start, None, None)[2] is None


def test_the_way_out_of_every_plug_is_that_of_the_physics():
    environment = transport(num_agents=5)
    step = jax.jit(environment.step)
    first, _ = environment.reset(KEY)
    masks, corners, walls = plugs(10, 10)
    ways = plug_ways(10, 10)
    for plug in range(8):
        terrain = jnp.where(jnp.asarray(walls[plug]), swarm.WALL, swarm.FREE).astype(jnp.int8)
        state = first._replace(
            terrain=terrain, box_position=jnp.asarray(corners[plug]), box_mask=jnp.asarray(masks[plug])
        )
        for stage in range(5):
            bare = np.asarray(swarm.symbols(state._replace(inside=jnp.zeros(5, bool)), False, True))
            assert np.array_equal(bare, ways.symbols[plug, stage])
            depths = ways.depths[plug, stage]
            cells = np.concatenate([np.argwhere(depths == 1), np.argwhere(depths == 2)])[:5]
            state = state._replace(positions=jnp.asarray(cells, jnp.int32), inside=jnp.ones(5, bool))
            action = int(ways.actions[plug, stage])
            stuck, *_ = step(KEY, state, jnp.asarray([action] * 4 + [STAY]))
            assert np.array_equal(stuck.box_position, state.box_position)
            state, *_ = step(KEY, state, jnp.full(5, action))
        assert not (np.asarray(swarm.symbols(state, False, True)) == swarm.SEEN_BOX).any()
        assert (ways.depths[plug, 5] > 0).sum() == 4


def test_movers_rule_out_plugs_and_believe_the_newest():
    policy = script_transport()
    act = jax.jit(policy.act)
    ways = plug_ways(10, 10)
    masks, corners, walls = plugs(10, 10)
    known = {"terrain": jnp.where(jnp.asarray(walls[0]), swarm.WALL, swarm.FREE).astype(jnp.int8)}
    known |= {"box_position": corners[0], "box_mask": masks[0]}
    observations = shown(transport, [[7, 4], [1, 1]], **known)
    memory, actions, said = act(KEY, policy.init(2), observations, None, inbox(10, None, None))
    assert bool(memory.possible[0, 0]) and not bool(memory.possible[0].all()) and memory.time.tolist()[0] == 0
    assert int(actions[0]) == ways.actions[0, 0]  # it stands behind the box: it pushes
    heard = [1.0] + [0.0] * 7 + [3.0, 0.5]
    memory, _, said = act(KEY, memory, observations, None, inbox(10, None, heard))
    assert memory.possible[1].tolist() == [True] + [False] * 7 and int(memory.stage[1]) == 3
    assert said[1].tolist() == heard and int(memory.stage[0]) == 0


@functools.cache
def final_scores(task, player, num_steps=100, num=6, view=5):
    """Scores of first episodes, by seed."""
    environment = TASKS[task](view=view)
    if player == "random":
        policy = random_policy(environment)
    else:
        policy = getattr(scripts, f"script_{task}")(player == "messages", view=view)
    process = play(environment, policy)

    def run(key):
        def body(state, number):
            state, _ = process.step(jax.random.fold_in(key, number), state)
            return state, (state.world.score, state.num_episodes, state.num_repaired)

        _, (score, ended, repaired) = jax.lax.scan(body, process.init(key), jnp.arange(num_steps))
        last = jnp.where(jnp.any(ended > 0), jnp.argmax(ended > 0), num_steps - 1)
        return score[last], jax.tree.map(lambda words: words[-1], repaired)

    scores, repaired = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(5), num))
    assert not any(np.asarray(words).any() for words in jax.tree.leaves(repaired))
    return np.asarray(scores)


@pytest.mark.parametrize(("task", "least"), [("pursuit", 6), ("foraging", 7), ("flocking", 7), ("transport", 3)])
def test_scripts_with_messages_reach_more_than_chance(task, least):
    assert final_scores(task, "messages").mean() > least
    if task in ("pursuit", "foraging"):
        assert final_scores(task, "random").mean() < 1.5


def test_messages_are_counted_and_can_be_lost():
    environment = pursuit(num_agents=4, max_rounds=20)
    lost = networks.complete(4).with_channel(networks.loss(1.0))
    process = play(environment, scripts.script_pursuit(), lost)
    run = simulate(process, num_steps=15, record=Record(every=5), seed=0, progress=False).results
    sent = np.asarray(run.messages_sent, np.int64)
    assert sent[-1] > sent[1] > 0 and sent[-1] <= 14 * 12  # nobody hears in the first round
    assert (np.asarray(run.bits_sent, np.int64) == 96 * sent).all()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: scripts.script_pursuit(view=4), r"script_pursuit: view must be odd.*got 4\. Use 5\."),
        (lambda: scripts.script_pursuit(reach=0), r"script_pursuit: reach must be an integer >= 1, got 0"),
        (lambda: scripts.script_foraging(size=7), r"script_foraging: size must be an integer >= 8, got 7"),
        (lambda: scripts.script_flocking(height=2), r"script_flocking: height must be an integer >= 3, got 2"),
        (lambda: script_transport(width=7), r"script_transport: width must be an integer >= 8, got 7"),
        (
            lambda: scripts.script_synchronization(-1.0),
            r"script_synchronization: patience must be a number in \[0, inf\), got -1",
        ),
        (lambda: look(jnp.zeros((3, 206)), 3, (10, 10)), r"look: observations must be of shape \[3, 78\]"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()
