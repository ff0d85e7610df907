"""Runs keep drawings of their networks without being told to: which they are, what they belong to, and how large they get."""

from __future__ import annotations

import json
import pathlib

import optax
import pytest

import dlsim
from dlsim import networks
from dlsim.plotting import networks as drawings
from dlsim.report.data import network_data
from dlsim.studies import networks as kept
from dlsim.studies.experiment import run_experiment, sweep_experiment
from dlsim.sweeps.groups import group_runs
from dlsim.sweeps.source import from_function

SMALL = pathlib.Path(__file__).parent.parent / "small_experiment.py"


def seen(make, **axes):
    """The drawings that a sweep of `make` keeps."""
    found = kept.Networks()
    group_runs(found.watch(from_function(make, axes, [0], 3, None)))
    return found.drawings()


def make(topology="ring", num_nodes=6, method="dsgd", learning_rate=0.1):
    problem = dlsim.problems.quadratic(num_nodes, 2)
    more = {"pace": dlsim.arrivals.pace(num_nodes, 0.1)} if method == "fedasync" else {}
    rate = optax.sgd(learning_rate)
    algorithm = getattr(dlsim.algorithms, method)(problem, rate, **more)
    return dlsim.learn(problem, algorithm, getattr(networks, topology)(num_nodes))


def test_networks_belong_to_the_axes_that_change_them():
    made = seen(make, topology=["ring", "complete"], learning_rate=[0.1, 0.2, 0.3])
    assert {label: one["at"] for label, one in made.items()} == {
        "ring (6 nodes)": {"topology": ["ring"]},
        "complete (6 nodes)": {"topology": ["complete"]},
    }
    assert [one["num_links"] for one in made.values()] == [6, 15]
    made = seen(make, topology=["ring", "star"], method=["dsgd", "gradient_tracking"])
    assert [one["at"] for one in made.values()] == [{"topology": ["ring"]}, {"topology": ["star"]}]


def test_one_network_belongs_to_all_runs():
    made = seen(make, learning_rate=[0.1, 0.2])
    assert list(made) == ["6 nodes"] and made["6 nodes"]["at"] == {}


@pytest.mark.parametrize("method", ["fedavg", "fedasync"])
def test_clients_stand_around_their_server(method):
    made = seen(make, topology=["complete"], method=[method])
    (one,) = made.values()
    assert one["has_server"] and list(made) == ["6 clients of a server"]
    assert len(one["segments"]) == 6 and all(segment[:2] == [0, 0] for segment in one["segments"])


def test_methods_on_clocks_have_their_network():
    (one,) = seen(make, method=["ad_psgd"]).values()
    assert not one["has_server"] and one["num_links"] == 6


def test_drawings_are_bounded(monkeypatch):
    monkeypatch.setattr(kept, "MOST_NODES", 9)
    assert list(seen(make, num_nodes=[4, 8, 12])) == ["4 (4 nodes)", "8 (8 nodes)"]
    monkeypatch.setattr(kept, "MOST_NETWORKS", 1)
    assert len(seen(make, num_nodes=[4, 8])) == 1
    monkeypatch.setattr(drawings, "MOST_LINKS", 10)
    one = drawings.drawing_of(networks.complete(6))
    assert one["segments"] == [] and one["num_links"] == 15 and len(one["places"]) == 6
    assert len(json.dumps(drawings.drawing_of(networks.torus(1024)))) < 200_000


def test_a_drawing_that_fails_loses_no_run(monkeypatch):
    from dlsim.networks.graphs import drawing

    def fails(*_):
        raise RuntimeError

    monkeypatch.setattr(drawing, "layout", fails)
    assert len(drawings.drawing_of(networks.ring(6))["places"]) == 6


@pytest.mark.slow
def test_runs_and_sweeps_keep_them_and_a_file_may_bring_its_own(tmp_path):
    saved = run_experiment(SMALL, "tiny", out=tmp_path / "run", progress=False)
    held = json.loads((saved.folder / "networks.json").read_text())
    assert [one["at"] for one in held.values()] == [{"topology": ["ring"]}, {"topology": ["complete"]}]
    views = network_data(saved.results, saved.folder)["views"]
    assert [view["metric"] for view in views] == ["links", "links"]  # nothing was measured at the nodes
    swept = sweep_experiment(SMALL, "tiny", out=tmp_path / "sweep", progress=False, axes=["learning_rate=0.1,0.2"])
    assert (swept.folder / "networks.json").is_file()
    own = "\n\ndef drawings(results):\n    import dlsim\n\n    return {'mine': (dlsim.networks.star(7), {})}\n"
    (tmp_path / "small_experiment.py").write_text(SMALL.read_text() + own)
    saved = run_experiment(tmp_path / "small_experiment.py", "tiny", out=tmp_path / "own", progress=False)
    held = json.loads((saved.folder / "networks.json").read_text())
    assert list(held) == ["mine"] and len(held["mine"]["places"]) == 7
