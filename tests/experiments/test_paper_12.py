"""Experiment 12 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import pytest

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "12_decentralized_storage.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    held = {claim.text[:9]: claim.holds for claim in saved.claims}
    assert held["C1, whole"] and held["C6: hashe"]
    assert held["C4: push "] is held["C2: the m"] is held["C3: the s"] is held["C5: Snowb"] is None
    last = saved.results.isel(step=-1, seed=0)
    # 300 bytes of each record on average, and its hash.
    assert float(last.records_per_node.sel(case="store 100")) * 10_000 / 1000 == pytest.approx(300)


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "tangled 5"
    with pytest.raises(ValueError, match="12_decentralized_storage: case must be one of tangle"):
        experiment.module.build(config)
