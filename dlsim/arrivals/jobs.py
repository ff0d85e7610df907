"""Jobs: the local work of clients, in the order in which a server uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Jobs:
    """J jobs, NumPy arrays `[J]`, in order of use; times are ticks (see `dlsim.clocks`).

    A job is one client's local work: it begins with a version of the server's model, takes some local steps, and comes
    back.  Version 0 is the first model; every aggregation makes the next.
    """

    client: np.ndarray  # int32
    number: np.ndarray  # int64, of the job at its client, from 0
    num_steps: np.ndarray  # int32
    start_version: np.ndarray  # int64
    staleness: np.ndarray  # int64, version when it is used less `start_version`
    coefficient: np.ndarray  # float64, what the server multiplies its message with, its own learning rate aside
    is_direct: np.ndarray  # bool: applied alone and at once; else it joins what the next aggregation applies
    is_last: np.ndarray  # bool: an aggregation ends with it, and makes a version
    start: np.ndarray  # int64
    finish: np.ndarray  # int64
    use: np.ndarray  # int64, at least `finish`, not decreasing
    group: np.ndarray  # int32, FedCompass' arrival group, else -1


class Schedule(NamedTuple):
    """When clients work, on what, and when the server uses it: everything that depends on times alone.

    `jobs(seed)` yields pieces of one schedule, without end, never empty.
    """

    name: str
    num_clients: int
    jobs: Callable[[int], Iterator[Jobs]]
    max_steps: int  # of a job
    max_live: int | None = None  # versions that jobs can be behind, where that is known
    source: str = ""
