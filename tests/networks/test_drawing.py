"""Pictures: what is drawn where."""

import matplotlib as mpl
import networkx as nx
import numpy as np
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch

from dlsim import networks
from dlsim.networks.graphs import layouts, random_graphs, topologies
from dlsim.networks.graphs.drawing import draw, layout
from dlsim.networks.network import complete_network


def is_circle(places):
    return np.allclose(np.linalg.norm(places, axis=1), 1)


def test_layouts():
    assert is_circle(layout(topologies.ring_graph(300))[0])
    assert is_circle(layout(topologies.complete_graph(12))[0])
    assert not is_circle(layout(topologies.binary_tree_graph(15))[0])
    geometric = random_graphs.random_geometric_graph(60, seed=1)
    np.testing.assert_allclose(layout(geometric)[0], geometric.positions)


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5, 6])
def test_smallest_networks(num_nodes):
    for build in (topologies.ring, topologies.chain, topologies.star, topologies.binary_tree):
        ax = draw(build(num_nodes))
        assert np.isfinite(ax.collections[-1].get_offsets()).all()
        plt.close("all")


def test_torus_edges_that_wrap_are_stubs():
    _, segments = layout(topologies.torus_graph(30, (5, 6)))
    lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    assert len(segments) == 60 + 11  # each of the 5 + 6 links around the edge as two stubs
    assert np.sum(np.isclose(lengths, 0.45)) == 22 and np.sum(np.isclose(lengths, 1)) == 49


def test_linked_nodes_are_near():
    places, segments = layout(topologies.caveman_graph(60, 6))
    linked = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1).mean()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2).mean()
    assert linked < 0.4 * apart


def test_draw_colours_nodes_by_value():
    values = np.arange(20.0)
    values[3] = np.nan
    ax = draw(random_graphs.random_regular(20, 3), values, label="accuracy")
    _, coloured, hollow = ax.collections
    assert len(hollow.get_offsets()) == 1
    np.testing.assert_array_equal(coloured.get_array(), values[np.isfinite(values)])
    given = plt.subplots()[1]
    assert draw(topologies.ring(5), ax=given) is given
    plt.close("all")


def test_bad_input():
    with pytest.raises(ValueError, match=r"draw: values must be of shape \[5\], got \[4\]"):
        draw(topologies.ring(5), np.zeros(4))
    with pytest.raises(ValueError, match="draw: network must be one with at most"):
        draw(complete_network(5000))


@pytest.mark.parametrize("num_nodes", [6, 30])
def test_a_star_is_drawn_alike_every_time(num_nodes):
    one = topologies.star_graph(num_nodes)
    np.testing.assert_array_equal(layout(one)[0], layout(one)[0])


def club():
    return networks.from_networkx(nx.karate_club_graph())


def test_the_karate_club_shows_its_communities():
    """Groups stand apart: everyone is nearer to their own group's middle than to the other's."""
    ax = draw(club(), "club", layout="communities", labels=True, widths="weight")
    lines, *groups = ax.collections
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Mr. Hi", "Officer"]
    assert ax.get_legend().get_title().get_text() == "club"
    places = [np.asarray(group.get_offsets()) for group in groups]
    assert [len(part) for part in places] == [17, 17]
    middles = [part.mean(axis=0) for part in places]
    for own, part in enumerate(places):
        near, far = (np.linalg.norm(part - middles[one], axis=1) for one in (own, 1 - own))
        assert (near < far).all()
    assert groups[0].get_facecolor().tolist() != groups[1].get_facecolor().tolist()
    assert sorted(int(text.get_text()) for text in ax.texts) == list(range(34))
    given = [data["weight"] for _, _, data in sorted(nx.karate_club_graph().edges(data=True))]
    pairs = sorted(tuple(sorted(pair)) for pair in nx.karate_club_graph().edges)
    assert pairs == sorted(pairs) and len(lines.get_linewidths()) == 78
    np.testing.assert_allclose(lines.get_linewidths(), np.maximum(4.0 * np.array(given) / 7, 0.3))
    found = layouts.communities(networks.host_graph(club()))
    assert sorted(set(found)) == ["community 1", "community 2", "community 3"]
    draw(club(), "communities", layout="spring")
    plt.close("all")


def test_arrows_lead_from_senders_to_receivers():
    one = networks.from_edge_list([("a", "b"), ("b", "c"), ("c", "b")], directed=True, renumber=True)
    ax = draw(one, layout=[[0, 0], [1, 0], [2, 0]], labels=["x", "y", "a long name"], arrows=None)
    assert all(type(patch) is FancyArrowPatch for patch in ax.patches) and len(ax.patches) == 3
    ends = [tuple(patch._posA_posB) for patch in ax.patches]
    assert [(int(a[0]), int(b[0])) for a, b in ends] == list(
        zip(one.senders.tolist(), one.receivers.tolist(), strict=True)
    )
    bent = [patch.get_connectionstyle().rad > 0 for patch in ax.patches]
    assert bent == [False, True, True]  # b and c hear each other
    assert [text.get_text() for text in ax.texts] == ["x", "y", "a long name"]
    assert not draw(one, arrows=False).patches and not draw(networks.ring(5)).patches
    assert len(draw(networks.ring(5), arrows=True).patches) == 10
    plt.close("all")


@pytest.mark.parametrize("how", ["positions", "circular", "spring", "spectral", "communities", "auto"])
def test_layouts_by_name(how):
    one = random_graphs.random_geometric_graph(30, seed=1)
    ax = draw(one, layout=how)
    places = np.asarray(ax.collections[-1].get_offsets())
    assert places.shape == (30, 2) and np.isfinite(places).all()
    assert (how in ("positions", "auto")) == np.allclose(places, one.positions, atol=1e-6)
    assert (how == "circular") == is_circle(places)
    for smallest in (1, 2, 3, 5):
        draw(topologies.ring_graph(smallest), layout="circular" if how in ("positions", "auto") else how)
    plt.close("all")


def test_edges_are_as_thick_as_their_weights():
    star = networks.star(5, weights="row_stochastic")  # the hub gives 1/5, the leaves 1/2
    patches = draw(star, widths="weights", arrows=True).patches
    widths = np.array([patch.get_linewidth() for patch in patches])
    np.testing.assert_allclose(widths, 4 * np.asarray(star.edge_weights) / 0.5, rtol=1e-6)
    lines = draw(star, widths="weights").collections[0]
    np.testing.assert_allclose(lines.get_linewidths(), 4.0)
    given = draw(topologies.ring_graph(4), widths=[0, 0, 1, 1, 2, 2, 4, 4]).collections[0]
    assert len(given.get_linewidths()) == 4 and max(given.get_linewidths()) == 4
    plt.close("all")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"values": "age"}, "draw: values must be one of communities, club, got 'age'"),
        ({"layout": "sprung"}, "draw: layout must be one of spring, .*got 'sprung'"),
        ({"layout": "positions"}, "draw: layout must be one that the network can have, got 'positions' of a network"),
        ({"layout": np.zeros((3, 2))}, r"draw: layout must be of shape \[34, 2\]"),
        ({"layout": 3}, r"draw: layout must be places \[N, 2\] or one of"),
        ({"labels": ["a"]}, "draw: labels must be of the 34 nodes, got 1 texts"),
        ({"labels": 1}, "draw: labels must be True, False, or a text for each node"),
        ({"widths": "length"}, "draw: widths must be one of weight, weights, got 'length'"),
        ({"widths": [1.0]}, r"draw: widths must be of shape \[156\]"),
        ({"arrows": 1}, "draw: arrows must be True or False"),
    ],
)
def test_bad_ways_of_drawing(options, line):
    with pytest.raises(ValueError, match=line):
        draw(club(), **options)
