"""Server-based methods, client by client.

FedAvg: McMahan et al. 2017, Algorithm 1.  FedOpt: Reddi et al. 2021, Algorithm 2.  FedProx: Li et al. 2020,
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
    rate: float | Sequence[float],
    num_local_steps: int,
    sizes: np.ndarray,
    cohorts: Cohorts,
    proximal_weight: float = 0.0,
    clip_norm: float = np.inf,
    rule: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """The server's model after rounds 0..T, [T + 1, D]; `proximal_weight` above 0: FedProx.

    `rate` may be one a round; clients' movements are clipped, and `rule` makes one of them, [C, D] -> [D], or their mean.
    """
    history = [x]
    for t, cohort in enumerate(cohorts):
        eta = rate if isinstance(rate, float) else rate[t]
        moves = {}
        for i in cohort:
            y = x
            for _ in range(num_local_steps):
                y = y - eta * (gradient(i, y) + proximal_weight * (y - x))
            norm = np.linalg.norm(y - x)
            moves[i] = (y - x) * (1.0 if norm <= clip_norm else clip_norm / norm)
        if cohort and rule is not None:
            x = x + rule(np.stack(list(moves.values())))
        elif cohort:
            total = sum(sizes[i] for i in cohort)
            x = x + sum(sizes[i] / total * moves[i] for i in cohort)
        history.append(x)
    return np.stack(history)


def fedopt(
    kind: str,
    gradient: Gradient,
    x: np.ndarray,
    rate: float,
    num_local_steps: int,
    server_rate: float,
    betas: tuple[float, float],
    tau: float,
    sizes: np.ndarray,
    cohorts: Cohorts,
) -> np.ndarray:
    """Algorithm 2 of Reddi et al. 2021: "fedadagrad", "fedyogi" or "fedadam", from v = tau^2."""
    m, v = np.zeros_like(x), np.full_like(x, tau**2)
    history = [x]
    for cohort in cohorts:
        if cohort:
            delta, total = np.zeros_like(x), sum(sizes[i] for i in cohort)
            for i in cohort:
                y = x
                for _ in range(num_local_steps):
                    y = y - rate * gradient(i, y)
                delta = delta + sizes[i] / total * (y - x)
            m = betas[0] * m + (1 - betas[0]) * delta
            if kind == "fedadagrad":
                v = v + delta**2
            elif kind == "fedyogi":
                v = v - (1 - betas[1]) * delta**2 * np.sign(v - delta**2)
            else:
                v = betas[1] * v + (1 - betas[1]) * delta**2
            x = x + server_rate * m / (np.sqrt(v) + tau)
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
    local_rate: float | Sequence[float],
    server_rate: float,
    num_local_steps: int,
    cohorts: Cohorts,
    option: str = "II",
    sizes: np.ndarray | None = None,
) -> np.ndarray:
    """The server's model after rounds 0..T, [T + 1, D]; `local_rate` may be one a round; `sizes`: weights by examples."""
    share = np.full(num_clients, 1 / num_clients) if sizes is None else sizes / sizes.sum()
    c, clients = np.zeros_like(x), [np.zeros_like(x) for _ in range(num_clients)]
    history = [x]
    for t, cohort in enumerate(cohorts):
        eta = local_rate if isinstance(local_rate, float) else local_rate[t]
        moves, changes = [], []
        for i in cohort:
            y = x
            for _ in range(num_local_steps):
                y = y - eta * (gradient(i, y) - clients[i] + c)
            if option == "I":
                renewed = gradient(i, x)
            else:
                renewed = clients[i] - c + (x - y) / (num_local_steps * eta) if eta else clients[i]
            moves.append(y - x)
            changes.append(renewed - clients[i])
            clients[i] = renewed
        if moves:
            heard = sum(share[i] for i in cohort)
            x = x + server_rate * sum(share[i] / heard * move for i, move in zip(cohort, moves, strict=True))
            c = c + sum(share[i] * change for i, change in zip(cohort, changes, strict=True))
        history.append(x)
    return np.stack(history)
