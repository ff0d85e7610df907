"""DADAO, one event after the other in plain NumPy, the flow by the exponential of its matrix."""

from __future__ import annotations

import numpy as np
from oracles.asynchronous import Gradient, in_order
from scipy.linalg import expm

from dlsim.clocks import Tape


def flow_matrix(mu: float, smoothness: float) -> np.ndarray:
    """d/dt of (x, x~, y, y~, z, z~)."""
    nu = mu / 2
    s = np.sqrt(nu / smoothness)
    eta, alpha, slow, theta = s / 8, s / 4, s / 8, 1 / (2 * s)
    return np.array(
        [
            [-eta, eta, 0, 0, 0, 0],
            [eta, -eta, 0, 0, 0, 0],
            [0, 0, -alpha, alpha, 0, 0],
            [0, -theta * nu, -theta, 0, -theta, 0],
            [0, 0, 0, 0, -alpha, alpha],
            [0, 0, 0, 0, slow, -slow],
        ]
    )


def dadao(
    gradient: Gradient, x: np.ndarray, tape: Tape, mu: float, smoothness: float, chi_1: float, until: float
) -> np.ndarray:
    """(x, x~, y, y~, z, z~) of every node at the time `until`, `[6, N, D]`; `chi_1` of the rates."""
    nu, matrix = mu / 2, flow_matrix(mu, smoothness)
    s = np.sqrt(nu / smoothness)
    rows, since = np.zeros((6, *x.shape)), np.zeros(len(x))
    rows[0] = x

    def flow(node: int, now: float) -> None:
        rows[:, node] = expm(matrix * (now - since[node])) @ rows[:, node]
        since[node] = now

    for is_gradient, i, j, now in in_order(tape):
        for node in (i,) if is_gradient else (i, j):
            flow(node, now)
        if is_gradient:
            g = gradient(i, rows[0, i]) - nu * rows[0, i] - rows[3, i]
            rows[0, i] -= g / (4 * smoothness)
            rows[1, i] -= g / (4 * np.sqrt(nu * smoothness))
            rows[3, i] += (s / 4 + 1) * g
        else:
            m = rows[2, i] + rows[4, i] - rows[2, j] - rows[4, j]
            for node, sign in ((i, -1), (j, 1)):
                rows[4, node] += sign * m / 2
                rows[5, node] += sign * 2 * chi_1 / s * m
    for node in range(len(x)):
        flow(node, until)
    return rows
