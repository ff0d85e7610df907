"""Experiment 05 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "05_small_cell_market.py"


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def made_up(module, gap=0.5, lost=0.3, market=2.0):
    """Results of every case in default size: the gap falls by half a round, from `gap`."""
    config = module.get_config("default")
    steps, cases, seeds = np.arange(21), list(config.case), np.arange(4)
    shape = (len(cases), 4, 21)
    gaps = np.broadcast_to(gap * 0.5 ** np.arange(-1.0, 20.0), shape).copy()
    gaps[:, :, 0] = np.nan
    share = np.broadcast_to([[[lost if case == "cells market" else 1.0]] for case in cases], shape)
    means = np.ones((*shape, len(module.METHODS)))
    means[..., 0] = market
    means[cases.index("bids 300 60 loud"), ..., 0] = 1.5
    dims = ("case", "seed", "step")
    return xarray.Dataset(
        {
            "utility_gap": (dims, gaps),
            "lost_share": (dims, share),
            "geometric_means": ((*dims, "method"), means),
        },
        coords={"case": cases, "seed": seeds, "step": steps},
    )


def test_tiny_run(tmp_path):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None] * 3
    gap = saved.results.utility_gap.sel(case="bids 30 6 nulled").values
    assert np.isfinite(gap[:, 1:]).all() and np.all(gap[:, -1] < gap[:, 1])


def test_claims_follow_the_numbers(module):
    assert [claim.holds for claim in module.claims(made_up(module, gap=0.4))] == [True] * 5
    slow, _, _, _, _ = module.claims(made_up(module, gap=5.0))
    assert slow.holds is False and slow.measured.startswith("5 rounds: 0.3125")
    assert module.claims(made_up(module, lost=0.51))[-1].holds is False
    assert module.claims(made_up(module, market=1.02))[2].holds is False
    assert module.claims(made_up(module, market=1.4))[2].holds is False
    assert module.claims(made_up(module, market=1.4))[3].holds is False


def test_sizes_that_differ_in_rounds_are_told(module):
    results = made_up(module, gap=0.4)
    results.utility_gap.loc[{"case": "bids 3000 600 nulled"}] *= 8
    scaling = module.claims(results)[1]
    assert scaling.holds is False and scaling.measured == "6, 6, 9"


def test_few_seeds_decide_nothing(module):
    assert {claim.holds for claim in module.claims(made_up(module).isel(seed=[0]))} == {None}
