"""One process at a time for a folder: a lock that names its holder and goes with it.

The lock is a file that the system holds for the process (`flock`), so one of a process that died, however it died, is
free at once; what the file says (process, host, since when) is for the line that the second one is told, and for disks
that several machines share.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import pathlib
import platform
import threading
from collections.abc import Iterator
from typing import Any

from dlsim import checks
from dlsim.files import SCRATCH, boot, is_running, process_began

NAME = f"{SCRATCH}lock"  # of the lock inside a folder
_TRIES = 100
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: dict[tuple[int, str], list[int]] = {}  # by process and path: the thread, and how often it holds it
_guard = threading.Lock()


@contextlib.contextmanager
def beside(folder: pathlib.Path, where: str, argument: str, fix: str = "") -> Iterator[None]:
    """Hold `folder`, which may be replaced as a whole meanwhile: the lock lies beside it."""
    if not folder.name:
        checks.fail(where, argument, "a folder of its own", str(folder))
    with _hold(folder.with_name(f".{folder.name}.lock"), folder, where, argument, fix):
        yield


@contextlib.contextmanager
def inside(folder: pathlib.Path, where: str, argument: str, fix: str = "") -> Iterator[None]:
    """Hold `folder`, which is made if it is not there: the lock lies in it."""
    if folder.exists() and not folder.is_dir():
        checks.fail(where, argument, "a folder", f"the file {folder}")
    with _hold(folder / NAME, folder, where, argument, fix):
        yield


@contextlib.contextmanager
def _hold(path: pathlib.Path, folder: pathlib.Path, where: str, argument: str, fix: str) -> Iterator[None]:
    """Hold the lock; one line if another process, or thread, has it.  A thread that has it may take it again."""
    key, me = (os.getpid(), os.path.realpath(path)), threading.get_ident()
    with _guard:
        mine = _held.get(key)
        if mine is not None and mine[0] == me:
            mine[1] += 1
    if mine is not None and mine[0] == me:
        try:
            yield
        finally:
            with _guard:
                mine[1] -= 1
        return
    made = [place for place in (path.parent, *path.parent.parents) if not place.exists()]
    try:
        descriptor = _take(path, folder, where, argument, fix)
    except BaseException:
        _clear(made)
        raise
    with _guard:
        _held[key] = [me, 1]
    try:
        yield
    finally:
        with _guard:
            del _held[key]
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: who waits for this file sees that it is gone
        os.close(descriptor)
        _clear(made)


def _clear(made: list[pathlib.Path]) -> None:
    """Remove folders that were made for the lock, if they are still empty."""
    for place in made:
        with contextlib.suppress(OSError):
            place.rmdir()


def _take(path: pathlib.Path, folder: pathlib.Path, where: str, argument: str, fix: str) -> int:
    reason: str | None = None
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except FileNotFoundError as error:  # who held it may have cleared up between the two lines
            reason = error.strerror
            continue
        except OSError as error:
            reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
            checks.fail(where, argument, "a folder that can be written", f"{folder} ({reason})")
        try:
            if _taken(descriptor, path):
                return descriptor
        except _Held as holder:
            os.close(descriptor)
            rule = "a folder that no other process is writing"
            checks.fail(where, argument, rule, f"{folder} ({holder})", f"{fix} {holder.fix}".strip())
        except OSError as error:  # a full disk: the name was made, and no word fits into the file
            path.unlink(missing_ok=True)
            os.close(descriptor)
            checks.fail(where, argument, "a folder that can be written", f"{folder} ({error.strerror})")
        os.close(descriptor)
    checks.fail(where, argument, "a folder that can be written", f"{folder} ({reason or 'others take it in turn'})")


class _Held(Exception):
    """Who holds a lock."""

    fix = "Wait until it is done."


def _taken(descriptor: int, path: pathlib.Path) -> bool:
    """Whether the lock is now ours; False: the file was removed meanwhile, `_Held`: another one's."""
    supported = True
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        supported = False
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _Held(_named(_read(descriptor))) from None
        if error.errno not in _UNSUPPORTED:
            raise
        supported = False
    try:
        if os.stat(path).st_ino != os.fstat(descriptor).st_ino:  # noqa: PTH116
            return False
    except FileNotFoundError:
        return False
    holder = _read(descriptor)
    if holder:
        _refuse_living(holder, path, supported)
    about = {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot": boot(),
        "began": process_began(os.getpid()),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(about).encode(), 0)
    os.fsync(descriptor)
    return True


def _refuse_living(holder: dict[str, Any], path: pathlib.Path, supported: bool) -> None:
    """The file was left by a process that did not remove it; `_Held` unless that one is known to be gone."""
    is_here = holder.get("host") == platform.node() or (boot() and holder.get("boot") == boot())
    if not is_here:
        held = _Held(_named(holder))
        held.fix = f"If it no longer runs, remove {path}."
        raise held
    same_boot = holder.get("boot") in ("", None, boot())
    pid: Any = holder.get("pid")
    is_told_apart = not supported and same_boot and isinstance(pid, int) and pid != os.getpid()
    if is_told_apart and is_running(pid, str(holder.get("began", ""))):
        raise _Held(_named(holder))


def _read(descriptor: int) -> dict[str, Any]:
    try:
        held = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _named(holder: dict[str, Any]) -> str:
    """Who holds it, in words."""
    if not holder:
        return "another process has it"
    return f"process {holder.get('pid')} on {holder.get('host')} has it since {holder.get('since')}"
