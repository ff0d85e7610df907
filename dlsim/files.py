"""Files: paths as users give them, writes that are whole or not at all, and one line where a disk is full.

What is being written has a hidden name that says which process writes it, so that what a killed one left is told from
what a living one needs.  Nothing else is ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pathlib
import platform
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from dlsim import checks

SCRATCH = ".dlsim-"  # how the names of unfinished files begin
# Why a disk takes nothing more; any other error of a write is a mistake of the program, or told where it happens.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
_PROBE_BYTES = 4096


class Unwritable(OSError):
    """A disk took no more, as one line with the path; `errno` says why."""

    def __str__(self) -> str:
        return str(self.strerror)


def given_path(where: str, argument: str, value: Any) -> pathlib.Path:
    """A path that a user gave, with `~` for the home folder; one line for "" and for what is no path."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        checks.fail(where, argument, "a path", f"{value!r}"[:80])
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        checks.fail(where, argument, "a path", repr(text)[:80], 'Write "." for the working folder.')
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:  # a user of whom the system knows no home
        checks.fail(where, argument, "a path", repr(text)[:80], "Write the home folder in full.")


def why_unwritable(error: BaseException) -> int | None:
    """The number of the system's error if a full, broken or read-only disk is behind `error`; else None.

    Libraries tell it in exceptions of their own, so what they say counts where they give no number.
    """
    seen: list[BaseException | None] = [error]
    for one in seen:
        if one is None or len(seen) > 50:
            continue
        number = getattr(one, "errno", None)
        if isinstance(one, OSError) and number in _UNWRITABLE:
            return number
        told = [code for code in _UNWRITABLE if os.strerror(code).lower() in str(one).lower()]
        if told:
            return told[0]
        seen += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return None


@contextlib.contextmanager
def writing(where: str, argument: str, path: str | os.PathLike[str], fix: str = "") -> Iterator[None]:
    """What is written inside ends in `Unwritable` with this path where the disk takes no more."""
    try:
        yield
    except Unwritable:
        raise
    except Exception as error:
        number = why_unwritable(error)
        if number is None:
            raise
        fix = fix or ("Free some space there." if number in (errno.ENOSPC, errno.EDQUOT) else "")
        line = (
            f"{where}: {argument} must be on a disk that can be written, got {os.fspath(path)} ({os.strerror(number)})."
        )
        raise Unwritable(number, f"{line} {fix}".rstrip()) from None


def write_whole(path: pathlib.Path, write: Callable[[IO[bytes]], Any]) -> None:
    """A file that `write` fills: in place once it is on disk, and not at all otherwise."""
    with staged(path) as temporary, temporary.open("xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def staged(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden name beside `path` for what becomes `path` at the end, in place of what was there."""
    # In the same folder, for only there is a rename atomic; with the same ending, which tells some writers the format.
    temporary = path.with_name(f"{SCRATCH}{host_tag()}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(where: str, argument: str, folder: pathlib.Path, shown: pathlib.Path | None = None) -> None:
    """Try it: permissions alone do not tell of read-only or full file systems."""
    try:
        # Where the system can, a file without a name: a process killed here leaves nothing.
        with tempfile.TemporaryFile(prefix=f"{SCRATCH}{host_tag()}-{os.getpid()}-", dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError as error:
        checks.fail(where, argument, "a folder that can be written", f"{shown or folder} ({error.strerror})")


def clear_dead(folder: pathlib.Path) -> None:
    """Remove what processes of this machine that no longer run have left unfinished in a folder."""
    for path in folder.glob(f"{SCRATCH}*"):
        tag, _, rest = path.name.removeprefix(SCRATCH).partition("-")
        pid = rest.partition("-")[0]
        with contextlib.suppress(OSError):
            if tag == host_tag() and pid.isdigit() and not is_running(int(pid)):
                path.unlink()
            elif path.is_dir() and not path.is_symlink():  # of earlier versions, which tried a folder by making one
                path.rmdir()


def discard(folder: pathlib.Path, names: Iterable[str], trees: Iterable[str] = ()) -> bool:
    """Remove a folder that holds files of these names and these folders; what else is there stays, and False says so."""
    import shutil

    if folder.is_symlink() or not folder.is_dir():
        return not (folder.is_symlink() or folder.exists())
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for name in trees:
        shutil.rmtree(folder / name, ignore_errors=True)
    clear_dead(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@functools.cache
def host_tag() -> str:
    """This machine, and its present boot, in a few letters."""
    import zlib

    return f"{zlib.crc32(f'{platform.node()} {boot()}'.encode()):08x}"


@functools.cache
def boot() -> str:
    """What names the running system: the same for all its processes, also those in containers; empty if unknown."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_running(pid: int, began: str = "") -> bool:
    """Whether a process of this machine lives; with when it `began`, another one that got its number does not count."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    return not began or process_began(pid) in ("", began)


def process_began(pid: int) -> str:
    """When a process began, in ticks since the boot; empty if the system does not say."""
    try:
        return (
            pathlib.Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()[19]
        )
    except (OSError, IndexError, ValueError):
        return ""
