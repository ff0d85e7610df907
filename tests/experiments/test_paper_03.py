"""The tiny mode of the experiment on one byte a gradient, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "03_just_one_byte.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None]  # too short to decide
    last = saved.results.isel(step=-1, seed=0)
    plain, byte, lossy = (last.sel(case=f"{case}") for case in last.case.values)
    rounds = int(saved.results.step[-1])
    assert float(byte.bits_sent) == rounds * 8 * 7 * 4 * 8  # four bytes to each of the others
    assert float(plain.bits_sent) == 4 * float(byte.bits_sent)
    assert abs(float(plain.loss) - float(byte.loss)) < 0.01 < float(saved.results.loss[0, 0, 0] - plain.loss) + 0.01
    assert float(byte.consensus_distance) == 0 < float(lossy.consensus_distance)


def made_up(module: object, final: dict[str, float], apart: dict[str, float]) -> xarray.Dataset:
    """Three seeds, 300 rounds: losses that fall evenly from 2.2, and copies that come apart evenly."""
    cases, steps = module.get_config("default").case, np.arange(0, 301, 10)
    share = steps / 300
    loss = np.array([[2.2 + (final.get(case, 2.0) - 2.2) * share] * 3 for case in cases])
    distance = np.array([[apart.get(case, 0.0) * share] * 3 for case in cases])
    dims = ("case", "seed", "step")
    return xarray.Dataset(
        {"loss": (dims, loss), "consensus_distance": (dims, distance), "bits_sent": (dims, np.ones_like(loss))},
        {"case": list(cases), "step": steps},
    )


@pytest.mark.parametrize("is_right", [True, False])
def test_claims_follow_the_numbers(is_right: bool) -> None:
    module = load_experiment(FILE).module
    byte = "log8 N=8 lr=0.04"
    right = {
        f"float32 N={n} lr={r:g}": value
        for n, value in ((1, 2.12), (4, 2.1), (8, 2.08), (16, 2.06))
        for r in module.RATES
    }
    right |= {byte: 2.081, f"{byte} alive=0.7": 2.1, f"{byte} alive=0.3": 2.16}
    right |= {f"sign N=8 lr={rate:g}": 2.1 for rate in module.SIGN_RATES}
    right |= {"backprop N=8 lr=0.3": 1.7, "backprop N=8 lr=1": 1.5}
    apart = {f"{byte} lost=0.01": 0.1, f"{byte} lost=0.01 refresh=64": 0.02, f"{byte} lost=0.1": 1.0}
    wrong = {byte: 2.09, f"{byte} alive=0.7": 2.15, f"{byte} alive=0.3": 2.1, "float32 N=1 lr=0.04": 1.9}
    wrong |= {f"sign N=8 lr={module.SIGN_RATES[1]:g}": 2.091, "backprop N=8 lr=0.3": 2.07}
    apart_wrong = {f"{byte} lost=0": 0.1, f"{byte} lost=0.01 refresh=64": 0.09, f"{byte} lost=0.01": 0.1}
    found = module.claims(
        made_up(module, right if is_right else {**right, **wrong}, apart if is_right else apart_wrong)
    )
    assert len(found) == 8
    assert [claim.holds for claim in found] == 8 * [is_right]
    assert module.figure(made_up(module, right, apart)) is not None


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "gzip N=8 lr=0.04"
    with pytest.raises(ValueError, match="03_just_one_byte: case must be"):
        experiment.module.build(config)
