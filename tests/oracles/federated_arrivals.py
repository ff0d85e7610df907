"""Server-side asynchrony as a plain NumPy loop: one job after the other, every version kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlsim.arrivals import Jobs

Gradient = Callable[[np.ndarray, int], np.ndarray]
Rate = float | Callable[[int], float]  # of the version


def _at(rate: Rate, version: int) -> float:
    return rate(int(version)) if callable(rate) else rate


def movements(jobs: Jobs, start: np.ndarray, gradient: Gradient, rate: Rate, until: int) -> np.ndarray:
    """The server's model after the jobs used up to tick `until`: movements, summed up as the schedule says."""
    versions, pending, model = [start.copy()], np.zeros_like(start), start.copy()
    for k in range(len(jobs.client)):
        if jobs.use[k] > until:
            break
        begun = versions[jobs.start_version[k]]
        local = begun.copy()
        for _ in range(jobs.num_steps[k]):
            local = local - _at(rate, jobs.start_version[k]) * gradient(local, int(jobs.client[k]))
        change = jobs.coefficient[k] * (local - begun)
        if jobs.is_direct[k]:
            model = model + change
        else:
            pending = pending + change
            if jobs.is_last[k]:
                model, pending = model + pending, np.zeros_like(pending)
        if jobs.is_last[k]:
            versions.append(model.copy())
    return model


def interpolation(
    jobs: Jobs, start: np.ndarray, gradient: Gradient, rate: Rate, mixing: float, until: int
) -> np.ndarray:
    """FedAsync as its paper writes it: towards the client's model."""
    versions, model = [start.copy()], start.copy()
    for k in range(len(jobs.client)):
        if jobs.use[k] > until:
            break
        local = versions[jobs.start_version[k]].copy()
        for _ in range(jobs.num_steps[k]):
            local = local - _at(rate, jobs.start_version[k]) * gradient(local, int(jobs.client[k]))
        alpha = mixing * (1.0 + jobs.staleness[k]) ** -0.5
        model = (1 - alpha) * model + alpha * local
        versions.append(model.copy())
    return model


def anarchy(
    jobs: Jobs, start: np.ndarray, gradient: Gradient, rate: Rate, step: Rate, num: int, keeps: bool, until: int
) -> np.ndarray:
    """AFA-CD (`keeps=False`) and AFA-CS: a step of size `step` along the mean of the returns, or of the memory."""
    versions, model = [start.copy()], start.copy()
    memory: list[np.ndarray | None] = [None] * num
    batch: list[np.ndarray] = []
    for k in range(len(jobs.client)):
        if jobs.use[k] > until:
            break
        local, total = versions[jobs.start_version[k]].copy(), np.zeros_like(start)
        for _ in range(jobs.num_steps[k]):
            g = gradient(local, int(jobs.client[k]))
            local, total = local - _at(rate, jobs.start_version[k]) * g, total + g
        returned = total / jobs.num_steps[k]
        memory[jobs.client[k]] = returned
        batch.append(returned)
        if jobs.is_last[k]:
            if not keeps:
                model = model - _at(step, len(versions) - 1) * np.mean(batch, axis=0)
            elif all(one is not None for one in memory):
                model = model - _at(step, len(versions) - 1) * np.mean(np.stack(memory), axis=0)  # type: ignore[arg-type]
            batch = []
            versions.append(model.copy())
    return model
