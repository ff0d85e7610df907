"""JaxMARL's experiment: its smallest mode, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest
import xarray

import dlsim
from dlsim.studies.experiment import load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "50_jaxmarl.py"
MODULE = load_experiment(FILE).module


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists() and [claim.holds for claim in saved.claims] == [None] * 3
    last = saved.results.isel(step=-1, seed=0)
    learners = last.sel(case=["ippo", "iql", "vdn"])
    assert (learners.episode_return < -5).all() and (learners.environment_steps > 1000).all()
    assert (learners.bits_sent == 0).all()
    worlds = last.sel(case=["steps simple_spread 1", "steps simple_spread 4096"])
    assert worlds.environment_steps.values.tolist() == [20, 2 * 4096] and (worlds.seconds_per_step > 0).all()
    assert (worlds.is_accelerated == (jax.default_backend() != "cpu")).all()


def made_up(**ends: float) -> xarray.Dataset:
    cases = list(MODULE.SHARED)
    steps = np.arange(26)
    start = -27.5
    levels = [ends.get(case, -40.0) / 3 for case in cases]
    values = np.array([[*np.linspace(start, level, 24), level, level] for level in levels])
    returns = np.stack([values - 0.1, values + 0.1], axis=1)
    return xarray.Dataset(
        {"episode_return": (("case", "seed", "step"), returns)}, {"case": cases, "seed": [0, 1], "step": steps}
    )


@pytest.mark.parametrize(
    ("ends", "holds"),
    [
        ({}, [True, True]),
        ({"ippo": -61.0}, [False, True]),
        ({"vdn": -44.0}, [True, False]),
        ({"vdn": -42.0}, [True, True]),
    ],
)
def test_claims(ends: dict[str, float], holds: list[bool]) -> None:
    assert [claim.holds for claim in MODULE.claims(made_up(**ends))] == holds


@pytest.mark.parametrize("name", list(MODULE.WORK))
def test_every_copy_of_a_world_is_stepped(name: str) -> None:
    world = MODULE._world(name)
    shape = jax.eval_shape(MODULE.stepping(world, 5, 3).init, jax.random.key(0))
    single, _ = jax.eval_shape(world.reset, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (5, *leaf.shape), single) == jax.tree.map(lambda leaf: leaf.shape, shape.worlds)


def test_steps_of_copies_are_counted_and_differ() -> None:
    process = MODULE.stepping(dlsim.environments.simple_spread(), 5, 3)
    state = process.init(jax.random.key(0))
    for turn in range(2):
        state, info = jax.jit(process.step)(jax.random.key(turn), state)
    assert int(process.measure(state, info)["environment_steps"]) == 5 * 3 * 2
    assert state.worlds.step.tolist() == [6] * 5 and np.isfinite(state.seen)
    positions = np.asarray(state.worlds.positions)
    assert all((positions[i] != positions[j]).all() for i in range(5) for j in range(i))


def test_an_episode_that_is_over_begins_anew() -> None:
    process = MODULE.stepping(dlsim.environments.simple_spread(max_steps=4), 2, 6)
    state, _ = jax.jit(process.step)(jax.random.key(1), process.init(jax.random.key(0)))
    assert state.worlds.step.tolist() == [2, 2]


def test_runs_side_by_side_are_runs_of_their_own() -> None:
    process, one = MODULE.training(3, 4, 2), MODULE.training(1, 4, 2)
    key = jax.random.key(0)
    states, alone = process.init(key), one.init(jax.random.split(key, 3)[2])
    for side, single in zip(
        jax.tree.leaves(states.algorithm.params), jax.tree.leaves(alone.algorithm.params), strict=True
    ):
        np.testing.assert_allclose(side[2], single, atol=1e-5)
        assert side.shape == (3, *single.shape)
    after, info = jax.eval_shape(process.step, key, states)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, states)
    assert jax.eval_shape(process.measure, after, info)["training_return"].shape == ()


def timed(ratio: float, runs: float, accelerated: bool, steps: int = 25_000) -> xarray.Dataset:
    """Two worlds and runs side by side: one copy makes 1,000 steps a second."""
    cases = ["steps simple_tag 1", "steps simple_tag 4096", "steps 3m 1", "steps 3m 4096", "runs 1", "runs 32"]
    done = np.array([steps, 8.0 * steps, steps, 8.0 * steps, steps, steps])
    rates = np.array([1_000.0, 1_000.0 * ratio, 1_000.0, 25_000.0])
    seconds = np.array([*(done[:4] / rates), 1.0, runs]) / 25
    records = np.stack([np.zeros(6), done], axis=1)[:, None].repeat(2, axis=1)
    return xarray.Dataset(
        {
            "environment_steps": (("case", "seed", "step"), records),
            "is_accelerated": (("case", "seed", "step"), np.full((6, 2, 2), float(accelerated))),
            "seconds_per_step": (("case", "seed"), seconds[:, None] * np.array([1.0, 1.1])),
        },
        {"case": cases, "seed": [0, 1], "step": [0, 25]},
    )


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ((20.1, 30.0, False), [True, True, None]),
        ((19.9, 7.0, False), [False, True, None]),
        ((501.0, 7.9, True), [True, False, True]),
        ((499.0, 8.1, True), [False, False, False]),
        ((20.1, 30.0, False, 100), [None, None, None]),
    ],
)
def test_claims_on_speed(given: tuple, holds: list[bool | None]) -> None:
    made = MODULE.claims(timed(*given))
    assert [claim.holds for claim in made] == holds
    assert f"{given[0]:.1f} times" in made[0].measured and "1,000/s" in made[0].measured


def test_figures_of_learners_and_of_worlds() -> None:
    both = xarray.concat(
        [made_up().assign(environment_steps=made_up().episode_return * 0 + 1e5), timed(5.0, 30.0, False)],
        "case",
        join="outer",
    )
    for results, titles in ((both, 4), (timed(5.0, 30.0, False), 2)):
        shown = [ax for ax in MODULE.figure(results).axes if ax.axison]
        assert len(shown) == titles and all(ax.get_legend_handles_labels()[1] for ax in shown)
    curves = [line for line in shown[0].lines if line.get_label() == "tag"]
    np.testing.assert_allclose(curves[0].get_ydata(), [1_000.0, 5_000.0])


@pytest.mark.parametrize(
    ("case", "line"),
    [("steps nowhere 4", "case must be one of"), ("steps 3m 0", "copies must be"), ("sarsa", "case must")],
)
def test_bad_cases_give_one_line(case: str, line: str) -> None:
    config = MODULE.get_config("tiny")
    with config.ignore_type():
        config.case = case
    with pytest.raises(ValueError, match=line):
        MODULE.build(config)
