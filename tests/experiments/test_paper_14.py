"""The tiny mode of the experiment on schedules and a single merge: one program for all schedules."""

from __future__ import annotations

import pathlib

import numpy as np

from dlsim.studies.experiment import load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "14_single_merging.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert {claim.holds for claim in saved.claims} == {None}  # too short to decide
    names = load_experiment(FILE).module.NAMES
    last = saved.results.squeeze(["seed", "world"], drop=True).isel(step=-1)
    of = {names[int(place)]: last.sel(schedule=place) for place in last.schedule.values}
    assert float(of["full"].consensus_distance) < 1e-9 > float(of["single"].consensus_distance)
    np.testing.assert_allclose(of["single"].accuracy, of["single"].accuracy_of_mean, atol=1e-6)
    assert int(of["r=0"].messages_sent) == 0 and int(of["full"].messages_sent) == 20 * 8 * 7
    assert 0 < int(of["single"].messages_sent) - 8 * 7 <= int(of["r=0.2"].messages_sent)
    assert float(of["r=0"].consensus_distance) > float(of["r=0.2"].consensus_distance) > 0


def test_the_schedules_are_those_of_the_page() -> None:
    module = load_experiment(FILE).module
    rows = dict(zip(module.NAMES, module.schedules(100, 16), strict=True))
    assert (rows["full"] == 15).all() and (rows["r=0"] == 0).all()
    np.testing.assert_allclose(rows["window 0"][:6], [15, 15, 15, 15, 15, 0.2])
    np.testing.assert_array_equal(np.flatnonzero(rows["window 0.9"] == 15), range(90, 95))  # five sparse rounds follow
    np.testing.assert_array_equal(np.flatnonzero(rows["window 0.95"] == 15), range(95, 100))
    np.testing.assert_array_equal(np.flatnonzero(rows["single"] == 15), [99])
