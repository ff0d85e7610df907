"""Finished blocks of a sweep on disk: one file each, written whole or not at all, found again by the runs' identities.

    sweep.json         what the sweep is of: name and settings that are not axes
    blocks/<digest>.npz    results of the runs of one block
    current/<digest>/      checkpoints of a block in flight

Files are never changed, so that the workers of a sweep, on several machines, may write into one folder.  Two sweeps
may not: `locked` holds the folder for one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks, files, locks
from dlsim.results import difference, plain

_VALUE = "value:"
_DIGEST = re.compile(r"[0-9a-f]{24}")  # the name of what is ours
_PLAIN = ("steps", "bits", "first_step", "first_node", "seconds")  # fields that are arrays


class Block(NamedTuple):
    """Results of the runs of one block; every array leads with the runs."""

    identities: list[str]
    steps: np.ndarray  # int64 [records]
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]]  # name -> dims behind that of runs, values
    bits: np.ndarray  # uint32 [R] status
    first_step: np.ndarray  # int32 [R, bits]
    first_node: np.ndarray  # int32 [R, bits]
    seconds: np.ndarray  # float64 [R] wall seconds a run, without compiling and its start
    meta: dict[str, Any]  # label, sources, layout, compile_seconds

    @property
    def digest(self) -> str:
        return digest(self.identities)


def digest(identities: Sequence[str]) -> str:
    """The name of a block of these runs."""
    return hashlib.sha256("\n".join(identities).encode()).hexdigest()[:24]


class Store:
    """Where finished blocks are kept: in a folder, or in memory alone (`folder=None`)."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = None if folder is None else files.given_path("sweep", "out", folder).absolute()
        self._held: dict[str, Block] = {}
        self._files: set[str] = set()  # names of the blocks that were read or written

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder: no other sweep writes into it meanwhile; ValueError with one line if one does already."""
        if self.folder is None:
            return contextlib.nullcontext()
        return locks.inside(self.folder, "sweep", "out", "Choose another --out.")

    def check(self, about: dict[str, Any]) -> dict[str, Any] | None:
        """What the folder is of, None if it is new; one line if that is another sweep than `about`.

        `about` is as `results.identify` gives it, with the names of the `axes`, which may differ.
        """
        note = None if self.folder is None else self.folder / "sweep.json"
        if note is None:
            return None
        if not note.exists():
            _refuse_foreign(note.parent)
            return None
        try:
            held: Any = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            held = None
        if not isinstance(held, dict) or not {"experiment", "mode", "config"} <= held.keys():
            checks.fail("sweep", "out", "a folder of a sweep", f"{note}, which is damaged", "Remove it.")
        fix = "Choose another --out."
        if held["experiment"] != about["experiment"]:
            got = f"{self.folder} with one of {held['experiment']!r}"
            checks.fail("sweep", "out", f"a folder of a sweep of {about['experiment']!r}", got, fix)
        free = {"num_seeds", *held.get("axes", ()), *about.get("axes", ())}
        mine, theirs = ({**one, "config": _without(one["config"], free)} for one in (plain(about), held))
        changed = difference(theirs, mine)
        if changed:
            checks.fail("sweep", "out", "a folder of a sweep with these settings", changed, fix)
        return held

    def open(self, about: dict[str, Any]) -> None:
        """Make the folder, or check that it holds a sweep of the same thing, and read what it holds."""
        if self.folder is None:
            return
        held = self.check(about)
        axes = sorted({*about.get("axes", ()), *((held or {}).get("axes", ()))})
        text = json.dumps({**plain(about), "axes": axes}, indent=2).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # First of all, for it tells the folder from one of another kind.
            files.write_whole(self.folder / "sweep.json", lambda file: file.write(text))
            (self.folder / "blocks").mkdir(exist_ok=True)
        except OSError as error:
            checks.fail("sweep", "out", "a folder that can be written", f"{self.folder} ({error.strerror})")
        files.clear_dead(self.folder)
        files.clear_dead(self.folder / "blocks")
        self.refresh()

    def refresh(self) -> None:
        """Read the blocks that others have written since."""
        if self.folder is None:
            return
        for file in sorted((self.folder / "blocks").glob("*.npz")):
            if file.stem not in self._files and _DIGEST.fullmatch(file.stem):
                block = _read(file)
                if block is not None:
                    self._files.add(file.stem)
                    self._hold(block)

    def save(self, block: Block) -> None:
        """Keep a block; on disk before it counts as done."""
        if self.folder is not None:
            write_block(self.folder, block)
            self._files.add(block.digest)
        self._hold(block)

    def _hold(self, block: Block) -> None:
        for identity in block.identities:
            self._held[identity] = block

    def __contains__(self, identity: str) -> bool:
        return identity in self._held

    def blocks(self, identities: Iterable[str]) -> list[Block]:
        """The blocks that hold these runs, each once."""
        found = {id(self._held[name]): self._held[name] for name in identities if name in self._held}
        return list(found.values())

    def checkpoints(self, identities: Sequence[str]) -> pathlib.Path | None:
        """Where a block in flight keeps its state."""
        return None if self.folder is None else self.folder / "current" / digest(identities)

    def clear_checkpoints(self, identities: Sequence[str] | None = None) -> None:
        """Remove those of a block, or all."""
        if self.folder is None:
            return
        place = self.folder / "current"
        ours = [path for path in place.glob("*") if _DIGEST.fullmatch(path.name)]
        for path in ours if identities is None else [place / digest(identities)]:
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.rmdir()


def write_block(folder: pathlib.Path, block: Block) -> None:
    """Write a block's file whole or not at all."""
    names = {name: list(dims) for name, (dims, _) in block.variables.items()}
    arrays: dict[str, Any] = {_VALUE + name: array for name, (_, array) in block.variables.items()}
    arrays |= {name: np.asarray(getattr(block, name)) for name in _PLAIN}
    meta = json.dumps(plain({**block.meta, "dims": names}))
    with files.writing("sweep", "out", folder, "Free some space there, then resume."):
        files.write_whole(
            folder / "blocks" / f"{block.digest}.npz",
            lambda file: np.savez(file, identities=np.asarray(block.identities), meta=np.asarray(meta), **arrays),
        )


def _read(file: pathlib.Path) -> Block | None:
    """A block; None, and a warning, where the file is damaged: its runs are run again."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:  # another process was faster
        return None
    try:
        block = _parsed(data)
        if block.digest != file.stem:
            raise ValueError("of other runs")
        return block
    except Exception as error:  # whatever a damaged file makes the readers raise
        warnings.warn(f"block {file.name} is damaged ({type(error).__name__}); its runs are run again", stacklevel=3)
        with contextlib.suppress(OSError):
            file.replace(file.with_suffix(".damaged"))
        return None


def _parsed(contents: bytes) -> Block:
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        bad = archive.testzip()  # NumPy stops reading where an array ends, and so may miss a wrong checksum
        if bad is not None:
            raise zipfile.BadZipFile(bad)
    with np.load(io.BytesIO(contents), allow_pickle=False) as data:
        meta = json.loads(str(data["meta"]))
        dims = meta.pop("dims")
        return Block(
            identities=[str(name) for name in data["identities"]],
            variables={name: (tuple(axes), data[_VALUE + name]) for name, axes in dims.items()},
            meta=meta,
            **{name: data[name] for name in _PLAIN},
        )


def _refuse_foreign(folder: pathlib.Path) -> None:
    """One line if something is there that no sweep and no run has put there; hidden files are nobody's work."""
    if folder.exists() and not folder.is_dir():
        checks.fail("sweep", "out", "a folder", f"the file {folder}")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    # Folders of our names are made after the note that is missing here, so what is in them is somebody else's.
    ours = [path for path in there if path.name in ("blocks", "current", "jobs") and path.is_dir()]
    foreign = [
        path.name
        for path in there
        if not path.name.startswith(".")
        and path.name not in ("identity.json", "identity.tmp")
        and (path not in ours or any(path.iterdir()))
    ]
    if foreign:
        got = f"{folder} with other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})"
        checks.fail("sweep", "out", "a new folder, or one of a sweep", got)


def _without(config: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}
