"""Experiment 23 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim import trust
from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "23_universal_trust_machine.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    held = [claim.holds for claim in saved.claims if claim.text[:2] in ("C1", "C2", "C3", "C5")]
    assert held == [True] * 7
    last = saved.results.isel(step=-1, seed=0)
    # Closed forms of a clique that gets a share s = 0.1 / 4.1 of honest trust, and a third of p or none of it.
    gains, leak = 0.85 * 0.1 / 4.1, 0.15 + 0.85 * 0.1 / 4.1
    assert float(last.clique_share.sel(case="sybils pretrusted 20 0.1")) == pytest.approx(gains / leak, abs=1e-3)
    assert float(last.clique_share.sel(case="sybils uniform 20 0.1")) == pytest.approx((0.05 + gains) / leak, abs=1e-3)
    assert float(last.clique_share.sel(case="sybils pretrusted 20 0.0")) == 0
    assert float(last.clique_share.sel(case="sybils uniform 20 0.0")) == pytest.approx(1 / 3, abs=1e-3)


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "market fame"
    with pytest.raises(ValueError, match="23_universal_trust_machine: case must be one of image, none, own, eigen"):
        experiment.module.build(config)


def test_the_steps_of_eigentrust_lead_to_its_eigenvector() -> None:
    step = load_experiment(FILE).module._eigen_step
    weights = np.random.default_rng(0).integers(0, 3, (9, 9)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    weights[4] = 0  # trusts nobody
    first = np.array([0.5, 0.5] + [0] * 7, np.float32)
    found = first
    for _ in range(60):
        found = step(weights, first, found)
    known = trust.eigen_trust(trust.trust_matrix(weights), pretrusted=[0, 1])
    np.testing.assert_allclose(found, known, atol=1e-5)
