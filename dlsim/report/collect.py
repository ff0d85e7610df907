"""Which runs a report is about, and what it says of each."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from dlsim import checks, files
from dlsim.configs import cited
from dlsim.results import SWEEP, SavedRun, is_sealed, load
from dlsim.running.status import ERRORS, NAMES, NOT_FINITE
from dlsim.sweeps.estimate import duration

_ERRORS = {name for bit, name in NAMES.items() if bit & ERRORS}
_DIVERGED = NAMES[NOT_FINITE]
VERDICTS = {True: "holds", False: "does not hold", None: "undecided"}


class Page(NamedTuple):
    """A run, as its page shows it."""

    name: str  # of the page's file, without .html
    saved: SavedRun
    kind: str  # "paper", "sweep" or "experiment"
    number: str  # of the paper; empty for others
    title: str
    paragraphs: list[str]  # the experiment's docstring, after its first line
    citation: str  # of the paper; empty if the file gives none
    departures: str  # its paragraph on what was scaled down or done otherwise; empty if it says none

    @property
    def verdicts(self) -> list[str]:
        """Of each claim, in words."""
        return [VERDICTS[claim.holds] for claim in self.saved.claims]


def find_runs(folders: Sequence[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """Every finished run in the folders, searched to any depth; ValueError with one line if there is none."""
    where, found = "report", []
    if not folders:
        checks.fail(where, "runs", "one or more folders of runs", "none")
    for folder in folders:
        root = files.given_path(where, "runs", folder)
        if not root.is_dir():
            checks.fail(where, "runs", "a folder of runs", f"{folder}, which is none")
        # What is hidden is unfinished, or being replaced.
        here = [
            path.parent.absolute()
            for path in sorted(root.rglob("provenance.json"))
            if not any(part.startswith(".") for part in path.relative_to(root).parts)
        ]
        if not here:
            checks.fail(where, "runs", "a folder with finished runs", str(folder), "Make one: dlsim run FILE.")
        found += here
    return list(dict.fromkeys(found))


def read_page(folder: pathlib.Path, taken: set[str]) -> Page:
    """A run's page; ValueError with one line for a damaged run, or one of a newer version of dlsim."""
    saved = load(folder)
    about = saved.provenance
    experiment = str(about.get("experiment", folder.name))
    number = re.match(r"(\d+)_", experiment)
    is_sweep = (folder / SWEEP).is_dir()
    kind = "sweep" if is_sweep else ("paper" if number else "experiment")
    first, *rest = _paragraphs(str(about.get("about") or about.get("summary") or experiment))
    name = unused(re.sub(r"[^\w-]+", "_", folder.name) or "run", taken)
    departures = [text for text in rest if re.match(r"(Departures?|Scaled down|Differs)\b", text)]
    return Page(
        name=name,
        saved=saved,
        kind=kind,
        number=number.group(1) if number else "",
        title=first,
        paragraphs=[text for text in rest if text not in departures],
        citation=str(about.get("citation") or cited(str(about.get("about", "")))),
        departures=" ".join(departures),
    )


def unused(name: str, taken: set[str]) -> str:
    """A name that no page has yet; the index has one."""
    best, count = name, 1
    while best.lower() in taken:
        count += 1
        best = f"{name}-{count}"
    taken.add(best.lower())
    return best


def _paragraphs(doc: str) -> list[str]:
    """A docstring's paragraphs; those that are indented (tables) keep their lines."""
    parts = [part.strip("\n") for part in re.split(r"\n\s*\n", doc.strip()) if part.strip()]
    return [part if part.startswith(" ") else " ".join(part.split()) for part in parts]


class Faults(NamedTuple):
    """What went wrong in a run, and what is worth knowing of it, each in the words of the command line."""

    headline: str  # "2 of 8 runs diverged"; empty if nothing went wrong
    errors: list[str]  # run, step, node, seed
    remarks: list[str]  # what a run may well do, such as a node that heard nobody for a round


def faults(saved: SavedRun) -> Faults:
    """Divergence and other errors of the runs' status, from the provenance and `diverged_step`."""
    about = saved.provenance
    lines = [str(line) for part in about.get("runs", []) for line in part.get("status", [])]
    names = [re.search(rf"\b({'|'.join(NAMES.values())}) first at\b", line) for line in lines]
    kinds = [found.group(1) if found else "" for found in names]
    is_error = [kind in _ERRORS for kind in kinds]
    errors = [line for line, bad in zip(lines, is_error, strict=True) if bad]
    remarks = [line for line, bad in zip(lines, is_error, strict=True) if not bad]
    if about.get("ok", True) and not errors:
        return Faults("", [], remarks)
    what = "diverged" if all(kind == _DIVERGED for kind in kinds if kind in _ERRORS) else "went wrong"
    if "diverged_step" not in saved.results:
        return Faults(f"a run {what}", errors, remarks)
    steps = saved.results["diverged_step"].values
    return Faults(f"{int((steps >= 0).sum())} of {steps.size} runs {what}", errors, remarks)


def _took(timing: dict[str, Any]) -> str:
    """Compiling and running of the last sitting, and all sittings of a run that was gone on with, or extended."""
    names = (("compile_seconds", "compiling"), ("run_seconds", "running"))
    parts = [f"{timing[name]:.1f} s {what}" for name, what in names if timing.get(name) is not None]
    number, whole = timing.get("num_sittings"), timing.get("all_seconds")
    if number is None or whole is None:
        return ", ".join(parts)
    if number == 1:
        return ", ".join([f"{duration(whole)} in all", *parts])
    return f"{duration(whole)} in all over {number} sittings; the last: {', '.join(parts)}"


def facts(saved: SavedRun) -> list[tuple[str, Any]]:
    """What a run depends on, and what it took, as name and value."""
    found = faults(saved)
    about, sizes = saved.provenance, saved.results.sizes
    versions = ", ".join(f"{name} {value}" for name, value in about.get("versions", {}).items())
    timing = about.get("timing", {})
    commit = about.get("commit")
    return [
        ("mode", about.get("mode")),
        ("seeds", sizes.get("seed", 1)),
        ("steps", int(saved.results.step.values[-1]) if "step" in saved.results.coords else None),
        ("runs", sum(len(part.get("seeds", [])) for part in about.get("runs", []))),
        ("device", f"{about.get('platform')} {about.get('device_kind')}, {about.get('num_cores')} cores"),
        ("took", _took(timing)),
        ("finished", about.get("finished")),
        ("versions", versions),
        ("commit", f"{commit}{' with changes' if about.get('dirty') else ''}" if commit else None),
        ("file", f"{about.get('file')} (sha256 {str(about.get('file_sha256'))[:16]})"),
        ("files", "as the run wrote them" if is_sealed(about) else "not checked: saved before runs kept digests"),
        ("all finite", f"no: {found.headline}" if found.headline else "yes"),
    ]
