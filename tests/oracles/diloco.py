"""DiLoCo and its kin, replica by replica and local step by local step.

DiLoCo: Douillard et al. 2023.  Asynchronous: Keiblinger et al. 2025.  Streaming: Douillard et al. 2025.  Outer steps are
SGD with Nesterov momentum: v <- mu v + G, phi <- phi - eta (mu v + G).  Inner steps are SGD with heavy-ball momentum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from oracles.rounds import weights_of_round

Gradient = Callable[[int, np.ndarray], np.ndarray]
INNER_MOMENTUM = 0.5


class Replicas:
    """theta [N, D] and the momentum of each."""

    def __init__(self, gradient: Gradient, x: np.ndarray, rate: float) -> None:
        self.gradient, self.rate = gradient, rate
        self.theta, self.momentum = x.copy(), np.zeros_like(x)

    def train(self, there: np.ndarray) -> None:
        """One local step of those who are there."""
        for i in np.flatnonzero(there):
            self.momentum[i] = INNER_MOMENTUM * self.momentum[i] + self.gradient(i, self.theta[i])
            self.theta[i] -= self.rate * self.momentum[i]


def diloco(
    gradient: Gradient,
    x: np.ndarray,
    rate: float,
    num_local_steps: int,
    eta: float,
    mu: float,
    present: np.ndarray,
    rounds_late: int = 0,
) -> np.ndarray:
    """phi after rounds 0..T, [T + 1, D]; `rounds_late` = 1: asynchronous."""
    replicas, phi, v = Replicas(gradient, x, rate), x[0].copy(), np.zeros_like(x[0])
    sent: list[np.ndarray | None] = [None] * rounds_late
    history = [phi.copy()]
    for there in present:
        replicas.theta[there] = phi
        for _ in range(num_local_steps):
            replicas.train(there)
        sent.append((phi - replicas.theta[there]).mean(0) if there.any() else None)
        outer = sent.pop(0)
        if outer is not None:
            v = mu * v + outer
            phi = phi - eta * (mu * v + outer)
        history.append(phi.copy())
    return np.stack(history)


def streaming(
    gradient: Gradient,
    x: np.ndarray,
    rate: float,
    num_local_steps: int,
    labels: np.ndarray,
    delay: int,
    alpha: float,
    eta: float,
    mu: float,
    present: np.ndarray,
    first: str = "paper",
    matrix: np.ndarray | None = None,
    gamma: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """phi and theta after rounds 0..T, [T + 1, N, D] each, and how often each fragment was sent by somebody.

    `labels` [D] say which fragment an entry is in; with `matrix` over a graph, by differences from public copies.
    """
    period = num_local_steps
    num, size = int(labels.max()) + 1, len(x)
    replicas = Replicas(gradient, x, rate)
    phi, v = x.copy(), np.zeros_like(x)
    public, mixed = x.copy(), x.copy()
    outer, due = np.zeros_like(x), np.zeros((num, size), int)  # due: the step at which a transfer is applied, 0: none
    counts, before = np.zeros(num, int), np.ones(size, bool)
    histories: tuple[list[np.ndarray], list[np.ndarray]] = ([phi.copy()], [x.copy()])
    for t in range(1, period * len(present) + 1):
        there = present[(t - 1) // period]
        theta = replicas.theta
        if (t - 1) % period == 0 and matrix is None:
            back = there & ~before
            theta[back] = phi[back]
        replicas.train(there)
        before = there
        for p in range(num):
            mine = np.flatnonzero(labels == p)
            start = p * (period // num)
            begins = period if first == "paper" or start == 0 else 0
            if (t - start) % period or t - start < begins or not there.any():
                continue
            counts[p] += 1
            if matrix is None:
                outer[:, mine] = (phi[0][mine] - theta[there][:, mine]).mean(0)
                due[p] = t + delay
                continue
            said = np.where(there[:, None], theta[:, mine] - public[:, mine], 0)
            heard = weights_of_round(matrix, there) @ said
            for i in np.flatnonzero(there):
                public[i, mine] += said[i]
                mixed[i, mine] += heard[i]
                pull = mixed[i, mine] - public[i, mine]
                outer[i, mine] = phi[i, mine] - theta[i, mine] - gamma * pull
                due[p, i] = t + delay
        for p in range(num):
            mine = np.flatnonzero(labels == p)
            for i in range(size):
                # With an all-reduce phi moves for those as well who are away; over a graph it waits for its owner.
                is_due = due[p, i] > 0 and (t - due[p, i]) % period == 0 and t >= due[p, i]
                if not is_due or (matrix is not None and not there[i]):
                    continue
                v[i, mine] = mu * v[i, mine] + outer[i, mine]
                phi[i, mine] -= eta * (mu * v[i, mine] + outer[i, mine])
                due[p, i] = 0
                if there[i]:
                    theta[i, mine] = alpha * theta[i, mine] + (1 - alpha) * phi[i, mine]
        if t % period == 0:
            histories[0].append(phi.copy())
            histories[1].append(theta.copy())
    return np.stack(histories[0]), np.stack(histories[1]), counts
