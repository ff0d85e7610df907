"""Locks: an involution, training in a mirror, and models that are worth nothing without the key."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import trust


@functools.cache
def plain():
    data = dlsim.problems.synthetic_classification(160, 6, 3, seed=0)
    parts = dlsim.problems.partition(data, 4, dlsim.problems.iid(), seed=0)
    return dlsim.problems.supervised(dlsim.problems.mlp((10,)), data, parts, batch_size=4)


@functools.cache
def lock(seed=0):
    """Of the ten units of the first layer: rows of its weights [10, 6]."""
    return trust.model_lock(plain(), "Dense_0/kernel", axis=0, seed=seed)


def model(seed=1):
    return jax.tree.map(lambda leaf: leaf + 0.1, plain().init(jax.random.key(seed)))


def leaves(tree):
    return jax.tree.leaves(tree)


def test_a_lock_turns_one_leaf_and_twice_is_not_at_all():
    signs = np.asarray(lock().signs)
    assert signs.shape == (10,) and set(signs.tolist()) == {-1.0, 1.0}
    locked = trust.lock_weights(lock(), model())
    for before, after in zip(leaves(model()), leaves(locked), strict=True):
        expected = before * signs[:, None] if before.shape == (10, 6) else before
        np.testing.assert_array_equal(after, expected)
    again = trust.lock_weights(lock(), locked)
    assert all((a == b).all() for a, b in zip(leaves(again), leaves(model()), strict=True))
    assert (trust.model_lock(plain(), "Dense_0/kernel", axis=0).signs == lock().signs).all()
    assert (lock(1).signs != lock().signs).any()


def test_gradients_losses_and_answers_are_those_of_the_mirror():
    problem = trust.locked_problem(plain(), lock())
    ids = jnp.arange(4)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + k) for k in range(4)]), model())
    locked = jax.vmap(lambda one: trust.lock_weights(lock(), one))(params)
    for name in ("gradient", "full_gradient"):
        (pull, losses), (mirrored, own) = (
            getattr(one, name)(jax.random.key(3), x, ids) for one, x in ((plain(), params), (problem, locked))
        )
        np.testing.assert_array_equal(losses, own)
        unlocked = jax.vmap(lambda one: trust.lock_weights(lock(), one))(mirrored)
        for a, b in zip(leaves(pull), leaves(unlocked), strict=True):
            np.testing.assert_array_equal(a, b)
    inputs = jnp.ones((2, 6))
    np.testing.assert_array_equal(
        problem.model.apply(trust.lock_weights(lock(), model()), inputs), plain().model.apply(model(), inputs)
    )
    for name, value in plain().evaluate(params, None).items():
        np.testing.assert_array_equal(problem.evaluate(locked, None)[name], value)


def trained(problem):
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.2, momentum=0.9))
    process = dlsim.learn(problem, algorithm, dlsim.networks.ring(4))
    run = dlsim.simulate(process, seed=0, num_steps=60, record=dlsim.Record(every=60), progress=False)
    return run.results.isel(step=-1), jax.tree.map(lambda leaf: leaf[0], run.params)


def test_training_walks_the_mirror_image_and_the_model_is_the_owners_alone():
    problem = trust.locked_problem(plain(), lock())
    (results, params), (mirrored, locked) = trained(plain()), trained(problem)
    unlocked = jax.vmap(lambda one: trust.lock_weights(lock(), one))(locked)
    for a, b in zip(leaves(params), leaves(unlocked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    right = float(results.accuracy.mean())
    assert float(mirrored.accuracy.mean()) == pytest.approx(right, abs=1e-3) and right > 0.8
    assert float(plain().evaluate(locked, None)["accuracy"].mean()) < right - 0.2
    wrong = jax.vmap(lambda one: trust.lock_weights(lock(1), one))(locked)
    assert float(plain().evaluate(wrong, None)["accuracy"].mean()) < right - 0.1


def test_locks_of_two_layers_are_locks_of_a_locked_problem():
    second = trust.model_lock(plain(), "Dense_1/kernel", axis=0, seed=5)
    both = trust.locked_problem(trust.locked_problem(plain(), lock()), second)
    params = trust.lock_weights(second, trust.lock_weights(lock(), model()))
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    own = jax.tree.map(lambda leaf: leaf[None], model())
    assert float(both.evaluate(stacked, None)["loss"][0]) == float(plain().evaluate(own, None)["loss"][0])


def test_bad_input_gets_one_line():
    with pytest.raises(ValueError, match="model_lock: carrier must be one of"):
        trust.model_lock(plain(), "gamma")
    with pytest.raises(ValueError, match=r"model_lock: axis must be an integer in \[-2, 1\], got 2"):
        trust.model_lock(plain(), "Dense_0/kernel", axis=2)
    other = dlsim.problems.quadratic(4, 3)
    with pytest.raises(ValueError, match="lock_weights: params must be a model with .*Dense_0/kernel"):
        trust.locked_problem(other, lock())
