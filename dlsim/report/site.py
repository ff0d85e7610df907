"""Writes the site: an index, a page a run, everything inside the pages themselves."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Sequence

from dlsim import checks
from dlsim.report import pages
from dlsim.report.collect import find_runs, read_page

MARK = ".dlsim-report"  # tells a folder that may be replaced from one that holds other things


def write_report(
    runs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], out: str | os.PathLike[str]
) -> pathlib.Path:
    """A static site over saved runs, without any request to anywhere: it works from a disk.

    Args:
      runs: folders of runs, or folders with such in them.
      out: the site's folder; an earlier report there is replaced, any other folder must be empty.

    Returns the path of its `index.html`.  Raises ValueError with one line for a folder without runs, a damaged run, a run
    of a newer version of dlsim, or an `out` that holds other files.
    """
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    target = pathlib.Path(out).absolute()
    if target.exists() and not target.is_dir():
        checks.fail("report", "out", "a folder", f"the file {out}")
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).exists():
        checks.fail("report", "out", "an empty folder, or one of an earlier report", str(out))
    taken = {"index"}
    found = [read_page(folder, taken) for folder in find_runs(folders)]
    found.sort(key=lambda page: (page.number == "", page.number.zfill(4), page.title, page.name))
    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        (staging / MARK).write_text("", encoding="utf-8")
        (staging / "index.html").write_text(pages.index(found), encoding="utf-8")
        for page in found:
            (staging / f"{page.name}.html").write_text(pages.run(page), encoding="utf-8")
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    return target / "index.html"
