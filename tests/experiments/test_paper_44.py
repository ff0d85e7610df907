"""The tiny mode of the experiment on DADAO, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "44_dadao.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None]  # too short to decide
    distance = saved.results.distance.isel(seed=0)
    first, last = distance.isel(step=0), distance.isel(step=-1)
    assert float(last.sel(case="ring dadao")) < 1e-2 * float(first.sel(case="ring dadao"))
    assert float(last.sel(case="rates 0.8")) > float(first.sel(case="rates 0.8"))
    # Meetings a unit of time, one message as the paper counts them.
    sent = saved.results.messages_sent.isel(step=-1, seed=0) / 2
    steps = int(saved.results.step[-1])
    for case, rate in (("ring dadao", 39.7), ("barbell optimal", 32.9)):
        assert abs(float(sent.sel(case=case)) / (rate * steps) - 1) < 0.15
    assert float(sent.sel(case="ring adom_plus_mc")) == steps * 16 * 19  # 19 gossip steps over 16 links a round


def made_up(module: Any, **slopes: float) -> xarray.Dataset:
    """Results that fall at given slopes, from 1e4 at time 0."""
    cases = [f"{graph} {method}" for graph in module.GRAPHS for method in ("dadao", "adom_plus_mc")]
    cases += [f"rates {factor:g}" for factor in module.FACTORS]
    time = np.arange(301)
    distance = [1e4 * np.exp(-slopes.get(case.replace(" ", "_"), 0.1) * time) for case in cases]
    sent = [time * 2 * (400.0 if case.endswith("mc") else 40.0) for case in cases]
    values = {
        "distance": np.array(distance)[:, None],
        "messages_sent": np.array(sent)[:, None],
        "gradient_evaluations": np.tile(1600.0 * time, (len(cases), 1, 1)),
    }
    dims = ("case", "seed", "step")
    return xarray.Dataset({k: (dims, v) for k, v in values.items()}, {"case": cases, "seed": [0], "step": time})


def test_what_the_claims_say_of_made_up_results() -> None:
    module = load_experiment(FILE).module
    rates = {"rates_0.8": -0.1, "rates_0.9": 0.08}

    def judged(**slopes: float) -> SimpleNamespace:
        found = {claim.text[:2]: claim.holds for claim in module.claims(made_up(module, **{**rates, **slopes}))}
        return SimpleNamespace(**found)

    good = judged()
    assert good.C1 and good.C2 and good.C4
    assert not judged(path_dadao=0.08).C1
    assert not judged(star_dadao=0.01).C2  # the star's is the last of the three
    assert not judged(rates_2=0.2).C4
    assert not judged(**{"rates_0.8": 0.05}).C4


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "moebius dadao"
    with pytest.raises(ValueError, match="44_dadao: case must be one of"):
        experiment.module.build(config)
