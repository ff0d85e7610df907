"""Blocks of a sweep on several machines, through an engine that exists: Ray, or Slurm by way of submitit."""

from __future__ import annotations

from typing import Any, Protocol

from dlsim import checks
from dlsim.sweeps.workers.ray import RayWorkers
from dlsim.sweeps.workers.slurm import SlurmWorkers
from dlsim.sweeps.workers.tasks import MakeSource, Runs

__all__ = ["RayWorkers", "Runs", "SlurmWorkers", "Workers", "parse"]

KINDS = ("ray", "slurm", "local")


class Workers(Protocol):
    """Where blocks go.  `bind(make_source)` gives what runs a plan there; each machine makes the source by itself."""

    def bind(self, make_source: MakeSource) -> Runs: ...


def parse(text: str) -> Workers:
    """`"ray:4"`, `"slurm:16"` (array jobs), `"local:2"` (submitit's processes on this machine)."""
    kind, _, number = text.partition(":")
    checks.one_of("sweep", "workers", kind, KINDS)
    try:
        count: Any = int(number or 1)
    except ValueError:
        checks.fail("sweep", "workers", "a kind and a number such as ray:4", repr(text))
    count = checks.integer("sweep", "workers", count, 1)
    if kind == "ray":
        return RayWorkers(count)
    return SlurmWorkers(count, cluster="local" if kind == "local" else "slurm")
