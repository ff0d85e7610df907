"""Bad input, as a user meets it: one clear line with the fix; on the command line status 2 and nothing half-written."""

from __future__ import annotations

import pathlib

import flax.linen as nn
import networkx as nx
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.terminal import cli

QUICKSTART = str(pathlib.Path(__file__).parent.parent / "experiments" / "quickstart.py")
INPUTS = np.linspace(-1, 1, 240).reshape(60, 4).astype(np.float32)
LABELS = np.arange(60) % 3


class SevenOutputs(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(7)(inputs)


def data(inputs=INPUTS, labels=LABELS, **options):
    return problems.dataset(inputs, labels, **options)


def classified(num_nodes=4, **options):
    return problems.classification(data(), num_nodes, **{"model": "softmax", **options})


def quadratic(num_nodes=6):
    return problems.quadratic(num_nodes, 3)


def sgd_on(network, num_nodes=6):
    return dlsim.learn(quadratic(num_nodes), algorithms.dsgd(quadratic(num_nodes), optax.sgd(0.1)), network)


def run(seed=0, num_steps=1, **options):
    return dlsim.simulate(sgd_on(networks.ring(6)), seed=seed, num_steps=num_steps, **options)


def mismatched():
    """An algorithm made for five nodes in a run of six."""
    process = dlsim.learn(quadratic(6), algorithms.dsgd(quadratic(5), optax.sgd(0.1)), networks.ring(6))
    return dlsim.simulate(process, seed=0, num_steps=1)


CASES = {
    # Unknown names: the nearest comes first.
    "weights": (lambda: networks.ring(6, weights="row_stochastc"), "must be one of row_stochastic, .*Did you mean"),
    "lowering": (lambda: networks.ring(6, lowering="densee"), "Did you mean 'dense'"),
    "data set": (lambda: problems.load("digit"), "Did you mean 'digits'"),
    "model": (lambda: classified(model="mpl"), "Did you mean 'mlp'"),
    "sampling": (lambda: classified(sampling="without"), "Did you mean 'without_replacement'"),
    "partitioner": (lambda: classified(partition="dirichlet"), r"got str\. Pass e\.g\. iid\(\) or dirichlet\(0\.1\)"),
    "partitioner uncalled": (lambda: classified(partition=problems.dirichlet), r"got dirichlet\. Pass e\.g\. iid\(\)"),
    "column": (lambda: classified(partition=problems.by_column("writer")), "name must be a column .*got 'writer'"),
    "order": (
        lambda: algorithms.dsgd(quadratic(), optax.sgd(1.0), order="adapt_combine"),
        "Did you mean 'adapt_then_combine'",
    ),
    # Graphs and weights that do not fit.
    "disconnected": (
        lambda: sgd_on(networks.connect(networks.graph(6, [0, 2, 4], [1, 3, 5]))),
        "connected .*Add edges",
    ),
    "not stochastic": (lambda: networks.from_matrix(np.ones((3, 3))), "got row 0 with sum 3. Pass normalize=.row."),
    "a matrix as weights": (
        lambda: networks.connect(networks.graph(3, [0], [1]), np.eye(3)),
        r"got ndarray\. For a whole matrix use from_matrix",
    ),
    "directed": (
        lambda: dlsim.learn(quadratic(), algorithms.extra(quadratic(), 0.1), networks.exponential(6)),
        "undirected for this algorithm, .*or stochastic_gradient_push",
    ),
    "a file as a list": (
        lambda: networks.read_graph_file([(0, 1)]),
        r"got list\. Pairs in memory go to from_edge_list",
    ),
    "sizes": (lambda: sgd_on(networks.ring(7)), "of the problem's 6 nodes, got 7 nodes. Give both the same num_nodes"),
    "two problems": (mismatched, "got 6 of them. Give the algorithm and learn the same problem"),
    "no nodes": (lambda: networks.ring(0), "ring: num_nodes must be an integer >= 1, got 0"),
    "no nodes to hold data": (lambda: classified(0), "num_nodes must be an integer >= 1, got 0"),
    # Data.
    "batch": (lambda: classified(6, batch_size=50), r"batch_size must be at most 8.*got 50\. Use batch_size=8"),
    "too many nodes": (lambda: classified(600), "got 600 > 48 examples"),
    "empty node": (
        lambda: classified(30, partition=problems.dirichlet(0.001, balanced=False, min_size=0)),
        "must be given at least one example",
    ),
    "NaN": (lambda: data(np.where(INPUTS == INPUTS[1, 3], np.nan, INPUTS)), r"got nan at index \(1, 3\)\. Drop or"),
    "number of labels": (lambda: data(labels=LABELS[:-1]), r"labels must be of shape \[60\], got \[59\]"),
    "one-hot labels": (lambda: data(labels=np.eye(3)[LABELS]), r"labels must be of shape \[60\], got \[60, 3\]"),
    "negative labels": (lambda: data(labels=LABELS - 1), "Number the classes from 0"),
    "real labels": (
        lambda: problems.classification(data(labels=LABELS + 0.5), 4),
        r"with class labels, got a regression\. Use supervised",
    ),
    "text": (lambda: data(INPUTS.astype(str)), "inputs must be numeric, got dtype <U.* Encode text"),
    "ragged": (lambda: data([[1.0, 2.0], [3.0]], [0, 1]), "got ragged rows. Pad or cut them first"),
    "arrays as a data set": (lambda: problems.classification((INPUTS, LABELS), 4), r"got tuple\. Use dataset\(x, y\)"),
    # Models, optimisers, parts in the wrong place.
    "outputs": (lambda: classified(model=SevenOutputs()), r"of shape \[B, 3\], one for each class, got \[2, 7\]"),
    "a flax class": (lambda: classified(model=SevenOutputs), r"a flax module \(an instance\)"),
    "lenet on a table": (lambda: classified(model="lenet"), 'Use model="mlp"'),
    "a rate": (lambda: algorithms.dsgd(quadratic(), 0.1), r"got 0\.1\. Pass e\.g\. optax\.sgd\(0\.1\)"),
    "an optimiser's maker": (lambda: algorithms.gradient_tracking(quadratic(), optax.adam), "got function adam"),
    "a server's rate": (
        lambda: algorithms.fedavg(quadratic(), optax.sgd(0.1), server_optimizer=1.0),
        r"fedavg: server_optimizer must be an optax\.GradientTransformation, got 1\.0",
    ),
    "a problem's name": (lambda: algorithms.extra("digits", 0.1), "extra: problem must be a Problem, got 'digits'"),
    "an aggregator's name": (
        lambda: algorithms.dsgd(quadratic(), optax.sgd(0.1), aggregator="median"),
        "aggregator must be an Aggregator, got 'median'",
    ),
    "an aggregator uncalled": (
        lambda: algorithms.dsgd(quadratic(), optax.sgd(0.1), aggregator=aggregators.median),
        "got function median",
    ),
    "order of parts": (
        lambda: dlsim.learn(algorithms.dsgd(quadratic(), optax.sgd(0.1)), quadratic(), networks.ring(6)),
        r"problem must be a Problem, got Algorithm\. Call learn\(problem, algorithm, network, scenario\)",
    ),
    "an algorithm's maker": (
        lambda: dlsim.learn(quadratic(), algorithms.dsgd, networks.ring(6)),
        "algorithm must be an Algorithm, got function dsgd",
    ),
    "another library's graph": (
        lambda: sgd_on(nx.path_graph(6)),
        "network must be a Network, got Graph. .*from_networkx",
    ),
    "a channel uncalled": (lambda: networks.ring(6).with_channel(networks.top_k), "must be a Channel, got function"),
    # Runs.
    "no process": (lambda: dlsim.simulate(quadratic(), seed=0, num_steps=1), "process must be a Process, got Problem"),
    "a number as record": (lambda: run(record=10), r"got 10\. Pass e\.g\. dlsim\.Record\(every=10\)"),
    "negative seed": (lambda: run(seed=-1), "seed must be an integer >= 0, got -1"),
    "a seed that repeats another": (lambda: run(seed=2**32), r"integer in \[0, 4294967295\], got 4294967296"),
    "seeds twice": (lambda: run(seed=[1, 1]), r"distinct integers, got \[1, 1\]"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line(name):
    make, line = CASES[name]
    with pytest.raises(ValueError, match=line) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text and " must be " in text and ", got " in text, text


def called(capsys, *words):
    status = cli.main([str(word) for word in words])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("topology=tours", "Did you mean 'torus'?"),
        ("topology=ring,tours", "Did you mean 'torus'?"),  # not after the ring has been run
        ("algorithm=dsdg", "Did you mean 'dsgd'?"),
        ("model=mpl", "Did you mean 'mlp'?"),
        ("order=adapt_combine", "Did you mean 'adapt_then_combine'?"),
        ("lowering=densee", "Did you mean 'dense'?"),
        ("learning_rte=1", "Did you mean 'learning_rate'?"),
        ("topology=ring,ring", "one or more distinct values"),
        ("num_nodes=0", "num_nodes must be an integer >= 1, got 0"),
        ("batch_size=5000", "Use batch_size="),
        ("dirichlet_alpha=-1", "alpha must be a number in (0, inf), got -1"),
        ("record_every=0", "record.every must be an integer >= 1, got 0"),
    ],
)
def test_the_command_line_stops_before_it_writes(override, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, err = called(capsys, "run", f"{QUICKSTART}:tiny", f"--config.{override}")
    assert (status, printed) == (2, "")
    assert err.startswith("dlsim: error: ") and line in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_package_lacks_is_one_line(capsys, tmp_path, monkeypatch):
    """An experiment looks a topology up by its name; an error of its own keeps its traceback."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.py"
    text = "import dlsim\n\ndef get_config(mode):\n    return dlsim.networks.{}\n\ndef build(config):\n    pass\n"
    file.write_text(text.format("tours"))
    status, _, err = called(capsys, "run", file)
    assert status == 2 and err.count("\n") == 1
    assert "dlsim.networks: name must be one of torus, " in err and "Did you mean 'torus'?" in err
    file.write_text(text.format("ring.tours"))
    with pytest.raises(AttributeError, match="tours"):
        cli.main(["run", str(file)])
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".py"] == ["study.py"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("num_nodes", [1, 2])
@pytest.mark.parametrize("topology", ["ring", "complete", "path", "star"])
def test_small_networks_mix_and_keep_the_mean(topology, num_nodes):
    network = getattr(networks, topology)(num_nodes)
    assert {"connected", "doubly_stochastic", "undirected"} <= network.properties
    assert networks.spectral_gap(network) == pytest.approx(1.0)


@pytest.mark.parametrize("topology", ["ring", "complete"])
@pytest.mark.parametrize("method", ["dsgd", "gradient_tracking", "fedavg", "centralized_sgd", "decentralized_admm"])
def test_one_node_is_the_centralised_baseline(topology, method):
    """Alone, every method is gradient descent, for which nothing is sent to neighbours; ADMM solves its problem."""
    problem = problems.quadratic(1, 3, heterogeneity=0.0)
    optimizer = (1.0,) if method == "decentralized_admm" else (optax.sgd(0.5),)
    algorithm = getattr(algorithms, method)(problem, *optimizer)
    process = dlsim.learn(problem, algorithm, getattr(networks, topology)(1))
    done = dlsim.simulate(process, seed=0, num_steps=30, record=dlsim.Record(every=30))
    gap = done.results.suboptimality.values
    descent = dlsim.simulate(
        dlsim.learn(problem, algorithms.isolated_training(problem, optax.sgd(0.5)), networks.ring(1)),
        seed=0,
        num_steps=30,
        record=dlsim.Record(every=30),
    )
    assert done.status.ok and done.results.messages_sent.values[-1] == (60 if method == "fedavg" else 0)
    if method == "decentralized_admm":
        assert gap[-1] < 1e-10
    else:
        np.testing.assert_allclose(gap, descent.results.suboptimality.values, rtol=1e-4)
        assert gap[-1] < 0.1 * gap[0]


@pytest.mark.parametrize("method", ["dsgd", "gradient_tracking", "fedavg"])
def test_two_nodes_are_centralised_sgd(method):
    """Two nodes average exactly, so that all of these take the mean gradient's step."""
    problem = problems.quadratic(2, 3)
    options = {} if method == "fedavg" else {"order": "adapt_then_combine"}
    process = dlsim.learn(problem, getattr(algorithms, method)(problem, optax.sgd(0.2), **options), networks.ring(2))
    reference = dlsim.learn(problem, algorithms.centralized_sgd(problem, optax.sgd(0.2)), networks.complete(2))
    pair = [dlsim.simulate(one, seed=0, num_steps=20).results.suboptimality.values for one in (process, reference)]
    assert pair[0][-1] < 0.1 * pair[0][0]
    np.testing.assert_allclose(pair[0], pair[1], rtol=1e-4, atol=1e-7)
