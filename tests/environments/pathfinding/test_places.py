"""Where each agent begins and is to go, given by hand, by kind of episode, or by POGEMA's letters."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.pathfinding_world import PathfindingWorld

from dlsim.environments import follow, following, parse_pogema, pathfinding, play, random_policy
from dlsim.environments.pathfinding.tables import map_tables
from dlsim.environments.pathfinding.world import next_goals

OPEN = np.zeros((3, 4), bool)
CUT = np.asarray([[0, 0, 1, 0], [0, 0, 1, 0]], bool)  # two rooms


def resets(environment, num):
    state, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), num))
    return np.asarray(state.positions), np.asarray(state.goals), np.asarray(state.which_map)


def test_letters_are_read_in_the_order_of_the_alphabet_whatever_their_order_on_the_map():
    obstacles, starts, goals = parse_pogema(
        """
            Dc#.a
            .#..C

            d...A
        """
    )
    assert obstacles.tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert starts.tolist() == [[0, 4], [0, 1], [2, 0]] and goals.tolist() == [[2, 4], [1, 4], [0, 0]]
    assert starts.dtype == goals.dtype == np.int32
    environment = pathfinding(obstacles, starts=starts, goals=goals, view=3)
    assert environment.num_agents == 3
    positions, first_goals, _ = resets(environment, 5)
    assert (positions == starts).all() and (first_goals == goals).all()


def test_without_letters_the_cells_are_those_to_draw_from():
    obstacles, starts, goals = parse_pogema("  @.\n  $#\n")
    assert obstacles.tolist() == [[0, 0], [0, 1]]
    assert starts.tolist() == [[1, 1], [0, 0]] and goals.tolist() == [[0, 1], [1, 0]]


def test_a_given_goal_is_the_first_one_and_later_ones_are_drawn():
    environment = pathfinding(*parse_pogema("aA.")[:1], starts=[[0, 0]], goals=[[0, 1]], view=3, max_steps=9)
    state, observations = environment.reset(jax.random.key(0))
    assert observations[0, 2].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]  # the goal is the next cell to the right
    step = jax.jit(environment.step)

    def second_goal(seed):
        state, _ = environment.reset(jax.random.key(seed))
        state, _, rewards, _, info = step(jax.random.key(0), state, jnp.asarray([4]))
        assert rewards.tolist() == [1.0] and info["reached"].tolist() == [True]
        assert state.positions.tolist() == [[0, 1]] and state.num_reached.tolist() == [1]
        return tuple(state.goals[0].tolist())

    drawn = collections.Counter(second_goal(seed) for seed in range(60))
    assert set(drawn) == {(0, 0), (0, 2)} and min(drawn.values()) > 30 - 5 * np.sqrt(60 / 4)
    before = state.positions
    state, _, rewards, _, _ = step(jax.random.key(0), state, jnp.asarray([0]))
    assert rewards.tolist() == [0.0] and (state.positions == before).all() and state.goals.tolist() == [[0, 1]]


@pytest.mark.parametrize("rule", ["soft", "priority"])
def test_agrees_with_the_world_of_agents_step_by_step(rule):
    blocked = np.zeros((4, 5), bool)
    blocked[2, 2] = True
    starts, goals = [[0, 0], [0, 4], [3, 2], [1, 1]], [[3, 4], [3, 0], [0, 2], [1, 3]]
    environment = pathfinding(blocked, 4, view=3, max_steps=80, rule=rule, starts=starts, goals=goals)
    tables = jax.tree.map(jnp.asarray, map_tables("pathfinding", blocked)[0])
    state, observations = jax.jit(environment.reset)(jax.random.key(1))
    step, draw_goals = jax.jit(environment.step), jax.jit(next_goals)

    def draw(agent, number, cell):
        if number == 0:
            return tuple(goals[agent])
        index = jnp.full(1, agent), jnp.full(1, number), jnp.asarray([cell])
        return tuple(draw_goals(tables, state.which_map, state.goal_seed, *index)[0].tolist())

    world = PathfindingWorld(blocked.tolist(), [tuple(cell) for cell in starts], draw)
    rng = np.random.default_rng(0)
    for t in range(80):
        assert [tuple(p) for p in np.asarray(state.goals).tolist()] == world.goals
        assert np.array_equal(observations, np.asarray(world.observe(1)))
        ahead = np.asarray(state.goals) - np.asarray(state.positions)
        greedy = np.where(ahead[:, 0] < 0, 1, np.where(ahead[:, 0] > 0, 2, np.where(ahead[:, 1] < 0, 3, 4)))
        actions = np.where(rng.random(4) < 0.6, greedy, rng.integers(0, 5, 4))
        state, observations, rewards, _, _ = step(jax.random.key(t), state, jnp.asarray(actions))
        assert rewards.tolist() == world.step(actions.tolist(), rule)
        assert [tuple(p) for p in np.asarray(state.positions).tolist()] == world.positions
    assert np.asarray(state.num_reached).tolist() == world.reached and min(world.reached) >= 1


def test_each_reset_draws_one_kind_of_episode_with_its_starts_and_goals():
    starts = np.asarray([[[0, 0], [1, 1]], [[2, 3], [0, 1]], [[1, 2], [1, 3]]])
    goals = starts[:, ::-1]
    positions, firsts, which = resets(pathfinding(OPEN, 2, view=3, starts=starts, goals=goals), 300)
    kinds = [starts.tolist().index(row) for row in positions.tolist()]
    assert firsts.tolist() == [goals[kind].tolist() for kind in kinds] and not which.any()
    counts = np.bincount(kinds, minlength=3)
    assert abs(counts - 100).max() < 5 * np.sqrt(300 * 2 / 9)
    # One set of starts serves all kinds of goals.
    positions, firsts, _ = resets(pathfinding(OPEN, 2, view=3, starts=[[0, 0], [2, 2]], goals=starts[1:]), 50)
    assert (positions == [[0, 0], [2, 2]]).all()
    assert {str(row) for row in firsts.tolist()} == {str(row) for row in starts[1:].tolist()}


def test_places_belong_to_the_maps_of_their_number():
    maps = np.stack([CUT, CUT])
    maps[1] = [[0, 0, 0, 0], [1, 1, 1, 0]]
    starts, goals = [[[1, 0]], [[1, 3]]], [[[0, 1]], [[0, 0]]]
    positions, firsts, which = resets(pathfinding(maps, view=3, starts=starts, goals=goals), 60)
    assert set(which.tolist()) == {0, 1}
    assert positions.tolist() == [starts[k] for k in which] and firsts.tolist() == [goals[k] for k in which]


def test_one_of_the_two_may_be_left_to_the_draw():
    positions, firsts, _ = resets(pathfinding(CUT, view=3, starts=[[0, 0], [1, 3]]), 200)
    assert (positions == [[0, 0], [1, 3]]).all()
    assert {tuple(cell) for cell in firsts[:, 0].tolist()} == {(0, 1), (1, 0), (1, 1)}
    assert {tuple(cell) for cell in firsts[:, 1].tolist()} == {(0, 3)}
    positions, firsts, _ = resets(pathfinding(OPEN, view=3, goals=[[0, 0], [2, 3]]), 200)
    assert (firsts == [[0, 0], [2, 3]]).all()
    seen = {tuple(cell) for cell in positions.reshape(-1, 2).tolist()}
    assert seen == {(i, j) for i in range(3) for j in range(4)} - {(0, 0), (2, 3)}
    cells = np.zeros((3, 4), bool)
    cells[0] = True
    positions, firsts, _ = resets(pathfinding(OPEN, view=3, starts=[[2, 0], [2, 1]], goals=cells), 50)
    assert (positions == [[2, 0], [2, 1]]).all() and not firsts[..., 0].any()


def test_what_was_drawn_before_is_drawn_still():
    """Places that are not given cost no draw: the same key, the same episode, with cells or without."""
    plain, marked = pathfinding(OPEN, 3, view=3), pathfinding(OPEN, 3, view=3, starts=~OPEN, goals=~OPEN)
    for one, other in zip(resets(plain, 10), resets(marked, 10), strict=True):
        assert np.array_equal(one, other)


def test_the_follower_takes_places_too():
    """Along the corridor, five steps to the goal: that is what it takes."""
    text = """
        a....A
        ######
        B....b
    """
    obstacles, starts, goals = parse_pogema(text)
    environment = following(obstacles, starts=starts, goals=goals, view=3, max_steps=5)
    state, _ = environment.reset(jax.random.key(3))
    assert state.world.goals.tolist() == [[0, 5], [2, 0]] and state.waypoints.tolist() == [[0, 1], [2, 4]]
    step = jax.jit(environment.step)
    for _ in range(5):
        state, _, _, _, info = step(jax.random.key(0), state, follow(jax.random.key(0), state, 0.0))
    assert info["reached"].tolist() == [True, True] and bool(info["is_over"])
    assert float(environment.metrics(state)["throughput"]) == pytest.approx(2 / 5)


def test_play_begins_every_episode_anew_at_its_places():
    environment = pathfinding(OPEN, view=3, max_steps=4, starts=[[0, 0], [2, 3]], goals=[[0, 3], [2, 0]])
    process = play(environment, random_policy(environment))
    state = process.init(jax.random.key(0))
    step = jax.jit(process.step)
    for t in range(4):
        state, _ = step(jax.random.key(t), state)
    assert bool(state.is_over)
    fresh, _ = step(jax.random.key(9), state)
    assert int(fresh.world.round) == 1
    near = np.abs(np.asarray(fresh.world.positions) - [[0, 0], [2, 3]]).sum(axis=1)
    assert (near <= 1).all()


BAD = {
    "a start on a wall": (
        lambda: pathfinding(CUT, starts=[[0, 0], [0, 2]]),
        r"pathfinding: starts must be free cells, got an obstacle at \(0, 2\), of agent 1\.",
    ),
    "two agents in one cell": (
        lambda: pathfinding(OPEN, starts=[[0, 1], [2, 2], [0, 1]]),
        r"pathfinding: starts must be a different cell for each agent, got \(0, 1\) for agents 0 and 2\.",
    ),
    "two agents in one cell of an episode": (
        lambda: pathfinding(OPEN, starts=[[[0, 1], [2, 2]], [[1, 1], [1, 1]]]),
        r"starts must be a different cell for each agent, got \(1, 1\) for agents 0 and 1 of episode 1\.",
    ),
    "more agents than letters": (
        lambda: pathfinding(*letters("aA.\nbB.", 3)),
        r"pathfinding: num_agents must be at most 2, the agents whose starts are given, got 3\.",
    ),
    "fewer agents than letters": (
        lambda: pathfinding(*letters("aA.\nbB.", 1)),
        r"pathfinding: starts must be of 1 agents, as num_agents is, got 2\.",
    ),
    "a goal that cannot be reached": (
        lambda: pathfinding(*letters("a.#A\n..#.")),
        r"goals must be cells that their agents can reach, got \(0, 3\), of agent 0, who begins at \(0, 0\)\. Open a way",
    ),
    "a goal that drawn starts cannot reach": (
        lambda: pathfinding(CUT, goals=[[0, 3]]),
        r"goals must be cells that can be reached from wherever agents may begin, got \(0, 3\), of agent 0\. Give starts",
    ),
    "a goal on a wall": (
        lambda: pathfinding(CUT, starts=[[0, 0]], goals=[[1, 2]]),
        r"goals must be free cells, got an obstacle at \(1, 2\), of agent 0\.",
    ),
    "a goal where the agent is": (
        lambda: pathfinding(OPEN, starts=[[0, 0]], goals=[[0, 0]]),
        r"goals must be another cell than where the agent begins, got \(0, 0\), of agent 0\.",
    ),
    "off the map": (
        lambda: pathfinding(OPEN, starts=[[0, 0], [3, 0]]),
        r"starts must be cells of a map of 3 x 4, got \(3, 0\) among them\.",
    ),
    "alone in a cell": (
        lambda: pathfinding(np.asarray([[0, 1, 0, 0]], bool), starts=[[0, 0]]),
        r"starts must be cells from which two goals or more can be reached, got \(0, 0\), of agent 0\.",
    ),
    "unlike numbers of agents": (
        lambda: pathfinding(OPEN, starts=[[0, 0], [1, 1]], goals=[[2, 2]]),
        r"goals must be of 2 agents, as starts are, got 1\.",
    ),
    "unlike numbers of episodes": (
        lambda: pathfinding(np.stack([OPEN, OPEN]), starts=[[[0, 0]], [[0, 1]], [[0, 2]]]),
        r"obstacles must be one, or 3, as starts are, got 2\.",
    ),
    "no numbers": (
        lambda: pathfinding(OPEN, starts=[[0.0, 0.5]]),
        r"starts must be bool of the shape of obstacles, \[3, 4\], or integers \[A, 2\] or \[E, A, 2\], got float64",
    ),
    "nobody": (
        lambda: pathfinding(OPEN),
        r"num_agents must be given where neither starts nor goals are, agent by agent",
    ),
    "tracers": (
        lambda: jax.jit(lambda cells: pathfinding(OPEN, starts=cells).reset(jax.random.key(0)))(jnp.zeros((1, 2), int)),
        r"starts must be a known array, got a tracer\.",
    ),
    "a letter twice": (
        lambda: parse_pogema("aA\n.a"),
        r"parse_pogema: letter 'a' must be in one place, got it at \(0, 0\) and \(1, 1\)\.",
    ),
    "a start without a goal": (
        lambda: parse_pogema("a.\n.B"),
        r"goal 'B' must be there with its start 'b', got it alone",
    ),
    "a goal without a start": (lambda: parse_pogema("aAb"), r"start 'b' must be there with its goal 'B', got it alone"),
    "letters and marks": (
        lambda: parse_pogema("aA@"),
        r"text must be of letters, or of @ \$ !, got both 'A' and '@'\.",
    ),
    "other letters": (lambda: parse_pogema("aAä"), r"row 0 must be of \. # @ \$ ! and letters, got 'ä'\."),
    "no text": (lambda: parse_pogema(5), r"parse_pogema: text must be rows of cells, got 5\."),
}


def letters(text, num_agents=None):
    obstacles, starts, goals = parse_pogema(text)
    return obstacles, num_agents, 3, 512, "soft", starts, goals


@pytest.mark.parametrize("name", BAD)
def test_bad_places_are_refused_in_one_line(name):
    make, line = BAD[name]
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)
