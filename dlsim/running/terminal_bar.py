"""The bar on a terminal: one line, of which the bar, the count and the time left are always seen."""

from __future__ import annotations

import sys
import textwrap
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column
from rich.text import Text

TIME = 8  # columns of the time left, 12:34:56
GAPS = 4  # between five columns
BARS = ((90, 24), (40, 16), (0, 10))  # columns left for label, bar and text -> columns of the bar
LONGEST_LABEL = 40


class Rooms(NamedTuple):
    """Columns that each part of the line gets."""

    label: int
    bar: int
    text: int


def rooms(width: int, total: float, label: int) -> Rooms:
    """How a terminal of `width` columns is shared out: count and time left first, then the bar, label and text.

    `label`: columns that the label would take.
    """
    left = max(0, width - (2 * len(str(int(total))) + 1) - TIME - GAPS)
    bar = min(left, next(size for least, size in BARS if left >= least))
    left -= bar
    given = min(label, LONGEST_LABEL, max(12, left // 2), left)
    return Rooms(given, bar, left - given)


def fitting(text: str, room: int) -> str:
    """The parts of a text, two spaces apart, that have room, from the first on: no word or number is cut within."""
    shown = ""
    for part in (part for part in text.split("  ") if part.strip()):
        longer = f"{shown}  {part}" if shown else part
        if len(longer) > room:
            return shown or textwrap.shorten(part, max(room, 1), placeholder="…")
        shown = longer
    return shown


def display(console: Console) -> Progress:
    """A bar for tasks with a field `text`."""
    columns = (
        _Label(console),
        _Bar(console),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        _Words(console),
    )
    return Progress(*columns, console=console, refresh_per_second=4, redirect_stdout=_is_ours(console))


def spinner(console: Console, label: str) -> Live:
    """A sign of life beside `label`, which is gone when the work is done."""
    sign = Spinner("dots", Text(label, no_wrap=True, overflow="ellipsis"))
    return Live(sign, console=console, transient=True, refresh_per_second=8, redirect_stdout=_is_ours(console))


def _is_ours(console: Console) -> bool:
    """Whether what is printed goes where the bar is; what goes to a file stays with that file."""
    return console.is_jupyter or sys.stdout.isatty()


class _Column(ProgressColumn):
    """A column that knows how wide it may be."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self._console = console

    def _rooms(self, task: Task) -> Rooms:
        return rooms(self._console.width, task.total or 0, Text(task.description).cell_len)

    def render(self, task: Task) -> Any:
        raise NotImplementedError


class _Label(_Column):
    def render(self, task: Task) -> Text:
        label = Text(task.description, no_wrap=True)
        label.truncate(self._rooms(task).label, overflow="ellipsis")
        return label


class _Words(_Column):
    def render(self, task: Task) -> Text:
        return Text(fitting(str(task.fields["text"]), self._rooms(task).text), no_wrap=True)


class _Bar(_Column):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = BarColumn()

    def render(self, task: Task) -> ProgressBar:
        self._bar.bar_width = self._rooms(task).bar
        return self._bar.render(task)
