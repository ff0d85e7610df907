"""Experiment 21 runs in its tiny mode, and its claims say what the numbers say."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.configs import load_experiment
from dlsim.studies.experiment import run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "21_ip_protection.py"


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def made_up(module, accuracy=0.97, pruned=0.9, gain=0.7):
    """Results of every case in default size, all claims holding unless told otherwise."""
    cases, dims = list(module.get_config("default").case), ("case", "seed", "step")
    shape = (len(cases), 3, 2)
    coords = {"case": cases, "seed": np.arange(3), "step": [30, 60]}
    results = xarray.Dataset({name: (dims, np.full(shape, 0.5)) for name in module.SCALARS}, coords=coords)
    results["by_key"] = ((*dims, "known"), np.full((*shape, len(module.KNOWN)), 0.5))
    for name in ("pruned_bits", "pruned_accuracy"):
        results[name] = ((*dims, "ratio"), np.full((*shape, 4), 0.5))

    def put(case, **values):
        for name, value in values.items():
            results[name].loc[{"case": case}] = value

    put("plain", accuracy=0.98)
    for case in cases:
        if case.split()[0] in ("bits", "narrow"):
            put(case, accuracy=accuracy, bit_detection=1.0, quantised=1.0, finetuned=1.0, overwritten=1.0)
            put(case, pruned_bits=np.array([1.0, 1.0, pruned, 0.6]), pruned_accuracy=np.array([0.98, 0.98, 0.97, 0.6]))
    for case in ("bits 32 0.1", "narrow 6", "narrow 40"):
        put(case, bit_detection=0.8)
    put("locked", accuracy=0.98, no_key=0.3, finetuned_accuracy=0.85, anew=0.86)
    put("riders", trainers=1.0, idle=0.6)
    put("stamped 0", gain=0.0, gain_spread=0.1, num_asked=320)
    put("stamped 0.1", gain=gain, gain_spread=0.1, num_asked=320)
    return results


def test_tiny_run(tmp_path):
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert {claim.holds for claim in saved.claims} == {None}
    marked = saved.results.sel(case="bits 8 0.1").isel(step=-1)
    # Two rounds train a model and embed no mark yet: for that see test_feature_marks.py.
    assert float(marked.accuracy.mean()) > 0.5 and np.isfinite(marked.bit_detection).all()
    assert np.isfinite(marked.pruned_bits).all()
    assert np.isfinite(saved.results.copies.sel(case="alone").isel(step=-1)).all()


def test_claims_follow_the_numbers(module):
    held = module.claims(made_up(module))
    assert len(held) == 11 and [claim.holds for claim in held[:2]] == [True] * 2
    assert all(claim.holds is True for claim in held), [c.text for c in held if not c.holds]
    assert module.claims(made_up(module, accuracy=0.94))[0].holds is False
    assert module.claims(made_up(module, pruned=0.55))[4].holds is False
    assert module.claims(made_up(module, gain=0.1))[-3].holds is False
    copied = made_up(module)
    copied.copied.loc[{"case": "bits 8 0.1"}] = 0.8
    assert [claim.holds for claim in module.claims(copied)].index(False) == 6
    for place, (name, value) in {-2: ("no_key", 0.7), -1: ("finetuned_accuracy", 0.95)}.items():
        bad = made_up(module)
        bad[name].loc[{"case": "locked"}] = value
        assert module.claims(bad)[place].holds is False
    assert {claim.holds for claim in module.claims(made_up(module).isel(seed=[0]))} == {None}
