"""What the command line prints of papers and studies: what is there, how long it takes, what came of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlsim.terminal.runs import VERDICTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dlsim.studies.catalogue import Entry
    from dlsim.studies.reproduce import Reproduced

CELLS = ("experiment", "claim", "reported", "measured", "scale")  # of the claims table, before the verdict
COLORS = dict(VERDICTS.values())
TABLE_WIDTH = 100  # columns that the claims table needs


def console() -> Console:
    """One that wraps at the terminal's width, and at 120 columns where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def minutes(value: float | None) -> str:
    """A duration as people say it; what nobody measured is said to be so."""
    if value is None:
        return "not measured"
    if value < 1:
        return f"{60 * value:.0f} s"
    return f"{value:.0f} min" if value < 90 else f"{value / 60:.1f} h"


def tell_papers(papers: Sequence[Entry], out: str) -> None:
    """Papers, then studies: title, the time of each mode, and what finished runs in `out` found."""
    from rich.table import Table

    from dlsim.studies.reproduce import found_before

    for group in dict.fromkeys(paper.group for paper in papers):
        table = Table(title=group, title_justify="left", title_style="bold")
        table.add_column("study" if group == "studies" else "paper", no_wrap=True)
        for name in ("title", "modes (time on 2 cores)", f"runs in {out}"):
            table.add_column(name, overflow="fold")
        for paper in (one for one in papers if one.group == group):
            found = {mode: found_before(paper, mode, out) for mode in paper.modes}
            modes = "\n".join(f"{mode} ({_time(paper, mode, found[mode])})" for mode in paper.modes)
            runs = "\n".join(f"{mode}: {_verdicts(one)}" for mode, one in found.items() if one is not None)
            table.add_row(paper.number or paper.name, paper.title, modes, runs or "none")
        console().print(table)


def _time(paper: Entry, mode: str, found: Reproduced | None) -> str:
    """What a mode took in the run that is there; else what the file says."""
    from dlsim.studies.claims_table import seconds

    took = None if found is None else seconds(found)
    return minutes(paper.minutes.get(mode)) if took is None else f"{minutes(took / 60)} here"


def tell_times(papers: Sequence[Entry], mode: str | None, out: str, seeds: int | None = None) -> None:
    """How long each of the chosen experiments will take, and all of them, before anything runs."""
    from dlsim.studies.claims_table import seconds
    from dlsim.studies.reproduce import found_before

    total, unknown = 0.0, 0
    for paper in papers:
        own = mode or paper.two_cores
        found = found_before(paper, own, out)
        took = None if found is None else seconds(found)
        if found is not None and not found.is_stale:
            note = "done before"
        else:
            takes = paper.minutes.get(own) if took is None else took / 60
            where = "on 2 cores" if took is None else "as the last time"
            note = f"about {minutes(takes)} {where}" if takes is not None else "time not measured"
            note += "; its file has changed since the run in its folder" if found is not None else ""
            total, unknown = total + (takes or 0.0), unknown + (takes is None)
        print(f"{paper.name}, {own} mode: {note}")
    more = f", and {unknown} of unknown length" if unknown else ""
    more += "; with their own numbers of seeds" if seeds is not None else ""
    print(f"{len(papers)} experiment{'s' if len(papers) != 1 else ''}: about {minutes(total)}{more}")


def tell_begin(paper: Entry, place: int, number: int) -> None:
    """The heading of one that begins."""
    shown = console()
    shown.print()
    shown.print(f"[{place + 1}/{number}] {paper.name}", style="bold", markup=False)


def tell_end(one: Reproduced) -> None:
    """How it ended, in one line."""
    if one.saved is None:
        console().print(f"did not run: {one.error}", style="bold red", markup=False)
    else:
        print(f"{_verdicts(one)}; {one.saved.folder}")


def tell_claims(done: Sequence[Reproduced]) -> None:
    """The claims: a table, or one below the other where it would be too narrow to be read."""
    from dlsim.studies import claims_table

    shown = console()
    shown.print()
    rows = claims_table.rows(done)
    if shown.width < TABLE_WIDTH:
        _tell_in_turn(shown, rows)
    else:
        _tell_table(shown, rows)
    ran = sum(one.saved is not None for one in done)
    found = [claim.holds for one in done if one.saved is not None for claim in one.saved.claims]
    counts = ", ".join(f"{sum(x is verdict for x in found)} {name}" for verdict, (name, _) in VERDICTS.items())
    print(f"{ran} of {len(done)} experiments ran; of {len(found)} claims: {counts}")


def _tell_table(shown: Console, rows: Sequence[dict[str, str]]) -> None:
    from rich.table import Table

    table = Table(show_lines=True)
    for name in CELLS:
        table.add_column(name, overflow="fold")
    table.add_column("", no_wrap=True)
    for row in rows:
        cells = [_plain(row[name]) for name in CELLS]
        table.add_row(*cells, _plain(row["holds"], COLORS.get(row["holds"], "red")))
    shown.print(table)


def _tell_in_turn(shown: Console, rows: Sequence[dict[str, str]]) -> None:
    from rich.padding import Padding

    for row in rows:
        shown.print(_plain(f"{row['experiment']}: {row['holds']}", f"bold {COLORS.get(row['holds'], 'red')}"))
        lines = [row["claim"], *(f"{name}: {row[name]}" for name in CELLS[2:] if row[name])]
        for line in lines:
            shown.print(Padding(_plain(line), (0, 0, 0, 2)))


def _plain(text: str, style: str = "") -> Text:
    """Text that rich does not read as markup."""
    from rich.text import Text

    return Text(text, style=style)


def _verdicts(one: Reproduced) -> str:
    assert one.saved is not None
    claims = one.saved.claims
    held = sum(claim.holds is True for claim in claims)
    open_ = sum(claim.holds is None for claim in claims)
    text = f"{held} of {len(claims)} claims hold" + (f", {open_} undecided" if open_ else "")
    return text + (" (an earlier version of the file)" if one.is_stale else "")
