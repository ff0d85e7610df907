"""RelaySGD, node by node: Vogels et al. 2021, Algorithm 1, messages in a table by (from, to)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def relay_sgd(
    gradient: Callable[[int, np.ndarray], np.ndarray],
    x: np.ndarray,
    links: tuple[tuple[int, int], ...],
    learning_rate: float,
    present: np.ndarray,
) -> np.ndarray:
    """Parameters after rounds 0..T, [T + 1, N, D]."""
    nodes = range(len(x))
    neighbors = {i: [b if a == i else a for a, b in links if i in (a, b)] for i in nodes}
    messages = {(i, j): (np.zeros_like(x[0]), 0) for i in nodes for j in neighbors[i]}
    history = [x]
    for there in present:
        half = [x[i] - learning_rate * gradient(i, x[i]) for i in nodes]
        heard = dict(messages)
        for i in nodes:
            for j in neighbors[i]:
                if not there[i] and there[j]:
                    heard[i, j] = (np.zeros_like(x[0]), 0)  # nothing came, and nothing is counted
                if there[i] and there[j]:
                    others = [messages[k, i] for k in neighbors[i] if k != j]
                    total, count = half[i], 1
                    for model, models in others:
                        total, count = total + model, count + models
                    heard[i, j] = (total, count)
        messages = heard
        new = x.copy()
        for i in nodes:
            if there[i]:
                total, count = half[i], 1
                for j in neighbors[i]:
                    total, count = total + messages[j, i][0], count + messages[j, i][1]
                new[i] = total / count
        x = new
        history.append(x)
    return np.stack(history)
