"""The loop: what it records, and that nothing but the seed and the steps decides the result."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patience import PATIENCE
from toys import environment, plain_run, walk

from dlsim import keys, simulate
from dlsim.core import Process, Record
from dlsim.running import counters, loop
from dlsim.running.programs import compile_process


def same_bits(a: object, b: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def results_equal(a: object, b: object) -> None:
    assert set(a.data_vars) == set(b.data_vars)
    for name in (*a.data_vars, "step"):
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))


def test_records_start_at_step_zero_and_end_with_a_partial_one() -> None:
    run = simulate(walk(), seed=3, num_steps=23, record=Record(every=5))
    assert run.results.step.values.tolist() == [0, 5, 10, 15, 20, 23]
    states = plain_run(walk(), jax.random.key(3), 23)
    for row, step in enumerate(run.results.step.values):
        np.testing.assert_array_equal(run.results.word.values[row], states[step].word)
    assert run.results.word.dims == ("step", "word_0")
    np.testing.assert_allclose(run.state.position, states[-1].position, rtol=1e-5, atol=1e-6)
    same_bits(run.state.word, states[-1].word)


@pytest.mark.parametrize(("num_steps", "every", "expected"), [(3, 10, [0, 3]), (4, 2, [0, 2, 4]), (1, 1, [0, 1])])
def test_record_steps(num_steps: int, every: int, expected: list[int]) -> None:
    run = simulate(walk(), seed=0, num_steps=num_steps, record=Record(every=every))
    assert run.results.step.values.tolist() == expected


def test_the_default_record_keeps_about_a_hundred_rows() -> None:
    assert len(simulate(walk(), seed=0, num_steps=450).results.step) == 114  # every 4 steps, the start and the end


def test_step_zero_has_no_info_yet() -> None:
    first = simulate(walk(), seed=0, num_steps=2, record=Record(every=1)).results.isel(step=0)
    assert np.isnan(first.loss.item())
    assert first.gradients.item() == 0


def test_record_fn_replaces_what_the_process_measures() -> None:
    record = Record(every=2, fn=lambda state, info: {"highest": jnp.max(state.position)})
    run = simulate(walk(), seed=0, num_steps=4, record=record)
    assert list(run.results.data_vars) == ["highest"]
    np.testing.assert_array_equal(run.results.highest.values[-1], jnp.max(run.state.position))


def test_counts_pass_32_bits() -> None:
    run = simulate(walk(), seed=0, num_steps=9, record=Record(every=3))
    np.testing.assert_array_equal(run.results.spent.values, [0, 3 * (2**31 + 1), 6 * (2**31 + 1), 9 * (2**31 + 1)])
    assert run.results.spent.dtype == np.float64


@pytest.mark.parametrize(("seconds", "records"), [(1e-9, 256), (10.0, 1), (10.0, 3), (1e-3, 2)])
def test_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch, seconds: float, records: int) -> None:
    plain = simulate(walk(), seed=3, num_steps=61, record=Record(every=4))
    monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(loop, "CHUNK_RECORDS", records)
    chunked = simulate(walk(), seed=3, num_steps=61, record=Record(every=4))
    same_bits(plain.state, chunked.state)
    results_equal(plain.results, chunked.results)


def test_the_plan_covers_every_step_once() -> None:
    for num_steps in (1, 7, 23, 64):
        for every in (1, 3, 7, 100):
            for chunk in (1, 2, 5, 1000):
                step = 0
                while step < num_steps:
                    records, steps = loop._plan(step, num_steps, every, chunk)
                    assert 1 <= records <= loop.CHUNK_RECORDS
                    assert steps >= 1
                    assert records == 1 or (step % every == 0 and steps == every)
                    assert step // every == (step + steps - 1) // every, "a record boundary was jumped over"
                    step += records * steps
                assert step == num_steps


def test_several_seeds_equal_single_runs() -> None:
    together = simulate(walk(), seed=[3, 8, 2**32 - 1], num_steps=12, record=Record(every=5))
    assert together.results.loss.dims == ("seed", "step")
    assert together.results.seed.values.tolist() == [3, 8, 2**32 - 1]
    for row, seed in enumerate((3, 8, 2**32 - 1)):
        alone = simulate(walk(), seed=seed, num_steps=12, record=Record(every=5))
        same_bits(together.state.word[row], alone.state.word)
        np.testing.assert_array_equal(together.results.word.values[row], alone.results.word.values)
        np.testing.assert_array_equal(together.results.spent.values[row], alone.results.spent.values)
        np.testing.assert_allclose(together.state.position[row], alone.state.position, rtol=1e-6)


def test_a_key_is_the_same_as_its_seed_and_keys_are_runs() -> None:
    by_seed = simulate(walk(), seed=5, num_steps=6)
    same_bits(by_seed.state, simulate(walk(), jax.random.key(5), 6).state)
    several = simulate(walk(), jax.random.split(jax.random.key(0), 2), 6)
    assert several.state.word.shape == (2, 4)
    assert several.results.seed.values.tolist() == [0, 1]


def test_steps_are_traced_once_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    traces: list[int] = []
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    programs = compile_process(walk(on_trace=lambda: traces.append(1)), jax.random.key(0), walk().measure)
    assert len(traces) == 1
    carry = programs.start()
    for records, every in ((1, 1), (1, 7), (3, 2)):
        carry, _ = programs.advance(carry, records, every)
    assert int(carry.step) == 14
    assert len(traces) == 1


def test_a_run_traces_its_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traces: list[int] = []
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    simulate(walk(on_trace=lambda: traces.append(1)), seed=0, num_steps=40, record=Record(every=3))
    assert len(traces) == 1


@pytest.fixture
def program_texts(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder into which every program compiled during the test is written as text."""
    jax.config.update("jax_dump_ir_to", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_dump_ir_to", "")


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_closed_over_arrays_are_arguments_of_the_programs(program_texts: pathlib.Path, seed: object) -> None:
    data = jnp.asarray(np.random.default_rng(0).normal(size=(512, 512)), jnp.float32)  # 1 MiB, more as text

    def inner(x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ data)

    def step(key: jax.Array, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = jax.lax.fori_loop(0, 2, lambda _, y: inner(y) + data[0], x)
        x = jax.lax.cond(x[0] > 0, jax.checkpoint(inner), lambda y: y, x)
        return jax.lax.scan(lambda y, _: (jax.grad(lambda z: jnp.sum(inner(z)))(y), None), x, length=2)[0], {}

    process = Process(init=lambda key: data[0], step=step, measure=lambda x, info: {"sum": jnp.sum(x * data[1])})
    simulate(process, seed=seed, num_steps=2)
    sizes = {path.name: path.stat().st_size for path in program_texts.rglob("*") if path.is_file()}
    assert any("jit_advance" in name for name in sizes), f"the programs of the loop are not among {sorted(sizes)}"
    assert max(sizes.values()) < 2**17, f"the array is in the text of a program: {sizes}"


def test_the_run_leaves_the_users_arrays_alone() -> None:
    mine = jnp.arange(4.0)

    def step(key: jax.Array, state: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        return {**state, "b": state["b"] + mine}, {}

    # The same array twice, unchanged, in the state that is donated, and in what is measured.
    process = Process(
        init=lambda key: {"a": mine, "b": mine, "c": mine[:0]}, step=step, measure=lambda state, info: {"a": state["a"]}
    )
    first = simulate(process, seed=0, num_steps=3)
    second = simulate(process, seed=0, num_steps=3)
    same_bits(first.state, second.state)
    np.testing.assert_array_equal(mine, np.arange(4.0))
    np.testing.assert_array_equal(first.state["b"], 4 * np.arange(4.0))
    np.testing.assert_array_equal(first.results.a.values, np.tile(np.arange(4.0), (4, 1)))


def test_python_numbers_are_a_fine_state() -> None:
    process = Process(
        init=lambda key: 0.5, step=lambda key, x: (x + 1, {}), measure=lambda x, info: {"x": jnp.asarray(x)}
    )
    assert float(simulate(process, seed=0, num_steps=3).state) == 3.5


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            lambda key, s: ({"a": s["a"].astype(jnp.int32)}, {}),
            r"state\['a'\].*got float32\[3\] that became int32\[3\]",
        ),
        (lambda key, s: ({"a": s["a"][:2]}, {}), r"state\['a'\].*got float32\[3\] that became float32\[2\]"),
        (lambda key, s: ({"b": s["a"]}, {}), "keeps the structure of its state"),
    ],
)
def test_state_must_be_a_fixed_point(step: object, line: str) -> None:
    process = Process(init=lambda key: {"a": jnp.zeros(3)}, step=step, measure=lambda s, i: {"x": jnp.zeros(())})
    with pytest.raises(ValueError, match=line) as caught:
        simulate(process, seed=0, num_steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"seed": 0, "num_steps": 0}, "num_steps must be an integer >= 1, got 0"),
        ({"seed": 0}, "num_steps must be an integer >= 1, got None"),
        ({"num_steps": 2}, "key must be given, or else seed"),
        ({"seed": 0, "key": jax.random.key(0), "num_steps": 2}, "key must be given, or else seed"),
        ({"key": jax.random.PRNGKey(0), "num_steps": 2}, "key must be a typed key"),
        ({"seed": -1, "num_steps": 2}, "seed must be an integer >= 0, got -1"),
        ({"seed": [1, 1], "num_steps": 2}, r"seed must be one or more distinct integers, got \[1, 1\]"),
        ({"seed": [], "num_steps": 2}, r"seed must be one or more distinct integers, got \[\]"),
        ({"seed": 0.5, "num_steps": 2}, "seed must be an integer >= 0, got 0.5"),
        ({"seed": 0, "num_steps": 2, "record": Record(every=0)}, "record.every must be an integer >= 1, got 0"),
        (
            {"seed": 0, "num_steps": 2, "record": Record(every=2**31)},
            r"record.every must be an integer in \[1, 2147483647\]",
        ),
        ({"seed": 0, "num_steps": 2**40}, r"num_steps must be an integer in \[1, 2147483647\], got 1099511627776"),
        ({"seed": range(3_000_000), "num_steps": 2}, "seed must be at most 100000 distinct integers, got 3000000"),
        ({"seed": iter(range(3_000_000)), "num_steps": 2}, "seed must be an integer >= 0, got range_iterator"),
        ({"seed": 0, "num_steps": 2, "resume": True}, "checkpoint_dir must be given to resume"),
        ({"seed": 0, "num_steps": 2, "checkpoint_seconds": -1.0}, r"checkpoint_seconds must be a number in \[0, inf"),
        ({"seed": 0, "num_steps": 2, "progress": "loud"}, "progress must be one of auto, bar, lines, off, got .loud."),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        simulate(walk(), **arguments)
    assert "\n" not in str(caught.value)


def test_what_a_step_and_a_record_give_back_is_checked() -> None:
    with pytest.raises(ValueError, match=r"process must be one whose step gives \(state, info\), info a dict"):
        simulate(walk()._replace(step=lambda key, state: state), seed=0, num_steps=1)
    with pytest.raises(ValueError, match=r"record\.fn must be a function that gives a dict of arrays, got"):
        simulate(walk(), seed=0, num_steps=1, record=Record(fn=lambda state, info: state.word))


def test_a_process_that_measures_nothing_needs_a_record() -> None:
    with pytest.raises(ValueError, match=r"record\.fn must be given for a process that measures nothing"):
        simulate(walk()._replace(measure=None), seed=0, num_steps=1)


def test_compile_time_is_apart_from_run_time() -> None:
    run = simulate(walk(), seed=[0, 1], num_steps=8)
    assert set(run.timing) == {"compile_seconds", "run_seconds", "steps_per_second", "node_updates_per_second"}
    assert run.timing["compile_seconds"] > run.timing["run_seconds"] > 0
    assert run.timing["steps_per_second"] == pytest.approx(8 / run.timing["run_seconds"])
    assert run.timing["node_updates_per_second"] == pytest.approx(
        8 * run.timing["steps_per_second"]
    )  # 2 runs x 4 nodes


@pytest.mark.parametrize("progress", ["auto", False])
def test_a_short_run_is_silent_without_a_terminal(capfd: pytest.CaptureFixture[str], progress: object) -> None:
    simulate(walk(), seed=0, num_steps=5, progress=progress)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_progress_shows_what_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    simulate(walk(), seed=0, num_steps=5, progress=True, label="my walk")
    shown = capfd.readouterr().err
    assert "my walk: compiling" in shown
    assert "my walk: 5 of 5 steps (100 %), " in shown
    assert "loss" in shown
    assert "node-updates/s" in shown


def test_x64() -> None:
    script = """
import jax, jax.numpy as jnp, numpy as np
from dlsim.core import Record
from dlsim import simulate
from toys import walk
wide = walk()
wide = wide._replace(
    init=lambda key: walk().init(key)._replace(position=jnp.ones((4, 3), jnp.float64)),
)
run = simulate(wide, seed=3, num_steps=23, record=Record(every=5))
assert run.state.position.dtype == jnp.float64, run.state.position.dtype
assert run.results.step.values.tolist() == [0, 5, 10, 15, 20, 23]
print(" ".join(str(w) for w in np.asarray(run.state.word)), int(run.results.spent[-1]), run.status.ok)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(JAX_ENABLE_X64="1"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    narrow = simulate(walk(), seed=3, num_steps=23)
    words = " ".join(str(w) for w in np.asarray(narrow.state.word))
    assert done.stdout.split("\n")[0] == f"{words} {23 * (2**31 + 1)} True"


def test_keys_of_steps_do_not_meet_the_key_of_init() -> None:
    states = plain_run(walk(), jax.random.key(3), 2)
    assert keys.stream(jax.random.key(3), "init") != keys.stream(jax.random.key(3), "steps")
    assert len({int(word) for state in states[1:] for word in state.word}) == 8
    assert counters.to_float(states[-1].spent) == 2 * (2**31 + 1)
