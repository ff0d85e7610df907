"""First models of the nodes' own, and how much the functions of a population differ."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.learning.learn import learn

KEY = jax.random.key(3)
DATA = problems.synthetic_classification(64, 4, 3, seed=0)


def problem(num_nodes: int) -> dlsim.Problem:
    parts = problems.partition(DATA, num_nodes, problems.iid(), seed=0)
    return problems.supervised(problems.mlp((5,)), DATA, parts, batch_size=4)


def firsts(num_nodes: int) -> np.ndarray:
    made = problem(num_nodes)
    process = learn(made, algorithms.dsgd(made, optax.sgd(0.1)), networks.ring(num_nodes), initial_params="own")
    return np.asarray(process.params(process.init(KEY))["Dense_0"]["kernel"])


def test_every_node_draws_its_own_by_its_id_alone() -> None:
    few, many = firsts(4), firsts(6)
    np.testing.assert_array_equal(few, many[:4])
    assert len({row.tobytes() for row in many}) == 6
    key = dlsim.keys.at_nodes(dlsim.keys.stream(KEY, "params"), jnp.arange(6))[5]
    np.testing.assert_array_equal(many[5], problem(6).init(key)["Dense_0"]["kernel"])


def test_by_clocks_too_and_not_where_nodes_start_alike() -> None:
    made = problem(4)
    process = learn(made, algorithms.ad_psgd(made, optax.sgd(0.1)), networks.ring(4), initial_params="own")
    assert len({np.asarray(row).tobytes() for row in process.params(process.init(KEY))["Dense_0"]["kernel"]}) == 4
    server = algorithms.fedavg(made, optax.sgd(0.1))
    lines = {
        "learn: initial_params must be left out for a method whose nodes start alike": (made, server, "own"),
        "learn: initial_params must be a model, models or 'own', got 'each'": (made, server, "each"),
        "learn: initial_params must be left out for a problem whose nodes start from what it gives": (
            problems.consensus(np.ones((4, 2), np.float32)),
            algorithms.gossip(),
            "own",
        ),
    }
    for line, (wanted, algorithm, given) in lines.items():
        with pytest.raises(ValueError, match=line):
            learn(wanted, algorithm, networks.complete(4), initial_params=given)


def test_disagreement_is_the_share_of_pairs_that_predict_otherwise() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 30, 4)).astype(np.float32)
    predicted = outputs.argmax(2)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    wanted = np.mean([predicted[i] != predicted[j] for i, j in pairs])
    np.testing.assert_allclose(dlsim.metrics.disagreement(outputs), wanted, rtol=1e-5)
    linked = [(i, j) for i, j in pairs if (i - j) % 5 in (1, 4)]
    over_ring = dlsim.metrics.disagreement(jnp.asarray(outputs), networks.ring(5))
    np.testing.assert_allclose(over_ring, np.mean([predicted[i] != predicted[j] for i, j in linked]), rtol=1e-5)
    np.testing.assert_allclose(dlsim.metrics.disagreement(outputs, networks.complete(5)), wanted, rtol=1e-5)
    same = np.broadcast_to(outputs[:1], outputs.shape)
    assert float(dlsim.metrics.disagreement(same)) == 0 == float(dlsim.metrics.disagreement(outputs[:1]))
    with pytest.raises(ValueError, match=r"disagreement: outputs must be of shape \[N, M, C\]"):
        dlsim.metrics.disagreement(predicted)
    with pytest.raises(ValueError, match="disagreement: network must be of the 5 nodes of outputs, got 4 nodes"):
        dlsim.metrics.disagreement(outputs, networks.ring(4))
