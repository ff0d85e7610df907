"""Worlds that are far larger than their populations give the same to the bit, by sorting units, as by going over cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments import grid
from dlsim.environments.swarm import physics, sparse_physics
from dlsim.environments.swarm.flocking import flocking
from dlsim.environments.swarm.foraging import foraging
from dlsim.environments.swarm.pursuit import pursuit
from dlsim.environments.swarm.synchronization import synchronization


def by(monkeypatch, how: str) -> None:
    monkeypatch.setattr(sparse_physics, "CELLS_PER_UNIT", 0 if how == "sorting" else 10**9)


@pytest.mark.parametrize(("num", "share"), [(4, 0.0), (18, 0.1), (40, 0.05)])
def test_pushes_are_those_of_the_scans_over_cells(num, share, monkeypatch):
    draw = np.random.default_rng(num)
    boards = []
    for _ in range(150):
        solid = draw.random((7, 9)) < share
        free = np.argwhere(~solid)
        positions = free[draw.permutation(len(free))[:num]]
        present = draw.random(num) < 0.9
        positions[~present] = draw.integers(-1, 10, (int(np.sum(~present)), 2))
        boards.append((positions, present, draw.integers(0, 6, num), draw.random(num) < 0.1, solid))
    stacked = [jnp.asarray(np.stack(parts)) for parts in zip(*boards, strict=True)]
    results = {}
    for how in ("cells", "sorting"):
        by(monkeypatch, how)
        results[how] = jax.jit(jax.vmap(lambda *parts: physics.push(*parts)[0]))(*stacked)
    assert jnp.array_equal(results["cells"], results["sorting"])
    assert not jnp.array_equal(results["cells"], stacked[0])


def test_a_line_that_reaches_beyond_the_map_is_pushed_out(monkeypatch):
    by(monkeypatch, "sorting")
    positions = jnp.asarray([[0, 0], [1, 0], [2, 0]])
    solid, everyone = jnp.zeros((4, 4), bool), jnp.ones(3, bool)
    pushed, _ = physics.push(positions, everyone, jnp.asarray([0, 1, 1]), ~everyone, solid)
    assert pushed.tolist() == [[-1, 0], [0, 0], [1, 0]]
    blocked, _ = physics.push(positions, everyone, jnp.asarray([0, 1, 1]), everyone & (jnp.arange(3) < 1), solid)
    assert blocked.tolist() == positions.tolist()  # its first unit is static


def test_who_stands_where_is_found():
    positions = jnp.asarray([[2, 3], [0, 0], [4, 4], [-1, 2], [1, 1]])
    present = jnp.asarray([True, True, True, True, False])
    who = sparse_physics.finder(positions, (5, 5), present)
    plane = grid.index_plane(positions, (5, 5), present)
    everywhere = jnp.stack(jnp.meshgrid(jnp.arange(5), jnp.arange(5), indexing="ij"), axis=-1).reshape(-1, 2)
    assert jnp.array_equal(who(everywhere).reshape(5, 5), plane)
    assert who(jnp.asarray([[-1, 2], [5, 0], [0, 5]])).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("task", [pursuit, synchronization, foraging, flocking])
def test_episodes_are_the_same_either_way(task, monkeypatch):
    ends = {}
    for how in ("cells", "sorting"):
        by(monkeypatch, how)
        environment = task(num_agents=10)

        def step(state, key, environment=environment):
            actions = jax.random.randint(key, (10,), 0, environment.action_space.num)
            state, observations, rewards, _, info = environment.step(key, state, actions)
            return state, (state, observations, rewards, info)

        start = environment.reset(jax.random.key(3))[0]
        ends[how] = jax.jit(
            lambda start, step=step: jax.lax.scan(step, start, jax.random.split(jax.random.key(4), 40))
        )(start)
    assert all(map(jnp.array_equal, jax.tree.leaves(ends["cells"]), jax.tree.leaves(ends["sorting"])))
    assert float(ends["cells"][1][3]["displacement"].max()) > 0 and int(ends["cells"][1][3]["pairs_kept"].max()) > 0
