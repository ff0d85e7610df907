"""Server-based methods, client by client.

FedAvg: McMahan et al. 2017, Algorithm 1.  FedOpt: Reddi et al. 2021, Algorithm 2 (FedAdam).  FedProx: Li et al. 2020,
Algorithm 2.  SCAFFOLD: Karimireddy et al. 2020, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Gradient = Callable[[int, np.ndarray], np.ndarray]
Cohorts = Sequence[Sequence[int]]  # who takes part, round by round


def fedavg(
    gradient: Gradient,
    x: np.ndarray,
    rate: float,
    num_local_steps: int,
    sizes: np.ndarray,
    cohorts: Cohorts,
    proximal_weight: float = 0.0,
) -> np.ndarray:
    """The server's model after rounds 0..T, [T + 1, D]; `proximal_weight` above 0: FedProx."""
    history = [x]
    for cohort in cohorts:
        trained = {}
        for i in cohort:
            y = x
            for _ in range(num_local_steps):
                y = y - rate * (gradient(i, y) + proximal_weight * (y - x))
            trained[i] = y
        if cohort:
            total = sum(sizes[i] for i in cohort)
            x = sum(sizes[i] / total * trained[i] for i in cohort)
        history.append(x)
    return np.stack(history)


def fedadam(
    gradient: Gradient,
    x: np.ndarray,
    rate: float,
    num_local_steps: int,
    server_rate: float,
    betas: tuple[float, float],
    tau: float,
    cohorts: Cohorts,
) -> np.ndarray:
    """The same with Adam at the server and equal weights; its moments' bias corrected, as Adam has it."""
    m, v, count = np.zeros_like(x), np.zeros_like(x), 0
    history = [x]
    for cohort in cohorts:
        moves = []
        for i in cohort:
            y = x
            for _ in range(num_local_steps):
                y = y - rate * gradient(i, y)
            moves.append(y - x)
        if moves:
            delta, count = sum(moves) / len(moves), count + 1
            m = betas[0] * m + (1 - betas[0]) * delta
            v = betas[1] * v + (1 - betas[1]) * delta**2
            x = x + server_rate * (m / (1 - betas[0] ** count)) / (np.sqrt(v / (1 - betas[1] ** count)) + tau)
        history.append(x)
    return np.stack(history)


def scaffold(
    gradient: Gradient,
    x: np.ndarray,
    num_clients: int,
    local_rate: float,
    server_rate: float,
    num_local_steps: int,
    cohorts: Cohorts,
    option: str = "II",
) -> np.ndarray:
    """The server's model after rounds 0..T, [T + 1, D]."""
    c, clients = np.zeros_like(x), [np.zeros_like(x) for _ in range(num_clients)]
    history = [x]
    for cohort in cohorts:
        moves, changes = [], []
        for i in cohort:
            y = x
            for _ in range(num_local_steps):
                y = y - local_rate * (gradient(i, y) - clients[i] + c)
            renewed = clients[i] - c + (x - y) / (num_local_steps * local_rate) if option == "II" else gradient(i, x)
            moves.append(y - x)
            changes.append(renewed - clients[i])
            clients[i] = renewed
        if moves:
            x = x + server_rate * sum(moves) / len(moves)
            c = c + len(cohort) / num_clients * (sum(changes) / len(changes))
        history.append(x)
    return np.stack(history)
