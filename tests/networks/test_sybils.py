"""Attack edges: who is joined to whom."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path

from dlsim import networks


def honest():
    return networks.random_geometric(49, 0.3, seed=1)


def hops_of(graph):
    matrix = np.zeros((graph.num_nodes, graph.num_nodes))
    matrix[np.asarray(graph.receivers), np.asarray(graph.senders)] = 1
    return shortest_path(matrix, unweighted=True)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0, 2.5, 4.0])
def test_distributed(density):
    """Nobody has two Sybils more than another, nobody the same twice, no Sybil more than seven links."""
    base = honest()
    joined = networks.join_sybils(base, density, seed=3)
    graph, count = joined.graph, len(joined.node_ids)
    assert joined.num_honest == 49 and graph.num_nodes == 49 + count
    few = int(49 * (density % 1))
    assert joined.victims.sum() == 49 * int(density) + few
    assert joined.victims.max() - joined.victims.min() <= 1
    degrees = graph.in_degrees
    assert (degrees[49:] <= 7).all() and (degrees[49:] >= 1).all()
    np.testing.assert_array_equal(degrees[:49], networks.host_graph(base).in_degrees + joined.victims)
    assert count == 7 * int(density) + -(-few // 7)  # seven clusters of seven a pass
    ends = np.stack([graph.senders, graph.receivers])
    assert not ((ends >= 49).all(axis=0)).any()  # none among themselves
    again = networks.join_sybils(base, density, seed=3).graph
    np.testing.assert_array_equal(again.senders, graph.senders)
    if density == 4.0:
        assert not np.array_equal(networks.join_sybils(base, density, seed=4).graph.senders, graph.senders)


@pytest.mark.parametrize("pattern", ["dense", "echo"])
def test_several_sybils_a_victim(pattern):
    base = honest()
    joined = networks.join_sybils(base, 1.0, pattern=pattern, per_victim=3, max_degree=4, seed=0)
    victims = np.flatnonzero(joined.victims)
    assert set(joined.victims.tolist()) == {0, 3} and len(victims) == 16
    assert (joined.graph.in_degrees[49:] <= 4).all()
    hops = hops_of(base)
    apart = hops[np.ix_(victims, victims)].max()
    if pattern == "echo":  # a ball: whoever is nearer to its centre than a victim is a victim
        assert any(hops[c, victims].max() <= np.delete(hops[c], victims).min() for c in range(49))
    else:  # everybody has a victim within two hops
        assert hops[:, victims].min(axis=1).max() <= 2 and apart >= hops.max() - 1


def test_the_nearest_share_a_sybil():
    """On a line of eight in twos: neighbours, but for what earlier pairs leave over."""
    joined = networks.join_sybils(networks.path(8), 1.0, max_degree=2, seed=0)
    pairs = [sorted(joined.graph.senders[joined.graph.receivers == sybil].tolist()) for sybil in joined.node_ids]
    assert sorted(functools.reduce(operator.iadd, pairs, [])) == list(range(8)) and pairs[0][1] - pairs[0][0] == 1


def test_degrees_are_limited_and_nothing_is_repaired():
    base = networks.complete(9)
    limited = networks.limit_degrees(base, 3, seed=1)
    assert limited.in_degrees.max() <= 3 and not limited.is_directed
    near = honest()
    kept = networks.limit_degrees(near, 7, seed=1)
    assert kept.in_degrees.max() == 7 and kept.positions is not None
    old = set(zip(np.asarray(near.senders).tolist(), np.asarray(near.receivers).tolist(), strict=True))
    new = set(zip(kept.senders.tolist(), kept.receivers.tolist(), strict=True))
    assert new < old and all((b, a) in new for a, b in new)
    same = networks.limit_degrees(networks.ring(6), 2)
    np.testing.assert_array_equal(same.senders, networks.host_graph(networks.ring(6)).senders)
    star = networks.limit_degrees(networks.star(5), 1)
    assert star.num_edges == 2 and not networks.is_connected(star)


def test_sybils_stand_among_their_victims():
    base = honest()
    joined = networks.join_sybils(base, 1.0, seed=0)
    own = np.asarray(base.positions)
    for sybil in joined.node_ids:
        heard = joined.graph.senders[joined.graph.receivers == sybil]
        np.testing.assert_allclose(joined.graph.positions[sybil], own[heard].mean(axis=0), atol=1e-6)


def test_echo_is_one_voice():
    joined = networks.join_sybils(networks.ring(6), 1.0, max_degree=2)
    network = networks.connect(joined.graph, "uniform_neighbor", "neighbors")
    network = network.with_channel(networks.byzantine(joined.node_ids, "echo"))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((joined.graph.num_nodes, 4)), jnp.float32)
    packet, _ = network.send(jax.random.key(0), x)
    np.testing.assert_array_equal(packet.values[:6], x[:6])
    np.testing.assert_allclose(packet.values[6:], np.tile(x[6:].mean(axis=0), (3, 1)), atol=1e-6)
    np.testing.assert_array_equal(packet.values[6:], jnp.broadcast_to(packet.values[6], packet.values[6:].shape))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: networks.join_sybils(networks.ring(6), -0.5), "join_sybils: density must be"),
        (lambda: networks.join_sybils(networks.ring(6), 1e12), "join_sybils: density must be small enough"),
        (lambda: networks.join_sybils(networks.ring(6), 1e300), "join_sybils: density must be small enough"),
        (lambda: networks.join_sybils(networks.ring(6), 1.0, pattern="sparse"), "join_sybils: pattern must be one of"),
        (lambda: networks.join_sybils(networks.ring(6), 1.0, max_degree=0), "join_sybils: max_degree must be"),
        (
            lambda: networks.join_sybils(networks.ring(6), 3.0, pattern="dense"),
            r"join_sybils: density must be at most per_victim \(2\), got 3.0. Use a larger per_victim.",
        ),
        (
            lambda: networks.join_sybils(networks.graph(3, [0], [1], is_directed=True), 1.0),
            "join_sybils: graph must be undirected, got a directed one",
        ),
        (lambda: networks.limit_degrees(networks.ring(6), 0), "limit_degrees: max_degree must be an integer >= 1"),
    ],
)
def test_bad_input(make, line):
    with pytest.raises(ValueError, match=line):
        make()
