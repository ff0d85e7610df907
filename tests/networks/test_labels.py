"""Names, attributes and weights of other people's graphs: there and back; weights made to be mixing weights; pairs."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from same_networks import same

import dlsim
from dlsim import networks
from dlsim.networks import mixing_matrix
from dlsim.networks.network import Network


def karate() -> nx.Graph:
    return nx.karate_club_graph()


def dense(network: Network) -> np.ndarray:
    return mixing_matrix(network).toarray()


# There and back.


def test_the_karate_club_comes_back_as_it_was() -> None:
    theirs = karate()
    back = networks.to_networkx(networks.from_networkx(theirs))
    assert list(back.nodes) == list(theirs.nodes) and back.graph == theirs.graph
    assert not back.is_directed() and nx.utils.edges_equal(back.edges, theirs.edges)
    for node in theirs:
        assert back.nodes[node].pop("self_weight") > 0 and back.nodes[node] == theirs.nodes[node]
    for u, v, data in theirs.edges(data=True):
        assert back[u][v].pop("mixing_weight") > 0 and back[u][v] == data


def people() -> nx.DiGraph:
    """A directed graph with names, attributes, positions and a loop."""
    theirs = nx.DiGraph(title="who calls whom")
    for name, age, pos in (("Ann", 31, (0.1, 0.25)), ("Bob", 25, (1.0, 2.0)), ("Cy", 47, (2.0, 0.5))):
        theirs.add_node(name, age=age, pos=pos)
    theirs.add_edge("Bob", "Ann", calls=2.0, kind="office")
    theirs.add_edge("Ann", "Cy", calls=1.0)
    theirs.add_edge("Cy", "Bob", calls=4.0, kind=("home", 3))
    theirs.add_edge("Bob", "Cy", calls=3.0)
    theirs.add_edge("Bob", "Bob", calls=5.0)
    return theirs


def test_directed_names_attributes_and_positions_come_back() -> None:
    theirs = people()
    network = networks.from_networkx(theirs)
    assert network.labels.names == ("Ann", "Bob", "Cy")
    assert network.labels.of_nodes("age") == [31, 25, 47]
    # In the order of edges, by (receiver, sender): (1, 0), (2, 1), (0, 2), (1, 2).
    assert network.labels.of_edges("calls") == [2.0, 4.0, 1.0, 3.0]
    assert network.labels.of_edges("kind") == ["office", ("home", 3), None, None]
    back = networks.to_networkx(network)
    assert back.is_directed() and back.graph == theirs.graph
    for name, data in theirs.nodes(data=True):
        assert {**data, "self_weight": back.nodes[name]["self_weight"]} == back.nodes[name]
    for u, v, data in theirs.edges(data=True):
        if u != v:
            assert {**data, "weight": back[u][v]["weight"]} == back[u][v]
    again = networks.from_networkx(back, edge_key="weight")
    same(again, network)
    assert again.labels.names == network.labels.names


def test_labels_follow_their_nodes_and_edges() -> None:
    network, order = networks.from_networkx(people()), np.array([2, 0, 1])
    moved = network.relabel(order)
    assert moved.labels.names == ("Cy", "Ann", "Bob")
    for one in (network, moved, networks.connect(networks.host_graph(moved), "row_stochastic")):
        calls = {
            (one.labels.names[s], one.labels.names[r]): value
            for s, r, value in zip(
                one.senders.tolist(), one.receivers.tolist(), one.labels.of_edges("calls"), strict=True
            )
        }
        assert calls == {("Bob", "Ann"): 2.0, ("Ann", "Cy"): 1.0, ("Cy", "Bob"): 4.0, ("Bob", "Cy"): 3.0}
    assert moved.with_lowering("edges").labels is moved.labels
    assert networks.from_networkx(nx.cycle_graph(5)).labels is None  # nothing to carry


def test_labels_are_no_part_of_a_program() -> None:
    network = networks.from_networkx(people())
    plain = network.replace(labels=None)
    assert len(jax.tree.leaves(network)) == len(jax.tree.leaves(plain))
    texts = [
        str(jax.make_jaxpr(lambda x, n=n: n.mix(jax.random.key(0), x)[0])(jnp.ones((3, 2)))) for n in (network, plain)
    ]
    assert texts[0] == texts[1]
    traces = []

    @jax.jit
    def mixed(one, x):
        traces.append(1)
        return one.mix(jax.random.key(0), x)

    x = jnp.arange(6.0).reshape(3, 2)
    for _ in range(2):
        found, after = mixed(network, x)
    assert len(traces) == 1 and after.labels is network.labels
    other = networks.from_networkx(nx.relabel_nodes(people(), {"Ann": "Zoe"}))
    assert mixed(other, x)[1].labels.names == ("Zoe", "Bob", "Cy")  # never those of another network
    np.testing.assert_allclose(found, dense(network) @ np.asarray(x), atol=1e-6)


def test_files_and_pairs_keep_the_names_of_nodes(tmp_path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("bob alice\nalice carol\n")
    read = networks.from_edge_list(path, renumber=True, num_nodes=4)
    paired = networks.from_edge_list([("bob", "alice"), ("alice", "carol")], renumber=True, num_nodes=4)
    for network in (read, paired):
        assert network.labels.names == ("alice", "bob", "carol", 3)
        assert set(networks.to_networkx(network).edges) == {("alice", "bob"), ("alice", "carol")}


# Pairs.


def test_pairs_are_edges_in_every_form() -> None:
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)]
    expected = networks.ring(4).replace(grid=None, offsets=None)
    forms = (pairs, [list(pair) for pair in pairs], iter(pairs), set(pairs), np.array(pairs), np.array(pairs, float))
    for form in (*forms, jnp.array(pairs), [np.array(pair) for pair in pairs], nx.cycle_graph(4).edges):
        same(networks.from_edge_list(form), expected)
    assert networks.from_edge_list(pairs, num_nodes=6).num_nodes == 6
    one_way = networks.from_edge_list(pairs, directed=True)
    assert "undirected" not in one_way.properties and one_way.num_edges == 4
    ranked = networks.from_edge_list([(100, 7), (7, -3)], renumber=True)
    same(ranked, networks.path(3))
    assert ranked.labels.names == (-3, 7, 100)


def test_triples_have_weights() -> None:
    expected = [[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]]
    for form in ([(0, 1, 0.5), (1, 2, 0.25)], np.array([[0, 1, 0.5], [1, 2, 0.25]])):
        np.testing.assert_allclose(dense(networks.from_edge_list(form)), expected)
        same(networks.from_edge_list(form, weights="metropolis_hastings"), networks.path(3))


# Mixing weights of given weights.

WEIGHTS = np.array([[1.0, 2, 0, 1], [4, 2, 3, 0], [0, 1, 5, 2], [2, 0, 1, 1]])


@pytest.mark.parametrize("how", ["row", "column", "sinkhorn"])
def test_given_weights_are_normalised(how: str) -> None:
    """The same of a matrix, of a networkx graph with loops, of pairs, against sums in NumPy."""
    theirs = nx.DiGraph()
    theirs.add_nodes_from(range(4))
    rows, columns = np.nonzero(WEIGHTS)
    triples = [(int(j), int(i), WEIGHTS[i, j]) for i, j in zip(rows, columns, strict=True)]
    theirs.add_weighted_edges_from(triples, weight="flow")
    made = (
        networks.from_matrix(WEIGHTS, normalize=how),
        networks.from_networkx(theirs, edge_key="flow", normalize=how),
        networks.from_edge_list(triples, directed=True, normalize=how),
    )
    if how == "row":
        expected = WEIGHTS / WEIGHTS.sum(axis=1, keepdims=True)
    elif how == "column":
        expected = WEIGHTS / WEIGHTS.sum(axis=0)
    else:
        expected = WEIGHTS
        for _ in range(500):
            expected = expected / expected.sum(axis=1, keepdims=True)
            expected = expected / expected.sum(axis=0)
    for network in made:
        np.testing.assert_allclose(dense(network), expected, atol=1e-6)
    properties = {"row": {"row_stochastic"}, "column": {"column_stochastic"}}
    assert made[0].properties >= properties.get(how, {"doubly_stochastic"})
    assert networks.to_networkx(made[1])[1][0]["flow"] == WEIGHTS[0, 1]  # what it was normalised from stays


def test_a_diagonal_that_nobody_says_is_one_more_neighbour() -> None:
    """So equal weights become the named ones, whatever their size."""
    plain = nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2), (3, 1), (2, 3)])
    for scale in (1.0, 1e-6, 250.0):
        nx.set_edge_attributes(plain, scale, "flow")
        for how, name in (("row", "row_stochastic"), ("column", "column_stochastic")):
            found = networks.from_networkx(plain, edge_key="flow", normalize=how)
            np.testing.assert_allclose(dense(found), dense(networks.from_networkx(plain, weights=name)), atol=1e-7)


def test_sinkhorn_of_a_symmetric_graph_is_symmetric_and_scales_rows_and_columns() -> None:
    theirs = karate()
    network = networks.from_networkx(theirs, edge_key="weight", normalize="sinkhorn")
    assert network.properties >= {"symmetric", "doubly_stochastic", "connected"}
    found = dense(network)
    given = nx.to_numpy_array(theirs, weight="weight")
    ratio = np.log(found[given > 0] / given[given > 0])
    rows, columns = np.nonzero(given)
    # log of the scaling is u_i + u_j, so least squares finds it without a rest.
    system = np.zeros((len(rows), 34))
    system[np.arange(len(rows)), rows] += 1
    system[np.arange(len(rows)), columns] += 1
    rest = np.linalg.lstsq(system, ratio, rcond=None)[0]
    np.testing.assert_allclose(system @ rest, ratio, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[1, 1], [0, 1]], r"edge \(1, 0\), whose weight would have to be 0"),
        ([[0, 1, 1], [1, 0, 0], [1, 0, 0]], "too few entries: those of node"),
    ],
)
def test_sinkhorn_is_refused_where_it_cannot_be(matrix, said: str) -> None:
    with pytest.raises(ValueError, match=rf"weights must be such that rows and columns can both .*{said}"):
        networks.from_matrix(np.array(matrix, float), normalize="sinkhorn")
    assert networks.from_matrix(np.array(matrix, float), normalize="row").properties >= {"row_stochastic"}


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: networks.from_edge_list([(0, 1), (1, 2, 0.5)]), r"from_edge_list: edges\[1\] must be of 2 entries as"),
        (lambda: networks.from_edge_list([(0, "x")]), r"must be between integers, got 'x'. Pass renumber=True"),
        (lambda: networks.from_edge_list([]), "edges must be one or more pairs, got none"),
        (lambda: networks.from_edge_list(np.ones((3, 4))), r"edges must be of shape \[E, 2\], or \[E, 3\]"),
        (lambda: networks.from_edge_list([[0.5, 1]]), r"edges\[0\] must be between nodes that are integers or names"),
        (lambda: networks.from_edge_list(np.array([[0.5, 1]])), r"edges\[0, 0\] must be a whole number, got 0.5"),
        (lambda: networks.from_edge_list(nx.MultiGraph([(0, 1)]).edges), "A networkx graph goes to from_networkx"),
        (lambda: networks.from_edge_list({(0, 1): 2.0}), "edges must be the name of a file, or pairs"),
        (lambda: networks.from_edge_list(5), "edges must be the name of a file, or pairs"),
        (lambda: networks.from_edge_list([(0, 1, "a")]), r"edges\[0\] must be a finite weight in third place"),
        (lambda: networks.from_edge_list([(0, 1, {"w": 1})]), "A networkx graph goes to from_networkx"),
        (lambda: networks.from_edge_list([(0, 1)], form="adjacency"), 'form must be "auto" or "edges" for pairs'),
        (
            lambda: networks.from_edge_list([(0, 1)], normalize="row"),
            "normalize must be None where no weights are given",
        ),
        (
            lambda: networks.from_edge_list([(0, 1, 2)], normalize="rows"),
            "normalize must be one of row, column, sinkhorn",
        ),
        (
            lambda: networks.from_edge_list([(0, 1, 2)], normalize="row", weights="uniform"),
            "weights must be None where normalize is given",
        ),
        (
            lambda: networks.from_networkx(karate(), normalize="row"),
            "normalize must be None where no edge_key is given",
        ),
        (
            lambda: networks.from_matrix([[1, -1], [1, 1]], normalize="row"),
            r"weights must be at least 0 .* edge \(1, 0\)",
        ),
        (
            lambda: networks.from_matrix([[0, 1], [0, 0]], normalize="row"),
            "positive somewhere in every row, got none at",
        ),
        (lambda: networks.to_networkx(networks.ring(4), edge_key=3), "edge_key must be the name of an edge attribute"),
    ],
)
def test_bad_input(call, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)


# In a few lines.


def test_large_things_are_shown_in_a_line() -> None:
    import optax

    problem, network = dlsim.problems.quadratic(100, 50), networks.torus(100).with_channel(networks.loss(0.1))
    process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), network)
    data = dlsim.problems.load("digits")
    part = dlsim.problems.partition(data, 10, dlsim.problems.iid())
    shown = {
        "Network(100 nodes, 400 directed edges, by shifts, ": network,
        "Graph(100 nodes, 400 directed edges, undirected, with grid": networks.host_graph(network),
        "Problem(100 nodes, quadratic, ": problem,
        "Process(100 nodes, over Network(100 nodes, ": process,
        "Dataset('digits', 1438 + 359 for the test, inputs [8, 8, 1] uint8, 10 classes)": data,
        "Partition(1438 examples over 10 nodes, of 143 to 144)": part,
        "Labels(3 names: 'Ann', 'Bob', 'Cy'; attributes: age, calls, kind, pos)": networks.from_networkx(
            people()
        ).labels,
    }
    for begins, thing in shown.items():
        assert repr(thing).startswith(begins), repr(thing)
        assert len(repr(thing)) < 400 and "\n" not in repr(thing)
    assert "with a channel" in repr(network) and "row_stochastic" not in repr(network)
    seen = []
    jax.jit(lambda one: seen.append(repr(one)))(network)
    assert seen[0] == repr(network)  # of tracers too
    assert repr(jax.tree.map(lambda leaf: None, network)) == "Network(...)"
