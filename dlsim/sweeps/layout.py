"""How the runs of a group share a program: side by side, one after the other, or both, and how many programs at a time.

A **block** is what one call of a program runs, and what is saved at once.  `at_once` of its runs go side by side
(`vmap`), the others follow inside the program.  A **lane** is a thread that plays blocks on a device: small programs
leave cores idle that a second lane uses.  Nothing of this changes a result beyond rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from dlsim import checks

NAMES = ("auto", "vmap", "map")
WORTH = 10.0  # another program is tried where the runs left would take this many times its compilation
BETTER = 1.05  # and kept where it is this much faster
CACHE_BYTES = 2**20  # of state that stays near a core
MOST_AT_ONCE_CPU = 64


class Layout(NamedTuple):
    """What a lane plays."""

    runs: int  # in a block
    at_once: int  # of them side by side
    lanes: int  # a device

    def __str__(self) -> str:
        inside = "" if self.runs == self.at_once else f", {self.runs} a program"
        return f"{self.at_once} at once{inside}, {self.lanes} lane{'s' if self.lanes > 1 else ''} a device"


class Phase(NamedTuple):
    """Blocks to play with one layout; `trial` if its pace decides what follows."""

    layout: Layout
    blocks: int  # at most; 0: all that are left
    trial: bool


def parse(value: Any) -> str | tuple[int, int]:
    """`"auto"`, `"vmap"`, `"map"`, or `(runs, at once)` from `8` and `"32x4"`."""
    if isinstance(value, str) and value in NAMES:
        return value
    text = str(value)
    runs, cross, at_once = text.partition("x")
    try:
        pair = (int(runs), int(at_once) if cross else int(runs))
    except ValueError:
        rule = "auto, vmap, map, a number of runs, or runs x at once such as 32x4"
        checks.fail("sweep", "layout", rule, repr(value), checks.meant(text, NAMES))
    if not 1 <= pair[1] <= pair[0]:
        checks.fail("sweep", "layout", "at least 1 run, and no more at once than in a block", repr(value))
    return pair


class Tuner:
    """Chooses the layout of a group while it runs: trials are real blocks, so that none of their work is lost."""

    def __init__(
        self,
        asked: str | tuple[int, int],
        *,
        num_runs: int,
        fits: int,
        devices: int,
        lanes: int | None,
        num_cores: int,
        is_cpu: bool,
        run_bytes: int,
    ) -> None:
        self._asked, self._num_runs, self._fits = asked, num_runs, max(1, fits)
        self._devices, self._is_cpu = devices, is_cpu
        self._most_lanes = lanes if lanes is not None else (max(1, min(num_cores, 4)) if is_cpu else 1)
        self._forced_lanes = lanes
        self._run_bytes = run_bytes
        self._paces: dict[Layout, float] = {}  # runs a second
        self._compile_seconds = 0.0

    def phases(self) -> Iterator[Phase]:
        """The phases in order; `note` tells the pace of each before the next is asked for."""
        if self._asked != "auto":
            yield Phase(self._sized(self._forced()), 0, trial=False)
            return
        candidates = self._candidates()
        for width in candidates:
            if self._paces and not self._is_worth_compiling():
                break
            yield Phase(self._sized(Layout(width, width, self._forced_lanes or 1)), 1, trial=True)
            if self._forced_lanes is None and self._most_lanes > 1:
                more = self._sized(Layout(width, width, self._most_lanes))
                if more.lanes > 1 and self.runs_left > more.lanes * more.runs:
                    yield Phase(more, more.lanes * self._devices, trial=True)
        yield Phase(self.best(), 0, trial=False)

    runs_left: int = 0

    def note(self, layout: Layout, runs_a_second: float, compile_seconds: float) -> None:
        """The pace of a trial."""
        self._paces[layout] = max(runs_a_second, self._paces.get(layout, 0.0))
        self._compile_seconds = max(compile_seconds, self._compile_seconds)

    def best(self) -> Layout:
        """The fastest so far; an earlier one unless a later is clearly faster."""
        chosen = next(iter(self._paces))
        for layout, pace in self._paces.items():
            if pace > BETTER * self._paces[chosen]:
                chosen = layout
        return chosen

    def shrink(self, layout: Layout) -> Layout | None:
        """The next smaller layout after running out of memory; None if there is none."""
        self._fits = max(1, layout.at_once // 2)
        if layout.lanes > 1:
            return layout._replace(lanes=1)
        if layout.at_once > 1:
            return Layout(layout.at_once // 2, layout.at_once // 2, 1)
        return Layout(1, 1, 1) if layout.runs > 1 else None

    def _is_worth_compiling(self) -> bool:
        left = self.runs_left / max(self._paces.values())
        return left > WORTH * self._compile_seconds

    def _forced(self) -> Layout:
        if self._asked == "vmap":
            each = -(-self._num_runs // self._devices)
            return Layout(each, each, self._forced_lanes or 1)
        if self._asked == "map":
            return Layout(min(self._num_runs, 32), 1, self._forced_lanes or 1)
        assert isinstance(self._asked, tuple)
        return Layout(*self._asked, self._forced_lanes or 1)

    def _sized(self, layout: Layout) -> Layout:
        """No more than fits, and blocks of one size that leave little of the last one empty."""
        at_once = min(layout.at_once, self._fits)
        each = -(-self._num_runs // self._devices)
        runs = min(layout.runs, max(each, 1))
        runs = max(runs - runs % at_once, at_once) if runs >= at_once else runs
        at_once = min(at_once, runs)
        lanes = min(layout.lanes, max(1, self._fits // at_once), max(1, -(-self._num_runs // (runs * self._devices))))
        return Layout(runs, at_once, lanes)

    def _candidates(self) -> list[int]:
        """Runs side by side that are worth a try, the likeliest first."""
        each = max(1, min(self._fits, -(-self._num_runs // self._devices)))
        if self._is_cpu:
            near = int(CACHE_BYTES // max(self._run_bytes, 1))
            width = min(each, near, MOST_AT_ONCE_CPU)
            return [1] if width < 4 else [1, width]
        return [each] if each < 16 else [each, max(1, each // 8)]
