"""SPSA with shared randomness, node by node, every node with a model of its own: Zelikman et al. 2023; Spall 1992."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def log_byte(g: float, steps_per_e: int = 8) -> float:
    """A sign and seven bits of rounded logarithm."""
    level = -64 if g == 0 else int(np.clip(np.round(steps_per_e * np.log(abs(g))), -64, 63))
    return (-1 if g < 0 else 1) * float(np.exp(level / steps_per_e))


def spsa(
    loss: Callable[[int, np.ndarray], float],
    z: np.ndarray,
    x: np.ndarray,
    learning_rate: float,
    present: np.ndarray,
    smoothing: float,
    power: float = 1.0,
    codec: Callable[[float], float] = float,
) -> np.ndarray:
    """Models after rounds 0..T, [T + 1, N, D], along z [T, N, S, D]; who comes back takes the model of one who knows."""
    num_nodes, num_samples = z.shape[1:3]
    history, newest = [x], x[0]
    for t, there in enumerate(present):
        x = x.copy()
        said = {}
        for i in np.flatnonzero(there):
            x[i] = newest
            for s in range(num_samples):
                above, below = (loss(i, x[i] + side * smoothing * z[t, i, s]) for side in (1, -1))
                said[i, s] = codec((above - below) / (2 * smoothing))
        for i in np.flatnonzero(there):
            total = np.zeros_like(x[i])
            for j in range(num_nodes):
                for s in range(num_samples):
                    if (j, s) in said:
                        total += said[j, s] * z[t, j, s]
            x[i] = x[i] - learning_rate * total / len(said) ** power
            newest = x[i]
        history.append(x)
    return np.stack(history)
