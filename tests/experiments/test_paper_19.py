"""The tiny mode of the experiment on sharpness-aware local steps and several gossip steps."""

from __future__ import annotations

import pathlib

import pytest

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "19_dfedsam.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert {claim.holds for claim in saved.claims} == {None}  # too short to decide
    last = saved.results.squeeze("seed", drop=True).isel(step=-1)
    bits = last.bits_sent.astype(float)
    assert float(bits.sel(case="ring 0.05 4")) == 4 * float(bits.sel(case="ring 0.05 1"))
    distance = last.consensus_distance
    assert float(distance.sel(case="ring 0.05 4")) < 0.6 * float(distance.sel(case="ring 0.05 1"))
    assert (last.sharpness > 0).all() and (last.accuracy > 0.2).all()


def test_unknown_graphs_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "cube 0 1"
    with pytest.raises(ValueError, match="19_dfedsam: graph must be"):
        experiment.module.build(config)
