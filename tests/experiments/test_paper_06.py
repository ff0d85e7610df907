"""The tiny mode of the experiment on MoDeST, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "06_modest.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert {claim.holds for claim in saved.claims} == {None}  # too short to decide
    assert [claim.text[:2] for claim in saved.claims] == ["C1", "C2"]
    last = saved.results.isel(step=-1, seed=0)
    assert (last.accuracy.sel(case=["modest a=1 iid", "fedavg iid", "dsgd iid"]) > 0.5).all()
    # 2 s - 1 - s / N models a round, the first without downloads; FedAvg 2 s; D-SGD N.
    assert float(last.models.sel(case="fedavg iid")) == 20 * 10
    assert float(last.models.sel(case="dsgd iid")) == 20 * 20
    assert 19 * 8 < float(last.models.sel(case="modest a=1 iid")) < 20 * 10
    joined = saved.results.known.sel(case="play joins a=2").isel(seed=0, play=0)
    assert float(joined.isel(step=-1)) > 0.95 and float(joined.min()) < 0.95
    assert np.isnan(saved.results.pings.sel(case="fedavg iid")).all()


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "sgd iid"
    with pytest.raises(ValueError, match="06_modest: case must be"):
        experiment.module.build(config)
