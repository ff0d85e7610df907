"""Checkpoints: a run that was stopped, killed or damaged goes on as if nothing had been."""

from __future__ import annotations

import importlib
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patience import PATIENCE
from toy_run import everything, run_walk
from toys import environment, walk

from dlsim import Run, simulate
from dlsim.core import Process, Record
from dlsim.running import loop
from dlsim.running.programs import Carry, Programs

simulation = importlib.import_module("dlsim.running.simulate")
pytestmark = pytest.mark.filterwarnings("error::UserWarning:dlsim")  # no warning but those a test asks for


def same(a: Run, b: Run) -> None:
    mine, theirs = everything(a), everything(b)
    assert set(mine) == set(theirs)
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    np.testing.assert_array_equal(a.status.bits, b.status.bits)


@pytest.fixture(scope="module")
def unbroken() -> Run:
    return run_walk(None, 40, resume=False)


def steps_in(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.mark.parametrize("first", [3, 7, 28])
def test_resume_equals_unbroken(tmp_path: pathlib.Path, unbroken: Run, first: int) -> None:
    run_walk(str(tmp_path), first)
    same(run_walk(str(tmp_path), 40), unbroken)


def test_a_finished_run_comes_back_at_once(tmp_path: pathlib.Path, unbroken: Run) -> None:
    run_walk(str(tmp_path), 40)
    again = run_walk(str(tmp_path), 40)
    same(again, unbroken)
    assert again.timing["steps_per_second"] == 0


def test_resume_in_an_empty_folder_starts_afresh(tmp_path: pathlib.Path, unbroken: Run) -> None:
    same(run_walk(str(tmp_path / "new" / "deep"), 40), unbroken)


def test_resume_of_several_seeds_and_of_states_with_odd_leaves(tmp_path: pathlib.Path) -> None:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {
            "empty": jnp.zeros((0, 3)),
            "half": jnp.ones(2, jnp.bfloat16),
            "key": key,
            "mask": jnp.asarray([True, False]),
            "scalar": jnp.zeros((), jnp.int8),
        }

    def step(key: jax.Array, state: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        draw = jax.random.normal(state["key"], (2,), jnp.bfloat16)
        return {**state, "half": state["half"] + draw, "key": key, "mask": ~state["mask"]}, {"draw": draw}

    process = Process(init, step, lambda state, info: {"empty": state["empty"], "draw": info["draw"]})
    arguments = {"seed": [4, 5], "record": Record(every=2), "checkpoint_dir": str(tmp_path)}
    simulate(process, num_steps=3, **arguments)
    resumed = simulate(process, num_steps=7, resume=True, **arguments)
    straight = simulate(process, num_steps=7, seed=[4, 5], record=Record(every=2))
    for name in ("empty", "half", "mask", "scalar"):
        np.testing.assert_array_equal(np.asarray(resumed.state[name]), np.asarray(straight.state[name]))
    np.testing.assert_array_equal(jax.random.key_data(resumed.state["key"]), jax.random.key_data(straight.state["key"]))
    assert resumed.results.draw.dtype == np.float32, "bfloat16 cannot be stored as NetCDF"
    assert resumed.results.equals(straight.results)


def test_fewer_steps_than_already_run_is_an_error(tmp_path: pathlib.Path) -> None:
    run_walk(str(tmp_path), 9)
    with pytest.raises(ValueError, match="num_steps must be at least the 9 steps already run, got 5"):
        run_walk(str(tmp_path), 5)


def test_a_fresh_run_does_not_mix_with_another(tmp_path: pathlib.Path) -> None:
    run_walk(str(tmp_path), 9)
    before = steps_in(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint_dir must be empty for a fresh run, got .* checkpoint of step 9"):
        run_walk(str(tmp_path), 20, resume=False)
    assert steps_in(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 4}, "same key"),
        ({"seed": [3]}, "same (state|key)"),
        ({"record": Record(every=2)}, "same record every"),
        ({"process": walk(num_nodes=5)}, "same state"),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path: pathlib.Path, changes: dict[str, object], what: str) -> None:
    run_walk(str(tmp_path), 9)
    arguments = {"process": walk(), "seed": 3, "record": Record(every=7), **changes}
    with pytest.raises(ValueError, match=f"checkpoint_dir must be one of this run \\({what}\\)") as caught:
        simulate(num_steps=20, checkpoint_dir=str(tmp_path), resume=True, **arguments)
    assert "\n" not in str(caught.value)
    assert 9 in steps_in(tmp_path), "the other run's checkpoint must stay"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="checkpoint_dir must be a folder that can be written"):
        run_walk(str(tmp_path / "file" / "inside"), 3)


def test_two_checkpoints_are_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    run_walk(str(tmp_path), 8)
    assert steps_in(tmp_path) == [7, 8]


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)


def truncate_all(folder: pathlib.Path) -> None:
    for path in files_of(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_largest(folder: pathlib.Path) -> None:
    path = files_of(folder)[0]
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit_of_the_data(folder: pathlib.Path) -> None:
    for path in files_of(folder):
        if "/d/" in path.as_posix():  # where the arrays are
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))


def overwrite_with_garbage(folder: pathlib.Path) -> None:
    for path in files_of(folder):
        path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def delete_the_meta_data(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "meta")


def delete_the_state(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "state")


def delete_the_largest_file(folder: pathlib.Path) -> None:
    files_of(folder)[0].unlink()


def empty_the_folder(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def empty_every_file(folder: pathlib.Path) -> None:
    for path in files_of(folder):
        path.write_bytes(b"")


def change_a_recorded_step(folder: pathlib.Path) -> None:
    path = folder / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["steps"][1] += 1
    path.write_text(json.dumps(meta))


DAMAGES = [
    truncate_all,
    truncate_largest,
    flip_a_bit_of_the_data,
    overwrite_with_garbage,
    delete_the_meta_data,
    delete_the_state,
    delete_the_largest_file,
    empty_the_folder,
    empty_every_file,
    change_a_recorded_step,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_falls_back(
    tmp_path: pathlib.Path, unbroken: Run, damage: Callable[[pathlib.Path], None]
) -> None:
    run_walk(str(tmp_path), 15)
    run_walk(str(tmp_path), 30)
    assert len(steps_in(tmp_path)) == 2
    damage(tmp_path / "30")
    with pytest.warns(UserWarning, match="checkpoint of step 30 is damaged .*; trying the one before"):
        resumed = run_walk(str(tmp_path), 40)
    same(resumed, unbroken)
    same(run_walk(str(tmp_path), 40), unbroken)  # and the folder is sound again


def test_when_all_are_damaged_the_run_starts_afresh(tmp_path: pathlib.Path, unbroken: Run) -> None:
    run_walk(str(tmp_path), 15)
    run_walk(str(tmp_path), 30)
    found = steps_in(tmp_path)
    for step in found:
        truncate_all(tmp_path / str(step))
    with pytest.warns(UserWarning, match="is damaged") as caught:
        resumed = run_walk(str(tmp_path), 40)
    assert len(caught) == len(found)
    same(resumed, unbroken)


def start(folder: pathlib.Path, out: pathlib.Path, num_steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "toy_run", str(folder), str(out), str(num_steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for_progress(process: subprocess.Popen[str], folder: pathlib.Path, beyond: int) -> None:
    """Until a checkpoint of a step after `beyond` is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if folder.exists() and any(step > beyond for step in steps_in(folder)):
            return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint after step {beyond}: {process.communicate(timeout=5)}")


def test_killed_at_any_moment_and_resumed_equals_unbroken(tmp_path: pathlib.Path) -> None:
    folder, out, num_steps = tmp_path / "checkpoints", tmp_path / "out.npz", 4000
    moments = random.Random(20)
    reached = -1
    for _ in range(4):
        process = start(folder, out, num_steps)
        try:
            wait_for_progress(process, folder, reached)
            time.sleep(moments.uniform(0, 0.4))  # mostly inside the writing of a checkpoint, which takes longest
            assert process.poll() is None, "the run ended before it could be killed"
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE)
        assert not out.exists()
        reached = max(steps_in(folder))
        assert reached < num_steps
    resumed = run_walk(str(folder), num_steps, checkpoint_seconds=60.0)
    same(resumed, run_walk(None, num_steps, resume=False))
    left = [path.name for path in folder.iterdir() if not path.name.isdigit()]
    assert not [name for name in left if "tmp" in name], f"unfinished writes were left behind: {left}"


def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path: pathlib.Path) -> None:
    folder, out, num_steps = tmp_path / "checkpoints", tmp_path / "out.npz", 4000
    process = start(folder, out, num_steps)
    try:
        wait_for_progress(process, folder, 0)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, errors[-2000:]
    stopped = int(printed.split("stopped at step ")[1].split()[0])
    assert printed.startswith("Interrupted") and f"of {num_steps}" in printed
    assert max(steps_in(folder)) == stopped
    same(run_walk(str(folder), num_steps, checkpoint_seconds=60.0), run_walk(None, num_steps, resume=False))


def test_ctrl_c_raises_interrupted_also_without_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    real = simulation.compile_process

    def compile_then_interrupt(*arguments: object) -> Programs:
        programs = real(*arguments)

        def advance(carry: Carry, records: int, every: int) -> tuple[Carry, dict[str, jax.Array]]:
            if every:  # not yet while step 0 is measured
                signal.raise_signal(signal.SIGINT)  # as a terminal would, in the middle of a chunk
            return programs.advance(carry, records, every)

        return programs._replace(advance=advance)

    monkeypatch.setattr(simulation, "compile_process", compile_then_interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(loop.Interrupted, match="stopped at step 1 of 9"):
        simulate(walk(), seed=0, num_steps=9)
    assert signal.getsignal(signal.SIGINT) is handler
    assert issubclass(loop.Interrupted, KeyboardInterrupt)
