"""A progress bar for terminals and notebooks, silent elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from dlsim import checks

SHOWN = ("loss", "accuracy", "consensus_distance")  # in this order, where a run measures them


class Bar:
    """A rich bar, or nothing."""

    def __init__(self, display: Any, task: Any) -> None:
        self._display, self._task = display, task

    def update(self, step: int, latest: dict[str, float], rate: float) -> None:
        if self._display is None:
            return
        known = [name for name in SHOWN if name in latest]
        shown = known or list(latest)[:3]
        text = "  ".join(f"{name.replace('_', ' ')} {latest[name]:.4g}" for name in shown)
        if rate > 0:
            text += f"  {short(rate)} node-updates/s"
        self.say(step, text)

    def say(self, done: float, text: str) -> None:
        """Move the bar to `done`, with any text beside it."""
        if self._display is not None:
            self._display.update(self._task, completed=done, text=text)


def short(rate: float) -> str:
    """A rate with k, M or G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g} {letter}"
    return f"{rate:.3g} "


def check(where: str, progress: Any) -> None:
    """One line if `progress` is none of its values."""
    if not isinstance(progress, bool) and not (isinstance(progress, str) and progress == "auto"):
        checks.fail(where, "progress", 'True, False or "auto"', checks.describe(progress))


@contextlib.contextmanager
def bar(total: int, done: int, progress: str | bool, label: str) -> Iterator[Bar]:
    """A bar over `total` steps; `progress="auto"` shows it on a terminal or in a notebook only."""
    if progress is False:
        yield Bar(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if progress == "auto" and not (console.is_terminal or console.is_jupyter):
        yield Bar(None, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as display:
        yield Bar(display, display.add_task(label or "run", total=total, completed=done, text=""))
