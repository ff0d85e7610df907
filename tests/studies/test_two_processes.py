"""Two processes on one folder: the second is told in one line, the first is not disturbed, the dead hold nothing."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import xarray
from studies.test_experiment import SMALL, equal
from toys import environment

from dlsim import results
from dlsim.results import PARTIAL, SWEEP
from dlsim.studies.experiment import run_experiment, sweep_experiment

SLOW = {"DLSIM_TEST_SLOW": "0.4"}  # seconds that a step of the small experiment's runs takes
WORDS = {
    "run": f"run_experiment({str(SMALL)!r}, 'tiny', out=sys.argv[1], progress=False)",
    "sweep": f"sweep_experiment({str(SMALL)!r}, 'tiny', out=sys.argv[1], progress=False, axes=['learning_rate=0.1,0.2'])",
}


def start(kind: str, out: pathlib.Path) -> subprocess.Popen[str]:
    code = f"import sys\nfrom dlsim.studies.experiment import run_experiment, sweep_experiment\n{WORDS[kind]}\n"
    command = [sys.executable, "-c", code, str(out)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(**SLOW), stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    while not condition():
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)


def again(kind: str, out: pathlib.Path, **more: object) -> results.SavedRun:
    if kind == "run":
        return run_experiment(SMALL, "tiny", out=out, progress=False, **more)  # type: ignore[arg-type]
    saved = sweep_experiment(SMALL, "tiny", out=out, progress=False, axes=["learning_rate=0.1,0.2"])
    assert isinstance(saved, results.SavedRun)
    return saved


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORDS)
def test_the_second_one_is_told_and_the_first_goes_on(kind: str, tmp_path: pathlib.Path) -> None:
    out, part = tmp_path / "run", PARTIAL if kind == "run" else SWEEP
    child = start(kind, out)
    try:
        wait_for(lambda: (out / part / "sweep.json").exists(), child)
        words = rf"run: out must be a folder that no other process is writing, got .*\(process {child.pid} on .*Choose"
        with pytest.raises(ValueError, match=words) as caught:
            again(kind, out)
        assert "\n" not in str(caught.value) and (out / part / "sweep.json").exists()
        _, err = child.communicate(timeout=300)
        assert child.returncode == 0, err
    finally:
        child.kill()
    fresh = again(kind, tmp_path / "fresh")
    equal(results.load(out).results, fresh.results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "run"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORDS)
def test_a_killed_one_holds_nothing(kind: str, tmp_path: pathlib.Path) -> None:
    out, part = tmp_path / "run", PARTIAL if kind == "run" else SWEEP
    child = start(kind, out)
    wait_for(lambda: (out / part / "sweep.json").exists(), child)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert (tmp_path / ".run.lock").exists()
    saved = again(kind, out, **({"resume": True} if kind == "run" else {}))
    xarray.testing.assert_identical(results.load(out).results, saved.results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_probe_that_was_killed_is_no_reason_to_refuse(tmp_path: pathlib.Path) -> None:
    """Earlier versions tried a folder by making another in it, which a kill left there."""
    (tmp_path / "run" / ".dlsim-k3j_2x9a").mkdir(parents=True)
    saved = run_experiment(SMALL, "tiny", out=tmp_path / "run", progress=False)
    assert sorted(path.name for path in saved.folder.iterdir()) == sorted(results.FILES)


@pytest.mark.parametrize("name", ["config.json", "figure.png", "results.nc", "claims.json"])
def test_files_of_our_names_that_no_run_wrote_are_left_alone(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        ValueError, match=rf"a new folder, or one of an earlier run, got .* with other files \({name}\)"
    ):
        run_experiment(SMALL, "tiny", out=tmp_path, progress=False)
    assert (tmp_path / name).read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == [name]


def test_what_others_keep_in_hidden_folders_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run" / PARTIAL).mkdir(parents=True)
    (tmp_path / "run" / PARTIAL / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match=r"out must be a new folder, or one of a sweep, got .*\(thesis.txt\)"):
        run_experiment(SMALL, "tiny", out=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / PARTIAL / "thesis.txt").read_text() == "all of it"
    (tmp_path / ".new.new").mkdir()
    (tmp_path / ".new.new" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match=r"run: out must be a folder beside which .new.new is free"):
        run_experiment(SMALL, "tiny", out=tmp_path / "new", progress=False)
    assert (tmp_path / ".new.new" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"experiment": "small_experiment", "mode": "tiny", "config": 3, "started": "-"}']
)
def test_a_damaged_note_of_an_unfinished_run_is_one_line(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "identity.json").write_text(text)
    with pytest.raises(ValueError, match=r"run: identity.json must be readable JSON, as a run leaves it") as caught:
        run_experiment(SMALL, "tiny", out=tmp_path, resume=True, progress=False)
    assert "\n" not in str(caught.value)


def test_a_finished_run_that_was_damaged_is_not_given_back(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(SMALL, "tiny", out=tmp_path / "run", progress=False)
    path = saved.folder / "results.nc"
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 4
    path.write_bytes(held)
    with pytest.raises(ValueError, match="results.nc must be the file that the run wrote"):
        run_experiment(SMALL, "tiny", out=tmp_path / "run", resume=True, progress=False)


def test_paths_as_users_write_them(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    saved = run_experiment(SMALL, "tiny", out="~/runs/x", progress=False)
    assert saved.folder == tmp_path / "home" / "runs" / "x"
    (tmp_path / "link").symlink_to(saved.folder)
    again = run_experiment(SMALL, "tiny", out="link", progress=False)
    assert again.folder == saved.folder and (tmp_path / "link").is_symlink()
    for wrong in (
        lambda: run_experiment(SMALL, "tiny", out="", progress=False),
        lambda: sweep_experiment(SMALL, "tiny", out="", progress=False),
        lambda: results.load(""),
        lambda: run_experiment("", "tiny", progress=False),
    ):
        with pytest.raises(ValueError, match=r"(out|run_dir|file) must be a path, got ''"):
            wrong()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "link"]
