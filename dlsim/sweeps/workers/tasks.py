"""Tasks for other machines: some runs of one group each, and how a machine plays them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from dlsim.sweeps.engine import Engine, Options, Progress
from dlsim.sweeps.estimate import machine_rates, need
from dlsim.sweeps.groups import Group, group_runs
from dlsim.sweeps.plan import Plan
from dlsim.sweeps.source import Source
from dlsim.sweeps.store import Block, Store

MakeSource = Callable[[], Source]
TRIES = 3  # of a task, on different workers where there are several
TASKS_A_WORKER = 2  # of each group: few, because each worker compiles it; more than one, so that a loss costs half


class Task(NamedTuple):
    """Runs of one group."""

    group: int
    members: frozenset[str]  # identities of all runs of the group, which decide its program
    wanted: tuple[str, ...]  # those to run


class Runs(Protocol):
    """Runs what is left of a plan into the store; gives the timing."""

    def run(self, plan: Plan, store: Store, progress: str | bool) -> dict[str, float]: ...


def make_tasks(plan: Plan, store: Store, num_workers: int) -> list[Task]:
    """What is left of a plan in parts of like size, those of a group together."""
    tasks: list[Task] = []
    for index, group in enumerate(plan.groups):
        left = [run.identity for run in group.members if run.identity not in store]
        size = max(1, -(-len(left) // (TASKS_A_WORKER * num_workers)))
        members = frozenset(run.identity for run in group.members)
        tasks.extend(Task(index, members, tuple(left[i : i + size])) for i in range(0, len(left), size))
    return tasks


class Player:
    """Plays tasks in one process; programs are kept from task to task."""

    def __init__(self, make_source: MakeSource, options: Options = Options()) -> None:
        self._source = make_source()
        self._options = options
        self._groups: dict[int, list[Group]] = {}
        self._rates: Any = None

    def play(self, task: Task, store: Store) -> dict[str, float]:
        """Run a task into `store`."""
        if task.group not in self._groups:
            self._groups = {task.group: group_runs(self._source, wanted=task.members)}
            self._engine = Engine(store, self._options, Progress())
        self._rates = self._rates or machine_rates()
        self._engine.store = store
        before = self._engine.timing
        for group in self._groups[task.group]:
            wanted = [run for run in group.members if run.identity in set(task.wanted)]
            if wanted:
                self._engine.run(group, need(group, self._rates), wanted)
        return {name: value - before[name] for name, value in self._engine.timing.items()}

    def blocks(self, task: Task) -> tuple[list[Block], dict[str, float]]:
        """Run a task and give its blocks."""
        store = Store()
        timing = self.play(task, store)
        return store.blocks(task.wanted), timing


def add_timing(total: dict[str, float], part: dict[str, float]) -> dict[str, float]:
    """The sum of two timings."""
    return {name: total.get(name, 0.0) + part.get(name, 0.0) for name in {**total, **part}}
