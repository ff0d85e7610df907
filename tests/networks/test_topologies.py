"""Topologies: who is linked, how regularly, in what time; and finite-time consensus of the time-varying ones."""

import math
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim.networks.graphs import finite_time, random_graphs, spectral, topologies
from dlsim.networks.graphs.stochastic import check_stochastic
from dlsim.networks.graphs.weights import mixing_weights

# name -> (graph of about n nodes)
GRAPHS = {
    "ring": topologies.ring_graph,
    "chain": topologies.chain_graph,
    "star": topologies.star_graph,
    "complete": topologies.complete_graph,
    "grid": lambda n: topologies.grid_graph(n + n % 2),
    "torus": lambda n: topologies.torus_graph(n + n % 2),
    "hypercube": lambda n: topologies.hypercube_graph(2 ** (n - 1).bit_length()),
    "binary_tree": topologies.binary_tree_graph,
    "exponential": topologies.exponential_graph,
    "caveman": lambda n: topologies.caveman_graph(4 * n, 4),
    "bipartite": topologies.bipartite_graph,
    "random_regular": lambda n: random_graphs.random_regular_graph(n + n % 2, 3),
    "erdos_renyi": lambda n: random_graphs.erdos_renyi_graph(n, min(1.0, 3 * math.log(n) / n)),
    "watts_strogatz": lambda n: random_graphs.watts_strogatz_graph(n, 4 if n > 4 else 2, 0.2),
    "barabasi_albert": lambda n: random_graphs.barabasi_albert_graph(n, 2),
    "random_geometric": random_graphs.random_geometric_graph,
    "stochastic_block": lambda n: random_graphs.stochastic_block_graph(n, 2, 0.8, 0.4),
}


def dense(graph):
    matrix = np.zeros((graph.num_nodes, graph.num_nodes), int)
    matrix[graph.receivers, graph.senders] = 1
    return matrix


def agrees_with_shifts(graph):
    """The edge list against grid and offsets, by a loop over nodes."""
    heard = {(int(r), int(s)) for r, s in zip(graph.receivers, graph.senders, strict=True)}
    expected = set()
    for place in np.ndindex(*graph.grid):
        for offset in graph.offsets:
            sender = tuple((p - o) % side for p, o, side in zip(place, offset, graph.grid, strict=True))
            expected.add((np.ravel_multi_index(place, graph.grid), np.ravel_multi_index(sender, graph.grid)))
    return heard == expected and len(expected) == graph.num_nodes * len(graph.offsets)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("num_nodes", [4, 7, 16, 45])
def test_edges_are_sorted_simple_mirrored_and_connected(name, num_nodes):
    graph = GRAPHS[name](num_nodes)
    code = graph.receivers.astype(int) * graph.num_nodes + graph.senders
    assert (np.diff(code) > 0).all()
    assert (graph.senders != graph.receivers).all()
    assert graph.senders.dtype == graph.receivers.dtype == np.int32
    assert spectral.is_connected(graph)
    matrix = dense(graph)
    assert graph.is_directed == (matrix != matrix.T).any()
    if graph.offsets is not None:
        assert agrees_with_shifts(graph)
        assert (graph.in_degrees == len(graph.offsets)).all()


@pytest.mark.parametrize("name", ["ring", "chain", "star", "complete", "binary_tree", "exponential"])
@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_smallest_sizes(name, num_nodes):
    graph = GRAPHS[name](num_nodes)
    assert spectral.is_connected(graph)
    assert graph.num_edges == (0, 2, 4 if name in ("chain", "star", "binary_tree") else 6)[num_nodes - 1]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (topologies.ring_graph(9), nx.cycle_graph(9)),
        (topologies.chain_graph(9), nx.path_graph(9)),
        (topologies.star_graph(9), nx.star_graph(8)),
        (topologies.complete_graph(9), nx.complete_graph(9)),
        (topologies.binary_tree_graph(12), nx.full_rary_tree(2, 12)),
        (topologies.bipartite_graph(9, 2), nx.complete_bipartite_graph(2, 7)),
        (topologies.caveman_graph(20, 4), nx.connected_caveman_graph(5, 4)),
        (topologies.caveman_graph(5, 5), nx.complete_graph(5)),
        (topologies.hypercube_graph(32), nx.convert_node_labels_to_integers(nx.hypercube_graph(5), ordering="sorted")),
        (
            topologies.grid_graph(24, (4, 6)),
            nx.convert_node_labels_to_integers(nx.grid_2d_graph(4, 6), ordering="sorted"),
        ),
        (
            topologies.torus_graph(24, (2, 3, 4)),
            nx.convert_node_labels_to_integers(nx.grid_graph((4, 3, 2), periodic=True), ordering="sorted"),
        ),
    ],
    ids=[
        "ring",
        "chain",
        "star",
        "complete",
        "tree",
        "bipartite",
        "caveman",
        "one_cave",
        "hypercube",
        "grid",
        "torus3d",
    ],
)
def test_same_edges_as_networkx(ours, theirs):
    low_high = {(int(min(s, r)), int(max(s, r))) for s, r in zip(ours.senders, ours.receivers, strict=True)}
    assert low_high == {tuple(sorted(edge)) for edge in theirs.edges if edge[0] != edge[1]}
    assert ours.num_edges == 2 * len(low_high)


def test_torus_wraps_within_rows():
    graph = topologies.torus_graph(12, (3, 4))
    assert set(graph.senders[graph.receivers == 3].tolist()) == {2, 0, 7, 11}
    assert set(graph.senders[graph.receivers == 0].tolist()) == {1, 3, 4, 8}


@pytest.mark.parametrize("shape", [(2, 2), (2, 5), (5, 2), (1, 5), (3, 3), (2, 2, 2)])
def test_torus_sides_of_one_and_two_are_not_counted_twice(shape):
    graph = topologies.torus_graph(math.prod(shape), shape)
    assert agrees_with_shifts(graph)
    assert (graph.in_degrees == sum(min(side - 1, 2) for side in shape)).all()


def test_most_square_shapes():
    assert topologies.torus_graph(100).grid == (10, 10)
    assert topologies.torus_graph(24).grid == (4, 6)
    assert topologies.grid_graph(15).positions.max(axis=0).tolist() == [4, 2]


@given(st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_exponential_graph_has_powers_of_two(num_nodes):
    graph = topologies.exponential_graph(num_nodes)
    hops = math.ceil(math.log2(num_nodes)) if num_nodes > 1 else 0
    expected = sorted({(2**k) % num_nodes for k in range(hops)})
    assert sorted((graph.receivers[graph.senders == 0]).tolist()) == expected
    assert (graph.in_degrees == hops).all() and (graph.out_degrees == hops).all()
    holds = check_stochastic(graph, *mixing_weights(graph, "uniform"))
    assert holds["is_doubly_stochastic"]


@given(st.integers(2, 200), st.integers(1, 6))
@settings(max_examples=120, deadline=None)
def test_base_graph_is_exact_after_one_period(num_nodes, degree):
    degree = min(degree, num_nodes - 1)
    rounds = finite_time.base_graphs(num_nodes, degree)
    assert len(rounds) <= 2 * math.log(num_nodes, degree + 1) + 2 + 1e-9
    product = np.eye(num_nodes)
    for graph, (edge_weights, self_weights) in rounds:
        assert graph.in_degrees.max() <= degree
        assert not graph.is_directed
        holds = check_stochastic(graph, edge_weights, self_weights)
        assert holds["is_symmetric"] and holds["is_doubly_stochastic"]
        assert min(edge_weights.min(), self_weights.min()) > -1e-7
        matrix = np.diag(self_weights.astype(float))
        matrix[graph.receivers, graph.senders] = edge_weights
        product = matrix @ product
    np.testing.assert_allclose(product, 1 / num_nodes, atol=2e-6)


def test_base_graph_of_powers_is_the_hyper_hypercube():
    for num_nodes, degree, rounds in ((64, 1, 6), (81, 2, 4), (64, 3, 3), (6, 2, 2), (5, 4, 1), (12, 3, 2)):
        assert len(finite_time.base_graphs(num_nodes, degree)) == rounds
    for bit, (graph, _) in enumerate(finite_time.base_graphs(16, 1)):
        assert (np.abs(graph.senders - graph.receivers) == 2**bit).all()


def test_base_graph_lengths_by_hand():
    # 5 = 4 + 1: two rounds within, one across, two within.  6 = 2 * 3 and 3 = 2 + 1: three rounds, then one over blocks.
    assert [len(finite_time.base_graphs(n, 1)) for n in (2, 3, 4, 5, 6, 8)] == [1, 3, 2, 5, 4, 3]


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 6, 7, 8, 16, 64])
def test_one_peer_exponential_is_exact_for_powers_of_two_only(num_nodes):
    product = np.eye(num_nodes)
    rounds = finite_time.one_peer_exponential_graphs(num_nodes)
    assert len(rounds) == math.ceil(math.log2(num_nodes))
    for t, (graph, (edge_weights, self_weights)) in enumerate(rounds):
        assert ((graph.receivers - graph.senders) % num_nodes == 2**t).all()
        assert agrees_with_shifts(graph)
        matrix = np.diag(self_weights.astype(float))
        matrix[graph.receivers, graph.senders] = edge_weights
        product = matrix @ product
    is_power = num_nodes & (num_nodes - 1) == 0
    assert np.allclose(product, 1 / num_nodes, atol=1e-9) == is_power
    assert len({graph.is_directed for graph, _ in rounds}) == 1


@given(st.integers(1, 60), st.integers(0, 59), st.integers(0, 10**6), st.booleans())
@settings(max_examples=80, deadline=None)
def test_random_regular_is_simple_and_regular(num_nodes, degree, seed, connected):
    degree = min(degree, num_nodes - 1)
    if num_nodes * degree % 2 or (connected and degree < min(2, num_nodes - 1)):
        return
    graph = random_graphs.random_regular_graph(num_nodes, degree, seed=seed, connected=connected)
    assert (graph.in_degrees == degree).all()
    assert graph.num_edges == num_nodes * degree
    assert spectral.is_connected(graph) or not connected


def test_random_regular_covers_all_graphs_evenly():
    # 3-regular graphs on 6 labelled nodes: 60 prisms and 10 K33, 70 in all, all connected.
    counts = {}
    for seed in range(2100):
        code = random_graphs.random_regular_graph(6, 3, seed=seed).senders.tobytes()
        counts[code] = counts.get(code, 0) + 1
    assert len(counts) == 70
    chi_squared = sum((count - 30) ** 2 / 30 for count in counts.values())
    assert chi_squared < 130  # 69 degrees of freedom: mean 69, deviation 11.7


def test_erdos_renyi_pairs_are_bernoulli():
    num_nodes, probability, num_seeds = 12, 0.3, 1500
    total = np.zeros((num_nodes, num_nodes))
    sizes = []
    for seed in range(num_seeds):
        graph = random_graphs.erdos_renyi_graph(num_nodes, probability, seed=seed, connected=False)
        total += dense(graph)
        sizes.append(graph.num_edges / 2)
    pairs = total[np.triu_indices(num_nodes, 1)] / num_seeds
    error = math.sqrt(probability * (1 - probability) / num_seeds)
    assert np.abs(pairs - probability).max() < 4.5 * error
    assert abs(np.var(sizes) - 66 * 0.21) < 0.2 * 66 * 0.21  # binomial, so not a fixed number of edges


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_erdos_renyi_extremes(probability):
    graph = random_graphs.erdos_renyi_graph(30, probability, connected=False)
    assert graph.num_edges == 30 * 29 * probability


@given(st.lists(st.integers(0, 5 * 10**13), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_pair_codes_decode_exactly(codes):
    codes = np.array([*codes, *(b * (b - 1) // 2 + d for b in (2, 3, 94906267, 9999999) for d in (0, b - 1))])
    low, high = random_graphs._decode(codes)
    assert (low >= 0).all() and (low < high).all()
    np.testing.assert_array_equal(random_graphs._codes(low, high), codes)


def test_watts_strogatz_keeps_edges_and_rewires_the_share():
    num_nodes, degree = 3000, 6
    lattice = random_graphs.watts_strogatz_graph(num_nodes, degree, 0.0)
    assert (lattice.in_degrees == degree).all()
    for probability in (0.1, 0.5, 1.0):
        graph = random_graphs.watts_strogatz_graph(num_nodes, degree, probability, seed=1)
        assert graph.num_edges == num_nodes * degree
        gap = np.abs(graph.senders - graph.receivers)
        moved = np.mean(np.minimum(gap, num_nodes - gap) > degree // 2)
        assert abs(moved - probability) < 5 * math.sqrt(0.25 / (num_nodes * degree / 2))
    assert random_graphs.watts_strogatz_graph(5, 4, 1.0).num_edges == 20  # no free place: all edges stay


def test_barabasi_albert_has_the_tail_of_preferential_attachment():
    num_nodes, links = 20000, 3
    graph = random_graphs.barabasi_albert_graph(num_nodes, links)
    degrees = graph.in_degrees
    assert graph.num_edges == 2 * (links + (num_nodes - links - 1) * links)
    assert degrees[links + 1 :].min() == links
    for k in (3, 4, 6, 10, 20):  # P(k) = 2 m (m + 1) / (k (k + 1) (k + 2))
        expected = 2 * links * (links + 1) / (k * (k + 1) * (k + 2))
        assert abs(np.mean(degrees == k) - expected) < 5 * math.sqrt(expected / num_nodes) + 0.03 * expected


def test_random_geometric_links_exactly_within_the_radius():
    graph = random_graphs.random_geometric_graph(200, 0.2, seed=3)
    distance = np.linalg.norm(graph.positions[:, None].astype(float) - graph.positions[None], axis=2)
    near = (distance <= 0.2) & ~np.eye(200, dtype=bool)
    np.testing.assert_array_equal(dense(graph).astype(bool), near)


def test_stochastic_block_rates():
    graph = random_graphs.stochastic_block_graph(900, [200, 300, 400], 0.2, 0.02, seed=1)
    block = np.repeat([0, 1, 2], [200, 300, 400])
    same = block[graph.senders] == block[graph.receivers]
    inside = sum(size * (size - 1) for size in (200, 300, 400))
    assert abs(same.sum() / inside - 0.2) < 5 * math.sqrt(0.16 / (inside / 2))
    outside = 900 * 899 - inside
    assert abs((~same).sum() / outside - 0.02) < 5 * math.sqrt(0.0196 / (outside / 2))
    blocks = random_graphs.stochastic_block_graph(10, 3, 1.0, 0.0, connected=False)
    assert sorted(np.unique(blocks.in_degrees, return_counts=True)[1].tolist()) == [4, 6]  # sizes 4, 3, 3


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: random_graphs.random_regular_graph(50, 4, seed=seed),
        lambda seed: random_graphs.erdos_renyi_graph(50, 0.2, seed=seed),
        lambda seed: random_graphs.watts_strogatz_graph(50, 4, 0.3, seed=seed),
        lambda seed: random_graphs.barabasi_albert_graph(50, 2, seed=seed),
        lambda seed: random_graphs.random_geometric_graph(50, seed=seed),
        lambda seed: random_graphs.stochastic_block_graph(50, 2, 0.5, 0.1, seed=seed),
    ],
    ids=["regular", "erdos", "watts", "barabasi", "geometric", "block"],
)
def test_seeds(build):
    first, again, other = build(5), build(5), build(6)
    np.testing.assert_array_equal(first.senders, again.senders)
    assert not np.array_equal(first.senders, other.senders)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (
            lambda: topologies.torus_graph(7),
            r"torus: num_nodes must be a product of two sides of 2 or more, got 7\. Use",
        ),
        (lambda: topologies.grid_graph(12, (3, 5)), r"grid: shape must be of 12 nodes in all, got \(3, 5\) with 15"),
        (
            lambda: topologies.hypercube_graph(12),
            r"hypercube: num_nodes must be a power of two, got 12\. Use 8 or 16\.",
        ),
        (lambda: topologies.ring_graph(0), r"ring: num_nodes must be an integer >= 1, got 0"),
        (
            lambda: topologies.caveman_graph(10, 4),
            r"caveman: num_nodes must be a multiple of clique_size \(4\), got 10",
        ),
        (lambda: topologies.bipartite_graph(5, 5), r"bipartite: num_left must be an integer in \[1, 4\], got 5"),
        (lambda: topologies.complete_graph(10**5), r"complete: num_nodes must be small enough"),
        (lambda: random_graphs.random_regular_graph(5, 3), r"random_regular: degree must be even for an odd num_nodes"),
        (
            lambda: random_graphs.random_regular_graph(6, 1),
            r"random_regular: degree must be at least 2 for a connected",
        ),
        (
            lambda: random_graphs.erdos_renyi_graph(100, 0.01),
            r"erdos_renyi: the graph must be connected, got 50 disconn",
        ),
        (lambda: random_graphs.erdos_renyi_graph(100, 1.5), r"erdos_renyi: probability must be a number in \[0, 1\]"),
        (lambda: random_graphs.random_geometric_graph(100, 0.02), r"random_geometric: the graph must be connected"),
        (lambda: random_graphs.watts_strogatz_graph(10, 3, 0.1), r"watts_strogatz: degree must be even, got 3"),
        (lambda: random_graphs.stochastic_block_graph(10, [4, 5], 1.0, 1.0), r"sizes that sum to 10, got \[4, 5\]"),
        (lambda: finite_time.base_graphs(5, 5), r"base_graph: degree must be an integer in \[1, 4\], got 5"),
    ],
)
def test_bad_input_is_one_line(build, line):
    with pytest.raises(ValueError, match=line) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_networks_keep_the_graph_and_take_weights():
    network = topologies.torus(12, weights="lazy_metropolis_hastings")
    assert network.grid == (3, 4) and len(network.offsets) == 4
    assert np.allclose(network.self_weights, 0.6)
    assert "connected" in random_graphs.random_regular(20, 3, seed=1).properties
    assert "doubly_stochastic" in topologies.exponential(6).properties
    assert topologies.complete(3000).is_implicit
    assert not topologies.complete(30).is_implicit
    assert len(finite_time.one_peer_exponential(8)) == 3
    assert all("symmetric" in one.properties for one in finite_time.base_graph(7, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in ("complete", "bipartite", "stochastic_block")])
def test_a_hundred_thousand_nodes_in_seconds(name):
    build = {
        "caveman": lambda n: topologies.caveman_graph(n, 10),
        "erdos_renyi": lambda n: random_graphs.erdos_renyi_graph(n, 20 / n),
        "random_regular": lambda n: random_graphs.random_regular_graph(n, 10),
    }.get(name, GRAPHS[name])
    build(60)  # imports
    start = time.process_time()
    graph = build(100_000)
    assert graph.num_nodes >= 100_000
    assert time.process_time() - start < 15  # 0.1 to 3 s of a free core, whoever shares this one
