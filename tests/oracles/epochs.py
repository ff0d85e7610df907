"""Local epochs of least squares at one node: McMahan et al. 2017, ClientUpdate of Algorithm 1."""

from __future__ import annotations

import numpy as np


def trained(
    x: np.ndarray, inputs: np.ndarray, targets: np.ndarray, orders: np.ndarray, batch_size: int, rate: float
) -> np.ndarray:
    """SGD on 1/2 (a'x - b)^2 through the examples in each of these orders, [E, m], batch by batch."""
    for order in orders:
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            residual = inputs[batch] @ x - targets[batch]
            x = x - rate * inputs[batch].T @ residual / len(batch)
    return x
