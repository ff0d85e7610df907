"""ADOM+ and MSDA in matrices, and the continuized method event by event, in plain NumPy."""

from __future__ import annotations

import numpy as np
from oracles.asynchronous import Gradient, in_order

from dlsim.clocks import Tape


def adom_plus(
    gradient: Gradient, x: np.ndarray, matrix: np.ndarray, chi: float, mu: float, smooth: float, num_rounds: int
) -> np.ndarray:
    """x after every round, `[T + 1, N, D]`; the two implicit lines are solved as a linear system."""
    k = smooth / mu
    t1, t2 = 1 / (np.sqrt(k) + 0.5), np.sqrt(1 / k)
    s2 = t2 / (16 * chi)
    s1 = 1 / (1 / s2 + 0.5)
    eta, alpha, beta, delta, nu = 1 / (smooth * t2), mu / 2, 1 / (2 * smooth), 1 / (17 * smooth), mu / 2
    gamma, theta = nu / (14 * s2 * chi**2), nu / (4 * s2)
    gossip = np.eye(len(x)) - matrix
    x = x.copy()
    xf, (y, yf, z, zf, m) = x.copy(), np.zeros((5, *x.shape))
    out = [x]
    for _ in range(num_rounds):
        xg, yg, zg = t1 * x + (1 - t1) * xf, s1 * y + (1 - s1) * yf, s1 * z + (1 - s1) * zf
        g = np.stack([gradient(i, row) for i, row in enumerate(xg)])
        system = np.array([[1 + eta * alpha, -eta], [theta, 1 + theta * beta]])
        right = np.stack(
            [x + eta * alpha * xg - eta * (g - nu * xg), y + theta * beta * (g - nu * xg) - theta / nu * (yg + zg)]
        )
        new_x, new_y = np.einsum("ab,bnd->and", np.linalg.inv(system), right)
        r = gamma / nu * (yg + zg) + m
        new_z = z + gamma * delta * (zg - z) - gossip @ r
        m = r - gossip @ r
        xf, yf, zf = xg + t2 * (new_x - x), yg + s2 * (new_y - y), zg - 0.5 * gossip @ (yg + zg)
        x, y, z = new_x, new_y, new_z
        out.append(x)
    return np.stack(out)


def msda(
    curvature: np.ndarray, linear: np.ndarray, matrix: np.ndarray, mu: float, smooth: float, num_rounds: int
) -> np.ndarray:
    """Gradients of the conjugates of x' H x / 2 + q' x after every round, `[T + 1, N, D]`; W's spectrum is looked up."""
    laplacian = np.eye(len(matrix)) - matrix
    values = np.sort(np.linalg.eigvalsh(laplacian))
    # As if the largest eigenvalue were 1, the least that is known of it.
    gap = values[1]
    root, c1, c2, c3 = np.sqrt(gap), (1 - np.sqrt(gap)) / (1 + np.sqrt(gap)), (1 + gap) / (1 - gap), 2 / (1 + gap)
    num = int(1 / root)
    kappa = smooth / mu
    eta = mu * (1 + c1 ** (2 * num)) / (1 + c1**num) ** 2
    up, down = (1 + c1**num) * np.sqrt(kappa), 1 - c1**num
    momentum = (up - down) / (up + down)
    x = y = np.zeros_like(linear)

    def primal(x: np.ndarray) -> np.ndarray:
        return np.stack([np.linalg.solve(h, d - q) for h, d, q in zip(curvature, x, linear, strict=True)])

    def mixed(theta: np.ndarray) -> np.ndarray:
        turn = np.eye(len(matrix)) - c3 * laplacian
        a_before, a, before, now = 1.0, c2, theta, c2 * turn @ theta
        for _ in range(1, num):
            a_before, a = a, 2 * c2 * a - a_before
            before, now = now, 2 * c2 * turn @ now - before
        return theta - now / a

    out = [primal(x)]
    for _ in range(num_rounds):
        ahead = x - eta * mixed(primal(x))
        x, y = (1 + momentum) * ahead - momentum * y, ahead
        out.append(primal(x))
    return np.stack(out)


def continuized(
    curvature: np.ndarray,
    linear: np.ndarray,
    tape: Tape,
    mu: float,
    smooth: float,
    chi: tuple[float, float],
    until: float,
) -> np.ndarray:
    """(y, z) of every node at the time `until`, `[2, N, D]`."""
    eta = np.sqrt(mu / smooth) / np.sqrt(2 * chi[0] * chi[1])
    fast = np.sqrt(mu * smooth * chi[0] / chi[1]) / 2
    rows, since = np.zeros((2, *linear.shape)), np.zeros(len(linear))

    def flow(node: int, now: float) -> None:
        mean, half = rows[:, node].mean(0), (rows[0, node] - rows[1, node]) / 2
        half = half * np.exp(-2 * eta * (now - since[node]))
        rows[:, node], since[node] = (mean + half, mean - half), now

    for _, i, j, now in in_order(tape):
        flow(i, now)
        flow(j, now)
        theta = [np.linalg.solve(curvature[n], rows[0, n] - linear[n]) for n in (i, j)]
        apart = theta[0] - theta[1]
        rows[:, i] -= np.array([mu / 2, fast])[:, None] * apart
        rows[:, j] += np.array([mu / 2, fast])[:, None] * apart
    for node in range(len(linear)):
        flow(node, until)
    return rows
