"""The tiny mode of the experiment on vanishing variance: what shrinks without the correction, and stays with it."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "17_vanishing_variance.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None, None]  # too short to decide
    experiment = load_experiment(FILE)
    theory = experiment.module.recursion(make_config(experiment, "tiny"), 4)
    np.testing.assert_allclose(theory[:2], [1, 0.5**2 + 0.5**2 / 4])
    variance = saved.results.variance.squeeze("seed", drop=True)
    plain, kept = (
        variance.sel(case=f"{method} regular iid every=1").transpose("step", "layer").values for method in ("gl", "vc")
    )
    np.testing.assert_allclose(plain[1, :3] / plain[0, :3], theory[1], rtol=0.1)
    np.testing.assert_allclose(kept[:, :3] / kept[0, :3], 1, atol=0.05)
    ends = saved.results.accuracy.squeeze("seed", drop=True).isel(step=-1)
    assert float(ends.sel(case="vc regular iid")) > float(ends.sel(case="gl regular iid")) + 0.1


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    for case, line in (("sgd regular iid", "method must be"), ("gl cube iid", "graph must be")):
        with config.ignore_type():
            config.case = case
        with pytest.raises(ValueError, match=f"17_vanishing_variance: {line}"):
            experiment.module.build(config)
