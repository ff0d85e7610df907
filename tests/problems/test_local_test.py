"""Tests of the nodes' own: what is held out, and what is measured on it, against a loop over nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim.learning.metrics import population
from dlsim.problems.bootstrap import bootstrap
from dlsim.problems.classification import classification
from dlsim.problems.data import dataset
from dlsim.problems.index_lists import partition_from_lists
from dlsim.problems.local_test import local_test
from dlsim.problems.logistic import logistic_regression
from dlsim.problems.models import Model
from dlsim.problems.partition import (
    concept_shift,
    dirichlet,
    feature_shift,
    iid,
    partition,
    quantity_skew,
    rotation_shift,
    shards,
)
from dlsim.problems.supervised import supervised

RNG = np.random.default_rng(0)
IMAGES = dataset(RNG.standard_normal((400, 3, 3, 1)), RNG.integers(0, 4, 400), num_classes=4)
LINEAR = Model(init=lambda key: jnp.zeros((9, 4)), apply=lambda w, x: x.reshape(x.shape[0], -1) @ w)
IDS = jnp.arange(7)
PARAMS = jnp.asarray(RNG.standard_normal((7, 9, 4)), jnp.float32)


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0.01, 0.99), num_nodes=st.integers(1, 40), seed=st.integers(0, 99), skewed=st.booleans())
def test_every_example_stays_with_its_node_on_one_side(fraction, num_nodes, seed, skewed):
    base = quantity_skew(0.3, min_size=2) if skewed else shards(1)
    whole = partition(IMAGES, num_nodes, base, seed)
    made = partition(IMAGES, num_nodes, local_test(fraction, base=base), seed)
    tests = made.local_test
    assert tests.of_training and tests.indices.dtype == made.indices.dtype == np.int32
    for node in range(num_nodes):
        own = tests.indices[tests.offsets[node] : tests.offsets[node] + tests.sizes[node]]
        assert sorted([*own, *made.of_node(node)]) == sorted(whole.of_node(node))
        size = whole.sizes[node]
        assert tests.sizes[node] == min(max(int(np.floor(fraction * size + 0.5)), 1), size - 1)


def test_what_is_held_out_is_a_random_part():
    """Shards are sorted by class: a node's first examples alone would be of one class."""
    data = dataset(np.zeros((8000, 1)), np.arange(8000) % 2, test_inputs=np.zeros((1, 1)), test_labels=[0])
    made = partition(data, 4, local_test(0.25, base=shards(2)), seed=3)
    for node in range(4):
        tests = made.local_test
        own = data.labels[tests.indices[tests.offsets[node] :][: tests.sizes[node]]]
        whole = np.mean([*own, *data.labels[made.of_node(node)]])
        assert tests.sizes[node] == 500 and abs(np.mean(own) - whole) < 5 * 0.5 / np.sqrt(500)


def seen_by(made, node, data=IMAGES):
    """A node's own test examples as its model sees them, by hand."""
    tests = made.local_test
    ids = tests.indices[tests.offsets[node] : tests.offsets[node] + tests.sizes[node]]
    x, y = (data.inputs, data.labels) if tests.of_training else (data.test_inputs, data.test_labels)
    x, y = x[ids], y[ids]
    if made.rotation is not None:
        x = np.rot90(x, made.rotation[node], axes=(1, 2))
    if made.label_permutation is not None:
        y = made.label_permutation[node][y]
    return x.reshape(len(ids), -1), y


@pytest.mark.parametrize("node_block", [None, 2])
@pytest.mark.parametrize(
    "partitioner",
    [
        local_test(0.3, base=quantity_skew(0.5, min_size=3)),
        local_test(0.5, base=rotation_shift(4)),
        concept_shift(3, base=local_test(0.3, base=dirichlet(1.0))),
        partition_from_lists([[i, i + 50] for i in range(7)], test_lists=[range(i, 10 + 9 * i) for i in range(7)]),
    ],
)
def test_measures_are_means_over_the_nodes_own_tests(partitioner, node_block):
    made = partition(IMAGES, 7, partitioner, seed=2)
    problem = supervised(LINEAR, IMAGES, made, batch_size=1, node_block=node_block)
    found = jax.jit(problem.evaluate)(PARAMS, IDS)
    wanted = np.zeros((7, 7, 2))  # of model i at node j
    for i in range(7):
        for j in range(7):
            x, y = seen_by(made, j)
            logits = x @ np.asarray(PARAMS[i], np.float64)
            losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
            wanted[i, j] = losses.mean(), (logits.argmax(axis=1) == y).mean()
    own = wanted[np.arange(7), np.arange(7)]
    np.testing.assert_allclose(found["loss_local"], own[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["accuracy_local"], own[:, 1], rtol=1e-5)
    some = problem.evaluate(PARAMS[jnp.array([5, 2])], jnp.array([5, 2]))
    np.testing.assert_allclose(some["loss_local"], own[[5, 2], 0], rtol=1e-5)
    everywhere = jax.jit(problem.evaluate)(PARAMS, None)  # each model at all nodes, which weigh the same
    np.testing.assert_allclose(everywhere["loss_local"], wanted[:, :, 0].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(everywhere["accuracy_local"], wanted[:, :, 1].mean(axis=1), rtol=1e-5)
    plain = supervised(LINEAR, IMAGES, made._replace(local_test=None), batch_size=1).evaluate(PARAMS, IDS)
    np.testing.assert_allclose(found["loss"], plain["loss"], rtol=1e-6)
    assert set(found) - set(plain) == {"loss_local", "accuracy_local"}


def test_noise_is_one_draw_an_example():
    made = partition(IMAGES, 7, feature_shift(2.0, base=local_test(0.3, base=quantity_skew(0.5, min_size=3))), seed=2)
    problem = supervised(LINEAR, IMAGES, made, batch_size=1)
    one = jnp.broadcast_to(PARAMS[:1], PARAMS.shape)
    at_each = problem.evaluate(one, IDS)["loss_local"]
    np.testing.assert_allclose(problem.evaluate(one[:1], None)["loss_local"][0], at_each.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        problem.evaluate(one[:2], jnp.array([6, 3]))["loss_local"], at_each[jnp.array([6, 3])], rtol=1e-5
    )
    clean = supervised(LINEAR, IMAGES, made._replace(noise=None), batch_size=1).evaluate(one, IDS)["loss_local"]
    assert at_each[0] == clean[0] and abs(at_each[6] - clean[6]) > 0.1


def test_training_never_meets_the_tests():
    labelled = IMAGES._replace(inputs=np.arange(400, dtype=np.int32)[:, None])
    made = partition(labelled, 7, local_test(0.5), seed=2)
    scalar = Model(lambda key: jnp.zeros((1, 4)), lambda w, x: x @ w)
    problem = supervised(scalar, labelled._replace(test_inputs=labelled.inputs[:100]), made, batch_size=20)
    held_out = set(made.local_test.indices.tolist())
    for seed in range(20):
        drawn = np.asarray(problem.sample(jax.random.key(seed), IDS).inputs).astype(int).ravel()
        assert not held_out & set(drawn.tolist())
    np.testing.assert_array_equal(problem.num_examples, made.sizes)


def test_runs_record_them():
    skewed = quantity_skew(1.0, min_size=8)
    problem = classification(IMAGES, 7, partition=skewed, test_per_node=0.25, model="softmax", batch_size=4)
    measured = population(problem, jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 7)), IDS)
    for name in ("loss", "accuracy"):
        assert {f"{name}_local", f"{name}_local_of_mean"} <= set(measured)
    np.testing.assert_allclose(measured["loss_local"], np.log(4), rtol=1e-6)  # zeros: all classes alike
    served = population(problem, jax.tree.map(lambda leaf: leaf[None], problem.init(jax.random.key(0))))
    np.testing.assert_allclose(served["loss_local"], np.log(4), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: local_test(0.0), "fraction must be a number in (0, 1), got 0"),
        (lambda: local_test("a"), "fraction must be a number in (0, 1), got 'a'"),
        (lambda: local_test(base="iid"), "local_test: base must be a function"),
        (lambda: partition(IMAGES, 300, local_test(base=iid())), "must be given two examples or more, got 1"),
        (lambda: partition(IMAGES, 9, local_test(base=bootstrap(60))), "one that gives each example to one node"),
        (lambda: partition(IMAGES, 9, local_test(base=local_test())), "without test examples of the nodes' own"),
        (
            lambda: logistic_regression("breast_cancer", 4, partition=local_test()),
            "one without test examples of the nodes' own",
        ),
        (lambda: classification(IMAGES, 4, test_per_node=1.5), "fraction must be a number in (0, 1), got 1.5"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(make, reason):
    with pytest.raises(ValueError) as error:
        make()
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_test_example_that_is_trained_on_is_refused():
    made = partition(IMAGES, 7, local_test(0.5), seed=2)
    leaky = made._replace(
        local_test=made.local_test._replace(indices=made.indices, offsets=made.offsets, sizes=made.sizes)
    )
    with pytest.raises(
        ValueError, match=r"partition: local_test must be of examples that no node trains on, got example"
    ):
        supervised(LINEAR, IMAGES, leaky, batch_size=1)
