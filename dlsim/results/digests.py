"""Digests of a run's files: what was written is what is read, or one line says which file is not.

`provenance.json` holds the SHA-256 of every other file of the run (`files`) and that of its own contents (`digest`).
Runs of versions before that have neither, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any, NoReturn

from dlsim import checks
from dlsim.results.json_files import DAMAGED, plain

FILES = "files"  # SHA-256 by name
DIGEST = "digest"  # of provenance.json itself, without this entry
FIGURES = ("figure.png", "figure.svg")  # which may be missed without a loss of numbers


def sealed(provenance: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """The provenance with the digests of the files that the folder holds now, and its own."""
    found = {path.name: of_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    whole = plain({name: value for name, value in provenance.items() if name != DIGEST} | {FILES: found})
    return {**whole, DIGEST: _of_value(whole)}


def is_sealed(provenance: dict[str, Any]) -> bool:
    """Whether a run was saved with digests; one of the two entries alone is a damaged file."""
    return FILES in provenance or DIGEST in provenance


def check_own(provenance: dict[str, Any], path: pathlib.Path, where: str) -> None:
    """One line if `provenance.json` is not what the run wrote."""
    if not is_sealed(provenance):
        return
    rest = {name: value for name, value in provenance.items() if name != DIGEST}
    files = rest.get(FILES)
    if not isinstance(files, dict) or provenance.get(DIGEST) != _of_value(rest):
        _fail(where, path)


def check_files(provenance: dict[str, Any], folder: pathlib.Path, known: tuple[str, ...], where: str) -> None:
    """One line for the first file that is not the one the run wrote: changed, of another run, gone, or added."""
    if not is_sealed(provenance):
        return
    written: dict[str, str] = provenance[FILES]
    for name in known:
        path = folder / name
        if not path.is_file():
            if name in written and name not in FIGURES:
                checks.fail(where, name, "there, as the run left it", f"{folder} without it", DAMAGED)
        elif name not in written or of_file(path) != written[name]:
            _fail(where, path)


def of_file(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_value(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _fail(where: str, path: pathlib.Path) -> NoReturn:
    rule = "the file that the run wrote"
    checks.fail(where, path.name, rule, f"{path}, whose contents are others (SHA-256)", DAMAGED)
