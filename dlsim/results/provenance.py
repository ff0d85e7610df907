"""Where a run comes from: versions, device, commit; and whether a file that says so has the form of one."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
from typing import Any

from dlsim import checks
from dlsim.results import digests
from dlsim.results.json_files import DAMAGED, read_json
from dlsim.version import __version__

FORMAT_VERSION = 1  # of the files of a run folder
PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "xarray")
# What the readers of a run rely on, where it is there.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "experiment": str,
    "mode": (str, type(None)),
    "summary": str,
    "about": str,
    "citation": str,
    "command": str,
    "sources": list,
    "versions": dict,
    "timing": dict,
    "runs": list,
    "ok": bool,
}
_PART_KINDS: dict[str, type] = {"seeds": list, "label": str, "status": list}


def read_provenance(folder: pathlib.Path, where: str) -> dict[str, Any]:
    """A run's `provenance.json`; one line if it is damaged, or of a newer format."""
    path = folder / "provenance.json"
    provenance: dict[str, Any] = read_json(path, where, dict)
    version = provenance.get("format_version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or version > FORMAT_VERSION:
        fix = "Install a newer dlsim, or use another folder."
        checks.fail(where, "format_version", f"at most {FORMAT_VERSION}", f"{version} in {folder}", fix)
    digests.check_own(provenance, path, where)
    _check_kinds(provenance, path, where)
    return provenance


def _check_kinds(provenance: dict[str, Any], path: pathlib.Path, where: str) -> None:
    """For files without a digest: one line rather than an error where a value is used."""
    named = [(name, provenance[name], kind) for name, kind in _KINDS.items() if name in provenance]
    runs = provenance.get("runs")
    for part in runs if isinstance(runs, list) else ():
        named.append(("runs", part, dict))
        if isinstance(part, dict):
            named += [(f"runs.{name}", part[name], kind) for name, kind in _PART_KINDS.items() if name in part]
    timing = provenance.get("timing")
    if isinstance(timing, dict):
        named += [(f"timing.{name}", value, (int, float, type(None))) for name, value in timing.items()]
    for name, value, kind in named:
        if not isinstance(value, kind):
            rule = "readable JSON, as a run leaves it"
            checks.fail(where, path.name, rule, f"{path} with {name} = {value!r:.60}", DAMAGED)


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
    root = pathlib.Path(__file__).parents[2]
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
