"""Writes the site: an index, a page a run, everything inside the pages themselves."""

from __future__ import annotations

import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Sequence

from dlsim import checks, files, locks
from dlsim.report import pages
from dlsim.report.collect import Page, find_runs, read_page

MARK = ".dlsim-report"  # tells a folder that may be replaced from one that holds other things, and names its files


def write_report(
    runs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    tell: Callable[[str], None] = warnings.warn,
) -> pathlib.Path:
    """A static site over saved runs, without any request to anywhere: it works from a disk.

    A run that is damaged (by the digests of its files), or of a newer version of dlsim, is left out; the index says so.

    Args:
      runs: folders of runs, or folders with such in them.
      out: the site's folder; an earlier report there is replaced, any other folder must be empty.
      tell: called with one line for each run that is left out.

    Returns the path of its `index.html`.  Raises ValueError with one line for a folder without runs, if no run can be
    read, for an `out` that holds other files, or that another process is writing; OSError with one line if the disk is
    full.
    """
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    target = files.given_path("report", "out", out).absolute()
    target = target.resolve() if target.is_symlink() else target
    if target.exists() and not target.is_dir():
        checks.fail("report", "out", "a folder", f"the file {out}")
    with locks.beside(target, "report", "out", "Choose another --out."):
        _refuse_foreign(target, out)
        made, left_out = _pages(find_runs(folders))
        for line in left_out:
            tell(line)
        if not made:
            checks.fail("report", "runs", "folders with a run that can be read", f"none. The first: {left_out[0]}")
        _write(target, made)
    return target / "index.html"


def _pages(folders: Iterable[pathlib.Path]) -> tuple[dict[str, str], list[str]]:
    """The site's files by name, and a line for each run that is left out."""
    taken, found, left_out = {"index"}, list[tuple[Page, str, str]](), list[str]()
    for folder in folders:
        try:
            page = read_page(folder, taken)
            found.append((page, pages.card(page), pages.run(page)))
        except Exception as error:  # whatever one does, the others are reported
            text = " ".join(str(error).split()) or type(error).__name__
            is_told = isinstance(error, ValueError) and str(folder) in text
            left_out.append(text if is_told else f"report: runs must be as they were saved, got {folder} ({text}).")
    found.sort(key=lambda one: (one[0].number == "", one[0].number.zfill(4), one[0].title, one[0].name))
    if not found:
        return {}, left_out
    made = {"index.html": pages.index([page for page, _, _ in found], [card for _, card, _ in found], left_out)}
    return made | {f"{page.name}.html": text for page, _, text in found}, left_out


def _write(target: pathlib.Path, made: dict[str, str]) -> None:
    """The site in place of an earlier one, whole or not at all."""
    staging, old = (target.with_name(f".{target.name}.{kind}") for kind in ("new", "old"))
    for place in (staging, old):
        _remove(place, target)
    try:
        with files.writing("report", "out", target):
            staging.mkdir(parents=True)
            (staging / MARK).write_text(json.dumps({"files": sorted(made)}), encoding="utf-8")
            for name, text in made.items():
                (staging / name).write_text(text, encoding="utf-8")
    except BaseException:
        files.discard(staging, [*made, MARK])
        raise
    if target.exists():
        target.rename(old)
    staging.rename(target)
    files.discard(old, _written(old))


def _written(folder: pathlib.Path) -> list[str]:
    """Names of the files that a report wrote into a folder: as its mark says, or, of earlier versions, its pages."""
    try:
        text = (folder / MARK).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    try:
        named = json.loads(text)["files"]
    except (ValueError, TypeError, KeyError):
        named = [path.name for path in folder.glob("*.html")]
    names = named if isinstance(named, list) else []
    return [MARK, *(name for name in names if isinstance(name, str) and pathlib.PurePath(name).name == name)]


def _refuse_foreign(target: pathlib.Path, out: str | os.PathLike[str]) -> None:
    known = _written(target)
    there = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    foreign = [name for name in there if name not in known and not name.startswith(files.SCRATCH)]
    if foreign:
        got = f"{out} with other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})"
        checks.fail("report", "out", "an empty folder, or one of an earlier report", got)


def _remove(place: pathlib.Path, target: pathlib.Path) -> None:
    """Remove what a killed process left beside the site; one line if anything else is there."""
    if not files.discard(place, _written(place)):
        checks.fail("report", "out", f"a folder beside which {place.name} is free", str(target), "Move that one away.")
