"""Experiment 16 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "16_proof_of_contribution.py"


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def test_tiny_run(tmp_path):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None, None, True, None]
    assert saved.claims[2].measured.startswith("off by 0 units, the books by 0")
    last = saved.results.isel(step=-1).squeeze("seed")
    assert float(last.accuracy.sel(case="random 1")) > float(last.accuracy.sel(case="random none")) + 0.2
    paid = last.paid.sel(case="pay exact_shapley log_likelihood").values
    assert np.nansum(paid) == 1_000_000 and paid[:2].min() > paid[6:8].max()


def made_up(module):
    """Results of every case in default size, in which all claims hold."""
    config = module.get_config("default")
    cases, seeds, steps = list(config.case), 6, 11
    shape, trainers = (len(cases), seeds, steps), module.NUM + 2
    names = ("accuracy", "gain", "sum_phi", "hits", "false_removals", "total_change")
    found = {name: np.full(shape, 0.0) for name in names}
    chances = np.array(module.PROBABILITIES)
    net = np.broadcast_to(
        (1 - chances) * module.contract_games.GAIN - chances * module.DEPOSIT, (*shape, len(chances))
    ).copy()
    short = np.zeros((*shape, len(module.PAIRS)))
    paid = np.full((*shape, trainers), np.nan)
    paid[..., : module.NUM] = np.array([25, 24, 18, 16, 9, 6, 1, 1]) * 1e4
    for i, case in enumerate(cases):
        found["accuracy"][i] = 0.9
        found["hits"][i] = 1.0
        if case == "random none":
            found["accuracy"][i] = 0.3
        if case == "honest 1":
            found["hits"][i] = 0.0
        if case in ("random 1", "random krum", "lazy 1"):
            paid[i][..., list(module.ATTACKED)] = 0
        if case == "split three":
            paid[i] = np.array([10, 10, 10, 10, 10, 10, 10, 10, 10, 10]) * 1e4
    dims = ("case", "seed", "step")
    made = {name: (dims, values) for name, values in found.items()} | {"paid": ((*dims, "trainer"), paid)}
    made |= {"net": ((*dims, "probability"), net)}
    made |= {name: ((*dims, "pair"), short.copy()) for name in ("short", "unpaid")}
    return xarray.Dataset(made, coords={"case": cases, "seed": range(seeds), "step": range(steps)})


def test_claims_follow_the_numbers(module):
    good = made_up(module)
    assert [claim.holds for claim in module.claims(good)] == [True] * 9 + [None]
    changes = {
        0: ("paid", "pay exact_shapley log_likelihood", [1, 1, 6, 9, 16, 18, 24, 25]),
        2: ("false_removals", "random 1", 0.1),
        3: ("accuracy", "random median", 0.8),
        4: ("false_removals", "honest 1", 1.0),
        5: ("sum_phi", "pay exact_shapley log_likelihood", 0.01),
        6: ("short", "contracts", 1.0),
        7: ("net", "audits", -1.0),
        8: ("paid", "lazy none", 0.0),
    }
    for place, (name, case, value) in changes.items():
        bad = good.copy(deep=True)
        if isinstance(value, list):
            bad[name].loc[{"case": case}] = np.r_[np.array(value) * 1e4, np.nan, np.nan]
        else:
            bad[name].loc[{"case": case}] = value
        holds = [claim.holds for claim in module.claims(bad)]
        assert holds[place] is False and holds.count(False) == 1, (place, holds)
