"""Early stopping: the step by hand, the same bits whatever the chunks, and a run that says why it ended."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import walk

import dlsim
from dlsim import Record, simulate, stop_at, stop_on_plateau
from dlsim.core import Process
from dlsim.running import counters, loop

RECORD = Record(every=3)


def decay(rates: tuple[float, ...] = (0.5,)) -> Process:
    """x <- x / 2 (of a seed's own rate, if there are several), from 1: after t steps exactly 2**-t; it diverges at 1e9."""

    def init(key: jax.Array) -> dict[str, jax.Array]:
        which = jax.random.randint(key, (), 0, len(rates))
        return {"x": jnp.ones(()), "rate": jnp.asarray(rates)[which], "count": counters.counter()}

    def step(key: jax.Array, state: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        x = state["x"] * state["rate"]
        return {**state, "x": x, "count": counters.add(state["count"], counters.from_words(jnp.uint32(5)))}, {"seen": x}

    def measure(state: dict[str, jax.Array], info: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"x": state["x"], "seen": info["seen"], "count": state["count"], "pair": jnp.stack([state["x"]] * 2)}

    return Process(init, step, measure)


@pytest.mark.parametrize(
    ("stop", "step", "says"),
    [
        (stop_at("x", at_most=2.0**-7), 9, "x <= 0.0078125"),  # 2**-6 at 6, 2**-9 at 9
        (stop_at("x", at_most=2.0**-9), 9, "x <= 0.00195312"),  # the target itself is reached
        (stop_at("count", at_least=16), 6, "count >= 16"),  # five a step, a count in two words
        (stop_at("x", at_least=1.0), 0, "x >= 1"),
        (stop_at("seen", at_most=0.5), 3, "seen <= 0.5"),  # NaN at step 0 is below nothing
        # Improvements on the records of steps 3, 6, 9: 7/8, 7/64, 7/512; those at 9 and 12 are too small.
        (stop_on_plateau("x", patience=2, min_delta=0.1), 12, "x no lower by more than 0.1 in 2 records"),
        (stop_on_plateau("x", patience=1, min_delta=0.1), 9, "x no lower by more than 0.1 in 1 record"),
        (stop_on_plateau("x", patience=2, mode="max"), 6, "x no higher in 2 records"),
        (stop_on_plateau("seen", patience=2, min_delta=0.1), 12, "seen no lower by more than 0.1 in 2 records"),
        ([stop_at("x", at_most=1e-3), stop_at("count", at_least=16)], 6, "count >= 16"),
    ],
)
def test_the_step_is_the_one_by_hand(stop: object, step: int, says: str) -> None:
    run = simulate(decay(), seed=0, num_steps=40, record=RECORD, stop=stop)
    assert run.results.step.values.tolist() == list(range(0, step + 1, 3))
    assert float(run.state["x"]) == 2.0**-step
    assert run.results.attrs["stopped"] == run.status.stopped == f"at step {step}: {says}"


def test_a_run_that_ends_before_says_so_and_one_without_a_rule_nothing() -> None:
    run = simulate(decay(), seed=0, num_steps=7, record=RECORD, stop=stop_at("x", at_most=0.0))
    assert run.status.stopped == "at step 7, the last, before x <= 0"
    assert run.results.step.values.tolist() == [0, 3, 6, 7]
    plain = simulate(decay(), seed=0, num_steps=7, record=RECORD)
    assert plain.status.stopped == "" and "stopped" not in plain.results.attrs
    np.testing.assert_array_equal(run.results.x, plain.results.x)


def test_a_run_that_diverges_stops_at_a_plateau() -> None:
    run = simulate(decay((1e30,)), seed=0, num_steps=40, record=RECORD, stop=stop_on_plateau("x", patience=4))
    assert run.status.stopped.startswith("at step 12: ")  # records of steps 3, 6, 9 and 12 are infinite


def test_several_seeds_end_when_all_have_reached_and_say_which_did() -> None:
    rates, stop = (0.5, 0.25), stop_at("x", at_most=2.0**-11)
    seeds = [0, 1, 2, 3]
    alone = {s: simulate(decay(rates), seed=s, num_steps=40, record=RECORD, stop=stop) for s in seeds}
    ends = {s: int(run.results.step[-1]) for s, run in alone.items()}
    assert set(ends.values()) == {6, 12}  # 4**-6 = 2**-12; 2**-12
    run = simulate(decay(rates), seed=seeds, num_steps=40, record=RECORD, stop=stop)
    assert run.results.step.values.tolist() == [0, 3, 6, 9, 12]
    for s in seeds:
        assert f"seed {s} at step {ends[s]}: x <= 0.000488281" in run.status.stopped
        np.testing.assert_array_equal(run.results.x.sel(seed=s)[: ends[s] // 3 + 1], alone[s].results.x)
    assert run.status.stopped.startswith("at step 12, when all runs had: seed 0 ")
    short = simulate(decay(rates), seed=seeds, num_steps=9, record=RECORD, stop=stop)
    done = [s for s in seeds if ends[s] == 6]
    assert short.status.stopped.startswith(f"at step 9, the last, when {len(done)} of 4 runs had x <= 0.000488281: ")
    assert all((f"seed {s} not" in short.status.stopped) is (s not in done) for s in seeds)


@pytest.mark.parametrize("seconds", [1e-9, 10.0])
def test_the_state_is_that_of_the_record_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
    run = simulate(walk(), seed=3, num_steps=4000, record=Record(every=7), stop=stop_at("spent", at_least=1))
    end = int(run.results.step[-1])
    whole = simulate(walk(), seed=3, num_steps=end, record=Record(every=7))
    assert 0 < end < 4000
    jax.tree.map(np.testing.assert_array_equal, run.state, whole.state)
    np.testing.assert_array_equal(run.results.spent, whole.results.spent)


def test_it_resumes_to_the_same_bits_and_goes_on_for_more(tmp_path: pathlib.Path) -> None:
    folder, stop = str(tmp_path / "run"), stop_on_plateau("x", patience=2, min_delta=0.1)

    def run(stop: object, num_steps: int = 40, **options: object) -> dlsim.Run:
        return simulate(decay(), seed=0, num_steps=num_steps, record=RECORD, stop=stop, **options)

    whole = run(stop)
    kept = {"checkpoint_dir": folder, "checkpoint_seconds": 0.0}
    run(None, 9, **kept)  # one of the two records without an improvement lies before the break
    resumed = run(stop, resume=True, **kept)
    assert resumed.status.stopped == whole.status.stopped == "at step 12: x no lower by more than 0.1 in 2 records"
    again = run(stop, resume=True, **kept)
    for other in (resumed, again):
        jax.tree.map(np.testing.assert_array_equal, other.state, whole.state)
        assert other.results.identical(whole.results)
    assert again.timing["steps_per_second"] == 0.0
    more = run(stop_at("x", at_most=2.0**-20), resume=True, **kept)
    assert more.status.stopped == "at step 21: x <= 9.53674e-07" and float(more.state["x"]) == 2.0**-21


def test_the_bar_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    simulate(decay(), seed=0, num_steps=40, record=RECORD, stop=stop_at("x", at_most=0.1), progress=True)
    assert "stopped at step 6: x <= 0.1" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: stop_at("x"), "stop_at: at_least must be given, or else at_most .* got neither"),
        (lambda: stop_at("x", at_least=1, at_most=2), "got both"),
        (lambda: stop_at("x", at_least=float("nan")), "stop_at: at_least must be a finite number, got nan"),
        (lambda: stop_at("", at_least=1), "stop_at: name must be the name of a record"),
        (lambda: stop_on_plateau("x", patience=0), "stop_on_plateau: patience must be an integer >= 1, got 0"),
        (lambda: stop_on_plateau("x", patience=1, min_delta=-1.0), "min_delta must be a number in"),
        (lambda: stop_on_plateau("x", patience=1, mode="mim"), "mode must be one of min, max, got 'mim'"),
    ],
)
def test_bad_rules_are_one_line(make: object, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("stop", "line"),
    [
        (0.9, "simulate: stop must be a Stop, got 0.9. Pass e.g. dlsim.stop_at"),
        ("x", "simulate: stop must be a Stop, got 'x'"),
        (stop_at("y", at_least=1.0), "simulate: stop must be one of .*x.*, got 'y'"),
        (stop_at("pair", at_least=1.0), r"stop must be about a record of one number, got pair of shape \[2\]"),
    ],
)
def test_a_rule_is_about_a_number_that_is_recorded(stop: object, line: str) -> None:
    for seed in (0, [0, 1]):
        with pytest.raises(ValueError, match=line):
            simulate(decay(), seed=seed, num_steps=2, stop=stop)
