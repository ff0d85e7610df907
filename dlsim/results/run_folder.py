"""Runs on disk: one folder a run, written whole or not at all.

    config.json       every setting of the run
    provenance.json   versions, device, commit, times, command line, sources of the parts, status, format version
    results.nc        the labelled arrays (NetCDF-4, readable by xarray and everything else)
    claims.json       what the source reports, what was measured, and whether the claim held
    figure.png, .svg
    networks.json     drawings of the networks

A run is written into a hidden folder beside its place and renamed into it, so a reader never meets half a run and a
process killed at any moment leaves the earlier run, or the new one, in place.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.version import __version__

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

FORMAT_VERSION = 1  # of the files of a run folder
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
)  # that a run may hold
_DAMAGED = "Remove that folder and run again."
PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "xarray")


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
    other settings, other files, or a run of a newer format.
    """
    identity = identify(provenance["experiment"], provenance.get("mode"), config)
    target = check_folder(run_dir, identity, extends=(pathlib.Path(run_dir) / SWEEP).is_dir())
    staging, old = _beside(target)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        write_json(staging / "config.json", config)
        write_json(staging / "claims.json", [claim._asdict() for claim in claims])
        dataset.to_netcdf(staging / "results.nc", engine="h5netcdf")
        if figure is not None:
            _write_figure(staging, figure)
        if networks:
            write_json(staging / "networks.json", networks, indent=None)
        # Last: a folder that holds it is complete.
        write_json(staging / "provenance.json", {**provenance, "format_version": FORMAT_VERSION})
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a process that was killed while it cleared up
        target.rename(old)
    staging.rename(target)
    _keep_blocks(old, target)
    shutil.rmtree(old, ignore_errors=True)
    return load(target)


def load(run_dir: str | os.PathLike[str]) -> SavedRun:
    """Read a run; ValueError if `run_dir` holds none, a damaged one, or one of a newer format."""
    folder = pathlib.Path(run_dir).absolute()
    _finish_swap(folder)
    if not (folder / "provenance.json").is_file():
        fix = "Finish it with --resume." if (folder / PARTIAL).is_dir() else ""
        checks.fail("results.load", "run_dir", "the folder of a finished run", str(run_dir), fix)
    provenance = _provenance(folder, "results.load")
    return SavedRun(
        folder=folder,
        config=read_json(folder / "config.json", "results.load", dict),
        provenance=provenance,
        results=_read_dataset(folder / "results.nc"),
        claims=[Claim(**claim) for claim in read_json(folder / "claims.json", "results.load", list)],
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


def check_folder(run_dir: str | os.PathLike[str], identity: dict[str, Any], *, extends: bool = False) -> pathlib.Path:
    """The absolute path of a folder that the run of this `identify` may write; else ValueError with one line.

    `extends`: a sweep, which keeps its blocks and may have other values on its axes than before.
    """
    where, argument, folder = "run", "out", pathlib.Path(run_dir).absolute()
    _finish_swap(folder)
    if folder.exists() and not folder.is_dir():
        checks.fail(where, argument, "a folder", f"the file {folder}")
    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, PARTIAL, SWEEP))
        if foreign:
            got = f"{folder} with other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})"
            checks.fail(where, argument, "a new folder, or one of an earlier run", got)
        if (folder / "provenance.json").exists() and not (extends and (folder / SWEEP).is_dir()):
            _check_same(folder, identity)
    _check_writable(folder)
    return folder


def _check_same(folder: pathlib.Path, identity: dict[str, Any]) -> None:
    """A finished run is replaced by a run of the same settings alone: hours of another one are not lost to a slip."""
    provenance, fix = _provenance(folder, "run"), "Choose another --out, or remove that folder."
    experiment, held = identity["experiment"], provenance.get("experiment")
    if held != experiment:
        checks.fail("run", "out", f"a folder of {experiment!r}", f"{folder} with a run of {held!r}", fix)
    config = read_json(folder / "config.json", "run", dict)
    changed = difference(identify(str(held), provenance.get("mode"), config), identity)
    if changed:
        checks.fail("run", "out", "a folder of a run with these settings", f"{folder}: {changed}", fix)


def _check_writable(folder: pathlib.Path) -> None:
    """Try it: permissions alone do not tell of read-only or full file systems."""
    # The run replaces the whole folder, so its parent is what must be writable.
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    places = [parent] + ([folder] if folder.is_dir() else [])
    for place in places:
        try:
            with tempfile.TemporaryDirectory(prefix=".dlsim-", dir=place):
                pass
        except OSError as error:
            checks.fail("run", "out", "a folder that can be written", f"{folder} ({error.strerror})")


def _beside(target: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def _finish_swap(target: pathlib.Path) -> None:
    """If a process was killed between the two renames of `save`, do the second."""
    if not target.name:
        return
    staging, old = _beside(target)
    if target.exists():
        _keep_blocks(old, target)
        return
    if (staging / "provenance.json").is_file() and old.is_dir():
        staging.rename(target)
        _keep_blocks(old, target)
        shutil.rmtree(old, ignore_errors=True)


def _keep_blocks(old: pathlib.Path, target: pathlib.Path) -> None:
    """A new result takes over the blocks of the one it replaces."""
    if (old / SWEEP).is_dir() and not (target / SWEEP).exists():
        (old / SWEEP).rename(target / SWEEP)


def _provenance(folder: pathlib.Path, where: str) -> dict[str, Any]:
    provenance: dict[str, Any] = read_json(folder / "provenance.json", where, dict)
    version = provenance.get("format_version", 0)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        fix = "Install a newer dlsim, or use another folder."
        checks.fail(where, "format_version", f"at most {FORMAT_VERSION}", f"{version} in {folder}", fix)
    return provenance


def read_json(path: pathlib.Path, where: str, kind: type) -> Any:
    """The JSON value of this kind in a run's file; ValueError with one line if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, kind):
        checks.fail(where, path.name, "readable JSON, as a run leaves it", str(path), _DAMAGED)
    return value


def _read_dataset(path: pathlib.Path) -> xarray.Dataset:
    import xarray

    try:
        return xarray.load_dataset(path, engine="h5netcdf")
    except OSError as error:
        checks.fail("results.load", path.name, "readable NetCDF, as a run leaves it", f"{path} ({error})", _DAMAGED)


def write_json(path: pathlib.Path, value: Any, indent: int | None = 2) -> None:
    """Write plain values, and wait until they are on disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(plain(value), file, indent=indent, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def plain(value: Any) -> Any:
    """Only what JSON knows: NumPy values become Python's, numbers that are not finite None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.generic) or (hasattr(value, "ndim") and hasattr(value, "tolist")):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _write_figure(folder: pathlib.Path, figure: Figure) -> None:
    import matplotlib

    # A fixed salt and no date: the same run gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "dlsim", "svg.fonttype": "path"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=200, metadata={"Software": None})


def describe() -> dict[str, Any]:
    """Versions, device and commit: what a run depends on besides its config."""
    import importlib.metadata

    import jax

    versions = {"python": platform.python_version(), "dlsim": __version__}
    versions.update({name: importlib.metadata.version(name) for name in PACKAGES})
    devices = jax.devices()
    return {
        "versions": versions,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "num_cores": os.cpu_count(),
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        **commit(),
    }


def commit() -> dict[str, Any]:
    """The checkout's commit and whether it was changed since; None outside of a checkout."""
    root = pathlib.Path(__file__).parent.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
