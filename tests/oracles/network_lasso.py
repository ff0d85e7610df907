"""Network Lasso by ADMM, node by node and link by link (Hallac, Leskovec and Boyd 2015), in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def network_lasso(
    proximal: Callable[[int, np.ndarray, float], np.ndarray],
    x: np.ndarray,
    weights: dict[tuple[int, int], float],
    coupling: float,
    rho: float,
    present: np.ndarray,
    is_squared: bool = False,
) -> np.ndarray:
    """Models after rounds 0..T, [T + 1, N, D]; `weights` has both directions of every link.

    `proximal(i, v, r)` minimises f_i(x) + r/2 |x - v|^2.
    """
    num_nodes = len(x)
    near = [[j for i2, j in sorted(weights) if i2 == i] for i in range(num_nodes)]
    z = {(i, j): x[i].copy() for i, j in weights}
    u = {link: np.zeros_like(x[0]) for link in weights}
    history = [x]
    for there in present:
        x = x.copy()
        for i in range(num_nodes):
            if there[i]:
                x[i] = proximal(i, np.mean([z[i, j] - u[i, j] for j in near[i]], axis=0), rho * len(near[i]))
        told = {(i, j): x[i] + u[i, j] for i, j in weights}
        new_z, new_u = dict(z), dict(u)
        for (i, j), a in weights.items():
            if there[i] and there[j]:
                mine, theirs = told[i, j], told[j, i]
                if is_squared:  # minimise coupling a/2 |z_ij - z_ji|^2 + rho/2 (|z_ij - mine|^2 + |z_ji - theirs|^2)
                    matrix = np.array([[rho + coupling * a, -coupling * a], [-coupling * a, rho + coupling * a]])
                    new_z[i, j] = np.linalg.solve(matrix, rho * np.stack([mine, theirs]))[0]
                else:
                    apart = np.linalg.norm(mine - theirs)
                    theta = max(1 - coupling * a / (rho * apart), 0.5) if apart > 0 else 0.5
                    new_z[i, j] = theta * mine + (1 - theta) * theirs
                new_u[i, j] = u[i, j] + x[i] - new_z[i, j]
        z, u = new_z, new_u
        history.append(x)
    return np.stack(history)
