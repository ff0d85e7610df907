"""What is too large, or of another kind, is refused in one line before anything is allocated."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.networks.graphs import topologies
from dlsim.networks.pace import sizes

RING = networks.ring(6)
HUGE = 10**9


def line_of(call):
    """The error line, which must come before a megabyte is allocated."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 2**20, peak
    return str(caught.value)


TOO_LARGE = {
    "ring": lambda: networks.ring(HUGE),
    "path": lambda: networks.path(HUGE),
    "star": lambda: networks.star(HUGE),
    "complete": lambda: networks.complete(HUGE),
    "complete with a list": lambda: topologies.complete_graph(30_000),
    "grid": lambda: networks.grid(HUGE),
    "torus": lambda: networks.torus(HUGE, (10**3, 10**3, 10**3)),
    "hypercube": lambda: networks.hypercube(2**30),
    "binary_tree": lambda: networks.binary_tree(HUGE),
    "exponential": lambda: networks.exponential(HUGE),
    "caveman": lambda: networks.caveman(HUGE, 10**3),
    "bipartite": lambda: networks.bipartite(10**6),
    "random_regular": lambda: networks.random_regular(HUGE, 4),
    "erdos_renyi": lambda: networks.erdos_renyi(10**6, 0.1),
    "watts_strogatz": lambda: networks.watts_strogatz(HUGE, 4, 0.1),
    "barabasi_albert": lambda: networks.barabasi_albert(HUGE, 2),
    "random_geometric": lambda: networks.random_geometric(10**6, 0.5),
    "stochastic_block": lambda: networks.stochastic_block(10**6, 2, 0.1, 0.1),
    "one_peer_exponential": lambda: networks.one_peer_exponential(HUGE),
    "base_graph": lambda: networks.base_graph(HUGE),
    "graph": lambda: networks.graph(HUGE, [0], [1]),
    "links": lambda: networks.links(HUGE),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_cannot_fit_is_refused_before_it_is_made(name):
    assert "num_nodes must be small enough for lists of at most 268435456 nodes and 536870912 directed" in line_of(
        TOO_LARGE[name]
    )


@pytest.mark.parametrize("name", sorted({name.partition(" ")[0] for name in TOO_LARGE}))
def test_more_than_32_bits_of_nodes_are_refused(name):
    call = getattr(networks, name)
    extra = {
        "caveman": (10,),
        "random_regular": (3,),
        "erdos_renyi": (0.1,),
        "watts_strogatz": (4, 0.1),
        "barabasi_albert": (2,),
        "stochastic_block": (2, 0.1, 0.1),
        "graph": ([0], [1]),
    }
    assert "num_nodes must be an integer" in line_of(lambda: call(10**12, *extra.get(name, ())))


def test_the_machines_memory_is_a_limit(monkeypatch):
    monkeypatch.setattr(sizes, "total_memory", lambda: 2**20)
    said = (
        "num_nodes must be small enough for the 0.0 GiB of this machine (64 bytes a directed edge and 32 a node at the"
    )
    assert said in line_of(lambda: networks.ring(7_000))  # 64 * 14,000 + 32 * 7,000 bytes are 1.07 MiB
    assert networks.ring(6_000).num_nodes == 6_000
    star = networks.star(3_000)
    assert "the matrix of lowering 'dense' must be small enough for the 0.0" in line_of(
        lambda: star.with_lowering("dense")
    )
    assert "3000 x 2999 neighbours" in line_of(lambda: star.with_lowering("neighbors"))


def test_sizes_are_of_what_is_drawn():
    """Edges are counted as they will be: as many nodes with few edges are made."""
    assert networks.erdos_renyi(50_000, 4e-5, connected=False).num_edges == pytest.approx(100_000, rel=0.02)
    least = 300_000 * 299_999 * np.pi * 0.002**2 / 4
    assert sizes.check_size("random_geometric", 300_000, round(least)) == 300_000


GRAPHS = (
    networks.chi_1,
    networks.chi_2,
    networks.diameter,
    networks.draw,
    networks.effective_resistances,
    networks.is_connected,
    networks.laplacian,
)
NETWORKS = (
    networks.host_graph,
    networks.mixing_matrix,
    networks.mixing_rate,
    networks.second_eigenvalue,
    networks.spectral_gap,
    networks.spectrum,
    networks.to_jraph,
    networks.to_networkx,
    networks.reverse_edges,
)


@pytest.mark.parametrize("function", [*GRAPHS, *NETWORKS], ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    "bad",
    [None, "ring", 7, [0, 1], {}, np.eye(3), networks.ring, networks.Network],
    ids=lambda bad: getattr(bad, "__name__", None) or str(type(bad).__name__) + repr(bad)[:12],
)
def test_what_is_no_graph_is_refused(function, bad):
    with pytest.raises(ValueError, match=rf"^{function.__name__}: network must be a Network.*, got [^\n]*$"):
        function(bad)


@pytest.mark.parametrize("function", NETWORKS, ids=lambda function: function.__name__)
def test_a_graph_has_no_weights(function):
    line = line_of(lambda: function(topologies.ring_graph(5)))
    assert line.startswith(f"{function.__name__}: network must be a Network, got Graph")


def test_a_graph_is_drawn_as_its_network_is():
    import matplotlib

    matplotlib.use("Agg")
    one = topologies.chain_graph(6)
    drawn, expected = networks.draw(one), networks.draw(networks.connect(one))
    places = [axes.collections[1].get_offsets() for axes in (drawn, expected)]
    np.testing.assert_array_equal(*places)


def test_tracers_are_named():
    with pytest.raises(ValueError, match="spectral_gap: network must be one whose arrays are known, got a tracer"):
        jax.jit(lambda weights: networks.spectral_gap(RING.replace(edge_weights=weights)))(RING.edge_weights)
    with pytest.raises(ValueError, match="graph: senders must be known values, got a tracer"):
        jax.jit(lambda ends: networks.graph(3, ends, ends).num_edges)(jnp.arange(2))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: networks.torus(6, 6), "torus: shape must be integers >= 1, got 6"),
        (lambda: networks.torus(6, "2x3"), "torus: shape must be integers >= 1, got '2x3'"),
        (lambda: networks.grid(6, (2, 2.5)), r"grid: shape\[1\] must be an integer >= 1, got 2\.5"),
        (lambda: networks.grid(1, ()), "grid: shape must be of 1 nodes in all"),
        (lambda: networks.graph(3, [0.5], [1]), "graph: senders must be integers, got dtype float64"),
        (lambda: networks.graph(3, [[0, 1]], [[1, 2]]), r"graph: senders must be of shape \[\*\], got \[1, 2\]"),
        (lambda: networks.graph(3, [0], [1], is_directed="no"), "graph: is_directed must be True or False, got 'no'"),
        (
            lambda: networks.graph(3, [0], [1], grid=(2, 2)),
            r"graph: grid must be of 3 nodes in all, got \(2, 2\) with 4",
        ),
        (lambda: networks.graph(2, [0], [1], positions=[[0, 0], [1, np.nan]]), r"positions\[1, 1\] must be a finite"),
        (lambda: networks.connect(RING), "connect: graph must be a Graph, got Network"),
        (lambda: networks.connect("ring"), "connect: graph must be a Graph, got 'ring'"),
        (
            lambda: networks.connect(networks.graph(2, [0], [1]), ([0.5, np.inf], [0.5, 0.5])),
            r"connect: edge_weights\[1\] must be a finite number, got inf",
        ),
        (
            lambda: networks.mixing_weights(RING, "uniform"),
            r"graph must be a Graph, got Network\. Of a Network: host_graph",
        ),
        (lambda: networks.random_regular(8, 3, connected="yes"), "random_regular: connected must be True or False"),
        (
            lambda: networks.erdos_renyi(8, 0.9, connected=np.nan),
            "erdos_renyi: connected must be True or False, got nan",
        ),
        (lambda: networks.barabasi_albert(8, 2, seed=None), "barabasi_albert: seed must be an integer >= 0, got None"),
        (lambda: networks.top_k(0.1, error_feedback="abc"), "top_k: error_feedback must be True or False, got 'abc'"),
        (lambda: networks.random_k(0.1, is_unbiased=np.nan), "random_k: is_unbiased must be True or False, got nan"),
        (lambda: networks.random_sparsification(0.1, is_unbiased=1), "is_unbiased must be True or False, got 1"),
        (lambda: networks.link_failure(0.1, is_symmetric="no"), "link_failure: is_symmetric must be True or False"),
        (
            lambda: networks.links(3, upload=[1, np.nan, 1]),
            r"links: upload\[1\] must be a number in \(0, inf\), got nan",
        ),
        (lambda: networks.links(3, compute=[[1], [1, 2]]), "links: compute must be numeric, got ragged rows"),
        (lambda: networks.byzantine([2**32 + 3]), r"byzantine: node_ids must be .*below 2\^31, got \[4294967299\]"),
        (lambda: networks.time_varying(7), "time_varying: networks must be one or more Networks, got 7"),
        (lambda: networks.time_varying([RING, None]), "one or more Networks, got Network, NoneType"),
        (lambda: RING.with_links(3), "with_links: links must be a Links, got 3. Pass dlsim.networks.links"),
        (lambda: RING.relabel([0.0, 1, 2, 3, 4, 5]), "relabel: order must be a permutation of 0..5"),
        (lambda: networks.reverse_edges(networks.exponential(6)), "undirected, so that every edge has a reverse"),
        (lambda: networks.draw(RING, [1j] * 6), "draw: values must be real numbers, or texts, one a node, got dtype"),
        (lambda: networks.draw(RING, ax=3), "draw: ax must be an Axes, got 3"),
        (
            lambda: RING.mix(jax.random.key(0), [1.0, 2.0]),
            r"mix: tree must be stacked over 6 nodes in every leaf, got 1\.0",
        ),
        (
            lambda: RING.mix(jax.random.key(0), {}),
            "mix: tree must be stacked over 6 nodes in every leaf, got one without",
        ),
    ],
)
def test_wrong_arguments_are_one_line(call, line):
    with pytest.raises(ValueError, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)
