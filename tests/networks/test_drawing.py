"""Pictures: what is drawn where."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from dlsim.networks import random_graphs, topologies
from dlsim.networks.drawing import draw, layout
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
