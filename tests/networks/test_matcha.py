"""MATCHA: matchings, probabilities, step; what a round uses."""

from __future__ import annotations

import itertools

import jax
import networkx as nx
import numpy as np
import optax
import pytest
import six_nodes

import dlsim
from dlsim import networks

BARBELL = nx.barbell_graph(4, 0)  # two cliques of four and one link between them


def laplacian(matching: np.ndarray, num_nodes: int) -> np.ndarray:
    graph = nx.empty_graph(num_nodes)
    graph.add_edges_from(matching.tolist())
    return nx.laplacian_matrix(graph).toarray().astype(float)


def test_with_the_whole_budget_it_is_the_best_constant_weight() -> None:
    network = networks.from_networkx(BARBELL)
    made = networks.matcha(network, 1.0)
    assert (made.probabilities == 1).all()
    best, _ = networks.mixing_weights(networks.host_graph(network), "laplacian", step="optimal")
    np.testing.assert_allclose(made.network.edge_weights, best, rtol=1e-3)
    seen = sorted(tuple(sorted(link)) for matching in made.matchings for link in matching.tolist())
    assert seen == sorted(tuple(sorted(link)) for link in BARBELL.edges), "each link once"
    for matching in made.matchings:
        assert len(set(matching.ravel())) == matching.size, "no common ends"


@pytest.mark.needs("cvxpy")
def test_the_bridge_is_used_most_and_the_budget_is_kept() -> None:
    made = networks.matcha(networks.from_networkx(BARBELL), 0.4)
    bridge = next(j for j, links in enumerate(made.matchings) if [3, 4] in links.tolist() or [4, 3] in links.tolist())
    assert made.probabilities[bridge] == made.probabilities.max() > 0.4, "more than an even share"
    assert made.probabilities.sum() <= 0.4 * len(made.matchings) + 1e-4
    even = np.full(len(made.matchings), 0.4)
    gaps = [
        np.linalg.eigvalsh(sum(p * laplacian(links, 8) for p, links in zip(chances, made.matchings, strict=True)))[1]
        for chances in (even, made.probabilities)
    ]
    assert gaps[1] > 1.2 * gaps[0]


@pytest.mark.needs("cvxpy")
def test_the_rate_is_that_of_the_mean_square_over_all_coins() -> None:
    made = networks.matcha(networks.from_networkx(nx.cycle_graph(5)), 0.6)
    laplacians = [laplacian(links, 5) for links in made.matchings]

    def rho(step: float) -> float:
        total = np.zeros((5, 5))
        for coins in itertools.product([0, 1], repeat=len(laplacians)):
            chance = np.prod([p if coin else 1 - p for p, coin in zip(made.probabilities, coins, strict=True)])
            matrix = np.eye(5) - step * sum(c * one for c, one in zip(coins, laplacians, strict=True))
            total += chance * matrix @ matrix
        return float(np.abs(np.linalg.eigvalsh(total - 1 / 5)).max())

    assert rho(made.step) == pytest.approx(made.mixing_rate, abs=1e-6)
    assert all(made.mixing_rate <= rho(made.step * factor) + 1e-6 for factor in (0.8, 0.95, 1.05, 1.2))


@pytest.mark.needs("cvxpy")
def test_rounds_use_matchings_as_often_as_they_should_and_keep_the_mean() -> None:
    made = networks.matcha(six_nodes.network(), 0.5)
    problem = dlsim.problems.consensus(np.arange(12.0).reshape(6, 2))
    process = dlsim.learn(problem, dlsim.algorithms.gossip(), made.network, scenario=made.scenario)
    run = dlsim.simulate(process, seed=0, num_steps=400, progress=False)
    sent = run.results["messages_sent"].values
    expected = 2 * sum(p * len(links) for p, links in zip(made.probabilities, made.matchings, strict=True))
    assert np.sum(sent[-1]) / 400 == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(run.params[0], np.tile([[5.0, 6.0]], (6, 1)), atol=1e-4)


BAD = {
    r"matcha: budget must be a number in \(0, 1\], got 0": lambda: networks.matcha(networks.ring(6), 0.0),
    "matcha: network must be undirected": lambda: networks.matcha(networks.exponential(8), 0.5),
    "matcha: network must be connected": lambda: networks.matcha(networks.from_networkx(nx.empty_graph(4)), 0.5),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line(line: str) -> None:
    with pytest.raises(ValueError, match=line):
        BAD[line]()


def test_the_scenario_wants_its_own_network() -> None:
    made = networks.matcha(networks.path(6), 1.0)
    problem = six_nodes.problem()
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"matcha: network must be its own, of 10 edges, got one of 12 edges"):
        process = dlsim.learn(problem, algorithm, six_nodes.network(), scenario=made.scenario)
        process.init(jax.random.key(0))
