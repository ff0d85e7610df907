"""Claim by claim: run experiments and say what was reported, what was measured, and whether it holds."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dlsim import checks, files
from dlsim.results import PARTIAL, SavedRun, load
from dlsim.studies import catalogue
from dlsim.studies.catalogue import Entry

if TYPE_CHECKING:
    from dlsim.sweeps.engine import Options
    from dlsim.sweeps.plan import Plan

__all__ = ["Reproduced", "all_ran", "find", "found_before", "reproduce"]


class Reproduced(NamedTuple):
    """What became of an experiment."""

    paper: Entry  # or a study
    mode: str
    saved: SavedRun | None  # None: it did not run
    error: str  # why not, in one line
    is_stale: bool = False  # a run that was found, of an earlier version of the file


def reproduce(
    papers: Sequence[str] = ("all",),
    mode: str | None = None,
    *,
    seeds: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs",
    progress: str | bool = "auto",
    options: Options | None = None,
    tell: Callable[[Plan], None] = lambda plan: None,
    begin: Callable[[Entry, int, int], None] = lambda paper, place, number: None,
    end: Callable[[Reproduced], None] = lambda one: None,
) -> list[Reproduced]:
    """Run the experiments of papers, and other studies, one after the other.

    A run that `out` holds complete, of the same settings and the same file, is not run again; one that was interrupted
    goes on.  One that fails does not keep the others from running.

    Args:
      papers: numbers of papers (`"38"`), names of files (`"38_swarmbench"`, `"quickstart"`), or `"papers"`, `"studies"`
        (all files without a number), `"all"`.
      mode: `tiny` (seconds to minutes), `default` (two cores), `paper` (full scale; an accelerator), or one of the file's
        own; None: the one for two cores, which is `default` unless a file says otherwise.
      seeds: number of seeds, in place of each file's own.
      folder: where the files are: by default `experiments`, here or in the checkout.
      out: every run gets the folder `<out>/<name>-<mode>`, as `dlsim run` gives it.
      progress, options, tell: as in `run_experiment`.
      begin, end: called before and after each.

    Raises ValueError with one line for an unknown name, or a mode that one of them does not have, before anything runs.
    """
    chosen = find(papers, mode, folder)
    place_of_runs = files.given_path("reproduce", "out", out)
    done = []
    for place, paper in enumerate(chosen):
        begin(paper, place, len(chosen))
        one = _run(paper, mode or paper.two_cores, seeds, place_of_runs, progress, options, tell)
        end(one)
        done.append(one)
    return done


def find(papers: Sequence[str], mode: str | None = None, folder: str | os.PathLike[str] | None = None) -> list[Entry]:
    """What was chosen; ValueError with one line if a name is unknown, or one of them does not have the mode."""
    chosen = catalogue.choose(catalogue.entries(catalogue.experiments_folder(folder)), list(papers))
    for paper in chosen:
        checks.one_of(f"reproduce {paper.number or paper.name}", "mode", mode or paper.two_cores, paper.modes)
    return chosen


def _run(
    paper: Entry, mode: str, seeds: int | None, out: pathlib.Path, progress: Any, options: Any, tell: Any
) -> Reproduced:
    from dlsim.studies.experiment import run_experiment

    place = out / f"{paper.name}-{mode}"
    found = found_before(paper, mode, out)
    is_fresh = found is not None and not found.is_stale
    try:
        saved = run_experiment(
            paper.path,
            mode,
            seeds=seeds,
            out=place,
            # A run of an earlier version of the file is made anew; unfinished work is checked block by block.
            resume=is_fresh or (place / PARTIAL).is_dir(),
            progress=progress,
            options=options,
            tell=tell,
        )
    except Exception as error:  # whatever one does, the next one runs
        if not isinstance(error, ValueError | OSError | ImportError):
            import traceback

            traceback.print_exc()  # a mistake in the program, not of the user
        text = " ".join(str(error).split())
        return Reproduced(paper, mode, None, text or type(error).__name__)
    return Reproduced(paper, mode, saved, "")


def found_before(paper: Entry, mode: str, out: str | os.PathLike[str]) -> Reproduced | None:
    """The finished run of an experiment that `out` holds; None if there is none that can be read."""
    import hashlib

    place = files.given_path("reproduce", "out", out) / f"{paper.name}-{mode}"
    if not (place / "provenance.json").is_file():
        return None
    try:
        saved = load(place)
    except ValueError:
        return None
    held = saved.provenance
    is_same = held.get("file_sha256") == hashlib.sha256(paper.path.read_bytes()).hexdigest()
    # Words may change after a run, such as those that say what it found.
    is_same = is_same or held.get("code_sha256") == catalogue.code_digest(paper.path.read_text(encoding="utf-8"))
    return Reproduced(paper, mode, saved, "", not is_same)


def all_ran(done: Sequence[Reproduced]) -> bool:
    """Whether every experiment ran to its end; its claims may hold or not."""
    return all(one.saved is not None for one in done)
