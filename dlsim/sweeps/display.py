"""The progress bar of a sweep, wherever its blocks are run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from dlsim.running import progress_bar
from dlsim.sweeps.plan import Plan


@contextlib.contextmanager
def display(plan: Plan, progress: str | bool) -> Iterator[Callable[[float, str], None]]:
    """A bar over all run-steps of a plan; gives what moves it."""
    progress_bar.check("sweep", progress)
    total = sum(len(group.members) * group.num_steps for group in plan.groups)
    done = sum(
        (len(group.members) - left) * group.num_steps for group, left in zip(plan.groups, plan.todo, strict=True)
    )
    label = f"{plan.source.name}: {plan.num_runs} runs" if plan.num_runs > 1 else plan.source.name
    with progress_bar.bar(total, done, progress, label) as bar:
        yield bar.say
