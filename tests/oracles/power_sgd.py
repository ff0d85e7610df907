"""PowerSGD, worker by worker and matrix by matrix: Vogels, Karimireddy and Jaggi 2019, Algorithms 1 and 2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Model = dict[str, np.ndarray]


def gram_schmidt(columns: np.ndarray) -> np.ndarray:
    basis = np.zeros_like(columns)
    for k in range(columns.shape[1]):
        column = columns[:, k] - basis[:, :k] @ (basis[:, :k].T @ columns[:, k])
        basis[:, k] = column / np.linalg.norm(column)
    return basis


def power_sgd(
    gradient: Callable[[int, Model], Model],
    x: Model,
    factors: Model,
    rate: float,
    momentum: float | None,
    present: np.ndarray,
) -> list[Model]:
    """The model after rounds 0..T under a roll-call [T, N]; `factors` has Q of the leaves that are compressed."""
    num_nodes = present.shape[1]
    error = [{name: np.zeros_like(leaf) for name, leaf in x.items()} for _ in range(num_nodes)]
    held = {name: np.zeros_like(leaf) for name, leaf in x.items()}
    factors, history = dict(factors), [x]
    for there in present:
        here = [i for i in range(num_nodes) if there[i]]
        said = {i: {name: g + error[i][name] for name, g in gradient(i, x).items()} for i in here}
        total: Model = {}
        for name in x:
            if name not in factors:
                total[name] = np.mean([said[i][name] for i in here], axis=0)
                continue
            basis = gram_schmidt(np.mean([said[i][name] @ factors[name] for i in here], axis=0))
            answers = {i: said[i][name].T @ basis for i in here}
            factors[name] = np.mean(list(answers.values()), axis=0)
            for i in here:
                error[i][name] = said[i][name] - basis @ answers[i].T
            total[name] = basis @ factors[name].T
        if momentum is not None:
            held = {name: momentum * held[name] + g for name, g in total.items()}
            total = {name: g + held[name] for name, g in total.items()}
        x = {name: leaf - rate * total[name] for name, leaf in x.items()}
        history.append(x)
    return history
