"""How long a run or a sweep took in all, over every time that it was gone on with."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from types import TracebackType
from typing import Any

from dlsim import files

JOURNAL = "sittings.json"  # in the folder of the work: seconds of each sitting


class Sitting:
    """One call that works at a run; its seconds are kept in the folder of the work, however the call ends.

    A process that is killed outright (SIGKILL, power) leaves no seconds behind; one that is asked to stop does.
    """

    def __init__(self, folder: pathlib.Path, has_work: bool, began: float | None = None) -> None:
        """`has_work`: whether the folder holds work of before; `began`: `time.monotonic()` where the call began earlier."""
        self._path = folder / JOURNAL
        self._began = time.monotonic() if began is None else began
        # None: there is work of before, by a version that kept no journal, and nobody knows how long it took.
        self._before = _read(self._path) if self._path.is_file() else (None if has_work else [])

    @property
    def timing(self) -> dict[str, Any]:
        """`all_seconds` over all sittings so far, None where that is not known, and `num_sittings`."""
        if self._before is None:
            return {"all_seconds": None, "num_sittings": None}
        return {"all_seconds": sum(self._before) + self._seconds, "num_sittings": len(self._before) + 1}

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def __enter__(self) -> Sitting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None or not self._path.parent.is_dir():
            return
        text = json.dumps([*self._before, round(self._seconds, 3)]).encode()
        with contextlib.suppress(OSError, ValueError):  # a full disk has been told of, and this is no result
            files.write_whole(self._path, lambda file: file.write(text))


def _read(path: pathlib.Path) -> list[float] | None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_sound = isinstance(held, list) and all(isinstance(one, int | float) and one >= 0 for one in held)
    return [float(one) for one in held] if is_sound else None
