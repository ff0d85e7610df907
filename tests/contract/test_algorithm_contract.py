"""The contract every algorithm holds, tried on every row of the table."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import world
from contract.table import CASES, Case
from contract.wide import draws
from patience import PATIENCE
from toys import environment

from dlsim import algorithms, keys, networks
from dlsim.core import PROPERTIES, REQUIREMENTS, Algorithm, Process, Record
from dlsim.learning.learn import learn
from dlsim.networks.graphs.padding import lengthen
from dlsim.running import counters, status
from dlsim.running.simulate import simulate

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@functools.cache
def process_of(case: Case) -> Process:
    problem = world.problem()
    return learn(problem, case.make(problem, world.RATE), case.network())


@functools.cache
def rolled(case: Case) -> world.Trajectory:
    """Six plain steps, shared by the tests that compare with them."""
    return world.roll(process_of(case), 6)


@every_case
def test_edges_that_are_none_change_nothing(case: Case) -> None:
    """A list of edges that is padded to the length of another graph's, as sweeps over topologies do."""
    problem, network = world.problem(), case.network()
    if network.is_implicit:
        pytest.skip("no list of edges")
    padded = lengthen(network, network.num_edges + 3)
    seen = world.roll(learn(problem, case.make(problem, world.RATE), padded), 3)
    for t in range(3):
        plain = rolled(case)
        world.close(params_of(case, seen.states[t + 1]), params_of(case, plain.states[t + 1]))
        world.same(seen.states[t + 1].network.traffic, plain.states[t + 1].network.traffic)


def params_of(case: Case, state: object) -> object:
    return case.make(world.problem(), world.RATE).params(state.algorithm)


# The table itself.


def factories() -> set[str]:
    """Public names of `dlsim.algorithms` that make an Algorithm of a problem; `test_average` tries those without one."""
    found = set()
    for name in algorithms.__all__:
        value = getattr(algorithms, name)
        if inspect.isfunction(value) and inspect.signature(value).return_annotation in ("Algorithm", Algorithm):
            found |= {name} & {name if "problem" in inspect.signature(value).parameters else ""}
    return found


def test_every_algorithm_has_a_row_and_every_row_an_algorithm() -> None:
    rows = {case.name for case in CASES}
    assert rows == factories(), "a factory without a row, or a row without an exported factory"
    assert len({case.id for case in CASES}) == len(CASES), "two rows of one name"


def test_every_algorithm_in_a_file_is_exported() -> None:
    for path in sorted(pathlib.Path(algorithms.__file__).parent.glob("*.py")):
        module = importlib.import_module(f"dlsim.algorithms.{path.stem}")
        for name, value in inspect.getmembers(module, inspect.isfunction):
            is_public = value.__module__ == module.__name__ and not name.startswith("_")
            if is_public and inspect.signature(value).return_annotation == "Algorithm":
                assert name in algorithms.__all__, f"{path.name} makes {name}, which is not exported"


def test_the_names_of_the_package_are_sorted_and_there() -> None:
    assert list(algorithms.__all__) == sorted(algorithms.__all__)
    assert all(hasattr(algorithms, name) for name in algorithms.__all__)


# Every row.


@every_case
def test_it_says_what_it_is(case: Case) -> None:
    algorithm = case.make(world.problem(), world.RATE)
    assert algorithm.requires <= set(REQUIREMENTS)
    factory = getattr(algorithms, case.name)
    if not case.is_reference:
        assert algorithm.source in process_of(case).sources
        assert "Source:" in factory.__doc__
    assert next(iter(inspect.signature(factory).parameters)) == "problem"


@every_case
def test_the_network_must_have_what_it_requires(case: Case) -> None:
    problem = world.problem()
    algorithm = case.make(problem, world.RATE)
    lacking = {
        "connected": world.halves(),
        "undirected": world.directed(),
        "symmetric": world.directed(),
        "row_stochastic": world.directed(),
        "doubly_stochastic": world.directed(),
        "column_stochastic": world.uneven("uniform_neighbor"),
    }
    for name in algorithm.requires & set(PROPERTIES):
        network = lacking[name]
        assert name not in network.properties
        with pytest.raises(ValueError, match=r"learn: network must be .* for this algorithm, got"):
            learn(problem, algorithm, network)
    if "fixed_topology" in algorithm.requires:
        moving = networks.time_varying([case.network(), case.network()])
        with pytest.raises(ValueError, match=r"learn: scenario must be one that keeps the topology"):
            learn(problem, algorithm, case.network(), moving)


@every_case
def test_the_state_is_a_fixed_point_and_the_step_is_traced_once(case: Case) -> None:
    traces = []
    process = process_of(case)

    def step(key: jax.Array, state: object) -> tuple[object, dict[str, jax.Array]]:
        traces.append(1)
        return process.step(key, state)

    trajectory = world.roll(process, 3, step=jax.jit(step))
    assert len(traces) == 1, "the second call was traced again: the state is no fixed point"
    first, last = trajectory.states[0], trajectory.last
    assert jax.tree.structure(first) == jax.tree.structure(last)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


@every_case
def test_jit_equals_no_jit(case: Case) -> None:
    compiled = rolled(case)
    with jax.disable_jit():
        plain = world.roll(process_of(case), 2, step=process_of(case).step, state=compiled.states[0])
    world.close(plain.last, compiled.states[2])


@every_case
def test_vectorised_runs_equal_single_runs(case: Case) -> None:
    seeds, process = jnp.arange(3), process_of(case)
    together = jax.jit(jax.vmap(lambda seed: world.final(process, 4)(jax.random.key(seed))))(seeds)
    alone = jax.jit(world.final(process, 4))
    for row in range(3):
        single = alone(jax.random.key(row))
        world.close(jax.tree.map(lambda leaf, row=row: leaf[row], together), single)
    a, b = (jax.tree.leaves(params_of(case, alone(jax.random.key(seed))))[0] for seed in (0, 1))
    assert np.array_equal(a, b) != case.is_random


@every_case
def test_rates_may_be_traced(case: Case) -> None:
    problem, network = world.problem(), case.network()

    @jax.jit
    def params(rate: jax.Array) -> object:
        algorithm = case.make(problem, rate)
        state = world.final(learn(problem, algorithm, network), 4)(jax.random.key(0))
        return algorithm.params(state.algorithm)

    rates = jnp.asarray([0.05, 0.1])
    together = jax.jit(jax.vmap(params))(rates)
    for row in range(2):
        world.close(jax.tree.map(lambda leaf, row=row: leaf[row], together), params(rates[row]))
    world.close(params(rates[1]), params_of(case, rolled(case).states[4]))
    if case.follows_rate:
        assert not np.allclose(jax.tree.leaves(together)[0][0], jax.tree.leaves(together)[0][1], atol=1e-4)


@every_case
def test_relabelled_nodes_give_relabelled_results(case: Case) -> None:
    problem, order = world.problem(), np.asarray(world.ORDER)
    network = case.network().relabel(order)
    moved = world.roll(learn(problem, case.make(problem, world.RATE), network), 4)
    plain = rolled(case)
    for step in range(5):
        before, after = params_of(case, plain.states[step]), params_of(case, moved.states[step])
        num_models = jax.tree.leaves(before)[0].shape[0]
        rows = order if num_models == world.NUM_NODES else slice(None)
        world.close(jax.tree.map(lambda leaf, rows=rows: leaf[rows], before), after)
    for name in ("loss", "num_gradients"):
        before, after = plain.infos[3][name], moved.infos[3][name]
        world.close(before[order] if before.shape == (world.NUM_NODES,) else before, after)
    bits = (counters.to_float(t.last.network.traffic.bits) for t in (world.Trajectory(plain.states[:5], []), moved))
    np.testing.assert_array_equal(next(bits)[order], next(bits))


@every_case
def test_a_state_that_went_through_the_host_goes_on_the_same(case: Case) -> None:
    process, plain = process_of(case), rolled(case)
    stored = jax.tree.map(np.array, plain.states[3])
    step, state = jax.jit(process.step), jax.tree.map(jnp.asarray, stored)
    steps_key = keys.stream(jax.random.key(0), "steps")
    for t in (3, 4, 5):
        state, _ = step(jax.random.fold_in(steps_key, t), state)
    world.same(state, plain.last)


@every_case
def test_resume_equals_unbroken(case: Case, tmp_path: pathlib.Path) -> None:
    arguments = {"process": process_of(case), "seed": 0, "record": Record(every=2)}
    unbroken = simulate(num_steps=6, **arguments)
    simulate(num_steps=3, checkpoint_dir=str(tmp_path), **arguments)
    resumed = simulate(num_steps=6, checkpoint_dir=str(tmp_path), resume=True, **arguments)
    world.same(resumed.state, unbroken.state)
    for name in unbroken.results.data_vars:
        np.testing.assert_array_equal(resumed.results[name].values, unbroken.results[name].values, err_msg=name)
    world.close(unbroken.state, rolled(case).last)


@every_case
def test_eight_devices_equal_one(case: Case) -> None:
    if jax.device_count() < world.NUM_NODES:
        pytest.skip(f"needs {world.NUM_NODES} devices, real or fake")
    place = world.node_sharding()
    process, plain = process_of(case), rolled(case)
    spread = world.roll(process, 3, state=place(plain.states[0]))
    leading = [leaf for leaf in jax.tree.leaves(spread.last) if leaf.ndim and leaf.shape[0] == world.NUM_NODES]
    assert all(len(leaf.devices()) == world.NUM_NODES for leaf in leading)
    world.close(spread.last, plain.states[3])


@every_case
def test_absent_nodes_keep_their_state(case: Case) -> None:
    problem = world.problem()
    process = learn(problem, case.make(problem, world.RATE), case.network(), world.absent(from_step=2))
    trajectory = world.roll(process, 5)
    present = tuple(i for i in range(world.NUM_NODES) if i not in world.ABSENT)
    at_leaving, last = trajectory.states[2], trajectory.last
    before, after = (world.node_rows(state.algorithm, world.ABSENT) for state in (at_leaving, last))
    for name, rows in before.items():
        if not any(f".{field}" in name for field in case.shared):
            np.testing.assert_array_equal(rows, after[name], err_msg=f"state{name} of an absent node moved")
    moved = [world.node_rows(s.algorithm, present) for s in (at_leaving, last)]
    if any(not any(f".{field}" in name for field in case.shared) for name in moved[0]):
        assert any(not np.array_equal(moved[0][name], moved[1][name]) for name in moved[0]), "nobody moved"
    sent = [counters.to_float(state.network.traffic.bits) for state in (at_leaving, last)]
    np.testing.assert_array_equal(sent[0][list(world.ABSENT)], sent[1][list(world.ABSENT)])
    for info in trajectory.infos[2:]:
        assert int(info["num_present"]) == len(present)
        if info["num_gradients"].shape == (world.NUM_NODES,):
            assert not np.asarray(info["num_gradients"])[list(world.ABSENT)].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last) if jnp.issubdtype(leaf.dtype, jnp.inexact))


@every_case
def test_a_healthy_run_is_healthy(case: Case) -> None:
    process = process_of(case)
    run = simulate(process, seed=0, num_steps=case.num_steps, record=Record(every=case.num_steps // 2))
    assert run.status.ok and int(run.status.bits[0]) == 0, run.status
    for leaf in jax.tree.leaves(run.state):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert np.isfinite(leaf).all()
    results = run.results
    assert np.isfinite(results.isel(step=slice(1, None)).to_array()).all()
    start, end = results.suboptimality_of_mean.values[[0, -1]]
    assert end < 0.5 * start, f"no progress: {start} -> {end}"
    assert results.gradient_evaluations.values[-1] > 0
    assert (results.bits_sent.values[-1] > 0) == (results.messages_sent.values[-1] > 0) == case.communicates
    assert (np.diff(results.bits_sent.values) >= 0).all()
    info = rolled(case).infos[0]
    assert info["num_gradients"].dtype == jnp.uint32
    assert info["loss"].shape == info["num_gradients"].shape
    params = params_of(case, run.state)
    assert jax.tree.leaves(params)[0].shape in ((world.NUM_NODES, world.DIMENSION), (1, world.DIMENSION))


@every_case
def test_channels_and_scenarios_reach_it(case: Case) -> None:
    """Every message passes through the channel, and its state is kept: half messages change the result and the bits."""
    problem = world.problem()
    network = case.network().with_channel(world.halving())
    channelled = world.roll(learn(problem, case.make(problem, world.RATE), network), 3)
    assert bool(channelled.last.network.channels) == case.communicates
    if not case.communicates:
        return
    a, b = (jax.tree.leaves(params_of(case, t.states[3]))[0] for t in (channelled, rolled(case)))
    assert not np.allclose(a, b, atol=1e-4), "the channel did not touch its messages"
    sent = [
        float(np.sum(counters.to_float(t.states[3].network.traffic.bits)))
        + float(counters.to_float(t.states[3].network.traffic.server_bits))
        for t in (channelled, rolled(case))
    ]
    if case.beside is None:
        assert sent[1] / 2 < sent[0] < sent[1]
    else:
        assert sent[0] - case.beside(3) == (sent[1] - case.beside(3)) / 2


@every_case
def test_models_of_several_leaves_on_uneven_data(case: Case) -> None:
    problem = world.classification()
    if case.needs_proximal:
        assert problem.proximal is None
        with pytest.raises(ValueError, match="one with a closed "):
            case.make(problem, world.RATE)
        return
    algorithm = case.make(problem, world.RATE)
    network = case.network().with_channel(networks.chain(networks.quantize(12), networks.loss(0.05)))
    trajectory = world.roll(learn(problem, algorithm, network, networks.random_presence(0.9)), 4)
    for info in trajectory.infos:
        assert not (np.asarray(info["status"]) & status.ERRORS).any()
    params = algorithm.params(trajectory.last.algorithm)
    first = algorithm.params(trajectory.states[0].algorithm)
    assert jax.tree.structure(params) == jax.tree.structure(problem.init(jax.random.key(0)))
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(params), strict=True):
        assert np.isfinite(after).all()
        assert not np.array_equal(before, after)


@pytest.fixture(scope="module")
def wide() -> dict[str, dict[str, object]]:
    """What one process with 64-bit numbers says of every row."""
    done = subprocess.run(
        [sys.executable, "-m", "contract.wide"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(JAX_ENABLE_X64="1"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@every_case
def test_64_bit_numbers(case: Case, wide: dict[str, dict[str, object]]) -> None:
    row = wide[case.id]
    assert "error" not in row, row["error"]
    assert row["dtype"] == "float64"
    if "noise" in case.id:
        assert np.isfinite(row["params"]).all()  # optax draws noise in the width of what it is added to: other draws
        return
    narrow = jax.tree.leaves(params_of(case, rolled(case).last))[0]
    np.testing.assert_allclose(narrow, np.asarray(row["params"]), rtol=2e-3, atol=2e-4)


def test_draws_of_scenarios_and_channels_do_not_depend_on_the_width_of_numbers(wide: dict[str, object]) -> None:
    narrow = json.loads(json.dumps(draws()))
    assert wide["scenarios"] == narrow["scenarios"]
    for name, values in narrow["channels"].items():
        np.testing.assert_allclose(values, wide["channels"][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_draws_on_eight_devices_are_those_on_one() -> None:
    if jax.device_count() < world.NUM_NODES:
        pytest.skip(f"needs {world.NUM_NODES} devices, real or fake")
    ids, key = jnp.arange(world.NUM_NODES, dtype=jnp.int32), jax.random.key(1)
    spread = world.node_sharding()(ids)
    for draw in (keys.node_bits, keys.node_uniform, keys.node_normal):
        one, eight = (jax.jit(draw, static_argnums=2)(key, where, 5) for where in (ids, spread))
        assert len(eight.devices()) == world.NUM_NODES
        np.testing.assert_array_equal(one, eight)
    one, eight = (jax.jit(keys.edge_uniform)(key, where, where[::-1]) for where in (ids, spread))
    np.testing.assert_array_equal(one, eight)
