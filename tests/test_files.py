"""Files: paths as users give them, whole writes, full disks, and that nothing of others is removed."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from dlsim import files
from dlsim.files import Unwritable


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.given_path("f", "out", "~/x/y") == tmp_path / "x" / "y"
    assert files.given_path("f", "out", pathlib.Path("~")) == tmp_path
    assert files.given_path("f", "out", "a/~/b") == pathlib.Path("a/~/b")
    assert files.given_path("f", "out", ".") == pathlib.Path()


@pytest.mark.parametrize("value", ["", "  ", "a\0b", b"x", 3, None, ["x"], "~nobody-of-this-name/x"])
def test_what_is_no_path_is_one_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"^f: out must be a path, got .*\.") as caught:
        files.given_path("f", "out", value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_known_by_number_cause_or_words() -> None:
    assert files.why_unwritable(OSError(errno.ENOSPC, "x")) == errno.ENOSPC
    assert files.why_unwritable(OSError(errno.ENOENT, "x")) is None
    told = ValueError("RESOURCE_EXHAUSTED: Error writing: Failed to write 9 bytes: No space left on device [...]")
    assert files.why_unwritable(told) == errno.ENOSPC
    assert files.why_unwritable(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")) is None
    caused = RuntimeError("the writer failed")
    caused.__cause__ = OSError(errno.EDQUOT, "x")
    assert files.why_unwritable(caused) == errno.EDQUOT
    caused.__cause__.__context__ = caused  # a circle ends
    assert files.why_unwritable(RuntimeError("x")) is None


def test_writing_says_one_line_with_the_path() -> None:
    with pytest.raises(Unwritable) as caught, files.writing("run", "out", "some/place"):
        raise ValueError("no space left on device")
    assert caught.value.errno == errno.ENOSPC
    rule = "run: out must be on a disk that can be written, got some/place"
    assert str(caught.value) == f"{rule} (No space left on device). Free some space there."
    with pytest.raises(Unwritable, match="some/place"), files.writing("run", "out", "elsewhere"):
        raise caught.value  # told once is told
    with pytest.raises(ZeroDivisionError), files.writing("run", "out", "some/place"):
        raise ZeroDivisionError


def test_a_file_is_written_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.txt"
    files.write_whole(path, lambda file: file.write(b"first"))

    def half(file: object) -> None:
        file.write(b"sec")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, half)
    assert path.read_bytes() == b"first" and [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_what_dead_processes_left_is_cleared_and_nothing_else(tmp_path: pathlib.Path) -> None:
    code = "import os; from dlsim import files; print(f'{files.host_tag()}-{os.getpid()}')"
    tag = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert tag.startswith(files.host_tag()), "one machine, one name"
    kept = [
        f"{files.SCRATCH}{files.host_tag()}-{os.getpid()}-1234-x",  # of a living process
        f"{files.SCRATCH}00000000-1-1234-x",  # of another machine
        f"{files.SCRATCH}lock",
        "mine.txt",
    ]
    for name in [*kept, f"{files.SCRATCH}{tag}-1234-x"]:
        (tmp_path / name).write_text("")
    (tmp_path / f"{files.SCRATCH}abcdefgh").mkdir()  # what earlier versions left of a try whether they can write
    (tmp_path / f"{files.SCRATCH}full").mkdir()
    (tmp_path / f"{files.SCRATCH}full" / "thesis.txt").write_text("all of it")
    files.clear_dead(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([*kept, f"{files.SCRATCH}full"])


def test_discarding_leaves_what_it_does_not_know(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "run"
    (place / "tree" / "deep").mkdir(parents=True)
    (place / "a").write_text("")
    assert files.discard(place, ["a", "b"], ["tree"]) and not place.exists()
    assert files.discard(place, ["a"]), "nothing is there to remove"
    place.mkdir()
    (place / "a").write_text("")
    (place / "thesis.txt").write_text("all of it")
    assert not files.discard(place, ["a"]) and [one.name for one in place.iterdir()] == ["thesis.txt"]
    (tmp_path / "link").symlink_to(place)
    assert not files.discard(tmp_path / "link", ["thesis.txt"]) and (place / "thesis.txt").exists()


def test_a_try_whether_a_folder_can_be_written_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the process is killed in the middle of it: the file has no name."""
    seen = []
    write = os.fdopen

    def look(*arguments: object, **more: object) -> object:
        seen.append([one.name for one in tmp_path.iterdir()])
        return write(*arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "fdopen", look)
    files.check_writable("f", "out", tmp_path)
    assert list(tmp_path.iterdir()) == [] and seen in ([], [[]])
    with pytest.raises(ValueError, match="f: out must be a folder that can be written, got /proc/x"):
        files.check_writable("f", "out", pathlib.Path("/proc"), pathlib.Path("/proc/x"))
