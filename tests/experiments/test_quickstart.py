"""The quickstart: its claims hold or fail by the numbers alone, and it runs from the command line to a figure."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import xarray

from dlsim import results
from dlsim.configs import load_experiment
from dlsim.terminal import cli

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "quickstart.py"
TOPOLOGIES = ("ring", "torus", "random_regular", "complete")


def made_up(distances=(0.6, 0.02, 0.01, 0.0), gains=(0.1, 0.0, 0.0, 0.0), last=300, order="adapt_then_combine"):
    """Results of 2 seeds: D-SGD at 90 % with these consensus distances, tracking better by these gains."""
    dims, steps = ("topology", "algorithm", "seed", "step"), np.arange(0, last + 1, 10)
    shape = (4, 2, 2, len(steps))
    accuracy, distance = np.full(shape, 0.9), np.zeros(shape)
    accuracy[:, 1] += np.reshape(gains, (4, 1, 1))
    distance += np.reshape(distances, (4, 1, 1, 1))
    return xarray.Dataset(
        {"accuracy": (dims, accuracy), "consensus_distance": (dims, distance)},
        coords={
            "topology": list(TOPOLOGIES),
            "algorithm": ["dsgd", "gradient_tracking"],
            "seed": [0, 1],
            "step": steps,
        },
        attrs={"config": json.dumps({"order": order, "num_nodes": 16})},
    )


def verdicts(**options):
    return [claim.holds for claim in load_experiment(FILE).module.claims(made_up(**options))]


def test_claims_are_decided_by_the_numbers():
    assert verdicts() == [True] * 5
    assert verdicts(distances=(0.6, 0.01, 0.02, 0.0)) == [False, True, True, True, True]
    assert verdicts(distances=(0.6, 0.02, 0.01, 1e-3)) == [True, False, True, True, True]
    assert verdicts(gains=(0.1, -0.03, -0.01, 0.0)) == [True, True, True, False, True]


def test_one_seed_out_of_order_is_enough():
    data = made_up()
    data.consensus_distance.loc[{"topology": "torus", "seed": 1}] = 0.7
    assert load_experiment(FILE).module.claims(data)[0].holds is False


def test_a_short_run_decides_nothing_about_training():
    assert verdicts(last=100) == [None, True, None, None, None]


def test_a_run_that_diverged_holds_no_claim():
    data = made_up()
    data = data.where(data.step < 200)
    assert not any(claim.holds for claim in load_experiment(FILE).module.claims(data))


def test_claims_of_part_of_the_grid_and_their_order():
    module = load_experiment(FILE).module
    assert len(module.claims(made_up().sel(algorithm=["dsgd"]))) == 2
    assert len(module.claims(made_up().sel(topology=["ring"]))) == 1
    texts = [claim.text for claim in module.claims(made_up(order="combine_then_adapt"))]
    assert sum("both combine-then-adapt" in text for text in texts) == 3


@pytest.mark.slow
def test_runs_from_the_command_line(tmp_path, capsys):
    assert cli.main(["run", f"{FILE}:tiny", "--out", str(tmp_path / "run")]) == 0
    printed, saved = capsys.readouterr().out, results.load(tmp_path / "run")
    sizes = {"topology": 4, "algorithm": 2, "seed": 2, "step": 3}
    assert dict(saved.results.accuracy.sizes) == sizes
    # Each node's distance to the mean: their mean square is the consensus distance.
    squares = np.mean(saved.results.distance_to_mean.values**2, axis=-1)
    np.testing.assert_allclose(squares, saved.results.consensus_distance.values, rtol=1e-3, atol=1e-7)
    assert sorted(json.loads((saved.folder / "networks.json").read_text())) == sorted(
        ["ring (16 nodes)", "torus (16 nodes)", "random regular (16 nodes)", "complete (16 nodes)"]
    )
    assert saved.results.topology.values.tolist() == list(TOPOLOGIES)
    assert np.isfinite(saved.results.accuracy.values).all() and saved.provenance["ok"]
    assert all(name in printed for name in (*TOPOLOGIES, "gradient_tracking", "undecided"))
    assert {path.name for path in saved.folder.iterdir()} == set(results.FILES)
