"""What a sweep will do, said before it does it: groups, runs, memory, compilations, time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dlsim.sweeps.estimate import HEADROOM, Need, Rates, duration, machine_rates, memory_limit, need, readable
from dlsim.sweeps.groups import Group, group_runs
from dlsim.sweeps.source import Source


class Plan(NamedTuple):
    """The groups of a sweep with what each needs."""

    source: Source
    groups: list[Group]
    needs: list[Need]
    todo: list[int]  # runs of each group that are not done yet
    rates: Rates
    memory: int  # bytes a device
    num_devices: int

    @property
    def num_runs(self) -> int:
        return sum(len(group.members) for group in self.groups)

    @property
    def seconds(self) -> float:
        """A rough estimate of the time the runs take, one after the other on each device, without compiling."""
        return sum(self.group_seconds(i) for i in range(len(self.groups)))

    def group_seconds(self, i: int) -> float:
        return self.todo[i] * self.groups[i].num_steps * self.needs[i].step_seconds / self.num_devices

    def fits(self, i: int) -> int:
        """Runs of group i that fit a device at once."""
        return max(0, (int(HEADROOM * self.memory) - self.needs[i].shared_bytes) // max(self.needs[i].run_bytes, 1))

    def lines(self) -> list[str]:
        """The summary, in one or two lines."""
        axes = " x ".join(f"{len(values)} {name}" for name, values in self.source.axes.items())
        seeds = len(self.source.seeds)
        done = self.num_runs - sum(self.todo)
        programs = sum(1 for count in self.todo if count)
        what = f"{axes} x {seeds} seed{'s' if seeds > 1 else ''}" if axes else f"{seeds} seed{'s' if seeds > 1 else ''}"
        first = f"{self.num_runs} runs ({what}) in {len(self.groups)} group{'s' if len(self.groups) > 1 else ''}"
        first += f"; {done} done before" if done else ""
        largest = max((self.needs[i].bytes(1) for i in range(len(self.groups)) if self.todo[i]), default=0)
        second = (
            f"{programs} program{'s' if programs != 1 else ''} to compile; a run takes up to {readable(largest)} "
            f"of {readable(self.memory)}; about {duration(self.seconds)} to run (a rough estimate)"
        )
        return [first, second] if sum(self.todo) else [first, "nothing left to run"]

    def table(self) -> Any:
        """The groups as a rich table."""
        from dlsim.analysis.folding import FoldingTable

        table = FoldingTable()
        table.add_column("group")
        for name in ("runs", "done", "rounds", "state of a run", "memory of a run", "fit at once", "estimate"):
            table.add_column(name, justify="right")
        for i, group in enumerate(self.groups):
            runs = len(group.members)
            table.add_row(
                group.label,
                str(runs),
                str(runs - self.todo[i]),
                str(group.num_steps),
                readable(group.state_bytes),
                readable(self.needs[i].bytes(1)),
                str(min(self.fits(i), runs)),
                duration(self.group_seconds(i)) if self.todo[i] else "-",
            )
        return table


def make_plan(
    source: Source,
    is_done: Callable[[str], bool] = lambda identity: False,
    *,
    memory: int | None = None,
    devices: Sequence[Any] = (),
    common_topologies: bool = True,
) -> Plan:
    """Build, trace and group the runs, and estimate what they need; compiles nothing of them."""
    groups = group_runs(source, common_topologies=common_topologies)
    devices = tuple(devices) or tuple(jax.local_devices())
    rates = machine_rates()
    return Plan(
        source=source,
        groups=groups,
        needs=[need(group, rates) for group in groups],
        todo=[sum(not is_done(member.identity) for member in group.members) for group in groups],
        rates=rates,
        memory=memory if memory is not None else memory_limit(devices[0]),
        num_devices=len(devices),
    )


def num_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
