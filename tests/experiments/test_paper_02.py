"""Network Lasso's experiment: its smallest mode, its world, and what its claims say of made-up results."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "02_network_lasso.py"
MODULE = load_experiment(FILE).module


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert saved.claims and all(claim.holds is None for claim in saved.claims)  # one small world decides nothing
    last = saved.results.isel(step=-1, seed=0)
    assert float(last.share_fused.sel(case="lasso 0").max()) == 0 < float(last.share_fused.sel(case="lasso 3").min())
    fused = last.cluster.sel(case="lasso 3").values
    assert len(set(fused.tolist())) < len(fused)
    assert (last.auc > 0.5).all() and (last.auc <= 1).all()
    objective = saved.results.objective.sel(case="lasso 3").isel(seed=0).values[1:, 0]
    assert objective[-1] <= objective[0] + 1e-4
    # One message of 101 float32 numbers a link, each way, a round.
    config = make_config(load_experiment(FILE), "tiny")
    ties = MODULE.side_by_side(MODULE._worlds(config, ""))
    expected = np.count_nonzero(ties) / len(ties) * 101 * 32 * config.num_steps
    np.testing.assert_allclose(float(last.bits_a_node.sel(case="lasso 0")), expected, rtol=1e-6)


def test_the_freeway_is_as_specified() -> None:
    world = MODULE.freeway(0, 30, 20, 100)
    assert world.train.shape == (30, 20, 6) and world.test.shape == (30, 200, 6) and world.is_incident.sum() == 3000
    np.testing.assert_allclose(world.train.mean((0, 1)), 0, atol=1e-9)
    np.testing.assert_allclose(world.train.std((0, 1)), 1, atol=1e-9)
    assert np.bincount(world.types).tolist() == [10, 10, 10]
    ties = world.weights
    np.testing.assert_array_equal(ties, ties.T)
    assert not np.diagonal(ties).any() and (ties[np.arange(29), np.arange(1, 30)] >= 0.5).all() and (ties <= 1).all()
    first, second = np.nonzero(np.triu(ties))
    assert 0.65 < np.mean(world.types[first] == world.types[second]) < 0.9  # 79 % in the specification
    normal, incident = world.test[:, :100].mean((0, 1)), world.test[:, 100:].mean((0, 1))
    assert incident[2] > normal[2] + 1 and incident[0] < normal[0]  # upstream: dense, and less flow
    again = MODULE.freeway.__wrapped__(0, 30, 20, 100)
    np.testing.assert_array_equal(again.test, world.test)
    assert not np.array_equal(MODULE.freeway(1, 30, 20, 100).train, world.train)


def made_up(**changes: Any) -> xarray.Dataset:
    """Eight worlds of three regions, as the specification reports them."""
    cases = [f"lasso {c:g}" for c in MODULE.COUPLINGS] + ["squared 0.3", "centralised", *MODULE.LONG]
    cases += ["easy lasso 0", "easy lasso 0.3", "easy centralised", "windows lasso 0", "windows lasso 0.3"]
    auc = {"lasso 0.1": 0.9291, "lasso 0.3": 0.9297, "lasso 0": 0.9248, "lasso 3": 0.922, "centralised": 0.9227}
    shares = {"lasso 0.3": 0.55, "lasso 1": 0.9, "lasso 3": 1.0}
    alarms, found = {"lasso 0": 0.273, "lasso 0.3": 0.133}, {"lasso 0": 0.89, "lasso 0.3": 0.862}
    level = {
        "auc": lambda c: auc.get(c, 0.99),
        "false_alarm_rate": lambda c: alarms.get(c, 0.2),
        "detection_rate": lambda c: found.get(c, 0.9),
        "false_alarm_rate_at_90": lambda c: {"lasso 0": 0.282, "lasso 0.3": 0.241}.get(c, 0.26),
        "share_fused": lambda c: shares.get(c, 0.0),
        "share_alike": lambda c: 0.95,
        "objective": lambda c: 2.0,
    }
    data = {}
    for name, of in level.items():
        size = 8 if name in ("share_fused", "share_alike", "objective") else 24
        values = np.array([changes.get(name, {}).get(case, of(case)) for case in cases])
        data[name] = (
            ("case", "seed", "step", f"{name}_0"),
            np.broadcast_to(values[:, None, None, None], (len(cases), 1, 2, size)),
        )
    sketch = np.zeros((len(cases), 1, 2, 24, 8))
    for case, off in changes.get("sketch", {}).items():
        sketch[cases.index(case)] = off
    data["sketch"] = (("case", "seed", "step", "node", "sketch_1"), sketch)
    return xarray.Dataset(data, coords={"case": cases, "step": [0, 100]})


def test_claims_hold_of_what_was_specified() -> None:
    made = MODULE.claims(made_up())
    assert len(made) == 10 and all(claim.holds for claim in made), [c.text for c in made if not c.holds]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"auc": {"lasso 3": 0.928}}, 0),
        ({"false_alarm_rate_at_90": {"lasso 0.3": 0.27}}, 1),
        ({"false_alarm_rate": {"lasso 0": 0.15}}, 2),
        ({"detection_rate": {"lasso 0.3": 0.8}}, 2),
        ({"share_fused": {"lasso 0.1": 0.1}}, 3),
        ({"share_fused": {"squared 0.3": 0.01}}, 4),
        ({"share_alike": {"lasso 0.3": 0.7}}, 5),
        ({"objective": {"lasso 0.3": 2.01}}, 6),
        ({"sketch": {"long start": 0.02}}, 7),
        ({"auc": {"easy lasso 0": 0.97}}, 8),
        ({"auc": {"windows lasso 0": 0.98}}, 9),
    ],
)
def test_claims_can_fail(changes: dict[str, Any], place: int) -> None:
    assert [claim.holds for claim in MODULE.claims(made_up(**changes))] == [k != place for k in range(10)]


def test_unknown_cases_are_named() -> None:
    config = make_config(load_experiment(FILE), "tiny")
    with config.ignore_type():
        config.case = "laso 0.1"
    with pytest.raises(ValueError, match="02_network_lasso: case must be one of .*Did you mean 'lasso'"):
        MODULE.build(config)
