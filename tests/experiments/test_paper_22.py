"""The tiny mode of the flag aggregator's experiment: reversed gradients stop the mean, and liars are seen."""

from __future__ import annotations

import pathlib

import numpy as np

from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "22_flag_aggregator.py"


def test_the_tiny_mode_learns_with_flag_and_not_with_the_mean(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    results = saved.results.squeeze()
    last = results.accuracy.isel(step=-1)
    assert float(last.sel(case="softmax reverse f=3 flag")) > 0.5 > float(last.sel(case="softmax reverse f=3 mean"))
    told = results.sel(case="softmax gaussian f=3 told-4")
    seen = told.qualities.isel(step=slice(1, None)).values
    assert seen.shape == (results.sizes["step"] - 1, 15)
    assert (seen >= 0).all() and (seen <= 1 + 1e-6).all()
    assert seen[:, 12:].mean() < 0.5 * seen[:, :12].mean()
    cosines = told.cosines.values
    np.testing.assert_array_equal(cosines[0], 0)
    assert (np.abs(cosines[1:]) <= 1 + 1e-6).all() and (cosines[1] > 0.9).all()
    assert not results.qualities.sel(case="softmax reverse f=3 flag").values.any()
