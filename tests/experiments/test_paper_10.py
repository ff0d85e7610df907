"""Experiment 10 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "10_blockchain_incentives.py"


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def test_tiny_run(tmp_path, module):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None, None, True]
    one = saved.results.squeeze("seed").sel(case="contract").isel(step=-1)
    wealth = one.wealth.values
    assert wealth[list(module.HONEST)].mean() > wealth[list(module.TYPES["free rider"])].max()
    nets = saved.results.net.sel(case="cheats").isel(step=-1).squeeze("seed").values
    assert nets.shape == (5, 5) and (nets[0] == module.CHEAT).all() and nets[-1, -1] < 0


def made_up(module):
    """Results of every case in default size, in which all claims hold."""
    cases, seeds, steps = list(module.get_config("default").case), 5, 31
    dims, shape = ("case", "seed", "step"), (len(cases), 5, 31)
    accuracy, total = np.full(shape, 0.9), np.ones(shape)
    theory = module.CHEAT - np.outer(module.SLASHES, module.FOUND) * module.STAKE
    net = np.broadcast_to(theory, (*shape, *theory.shape)).copy()
    wealth = np.full((*shape, module.NUM), 40_000.0)
    wealth[..., list(module.DISHONEST)] = 15_000
    paid = np.broadcast_to(1 - module.NOISE[np.arange(module.NUM) % 7], wealth.shape).copy()
    accuracy[cases.index("none")] = 0.5
    made = {"accuracy": (dims, accuracy), "net": ((*dims, "slash", "chance"), net), "total": (dims, total)}
    made |= {"wealth": ((*dims, "worker"), wealth), "paid": ((*dims, "worker"), paid)}
    return xarray.Dataset(made, coords={"case": cases, "seed": range(seeds), "step": range(steps)})


def test_claims_follow_the_numbers(module):
    good = made_up(module)
    assert [claim.holds for claim in module.claims(good)] == [True] * 5
    changes = {
        0: ("accuracy", "contract", 0.87),
        1: ("wealth", "contract", 30_000.0),
        2: ("paid", "quality", np.linspace(1, 2, module.NUM)),
        3: ("net", "cheats", 10.0),
    }
    for place, (name, case, value) in changes.items():
        bad = good.copy(deep=True)
        bad[name].loc[{"case": case}] = value
        holds = [claim.holds for claim in module.claims(bad)]
        assert holds[place] is False and holds.count(False) == 1, (place, holds)
    off = good.copy(deep=True)
    off["total"][0, 0, 5] = 2.0
    assert module.claims(off)[-1].holds is False
