"""Gradient tracking against its oracles, its invariant, and what breaks it."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from oracles import gradient_tracking as oracle

from dlsim import algorithms, networks, problems
from dlsim.algorithms.gradient_tracking import invariant_tracking, stable_step
from dlsim.learning.learn import learn

ORDERS = {"combine_then_adapt": oracle.diging, "adapt_then_combine": oracle.aug_dgm}
every_order = pytest.mark.parametrize("order", ORDERS)


@every_order
@pytest.mark.parametrize("use_full_gradient", [False, True])
def test_it_agrees_with_the_oracle(order: str, use_full_gradient: bool) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.gradient_tracking(
        problem, optax.sgd(six_nodes.RATE), order=order, use_full_gradient=use_full_gradient
    )
    expected = ORDERS[order](
        six_nodes.gradients(problem), six_nodes.start(), six_nodes.matrix(), six_nodes.RATE, six_nodes.ROLL_CALL
    )
    six_nodes.agree(six_nodes.models(six_nodes.play(algorithm, six_nodes.network())), expected)


def test_the_default_order_is_that_of_dsgd() -> None:
    problem, network = six_nodes.problem(), six_nodes.network()
    default, named = (
        six_nodes.models(six_nodes.play(algorithms.gradient_tracking(problem, optax.sgd(0.1), **options), network))
        for options in ({}, {"order": "adapt_then_combine"})
    )
    np.testing.assert_array_equal(default, named)
    orders = [inspect.signature(m).parameters["order"].default for m in (algorithms.dsgd, algorithms.gradient_tracking)]
    assert orders == ["adapt_then_combine"] * 2


@every_order
def test_the_mean_tracker_is_the_mean_gradient_whoever_is_away(order: str) -> None:
    problem = six_nodes.problem(gradient_noise=0.5)
    algorithm = algorithms.gradient_tracking(problem, optax.sgd(six_nodes.RATE), order=order)
    for state, _ in six_nodes.play(algorithm, six_nodes.network()):
        np.testing.assert_allclose(invariant_tracking(state), 0.0, atol=1e-6)


@every_order
def test_a_message_lost_in_one_direction_breaks_the_invariant(order: str) -> None:
    problem = six_nodes.problem(gradient_noise=0.5)
    network = six_nodes.network().with_channel(networks.loss(0.4))
    algorithm = algorithms.gradient_tracking(problem, optax.sgd(six_nodes.RATE), order=order)
    state, _ = six_nodes.play(algorithm, network)[-1]
    assert np.abs(invariant_tracking(state)).max() > 1e-3


def test_an_absence_breaks_the_invariant_where_weights_are_not_symmetric() -> None:
    """A directed cycle: what the absent node's successor would have heard stays with it, and comes from nobody."""
    nodes = np.arange(six_nodes.NUM_NODES)
    cycle = networks.graph(six_nodes.NUM_NODES, nodes, np.roll(nodes, -1), is_directed=True)
    halves = np.full(six_nodes.NUM_NODES, 0.5, np.float32)
    network = networks.connect(cycle, (halves, halves))
    assert "doubly_stochastic" in network.properties and "symmetric" not in network.properties
    problem = six_nodes.problem(gradient_noise=0.5)
    algorithm = algorithms.gradient_tracking(problem, optax.sgd(six_nodes.RATE))
    for present, holds in ((six_nodes.EVERYONE, True), (six_nodes.ROLL_CALL, False)):
        state, _ = six_nodes.play(algorithm, network, present)[-1]
        assert (np.abs(invariant_tracking(state)).max() < 1e-6) == holds


@every_order
def test_the_tracker_goes_to_the_optimiser_in_place_of_a_gradient(order: str) -> None:
    seen = []

    def update(gradient: jax.Array, state: tuple[()], params: jax.Array) -> tuple[jax.Array, tuple[()]]:
        seen.append((gradient.shape, params.shape))
        return -0.05 * jnp.sign(gradient), state

    signs = optax.GradientTransformation(lambda params: (), update)
    problem = six_nodes.problem()
    algorithm = algorithms.gradient_tracking(problem, signs, order=order)
    (before, _), (after, _) = six_nodes.play(algorithm, six_nodes.network(), six_nodes.EVERYONE[:1])
    moved = before.params - 0.05 * np.sign(before.tracker)
    mixing = six_nodes.matrix()
    expected = mixing @ moved if order == "adapt_then_combine" else mixing @ before.params + moved - before.params
    np.testing.assert_allclose(after.params, expected, atol=1e-6)
    assert seen[0] == ((six_nodes.DIMENSION,), (six_nodes.DIMENSION,)), "one node at a time"


@every_order
def test_an_absent_node_keeps_its_row_to_the_bit(order: str) -> None:
    """Under noise its gradient would be drawn anew, under momentum its optimiser would move."""
    problem = six_nodes.problem(gradient_noise=0.5)
    algorithm = algorithms.gradient_tracking(problem, optax.sgd(six_nodes.RATE, momentum=0.5), order=order)
    states = [state for state, _ in six_nodes.play(algorithm, six_nodes.network())]
    for there, before, after in zip(six_nodes.ROLL_CALL, states, states[1:], strict=False):
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(np.asarray(old)[~there], np.asarray(new)[~there])
            assert not np.array_equal(np.asarray(old)[there], np.asarray(new)[there])


def test_momentum_reaches_the_optimum_too() -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.gradient_tracking(problem, optax.sgd(0.03, momentum=0.8))
    present = np.ones((400, six_nodes.NUM_NODES), bool)
    last = six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), present))[-1]
    np.testing.assert_allclose(last, np.tile(problem.optimum, (six_nodes.NUM_NODES, 1)), atol=1e-4)


def test_bad_input_is_one_clear_line() -> None:
    problem = six_nodes.problem()
    with pytest.raises(ValueError, match="gradient_tracking: order must be one of .* got 'atc'"):
        algorithms.gradient_tracking(problem, optax.sgd(0.1), order="atc")


def flat(condition_number: float = 1.0, num_nodes: int = 16) -> Any:
    """One curvature for all, of eigenvalues 1: L = 1 on the dot."""
    return problems.quadratic(num_nodes, 3, heterogeneity=1.0, condition_number=condition_number, shared_curvature=True)


NETWORKS = {
    "ring": (lambda: networks.ring(16), {"combine_then_adapt": 2 / 9, "adapt_then_combine": 2.0}),
    "torus": (lambda: networks.torus(16), {"combine_then_adapt": 2 / 25, "adapt_then_combine": 2 / 9}),
    "complete": (lambda: networks.complete(16), {"combine_then_adapt": 1 / 2, "adapt_then_combine": 2.0}),
}


@every_order
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_stable_below_the_limit_that_it_states_and_not_above(name: str, order: str) -> None:
    """Least eigenvalues -1/3, -3/5 and 0; the warning comes above the limit, and not below it."""
    network, limits = NETWORKS[name][0](), NETWORKS[name][1]
    least = networks.spectrum(network).min()
    np.testing.assert_allclose(stable_step(order, float(least)), limits[order], rtol=1e-5)
    for factor, is_stable in ((0.95, True), (1.05, False)):
        process = learn(
            flat(), algorithms.gradient_tracking(flat(), optax.sgd(factor * limits[order]), order=order), network
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            start = jax.jit(process.init)(jax.random.key(0))
        assert all("may diverge" in str(w.message) for w in said) and bool(said) != is_stable
        apart = start.algorithm.params + 0.1 * jax.random.normal(jax.random.key(1), (16, 3))
        state = start._replace(algorithm=start.algorithm._replace(params=apart))
        step = process.step
        state = jax.lax.fori_loop(0, 8000, lambda t, s, step=step: step(jax.random.key(0), s)[0], state)
        error = np.abs(np.asarray(state.algorithm.params) - flat().optimum).max()
        assert (error < 1e-3) if is_stable else not error < 1, (factor, error)


def test_the_line_says_the_rate_the_limit_and_what_to_do() -> None:
    process = learn(
        flat(), algorithms.gradient_tracking(flat(), optax.sgd(0.1), order="combine_then_adapt"), networks.torus(16)
    )
    with pytest.warns(UserWarning, match=r"rate 0.1 may diverge: eta L = 0.1 is not below 0.08, .* -0.6. Lower the"):
        process.init(jax.random.key(0))


def test_nothing_is_said_where_the_rate_is_not_a_number_of_plain_descent() -> None:
    """Momentum, schedules and optimisers of their own scale have no eta; a tracer's value is not known."""
    rates = [optax.sgd(3.0, momentum=0.9), optax.adam(3.0), optax.sgd(lambda count: 3.0 / (1 + count))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in rates:
            learn(flat(), algorithms.gradient_tracking(flat(), optimizer), networks.torus(16)).init(jax.random.key(0))
        jax.jit(
            lambda rate: learn(flat(), algorithms.gradient_tracking(flat(), optax.sgd(rate)), networks.torus(16)).init(
                jax.random.key(0)
            )
        )(3.0)


def test_logistic_regression_knows_how_far_it_bends() -> None:
    """No Hessian of any node, anywhere, has a greater eigenvalue than L, and at zero, where sigma' = 1/4, one has it."""
    problem = problems.logistic_regression(num_nodes=4, regularization=0.05)
    ids, origin = jnp.arange(4), jnp.zeros((4, problem.optimum.shape[0]))

    def gradient(x: jax.Array) -> jax.Array:
        return problem.full_gradient(jax.random.key(0), x, ids)[0]

    def column(entry: jax.Array) -> jax.Array:
        return jax.jvp(gradient, (origin,), (jnp.broadcast_to(entry, origin.shape),))[1]

    hessians = np.moveaxis(np.asarray(jax.jit(jax.vmap(column))(jnp.eye(origin.shape[1]))), 0, -1)
    greatest = np.linalg.eigvalsh(hessians.astype(np.float64)).max()
    np.testing.assert_allclose(problem.smoothness(), greatest, rtol=1e-4)
