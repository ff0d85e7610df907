"""The tiny mode of the experiment on Sybils, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "13_sybilwall.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert saved.claims and all(claim.holds is None for claim in saved.claims)  # too short to decide
    last = saved.results.isel(step=-1, seed=0)
    sybils = last.num_sybils
    assert int(sybils.sel(case="average flip alpha=0.1 phi=0")) == 0
    assert int(sybils.sel(case="average flip alpha=0.1 phi=1")) == 3
    poisoned = float(last.success.sel(case="average flip alpha=0.1 phi=1"))
    assert poisoned > 0.1 + float(last.success.sel(case="average flip alpha=0.1 phi=0"))
    assert float(last.success.sel(case="sybilwall flip alpha=0.1 phi=1")) < poisoned


def test_claims_of_made_up_results() -> None:
    experiment = load_experiment(FILE)
    module, config = experiment.module, make_config(experiment, "default")
    cases = list(config.case)

    def results(wall_score: float) -> xarray.Dataset:
        shape = (len(cases), 31, 3)
        accuracy, success = np.full(shape, 0.7), np.full(shape, 0.8)
        for place, case in enumerate(cases):
            rule, _, _, phi, _ = module._parse(case)
            if rule == "sybilwall":
                success[place] = wall_score / max(phi, 0.1)
                accuracy[place] = 0.69
            if rule == "local":
                accuracy[place] = 0.2
            if rule == "average" and phi > 1:
                accuracy[place] = 0.45
        dims = ("case", "step", "seed")
        return xarray.Dataset(
            {"accuracy": (dims, accuracy), "success": (dims, success)}, {"case": cases, "step": range(31)}
        )

    good, bad = (module.claims(results(score)) for score in (0.1, 0.5))
    assert [claim.holds for claim in good] == [True] * 8
    assert [claim.holds for claim in bad] == [False] * 4 + [True] * 4


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    for case, line in (("sgd flip alpha=1 phi=1", "rule must be"), ("average noise alpha=1 phi=1", "attack must be")):
        with config.ignore_type():
            config.case = case
        with pytest.raises(ValueError, match=f"13_sybilwall: {line}"):
            experiment.module.build(config)
