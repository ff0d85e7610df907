"""The claims of experiments as a table: on the terminal, in Markdown, CSV and JSON."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

from dlsim import checks, files
from dlsim.results import Claim
from dlsim.studies.reproduce import Reproduced

__all__ = ["COLUMNS", "check_file", "markdown", "rows", "scale", "seconds", "write"]

COLUMNS = ("experiment", "claim", "source", "reported", "measured", "scale", "holds")
ENDINGS = (".md", ".csv", ".json")
VERDICTS = {True: "holds", False: "does not hold", None: "undecided"}
NOT_RUN = "did not run"


def rows(done: Sequence[Reproduced]) -> list[dict[str, str]]:
    """The claims table: one row a claim, with the keys `COLUMNS`; an experiment that did not run has one row that says so."""
    out = []
    for one in done:
        paper = one.paper.number or one.paper.name
        if one.saved is None:
            blank = dict.fromkeys(COLUMNS, "")
            out.append(
                {**blank, "experiment": paper, "claim": one.paper.title, "measured": one.error, "holds": NOT_RUN}
            )
            continue
        if not one.saved.claims:
            blank = dict.fromkeys(COLUMNS, "")
            out.append(
                {**blank, "experiment": paper, "claim": "no claims", "scale": scale(one), "holds": VERDICTS[None]}
            )
        for claim in one.saved.claims:
            out.append(_row(paper, claim, scale(one)))
    return out


def _row(paper: str, claim: Claim, size: str) -> dict[str, str]:
    return {
        "experiment": paper,
        "claim": claim.text,
        "source": claim.source,
        "reported": claim.reported,
        "measured": claim.measured,
        "scale": size,
        "holds": VERDICTS[claim.holds],
    }


def scale(one: Reproduced) -> str:
    """Mode, runs and rounds of a run, and what it ran on."""
    assert one.saved is not None
    seeds = one.saved.results.sizes.get("seed", 1)
    about = one.saved.provenance
    runs = sum(len(part["seeds"]) for part in about["runs"])
    steps = int(one.saved.results.step.values[-1])
    text = f"{one.mode}, {seeds} seed{'s' if seeds > 1 else ''}, {runs} run{'s' if runs > 1 else ''} of {steps} steps"
    return f"{text}, {about['platform']}{'; an earlier version of the file' if one.is_stale else ''}"


def seconds(one: Reproduced) -> float | None:
    """What a finished run took, compiling included; None if it does not say, or was interrupted on the way."""
    timing = one.saved.provenance.get("timing", {}) if one.saved else {}
    if "total_seconds" in timing:
        return timing["total_seconds"]
    parts = [timing.get(name) for name in ("compile_seconds", "run_seconds")]
    known = [float(part) for part in parts if isinstance(part, int | float)]
    return sum(known) if len(known) == len(parts) else None


def write(done: Sequence[Reproduced], file: str | os.PathLike[str]) -> pathlib.Path:
    """Write the claims table as Markdown (`.md`), CSV or JSON, by the name's ending; whole or not at all."""
    path = check_file(file)
    text = markdown(done, path.parent) if path.suffix == ".md" else {".csv": _csv, ".json": _json}[path.suffix](done)
    with files.writing("reproduce", "--table", path):
        files.write_whole(path, lambda file: file.write(text.encode()))
    return path


def check_file(file: str | os.PathLike[str]) -> pathlib.Path:
    """A path that the table can be written to; ValueError with one line otherwise."""
    path = files.given_path("reproduce", "--table", file)
    if path.suffix not in ENDINGS:
        checks.fail("reproduce", "--table", f"a file that ends in {', '.join(ENDINGS)}", str(path))
    if path.is_dir() or not path.absolute().parent.is_dir():
        checks.fail("reproduce", "--table", "a file in a folder that is there", str(path))
    return path


def _json(done: Sequence[Reproduced]) -> str:
    return json.dumps(rows(done), indent=2, ensure_ascii=False) + "\n"


def _csv(done: Sequence[Reproduced]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(done))
    return text.getvalue()


def markdown(done: Sequence[Reproduced], folder: pathlib.Path | None = None) -> str:
    """A summary and, for each experiment, what was run and its claims.

    `folder`: where the text is to lie, which links to the files start from; default: here.
    """
    here = (pathlib.Path() if folder is None else folder).absolute()
    groups = {one.paper.group for one in done}
    names = {"papers": ("Papers", "Paper"), "studies": ("Studies", "Study")}
    many, single = names[groups.pop()] if len(groups) == 1 else ("Experiments", "Experiment")
    lines = [
        f"# {many} and their claims",
        "",
        "Made by `dlsim reproduce`; the files say more: what was scaled down, departures, and why a claim fails.",
        "",
        f"| {single} | Hold | Do not | Undecided | |",
        "|---|---:|---:|---:|---|",
    ]
    for one in done:
        counts = [sum(c.holds is v for c in one.saved.claims) for v in VERDICTS] if one.saved else ["", "", ""]
        text = f"{NOT_RUN}: {one.error}" if one.saved is None else scale(one)
        title = f"[{one.paper.title.partition(':')[0]}](#{_anchor(one)})"
        lines.append(f"| {title} | {' | '.join(str(count) for count in counts)} | {_cell(text)} |")
    for one in done:
        link = pathlib.PurePath(os.path.relpath(one.paper.path.absolute(), here)).as_posix()
        lines += ["", f"## {one.paper.number or one.paper.name}", "", f"[{one.paper.title}]({link})", ""]
        lines += [one.paper.citation, ""] if one.paper.citation else []
        if one.saved is None:
            lines.append(f"{NOT_RUN.capitalize()}: {_cell(one.error)}")
            continue
        if not one.saved.claims:
            lines += [_ran(one), "", "No claim is decided in this mode."]
            continue
        lines += [_ran(one), "", "| Claim | Reported | Measured | |", "|---|---|---|---|"]
        for claim in one.saved.claims:
            cells = (claim.text, claim.reported, claim.measured, VERDICTS[claim.holds])
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _ran(one: Reproduced) -> str:
    assert one.saved is not None
    about, took = one.saved.provenance, seconds(one)
    versions = about["versions"]
    minutes = "" if took is None else f", {took / 60:.1f} minutes"
    day = str(about.get("finished", ""))[:10]
    cores = f"{about['num_cores']} cores" if about["platform"] == "cpu" else about["device_kind"]
    return f"{scale(one)} ({cores}){minutes}; {day}, dlsim {versions['dlsim']}, jax {versions['jax']}."


def _anchor(one: Reproduced) -> str:
    return one.paper.number or one.paper.name.lower()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
