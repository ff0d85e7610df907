"""The tiny mode of the experiment on Streaming DiLoCo, and the closed forms behind its claims."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import SavedRun, load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "47_streaming_diloco.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    return run_experiment(FILE, "tiny", out=tmp_path_factory.mktemp("streaming") / "run", progress=False)


def test_the_tiny_mode_gives_claims_and_a_figure(saved: SavedRun) -> None:
    assert (saved.folder / "figure.png").exists()
    holds = {claim.text[:12]: claim.holds for claim in saved.claims}
    assert holds["Streaming, o"] is None  # too short to tell
    assert holds["Bits of all "] and holds["The largest "] and holds["Time model, "]
    loss = saved.results.loss.isel(seed=0)
    assert (loss.isel(step=-1) < loss.isel(step=0)).all()


def test_bits_are_those_of_the_entries_and_what_goes_with_them(saved: SavedRun) -> None:
    """48 local steps on digits: 64 x 8 + 3 x (8 x 8 + 8) + 8 x 10 and the biases, from two replicas (eight on the ring)."""
    size = 64 * 8 + 8 + 3 * (8 * 8 + 8) + 8 * 10 + 10
    bits = saved.results.bits_sent.isel(step=-1, seed=0)
    assert float(bits.sel(case="data parallel")) == 2 * 48 * 16 * size
    assert float(bits.sel(case="DiLoCo")) == 2 * 4 * 32 * size
    assert float(bits.sel(case="full")) == 2 * 4 * (4 * size + 32 * 10)
    assert float(bits.sel(case="ring of 8")) == 8 * 2 * 4 * (4 * size + 32 * 10)  # two neighbours each
    zeroed = float(bits.sel(case="zeroed"))
    assert zeroed == pytest.approx(2 * 4 * (4 * size + 4 * 64), rel=0.05)


def test_the_time_model_by_hand() -> None:
    shares = load_experiment(FILE).module.utilisation()
    assert float(shares["DiLoCo"](2e9)) == pytest.approx(10 / 18)
    assert float(shares["streaming"](2e9)) == pytest.approx(10 / 18)
    assert float(shares["+ FP4"](2e9)) == pytest.approx(1.25 / 1.40)
    assert float(shares["data parallel"](160e9)) == pytest.approx(0.5)
    assert (np.diff(shares["+ overlap"](np.logspace(8, 12, 50))) >= 0).all()


def test_unknown_cases_and_rounds_that_do_not_fit_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "FP4"
    with pytest.raises(ValueError, match="47_streaming_diloco: case must be one of"):
        experiment.module.build(config)
    config.case, config.local_steps_per_record = "full", 10
    with pytest.raises(ValueError, match="local_steps_per_record must be a multiple of the 12 local steps of a round"):
        experiment.module.build(config)
