"""`run.params`: one meaning for every method, and what it has to do with the metrics."""

from __future__ import annotations

import csv
import functools
import inspect
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract.arrivals_table import METHODS
from contract.event_table import EVENT_CASES
from contract.table import CASES
from contract.world import NUM_NODES, RATE, problem
from toys import walk

import dlsim
from dlsim import Run, algorithms, arrivals, networks
from dlsim.core import Process, Record

SGD = optax.sgd(0.1)
PACE = arrivals.pace(NUM_NODES, seconds_per_step=0.1)
WHERE_ONE_IS_LEARNED = {"centralized_sgd", "fedadagrad", "fedadam", "fedavg", "fedprox", "fedyogi", "scaffold"}
WHERE_ONE_IS_LEARNED |= {"modest", "teleportation"}
WHERE_ONE_IS_LEARNED |= {"async_diloco", "diloco", "power_sgd", "spsa", "streaming_diloco"}
WHERE_EACH_HAS_ONE_AFTER_ALL = {"diloco-gossip", "spsa-copies"}  # without a server, and without one copy for all


def leading(process: Process) -> set[int]:
    """The first axes of the models, found without running."""
    found = jax.eval_shape(lambda key: process.params(process.init(key)), jax.random.key(0))
    return {leaf.shape[0] for leaf in jax.tree.leaves(found)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_method_of_rounds_has_a_model_a_node_or_one(case: Any) -> None:
    process = dlsim.learn(problem(), case.make(problem(), RATE), case.network())
    is_one = case.name in WHERE_ONE_IS_LEARNED and case.id not in WHERE_EACH_HAS_ONE_AFTER_ALL
    assert leading(process) == ({1} if is_one else {NUM_NODES})


@pytest.mark.parametrize("case", EVENT_CASES, ids=lambda case: case.id)
def test_a_method_by_clocks_has_a_model_a_node(case: Any) -> None:
    process = dlsim.learn(problem(), case.make(problem(), RATE), networks.ring(NUM_NODES))
    assert leading(process) == {NUM_NODES}


@pytest.mark.parametrize("name", METHODS)
def test_a_server_by_arrivals_has_one_model(name: str) -> None:
    process = dlsim.learn(problem(), METHODS[name].make(problem(), RATE), networks.complete(NUM_NODES))
    assert leading(process) == {1}


@functools.cache
def made(kind: str) -> Process:
    world, network = problem(), networks.ring(NUM_NODES)
    if kind == "rounds":
        return dlsim.learn(world, algorithms.dsgd(world, SGD), network)
    if kind == "clocks, flowing":
        return dlsim.learn(world, algorithms.a2cid2(world, SGD, algorithms.a2cid2_constants(network)), network)
    if kind == "server":
        return dlsim.learn(world, algorithms.fedavg(world, SGD, num_local_steps=2), networks.complete(NUM_NODES))
    method = algorithms.fedbuff(world, SGD, buffer_size=2, pace=PACE)
    return dlsim.learn(world, method, networks.complete(NUM_NODES))


@functools.cache
def ran(kind: str) -> Run:
    """Six steps with two seeds; what is measured anyway, and how far each model is from the mean."""
    process = made(kind)

    def record(state: Any, info: Any) -> Any:
        models = process.params(state)
        far = jnp.linalg.norm(models - models.mean(0), axis=1)
        return {**process.measure(state, info), "far": far, "heard": info["num_gradients"]}

    return dlsim.simulate(process, seed=[3, 4], num_steps=6, record=Record(every=3, fn=record))


@pytest.mark.parametrize(
    ("kind", "rows"), [("rounds", NUM_NODES), ("clocks, flowing", NUM_NODES), ("server", 1), ("arrivals", 1)]
)
def test_the_metrics_are_of_these_models(kind: str, rows: int) -> None:
    run = ran(kind)
    assert run.params.shape == (2, rows, 5) and run.seeds == (3, 4) and run.step == 6
    ids = jnp.arange(NUM_NODES) if rows > 1 else None
    for place in range(2):
        models = run.params[place]
        losses = np.asarray(problem().evaluate(models, ids)["loss"])
        np.testing.assert_allclose(run.results.loss[place, -1], losses.mean(), rtol=1e-6)
        centre = np.asarray(models).mean(0)
        spread = np.mean(np.sum((np.asarray(models) - centre) ** 2, 1))
        np.testing.assert_allclose(run.results.consensus_distance[place, -1], spread, rtol=1e-5, atol=1e-12)


def test_the_models_lie_where_the_state_lies() -> None:
    """Asking for them computes nothing: a model a node, of several seeds, is the state's own array."""
    run = ran("rounds")
    assert run.params.unsafe_buffer_pointer() == run.state.algorithm.params.unsafe_buffer_pointer()


def test_a_metric_of_ones_own_by_node_reaches_results_and_csv(tmp_path: Any) -> None:
    run = ran("rounds")
    assert run.results.far.dims == run.results.heard.dims == ("seed", "step", "node")
    models = np.asarray(run.params)
    far = np.linalg.norm(models - models.mean(1, keepdims=True), axis=2)
    np.testing.assert_allclose(run.results.far[:, -1], far, rtol=1e-5)
    np.testing.assert_allclose(np.mean(far**2, 1), run.results.consensus_distance[:, -1], rtol=1e-5)
    assert run.results.heard[:, 0].values.tolist() == [[0] * NUM_NODES] * 2  # no info before the first step
    with dlsim.analysis.to_csv(run.results, tmp_path / "own.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * NUM_NODES and list(rows[0])[:3] == ["seed", "step", "node"]
    last = [row for row in rows if row["seed"] == "4" and row["step"] == "6"]
    assert [int(row["node"]) for row in last] == list(range(NUM_NODES))
    np.testing.assert_array_equal(np.asarray([float(row["far"]) for row in last], np.float32), run.results.far[1, -1])
    assert len({row["loss"] for row in last}) == 1  # what is not by node stands in all lines


def walkers() -> Process:
    """A process of one's own that names its models."""
    return walk()._replace(params=lambda state: state.position, num_nodes=4)


def test_one_seed_has_the_axis_of_seeds_too() -> None:
    alone = dlsim.simulate(walkers(), seed=3, num_steps=2)
    keyed = dlsim.simulate(walkers(), jax.random.key(3), 2)
    assert alone.params.shape == keyed.params.shape == (1, 4, 3)
    assert alone.seeds == (3,) and keyed.seeds is None
    np.testing.assert_array_equal(alone.params[0], alone.state.position)
    np.testing.assert_array_equal(alone.params, keyed.params)


def test_a_process_without_models_says_so() -> None:
    run = dlsim.simulate(walk(), seed=0, num_steps=2)
    line = r"^Run: params must be asked of a process with models, got one that names none\."
    with pytest.raises(ValueError, match=line):
        run.params  # noqa: B018
    wrong = dlsim.simulate(walkers()._replace(params=lambda state: state.position[:3]), seed=0, num_steps=2)
    line = r"^Run: params must be of leaves \[4 or 1, \.\.\.\], got leaves that begin \[3\]"
    with pytest.raises(ValueError, match=line):
        wrong.params  # noqa: B018


def test_the_example_of_record_runs() -> None:
    code = textwrap.dedent(inspect.getdoc(Record).partition("measured anyway:\n\n")[2])
    place: dict[str, Any] = {"dlsim": dlsim, "jnp": jnp, "process": walkers()}
    exec(code.replace("every=10", "every=3").replace("num_steps=100", "num_steps=6"), place)
    assert place["run"].results.distance.dims == ("step", "node")
    assert place["run"].results.word.dims == ("step", "node")  # what a process measures itself likewise
