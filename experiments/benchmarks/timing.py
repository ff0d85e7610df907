"""Timing side by side: the variants take turns in one process, so that what else the machine does meets them alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def take_turns(
    variants: dict[str, Callable[[], Any]], rounds: int = 7, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of `rounds` calls of every variant, after one call each to warm up; the order turns each round.

    `clock=time.process_time` counts what the processors did for this process, on a machine that others load.
    """
    names = list(variants)
    for name in names:
        jax.block_until_ready(variants[name]())
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = clock()
            jax.block_until_ready(variants[name]())
            seconds[name].append(clock() - began)
    return seconds


def median(values: list[float]) -> float:
    return float(np.median(values))


def best(values: list[float]) -> float:
    return float(np.min(values))


def paired_ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest of the ratios of calls made in the same turn."""
    ratios = np.asarray(above) / np.asarray(below)
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def machine() -> str:
    """One line that says what this ran on."""
    import os

    device = jax.devices()[0]
    return (
        f"{device.platform} {device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {platform.machine()}"
    )
