"""The tiny mode of the experiment on randomised quantisation, and the figures behind its claims."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim import privacy
from dlsim.studies.experiment import SavedRun, load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "20_randomized_quantization.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    return run_experiment(FILE, "tiny", out=tmp_path_factory.mktemp("rqm") / "run", progress=False)


def test_the_tiny_mode_gives_claims_and_a_figure(saved: SavedRun) -> None:
    assert (saved.folder / "figure.png").exists()
    # Divergences are exact in every mode, and the secure sum is the same sum; learning takes longer.
    assert [claim.holds for claim in saved.claims] == [True, True, None, True]


def test_the_budget_stands_beside_the_accuracy(saved: SavedRun) -> None:
    results = saved.results.isel(clip=0, learning_rate=0)
    spent = results.epsilon.sel(mechanism="rqm 1")
    assert (spent.isel(step=0) == 0).all() and (spent.diff("step") >= 0).all()
    np.testing.assert_array_equal(spent, results.epsilon.sel(mechanism="rqm 1 secure"))
    # 650 numbers, of the client that was asked most: a whole number of rounds.
    curve = load_experiment(FILE).module._curve("rqm 1")
    rounds = np.arange(1, 13)[:, None] * 650 * curve.values
    orders = curve.orders
    budgets = (rounds + np.log1p(-1 / orders) - np.log(1e-5 * orders) / (orders - 1)).min(axis=1)
    last = spent.isel(step=-1).values
    assert (np.abs(budgets[:, None] / last - 1).min(axis=0) < 1e-4).all()


def test_variances_are_those_of_the_channels_that_run(saved: SavedRun) -> None:
    del saved
    module = load_experiment(FILE).module
    assert module._pbm_variance(0.25) == pytest.approx(1 / 15 * 0.25 / 0.25**2)
    levels = 2 * np.linspace(-1, 1, 16)
    pmf = privacy.rqm_pmf(np.array([0.0, 1.0]), clip=1.0, extension=1.0)
    variances = (pmf * levels**2).sum(axis=1) - np.array([0.0, 1.0])
    assert module._rqm_variance(1.0, 0.42) == pytest.approx(variances[0])
    # In c^2, over all inputs: 0.2098 to 0.2435 in an independent program.
    assert 0.2097 < variances.min() and variances.max() < 0.2436
