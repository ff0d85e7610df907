"""Locks: one process, or thread, at a time; nobody waits for the dead."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import threading

import pytest

from dlsim import files, locks

HOLD = """
import pathlib, sys, time
from dlsim import locks
with getattr(locks, sys.argv[1])(pathlib.Path(sys.argv[2]), "run", "out", "Choose another."):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(kind: str, folder: pathlib.Path) -> subprocess.Popen[str]:
    """Another process that holds the folder, once it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, kind, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def lock_of(kind: str, folder: pathlib.Path) -> pathlib.Path:
    return folder / locks.NAME if kind == "inside" else folder.with_name(f".{folder.name}.lock")


@pytest.mark.parametrize("kind", ["inside", "beside"])
def test_a_living_process_is_named_and_a_dead_one_is_not_waited_for(kind: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "new" / "run"
    process = holder(kind, folder)
    try:
        about = json.loads(lock_of(kind, folder).read_text())
        assert about["pid"] == process.pid and about["host"] == platform.node()
        assert about["began"] == files.process_began(process.pid)
        words = rf"run: out must be a folder that no other process is writing, got {re.escape(str(folder))} "
        words += rf"\(process {process.pid} on {re.escape(platform.node())} has it since 20.*\)\. Choose another\."
        with (
            pytest.raises(ValueError, match=words) as caught,
            getattr(locks, kind)(folder, "run", "out", "Choose another."),
        ):
            pass
        assert "\n" not in str(caught.value) and lock_of(kind, folder).exists()
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert lock_of(kind, folder).exists(), "a killed process leaves its file"
        with getattr(locks, kind)(folder, "run", "out"):
            assert json.loads(lock_of(kind, folder).read_text())["pid"] == os.getpid()
    finally:
        process.kill()
        process.wait(20)
    assert not lock_of(kind, folder).exists()
    assert not folder.exists() or list(folder.iterdir()) == []


def test_what_was_made_for_a_lock_goes_with_it_unless_it_is_used(tmp_path: pathlib.Path) -> None:
    with locks.inside(tmp_path / "a" / "b", "f", "out"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with locks.beside(tmp_path / "a" / "b", "f", "out"):
        (tmp_path / "a" / "mine.txt").write_text("")
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["mine.txt"]


def test_a_thread_may_take_its_lock_again_and_another_may_not(tmp_path: pathlib.Path) -> None:
    errors = []

    def other() -> None:
        try:
            with locks.inside(tmp_path, "f", "out"):
                pass
        except ValueError as error:
            errors.append(str(error))

    with locks.inside(tmp_path, "f", "out"):
        with locks.inside(tmp_path, "f", "out"):
            pass
        assert (tmp_path / locks.NAME).exists(), "it is held until the outer one ends"
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20)
    assert len(errors) == 1 and f"process {os.getpid()} on" in errors[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("about", "is_free"),
    [
        ({"pid": 1, "host": "elsewhere", "boot": "other", "since": "noon"}, False),
        ({"pid": 1, "host": platform.node(), "boot": "other", "since": "noon"}, True),  # before this machine's start
        ({"pid": 1, "host": "a-container", "boot": files.boot(), "since": "noon"}, bool(files.boot())),
        ({}, True),
        ([1], True),
        (None, True),
    ],
)
def test_files_that_were_left(about: object, is_free: bool, tmp_path: pathlib.Path) -> None:
    """The system holds no lock on them: who left them on this machine is dead; of another machine nobody can tell."""
    (tmp_path / locks.NAME).write_text("{half" if about is None else json.dumps(about))
    if is_free:
        with locks.inside(tmp_path, "f", "out"):
            pass
        return
    words = rf"\(process 1 on elsewhere has it since noon\). If it no longer runs, remove .*{re.escape(locks.NAME)}\."
    with pytest.raises(ValueError, match=words), locks.inside(tmp_path, "f", "out"):
        pass
    assert (tmp_path / locks.NAME).exists()


def test_without_locks_of_the_system_numbers_and_start_times_decide(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    process = holder("inside", tmp_path)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    try:
        with pytest.raises(ValueError, match=rf"process {process.pid} on"), locks.inside(tmp_path, "f", "out"):
            pass
        about = json.loads((tmp_path / locks.NAME).read_text())
        if about["began"]:  # another process that got the number of one that is gone
            (tmp_path / locks.NAME).write_text(json.dumps({**about, "began": "12"}))
            with locks.inside(tmp_path, "f", "out"):
                pass
    finally:
        process.kill()
        process.wait(20)
    (tmp_path / locks.NAME).write_text(json.dumps(about))
    with locks.inside(tmp_path, "f", "out"):
        pass


def test_many_processes_never_hold_it_together(tmp_path: pathlib.Path) -> None:
    """Four processes take a lock 30 times each; whoever has it finds nobody else in the folder."""
    code = """
import os, pathlib, sys
from dlsim import locks
place, got = pathlib.Path(sys.argv[1]), 0
(place / f"ready-{os.getpid()}").touch()
while len(list(place.glob("ready-*"))) < 4:
    pass
while got < 30:
    try:
        with locks.beside(place / "run", "f", "out"):
            os.close(os.open(place / "mark", os.O_CREAT | os.O_EXCL))
            os.unlink(place / "mark")
            got += 1
    except ValueError:
        pass
"""
    pipe = subprocess.PIPE
    made = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=pipe, stderr=pipe) for _ in range(4)]
    told = [process.communicate(timeout=240) for process in made]
    assert all(process.returncode == 0 for process in made), told


def refused(kind: str, place: pathlib.Path, words: str) -> None:
    with pytest.raises(ValueError, match=words), getattr(locks, kind)(place, "f", "out"):
        pass


def test_places_where_no_lock_can_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (pathlib.Path("/proc/nowhere"), tmp_path / "file" / "inner"):
        refused("inside", place, "f: out must be a folder that can be written, got ")
    refused("inside", tmp_path / "file", "f: out must be a folder, got the file")
    refused("beside", pathlib.Path("/"), "f: out must be a folder of its own, got /")
