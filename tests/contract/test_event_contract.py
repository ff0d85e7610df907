"""The contract every asynchronous method holds, tried on every row of its table."""

from __future__ import annotations

import functools
import inspect
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from contract import world
from contract.event_table import EVENT_CASES, WORLDS, EventCase, World, complete, played, problem_of, ring, rows_of

import dlsim
from dlsim import algorithms, checks, clocks
from dlsim.core import EventAlgorithm, Process, PyTree, Record
from dlsim.learning.learn import learn
from dlsim.running import counters
from dlsim.running.simulate import simulate

WINDOWS = 8
RING, LOSSY = WORLDS[0], WORLDS[2]

every_case = pytest.mark.parametrize("case", EVENT_CASES, ids=lambda case: case.id)
every_method = pytest.mark.parametrize(
    "case", [case for case in EVENT_CASES if not case.variant], ids=lambda case: case.id
)
# Every method on the ring, with all that can happen to messages and nodes, and on one of the two other topologies.
PLACES = [(case, WORLDS[k]) for i, case in enumerate(EVENT_CASES) for k in (0, 2, 1 + 2 * (i % 2))]


@functools.cache
def method(case: EventCase) -> EventAlgorithm:
    return case.make(world.problem(), world.RATE)


def run(process: Process, num_steps: int = WINDOWS, **options: Any) -> Any:
    return simulate(process, **{"num_steps": num_steps, "record": Record(every=WINDOWS), "seed": 0, **options})


@functools.cache
def plain(case: EventCase, place: World) -> PyTree:
    """The last state of a plain run."""
    return played(place.process(method(case)), WINDOWS)[0]


def lasting(state: PyTree) -> PyTree:
    """A state without the windows that happen to be on the device."""
    return state._replace(buffer=())


# The table itself.


def test_every_event_method_has_a_row() -> None:
    factories = {
        name
        for name in algorithms.__all__
        if inspect.isfunction(getattr(algorithms, name))
        and inspect.signature(getattr(algorithms, name)).return_annotation in ("EventAlgorithm", EventAlgorithm)
    }
    assert {case.name for case in EVENT_CASES} == factories
    assert len({case.id for case in EVENT_CASES}) == len(EVENT_CASES)


# The contract.


@pytest.mark.parametrize(("case", "place"), PLACES, ids=[f"{case.id}-{place.name}" for case, place in PLACES])
def test_waves_give_the_bits_of_one_event_at_a_time(case: EventCase, place: World) -> None:
    serial, waves = (place.process(method(case), serial=is_serial) for is_serial in (True, False))
    one_by_one, together = played(serial, WINDOWS, (None, waves.feed))
    turns = [int(feed.fill(jax.random.key(0), 0)[0].starts.max()) for feed in (serial.feed, waves.feed)]
    assert turns[0] > turns[1] or place.name == "star", "no two events were played together"
    world.same(lasting(one_by_one), lasting(together))
    assert float(np.sum(counters.to_float(together.network.traffic.messages))) > 10


@every_case
def test_the_state_is_a_fixed_point(case: EventCase) -> None:
    process = LOSSY.process(method(case))
    first = jax.eval_shape(process.init, jax.random.key(0))
    last, info = jax.eval_shape(process.step, jax.random.key(1), first)
    assert jax.tree.structure(first) == jax.tree.structure(last)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    for leaf in jax.tree.leaves(rows_of(first)):
        assert leaf.shape[0] == world.NUM_NODES
    assert ("loss" in info) == method(case).trains


@every_case
def test_a_run_may_be_cut_anywhere(case: EventCase, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into chunks, stopped amid a stretch and resumed, with less of the tape on the device, or beside others."""
    at_once = run(LOSSY.process(method(case))).state
    for slots in (12, 24, 48, 96, 192, 384):  # methods have more or fewer events a window
        monkeypatch.setattr(clocks.windows, "SLOTS", slots)
        process, folder = LOSSY.process(method(case)), str(tmp_path)
        length = process.feed.fill(jax.random.key(0), 0)[1]
        if 1 < length < WINDOWS and 5 % length:
            break
    assert 1 < length < WINDOWS and 5 % length, "choose other SLOTS"
    unbroken = run(process)
    world.same(run(process, record=Record(every=3)).state, unbroken.state)
    run(process, 5, checkpoint_dir=folder)
    resumed = run(LOSSY.process(method(case)), checkpoint_dir=folder, resume=True)
    world.same(resumed.state, unbroken.state)
    world.same(lasting(unbroken.state), lasting(at_once))
    beside = run(process, seed=[1, 0, 5]).state
    world.close(lasting(jax.tree.map(lambda leaf: leaf[1], beside)), lasting(at_once))
    assert len({np.asarray(jax.tree.leaves(rows_of(beside))[0][row]).tobytes() for row in range(3)}) == 3


@every_method
def test_rates_share_a_program(case: EventCase) -> None:
    makes = []

    def make(learning_rate: Any) -> Process:
        makes.append(checks.is_concrete(learning_rate))
        return RING.process(case.make(world.problem(), learning_rate))

    rates = [0.05, world.RATE]
    results = dlsim.sweep(make, learning_rate=rates, num_steps=WINDOWS, record=Record(every=WINDOWS), seed=[0, 1])
    assert not all(makes), "no rate was traced"
    alone = run(RING.process(method(case))).results
    found_best = "suboptimality_of_mean" if method(case).trains else "distance"
    for name in (found_best, "messages_sent", "gradient_evaluations", "staleness"):
        found = results[name].sel(seed=0, learning_rate=world.RATE).isel(step=-1).values
        np.testing.assert_allclose(found, alone[name].isel(step=-1).values, rtol=1e-4, err_msg=name)
    ends = results.consensus_distance.isel(step=-1, seed=0).values
    assert ends[0] != ends[1]


@every_method
def test_relabelled_nodes_give_relabelled_results(case: EventCase) -> None:
    order, here = np.asarray(world.ORDER), plain(case, RING)
    network = RING.network().relabel(order)
    (there,) = played(learn(problem_of(method(case)), method(case), network, timing=clocks.timing()), WINDOWS)
    world.close(jax.tree.map(lambda leaf: leaf[order], rows_of(here)), rows_of(there))
    np.testing.assert_array_equal(here.staleness, there.staleness)
    bits = [counters.to_float(one.network.traffic.bits) for one in (here, there)]
    np.testing.assert_array_equal(bits[0][order], bits[1])


@every_case
def test_a_healthy_run_is_healthy(case: EventCase) -> None:
    process = World("", complete).process(method(case), window=1.0)
    done = run(process, case.num_windows)
    assert done.status.ok, done.status
    results = done.results
    for leaf in jax.tree.leaves(rows_of(done.state)):
        assert np.isfinite(leaf).all()
    assert results.messages_sent.values[-1] > 0 and results.bits_sent.values[-1] > 0
    if method(case).trains:
        start, end = results.suboptimality_of_mean.values[[0, -1]]
        assert end < 0.5 * start, f"no progress: {start} -> {end}"
        assert results.gradient_evaluations.values[-1] > 0 and np.isfinite(results.train_loss.values[-1])


@every_method
def test_absent_nodes_neither_act_nor_hear(case: EventCase) -> None:
    process = World("", ring, scenario=lambda: world.absent(from_step=2)).process(method(case))
    left, last = (played(process, num)[0] for num in (2, 6))
    before, after = (world.node_rows(rows_of(state), world.ABSENT) for state in (left, last))
    if method(case).flow is None:
        for name, rows in before.items():
            np.testing.assert_array_equal(rows, after[name], err_msg=name)
    else:  # mixing goes on in a node that is away; the sum of model (or dual) and momentum stays
        model = ".params" if ".params" in before else ".dual"
        sums = [part[model] + part[".momentum"] for part in (before, after)]
        np.testing.assert_allclose(*sums, rtol=1e-5, atol=1e-6)
    spent = [(counters.to_float(state.network.traffic.bits), state.losses) for state in (left, last)]
    for ours, theirs in zip(*spent, strict=True):
        np.testing.assert_array_equal(np.asarray(ours)[list(world.ABSENT)], np.asarray(theirs)[list(world.ABSENT)])
