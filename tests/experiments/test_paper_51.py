"""The tiny mode of the FedFix experiment, and the closed forms behind its claims."""

from __future__ import annotations

import pathlib

import numpy as np

from dlsim.experiment import load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "51_fedfix.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None, None]
    assert [claim.reported for claim in saved.claims] == ["0.3252", "0.3000"]
    # After 150 of 3,000 time units the averages are near their limits already.
    late = saved.results.place.sel(learning_rate=0.1).isel(seed=0, step=slice(30, None)).mean("step")
    assert abs(float(late.sel(case="scalar F-80 async equal")) - 0.3252) < 0.05
    assert abs(float(late.sel(case="scalar F-80 fedfix-0.3 equal")) - 0.3) < 0.05


def test_the_limits_are_those_of_the_theory() -> None:
    limits = load_experiment(FILE).module._limits()
    times, centres = 1 - 0.8 * np.arange(10) / 9, np.linspace(-1, 1, 10)
    np.testing.assert_allclose(limits["async equal"], np.sum(centres / times) / np.sum(1 / times), rtol=1e-6)
    np.testing.assert_allclose(limits["fedfix-0.3 equal"], 0.3, atol=1e-6)
    assert limits["async"] == limits["fedfix-0.3"] == limits["fedavg"] == 0
