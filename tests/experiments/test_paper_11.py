"""The Follower's experiment: its smallest mode, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "11_learn_to_follow.py"
MODULE = load_experiment(FILE).module


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists() and [claim.holds for claim in saved.claims] == [None, None]
    last = saved.results.throughput.isel(step=-1, seed=0)
    assert (last >= 0).all() and float(last.max()) > 0
    assert float(last.max()) <= 16


def test_the_time_an_agent_and_step_is_that_of_the_fastest_seed_over_the_agents() -> None:
    results = made_up((0.7, 0.8, 2.2, 2.4), (0.4, 0.4, 1.3, 1.2))
    seconds = np.full((4, 4, 2), 1.0)
    seconds[2, 1] = 0.0064, 0.0128  # dynamic costs, 128 agents
    results["seconds_per_step"] = (("costs", "world", "seed"), seconds)
    assert MODULE._cost(results, "warehouse 128", "dynamic") == pytest.approx(50.0)
    assert MODULE.TIMED  # a time of runs that shared the machine would say nothing
    panel = MODULE.figure(results).axes[2]
    line = next(line for line in panel.lines if line.get_label() == "dynamic")
    np.testing.assert_array_equal(line.get_xdata(), [64, 128])
    np.testing.assert_allclose(line.get_ydata(), [1e6 / 64, 50.0])


def made_up(crowd: tuple[float, ...], random: tuple[float, ...]) -> xarray.Dataset:
    worlds = ["warehouse 64", "warehouse 128", "random 32 0", "random 32 1"]
    levels = np.array([[0.5, value, flat, flat] for value, flat in zip(crowd, random, strict=True)])
    values = np.broadcast_to(levels[:, :, None, None], (4, 4, 2, 3))
    return xarray.Dataset(
        {"throughput": (("costs", "world", "seed", "step"), values)},
        {"costs": list(MODULE.COSTS), "world": worlds, "seed": [0, 1], "step": [0, 128, 256]},
    )


@pytest.mark.parametrize(
    ("crowd", "random", "holds"),
    [
        ((0.7, 0.8, 2.2, 2.4), (0.4, 0.4, 1.3, 1.2), [True, True]),
        ((0.7, 0.8, 2.5, 2.4), (0.4, 0.4, 1.3, 1.2), [False, True]),
        ((0.7, 0.8, 1.5, 2.4), (0.4, 0.4, 0.7, 1.2), [False, False]),
        ((1.3, 0.8, 2.2, 2.4), (0.4, 0.4, 0.8, 1.2), [False, True]),
    ],
)
def test_claims(crowd: tuple[float, ...], random: tuple[float, ...], holds: list[bool]) -> None:
    assert [claim.holds for claim in MODULE.claims(made_up(crowd, random))] == holds
