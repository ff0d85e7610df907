"""Networks from and to networkx, jraph, files and matrices."""

import jraph
import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from same_networks import column_stochastic, same

from dlsim.networks.graphs import converters, random_graphs, spectral, topologies
from dlsim.networks.network import complete_network, connect

NETWORKS = {
    "torus": topologies.torus(12),
    "star_rows": topologies.star(7, weights="row_stochastic"),
    "star_columns": topologies.star(7, weights="column_stochastic"),
    "exponential": topologies.exponential(7),
    "geometric": random_graphs.random_geometric(25, seed=1),
    "one": topologies.ring(1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_jraph_round_trip(name):
    tuple_ = converters.to_jraph(NETWORKS[name])
    assert isinstance(tuple_, jraph.GraphsTuple)
    assert tuple_.n_node.tolist() == [NETWORKS[name].num_nodes]
    same(converters.from_jraph(tuple_), NETWORKS[name])


def test_jraph_tuple_gossips_as_the_network_does():
    network = NETWORKS["exponential"]
    tuple_ = converters.to_jraph(network)
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    heard = jraph.segment_sum(tuple_.edges["weights"][:, None] * x[tuple_.senders], tuple_.receivers, 7)
    mixed = heard + tuple_.nodes["self_weights"][:, None] * x
    np.testing.assert_allclose(mixed, spectral.mixing_matrix(network) @ x, atol=1e-6)


def test_from_jraph_takes_any_order_of_edges():
    tuple_ = converters.to_jraph(NETWORKS["star_rows"])
    order = np.random.default_rng(0).permutation(len(tuple_.senders))
    mixed_up = tuple_._replace(
        senders=tuple_.senders[order],
        receivers=tuple_.receivers[order],
        edges={"weights": tuple_.edges["weights"][order]},
    )
    same(converters.from_jraph(mixed_up), NETWORKS["star_rows"])
    plain = tuple_._replace(nodes=np.zeros((7, 3)), edges=None)
    same(converters.from_jraph(plain), topologies.star(7))
    one_way = plain._replace(senders=np.arange(7), receivers=np.roll(np.arange(7), -1))
    assert "undirected" not in converters.from_jraph(one_way).properties


@pytest.mark.parametrize("name", NETWORKS)
def test_networkx_round_trip(name):
    network = NETWORKS[name]
    theirs = converters.to_networkx(network)
    assert theirs.is_directed() == ("symmetric" not in network.properties)
    if "row_stochastic" in network.properties:  # rows are what the reader completes
        back = converters.from_networkx(theirs, edge_key="weight")
        for field in ("senders", "receivers", "edge_weights", "self_weights"):
            np.testing.assert_allclose(getattr(back, field), getattr(network, field), atol=1e-6)
    values = {(v, u): data["weight"] for u, v, data in theirs.edges(data=True)}
    matrix = spectral.mixing_matrix(network)
    assert all(matrix[v, u] == pytest.approx(weight) for (v, u), weight in values.items())


def test_from_networkx_keeps_order_direction_and_positions():
    theirs = nx.DiGraph([("b", "a"), ("a", "c"), ("c", "b"), ("c", "c")])
    network = converters.from_networkx(theirs)  # b, a, c
    edges = set(zip(network.senders.tolist(), network.receivers.tolist(), strict=True))
    assert edges == {(0, 1), (1, 2), (2, 0)}
    assert "undirected" not in network.properties and "row_stochastic" in network.properties
    placed = converters.from_networkx(nx.random_geometric_graph(12, 0.9, seed=1))
    assert placed.positions.shape == (12, 2)
    karate = converters.from_networkx(nx.karate_club_graph(), weights="max_degree")
    assert karate.num_edges == 156 and "symmetric" in karate.properties
    assert karate.positions is None


@pytest.mark.parametrize("name", NETWORKS)
def test_matrix_round_trip(name):
    network = NETWORKS[name].replace(positions=None)
    matrix = spectral.mixing_matrix(network)
    for form in (matrix, matrix.toarray(), matrix.tocoo()):
        same(converters.from_matrix(form), network)


def test_from_matrix_refuses_what_does_not_sum_to_one():
    matrix = np.full((4, 4), 0.25)
    matrix[2, 1] = 0.5
    with pytest.raises(ValueError, match=r"from_matrix: matrix must be stochastic .*, got row 2 with sum 1\.25\."):
        converters.from_matrix(matrix)
    with pytest.raises(ValueError, match=r"of shape \[N, N\], got \[4, 3\]"):
        converters.from_matrix(matrix[:, :3])
    matrix[0, 0] = np.nan
    for form in (matrix, scipy.sparse.csr_array(matrix)):
        with pytest.raises(ValueError, match="from_matrix: matrix must be finite, got nan at index"):
            converters.from_matrix(form)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: converters.from_networkx(nx.Graph()), "from_networkx: network must be a graph with at least one node"),
        (lambda: converters.from_networkx(nx.path_graph(3), edge_key="w"), r"'w', absent from \(0, 1\)"),
        (lambda: converters.to_jraph(complete_network(9)), "to_jraph: network must be one with an edge list"),
        (
            lambda: converters.from_jraph(jraph.batch([converters.to_jraph(NETWORKS["torus"])] * 2)),
            "from_jraph: graphs_tuple must be one graph, got 2. Use jraph.unbatch",
        ),
    ],
)
def test_bad_input_is_one_line(call, line):
    with pytest.raises(ValueError, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_lowering_is_passed_on():
    assert converters.from_matrix(np.full((5, 5), 0.2), lowering="dense").lowering == "dense"
    assert converters.from_networkx(nx.cycle_graph(5), lowering="edges").lowering == "edges"
    assert connect(topologies.ring_graph(5), lowering="edges").lowering == "edges"


KINDS = {
    "columns": column_stochastic(),
    "rows": column_stochastic().T,
    "both": np.roll(np.eye(5), 1, axis=0) / 2 + np.eye(5) / 2,
    "nothing of one's own": np.roll(np.eye(4), 1, axis=1),
    "negative": np.array([[1.25, -0.25, 0], [-0.25, 1, 0.25], [0, 0.25, 0.75]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weights_goes_there_and_back(kind):
    """W is what it was, entry by entry, through a matrix, networkx (nodes, then loops) and jraph."""
    network = converters.from_matrix(KINDS[kind])
    assert ("column_stochastic" in network.properties, "row_stochastic" in network.properties) == (
        kind != "rows",
        kind != "columns",
    )
    theirs = converters.to_networkx(network, loops=True)
    bare = theirs.copy()
    for _, data in bare.nodes(data=True):
        data.clear()
    jraphs = converters.to_jraph(network)
    ways = [
        converters.from_matrix(spectral.mixing_matrix(network)),
        converters.from_networkx(converters.to_networkx(network), edge_key="weight"),
        converters.from_networkx(theirs, edge_key="weight"),
        converters.from_networkx(bare, edge_key="weight"),
        converters.from_jraph(jraphs),
    ]
    for back in ways:
        np.testing.assert_allclose(spectral.mixing_matrix(back).toarray(), KINDS[kind], atol=1e-7)
        assert back.properties == network.properties


def test_loops_of_a_digraph_are_the_diagonal():
    matrix = column_stochastic()  # W[v, u] of the arc (u, v)
    theirs = nx.DiGraph()
    theirs.add_weighted_edges_from((u, v, matrix[v, u]) for v, u in np.argwhere(matrix))
    order = list(theirs.nodes)
    network = converters.from_networkx(theirs, edge_key="weight")
    np.testing.assert_allclose(spectral.mixing_matrix(network).toarray(), matrix[np.ix_(order, order)])
    assert "column_stochastic" in network.properties and "row_stochastic" not in network.properties


def test_loops_of_a_graphs_tuple_are_the_diagonal():
    matrix = column_stochastic()
    receivers, senders = np.nonzero(matrix)
    tuple_ = jraph.GraphsTuple(
        nodes=None,
        edges={"weights": matrix[receivers, senders]},
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=np.array([4]),
        n_edge=np.array([len(senders)]),
    )
    np.testing.assert_allclose(spectral.mixing_matrix(converters.from_jraph(tuple_)).toarray(), matrix)
    doubled = tuple_._replace(nodes={"self_weights": np.diag(matrix) + [0, 0.1, 0, 0]})
    with pytest.raises(
        ValueError, match="that node 1 gives itself must be given once, got 0.6 of the node and 0.5 of its"
    ):
        converters.from_jraph(doubled)
    # Weights without a diagonal are weights all the same: rows are completed.
    off = receivers != senders
    rows = matrix.T.copy()
    given = rows[receivers[off], senders[off]] * 0.5
    open_ = tuple_._replace(edges={"weights": given}, senders=senders[off], receivers=receivers[off])
    expected = np.zeros((4, 4))
    expected[receivers[off], senders[off]] = given
    np.testing.assert_allclose(
        spectral.mixing_matrix(converters.from_jraph(open_)).toarray(), expected + np.diag(1 - expected.sum(axis=1))
    )


def ring_with(**attributes):
    theirs = nx.cycle_graph(4)
    nx.set_edge_attributes(theirs, 0.25, "weight")
    for name, values in attributes.items():
        nx.set_node_attributes(theirs, dict(enumerate(values)), name)
    return theirs


def test_positions_are_those_of_the_plane():
    placed = converters.from_networkx(ring_with(pos=[(0, 0), [0, 1], np.array([1, 1]), (1.0, 0)]))
    np.testing.assert_array_equal(placed.positions, [[0, 0], [0, 1], [1, 1], [1, 0]])
    assert converters.from_networkx(ring_with(pos=[(0, 0, 1)] * 4)).positions is None
    assert converters.from_networkx(ring_with(pos=[(0, 0)] * 3)).positions is None  # node 3 has none


@pytest.mark.parametrize(
    "bad", ["ab", 3.0, (1, 2, 3, 4), (np.nan, 0), ("a", "b"), {"x": 1, "y": 2}, [[1, 2]], object()]
)
def test_a_position_of_a_wrong_form_is_one_line(bad):
    with pytest.raises(
        ValueError, match="from_networkx: pos of node 2 must be a pair of finite numbers, got "
    ) as caught:
        converters.from_networkx(ring_with(pos=[(0, 0), (0, 1), bad, (1, 0)]))
    assert "\n" not in str(caught.value) and "Drop it" in str(caught.value)


def weighted(value):
    theirs = ring_with()
    theirs[0][1]["weight"] = value
    return theirs


@pytest.mark.parametrize(
    ("call", "line"),
    [
        *(
            (
                lambda bad=bad: converters.from_networkx(weighted(bad), edge_key="weight"),
                "weight of edge number 0 must be a f",
            )
            for bad in (np.nan, np.inf, "heavy", None, [1, 2], {})
        ),
        (
            lambda: converters.from_networkx(ring_with(self_weight=[0.5, np.nan, 0.5, 0.5]), edge_key="weight"),
            "self_weight number 1 must be a finite number, got nan",
        ),
        (
            lambda: converters.from_networkx(ring_with(self_weight=[0.5, 0.25, 0.5, 0.5]), edge_key="weight"),
            r"got row 1 with sum 0\.75, 0\.25 of it its own",
        ),
        (lambda: converters.from_networkx(topologies.ring(4)), "network must be a Graph, got Network. For edges use"),
        (
            lambda: converters.from_networkx(ring_with(), edge_key=3),
            "edge_key must be the name of an edge attribute, got 3",
        ),
        (lambda: converters.from_jraph(topologies.ring(4)), "graphs_tuple must be a jraph.GraphsTuple, got Network"),
        (
            lambda: converters.to_jraph(topologies.ring_graph(4)),
            "network must be a Network, got Graph. Of a Graph: connect",
        ),
        (lambda: converters.to_networkx("ring"), "network must be a Network, got 'ring'"),
        (lambda: converters.to_networkx(topologies.ring(4), loops=1), "loops must be True or False, got 1"),
        (lambda: converters.from_matrix(np.eye(3) * 1j), "matrix must be real numbers, got dtype complex128"),
        (lambda: converters.from_matrix([[1, 0], [1]]), "from_matrix: matrix must be numeric, got ragged rows"),
        (lambda: converters.from_matrix("W"), "from_matrix: matrix must be numeric"),
    ],
)
def test_wrong_arguments_are_one_line(call, line):
    with pytest.raises(ValueError, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)
