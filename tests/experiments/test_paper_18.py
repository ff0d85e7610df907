"""Experiment 18 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "18_web3recommend.py"


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def made_up(module, kept=0.2, grown=1.5, lost=0.05, hits=(0.55, 0.5, 0.48, 0.45, 0.2, 0.0), off=0.0):
    """Results of the default mode: Sybils' score by size, hits by decay, gains as the closed forms plus `off`."""
    config = module.get_config("default")
    attacks, sizes, decays, betas = config.attack, config.num_sybils, config.decay, np.array(module.BETAS)
    seeds, shape = 3, (len(attacks), len(sizes), len(decays), 3, 1)
    scale = np.array([0, 1, 1.1, 1.2, grown]).reshape(1, -1, 1, 1, 1, 1) * 0.05
    score = np.broadcast_to(scale * (1 - (1 - kept) * betas / 0.8), (*shape, len(betas)))
    rate = np.array(hits).reshape(1, 1, -1, 1, 1, 1) - lost * betas / 0.8
    gain = np.array([[[module.closed_gain(a, n, d) for d in decays] for n in sizes] for a in attacks]) + off
    gain = np.broadcast_to(gain[..., None, None], shape)
    dims = ("attack", "num_sybils", "decay", "seed", "step")
    return xarray.Dataset(
        {
            "sybil_score": ((*dims, "beta"), score),
            "hit_rate": ((*dims, "beta"), np.broadcast_to(rate, (*shape, len(betas)))),
            "gain": (dims, gain),
            "gain_error": (dims, np.full(shape, 0.01)),
        },
        coords={
            "attack": list(attacks), "num_sybils": list(sizes), "decay": list(decays), "step": [1], "seed": range(seeds)
        },
    )  # fmt: skip


def test_tiny_run(tmp_path):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert len(saved.claims) == 5 and all(claim.holds is None for claim in saved.claims)
    score = saved.results.sybil_score.isel(step=-1, seed=0)
    assert (score.sel(num_sybils=0) == 0).all() and float(score.sel(num_sybils=5).isel(beta=0).max()) > 0
    gain = saved.results.gain.isel(step=-1, seed=0).sel(attack="line", num_sybils=5)
    assert float(gain.sel(decay=0.1)) == pytest.approx(0.9 * (1 - 0.9**5) / 0.1, abs=1.0)


def test_claims_follow_the_numbers(module):
    assert [claim.holds for claim in module.claims(made_up(module))] == [True] * 5
    for change, which in (
        ({"kept": 0.5}, 0),
        ({"grown": 4.0}, 1),
        ({"lost": 0.2}, 2),
        ({"hits": (0.2, 0.2, 0.2, 0.2, 0.5, 0.5)}, 3),
        ({"off": 0.1}, 4),
    ):
        held = [claim.holds for claim in module.claims(made_up(module, **change))]
        assert held == [place != which for place in range(5)], change
