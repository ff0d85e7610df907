"""What belongs to edges: sums by receiver, rows and weights of each edge, padding included."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import six_nodes

from dlsim import networks
from dlsim.networks import edge_messages
from dlsim.networks.graphs.padding import lengthen

NUM = six_nodes.NUM_NODES
RNG = np.random.default_rng(0)


def test_sums_by_receiver_are_those_of_a_loop() -> None:
    network = six_nodes.network()
    values = RNG.normal(size=(network.num_edges, 3)).astype(np.float32)
    expected = np.zeros((NUM, 3))
    for row, receiver in zip(values, np.asarray(network.receivers), strict=True):
        expected[receiver] += row
    found = networks.sum_at_receivers(network, {"x": jnp.asarray(values), "one": jnp.ones(network.num_edges)})
    np.testing.assert_allclose(found["x"], expected, atol=1e-6)
    np.testing.assert_array_equal(found["one"], network.in_degrees)
    with pytest.raises(ValueError, match=r"sum_at_receivers: tree must be stacked over 12 nodes"):
        networks.sum_at_receivers(network, jnp.ones(NUM))


def test_weights_of_edges_are_by_node_id_and_none_in_the_padding() -> None:
    order, matrix = RNG.permutation(NUM), RNG.uniform(size=(NUM, NUM))
    matrix = jnp.asarray(matrix + matrix.T, float)
    moved = six_nodes.network().relabel(order)
    found = edge_messages.edge_weights(moved, matrix)
    ends = order[np.asarray(moved.receivers)], order[np.asarray(moved.senders)]
    np.testing.assert_allclose(found, np.asarray(matrix)[ends], rtol=1e-6)
    padded = lengthen(moved, moved.num_edges + 5)
    np.testing.assert_array_equal(edge_messages.edge_weights(padded, matrix)[:-5], found)
    for weights in (matrix, None):
        np.testing.assert_array_equal(edge_messages.edge_weights(padded, weights)[-5:], 0)
    rows = jnp.arange(1.0, NUM + 1)
    np.testing.assert_array_equal(edge_messages.from_receivers(padded, rows)[:-5], rows[moved.receivers])
    np.testing.assert_array_equal(edge_messages.from_receivers(padded, rows)[-5:], 0)
