"""Mixing weights against their formulas, entry by entry."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings, strategies as st

from dlsim.networks.graphs import random_graphs, topologies, weights
from dlsim.networks.graphs.graph import graph
from dlsim.networks.graphs.stochastic import check_stochastic
from dlsim.networks.graphs.weights import mixing_weights

SYMMETRIC = ("metropolis_hastings", "max_degree", "laplacian")


def dense(one, edge_weights, self_weights):
    matrix = np.diag(self_weights.astype(float))
    matrix[one.receivers, one.senders] = edge_weights
    return matrix


def small_graph(seed, num_nodes=9):
    return random_graphs.erdos_renyi_graph(num_nodes, 0.45, seed=seed)


def small_digraph(seed, num_nodes=9):
    rng = np.random.default_rng(seed)
    senders, receivers = np.nonzero(rng.random((num_nodes, num_nodes)) < 0.35)
    ring = np.arange(num_nodes)
    return graph(num_nodes, np.append(senders, ring), np.append(receivers, np.roll(ring, 1)), is_directed=True)


def oracle(one, name):
    """W by loops over pairs of nodes."""
    n = one.num_nodes
    links = {(int(r), int(s)) for r, s in zip(one.receivers, one.senders, strict=True)}
    hears = [sum((i, j) in links for j in range(n)) for i in range(n)]
    heard = [sum((i, j) in links for i in range(n)) for j in range(n)]
    matrix = np.zeros((n, n))
    for i, j in links:
        matrix[i, j] = {
            "metropolis_hastings": 1 / (1 + max(hears[i], hears[j])),
            "max_degree": 1 / (1 + max(hears)),
            "laplacian": 1 / (1 + max(hears)),
            "uniform_neighbor": 1 / (1 + hears[i]),
            "row_stochastic": 1 / (1 + hears[i]),
            "column_stochastic": 1 / (1 + heard[j]),
        }[name]
    rest = matrix.sum(axis=0 if name == "column_stochastic" else 1)
    return matrix + np.diag(1 - rest)


@pytest.mark.parametrize("name", [*SYMMETRIC, "uniform_neighbor", "row_stochastic", "column_stochastic"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_weights_follow_their_formula(name, seed):
    for one in (small_graph(seed), small_digraph(seed)):
        if one.is_directed and name in SYMMETRIC:
            continue
        expected = oracle(one, name)
        edge_weights, self_weights = mixing_weights(one, name)
        assert edge_weights.dtype == self_weights.dtype == np.float32
        np.testing.assert_allclose(dense(one, edge_weights, self_weights), expected, atol=1e-7)
        lazy = dense(one, *mixing_weights(one, "lazy_" + name))
        np.testing.assert_allclose(lazy, (np.eye(one.num_nodes) + expected) / 2, atol=1e-7)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_float32_rows_sum_to_one_to_the_last_bit_of_the_diagonal(name):
    one = random_graphs.barabasi_albert_graph(2000, 3)
    edge_weights, self_weights = (w.astype(np.float64) for w in mixing_weights(one, name))
    rows = self_weights + np.bincount(one.receivers, edge_weights, one.num_nodes)
    assert np.abs(rows - 1).max() <= 2.0**-25
    assert np.array_equal(dense(one, edge_weights, self_weights), dense(one, edge_weights, self_weights).T)


@pytest.mark.parametrize(
    ("one", "name", "expected"),
    [
        (topologies.ring_graph(6), "metropolis_hastings", (True, True, True)),
        (topologies.exponential_graph(6), "uniform", (True, True, False)),
        (topologies.star_graph(6), "uniform_neighbor", (True, False, False)),
        (topologies.star_graph(6), "column_stochastic", (False, True, False)),
    ],
)
def test_check_stochastic(one, name, expected):
    holds = check_stochastic(one, *mixing_weights(one, name))
    assert (holds["is_row_stochastic"], holds["is_column_stochastic"], holds["is_symmetric"]) == expected
    assert holds["is_doubly_stochastic"] == (expected[0] and expected[1])


def test_check_stochastic_sees_a_small_error():
    one = topologies.ring_graph(6)
    edge_weights, self_weights = mixing_weights(one, "metropolis_hastings")
    edge_weights[0] += 1e-4
    holds = check_stochastic(one, edge_weights, self_weights)
    assert not holds["is_row_stochastic"] and not holds["is_column_stochastic"] and not holds["is_symmetric"]


def test_optimal_laplacian_step_beats_its_neighbours():
    one = small_graph(4)

    def rho(step):
        values = np.linalg.eigvalsh(dense(one, *mixing_weights(one, "laplacian", step=step)))
        return np.sort(np.abs(values))[-2]

    best = mixing_weights(one, "laplacian", step="optimal")[0][0]
    assert rho("optimal") < min(rho(0.98 * best), rho(1.02 * best), rho(None))


@pytest.mark.needs("cvxpy")
def test_fastest_mixing_on_karate_and_on_the_path():
    import networkx as nx

    edges = np.array(nx.karate_club_graph().edges)
    karate = graph(34, edges[:, 0], edges[:, 1])
    edge_weights, self_weights = mixing_weights(karate, "fastest_mixing")
    matrix = dense(karate, edge_weights, self_weights)
    assert matrix.min() > -1e-6
    assert check_stochastic(karate, edge_weights, self_weights)["is_symmetric"]
    fastest = np.sort(np.abs(np.linalg.eigvalsh(matrix)))[-2]
    usual = np.sort(np.abs(np.linalg.eigvalsh(dense(karate, *mixing_weights(karate, "metropolis_hastings")))))[-2]
    free = dense(karate, *mixing_weights(karate, "fastest_mixing", nonnegative=False, solver="CLARABEL"))
    freest = np.sort(np.abs(np.linalg.eigvalsh(free)))[-2]
    assert freest < fastest < usual
    # The same two programs written as a spectral norm gave these.
    assert (fastest, freest) == (pytest.approx(0.95356, abs=1e-4), pytest.approx(0.92461, abs=1e-4))
    # Boyd, Diaconis, Sun, Xiao 2006: on a path every link gets one half, and rho = cos(pi / N).
    path = topologies.chain_graph(7)
    on_path = dense(path, *mixing_weights(path, "fastest_mixing"))
    np.testing.assert_allclose(on_path[path.receivers, path.senders], 0.5, atol=2e-3)
    assert np.sort(np.abs(np.linalg.eigvalsh(on_path)))[-2] == pytest.approx(np.cos(np.pi / 7), abs=1e-4)


def test_fastest_mixing_without_cvxpy_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r"pip install 'dlsim\[opt\]'"):
        mixing_weights(topologies.ring_graph(5), "fastest_mixing")


def test_matrix_weights_round_trip():
    one = small_digraph(3)
    matrix = oracle(one, "row_stochastic")
    for form in (matrix, scipy.sparse.csr_array(matrix)):
        np.testing.assert_allclose(dense(one, *weights.matrix_weights(one, form)), matrix, atol=1e-7)
    hole = tuple(np.argwhere(matrix == 0)[0])
    matrix[hole] = 0.1
    with pytest.raises(ValueError, match=rf"an entry at \[{hole[0]}, {hole[1]}\]"):
        weights.matrix_weights(one, matrix)


@pytest.mark.parametrize(
    ("one", "name", "options", "line"),
    [
        (topologies.ring_graph(4), "metropolis", {}, r"Did you mean 'metropolis_hastings'\?"),
        (
            small_digraph(0),
            "metropolis_hastings",
            {},
            r"undirected for metropolis_hastings, .*'row_stochastic' or 'column",
        ),
        (topologies.exponential_graph(6), "max_degree", {}, r"Use weights='uniform'"),
        (topologies.star_graph(5), "uniform", {}, r"regular for uniform, got in-degree 1 .* at node 1"),
        (topologies.ring_graph(8), "laplacian", {"step": 0.6}, r"step must be below 2 / lambda_max = 0\.5"),
        (topologies.ring_graph(8), "laplacian", {"step": "best"}, r"step must be one of optimal"),
        (topologies.ring_graph(8), "max_degree", {"step": 0.1}, r"option must be absent, as max_degree takes none"),
        (topologies.ring_graph(1001), "fastest_mixing", {}, r"num_nodes must be at most 1000 for fastest_mixing"),
    ],
)
def test_bad_input_is_one_line(one, name, options, line):
    with pytest.raises(ValueError, match=line) as caught:
        mixing_weights(one, name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*weights.NAMES, "lazy_uniform"])
def test_one_node_keeps_everything(name):
    edge_weights, self_weights = mixing_weights(topologies.ring_graph(1), name)
    assert edge_weights.shape == (0,) and self_weights.tolist() == [1.0]
