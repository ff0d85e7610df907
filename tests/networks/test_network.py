"""Building a network, changing it, and storing its nodes in another order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import networks
from dlsim.networks.network import complete_network, host_graph
from dlsim.running.counters import to_float

KEY = jax.random.key(4)
LINKS = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (4, 5), (5, 6)])  # degrees from 1 to 4


def uneven() -> dlsim.networks.Network:
    return networks.connect(networks.graph(7, *LINKS.T))


def one_way() -> dlsim.networks.Network:
    senders = np.concatenate([np.arange(7), [0, 2, 5]])
    receivers = np.concatenate([(np.arange(7) + 1) % 7, [3, 6, 1]])
    return networks.connect(networks.graph(7, senders, receivers, is_directed=True), "row_stochastic")


WORLDS = {
    "uneven": uneven,
    "one_way": one_way,
    "ring": lambda: networks.ring(7),
    "star": lambda: networks.star(7).with_lowering("edges"),
    "dense": lambda: uneven().with_lowering("dense"),
    "complete": lambda: networks.complete(7),
    "implicit": lambda: complete_network(7),
}


def values(num: int = 7) -> dict[str, jax.Array]:
    return {"x": jax.random.normal(KEY, (num, 3)), "y": jax.random.normal(jax.random.key(1), (num,))}


def restrict(network: dlsim.networks.Network) -> dlsim.networks.Network:
    """Node 3 is away and, where links are listed, those over which i + j = 1 mod 3 are down."""
    network = network.replace(is_present=network.node_ids != 3)
    if network.num_edges:
        network = network.replace(is_linked=(network.senders + network.receivers) % 3 != 1)
    return network


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("is_restricted", [False, True])
def test_mixing_commutes_with_relabelling(name: str, is_restricted: bool) -> None:
    network, order = WORLDS[name](), np.array([4, 0, 6, 2, 5, 1, 3])
    network = network.with_links(networks.links(7, upload=np.arange(1.0, 8.0)))
    network = restrict(network) if is_restricted else network
    x, moved = values(), network.relabel(order)
    mixed, after = network.mix(KEY, x)
    other, after_moved = moved.mix(KEY, jax.tree.map(lambda leaf: leaf[order], x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[order], b, atol=2e-6), mixed, other)
    a, b = after.state.traffic, after_moved.state.traffic
    np.testing.assert_array_equal(to_float(a.messages)[order], to_float(b.messages))
    np.testing.assert_array_equal(to_float(a.bits)[order], to_float(b.bits))
    assert to_float(a.clock) == pytest.approx(to_float(b.clock), rel=1e-6) and to_float(a.clock) > 0
    assert moved.properties == network.properties


def test_relabelling_and_back_is_the_same_network() -> None:
    order = np.array([4, 0, 6, 2, 5, 1, 3])
    network = restrict(uneven()).replace(cohort=jnp.array([6, 1, 2], jnp.int32))
    moved = network.relabel(order)
    np.testing.assert_array_equal(moved.node_ids[moved.cohort], [6, 1, 2])
    np.testing.assert_array_equal(moved.node_ids[~np.asarray(moved.is_present)], [3])
    back = moved.relabel(np.argsort(order))
    for name in (
        "node_ids",
        "senders",
        "receivers",
        "edge_weights",
        "self_weights",
        "is_present",
        "is_linked",
        "cohort",
    ):
        np.testing.assert_array_equal(getattr(back, name), getattr(network, name), err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, back.neighbors, network.neighbors)


def test_a_large_complete_graph_can_be_relabelled() -> None:
    network = networks.complete(5000)
    assert network.is_implicit
    moved = network.relabel(np.arange(5000)[::-1])
    assert moved.is_implicit and moved.node_ids[:2].tolist() == [4999, 4998]


def test_edges_are_sorted_and_weights_belong_to_them() -> None:
    network = uneven()
    senders, receivers = np.asarray(network.senders), np.asarray(network.receivers)
    assert (np.diff(receivers * 7 + senders) > 0).all()
    degrees = np.bincount(LINKS.ravel(), minlength=7)
    np.testing.assert_array_equal(network.in_degrees, degrees)
    np.testing.assert_array_equal(network.out_degrees, degrees)
    wanted = 1 / (1 + np.maximum(degrees[senders], degrees[receivers]))
    np.testing.assert_allclose(network.edge_weights, wanted, rtol=1e-6)
    matrix = np.zeros((7, 7))
    matrix[receivers, senders] = wanted
    np.testing.assert_allclose(network.self_weights, 1 - matrix.sum(axis=1), atol=1e-6)
    for i, (row, edges) in enumerate(zip(network.neighbors, network.neighbor_edges, strict=True)):
        real = np.asarray(edges) < network.num_edges
        assert sorted(np.asarray(row)[real].tolist()) == sorted(senders[receivers == i].tolist())
        assert (np.asarray(row)[~real] == i).all()
        np.testing.assert_array_equal(np.asarray(network.neighbor_weights[i])[~real], 0)


def test_host_graph_gives_the_graph_back() -> None:
    graph = networks.graph(7, *LINKS.T)
    back = host_graph(networks.connect(graph))
    np.testing.assert_array_equal(back.senders, graph.senders)
    np.testing.assert_array_equal(back.receivers, graph.receivers)
    assert not back.is_directed and host_graph(one_way()).is_directed


def test_what_a_network_is_known_to_be() -> None:
    assert uneven().properties == {
        "connected", "undirected", "symmetric", "row_stochastic", "column_stochastic", "doubly_stochastic",
    }  # fmt: skip
    assert one_way().properties == {"connected", "row_stochastic"}
    apart = networks.connect(networks.graph(4, [0, 2], [1, 3]))
    assert "connected" not in apart.properties
    line = networks.connect(networks.graph(3, [0, 1], [1, 2], is_directed=True), "row_stochastic")
    assert "connected" not in line.properties  # nobody reaches node 0


def test_with_methods_leave_the_old_network_alone() -> None:
    network = uneven()
    before = jax.tree.map(np.array, network)
    channel, links = networks.loss(0.5), networks.links(7)
    changed = network.with_channel(channel).with_links(links).with_lowering("dense")
    assert changed.channel is channel and changed.links is links and changed.lowering == "dense"
    assert (network.lowering, network.links) == ("neighbors", None)
    assert network.channel is networks.perfect_channel()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, network), before)
    _, later = network.mix(KEY, values())
    assert to_float(later.state.traffic.messages).sum() == 2 * len(LINKS)
    assert to_float(network.state.traffic.messages).sum() == 0
    resumed = network.with_state(later.state)
    assert to_float(resumed.state.traffic.messages).sum() == 2 * len(LINKS)


def test_a_network_is_a_pytree_that_passes_through_jit_and_scan() -> None:
    @jax.jit
    def three_rounds(network: dlsim.networks.Network, x: dict[str, jax.Array]):
        def body(carry, key):
            x, network = carry
            return network.mix(key, x), None

        return jax.lax.scan(body, (x, network), jax.random.split(KEY, 3))[0]

    mixed, network = three_rounds(uneven(), values())
    np.testing.assert_allclose(mixed["y"].mean(), values()["y"].mean(), atol=1e-6)
    assert to_float(network.state.traffic.messages).sum() == 3 * 2 * len(LINKS)


BAD_WEIGHTS = (np.full(14, 0.5), np.zeros(7))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: networks.graph(0, [], []), "graph: num_nodes must be an integer >= 1, got 0"),
        (lambda: networks.graph(3, [0, 1], [1]), r"graph: receivers must be as long as senders \(2\), got 1"),
        (lambda: networks.graph(3, [0, 3], [1, 2]), "graph: edges must be between nodes 0 and 2, got node 3"),
        (lambda: networks.graph(3, [0, -1], [1, 2]), "graph: edges must be between nodes 0 and 2, got node -1"),
        (
            lambda: networks.connect(networks.graph(7, *LINKS.T), BAD_WEIGHTS),
            r"connect: weights must be stochastic \(rows or columns sum to 1\), got row 0 with sum 2",
        ),
        (
            lambda: networks.connect(networks.graph(7, *LINKS.T), (np.ones(3), np.ones(7))),
            r"connect: edge_weights must be of shape \[14\], got \[3\]",
        ),
        (
            lambda: networks.connect(networks.graph(7, *LINKS.T), (np.full(14, np.nan), np.ones(7))),
            r"connect: edge_weights\[0\] must be a finite number, got nan",
        ),
        (lambda: networks.connect(networks.graph(7, *LINKS.T), lowering="dens"), "Did you mean 'dense'"),
        (lambda: uneven().relabel([0, 1]), r"relabel: order must be of shape \[7\], got \[2\]"),
        (lambda: uneven().relabel([0] * 7), "relabel: order must be a permutation of 0..6"),
        (lambda: networks.complete(5000).with_lowering("dense"), "'average' for a complete graph without an edge list"),
    ],
)
def test_bad_input(call, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call()
