"""Runs on disk: one folder a run, written whole or not at all.

    config.json       every setting of the run
    provenance.json   versions, device, commit, times, command line, sources of the parts, status, format version, and
                      the SHA-256 of every other file
    results.nc        the labelled arrays (NetCDF-4, readable by xarray and everything else)
    claims.json       what the source reports, what was measured, and whether the claim held
    figure.png, .svg
    networks.json     drawings of the networks

A run is written into a hidden folder beside its place and renamed into it, so a reader never meets half a run and a
process killed at any moment leaves the earlier run, or the new one, in place.  One process at a time writes a run: a
lock beside the folder says which.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dlsim import checks, files, locks
from dlsim.results import digests
from dlsim.results.json_files import DAMAGED, plain, read_json, write_json
from dlsim.results.provenance import FORMAT_VERSION, read_provenance

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

PARTIAL = ".partial"  # the work of an unfinished run
SWEEP = "sweep"  # the blocks of a sweep, kept so that it can be extended
# What a run folder may hold.
FILES = (
    "config.json",
    "provenance.json",
    "results.nc",
    "claims.json",
    "figure.png",
    "figure.svg",
    "networks.json",
)
_SWAP_SECONDS = 10.0  # that a reader waits for a writer between its two renames


class Claim(NamedTuple):
    """A statement of the source, decided by numbers that the run produced."""

    text: str
    source: str  # paper and place, or the theory behind it
    reported: str  # what the source says
    measured: str  # what this run gave, with its spread
    holds: bool | None  # None: this run cannot decide it


class SavedRun(NamedTuple):
    """A run as it lies on disk."""

    folder: pathlib.Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    results: xarray.Dataset
    claims: list[Claim]


def save(
    run_dir: str | os.PathLike[str],
    dataset: xarray.Dataset,
    config: dict[str, Any],
    provenance: dict[str, Any],
    claims: Sequence[Claim] = (),
    figure: Figure | None = None,
    networks: dict[str, Any] | None = None,
) -> SavedRun:
    """Write a run into `run_dir`, in place of an earlier run of the same experiment.

    Args:
      run_dir: the run's folder; its parents are made.
      dataset: the results.
      config: plain values (numbers, strings, lists, dicts).
      provenance: from `describe`; `provenance["experiment"]` names the experiment.
      claims: what was decided.
      figure: saved as PNG and SVG, or None.
      networks: drawings by label (`dlsim.plotting.networks.drawing_of`), or None.

    Raises ValueError, and writes nothing, if the folder cannot be written, holds another experiment, the same one with
    other settings, other files, or a run of a newer format, or if another process is writing it; OSError with one line
    if the disk is full.
    """
    identity = identify(provenance["experiment"], provenance.get("mode"), config)
    with locked(run_dir) as target:
        check_folder(target, identity, extends=(target / SWEEP).is_dir())
        staging, old = _beside(target)
        _clear(staging)
        staging.mkdir(parents=True)
        try:
            with files.writing("run", "out", target, "Free some space there, then resume."):
                write_json(staging / "config.json", config)
                write_json(staging / "claims.json", [claim._asdict() for claim in claims])
                # In memory first: on a full disk HDF5 does not fail, it crashes when it closes the file.  A view of that
                # (`getbuffer`) would be held by the traceback of a failed write, and Python 3.13 says so when it goes.
                held = io.BytesIO()
                dataset.to_netcdf(held, engine="h5netcdf")
                (staging / "results.nc").write_bytes(held.getvalue())
                if figure is not None:
                    _write_figure(staging, figure)
                if networks:
                    write_json(staging / "networks.json", networks, indent=None)
                _flush(staging)
                about = digests.sealed({**provenance, "format_version": FORMAT_VERSION}, staging)
                # Last: a folder that holds it is complete.
                write_json(staging / "provenance.json", about)
        except BaseException:
            _clear(staging)
            raise
        if target.exists():
            _clear(old)  # of a process that was killed while it cleared up
            target.rename(old)
        staging.rename(target)
        _keep_blocks(old, target)
        files.discard(old, FILES, (PARTIAL, SWEEP))
    return load(target)


def load(run_dir: str | os.PathLike[str]) -> SavedRun:
    """Read a run; ValueError with one line if `run_dir` holds none, one of a newer format, or a damaged one.

    Every file must be the one that the run wrote, by its digest in `provenance.json`.  Runs that were saved before there
    were digests are read as they are.
    """
    where = "results.load"
    folder = folder_of(run_dir, where, "run_dir")
    _settle(folder)
    if not (folder / "provenance.json").is_file():
        fix = "Finish it with --resume." if (folder / PARTIAL).is_dir() else ""
        checks.fail(where, "run_dir", "the folder of a finished run", str(run_dir), fix)
    provenance = read_provenance(folder, where)
    digests.check_files(provenance, folder, tuple(name for name in FILES if name != "provenance.json"), where)
    config = read_json(folder / "config.json", where, dict)
    results = _read_dataset(folder / "results.nc", where)
    _check_together(provenance, config, results, folder, where)
    return SavedRun(
        folder=folder,
        config=config,
        provenance=provenance,
        results=results,
        claims=_read_claims(folder / "claims.json", where),
    )


def identify(experiment: str, mode: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs the same one: the experiment, its mode and every setting, as JSON would give them back."""
    return {"experiment": experiment, "mode": mode, "config": plain(config)}


def difference(held: dict[str, Any], asked: dict[str, Any]) -> str:
    """The first thing in which two identities differ, as `key = asked (was held)`; empty if they are the same."""
    theirs, mine = (_flat({"mode": one["mode"], **one["config"]}) for one in (held, asked))
    absent = "nothing"
    for key in sorted({*theirs, *mine}):
        if theirs.get(key, absent) != mine.get(key, absent):
            return f"{key} = {mine.get(key, absent)} (was {theirs.get(key, absent)})"
    return ""


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


def folder_of(run_dir: str | os.PathLike[str], where: str = "run", argument: str = "out") -> pathlib.Path:
    """The absolute path of a run's folder as a user gave it; of a link, where it leads."""
    folder = files.given_path(where, argument, run_dir).absolute()
    return folder.resolve() if folder.is_symlink() else folder


@contextlib.contextmanager
def locked(run_dir: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Hold a run's folder, and give its absolute path; ValueError with one line if another process writes it now."""
    folder = folder_of(run_dir)
    with locks.beside(folder, "run", "out", "Choose another --out."):
        yield folder


def check_folder(run_dir: str | os.PathLike[str], identity: dict[str, Any], *, extends: bool = False) -> pathlib.Path:
    """The absolute path of a folder that the run of this `identify` may write; else ValueError with one line.

    `extends`: a sweep, which keeps its blocks and may have other values on its axes than before.
    """
    where, argument, folder = "run", "out", folder_of(run_dir)
    _settle(folder)
    if folder.exists() and not folder.is_dir():
        checks.fail(where, argument, "a folder", f"the file {folder}")
    if folder.is_dir():
        is_finished = (folder / "provenance.json").exists()
        # Without a provenance the files are not of a run, whatever their names.
        known = (*(FILES if is_finished else ()), PARTIAL, SWEEP)
        there = (path.name for path in folder.iterdir())
        foreign = sorted(name for name in there if name not in known and not name.startswith(files.SCRATCH))
        if foreign:
            got = f"{folder} with other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})"
            checks.fail(where, argument, "a new folder, or one of an earlier run", got)
        if is_finished and not (extends and (folder / SWEEP).is_dir()):
            _check_same(folder, identity)
    _check_writable(folder)
    return folder


def _check_same(folder: pathlib.Path, identity: dict[str, Any]) -> None:
    """A finished run is replaced by a run of the same settings alone: hours of another one are not lost to a slip."""
    provenance, fix = read_provenance(folder, "run"), "Choose another --out, or remove that folder."
    experiment, held = identity["experiment"], provenance.get("experiment")
    if held != experiment:
        checks.fail("run", "out", f"a folder of {experiment!r}", f"{folder} with a run of {held!r}", fix)
    config = read_json(folder / "config.json", "run", dict)
    changed = difference(identify(str(held), provenance.get("mode"), config), identity)
    if changed:
        checks.fail("run", "out", "a folder of a run with these settings", f"{folder}: {changed}", fix)


def _check_writable(folder: pathlib.Path) -> None:
    # The run replaces the whole folder, so its parent is what must be writable.
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    for place in [parent] + ([folder] if folder.is_dir() else []):
        files.check_writable("run", "out", place, folder)
    if folder.is_dir():
        files.clear_dead(folder)


def _beside(target: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def _clear(folder: pathlib.Path) -> None:
    """Remove a run that was replaced, or not finished; one line if there is anything else in its folder."""
    if not files.discard(folder, FILES, (PARTIAL, SWEEP)):
        checks.fail("run", "out", f"a folder beside which {folder.name} is free", str(folder), "Move that one away.")


def _settle(folder: pathlib.Path) -> None:
    """Finish what a killed process has left half done; where a living one is at it, wait for that."""
    deadline = time.monotonic() + _SWAP_SECONDS
    while _is_unsettled(folder) and time.monotonic() < deadline:
        with contextlib.suppress(ValueError, OSError), locked(folder):
            _finish_swap(folder)
            return
        if (folder / "provenance.json").is_file():
            return  # only the clearing up is left
        time.sleep(0.05)


def _is_unsettled(target: pathlib.Path) -> bool:
    if not target.name:
        return False
    staging, old = _beside(target)
    if target.exists():
        return (old / SWEEP).is_dir() and not (target / SWEEP).exists()
    return (staging / "provenance.json").is_file() and old.is_dir()


def _finish_swap(target: pathlib.Path) -> None:
    """If a process was killed between the two renames of `save`, do the second."""
    staging, old = _beside(target)
    if not target.exists() and (staging / "provenance.json").is_file() and old.is_dir():
        staging.rename(target)
        _keep_blocks(old, target)
        files.discard(old, FILES, (PARTIAL, SWEEP))
    elif target.exists():
        _keep_blocks(old, target)


def _keep_blocks(old: pathlib.Path, target: pathlib.Path) -> None:
    """A new result takes over the blocks of the one it replaces."""
    if (old / SWEEP).is_dir() and not (target / SWEEP).exists():
        (old / SWEEP).rename(target / SWEEP)


def _read_dataset(path: pathlib.Path, where: str) -> xarray.Dataset:
    import xarray

    try:
        return xarray.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # whatever a damaged file makes the readers raise
        text = " ".join(str(error).split())[:200]
        checks.fail(where, path.name, "readable NetCDF, as a run leaves it", f"{path} ({text})", DAMAGED)


def _read_claims(path: pathlib.Path, where: str) -> list[Claim]:
    claims = []
    for one in read_json(path, where, list):
        texts = [one.get(name) for name in Claim._fields[:-1]] if isinstance(one, dict) else [None]
        is_claim = all(isinstance(text, str) for text in texts) and set(one) == set(Claim._fields)
        if not is_claim or not (one["holds"] is None or isinstance(one["holds"], bool)):
            checks.fail(where, path.name, "a list of claims, as a run leaves it", f"{path} with {one!r:.60}", DAMAGED)
        claims.append(Claim(**one))
    return claims


def _check_together(
    provenance: dict[str, Any], config: dict[str, Any], results: xarray.Dataset, folder: pathlib.Path, where: str
) -> None:
    """One line if the arrays say that they are of another run than the files beside them (runs without digests)."""
    import json

    held = results.attrs.get("config")
    if digests.is_sealed(provenance) or "experiment" not in results.attrs or not isinstance(held, str):
        return
    try:
        theirs = identify(results.attrs["experiment"], results.attrs.get("mode"), json.loads(held))
        mine = identify(str(provenance.get("experiment")), provenance.get("mode"), config)
        if theirs["experiment"] == mine["experiment"] and not difference(mine, theirs):
            return
    except (ValueError, TypeError, AttributeError):
        pass
    got = f"{folder}, whose results.nc is of another run than its config.json"
    checks.fail(where, "results.nc", "of the same run as the files beside it", got, DAMAGED)


def _write_figure(folder: pathlib.Path, figure: Figure) -> None:
    import matplotlib

    # A fixed salt and no date: the same run gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "dlsim", "svg.fonttype": "path"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=200, metadata={"Software": None})


def _flush(folder: pathlib.Path) -> None:
    """Wait until everything in a folder is on disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
