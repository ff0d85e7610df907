"""LED, Wang and Elia, LT-ADMM, ATG and mixed orders of gradient tracking, node by node and link by link."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from oracles.rounds import weights_of_round

Gradient = Callable[[int, np.ndarray], np.ndarray]
Links = tuple[tuple[int, int], ...]


def mixed(matrix: np.ndarray, x: np.ndarray, i: int) -> np.ndarray:
    return np.sum([matrix[i, j] * x[j] for j in range(len(x))], axis=0)


def tracking(
    gradient: Gradient, x: np.ndarray, matrix: np.ndarray, rate: float, present: np.ndarray, order: str, tracker: str
) -> np.ndarray:
    """x: W (x - a y) or W x - a y;  y: W (y + change) or W y + change, each as its order says."""
    y = np.stack([gradient(i, row) for i, row in enumerate(x)])
    history = [x]
    for there in present:
        now = weights_of_round(matrix, there)
        new_x, new_y = x.copy(), y.copy()
        for i in np.flatnonzero(there):
            ahead = order == "adapt_then_combine"
            new_x[i] = mixed(now, x - rate * y, i) if ahead else mixed(now, x, i) - rate * y[i]
        change = np.stack([gradient(i, new_x[i]) - gradient(i, x[i]) for i in range(len(x))])
        for i in np.flatnonzero(there):
            ahead = tracker == "adapt_then_combine"
            new_y[i] = mixed(now, y + change, i) if ahead else mixed(now, y, i) + change[i]
        x, y = new_x, new_y
        history.append(x)
    return np.stack(history)


def led(
    gradient: Gradient, x: np.ndarray, matrix: np.ndarray, rate: float, present: np.ndarray, steps: int, beta: float
) -> np.ndarray:
    y = np.zeros_like(x)
    history = [x]
    for there in present:
        now = weights_of_round(matrix, there)
        phi = x.copy()
        for i in np.flatnonzero(there):
            for _ in range(steps):
                phi[i] = phi[i] - rate * gradient(i, phi[i]) - beta * y[i]
        new_x, y = x.copy(), y.copy()
        for i in np.flatnonzero(there):
            new_x[i] = mixed(now, phi, i)
            y[i] += phi[i] - new_x[i]
        x = new_x
        history.append(x)
    return np.stack(history)


def wang_elia(gradient: Gradient, x: np.ndarray, matrix: np.ndarray, rate: float, present: np.ndarray) -> np.ndarray:
    z = np.zeros_like(x)
    history = [x]
    for there in present:
        pull = (np.eye(len(x)) - weights_of_round(matrix, there)) / 2
        new_x, new_z = x.copy(), z.copy()
        for i in np.flatnonzero(there):
            new_x[i] = x[i] - mixed(pull, x + z, i) - rate * gradient(i, x[i])
            new_z[i] = z[i] + mixed(pull, x, i)
        x, z = new_x, new_z
        history.append(x)
    return np.stack(history)


def neighbors(links: Links, i: int) -> list[int]:
    return [b if a == i else a for a, b in links if i in (a, b)]


def taken_in(
    z: dict[tuple[int, int], np.ndarray], said: np.ndarray, rho: float, alpha: float, there: np.ndarray
) -> dict[tuple[int, int], np.ndarray]:
    """z[i, j] at i for j, after both have spoken; a link with an absent end is as it was."""
    return {
        (i, j): (1 - alpha) * own + alpha * (2 * rho * said[j] - z[j, i]) if there[i] and there[j] else own
        for (i, j), own in z.items()
    }


def lt_admm(
    gradient: Gradient,
    x: np.ndarray,
    links: Links,
    present: np.ndarray,
    *,
    rate: float,
    steps: int,
    beta: float,
    rho: float,
    alpha: float,
) -> np.ndarray:
    z = {(i, j): rho * x[i] for i in range(len(x)) for j in neighbors(links, i)}
    history = [x]
    for there in present:
        new_x = x.copy()
        for i in np.flatnonzero(there):
            near = neighbors(links, i)
            pull = beta * (rho * len(near) * x[i] - np.sum([z[i, j] for j in near], axis=0))
            for _ in range(steps):
                new_x[i] = new_x[i] - rate * gradient(i, new_x[i]) - pull
        x = new_x
        z = taken_in(z, x, rho, alpha, there)
        history.append(x)
    return np.stack(history)


def admm_tracking_gradient(
    gradient: Gradient,
    x: np.ndarray,
    links: Links,
    present: np.ndarray,
    *,
    delta: float,
    gamma: float,
    rho: float,
    alpha: float,
) -> np.ndarray:
    width = x.shape[1]
    z = {(i, j): np.zeros(2 * width) for i in range(len(x)) for j in neighbors(links, i)}
    history = [x]
    for there in present:
        said = np.zeros((len(x), 2 * width))
        for i in range(len(x)):
            near = neighbors(links, i)
            own = np.concatenate([x[i], gradient(i, x[i])])
            said[i] = (own + np.sum([z[i, j] for j in near], axis=0)) / (1 + rho * len(near))
        x = x.copy()
        for i in np.flatnonzero(there):
            y, s = said[i, :width], said[i, width:]
            x[i] = x[i] + gamma * (y - delta * s - x[i])
        z = taken_in(z, said, rho, alpha, there)
        history.append(x)
    return np.stack(history)
