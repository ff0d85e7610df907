"""Networks that are the same, and mixing matrices to read and write."""

import numpy as np


def same(a, b):
    for field in ("senders", "receivers", "edge_weights", "self_weights"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), atol=1e-7)
    assert a.properties == b.properties
    assert (a.positions is None) == (b.positions is None)
    if a.positions is not None:
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)


def column_stochastic():
    """W of four nodes whose columns sum to one and whose rows do not; one node keeps nothing of its own."""
    matrix = np.array([[0.5, 0.25, 0, 0.5], [0.25, 0.5, 0, 0], [0, 0.25, 0, 0.25], [0.25, 0, 1, 0.25]])
    assert np.allclose(matrix.sum(axis=0), 1) and not np.allclose(matrix.sum(axis=1), 1)
    return matrix
