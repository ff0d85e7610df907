"""Spectra against closed forms, and the sparse methods against the dense ones."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest

from dlsim.networks.graphs import random_graphs, sparse_ends, spectral, topologies
from dlsim.networks.graphs.graph import graph
from dlsim.networks.network import complete_network, connect


def cosines(side):
    return np.cos(2 * np.pi * np.arange(side) / side)


def ring_spectrum(n):
    return (1 + 2 * cosines(n)) / 3


def torus_spectrum(a, b):
    return (1 + 2 * cosines(a)[:, None] + 2 * cosines(b)[None]).ravel() / 5


def hypercube_spectrum(n):
    d = n.bit_length() - 1
    return np.concatenate([np.full(math.comb(d, k), 1 - 2 * k / (d + 1)) for k in range(d + 1)])


CLOSED = {
    "ring": (topologies.ring(11), ring_spectrum(11)),
    "ring_even": (topologies.ring(40), ring_spectrum(40)),
    "torus": (topologies.torus(20, (4, 5)), torus_spectrum(4, 5)),
    "torus_square": (topologies.torus(81), torus_spectrum(9, 9)),
    "hypercube": (topologies.hypercube(32), hypercube_spectrum(32)),
    "complete": (topologies.complete(13), np.r_[1, np.zeros(12)]),
    "star": (topologies.star(9), np.r_[1, np.full(7, 8 / 9), 0]),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("by", ["default", "dense"])
def test_whole_spectra_have_their_closed_form(name, by):
    network, expected = CLOSED[name]
    if by == "dense":  # without the Fourier transform
        network = network.replace(grid=None, offsets=None)
    np.testing.assert_allclose(spectral.spectrum(network), np.sort(expected)[::-1], atol=2e-7)
    rho = np.sort(np.abs(expected))[-2]
    assert spectral.second_eigenvalue(network) == pytest.approx(rho, abs=2e-7)
    assert spectral.spectral_gap(network) == pytest.approx(1 - rho, abs=2e-7)
    assert spectral.mixing_rate(network) == pytest.approx(1 - rho**2, abs=4e-7)


@pytest.mark.parametrize("num_nodes", [6, 8, 12, 33])
def test_exponential_graph_has_the_gap_of_its_paper(num_nodes):
    network = topologies.exponential(num_nodes)
    hops = math.ceil(math.log2(num_nodes))
    wave = np.exp(-2j * np.pi * np.arange(num_nodes) / num_nodes)
    expected = (1 + sum(wave ** (2**k) for k in range(hops))) / (1 + hops)
    ours = spectral.spectrum(network)
    np.testing.assert_allclose(np.sort(np.abs(ours)), np.sort(np.abs(expected)), atol=2e-7)
    gap = spectral.spectral_gap(network)
    if num_nodes % 2 == 0:
        assert gap == pytest.approx(2 / (1 + hops), abs=1e-6)  # Ying et al. 2021
    else:
        assert gap > 2 / (1 + hops)
    assert spectral.mixing_rate(network) == pytest.approx(1 - (1 - gap) ** 2, abs=1e-6)


def test_mixing_matrix_is_by_receiver():
    network = connect(graph(3, [0], [2], is_directed=True), (np.array([0.25]), np.array([1, 1, 0.75])))
    matrix = spectral.mixing_matrix(network).toarray()
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 1, 0], [0.25, 0, 0.75]])


@pytest.mark.parametrize("name", ["lazy_uniform_neighbor", "row_stochastic", "column_stochastic"])
def test_gap_of_weights_that_are_not_symmetric(name):
    network = random_graphs.barabasi_albert(40, 2, weights=name)
    values = np.linalg.eigvals(spectral.mixing_matrix(network).toarray())
    assert spectral.spectral_gap(network) == pytest.approx(1 - np.sort(np.abs(values))[-2], abs=1e-7)


def test_mixing_rate_is_the_worst_contraction():
    network = random_graphs.barabasi_albert(30, 2, weights="row_stochastic")
    matrix = spectral.mixing_matrix(network).toarray()
    left, _, _ = np.linalg.svd((matrix - 1 / 30).T)
    worst = left[:, 0] - left[:, 0].mean()
    rate = spectral.mixing_rate(network)
    after = np.sum((matrix @ worst - worst.mean()) ** 2)
    assert after == pytest.approx((1 - rate) * np.sum(worst**2), rel=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.standard_normal(30)
        assert np.sum((matrix @ x - x.mean()) ** 2) <= (1 - rate) * np.sum((x - x.mean()) ** 2) * (1 + 1e-9)


SPARSE = {
    "wide": random_graphs.random_regular(600, 4),
    "narrow": topologies.chain(700),
    "grid": topologies.grid(600, (20, 30)),
    "hubs": random_graphs.barabasi_albert(600, 2),
    "star": topologies.star(500),
    "no_loops": connect(topologies.bipartite_graph(60), (np.full(1800, 1 / 30, np.float32), np.zeros(60, np.float32))),
    "negative_end": connect(
        topologies.ring_graph(101), (np.full(202, 0.49, np.float32), np.full(101, 0.02, np.float32))
    ),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gap_equals_the_dense_one(name, monkeypatch):
    network = SPARSE[name].replace(grid=None, offsets=None)
    expected = spectral.spectral_gap(network)
    monkeypatch.setattr(spectral, "DENSE_NODES", 10)
    assert spectral.spectral_gap(network) == pytest.approx(expected, rel=1e-4, abs=3e-7)


def test_sparse_paths_for_weights_that_are_not_symmetric(monkeypatch):
    network = random_graphs.barabasi_albert(400, 3, weights="row_stochastic")
    gap, rate = spectral.spectral_gap(network), spectral.mixing_rate(network)
    columns = random_graphs.barabasi_albert(400, 3, weights="column_stochastic")
    monkeypatch.setattr(spectral, "DENSE_NODES", 10)
    assert spectral.spectral_gap(network) == pytest.approx(gap, abs=1e-6)
    assert spectral.mixing_rate(network) == pytest.approx(rate, abs=1e-6)
    assert spectral.spectral_gap(columns) == pytest.approx(gap, abs=1e-6)  # its transpose


def test_narrow_gaps_keep_their_digits():
    num_nodes = 20_000
    expected = 2 / 3 * (1 - math.cos(math.pi / num_nodes))  # the path with Metropolis-Hastings weights
    assert spectral.spectral_gap(topologies.chain(num_nodes)) == pytest.approx(expected, rel=1e-5)
    assert spectral.spectral_gap(topologies.ring(100_000)) == pytest.approx(
        2 / 3 * (1 - math.cos(2 * math.pi / 100_000)), rel=1e-4
    )


def test_large_expander_is_near_the_alon_boppana_bound():
    network = random_graphs.random_regular(5000, 4, seed=2)
    bound = (1 + 2 * math.sqrt(3)) / 5
    assert spectral.second_eigenvalue(network) == pytest.approx(bound, abs=0.01)


def test_disconnected_networks_have_no_gap():
    network = connect(graph(4, [0, 2], [1, 3]))
    assert spectral.spectral_gap(network) == 0
    assert not spectral.is_connected(network)
    one_way = graph(3, [0, 1], [1, 2], is_directed=True)
    assert not spectral.is_connected(one_way)


@pytest.mark.parametrize("dense_nodes", [1500, 5])
def test_effective_resistances(monkeypatch, dense_nodes):
    monkeypatch.setattr(spectral, "DENSE_NODES", dense_nodes)
    np.testing.assert_allclose(spectral.effective_resistances(topologies.binary_tree(30)), 1)
    n = 12
    np.testing.assert_allclose(spectral.effective_resistances(topologies.ring(n)), (n - 1) / n)
    np.testing.assert_allclose(spectral.effective_resistances(topologies.complete_graph(n)), 2 / n)
    one = random_graphs.erdos_renyi_graph(300, 0.04, seed=2)
    rng = np.random.default_rng(0)
    table = rng.uniform(0.5, 2, (300, 300))
    rates = (table + table.T)[one.senders, one.receivers]
    values = spectral.effective_resistances(one, rates)
    assert (rates * values).sum() / 2 == pytest.approx(299, rel=1e-9)  # Foster's theorem
    pinv = np.linalg.pinv(spectral.laplacian(one, rates).toarray())
    i, j = one.receivers[17], one.senders[17]
    assert values[17] == pytest.approx(pinv[i, i] + pinv[j, j] - 2 * pinv[i, j], rel=1e-8)
    assert spectral.chi_2(one, rates) == values.max()


@pytest.mark.parametrize("dense_nodes", [1500, 5])
def test_chi_1(monkeypatch, dense_nodes):
    monkeypatch.setattr(spectral, "DENSE_NODES", dense_nodes)
    for n in (8, 50):
        assert spectral.chi_1(topologies.chain(n)) == pytest.approx(1 / (2 - 2 * math.cos(math.pi / n)), rel=1e-6)
    ring = topologies.ring(30)
    base = 1 / (2 - 2 * math.cos(2 * math.pi / 30))
    assert spectral.chi_1(ring) == pytest.approx(base, rel=1e-6)
    assert spectral.chi_1(ring, np.full(ring.num_edges, 4.0)) == pytest.approx(base / 4, rel=1e-6)


def test_laplacian_of_a_graph():
    one = random_graphs.barabasi_albert_graph(20, 2)
    theirs = nx.Graph(list(zip(one.senders.tolist(), one.receivers.tolist(), strict=True)))
    expected = nx.laplacian_matrix(theirs, nodelist=range(20)).toarray()
    np.testing.assert_array_equal(spectral.laplacian(one).toarray(), expected)


def test_diameter():
    trees = {"ring": (topologies.ring(11), 5), "chain": (topologies.chain(9), 8), "star": (topologies.star(9), 2)}
    more = {
        "torus": (topologies.torus(42), 6),
        "hypercube": (topologies.hypercube(64), 6),
        "one": (topologies.ring(1), 0),
    }
    for network, expected in (trees | more).values():
        assert spectral.diameter(network) == expected
    for seed, build in itertools.product(range(4), ("sparse", "geometric", "tree")):
        one = {
            "sparse": lambda s: random_graphs.random_regular_graph(60, 3, seed=s),
            "geometric": lambda s: random_graphs.random_geometric_graph(80, seed=s),
            "tree": lambda s: random_graphs.barabasi_albert_graph(70, 1, seed=s),
        }[build](seed)
        theirs = nx.Graph(list(zip(one.senders.tolist(), one.receivers.tolist(), strict=True)))
        assert spectral.diameter(one) == nx.diameter(theirs)
    rng = np.random.default_rng(1)
    ends = np.nonzero(rng.random((30, 30)) < 0.12)
    ring = np.arange(30)
    one = graph(30, np.append(ends[0], ring), np.append(ends[1], np.roll(ring, 1)), is_directed=True)
    theirs = nx.DiGraph(list(zip(one.senders.tolist(), one.receivers.tolist(), strict=True)))
    assert spectral.diameter(one) == nx.diameter(theirs)


def test_complete_network_without_edges_has_its_closed_forms():
    listed, implicit = topologies.complete(50), complete_network(50)
    for function in (spectral.spectral_gap, spectral.mixing_rate, spectral.chi_1, spectral.chi_2, spectral.diameter):
        assert function(implicit) == pytest.approx(function(listed), abs=2e-6)
    np.testing.assert_allclose(spectral.spectrum(implicit), spectral.spectrum(listed), atol=1e-6)
    np.testing.assert_allclose(
        spectral.mixing_matrix(implicit).toarray(), spectral.mixing_matrix(listed).toarray(), atol=1e-7
    )


def test_one_node():
    one = topologies.ring(1)
    assert spectral.spectral_gap(one) == 1 and spectral.mixing_rate(one) == 1
    assert spectral.spectrum(one).tolist() == [1.0]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: spectral.laplacian(topologies.exponential_graph(8)), r"laplacian: network must be undirected"),
        (lambda: spectral.chi_1(graph(4, [0, 2], [1, 3])), r"connected, .*got 4 nodes, 4 directed edges, disconnected"),
        (lambda: spectral.laplacian(topologies.ring_graph(4), np.ones(3)), r"edge_rates must be of shape \[8\]"),
        (lambda: spectral.laplacian(topologies.ring_graph(4), np.arange(8.0)), r"edge_rates must be positive, got 0"),
        (lambda: spectral.laplacian(topologies.ring_graph(4), np.arange(1.0, 9)), r"the same for both directions"),
        (lambda: spectral.diameter(graph(3, [0], [1])), r"diameter: network must be connected"),
        (lambda: spectral.mixing_rate(topologies.star(5, weights="column_stochastic")), r"must be row stochastic"),
        (lambda: spectral.mixing_matrix(complete_network(30_000)), r"mixing_matrix: num_nodes must be at most 20000"),
    ],
)
def test_bad_input_is_one_line(call, line):
    with pytest.raises(ValueError, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_factorisation_solves():
    matrix = spectral.laplacian(topologies.grid_graph(400))[:-1, :-1]
    right = np.random.default_rng(0).standard_normal((399, 3))
    np.testing.assert_allclose(matrix @ sparse_ends.factorise(matrix)(right), right, atol=1e-8)
