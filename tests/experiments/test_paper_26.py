"""The tiny mode of the experiment on anarchic federated learning, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "26_anarchic_fl.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None]  # too short to decide
    assert "slope -" in saved.claims[-1].measured
    devices = saved.results.sel(case="afa_cd p=1 r=1")
    assert devices.accuracy.values.ravel()[-1] > 0.5
    # Half of the clients return a tenth as often: fewer versions in the same time.
    versions = saved.results.num_aggregations.isel(step=-1, seed=0)
    ratio = float(versions.sel(case="afa_cd p=1 r=0.1")) / float(versions.sel(case="afa_cd p=1 r=1"))
    assert 0.2 < ratio < 0.8
    distance = saved.results.distance.isel(step=slice(10, None)).mean(["step", "seed"])
    assert 40 < float(distance.sel(case="variance m=1") / distance.sel(case="variance m=8")) < 90


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "sgd p=1 r=1"
    with pytest.raises(ValueError, match="26_anarchic_fl: case must be"):
        experiment.module.build(config)
    assert np.isclose(experiment.module.TOTAL_STEP, 0.1)
