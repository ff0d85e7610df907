"""What is seen of a run on its way: a bar on terminals and in notebooks, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dlsim import checks

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = ("loss", "accuracy", "consensus_distance")  # in this order, where a run measures them
KINDS = ("auto", "bar", "lines", "off")
FIRST_SECONDS = 5.0  # to the first line; the next come when twice as much has gone by, ...
MOST_SECONDS = 60.0  # ... and after at most so much


class Bar:
    """Takes what is to be shown, and shows nothing."""

    def update(self, step: int, latest: dict[str, float], rate: float) -> None:
        """What a run measured last, in a few words."""
        known = [name for name in SHOWN if name in latest]
        shown = known or list(latest)[:3]
        text = "  ".join(f"{name.replace('_', ' ')} {latest[name]:.4g}" for name in shown)
        if rate > 0:
            text += f"  {short(rate)} node-updates/s"
        self.say(step, text)

    def say(self, done: float, text: str) -> None:
        """Move the bar to `done`; beside it the text, whose parts are two spaces apart."""


class _Rich(Bar):
    """A bar of rich's."""

    def __init__(self, display: Any, task: Any) -> None:
        self._display, self._task = display, task

    def say(self, done: float, text: str) -> None:
        self._display.update(self._task, completed=done, text=text)


class _Lines(Bar):
    """Plain lines on stderr, from a thread of their own, so that they come while a program is compiled too."""

    def __init__(self, label: str, total: int | None, done: float, is_at_once: bool) -> None:
        self._label, self._total, self._done, self._text = label, total, done, ""
        self._began, self._moved = (
            time.monotonic(),
            (0.0, done),
        )  # the latter: when the first step was seen, and how far
        self._stream, self._is_at_once, self._said = sys.stderr, is_at_once, 0
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tell, name="dlsim-progress", daemon=True)

    def __enter__(self) -> _Lines:
        if self._is_at_once:
            self._print()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._said and self._total is not None:
            self._print(is_last=True)

    def say(self, done: float, text: str) -> None:
        with self._lock:
            if not self._moved[0] and done != self._done:
                self._moved = (time.monotonic(), done)
            self._done, self._text = done, text

    def _tell(self) -> None:
        while not self._end.wait(min(max(FIRST_SECONDS, time.monotonic() - self._began), MOST_SECONDS)):
            self._print()

    def _print(self, is_last: bool = False) -> None:
        with self._lock:
            now, (since, before), done, text = time.monotonic(), self._moved, self._done, self._text
        gone = now - self._began
        words = [self._label] if self._total is None else [f"{self._label}: {done:,.0f} of {self._total:,} steps"]
        if self._total is not None:
            words[0] += f" ({100 * done / max(self._total, 1):.0f} %)"
        if self._said or not self._is_at_once:
            words.append(f"{_clock(gone)} gone")
        if self._total is not None and since and done > before and not is_last:
            words.append(f"{_clock((self._total - done) * (now - since) / (done - before))} left")
        words.extend(part.strip() for part in text.split("  ") if part.strip())
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            print(", ".join(words), file=self._stream, flush=True)
        self._said += 1


def short(rate: float) -> str:
    """A rate with k, M or G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g} {letter}"
    return f"{rate:.3g}"


def _clock(seconds: float) -> str:
    """`0:01:30`, as the bar writes it."""
    return str(datetime.timedelta(seconds=round(seconds)))


def check(where: str, progress: Any, argument: str = "progress") -> None:
    """One line if `progress` is none of its values."""
    if isinstance(progress, str):
        checks.one_of(where, argument, progress, KINDS)
    elif not isinstance(progress, bool):
        checks.fail(where, argument, f"True, False or one of {', '.join(KINDS)}", checks.describe(progress))


def _kind(progress: str | bool) -> tuple[str, Console | None, bool]:
    """`"bar"` with the console it is drawn on, `"lines"` or `"off"`; and whether short runs are told of as well."""
    if progress is False or progress == "off":
        return "off", None, False
    from rich.console import Console

    console = Console(stderr=True)
    is_drawn = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
    if progress == "bar" and not is_drawn:
        console, is_drawn = Console(stderr=True, force_terminal=True), True
    if is_drawn and progress != "lines":
        return "bar", console, True
    return "lines", None, progress != "auto"


@contextlib.contextmanager
def bar(total: int, done: int, progress: str | bool, label: str) -> Iterator[Bar]:
    """Shows how far a run of `total` steps is.

    `progress`: `"bar"`, `"lines"` or `"off"`; `"auto"`: a bar on a terminal or in a notebook, elsewhere lines, of which a
    run that is over within seconds prints none; True: as `"auto"`, and lines from the start; False: nothing.
    """
    kind, console, is_at_once = _kind(progress)
    if kind == "off":
        yield Bar()
    elif kind == "lines":
        with _Lines(label or "run", total, done, is_at_once) as lines:
            yield lines
    else:
        from dlsim.running.terminal_bar import display

        assert console is not None
        with display(console) as shown:
            yield _Rich(shown, shown.add_task(label or "run", total=total, completed=done, text=""))


@contextlib.contextmanager
def working(label: str, progress: str | bool) -> Iterator[None]:
    """Says that something is being done whose length is not known; `progress` as in `bar`.

    Not in notebooks, which say themselves that a cell is at work: a sign that moves would be a widget redrawn from a
    thread, eight times a second, made and thrown away for every program.
    """
    kind, console, is_at_once = _kind(progress)
    if kind == "off" or (console is not None and console.is_jupyter):
        yield
    elif kind == "lines":
        with _Lines(label, None, 0, is_at_once):
            yield
    else:
        from dlsim.running.terminal_bar import spinner

        assert console is not None
        with spinner(console, label):
            yield
