"""How often models take one class for what an adversary makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import problems

KEY = jax.random.key(0)
SWAP = {3: 5, 5: 3}


def constant_models():
    """A problem whose model says its parameter, whatever it sees."""
    data = problems.load("digits")
    parts = problems.partition(data, 5, problems.iid(), seed=0)
    model = problems.Model(
        lambda key: jnp.zeros(1), lambda p, x: jax.nn.one_hot(jnp.broadcast_to(p[0].astype(int), x.shape[:1]), 10)
    )
    return problems.supervised(model, data, parts, batch_size=4), data


def test_who_says_one_class_to_all():
    """Who says 3 to all takes the fives for threes, who says 5 the threes for fives, anybody else none of them."""
    problem, data = constant_models()
    made = problems.with_flip_rate(problem, data, SWAP)
    labels = np.asarray(data.test_labels)
    num = [(labels == c).sum() for c in (3, 5)]
    found = jax.jit(made.evaluate)(jnp.array([[3.0], [5.0], [4.0]]))
    np.testing.assert_allclose(found["flip_rate"], [num[1] / sum(num), num[0] / sum(num), 0], rtol=1e-6)
    assert {"loss", "accuracy", "flip_rate"} <= set(found)
    one_way = problems.with_flip_rate(problem, data, {3: 5}).evaluate(jnp.array([[3.0], [5.0]]))["flip_rate"]
    np.testing.assert_array_equal(one_way, [0, 1])


def test_poison_works_on_who_learns_it_alone():
    data = problems.load("digits")
    parts = problems.partition(data, 2, problems.iid(), seed=0)
    poisoned = problems.label_flip(data, parts, [0], {0: 1, 1: 0})
    problem = problems.with_flip_rate(problems.supervised("softmax", *poisoned, batch_size=32), data, {0: 1, 1: 0})
    params = jax.vmap(problem.init)(jax.random.split(KEY, 2))
    ids = jnp.array([0, 1])

    def step(params, t):
        gradients, _ = problem.gradient(jax.random.fold_in(KEY, t), params, ids)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradients), None

    params, _ = jax.jit(lambda params: jax.lax.scan(step, params, jnp.arange(60)))(params)
    liar, clean = problem.evaluate(params)["flip_rate"]
    assert liar > 0.8 and clean < 0.1


@pytest.mark.parametrize(
    ("flip", "line"),
    [
        ({}, "with_flip_rate: flip must be a dict of classes 0 to 9"),
        ({0: 10}, "with_flip_rate: flip must be a dict of classes 0 to 9"),
        ("next", "with_flip_rate: flip must be a dict of classes 0 to 9"),
        ({2: 2}, "with_flip_rate: flip must be one of classes that test examples are of"),
    ],
)
def test_bad_input(flip, line):
    problem, data = constant_models()
    with pytest.raises(ValueError, match=line):
        problems.with_flip_rate(problem, data, flip)


def test_without_a_model():
    with pytest.raises(ValueError, match="with_flip_rate: problem must be one with a model, got one without"):
        problems.with_flip_rate(problems.quadratic(4, 2), problems.load("digits"), SWAP)
