"""The tiny mode of the sweep over stragglers, and what it rests on."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "sweeps" / "asynchrony.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert len(saved.claims) == 6
    assert all(claim.holds is None for claim in saved.claims)  # too short to decide
    last = saved.results.isel(step=-1, seed=0)
    # A round lasts as long as its slowest node, a window lasts a second; messages take a millisecond.
    seconds = last.simulated_seconds
    assert float(seconds.sel(case="torus dsgd", slowdown=10.0)) == pytest.approx(400, rel=2e-3)
    assert float(seconds.sel(case="torus dsgd", slowdown=1.0)) == pytest.approx(40, rel=2e-3)
    assert float(seconds.sel(case="torus ad_psgd", slowdown=10.0)) == 40
    # Two of sixteen nodes are slow, and lose nine tenths of their gradients; the others lose none.
    gradients = last.gradient_evaluations.sel(case="torus ad_psgd")
    assert float(gradients.sel(slowdown=10.0) / gradients.sel(slowdown=1.0)) == pytest.approx(14.2 / 16, abs=0.02)
    assert float(gradients.sel(slowdown=1.0)) == pytest.approx(16 * 40 * 8, rel=0.03)
    assert float(last.accuracy.sel(case="torus ad_psgd", slowdown=10.0)) > 0.6


def test_every_tenth_node_is_slow() -> None:
    module = load_experiment(FILE).module
    taken = module.seconds_per_gradient(25, 10, 7.0)
    assert np.flatnonzero(taken == 7.0).tolist() == [0, 10, 20]
    assert (np.delete(taken, [0, 10, 20]) == 1.0).all()


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.slowdown, config.case = 1.0, "mesh dsgd"
    with pytest.raises(ValueError, match="asynchrony: case must be"):
        experiment.module.build(config)
    with config.ignore_type():
        config.case = "ring nothing"
    with pytest.raises(ValueError, match="asynchrony: method must be"):
        experiment.module.build(config)
