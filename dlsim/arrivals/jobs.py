"""Jobs: the local work of clients, in the order in which a server uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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

    def __len__(self) -> int:
        return len(self.client)

    def part(self, some: slice | np.ndarray) -> Jobs:
        """Some of the jobs."""
        return Jobs(*(column[some] for column in self._columns))

    @property
    def _columns(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def joined(pieces: Sequence[Jobs]) -> Jobs:
    """Pieces of one schedule, one after the other."""
    return Jobs(*(np.concatenate(columns) for columns in zip(*(piece._columns for piece in pieces), strict=True)))


class Schedule(NamedTuple):
    """When clients work, on what, and when the server uses it: everything that depends on times alone.

    `jobs(seed)` yields pieces of one schedule, without end, never empty.  A client that is back waits for the use of what it
    brought, or until it begins anew; `waits` is False where it goes its own ways instead.
    """

    name: str
    num_clients: int
    jobs: Callable[[int], Iterator[Jobs]]
    max_live: int | None = None  # versions that jobs can be behind, where that is known
    source: str = ""
    waits: bool = True


class JobRows:
    """Jobs written down one by one, handed out in pieces."""

    def __init__(self, piece: int = 4096) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._piece = piece

    def add(
        self,
        client: int,
        number: int,
        num_steps: int,
        start_version: int,
        staleness: int,
        coefficient: float,
        start: int,
        finish: int,
        use: int,
        *,
        is_last: bool,
        is_direct: bool = False,
        group: int = -1,
    ) -> None:
        """One more job, used after all others so far."""
        row = (client, number, num_steps, start_version, staleness, coefficient, is_direct, is_last)
        self._rows.append((*row, start, finish, use, group))

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= self._piece

    def take(self) -> Jobs:
        """What was written since the last call."""
        columns = zip(*self._rows, strict=True)
        types = (np.int32, np.int64, np.int32, np.int64, np.int64, np.float64, bool, bool, *[np.int64] * 3, np.int32)
        jobs = Jobs(*(np.asarray(column, dtype) for column, dtype in zip(columns, types, strict=True)))
        self._rows = []
        return jobs
