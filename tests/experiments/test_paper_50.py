"""JaxMARL's experiment: its smallest mode, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.experiment import load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "50_jaxmarl.py"
MODULE = load_experiment(FILE).module


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists() and [claim.holds for claim in saved.claims] == [None, None]
    last = saved.results.isel(step=-1, seed=0)
    assert (last.episode_return < -5).all() and (last.environment_steps > 1000).all()
    assert (last.bits_sent == 0).all()


def made_up(**ends: float) -> xarray.Dataset:
    cases = list(MODULE.SHARED)
    steps = np.arange(26)
    start = -27.5
    levels = [ends.get(case, -40.0) / 3 for case in cases]
    values = np.array([[*np.linspace(start, level, 24), level, level] for level in levels])
    returns = np.stack([values - 0.1, values + 0.1], axis=1)
    return xarray.Dataset(
        {"episode_return": (("case", "seed", "step"), returns)}, {"case": cases, "seed": [0, 1], "step": steps}
    )


@pytest.mark.parametrize(
    ("ends", "holds"),
    [
        ({}, [True, True]),
        ({"ippo": -61.0}, [False, True]),
        ({"vdn": -44.0}, [True, False]),
        ({"vdn": -42.0}, [True, True]),
    ],
)
def test_claims(ends: dict[str, float], holds: list[bool]) -> None:
    assert [claim.holds for claim in MODULE.claims(made_up(**ends))] == holds
