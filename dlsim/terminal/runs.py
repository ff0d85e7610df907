"""What the command line prints of runs and plans."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Any

from dlsim.sweeps.estimate import duration

if TYPE_CHECKING:
    from dlsim.results import SavedRun
    from dlsim.sweeps.plan import Plan

VERDICTS = {True: ("holds", "green"), False: ("does not hold", "red"), None: ("undecided", "yellow")}
MOST_LINES = 20  # of what went wrong


def tell_plan(plan: Plan, whole: bool = False) -> None:
    """The plan's summary, and its groups where asked for or where there are several."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for line in plan.lines():
        console.print(line, markup=False)
    if whole or len(plan.groups) > 1:
        console.print(plan.table())


def tell_nothing_kept(out: str | None, path: str, mode: str, is_sweep: bool = False) -> None:
    """One line on stderr where `--resume` finds nothing to go on with, which is then made anew."""
    from dlsim import results
    from dlsim.studies.experiment import default_folder, has_kept

    name = pathlib.Path(path).stem
    folder = results.folder_of(default_folder(name, mode, is_sweep) if out is None else out)
    if pathlib.Path(path).is_file() and not has_kept(folder):
        kind = "sweep" if is_sweep else "run"
        print(f"dlsim: nothing to resume in {_short(folder)}: the {kind} starts anew", file=sys.stderr)


def report(saved: SavedRun) -> None:
    """The table, the claims, what went wrong, and where the files are."""
    from rich.console import Console
    from rich.markup import escape

    from dlsim.analysis.folding import FoldingTable
    from dlsim.analysis.tables import MOST_ROWS, last_values

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    found = last_values(saved.results)
    console.print(found.title)
    table = FoldingTable(num_keys=len(found.keys))
    for name in found.keys:
        table.add_column(name)
    for name in found.metrics:
        table.add_column(name, justify="right")
    for row in found.rows[:MOST_ROWS]:
        table.add_row(*map(escape, row))
    console.print(table)
    if len(found.rows) > MOST_ROWS:
        print(f"... and {len(found.rows) - MOST_ROWS} more rows in results.nc")
    if saved.claims:
        console.print("Claims", style="bold")
    for claim in saved.claims:
        verdict, color = VERDICTS[claim.holds]
        console.print(f"  {verdict:13s}", style=color, end=" ")
        print(claim.text)
        print(f"{'':16s}expected {claim.reported}; measured {claim.measured}")
        print(f"{'':16s}{claim.source}")
    wrong = [line for part in saved.provenance["runs"] for line in part["status"]]
    for line in wrong[:MOST_LINES]:
        console.print(line, style="bold red", markup=False)
    if len(wrong) > MOST_LINES:
        print(f"... and {len(wrong) - MOST_LINES} more; `diverged_step` in results.nc has all")
    timing = saved.provenance["timing"]
    programs = int(timing["num_programs"])
    print(
        f"{programs} program{'s' if programs != 1 else ''} compiled in {timing['compile_seconds']:.1f} s, "
        f"ran {timing['run_seconds']:.1f} s{_in_all(timing)}"
    )
    figure = saved.folder / "figure.png"
    print(f"results: {_short(saved.folder)}")
    if figure.exists():
        print(f"figure:  {_short(figure)}")


def _in_all(timing: dict[str, Any]) -> str:
    """What all sittings of a run took that was gone on with, or extended."""
    number, seconds = timing.get("num_sittings"), timing.get("all_seconds")
    return f"; {duration(seconds)} over {number} sittings" if number and number > 1 and seconds is not None else ""


def _short(path: pathlib.Path) -> str:
    here = pathlib.Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
