"""Asynchronous methods, one event after the other, node by node, in plain NumPy.

`gradient(node, x [D]) -> [D]`; x is `[N, D]`, everybody's first parameters; the tape says what happens when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dlsim.clocks import GRADIENT, TICKS_PER_SECOND, Tape

Gradient = Callable[[int, np.ndarray], np.ndarray]


def in_order(tape: Tape) -> Iterator[tuple[bool, int, int, float]]:
    """(is a gradient event, a, b, seconds) of every event."""
    for kind, a, b, tick in zip(tape.kind, tape.a, tape.b, tape.ticks, strict=True):
        yield kind == GRADIENT, int(a), int(b), tick / TICKS_PER_SECOND


def randomized_gossip(x: np.ndarray, tape: Tape, step_size: float) -> np.ndarray:
    x = x.copy()
    for _, i, j, _ in in_order(tape):
        moved = step_size * (x[j] - x[i])
        x[i], x[j] = x[i] + moved, x[j] - moved
    return x


def ad_psgd(
    gradient: Gradient, x: np.ndarray, tape: Tape, rate: float, read: str, momentum: float = 0.0
) -> tuple[np.ndarray, list[int]]:
    """Parameters, and the staleness of each gradient."""
    x, seen, velocity = x.copy(), x.copy(), np.zeros_like(x)
    age, staleness = np.zeros(len(x), int), []
    for is_gradient, i, j, _ in in_order(tape):
        if is_gradient:
            velocity[i] = momentum * velocity[i] + gradient(i, seen[i] if read == "start" else x[i])
            x[i] = x[i] - rate * velocity[i]
            staleness.append(int(age[i]) if read == "start" else 0)
            seen[i], age[i] = x[i], 0
        else:
            x[i] = x[j] = (x[i] + x[j]) / 2
            age[i] += 1
            age[j] += 1
    return x, staleness


def a2cid2(
    gradient: Gradient, x: np.ndarray, tape: Tape, rate: float, constants: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and momentum of each node as its last event left them."""
    eta, alpha, alpha_tilde = constants
    x, tilde, since = x.copy(), x.copy(), np.zeros(len(x))
    for is_gradient, i, j, now in in_order(tape):
        for node in (i,) if is_gradient else (i, j):
            mean, half = (x[node] + tilde[node]) / 2, (x[node] - tilde[node]) / 2
            half = half * np.exp(-2 * eta * (now - since[node]))
            x[node], tilde[node], since[node] = mean + half, mean - half, now
        if is_gradient:
            step = rate * gradient(i, x[i])
            x[i], tilde[i] = x[i] - step, tilde[i] - step
        else:
            gap = x[i] - x[j]
            x[i], x[j] = x[i] - alpha * gap, x[j] + alpha * gap
            tilde[i], tilde[j] = tilde[i] - alpha_tilde * gap, tilde[j] + alpha_tilde * gap
    return x, tilde


def swarm_sgd(
    gradient: Gradient, x: np.ndarray, tape: Tape, rate: float, num_local_steps: int, blocking: bool
) -> np.ndarray:
    x, copy = x.copy(), x.copy()
    for _, i, j, _ in in_order(tape):
        trained = {}
        for node in (i, j):
            trained[node] = x[node]
            for _ in range(num_local_steps):
                trained[node] = trained[node] - rate * gradient(node, trained[node])
        if blocking:
            x[i] = x[j] = (trained[i] + trained[j]) / 2
        else:
            averaged = {i: (x[i] + copy[j]) / 2, j: (x[j] + copy[i]) / 2}
            for node in (i, j):
                copy[node], x[node] = averaged[node], averaged[node] + (trained[node] - x[node])
    return x


def gossip_learning(
    gradient: Gradient, x: np.ndarray, tape: Tape, rate: float, merge: str, order: str, num_local_steps: int = 1
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Parameters, ages, and the staleness of each received model."""
    x, age, staleness = x.copy(), np.zeros(len(x), int), []

    def updated(node: int, model: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
        params, updates = model
        for _ in range(num_local_steps):
            params = params - rate * gradient(node, params)
        return params, updates + num_local_steps

    def merged(heard: tuple[np.ndarray, int], own: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
        if merge == "none":
            return heard
        total = heard[1] + own[1]
        share = heard[1] / total if merge == "age_weighted" and total else 0.5
        return (1 - share) * own[0] + share * heard[0], max(heard[1], own[1])

    for _, i, j, _ in in_order(tape):
        heard, own = (x[i], int(age[i])), (x[j], int(age[j]))
        staleness.append(max(own[1] - heard[1], 0))
        if order == "merge_update":
            x[j], age[j] = updated(j, merged(heard, own))
        else:
            x[j], age[j] = merged(updated(j, heard), updated(j, own))
    return x, age, staleness
