"""What the command line prints of runs and plans."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlsim.results import SavedRun
    from dlsim.sweeps.plan import Plan

SHOWN = ("accuracy", "accuracy_of_mean", "loss", "consensus_distance")  # in the table, where measured
VERDICTS = {True: ("holds", "green"), False: ("does not hold", "red"), None: ("undecided", "yellow")}
MOST_ROWS = 200  # of a table on a terminal
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
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    last = saved.results.isel(step=-1)
    # Axes have coordinates; the dimensions of recorded arrays have none.
    lead = [str(dim) for dim in saved.results.dims if dim in saved.results.coords and dim not in ("seed", "step")]
    scalars = {str(name): one for name, one in last.data_vars.items() if not {*one.dims} - {*lead, "seed"}}
    lead = [dim for dim in lead if any(dim in one.dims for one in scalars.values())]
    shown = [name for name in SHOWN if name in scalars] or list(scalars)[:5]
    steps, seeds = int(last.step), saved.results.sizes.get("seed", 1)
    console.print(f"after {steps} steps, mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}")
    table = Table()
    for name in lead:
        table.add_column(name.replace("_", " "))
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    places = _places(last, lead)
    for place in places[:MOST_ROWS]:
        values = [_mean_and_spread(scalars[name].sel(place)) for name in shown]
        table.add_row(*(str(value) for value in place.values()), *values)
    console.print(table)
    if len(places) > MOST_ROWS:
        print(f"... and {len(places) - MOST_ROWS} more rows in results.nc")
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
        f"ran {timing['run_seconds']:.1f} s"
    )
    figure = saved.folder / "figure.png"
    print(f"results: {_short(saved.folder)}")
    if figure.exists():
        print(f"figure:  {_short(figure)}")


def _places(last: Any, lead: list[str]) -> list[dict[str, Any]]:
    """Every combination of the leading coordinates."""
    import itertools

    return [
        dict(zip(lead, values, strict=True)) for values in itertools.product(*(last[n].values.tolist() for n in lead))
    ]


def _mean_and_spread(values: Any) -> str:
    import numpy as np

    numbers = np.atleast_1d(np.asarray(values.values, np.float64)).reshape(-1)
    if not np.isfinite(numbers).all():
        return f"not finite in {int((~np.isfinite(numbers)).sum())} of {numbers.size}"
    spread = f" ± {numbers.std(ddof=1):.2g}" if numbers.size > 1 else ""
    return f"{numbers.mean():.4g}{spread}"


def _short(path: pathlib.Path) -> str:
    here = pathlib.Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
