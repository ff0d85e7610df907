"""JSON as runs keep it: plain values, written whole, and one line where a file cannot be read."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from dlsim import checks

DAMAGED = "Remove that folder and run again."


def read_json(path: pathlib.Path, where: str, kind: type) -> Any:
    """The JSON value of this kind in a run's file; ValueError with one line if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        checks.fail(where, path.name, "readable JSON, as a run leaves it", str(path), DAMAGED)
    return value


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
