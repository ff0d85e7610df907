"""Optimisers that want the loss: it is that of the batch the gradient was taken on, and of nothing else."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from six_nodes import EVERYONE, NUM_NODES, RATE

import dlsim
from dlsim import algorithms, arrivals, clocks, networks
from dlsim.core import Array

IDS = jnp.arange(NUM_NODES)


def watching(scale: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Moves by what it was told: `scale` times the value, along every coordinate."""

    def update(updates: Any, state: Any, params: Any = None, *, value: Array, **extra: Any) -> tuple[Any, Any]:
        del params, extra
        return jax.tree.map(lambda g: jnp.full_like(g, scale) * value, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def test_the_value_is_the_loss_of_the_batch() -> None:
    problem = six_nodes.problem(gradient_noise=0.3)
    local = algorithms.local_updates(problem, watching())
    x = jnp.asarray(six_nodes.start(), jnp.float32)
    after, _, info = local.run(jax.random.key(0), x, local.init(x), IDS)
    np.testing.assert_allclose(after - x, np.broadcast_to(info["loss"][:, None], x.shape), rtol=1e-5, atol=1e-6)


def test_the_value_of_fedprox_has_its_penalty() -> None:
    """After a first step of l, the second is told l(y) + mu / 2 ||y - x||^2."""
    problem = six_nodes.problem()
    algorithm = algorithms.fedprox(problem, watching(-0.1), proximal_weight=3.0, num_local_steps=2, weighting="uniform")
    network = six_nodes.network()
    x = jnp.asarray(six_nodes.start(), jnp.float32)
    state, _, _ = algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0), x, network), network)
    curvature, linear = six_nodes.affine(problem)
    loss = lambda y: np.asarray(problem.full_gradient(jax.random.key(0), jnp.asarray(y, jnp.float32), IDS)[1])  # noqa: E731
    del curvature, linear
    y = np.asarray(x) - 0.1 * loss(x)[:, None]
    told = loss(y) + 1.5 * np.sum((y - np.asarray(x)) ** 2, axis=1)
    np.testing.assert_allclose(state.params, np.mean(y - 0.1 * told[:, None], axis=0), rtol=1e-5)


def test_polyak_steps_reach_the_optimum_of_each_node() -> None:
    """x <- x - (f - f*) / ||g||^2 g, by hand; told f* of every node it converges on a quadratic."""
    problem = six_nodes.problem(heterogeneity=0.0)
    local = algorithms.local_updates(problem, optax.polyak_sgd(max_learning_rate=10.0, f_min=float(best(problem))))
    x = jnp.asarray(six_nodes.start(), jnp.float32)
    g, f = problem.full_gradient(jax.random.key(0), x, IDS)
    by_hand = x - (f - best(problem))[:, None] / jnp.sum(g * g, axis=1)[:, None] * g
    after, _, _ = local.run(jax.random.key(0), x, local.init(x), IDS)
    np.testing.assert_allclose(after, by_hand, rtol=1e-4, atol=1e-5)


def best(problem: Any) -> Array:
    """f_i at the optimum, the same for all nodes without heterogeneity."""
    rows = jnp.broadcast_to(problem.optimum, (NUM_NODES, *problem.optimum.shape))
    return problem.full_gradient(jax.random.key(0), rows, IDS)[1][0]


def test_lbfgs_solves_a_nodes_quadratic() -> None:
    problem = six_nodes.problem(heterogeneity=0.5)
    local = algorithms.local_updates(problem, optax.lbfgs(), num_local_steps=15)
    x = jnp.asarray(six_nodes.start(), jnp.float32)
    after, _, info = local.run(jax.random.key(0), x, local.init(x), IDS)
    curvature, linear = six_nodes.affine(problem)
    optima = np.stack([np.linalg.solve(curvature[i], -linear[i]) for i in range(NUM_NODES)])
    np.testing.assert_allclose(after, optima, atol=2e-3)
    assert (np.asarray(info["num_gradients"]) >= 15 * 2).all(), "a line search evaluates at least once a step"
    assert info["num_gradients"].dtype == jnp.uint32


def test_plateaus_are_seen_by_nodes_and_servers() -> None:
    """A loss that does not fall halves the rate after `patience` steps."""
    problem = six_nodes.problem()
    plateau = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=1e-4))
    node = algorithms.dsgd(problem, plateau)
    state = six_nodes.play(node, six_nodes.network(), EVERYONE[:6])[-1][0]
    scales = np.asarray(state.optimizer_state[1].scale)
    assert scales.shape == (NUM_NODES,) and (scales < 1).all()
    served = algorithms.fedavg(problem, optax.sgd(0.0), server_optimizer=plateau)
    state = six_nodes.play(served, six_nodes.network(), EVERYONE[:6])[-1][0]
    assert float(state.server_optimizer_state[1].scale) < 1
    central = algorithms.centralized_sgd(problem, plateau)
    assert float(six_nodes.play(central, six_nodes.network(), EVERYONE[:6])[-1][0].optimizer_state[1].scale) < 1


def test_the_servers_value_is_the_mean_loss_of_who_was_heard() -> None:
    problem = six_nodes.problem()._replace(num_examples=np.arange(1, NUM_NODES + 1))
    algorithm = algorithms.fedavg(problem, optax.sgd(RATE), server_optimizer=watching())
    network = six_nodes.network().replace(is_present=IDS != 2)
    x = jnp.asarray(six_nodes.start(), jnp.float32)
    state, _, info = algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0), x, network), network)
    weights = np.where(np.arange(NUM_NODES) == 2, 0, np.arange(1, NUM_NODES + 1))
    expected = np.average(np.asarray(info["loss"]), weights=weights)
    np.testing.assert_allclose(state.params - x[0], np.full(x.shape[1], expected), rtol=1e-5)


@pytest.mark.parametrize("optimizer", [optax.polyak_sgd(0.1), optax.lbfgs()], ids=["polyak", "lbfgs"])
def test_jobs_and_events_are_told_as_well(optimizer: Any) -> None:
    problem = six_nodes.problem()
    pace = arrivals.pace(NUM_NODES, 0.1, 0.1)
    # In step: clients that solve their own problem at once are unstable under delay.
    late = algorithms.fedbuff(problem, optimizer, buffer_size=NUM_NODES, pace=pace, num_local_steps=2)
    process = dlsim.learn(problem, late, networks.complete(NUM_NODES), timing=clocks.timing(window=1.0))
    run = dlsim.simulate(process, seed=0, num_steps=6)
    loss = run.results.suboptimality.values
    assert loss[-1] < 0.5 * loss[0]
    alike = six_nodes.problem(heterogeneity=0.0)
    gossip = algorithms.ad_psgd(alike, optimizer, read="now")
    process = dlsim.learn(alike, gossip, networks.complete(NUM_NODES), timing=clocks.timing(window=4.0))
    loss = dlsim.simulate(process, seed=0, num_steps=6).results.suboptimality.values
    assert np.isfinite(loss).all() and loss[-1] < 0.5 * loss[0]


def test_what_cannot_be_told_is_one_line() -> None:
    problem = six_nodes.problem()

    def asks(updates: Any, state: Any, params: Any = None, *, obj_fn: Any, **extra: Any) -> tuple[Any, Any]:
        raise AssertionError(obj_fn)

    strange = optax.GradientTransformationExtraArgs(lambda params: (), asks)
    with pytest.raises(
        ValueError, match=r"^dsgd: optimizer must be one whose update needs no more than grad, value, value_fn, "
    ):
        six_nodes.play(algorithms.dsgd(problem, strange), six_nodes.network(), EVERYONE[:1])
    with pytest.raises(ValueError, match=r"^gradient_tracking: optimizer must be .* one that needs 'value'"):
        six_nodes.play(algorithms.gradient_tracking(problem, optax.polyak_sgd(0.1)), six_nodes.network(), EVERYONE[:1])
    pace = arrivals.pace(NUM_NODES, 0.1, 0.1)
    late = algorithms.fedbuff(problem, optax.sgd(0.1), buffer_size=2, pace=pace, server_optimizer=optax.polyak_sgd(0.1))
    process = dlsim.learn(problem, late, networks.complete(NUM_NODES), timing=clocks.timing(window=1.0))
    with pytest.raises(ValueError, match=r"^fedbuff: server_optimizer must be .* one that needs 'value'"):
        dlsim.simulate(process, seed=0, num_steps=1)
