"""What can go wrong while a sweep runs: no memory, Ctrl-C, SIGKILL, files that are gone; and what is run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import killed_sweep
import numpy as np
import pytest
from patience import PATIENCE
from tiny_sweeps import RECORD, STEPS, quadratic, walk
from toys import environment

import dlsim
from dlsim.running.programs import Executable
from dlsim.sweeps import api, engine
from dlsim.sweeps.store import Store

HERE = os.path.dirname(__file__)  # noqa: PTH120
RATES = [0.5, 0.6, 0.7, 0.8]
NO_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 123456789 bytes."


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)


@pytest.fixture
def played(monkeypatch):
    """Runs of every block that was played to its end, in order: [(rate or size, seed), ...]."""
    blocks, original = [], engine._result

    def note(group, block, *rest):
        blocks.append([(*run.choice.values(), run.seed) for run in block])
        return original(group, block, *rest)

    monkeypatch.setattr(engine, "_result", note)
    return blocks


def swept(axes, out=None, make=walk, **more):
    settings = {
        "seed": (0, 1),
        "num_steps": STEPS,
        "record": RECORD,
        "progress": False,
        "layout": 2,
        "lanes": 1,
        **more,
    }
    return dlsim.sweep(make, axes, out=out, **settings)


def same(ours, theirs, exactly=True):
    for name in set(theirs.data_vars) - {"seconds_per_step"}:
        if exactly:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        else:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6, err_msg=name)


def runs_in(blocks):
    return sorted(run for block in blocks for run in block)


def test_more_values_cost_only_what_is_new(tmp_path, played):
    swept({"rate": RATES[:2]}, tmp_path)
    assert len(runs_in(played)) == 4
    played.clear()
    results = swept({"rate": RATES}, tmp_path, seed=(0, 1, 2))
    assert runs_in(played) == [(0.5, 2), (0.6, 2), *((rate, seed) for rate in RATES[2:] for seed in (0, 1, 2))]
    played.clear()
    same(swept({"rate": RATES}, tmp_path, seed=(0, 1, 2)), results)
    same(swept({"rate": RATES[::-1]}, tmp_path, seed=1), results.sel(rate=RATES[::-1], seed=[1]))
    assert played == []
    same(results, swept({"rate": RATES}, seed=(0, 1, 2)), exactly=False)
    swept({"rate": RATES}, tmp_path, seed=(0, 1, 2), num_steps=STEPS + 2)
    assert len(runs_in(played)) == 12 + 12  # other lengths are other runs


def test_a_block_that_is_gone_or_damaged_is_run_again(tmp_path, played):
    results = swept({"rate": RATES}, tmp_path)
    first, second, *_ = sorted((tmp_path / "blocks").glob("*.npz"))
    first.unlink()
    damaged = bytearray(second.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    second.write_bytes(damaged)
    played.clear()
    with pytest.warns(UserWarning, match="is damaged"):
        again = swept({"rate": RATES}, tmp_path)
    assert len(runs_in(played)) == 4
    same(again, results)


def limited(monkeypatch, most):
    """A device that holds the states of `most` runs."""
    original, asked = Executable.bind, []

    def bind(self, data):
        runs = data.own[2].shape[0]
        bound = original(self, data)

        def checked(carry, records, every):
            asked.append(runs)
            if runs > most:
                raise RuntimeError(NO_MEMORY)
            return bound.advance(carry, records, every)

        return bound._replace(advance=checked)

    monkeypatch.setattr(Executable, "bind", bind)
    return asked


@pytest.mark.parametrize(("layout", "lanes", "most"), [("vmap", 1, 3), (8, 2, 2), ("auto", None, 1), ("8x2", 1, 1)])
def test_out_of_memory_halves_the_block_and_goes_on(monkeypatch, layout, lanes, most, tmp_path):
    whole = swept({"rate": RATES}, layout="vmap")
    asked = limited(monkeypatch, most)
    results = swept({"rate": RATES}, tmp_path, layout=layout, lanes=lanes)
    same(results, whole, exactly=False)
    assert min(asked) >= 1 and max(asked[-2:]) <= most
    assert not (tmp_path / "current").exists()


def test_out_of_memory_while_compiling(monkeypatch):
    compile_traced = engine.compile_traced

    def limited(traced, data, *more):
        if data.own[2].shape[0] > 2:
            raise RuntimeError(NO_MEMORY)
        return compile_traced(traced, data, *more)

    whole = swept({"rate": RATES}, layout="vmap")
    monkeypatch.setattr(engine, "compile_traced", limited)
    same(swept({"rate": RATES}, layout="vmap"), whole, exactly=False)


def test_out_of_memory_with_a_single_run_is_one_line(monkeypatch):
    limited(monkeypatch, 0)
    message = r"sweep: memory must be at least .* for one run of 1 x size.*, got .*free. About \d nodes would fit."
    with pytest.raises(ValueError, match=message.replace("1 x size", "ring")) as caught:
        swept({"topology": ["ring"], "learning_rate": [0.1, 0.2]}, make=quadratic)
    assert "\n" not in str(caught.value) and "RESOURCE_EXHAUSTED" in str(caught.value.__cause__)


def test_progress_after_running_out_of_memory(monkeypatch):
    """Steps of blocks that were lost are taken back, so that the whole comes out."""
    import contextlib

    said = []
    monkeypatch.setattr(api, "display", lambda *_: contextlib.nullcontext(lambda done, text: said.append(done)))
    bind = Executable.bind

    def fail_late(self, data):
        bound, calls = bind(self, data), []

        def advance(carry, records, every):
            calls.append(every)
            if data.own[2].shape[0] > 1 and len(calls) > 2:
                raise RuntimeError(NO_MEMORY)
            return bound.advance(carry, records, every)

        return bound._replace(advance=advance)

    monkeypatch.setattr(Executable, "bind", fail_late)
    swept({"rate": RATES}, layout=4, lanes=2, num_steps=40)
    assert said[-1] == 40 * 8 and max(said) <= 40 * 8


def test_memory_that_is_too_small_is_told_before_anything_is_compiled(monkeypatch):
    def never(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(engine, "compile_traced", never)
    rule = r"sweep: memory must be at least [\d.]+ .iB \(estimated\) for one run of 6, got [\d.]+ .?i?B. "
    # The first size fits, the second does not: the first is not run in vain.
    with pytest.raises(ValueError, match="for one run of 400, got 35 KiB. About [1-9]") as caught:
        swept({"num_nodes": [2, 400]}, make=quadratic, memory=40_000)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rule):
        swept({"num_nodes": [6]}, make=quadratic, memory=9000)


def test_other_errors_are_raised_as_they_are(monkeypatch, tmp_path):
    def broken(*_args, **_more):
        raise TypeError("a mistake")

    monkeypatch.setattr(engine, "play", broken)
    for lanes in (1, 2):
        with pytest.raises(TypeError, match="a mistake"):
            swept({"rate": RATES}, tmp_path, lanes=lanes)


@pytest.mark.parametrize("lanes", [1, 2])
def test_ctrl_c_ends_cleanly_and_the_sweep_goes_on(tmp_path, monkeypatch, played, lanes):
    """The first Ctrl-C lets the chunks in flight finish and keeps their state; nothing of a finished block is lost."""
    whole = swept({"rate": RATES}, num_steps=400)
    played.clear()
    play, sent = engine.play, []

    def interrupted(*args, **more):
        if played and not sent:
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return play(*args, **{**more, "first_chunk": 1})

    monkeypatch.setattr(engine, "play", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(dlsim.Interrupted):
        swept({"rate": RATES}, tmp_path, lanes=lanes, num_steps=400)
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(thread.name.startswith("dlsim-lane") for thread in threading.enumerate())
    done = runs_in(played)
    assert 2 <= len(done) < 8 and any((tmp_path / "current").iterdir())
    monkeypatch.setattr(engine, "play", play)
    played.clear()
    same(swept({"rate": RATES}, tmp_path, lanes=lanes, num_steps=400), whole)
    assert sorted(done + runs_in(played)) == sorted((rate, seed) for rate in RATES for seed in (0, 1))
    assert not (tmp_path / "current").exists()


def test_a_checkpoint_of_a_block_of_another_size_is_no_obstacle(tmp_path, monkeypatch):
    """Three runs in a block of four, stopped on the way; the next time the three are a block of their own."""
    whole = swept({"rate": RATES[:3]}, seed=0, num_steps=400)
    play = engine.play

    def stopped(*args, **more):
        return play(*args, **{**more, "stopped": lambda: True, "first_chunk": 1})

    monkeypatch.setattr(engine, "play", stopped)
    with pytest.raises(dlsim.Interrupted):
        swept({"rate": RATES[:3]}, tmp_path, seed=0, layout=2, num_steps=400)
    monkeypatch.setattr(engine, "play", play)
    for layout in (2, 3, 1):
        same(swept({"rate": RATES[:3]}, tmp_path, seed=0, layout=layout, num_steps=400), whole, exactly=False)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """SIGKILL again and again until the sweep comes through: the results are those of an unbroken one."""
    whole, rng, out = killed_sweep.run(None), random.Random(1), tmp_path / "out"
    kept, total = 0, 24
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-m", "killed_sweep", str(out), "3"],
            env=environment(),
            cwd=HERE,
            stderr=subprocess.DEVNULL,
        )
        began = time.monotonic()
        while done_in(out) < min(kept + 2, total) and child.poll() is None and time.monotonic() - began < PATIENCE:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        child.kill()
        child.wait(PATIENCE)
        assert done_in(out) >= kept  # nothing that was finished is lost
        kept = done_in(out)
    assert 0 < kept < total
    leftover = {path.name for path in (out / "blocks").glob("*.npz")}
    same(killed_sweep.run(out), whole)
    assert leftover <= {path.name for path in (out / "blocks").glob("*.npz")}


def done_in(out):
    store = Store(out)
    store.refresh()
    return len(store._held)


@pytest.mark.slow
def test_ctrl_c_of_another_process(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-m", "killed_sweep", str(tmp_path / "out")],
        env=environment(),
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        began = time.monotonic()
        while done_in(tmp_path / "out") < 2:
            assert child.poll() is None and time.monotonic() - began < PATIENCE
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        printed, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 130 and printed.startswith("Interrupted: ") and "Traceback" not in err
    assert 2 <= done_in(tmp_path / "out") < 24
