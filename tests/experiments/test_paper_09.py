"""Experiment 09 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment, make_config
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "09_g_rank.py"


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(FILE)


def made_up(module, **changed):
    """Distances at 0, 10, ..., 100 % of the ticks, by case, of three seeds and two nodes, as the page has them."""
    values = {
        "none pull": [87, 39, 6, 0, 0, 0, 0, 0, 0, 0, 0],
        "none push": [87, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        "targeted pull": [87, 39, 6, 0, 0, 0, 5, 7, 8, 9, 10],
        "inflation pull": [87, 39, 6, 0, 0, 0, 19, 25, 30, 33, 37],
        "epic pull": [87, 39, 6, 0, 0, 0, 40, 50, 55, 58, 60],
        "targeted push": [87, 8, 1, 0, 0, 8, 12, 12, 12, 12, 12],
        **changed,
    }
    cases = list(module.CASES)
    table = np.array([values[case] for case in cases], float)
    distance = np.broadcast_to(table[:, None, None, :, None], (len(cases), 2, 3, 11, 2))
    dims = ("case", "isolation", "seed", "step", "node")
    coords = {"case": cases, "isolation": [0.0, 1.0], "step": np.linspace(0, 4000, 11)}
    return xarray.Dataset({"distance": (dims, distance)}, coords=coords)


def test_tiny_run(tmp_path):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert all(claim.holds is None for claim in saved.claims)
    distance = saved.results.distance.mean("node").isel(step=[0, -1]).sel(case="none pull")
    assert float(distance.isel(step=1).mean()) < float(distance.isel(step=0).mean())


def test_claims_follow_the_numbers(experiment):
    claims = experiment.module.claims
    held = [claim.holds for claim in claims(made_up(experiment.module))]
    assert held == [True] * 5

    def first_words(**changed):
        return [c.text[:2] for c in claims(made_up(experiment.module, **changed)) if not c.holds]

    nowhere = [87, 60, 50, 40, 30, 20, 20, 20, 20, 20, 20]
    assert first_words(**{"none pull": nowhere}) == ["C1"]
    heals = [87, 39, 6, 0, 0, 0, 30, 20, 10, 5, 2]
    assert first_words(**{"inflation pull": heals}) == ["C2"]
    assert first_words(**{"epic pull": [87, 39, 6, 0, 0, 0, 4, 4, 4, 4, 4]}) == ["Th"]
    assert first_words(**{"none push": nowhere}) == ["C3"]


def test_cases_have_names(experiment):
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "epic"
    with pytest.raises(ValueError, match="09_g_rank: case must be one of"):
        experiment.module.build(config)
