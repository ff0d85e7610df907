"""The tiny mode of the ranking of decentralised methods, and what its tuning, ranks and claims rest on."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "sweeps" / "decentralised.py"
NAMES = ("isolated_training", "centralized_sgd", "dsgd", "led")


@pytest.fixture(scope="module")
def module():
    return load_experiment(FILE).module


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path, module) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert len(saved.claims) == 3 and all(claim.holds is None for claim in saved.claims)  # too short to decide
    last = saved.results.isel(step=-1).sel(topology="ring", alpha=0.1, learning_rate=0.3, seed=1)
    spent = last.gradient_evaluations / (9 * 16)
    assert (spent.drop_sel(algorithm="ad_psgd") == 30).all(), "all that go by rounds spend the same"
    assert abs(float(spent.sel(algorithm="ad_psgd")) - 30) < 8, "and by clocks about that"
    bits = last.bits_sent
    assert bits.sel(algorithm="aug_dgm") == 2 * bits.sel(algorithm="dsgd") == 10 * bits.sel(algorithm="led")
    assert last.accuracy.sel(algorithm="dsgd") > last.accuracy.sel(algorithm="isolated_training") + 0.2
    rows = module.table(saved.results)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows) and len(rows) == 4


def made(of_dsgd: list[list[float]], of_led: list[list[float]], alone: float = 0.3) -> xarray.Dataset:
    """Results by learning rate and seed, at the last of two records of a ring with few classes."""
    values = np.zeros((4, 1, 1, 2, 2, 2))
    values[0], values[1] = alone, 0.95
    values[2, 0, 0, :, :, 1], values[3, 0, 0, :, :, 1] = of_dsgd, of_led
    dims = ("algorithm", "topology", "alpha", "learning_rate", "seed", "step")
    names = {"algorithm": list(NAMES), "topology": ["ring"], "alpha": [0.1], "learning_rate": [0.1, 0.3]}
    data = dict.fromkeys(("accuracy", "bits_sent", "gradient_evaluations"), (dims, values))
    data["diverged_step"] = (dims[:-1], np.full(values.shape[:-1], -1))
    return xarray.Dataset(data, {**names, "seed": [0, 1], "step": [0, 20]})


def test_the_rate_is_chosen_on_the_first_seed_and_reported_are_the_others(module) -> None:
    results = made([[0.9, 0.5], [0.8, 0.99]], [[0.1, 0.1], [0.2, 0.7]])
    last = module.tuned(results).accuracy.isel(step=-1, topology=0, alpha=0)
    assert last.seed.values.tolist() == [1]
    assert last.sel(algorithm="dsgd").item() == 0.5 and last.sel(algorithm="led").item() == 0.7
    assert module.ranks(last.mean("seed")).values.tolist() == [2, 1]
    assert [row[0] for row in module.table(results)] == ["led", "dsgd"]


def test_claims_are_decided_by_what_is_left_of_the_seeds(module) -> None:
    gain, alone, over = module.claims(made([[0.9, 0.9]] * 2, [[0.93, 0.93]] * 2))
    assert gain.holds and "+3.0 points (LED)" in gain.measured and alone.holds and over.holds
    gain, alone, over = module.claims(made([[0.9, 0.97]] * 2, [[0.2, 0.2]] * 2))
    assert not gain.holds and not alone.holds and "-10.0 points (LED)" in alone.measured
    assert not over.holds and "+2.0 points (D-SGD)" in over.measured


def test_unknown_methods_and_graphs_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.algorithm, config.topology, config.alpha, config.learning_rate = "osmosis", "ring", 0.1, 0.1
    with pytest.raises(ValueError, match="decentralised: algorithm must be one of .*isolated_training"):
        experiment.module.build(config)
