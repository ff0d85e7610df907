"""What every server-side asynchronous method keeps: the bits of one job after the other, and a plain loop's numbers."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import optax
import pytest
from contract.arrivals_table import METHODS, PACE, STEPS
from contract.world import NUM_NODES, RATE, classification, problem
from oracles import federated_arrivals

import dlsim
from dlsim import algorithms, arrivals, clocks, keys, networks
from dlsim.core import Process, Record
from dlsim.sweeps.groups import group_runs
from dlsim.sweeps.source import from_function

NUM_WINDOWS = 12


def process(name: str, *, noise: float = 0.1, rate: Any = RATE, channel: Any = None, **timing: Any) -> Process:
    world = problem(noise)
    network = networks.complete(NUM_NODES)
    network = network if channel is None else network.with_channel(channel)
    when = clocks.timing(**{"window": 0.5, **timing})
    return dlsim.learn(world, METHODS[name].make(world, rate), network, timing=when)


def run(made: Process, num: int = NUM_WINDOWS, **options: Any) -> Any:
    return dlsim.simulate(made, num_steps=num, record=Record(every=3), **{"seed": 0, **options})


def same_bits(a: Any, b: Any, *, without: tuple[str, ...] = ("buffer",)) -> None:
    for name in a._fields:
        if name not in without:
            jax.tree.map(np.testing.assert_array_equal, getattr(a, name), getattr(b, name))


def linear(world: Any) -> Any:
    """The gradients of the quadratics, as NumPy products."""
    ids, origin = np.arange(NUM_NODES), np.zeros((NUM_NODES, 5), np.float32)

    def at(x: np.ndarray) -> np.ndarray:
        return np.asarray(world.full_gradient(jax.random.key(0), x, ids)[0], np.float64)

    offset = at(origin)
    matrices = np.stack([at(origin + np.eye(5, dtype=np.float32)[d]) - offset for d in range(5)], axis=-1)
    return lambda x, client: matrices[client] @ x + offset[client]


def falling(version: Any) -> Any:
    """A rate by the server's version, for Python numbers and arrays."""
    return RATE * 0.9**version


@pytest.mark.parametrize("rate", [RATE, falling], ids=["constant", "falling"])
@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_a_plain_loop_over_jobs_does(name: str, rate: Any) -> None:
    """With a schedule, a job works at the rate of the version it began with, whatever has been made since."""
    world = problem(0.0)
    method = METHODS[name]
    algorithm = method.make(world, rate)
    network = networks.complete(NUM_NODES)
    made = dlsim.learn(world, algorithm, network, timing=clocks.timing(window=0.5))
    found = run(made)
    words = np.asarray(jax.random.key_data(keys.stream(jax.random.key(0), "schedule"))).astype(np.uint64).ravel()
    jobs = next(algorithm.schedule(network).jobs(int(words[0]) << 32 | int(words[-1])))
    until = int(NUM_WINDOWS * 0.5 * clocks.TICKS_PER_SECOND)
    assert jobs.use[-1] > until
    start = np.zeros(5)
    if method.oracle == "movements":
        expected = federated_arrivals.movements(jobs, start, linear(world), rate, until)
    elif method.oracle == "interpolation":
        expected = federated_arrivals.interpolation(jobs, start, linear(world), rate, 0.6, until)
    else:
        step = (lambda version: STEPS * falling(version)) if callable(rate) else STEPS * rate
        expected = federated_arrivals.anarchy(jobs, start, linear(world), rate, step, NUM_NODES, method.keeps, until)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found.state.params, expected, rtol=2e-5, atol=2e-6)
    used = jobs.use <= until
    last = found.results.isel(step=-1)
    assert last.num_jobs.item() == used.sum()
    assert last.num_aggregations.item() == (used & jobs.is_last).sum()
    assert last.gradient_evaluations.item() == jobs.num_steps[used].sum()
    np.testing.assert_array_equal(last.staleness, np.bincount(np.minimum(jobs.staleness[used], 63), minlength=64))
    assert last.simulated_seconds.item() == NUM_WINDOWS * 0.5
    assert last.bits_sent.item() == 2 * 32 * 5 * used.sum()
    assert last.messages_sent.item() == 2 * used.sum()


CHANNELS = {
    "none": None,
    "loss": networks.loss(0.2),
    "top_k": networks.top_k(0.4, error_feedback=True),
    "both": networks.chain(networks.top_k(0.4, error_feedback=True), networks.loss(0.2)),
}


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("name", ["fedasync", "fedbuff", "fedcompass", "afa_cs"])
def test_blocks_give_the_bits_of_one_job_after_the_other(name: str, channel: str) -> None:
    together, apart = (run(process(name, channel=CHANNELS[channel], serial=serial)) for serial in (False, True))
    same_bits(together.state, apart.state)
    assert np.isfinite(np.asarray(together.state.params)).all()
    if channel != "none":
        plain = run(process(name))
        assert not np.array_equal(plain.state.params, together.state.params)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("fedasync", "fedbuff", "fedcompass", "afa_cs")]
)
def test_blocks_of_the_others_too(name: str) -> None:
    together, apart = (run(process(name, serial=serial)) for serial in (False, True))
    same_bits(together.state, apart.state)


@pytest.mark.parametrize("name", ["fedbuff", "fedcompass", "afa_cs"])
def test_windows_are_only_where_it_is_looked_at(name: str) -> None:
    coarse, fine = run(process(name), 6), run(process(name, window=0.25), 12)
    same_bits(coarse.state, fine.state, without=("buffer", "window", "network"))


@pytest.mark.parametrize("name", ["fedbuff", "synchronous_fedavg cohorts"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few jobs on the device at a time, so that runs are fed several times, and stop between two feeds.
    monkeypatch.setattr("dlsim.arrivals.executor.SLOTS", 16)
    whole = run(process(name))
    first = process(name)
    assert first.feed is not None
    assert first.feed.fill(jax.random.key(0), 0)[1] < NUM_WINDOWS
    run(first, 5, checkpoint_dir=str(tmp_path))
    resumed = run(process(name), checkpoint_dir=str(tmp_path), resume=True)
    same_bits(whole.state, resumed.state, without=())
    np.testing.assert_array_equal(whole.results.loss, resumed.results.loss)


def test_the_device_may_hold_any_part_of_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(process("fedasync"))
    monkeypatch.setattr("dlsim.arrivals.executor.SLOTS", 8)
    same_bits(whole.state, run(process("fedasync")).state)


def test_seeds_have_schedules_of_their_own_and_go_side_by_side() -> None:
    both = run(process("fedbuff"), seed=[0, 7])
    for place, seed in enumerate((0, 7)):
        alone = run(process("fedbuff"), seed=seed)
        np.testing.assert_allclose(both.state.params[place], alone.state.params, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(both.state.num_jobs[place], alone.state.num_jobs)
        np.testing.assert_array_equal(both.state.staleness[place], alone.state.staleness)
    assert not np.array_equal(both.state.staleness[0], both.state.staleness[1])


def test_a_sweep_over_rates_is_one_program() -> None:
    def make(learning_rate: float) -> Process:
        return process("fedbuff", rate=learning_rate)

    source = from_function(make, {"learning_rate": [0.05, 0.1]}, [0, 1], 6, Record(every=3))
    assert len(group_runs(source)) == 1
    result = dlsim.sweep(
        make, learning_rate=[0.05, 0.1], seed=[0, 1], num_steps=6, record=Record(every=3), progress=False
    )
    for rate in (0.05, 0.1):
        alone = run(process("fedbuff", rate=rate), 6, seed=1)
        swept = result.sel(learning_rate=rate, seed=1)
        np.testing.assert_allclose(swept.loss, alone.results.loss, rtol=1e-5)
        np.testing.assert_array_equal(swept.num_jobs, alone.results.num_jobs)


def fedavg(world: Any, rounds: int, num_steps: int) -> np.ndarray:
    algorithm = algorithms.fedavg(world, optax.sgd(RATE), num_local_steps=num_steps, weighting="uniform")
    made = dlsim.learn(world, algorithm, networks.complete(NUM_NODES))
    return np.asarray(dlsim.simulate(made, seed=0, num_steps=rounds).state.algorithm.params)


EQUAL = arrivals.pace(NUM_NODES, 0.1)
REDUCTIONS = {
    "FedBuff of all equal clients": lambda p: algorithms.fedbuff(
        p, optax.sgd(RATE), pace=EQUAL, buffer_size=NUM_NODES, restart="aggregation", num_local_steps=5
    ),
    "FedFix that waits for all": lambda p: algorithms.fedfix(
        p,
        optax.sgd(RATE),
        pace=arrivals.pace(NUM_NODES, np.linspace(0.02, 0.1, NUM_NODES)),
        window=float("inf"),
        num_local_steps=5,
    ),
    "FedFix with the slowest client's window": lambda p: algorithms.fedfix(
        p,
        optax.sgd(RATE),
        pace=arrivals.pace(NUM_NODES, np.linspace(0.02, 0.1, NUM_NODES)),
        window=0.5,
        num_local_steps=5,
    ),
    "rounds": lambda p: algorithms.synchronous_fedavg(p, optax.sgd(RATE), pace=EQUAL, num_local_steps=5),
    "AFA-CD of all in step": lambda p: algorithms.afa_cd(
        p, RATE, pace=EQUAL, buffer_size=NUM_NODES, num_local_steps=5, steps="fixed"
    ),
    "AFA-CS of all in step": lambda p: algorithms.afa_cs(
        p, RATE, pace=EQUAL, buffer_size=NUM_NODES, num_local_steps=5, steps="fixed"
    ),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_fedavg_is_a_special_case(name: str) -> None:
    world = problem(0.0)
    network = networks.complete(NUM_NODES)
    made = dlsim.learn(world, REDUCTIONS[name](world), network, timing=clocks.timing(window=0.5))
    found = run(made, 6)
    # AFA's batches of those that restart at once are one version behind in nothing: all start from the newest.
    rounds = int(found.results.num_aggregations.values[-1])
    assert rounds == 6
    if name.startswith("AFA"):
        assert found.results.mean_staleness.values[-1] < 1
        return
    np.testing.assert_allclose(found.state.params, fedavg(world, rounds, 5), rtol=1e-5, atol=1e-6)


def test_models_with_leaves_and_batches_learn() -> None:
    world = classification()
    algorithm = algorithms.fedbuff(world, optax.sgd(0.2), pace=PACE, buffer_size=3, num_local_steps=4)
    made = dlsim.learn(world, algorithm, networks.complete(NUM_NODES), timing=clocks.timing(window=1.0))
    results = run(made, 15).results
    assert results.accuracy.values[-1] > results.accuracy.values[0] + 0.2
    assert results.train_loss.values[-1] < results.train_loss.values[1]


def test_a_diverging_client_is_named() -> None:
    found = run(process("fedasync", rate=1e30), 12)
    assert not found.status.ok
    assert "diverged" in str(found.status)


BAD = {
    "fedasync: pace must be given for a network without links": lambda p: algorithms.fedasync(p, optax.sgd(0.1)),
    "learn: schedule must be of 8 clients": lambda p: algorithms.fedasync(
        p, optax.sgd(0.1), pace=arrivals.pace(3, 1.0)
    ),
    "fedasync: mixing must be": lambda p: algorithms.fedasync(p, optax.sgd(0.1), pace=PACE, mixing=1.5),
    "fedasync: form must be": lambda p: algorithms.fedasync(p, optax.sgd(0.1), pace=PACE, form="sideways"),
    "buffered: buffer_size must be": lambda p: algorithms.fedbuff(p, optax.sgd(0.1), pace=PACE, buffer_size=99),
    "afa_cd: client_rate must be": lambda p: algorithms.afa_cd(p, 0.0, pace=PACE, buffer_size=2),
    "fedcompass: server_rate must be": lambda p: algorithms.fedcompass(p, optax.sgd(0.1), pace=PACE, server_rate=0.0),
    "fedcompass: pace must be": lambda p: algorithms.fedcompass(p, optax.sgd(0.1), pace=3.0),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line(line: str) -> None:
    world = problem()
    with pytest.raises(ValueError, match=line) as caught:
        dlsim.learn(world, BAD[line](world), networks.complete(NUM_NODES))
    assert "\n" not in str(caught.value)


def test_what_does_not_go_with_a_schedule_is_refused() -> None:
    world = problem()
    algorithm = METHODS["fedbuff"].make(world, RATE)
    network = networks.complete(NUM_NODES)
    with pytest.raises(ValueError, match="learn: scenario must be None"):
        dlsim.learn(world, algorithm, network, networks.churn(0.1))
    with pytest.raises(ValueError, match=r"learn: timing.gradient must be None"):
        dlsim.learn(world, algorithm, network, timing=clocks.timing(clocks.poisson(1.0)))
    with pytest.raises(ValueError, match="learn: timing must be None"):
        dlsim.learn(world, algorithms.fedavg(world, optax.sgd(0.1)), network, timing=clocks.timing())
