"""Bounds of the way to the ring, against assignments by a solver; flocking scored by plans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from dlsim.environments.swarm import ring_distance
from dlsim.environments.swarm.flocking import flocking, shape_distance
from dlsim.environments.swarm.ring_distance import bracket, ring

bounds = jax.jit(bracket, static_argnums=1)


def assigned(positions: np.ndarray, cells: np.ndarray) -> int:
    """The least cost of an assignment, by SciPy."""
    costs = np.abs(positions[:, None] - cells).sum(axis=2)
    return int(costs[linear_sum_assignment(costs)].sum())


def exact(positions: np.ndarray, side: int) -> int:
    """E of flocking, one translation after the other."""
    starts = {tuple(start) for start in (positions[:, None] - ring(side)).reshape(-1, 2)}
    return min(assigned(positions, ring(side) + np.asarray(start)) for start in starts)


def drawn(kind: str, num: int, size: int, seed: int) -> np.ndarray:
    """Different cells of a square, int32 `[num, 2]`."""
    draw = np.random.default_rng(seed)
    many = 50 * num
    points = {
        "even": lambda: draw.integers(0, size, (many, 2)),
        "one crowd": lambda: draw.normal(size / 2, size / 5, (many, 2)),
        "two crowds": lambda: (
            np.where(draw.random((many, 1)) < 0.3, 0.25, 0.7) * size + draw.normal(0, size / 8, (many, 2))
        ),
        "diagonal": lambda: draw.uniform(0, size, (many, 1)) + draw.normal(0, size / 15, (many, 2)),
        "near": lambda: np.repeat(ring(num // 4 + 1), 50, axis=0) + draw.integers(-1, 4, (many, 2)),
    }[kind]()
    cells = np.unique(np.clip(points.astype(int), 0, size - 1), axis=0)
    assert len(cells) >= num
    return draw.permutation(cells)[:num].astype(np.int32)


KINDS = ("even", "one crowd", "two crowds", "diagonal", "near")


@pytest.mark.parametrize("side", [2, 3, 6])
def test_every_shortest_way_to_a_cell_comes_to_the_ring_at_one_of_four_points(side):
    last = side - 1
    places = np.stack(np.meshgrid(np.arange(-3, side + 3), np.arange(-3, side + 3)), axis=-1).reshape(-1, 2)
    clockwise = [(0, i) for i in range(last)] + [(i, last) for i in range(last)]
    clockwise += [(last, last - i) for i in range(last)] + [(last - i, 0) for i in range(last)]
    assert sorted(clockwise) == sorted(map(tuple, ring(side)))
    steps, entries = (np.asarray(x) for x in ring_distance._entries(jnp.asarray(places), last))
    assert np.array_equal(steps, np.abs(places[:, None] - np.asarray(clockwise)[entries]).sum(axis=2))
    around = np.abs(entries[:, :, None] - np.arange(4 * last))
    ways = (steps[:, :, None] + np.minimum(around, 4 * last - around)).min(axis=1)
    assert np.array_equal(ways, np.abs(places[:, None] - np.asarray(clockwise)).sum(axis=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num", [4, 8, 12, 16])
def test_the_distance_is_between_the_bounds(kind, num):
    for seed in range(4):
        positions = drawn(kind, num, 12, seed)
        low, high = map(int, bounds(positions, num // 4 + 1))
        wanted = exact(positions, num // 4 + 1)
        assert low <= wanted <= high and (wanted == 0) == (high == 0)
        assert wanted == int(shape_distance(jnp.asarray(positions), (12, 12), num // 4 + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_plans_are_close_to_the_best_ones(kind):
    """A solver's assignment to the translation of the plan is no dearer, and by 5 % or less cheaper."""
    num, side = 600, 151
    for seed in range(2):
        positions = jnp.asarray(drawn(kind, num, 200, seed))
        start = ring_distance._least(positions, side)[1]
        cost = ring_distance._entries(positions - start, side - 1)[0]
        nearest = positions[jnp.argmin(jnp.min(cost, axis=1))]
        start = np.asarray(start + ring_distance._way_to_ring(nearest - start, side - 1))
        assert (np.asarray(positions)[:, None] == ring(side) + start).all(axis=2).any()  # the translation is allowed
        low, high = map(int, bounds(positions, side))
        best = assigned(np.asarray(positions), ring(side) + start)
        assert low <= best <= high <= 1.05 * best


def test_evenly_strewn_agents_have_tight_bounds():
    for seed in range(3):
        low, high = map(int, bounds(drawn("even", 1000, 280, seed), 251))
        assert high - low <= 0.01 * high


@pytest.mark.parametrize("num", [4, 40, 1000])
def test_the_shape_itself_is_at_no_distance(num):
    side = num // 4 + 1
    shifted = ring(side)[np.random.default_rng(num).permutation(num)] + np.asarray([7, -3])
    assert list(map(int, bounds(shifted, side))) == [0, 0]
    shifted[0] += 500  # one agent is far away
    low, high = map(int, bounds(shifted, side))
    assert 0 < low <= high


def test_scores_of_plans_are_within_their_tolerance():
    worlds = {name: flocking(12, 12, 12, distance=name) for name in ("assignment", "plan")}
    steps = {name: jax.jit(world.step) for name, world in worlds.items()}
    furthest = 0.0
    for seed in range(3):
        states = {name: world.reset(jax.random.key(seed))[0] for name, world in worlds.items()}
        for number in range(30):
            key = jax.random.key(1000 * seed + number)
            actions = jax.random.randint(key, (12,), 0, 5)
            states = {name: steps[name](key, state, actions)[0] for name, state in states.items()}
            told = worlds["plan"].metrics(states["plan"])
            wrong = abs(float(states["plan"].score - states["assignment"].score))
            assert wrong <= int(told["distance_tolerance"])
            assert 0 <= int(told["distance"] - states["assignment"].distance[1]) <= int(told["distance_tolerance"])
            furthest = max(furthest, wrong)
        assert jnp.array_equal(states["plan"].positions, states["assignment"].positions)
    assert furthest > 0  # they are not the same, so that the tolerance says something


def test_plans_end_in_the_shape_and_are_the_same_in_a_batch():
    environment = flocking(8, 10, 10, distance="plan", reward="shaped")
    state, _ = environment.reset(jax.random.key(0))
    wanted = ring(3) + np.asarray([2, 2])
    wanted[0, 0] -= 1
    state = state._replace(positions=jnp.asarray(wanted), distance=jnp.asarray([9, 1, 0]))
    after, _, rewards, done, _ = environment.step(jax.random.key(1), state, jnp.asarray([2] + [0] * 7))
    assert int(after.distance[1]) == 0 and bool(done.all()) and float(after.score) == 9
    assert np.allclose(rewards, 0.1)
    many = np.stack([drawn("even", 200, 60, seed) for seed in range(4)])
    together = jax.vmap(lambda positions: bracket(positions, 51))(jnp.asarray(many))
    assert np.array_equal(together, [np.asarray(bounds(positions, 51)) for positions in many])


def test_plans_are_for_whole_shapes_that_can_be_counted():
    with pytest.raises(
        ValueError, match=r"flocking: num_agents must be a multiple of 4 for distance='plan', got 10. Use"
    ):
        flocking(10, distance="plan")
    with pytest.raises(
        ValueError, match=r"flocking: num_agents must be at most 17895 for distance='plan' on this grid"
    ):
        flocking(40_000, 30_000, 30_000, distance="plan")
