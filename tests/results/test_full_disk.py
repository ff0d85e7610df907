"""A disk that takes no more: one line with the path, nothing half written, and what was finished is kept.

Two ways to fill one: a limit on the size of files (the system refuses the write, wherever it comes from), and, where
the tests may mount one, a file system of some hundred kilobytes.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from toys import environment

from dlsim import results

SMALL = pathlib.Path(__file__).parents[1] / "small_experiment.py"

WORK = f"""
import pathlib, resource, sys
what, place, limit = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
import dlsim
from dlsim.core import Record
from dlsim.running import loop
from dlsim.studies.experiment import run_experiment, sweep_experiment
from toys import walk
loop.CHUNK_SECONDS = 1e-4
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def wide(size):
    return walk(num_nodes=size)

def work():
    if what == "checkpoint":
        more = {{"record": Record(every=7), "checkpoint_seconds": 0.0, "resume": True, "progress": False}}
        dlsim.simulate(walk(num_nodes=2000), seed=3, num_steps=70, checkpoint_dir=place / "c", **more)
    elif what == "sweep":
        dlsim.sweep(wide, size=[3, 20_000], seed=[0], num_steps=8, out=place / "s", progress=False, lanes=1)
    elif what == "run":
        run_experiment({str(SMALL)!r}, "tiny", out=place / "r", resume=True, progress=False)
    elif what == "report":
        from dlsim.report import write_report
        write_report(place.parent / "runs", place / "site")

try:
    work()
except OSError as error:
    print(type(error).__name__, error)
except ValueError as error:
    print("ValueError", error)
else:
    print("done")
"""


# What each of TensorStore's threads says, in the pieces that are written at once: others' words come between any two.
CLOSED = re.compile(
    r"Traceback \(most recent call last\):|File \".*?/asyncio/base_events\.py\", line \d+, in \w+|self\._check_closed\(\)"
    r"|raise RuntimeError\('Event loop is closed'\)|RuntimeError|: |Event loop is closed|[~^]{5,}"
)


def without_closed_loops(said: str) -> str:
    """What is left of it when none of its words is of a loop that has been closed."""
    return "" if not CLOSED.sub("", said).strip() else said


def told(what: str, place: pathlib.Path, limit: int = 0) -> str:
    """What a process of its own prints, which is all it says: no log and no traceback beside it."""
    command = [sys.executable, "-c", WORK, what, str(place), str(limit)]
    shown = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}  # it could not be written either
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(**shown))
    # Where orbax has begun to write, TensorStore's threads print, past every hook, that nobody listens any more.
    said = done.stderr if what != "checkpoint" or not limit else without_closed_loops(done.stderr)
    assert done.returncode == 0 and said == "", said[-3000:]
    assert done.stdout.count("\n") == 1, done.stdout
    return done.stdout.strip()


@contextlib.contextmanager
def small_disk(place: pathlib.Path, kilobytes: int) -> Iterator[pathlib.Path]:
    """A file system of this size, gone at the end."""
    disk = place / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def hidden(folder: pathlib.Path) -> list[str]:
    """What unfinished writes would have left."""
    return [path.name for path in folder.rglob(".dlsim-*") if path.name != ".dlsim-checkpoints"]


LIMITS = {"checkpoint": 20_000, "sweep": 60_000, "run": 9_000, "report": 20_000}
WHERE = {
    "checkpoint": "simulate: checkpoint_dir",
    "sweep": "sweep: out",
    "run": "(sweep|run): out",
    "report": "report: out",
}


@pytest.fixture
def reported(tmp_path: pathlib.Path) -> pathlib.Path:
    from report import runs

    runs.save(tmp_path / "runs" / "one")
    return tmp_path / "place"


@pytest.mark.parametrize("what", LIMITS)
def test_a_write_that_the_system_refuses_is_one_line(what: str, reported: pathlib.Path) -> None:
    reported.mkdir()
    line = told(what, reported, LIMITS[what])
    words = rf"Unwritable {WHERE[what]} must be on a disk that can be written, got {re.escape(str(reported))}\S* "
    assert re.match(words + r"\(File too large\)", line), line
    assert hidden(reported) == []
    if what == "report":
        assert list(reported.iterdir()) == []
    assert told(what, reported) == "done", "with room again, it goes on"


@pytest.mark.parametrize(("what", "kilobytes"), [("checkpoint", 500), ("sweep", 200), ("run", 40), ("report", 60)])
def test_a_full_disk_is_one_line(what: str, kilobytes: int, reported: pathlib.Path) -> None:
    reported.mkdir()
    with small_disk(reported, kilobytes) as disk:
        if what == "report":
            (reported / "runs").symlink_to(reported.parent / "runs")
        line = told(what, disk)
        words = rf"\w+ {WHERE[what]} must be (on a disk|a folder) that can be written, got {re.escape(str(disk))}\S* "
        assert re.match(words + r"\(No space left on device\)", line), line
        assert "nodes would fit" not in line and hidden(disk) == []
        if what == "checkpoint":
            assert [path.name for path in (disk / "c").iterdir() if "tmp" in path.name] == []


def test_a_full_disk_leaves_the_earlier_run(tmp_path: pathlib.Path) -> None:
    from results.test_damage import CONFIG, dataset, same, save

    with small_disk(tmp_path, 300) as disk:
        saved = save(disk / "run")
        (disk / "filler").write_bytes(bytes(300_000 - sum(p.stat().st_size for p in (disk / "run").iterdir()) - 40_000))
        big = dataset().isel(topology=[0] * 400).drop_vars("topology")
        about = {"experiment": "study", "mode": "tiny"}
        with pytest.raises(OSError, match=r"run: out must be on a disk that can be written, got \S+run \(No space"):
            results.save(disk / "run", big, CONFIG, about)
        same(results.load(disk / "run"), saved)
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "run"]
