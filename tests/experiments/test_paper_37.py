"""The tiny mode of the DIMAT experiment."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import SavedRun, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "37_dimat.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    return run_experiment(FILE, "tiny", out=tmp_path_factory.mktemp("dimat") / "run", progress=False)


def test_the_tiny_mode_gives_claims_and_a_figure(saved: SavedRun) -> None:
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None]
    assert saved.claims[0].measured == "8"  # batches of two epochs there


def test_cases_are_alike_until_they_differ(saved: SavedRun) -> None:
    """All train alone at first; the first merge is that of DIMAT where it is matched, and the second not any more."""
    one = saved.results.isel(seed=0, partition=0)
    accuracy = {name: one.accuracy.sel(case=f"ring {name}").values for name in ("dimat", "wa", "once", "alone")}
    moved = {name: one.moved.sel(case=f"ring {name}").values for name in ("dimat", "wa", "once")}
    for name in ("wa", "once", "alone"):
        np.testing.assert_array_equal(accuracy["dimat"][:2], accuracy[name][:2])
    assert accuracy["once"][2] == accuracy["dimat"][2] and moved["once"][2] == moved["dimat"][2] > 0.3
    assert moved["once"][3:].tolist() == [0, 0] and moved["wa"].tolist() == [0] * 5 and moved["dimat"][3] > 0
    assert one.bits_sent.sel(case="ring dimat").values[:2].tolist() == [0, 0]
