"""Experiment 52 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "52_mesh_authentication.py"


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def made_up(module, watched=0.95, replayed=0.0, exposed=2.3):
    """Results of every case in default size, all claims holding unless told otherwise."""
    cases, dims = list(module.get_config("default").case), ("case", "seed", "step")
    shape = (len(cases), 5, 61)
    names = (*module.COUNTED, *module.PLAIN)
    results = xarray.Dataset(
        {name: (dims, np.zeros(shape)) for name in names},
        coords={"case": cases, "seed": np.arange(5), "step": np.arange(61)},
    )

    def put(case, **values):
        for name, value in values.items():
            results[name].loc[{"case": case}] = value

    for f in ("0.1", "0.2"):
        put(f"plain {f}", delivery=0.7, bound=1.0)
        put(f"watchdog {f}", delivery=watched, bound=1.0)
    for name in ("open", "link", "untagged", "full", "server"):
        put(f"attack {name}", forged=200.0, replayed=200.0, sent_all=6000.0, delivered_all=5000.0, hops=3.0)
    put("attack link", replayed_accepted=150.0)
    put("attack untagged", forged_accepted=150.0)
    put("attack full", replayed_accepted=replayed)
    put("attack server", bytes_keys=59 * 4 * 16 * 3.0)
    for n in (2, 4, 8, 16, 32):
        put(f"ring {n} fresh", guess_rate=1 / n, verified=1.0, signature_bytes=132 * n + 128, exposed=1.0)
        put(f"ring {n} fresh", sign_cost=n + 1, verify_cost=n, requests_to_expose=exposed)
    put("ring 1 pseudonym", guess_rate=1.0)
    put("clocks", refused=0.2300, expected=0.2301)
    return results


def test_tiny_run(tmp_path):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert {claim.holds for claim in saved.claims} == {None}
    last = saved.results.isel(step=-1).sum("seed").forged_accepted
    assert float(last.sel(case="attack full")) == 0 < float(last.sel(case="attack open"))


def test_claims_follow_the_numbers(module):
    held = module.claims(made_up(module))
    assert len(held) == 9 and all(claim.holds is True for claim in held), [c.text for c in held if not c.holds]
    assert module.claims(made_up(module, watched=0.8))[2].holds is False
    assert module.claims(made_up(module, replayed=1.0))[0].holds is False
    assert [c.holds for c in module.claims(made_up(module, exposed=9.0))].count(False) == 1
    assert {claim.holds for claim in module.claims(made_up(module).isel(seed=[0]))} == {None}
