"""Graph files as people have them, and the weights in them."""

import gzip

import networkx as nx
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from same_networks import column_stochastic, same

from dlsim import networks
from dlsim.networks.graphs import spectral, topologies
from dlsim.networks.graphs.graph_files import from_edge_list, read_graph_file


def write(tmp_path, text):
    path = tmp_path / "edges.txt"
    path.write_text(text)
    return path


def test_edge_list(tmp_path):
    path = write(tmp_path, "# a comment\n0 1\n1\t2  # another\n\n2,3\n3 0\n0 1\n2 2\n")
    same(from_edge_list(path), topologies.ring(4).replace(grid=None, offsets=None))
    directed = from_edge_list(path, directed=True, weights="column_stochastic")
    assert directed.num_edges == 4 and "column_stochastic" in directed.properties
    assert from_edge_list(path, num_nodes=6).num_nodes == 6


def test_edge_list_with_other_ids(tmp_path):
    path = write(tmp_path, "100 7\n7 -3\n")
    network = from_edge_list(path, renumber=True)
    same(network, topologies.chain(3))
    with pytest.raises(ValueError, match=r"ids of .*edges\.txt must be between 0 and 100, got -3\. Pass renumber=True"):
        from_edge_list(path)


def test_edge_list_with_weights(tmp_path):
    path = write(tmp_path, "0 1 0.5\n1 2 0.25\n")
    network = from_edge_list(path)
    expected = [[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]]
    np.testing.assert_allclose(spectral.mixing_matrix(network).toarray(), expected)
    one_way = from_edge_list(path, directed=True)
    np.testing.assert_allclose(spectral.mixing_matrix(one_way).toarray(), [[1, 0, 0], [0.5, 0.5, 0], [0, 0.25, 0.75]])


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        (
            "0 1\n1 x\n",
            {},
            r"from_edge_list: line 2 of .*edges\.txt must be .*two integers and a finite number, got '1 x'",
        ),
        ("0 1\n# fine\n1 2 3 4\n", {}, r"line 3 of .* must be"),
        ("0 1\n1\n", {}, r"line 2 of .* must be"),
        ("0 1 0.2\n1 2 nan\n", {}, r"line 2 of .* must be"),
        ("0 1 0.2\n1 2\n", {}, r"line 2 of .* must be of 3 columns as those before, got '1 2'"),
        ("# nothing\n", {}, r"path must be a file with at least one edge"),
        ("0 1 0.7\n1 2 0.7\n", {}, r"a sum of at most 1 over each node's senders, got 1\.4 at node 1"),
        ("0 1 0.2\n1 0 0.3\n", {}, r"the weight of edge \(1, 0\) must be given once"),
        ("0 9\n", {"num_nodes": 5}, r"num_nodes must be an integer >= 10, got 5"),
    ],
)
def test_bad_edge_lists_are_named_in_one_line(tmp_path, text, options, line):
    with pytest.raises(ValueError, match=line) as caught:
        from_edge_list(write(tmp_path, text), **options)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="from_edge_list: path must be a readable text file"):
        from_edge_list(tmp_path / "nowhere.txt")


def edges(network):
    return set(zip(network.senders.tolist(), network.receivers.tolist(), strict=True))


def both(pairs):
    return {*pairs, *((b, a) for a, b in pairs)}


SQUARE = both([(0, 1), (1, 2), (2, 3), (3, 0)])


@pytest.mark.parametrize(
    ("name", "text", "num_nodes"),
    [
        ("edges.txt", "4\n0 1\n1 2\n2 3\n3 0\n", 4),  # decentralizepy
        ("edges.edges", "6\n0 1\n1 0\n1 2\n2 3\n3 0\n", 6),
        ("edges.txt", "0 1 {}\n1 2 {}\n2 3 {}\n3 0 {}\n", 4),  # networkx
        ("edges.txt", "0 1 {'colour': 'red'}\n1 2 {}\n2 3 {}\n3 0 {}\n", 4),
        ("out.konect", "% sym unweighted\n% 4 4 4\n0 1\n1 2\n2 3\n3 0\n", 4),
        ("edges.csv", "source,target\n0,1\n1,2\n2,3\n3,0\n", 4),
        ("edges.csv", "Source;Target\n0;1\n1;2\n2;3\n3;0\n", 4),
        ("nodes.adj", "4\n1 3\n0 2\n1 3\n2 0\n", 4),  # decentralizepy's adjacency
        ("nodes.adj", "5\n1 3\n\n1 3\n0\n\n", 5),
        ("nodes.adj", "0 1 3\n1 2\n2 3\n3\n", 4),  # networkx
        ("nodes.adjlist", "# comment\n0 1 3\n1 2\n2 3\n3\n4\n", 5),
        ("square.mtx", "%%MatrixMarket matrix coordinate pattern symmetric\n4 4 4\n2 1\n3 2\n4 3\n4 1\n", 4),
        ("edges.txt", "\ufeff0 1\r\n1 2\r\n2 3\r\n3 0\r\n", 4),
    ],
)
def test_files_as_people_have_them(tmp_path, name, text, num_nodes):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    network = from_edge_list(path)
    assert edges(network) == SQUARE and network.num_nodes == num_nodes
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    same(from_edge_list(packed), network)
    assert read_graph_file(str(packed)).names is None


def test_what_networkx_writes_is_read(tmp_path):
    theirs = nx.random_regular_graph(3, 12, seed=1)
    expected = both(theirs.edges)
    for write_, name in ((nx.write_edgelist, "a.txt"), (nx.write_edgelist, "a.gz"), (nx.write_adjlist, "a.adjlist")):
        write_(theirs, str(tmp_path / name))
        assert edges(from_edge_list(tmp_path / name)) == expected, name
    scipy.io.mmwrite(tmp_path / "a.mtx", nx.to_scipy_sparse_array(theirs))
    with pytest.raises(ValueError, match=r'with sum 3\. Pass weights="metropolis_hastings".* no mixing weight'):
        from_edge_list(tmp_path / "a.mtx")
    assert edges(from_edge_list(tmp_path / "a.mtx", weights="metropolis_hastings")) == expected


def test_an_entry_of_a_matrix_file_is_that_of_from_matrix(tmp_path):
    matrix = scipy.sparse.coo_array(column_stochastic())
    scipy.io.mmwrite(tmp_path / "w.mtx", matrix)
    same(from_edge_list(tmp_path / "w.mtx"), networks.from_matrix(matrix))
    scipy.io.mmwrite(tmp_path / "a.mtx", matrix, field="pattern")
    plain = from_edge_list(tmp_path / "a.mtx", directed=True)
    assert edges(plain) == edges(networks.from_matrix(matrix))


def test_text_ids_are_ranks_whose_names_are_kept(tmp_path):
    path = write(tmp_path, "bob alice\nalice carol\n")
    same(from_edge_list(path, renumber=True), networks.connect(networks.graph(3, [1, 0], [0, 2])))
    file = read_graph_file(path, renumber=True)
    assert file.names == ("alice", "bob", "carol") and file.senders.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"line 1 of .* got 'bob alice'\. Pass renumber=True where nodes have names"):
        from_edge_list(path)
    quoted = write(tmp_path, 'source,target\n"Rome, Italy",Paris\nParis,New York\n')
    assert read_graph_file(quoted, renumber=True).names == ("New York", "Paris", "Rome, Italy")


def test_whole_ids_are_ranked_as_numbers(tmp_path):
    path = write(tmp_path, f"{2**70} 30000000\n30000000 9\n9 10\n")
    file = read_graph_file(path, renumber=True)
    assert file.names == (9, 10, 30000000, 2**70) and file.num_nodes == 4
    assert edges(from_edge_list(path, renumber=True)) == both([(3, 2), (2, 0), (0, 1)])
    assert read_graph_file(path, renumber=True, num_nodes=5).names == (9, 10, 30000000, 2**70, None)


def test_a_third_column_that_is_no_weight_is_left_out_where_weights_are_named(tmp_path):
    path = write(tmp_path, "0 1 17 1.5e9\n1 2 20 1.5e9\n2 0 3 1.6e9\n")  # a count and a time, as KONECT has them
    same(from_edge_list(path, weights="metropolis_hastings"), topologies.ring(3).replace(grid=None, offsets=None))
    counts = write(tmp_path, "0 1 17\n1 2 20\n2 0 3\n")
    same(from_edge_list(counts, weights="max_degree"), topologies.ring(3, weights="max_degree"))
    with pytest.raises(ValueError, match=r'got 37 at node 1\. Pass weights="metropolis_hastings".* no mixing weight'):
        from_edge_list(counts)


def test_loops_in_files_are_the_diagonal(tmp_path):
    path = write(tmp_path, "0 1 0.5\n1 2 0.25\n0 0 0.5\n2 2 0.75\n")  # of node 1 nothing is said: what is left
    expected = [[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]]
    np.testing.assert_allclose(spectral.mixing_matrix(from_edge_list(path)).toarray(), expected)
    path = write(tmp_path, "0 1 0.5\n1 2 0.25\n0 0 0.4\n")
    with pytest.raises(ValueError, match=r"rows or columns sum to 1\), got row 0 with sum 0\.9, 0\.4 of it its own"):
        from_edge_list(path)
    path = write(tmp_path, "0 1 0.5\n0 0 0.5\n0 0 0.4\n")
    with pytest.raises(ValueError, match=r"the weight of loop \(0, 0\) must be given once, got two different ones"):
        from_edge_list(path)


@pytest.mark.parametrize("name", ["columns", "rows", "symmetric"])
def test_weights_go_through_files_and_back(tmp_path, name):
    matrix = {"columns": column_stochastic(), "rows": column_stochastic().T}.get(name)
    network = networks.star(5) if matrix is None else networks.from_matrix(matrix)
    theirs = networks.to_networkx(network, loops=True)
    for write_ in (nx.write_weighted_edgelist, nx.write_edgelist):
        write_(theirs, tmp_path / "w.txt")
        same(from_edge_list(tmp_path / "w.txt", directed=theirs.is_directed()), network)


@pytest.mark.parametrize(
    ("name", "text", "options", "line"),
    [
        (
            "a.txt",
            "0 30000000\n",
            {},
            r"ids of .*a\.txt must be 0\.\.N-1.*got 2 ids up to 30000000\. Pass renumber=True",
        ),
        ("a.txt", f"0 {2**70}\n", {}, "Pass renumber=True to number them by rank, or num_nodes="),
        ("a.txt", "0 1\n1 2\n", {"num_nodes": 10**9}, "num_nodes must be small enough for lists of at most"),
        (
            "a.txt",
            "1 2\n2 3\n3 1\n",
            {},
            r"counted from 0, got 1\.\.3, .*renumber=True if it counts from 1, or num_nodes=4",
        ),
        ("a.txt", "3\n1 2\n2 3\n3 1\n", {}, r"below N = 3, as its first line says, got 3\. Pass renumber=True"),
        ("a.txt", "4\n0 1\n", {"num_nodes": 3}, r"num_nodes must be 4, as the first line of .* says, got 3"),
        (
            "a.txt",
            "5 4\n0 1\n1 2\n2 3\n3 4\n",
            {},
            "the first line of .* must be an edge, got '5 4', which counts nodes",
        ),
        ("a.txt", "x y\n0 1\n1 2\n", {"renumber": True}, "an edge like the others, got 'x y' before lines of integers"),
        ("a.txt", "0 1 {'weight': 'heavy'}\n", {}, "line 1 of .* must be"),
        ("a.txt", "0 1 {weight: 1}\n", {}, "line 1 of .* must be"),
        ("a.txt", "0 1\n", {"form": "edge"}, "form must be one of edges, .*Did you mean 'edges'"),
        ("a.txt", "0 1\n", {"directed": "yes"}, "directed must be True or False, got 'yes'"),
        ("a.txt", "0 1\n", {"renumber": 1}, "renumber must be True or False, got 1"),
        ("a.adj", "2\n1 0\n0\n", {}, 'could be either. Pass form="adjacency" or form="neighbors"'),
        ("a.adj", "x\n0 1\n", {}, "line 1 of .* got 'x'"),
        (
            "a.txt",
            "2\n1\n0\n1\n",
            {"form": "neighbors"},
            "the lines of .* must be 2, one a node, as its first says, got 3",
        ),
        ("a.mtx", "%%MatrixMarket matrix\n", {}, "path must be a Matrix Market file"),
        (
            "a.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n3 2 1\n1 1\n",
            {},
            r"of shape \[N, N\], got \[3, 2\]",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, text, options, line):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=line) as caught:
        from_edge_list(path, **options)
    assert str(caught.value).startswith("from_edge_list: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "bytes", "folder", "binary"])
def test_damaged_files_are_one_line(tmp_path, damage):
    path = tmp_path / "a.gz"
    packed = gzip.compress(b"0 1\n" * 1000)
    if damage == "folder":
        path.mkdir()
    else:
        broken = {"cut": packed[:20], "bytes": packed[:12] + b"\xff\xff\xff" + packed[15:], "binary": b"\x80\x81\x00"}
        path.write_bytes(broken[damage])
    with pytest.raises(ValueError, match="read_graph_file: path must be a readable text file") as caught:
        read_graph_file(path)
    assert "\n" not in str(caught.value)
