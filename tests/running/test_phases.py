"""Phases: host code between compiled steps, with the records, checkpoints, resumes and sweeps of any other run."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim.core import Phase
from dlsim.learning.measures import several

EVERY = 3


def clustering(rate: Any = 0.5, every: int = EVERY, shift: float = 0.0, work: Any = None) -> dlsim.Process:
    """Points that move at random; the host sorts them into two halves, with a draw, and each goes to its half's centre."""

    def step(key: Any, state: Any) -> Any:
        return {**state, "x": state["x"] + 0.1 * jax.random.normal(key, state["x"].shape)}, {}

    def halves(key: Any, step: int, view: Any) -> Any:
        points, _ = view
        assert isinstance(points, np.ndarray) and points.shape == (6,) and step % every == 0
        ranks = np.argsort(np.argsort(points + 1e-3 * float(jax.random.uniform(key))))
        return points, (ranks >= 3).astype(np.int32) + np.int32(shift)

    def write(key: Any, state: Any, view: Any) -> Any:
        _, half = view
        member = half[:, None] == jnp.arange(2)
        centres = jnp.sum(jnp.where(member, state["x"][:, None], 0), 0) / jnp.maximum(jnp.sum(member, 0), 1)
        noise = 1e-3 * jax.random.normal(key, state["x"].shape)
        return {"x": state["x"] + rate * (centres[half] - state["x"]) + noise, "half": half}

    return dlsim.Process(
        init=lambda key: {"x": jax.random.normal(key, (6,)), "half": jnp.zeros(6, jnp.int32)},
        step=step,
        measure=lambda state, info: {"spread": jnp.std(state["x"]), "upper": jnp.sum(state["half"])},
        phase=Phase(every, lambda state: (state["x"], state["half"]), work or halves, write),
    )


def by_hand(process: dlsim.Process, seed: int, num_steps: int) -> Any:
    """The same, step by step, without the loop."""
    key = jax.random.key(seed)
    state, rows = process.init(dlsim.keys.stream(key, "init")), []
    steps, phases = dlsim.keys.stream(key, "steps"), dlsim.keys.stream(key, "phase")
    for t in range(num_steps):
        state, info = process.step(jax.random.fold_in(steps, t), state)
        if (t + 1) % process.phase.every == 0:
            drawn = jax.random.fold_in(phases, t + 1)
            view = process.phase.work(drawn, t + 1, jax.tree.map(np.asarray, process.phase.read(state)))
            state = process.phase.write(drawn, state, view)
        rows.append(float(process.measure(state, info)["spread"]))
    return state, rows


def test_a_run_is_its_steps_and_phases_in_turn_and_records_come_after_them() -> None:
    process = clustering()
    state, rows = by_hand(process, 5, 8)
    run = dlsim.simulate(process, seed=5, num_steps=8, record=dlsim.Record(every=1), progress=False)
    np.testing.assert_allclose(run.state["x"], state["x"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run.state["half"], state["half"])
    np.testing.assert_allclose(run.results.spread[1:], rows, rtol=1e-4)
    assert run.results.upper.values.tolist() == [0, 0, 0, 3, 3, 3, 3, 3, 3]
    both = dlsim.simulate(process, seed=[4, 5], num_steps=8, record=dlsim.Record(every=4), progress=False)
    np.testing.assert_allclose(both.state["x"][1], state["x"], rtol=1e-5, atol=1e-6)
    assert both.results.step.values.tolist() == [0, 4, 8] and not np.allclose(both.state["x"][0], state["x"])


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(stop: int, tmp_path: pathlib.Path) -> None:
    options: dict[str, Any] = {"seed": 1, "record": dlsim.Record(every=1), "progress": False}
    whole = dlsim.simulate(clustering(), num_steps=7, **options)
    dlsim.simulate(clustering(), num_steps=stop, checkpoint_dir=tmp_path, **options)
    resumed = dlsim.simulate(clustering(), num_steps=7, checkpoint_dir=tmp_path, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    np.testing.assert_array_equal(resumed.results.spread[: stop + 1], whole.results.spread[: stop + 1])
    if stop == 2:
        for other in (clustering(every=4), clustering(shift=1.0), clustering(rate=0.25)):
            with pytest.raises(ValueError, match="simulate: checkpoint_dir must be one of this run"):
                dlsim.simulate(other, num_steps=9, checkpoint_dir=tmp_path, resume=True, **options)


def test_a_sweep_runs_them_as_one_program_and_gives_what_single_runs_do() -> None:
    every_second = dlsim.Record(every=2)
    swept = dlsim.sweep(clustering, {"rate": [0.5, 0.9]}, num_steps=4, record=every_second, seed=[0, 1], progress=False)
    for rate in (0.5, 0.9):
        for seed in (0, 1):
            run = dlsim.simulate(clustering(rate), seed=seed, num_steps=4, record=every_second, progress=False)
            np.testing.assert_allclose(swept.spread.sel(rate=rate, seed=seed), run.results.spread, rtol=1e-5)


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (lambda key, step, view: view[0], "simulate: process.phase.work must be one that gives a view"),
        (lambda key, step, view: (view[0], view[1][:2]), r"one that gives int32\[6\] at view\[1\], got int32\[2\]"),
        (lambda key, step, view: (view[0], view[1] * 1.5), r"one that gives int32\[6\] at view\[1\], got float64"),
    ],
)
def test_work_that_gives_something_else_is_one_line(work: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        dlsim.simulate(clustering(work=work), seed=0, num_steps=3, progress=False)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"simulate: process.phase.every must be .*, got 0"):
        dlsim.simulate(clustering(every=0), seed=0, num_steps=3, progress=False)
    with pytest.raises(ValueError, match="several: process must be one without a phase on the host"):
        several(clustering(), 2)


def test_dimat_by_the_hosts_assignment_is_dimat_by_the_devices() -> None:
    data = dlsim.problems.synthetic_classification(80, 6, 3, seed=0)
    parts = dlsim.problems.partition(data, 4, dlsim.problems.iid())
    problem = dlsim.problems.supervised(dlsim.problems.mlp((5,)), data, parts, batch_size=4)
    inputs = dlsim.problems.shared_inputs(data, 30)
    matching = dlsim.aggregators.activation_matching(problem, inputs)
    scenario, found = dlsim.networks.outages([1], 1, 2), []
    for assignment in ("device", "host"):
        algorithm = dlsim.algorithms.dimat(
            problem, optax.sgd(0.1), matching=matching, num_local_steps=2, assignment=assignment
        )
        process = dlsim.learn(problem, algorithm, dlsim.networks.ring(4), scenario, initial_params="own")
        found.append(dlsim.simulate(process, seed=0, num_steps=3, record=dlsim.Record(every=1), progress=False))
    device, host = found
    assert float(device.state.algorithm.aggregator_state.moved.min()) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), device.params, host.params)
    np.testing.assert_allclose(device.results.accuracy, host.results.accuracy, atol=0.02)
