"""Starting from given models: one for all or one a node, by rounds, events and arrivals; and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import arrivals_table, event_table, world
from contract.table import CASES, Case

import dlsim
from dlsim import algorithms, clocks, networks
from dlsim.core import Record
from dlsim.learning.learn import learn
from dlsim.running.simulate import simulate

KEY = jax.random.key(3)
ONE = np.linspace(-1, 1.5, world.DIMENSION).astype(np.float32)
OWN = np.random.default_rng(0).standard_normal((world.NUM_NODES, world.DIMENSION)).astype(np.float32)


def dsgd(given: Any, rate: float = world.RATE) -> dlsim.Process:
    return learn(
        world.problem(0.0), algorithms.dsgd(world.problem(0.0), optax.sgd(rate)), world.uneven(), initial_params=given
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_method_of_rounds_starts_there_or_says_why_not(case: Case) -> None:
    algorithm = case.make(world.problem(0.0), 1e-30)  # a first step within init moves nothing
    if "dual_start" in algorithm.requires:
        with pytest.raises(ValueError, match="learn: initial_params must be left out for a method whose first models"):
            learn(world.problem(0.0), algorithm, case.network(), initial_params=ONE)
        return
    started = learn(world.problem(0.0), algorithm, case.network(), initial_params=ONE).init(KEY)
    for row in algorithm.params(started.algorithm):
        np.testing.assert_array_equal(row, ONE)
    if algorithm.requires & {"server", "common_start"}:
        with pytest.raises(ValueError, match=r"learn: initial_params must be one model for a method whose nodes"):
            learn(world.problem(0.0), algorithm, case.network(), initial_params=OWN)
    else:
        started = learn(world.problem(0.0), algorithm, case.network(), initial_params=OWN).init(KEY)
        np.testing.assert_array_equal(algorithm.params(started.algorithm), OWN)


def test_one_round_from_each_nodes_own_model() -> None:
    """x <- W (x - eta grad f(x)), by hand."""
    problem, network = world.problem(0.0), world.uneven()
    run = simulate(dsgd(OWN), num_steps=1, seed=0)
    gradient = problem.full_gradient(KEY, jnp.asarray(OWN), jnp.arange(world.NUM_NODES))[0]
    wanted = networks.mixing_matrix(network) @ (OWN - world.RATE * np.asarray(gradient))
    np.testing.assert_allclose(run.state.algorithm.params, wanted, rtol=1e-5, atol=1e-6)


def test_runs_go_on_from_the_models_of_another() -> None:
    """Ten rounds are six and four more: the state of plain D-SGD is its models."""
    whole = simulate(dsgd(None), num_steps=10, seed=0).state.algorithm.params
    first = simulate(dsgd(None), num_steps=6, seed=0).state.algorithm.params
    process = dsgd(first)
    for _ in range(2):  # the given models are not used up by a run
        rest = simulate(process, num_steps=4, seed=5).state.algorithm.params
        np.testing.assert_allclose(rest, whole, rtol=1e-5, atol=1e-6)


def test_seeds_side_by_side_and_another_network_keep_the_start() -> None:
    run = simulate(dsgd(OWN, 1e-30), num_steps=1, seed=[0, 1], record=Record(every=1))
    spread = np.mean(np.sum((OWN - OWN.mean(axis=0)) ** 2, axis=1))
    np.testing.assert_allclose(run.results.consensus_distance.isel(step=0), spread, rtol=1e-5)
    other = dsgd(OWN).over(networks.ring(world.NUM_NODES))
    np.testing.assert_array_equal(other.init(KEY).algorithm.params, OWN)


def test_methods_of_events_start_there() -> None:
    for case in event_table.EVENT_CASES:
        algorithm = case.make(world.problem(0.0), world.RATE)
        if "dual_start" in algorithm.requires:
            with pytest.raises(ValueError, match="learn: initial_params must be left out for a method whose first"):
                learn(world.problem(0.0), algorithm, event_table.ring(), initial_params=ONE)
            continue
        for given in (ONE, OWN):
            process = learn(world.problem(0.0), algorithm, event_table.ring(), initial_params=given)
            started = algorithm.params(process.init(KEY).nodes)
            np.testing.assert_array_equal(started, np.broadcast_to(given, OWN.shape))


def test_servers_that_do_not_wait_start_there() -> None:
    problem, network = world.problem(0.0), networks.complete(world.NUM_NODES)
    algorithm = arrivals_table.METHODS["fedbuff"].make(problem, world.RATE)
    process = learn(problem, algorithm, network, timing=clocks.timing(window=0.5), initial_params=ONE)
    state = process.init(KEY)
    np.testing.assert_array_equal(state.params, ONE)
    assert (np.asarray(state.versions) == ONE).all()
    optimum = learn(problem, algorithm, network, timing=clocks.timing(window=0.5), initial_params=problem.optimum)
    results = simulate(optimum, num_steps=1, seed=0, record=Record(every=1)).results
    assert results.suboptimality.values[0] == 0
    with pytest.raises(ValueError, match="learn: initial_params must be one model"):
        learn(problem, algorithm, network, initial_params=OWN)


def test_trees_of_several_leaves() -> None:
    problem = world.classification()
    model = jax.tree.map(lambda leaf: leaf + 0.5, problem.init(KEY))
    algorithm = algorithms.dsgd(problem, optax.sgd(0.1))
    own = jax.tree.map(lambda leaf: np.stack([leaf + i for i in range(world.NUM_NODES)]), model)
    for given, row in ((model, lambda leaf, i: leaf), (own, lambda leaf, i: leaf[i])):
        params = learn(problem, algorithm, world.uneven(), initial_params=given).init(KEY).algorithm.params
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(given), strict=True):
            np.testing.assert_array_equal(a[3], row(b, 3))


def test_what_is_given_is_a_constant_of_the_process() -> None:
    """So that a checkpoint of a run from other models is not taken for this one's."""
    for given in (ONE, OWN):
        constants = jax.make_jaxpr(dsgd(given).init)(KEY).consts
        assert any(np.array_equal(constant, given) for constant in constants if np.shape(constant) == given.shape)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (OWN[:5], r"float32 \[5\], or \[8, 5\] with one a node, got float32 \[5, 5\]"),
        (ONE[:4], r"float32 \[5\], or \[8, 5\] with one a node, got float32 \[4\]"),
        (np.zeros(5, np.int32), r"float32 \[5\], or \[8, 5\] with one a node, got int32 \[5\]"),
        ({"w": ONE}, r"a tree like the problem's model, PyTreeDef\(\*\), got PyTreeDef\(\{'w': \*\}\)"),
        (np.where(ONE > 0.9, np.nan, ONE), r"finite, got nan at index \(4,\)"),
    ],
)
def test_what_does_not_fit_is_one_line(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"learn: initial_params must be {said}"):
        dsgd(given)
