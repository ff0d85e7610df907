"""Checkpoints through orbax: written atomically, verified when read, the one before taken if the newest is damaged.

A checkpoint says of which process it is (`dlsim.running.identity`), and one process of the system at a time writes into
a folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pathlib
import shutil
import warnings
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, files, locks
from dlsim.core import Array, PyTree
from dlsim.running import identity as identities
from dlsim.running.history import History
from dlsim.running.meshes import is_leader, put, to_host, told

KEPT = 2  # the newest and the one before
LEAST_BYTES = 4 << 20  # what must be left on a disk for a checkpoint that takes so much or more (it is compressed)
MARK = f"{files.SCRATCH}checkpoints"  # tells a folder of checkpoints from one whose folders have numbers for names
_PARTS = ("_CHECKPOINT_METADATA", "meta", "state")  # what a checkpoint holds, unless it is damaged
_FIX = "Resume with the settings of that run, or use another folder."


def signature(shapes: PyTree, key: Array, every: int, process: dict[str, Any] | None = None) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    described = [f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves]
    structure = zlib.crc32("\n".join(described).encode())
    held = {"state": structure, "key": np.asarray(jax.random.key_data(key)).tolist(), "record_every": every}
    return held if process is None else {**held, "process": process}


def _checksum(leaves: list[np.ndarray], identity: dict[str, Any], steps: list[int]) -> int:
    total = zlib.crc32(json.dumps([identity, steps], sort_keys=True).encode())
    for leaf in leaves:
        total = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).reshape(-1).tobytes(), total)
    return total


class Store:
    """A folder of checkpoints of one run.

    Each checkpoint holds the state's leaves, the records so far and a checksum over both.  Orbax writes into a
    temporary folder and renames it, so a run killed while writing leaves the earlier ones as they were.

    Where several processes share the run (`shared`), the first one gathers the state, a leaf at a time, and writes; all
    read, and every method is to be called by all.  The folder is one that all of them see.
    """

    def __init__(self, folder: str, identity: dict[str, Any], shared: bool = False) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._folder = pathlib.Path(folder).absolute()
        self._identity = identity
        self._shared, self._writes = shared, not shared or is_leader()
        self._has_failed = False
        self._lock = contextlib.ExitStack()
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> None:
        reason: ValueError | None = None
        if self._writes:
            try:
                self._lock.enter_context(locks.inside(self._folder, "simulate", "checkpoint_dir", "Use another one."))
                self._refuse_others()
            except ValueError as error:
                reason = error
        if self._any(reason is not None):
            if reason is not None:
                raise reason
            checks.fail("simulate", "checkpoint_dir", "a folder that process 0 can use", self._folder)
        if self._any(not self._folder.is_dir()):
            fix = "Use a shared disk."
            checks.fail("simulate", "checkpoint_dir", "a folder that every process sees", self._folder, fix)
        alone = jax.process_index()  # orbax is not to wait for the others
        options = self._ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            create=False,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=self._writes,
            multiprocessing_options=self._ocp.options.MultiprocessingOptions(
                primary_host=alone, active_processes={alone}, barrier_sync_key_prefix=f"process_{alone}"
            ),
        )
        self._manager = self._ocp.CheckpointManager(self._folder, options=options)

    def _refuse_others(self) -> None:
        """One line if a folder here has a number for its name and is no checkpoint: the oldest ones are removed."""
        is_marked = (self._folder / MARK).is_file()
        numbered = [path for path in self._folder.iterdir() if path.name.isdigit() and path.is_dir()]
        foreign = [
            path.name
            for path in sorted(numbered)
            if not any((path / part).exists() for part in _PARTS) and (any(path.iterdir()) or not is_marked)
        ]
        if foreign:
            got = f"{self._folder} with other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})"
            checks.fail("simulate", "checkpoint_dir", "a new folder, or one of checkpoints", got)

    def _any(self, said: bool) -> bool:
        """Whether any of the processes says so."""
        return bool(told(said).any()) if self._shared else said

    def _newest(self) -> int | None:
        """The newest step there is, as the process that writes sees it."""
        step = max(self._manager.all_steps(), default=-1)
        step = int(told(step)[0, 0]) if self._shared else step
        return None if step < 0 else step

    def save(self, step: int, carry: PyTree, history: History) -> None:
        """Write a checkpoint of `step`."""
        if self._newest() == step:
            return
        leaves = self._host_leaves(carry)
        if not self._writes:
            return
        rows = jax.tree.leaves(history.rows())
        tree = {"carry": _named(leaves), "rows": _named(rows)}
        meta = {
            "identity": self._identity,
            "steps": history.steps,
            "checksum": _checksum(leaves + rows, self._identity, history.steps),
            "leaves": _described(carry),  # for those who read it without the process
        }
        args = self._ocp.args.Composite(state=self._ocp.args.StandardSave(tree), meta=self._ocp.args.JsonSave(meta))
        fix = "Free some space there, then resume."
        try:
            with files.writing("simulate", "checkpoint_dir", self._folder, fix):
                # Where hardly anything is left it is told before orbax's many threads find out one by one.
                needed = LEAST_BYTES // 16 + sum(leaf.nbytes for leaf in leaves + rows)
                if shutil.disk_usage(self._folder).free < min(needed, LEAST_BYTES):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                (self._folder / MARK).touch()
                _without_tracebacks()
                self._manager.save(step, args=args)
        except BaseException:
            self._has_failed = True
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()  # other threads write on
            for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)  # what did not fit
            raise

    def close(self) -> None:
        """Wait for the last write, and let others have the folder."""
        with self._lock, contextlib.suppress(*([Exception] if self._has_failed else [])):
            self._manager.wait_until_finished()
            self._manager.close()

    def refuse_foreign(self) -> None:
        """One line if the folder already holds checkpoints: a fresh run must not mix with them."""
        step = self._newest()
        if step is not None:
            checks.fail(
                "simulate",
                "checkpoint_dir",
                "empty for a fresh run",
                f"{self._folder} with a checkpoint of step {step}",
                "Pass resume=True to go on from it, or another folder.",
            )

    def restore(self, abstract: PyTree, num_steps: int) -> tuple[PyTree, History, int] | None:
        """(carry, history, step) of the newest sound checkpoint up to `num_steps`; None if there is none."""
        while (step := self._newest()) is not None:
            if step > num_steps:
                checks.fail(
                    "simulate", "num_steps", f"at least the {step} steps already run", num_steps, "Raise num_steps."
                )
            reason = ""
            try:
                parts, meta = self._read(step)
            except Exception as error:  # whatever a damaged file makes the reader raise
                reason = f"{type(error).__name__}"
            if self._any(bool(reason)):
                if self._writes:
                    reason = reason or "in another process"
                    message = f"checkpoint of step {step} is damaged ({reason}); trying the one before"
                    warnings.warn(message, stacklevel=3)
                self._set_aside(step)
                continue
            self._check_identity(meta)
            return self._rebuild(parts, meta["steps"], abstract, step)
        return None

    def _set_aside(self, step: int) -> None:
        """Out of the way, but not deleted: what could not be read may be a fault of this machine, not of the file."""
        if self._writes:
            names = (f"damaged-{step}{f'-{count}' if count else ''}" for count in range(10**6))
            (self._folder / str(step)).rename(
                next(path for name in names if not (path := self._folder / name).exists())
            )
        self._any(False)  # the others read on when it is gone
        self._manager.reload()

    def _read(self, step: int) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
        """The named leaves of carry and rows, and the meta data; raises if anything is missing or has changed."""
        meta = json.loads((self._folder / str(step) / "meta" / "metadata").read_text(encoding="utf-8"))
        tree = self._manager.restore(step, args=self._ocp.args.Composite(state=self._ocp.args.StandardRestore()))
        return _verified(tree["state"], meta), meta

    def _check_identity(self, meta: dict[str, Any]) -> None:
        held = meta["identity"]
        for name, mine in self._identity.items():
            if name != "process" and held.get(name) != mine:
                rule = f"one of this run (same {name.replace('_', ' ')})"
                got = f"{self._folder} with {name}={held.get(name)}, not {mine}"
                checks.fail("simulate", "checkpoint_dir", rule, got, _FIX)
        mine = self._identity.get("process")
        if mine is None:
            return
        if "process" not in held:
            message = "the checkpoint was written before they said of which process they are: check that it is this one"
            warnings.warn(message, stacklevel=3)
            return
        changed = identities.difference(held["process"], mine)
        apart = identities.versions_apart(held["process"], mine) if changed else ""
        if apart and not changed.startswith(identities.A_NUMBER):
            message = f"the checkpoint was written with {apart}; whether it is of this process cannot be told"
            warnings.warn(f"{message} (it has {changed})", stacklevel=3)
        elif changed:
            rule, got = "one of this run (same process)", f"{self._folder} with {changed}"
            checks.fail("simulate", "checkpoint_dir", rule, got, _FIX)

    def _rebuild(
        self, parts: dict[str, dict[str, np.ndarray]], steps: list[int], abstract: tuple[PyTree, PyTree], step: int
    ) -> tuple[PyTree, History, int]:
        carry_shapes, row_shapes = abstract
        wanted, treedef = jax.tree.flatten(carry_shapes)
        carry = jax.tree.unflatten(treedef, [_on_device(parts["carry"], i, leaf) for i, leaf in enumerate(wanted)])
        has_runs = np.ndim(self._identity["key"]) == 2
        wanted, treedef = jax.tree.flatten(row_shapes)
        rows = []
        for i, leaf in enumerate(wanted):
            shape = (*leaf.shape[:1], len(steps), *leaf.shape[1:]) if has_runs else (len(steps), *leaf.shape)
            rows.append(parts["rows"].get(_name(i), np.zeros(shape, leaf.dtype)))
        history = History()
        history.append(list(steps), jax.tree.unflatten(treedef, rows), has_runs)
        return carry, history, step

    def _host_leaves(self, tree: PyTree) -> list[np.ndarray]:
        leaves = []
        for leaf in jax.tree.leaves(tree):
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            leaves.append(np.array(to_host(jax.random.key_data(leaf) if is_key else leaf)))
        return leaves


def _verified(tree: dict[str, Any], meta: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The named leaves of carry and rows; ValueError if they are not those that were written."""
    stored = [(part, tree.get(part) or {}) for part in ("carry", "rows")]
    parts = {part: {name: np.asarray(leaves[name]) for name in sorted(leaves)} for part, leaves in stored}
    leaves = [*parts["carry"].values(), *parts["rows"].values()]
    if _checksum(leaves, meta["identity"], meta["steps"]) != meta["checksum"]:
        raise ValueError("checksum")
    return parts


def names_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The name of each step of a path into a tree: keys of dicts, fields, positions, as in flax's state dicts."""
    return tuple(str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", step)))) for step in path)


def _described(tree: PyTree) -> list[list[Any]]:
    """Of each leaf the names that lead to it, its shape, its dtype, and how keys are made where it is one."""
    out = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        maker = str(jax.random.key_impl(leaf)) if is_key else ""
        out.append([list(names_of(path)), list(leaf.shape), str(leaf.dtype), maker])
    return out


def newest(folder: pathlib.Path, where: str, argument: str, key: str) -> dict[str, Any]:
    """`state` (nested dicts of NumPy arrays by name), `step` and `key` of the newest sound checkpoint in a folder.

    It is read without a lock and nothing is changed, so a run may write there meanwhile.  Keys of random numbers are
    dicts of `key` and their data.  One line if there is none.
    """
    tried: set[int] = set()
    while steps := sorted({int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()} - tried):
        step = steps[-1]  # looked up anew after each try: a run removes the oldest while it goes on
        tried.add(step)
        try:
            parts, meta = _read_alone(folder / str(step))
        except Exception as error:  # whatever a damaged file makes the reader raise
            message = f"checkpoint of step {step} is damaged ({type(error).__name__}); trying the one before"
            warnings.warn(message, stacklevel=4)
            continue
        if "leaves" not in meta:
            fix = "Resume the run with simulate(..., resume=True), and take run.params or run.state."
            checks.fail(
                where, argument, "of checkpoints that name what they hold", f"{folder}, of an earlier version", fix
            )
        found: dict[str, Any] = {}
        for i, (names, shape, dtype, maker) in enumerate(meta["leaves"]):
            if names[0] != "state":
                continue
            leaf = parts["carry"].get(_name(i))
            leaf = np.zeros(shape, "uint32" if maker else dtype) if leaf is None else leaf
            place = found
            for name in names[:-1]:
                place = place.setdefault(name, {})
            place[names[-1]] = {key: maker, "data": leaf} if maker else leaf
        words = np.asarray(meta["identity"]["key"], np.uint32)
        return {"state": found.get("state", {}), "step": step, "key": words}
    rule = "a file that dlsim.save wrote, or a folder of checkpoints"
    got = f"{folder} with damaged ones alone" if tried else f"the folder {folder}"
    checks.fail(where, argument, rule, got)


def _read_alone(place: pathlib.Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """The named leaves and the meta data of one checkpoint, without a manager."""
    import orbax.checkpoint as ocp

    meta = json.loads((place / "meta" / "metadata").read_text(encoding="utf-8"))
    with ocp.StandardCheckpointer() as reader:
        return _verified(reader.restore(place.absolute() / "state"), meta), meta


def _without_tracebacks() -> None:
    """From now on orbax's threads do not log, each with its traceback, that a disk is full: that is raised as well."""
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or files.why_unwritable(error) is None

    if not any(getattr(known, "__name__", "") == "keep" for known in logger.filters):
        logger.addFilter(keep)


def _name(i: int) -> str:
    """Of leaf i; names sort in the leaves' order."""
    return f"{i:05d}"


def _named(leaves: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves under their names, less the empty ones, which orbax refuses."""
    return {_name(i): leaf for i, leaf in enumerate(leaves) if leaf.size}


def _on_device(named: dict[str, np.ndarray], i: int, like: jax.ShapeDtypeStruct) -> Array:
    """Leaf i as it was, and where it was; a copy, because the loop donates it."""
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        made = jax.random.wrap_key_data(jnp.array(named[_name(i)]))
        return made if like.sharding is None else put(made, like.sharding)
    leaf = named[_name(i)] if _name(i) in named else np.zeros(like.shape, like.dtype)
    return jnp.array(leaf) if like.sharding is None else put(leaf, like.sharding)
