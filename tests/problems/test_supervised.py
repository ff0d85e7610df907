"""Node-stacked learning against a plain loop over nodes."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.problems.classification import classification
from dlsim.problems.data import dataset
from dlsim.problems.models import Model, mlp, resolve
from dlsim.problems.partition import (
    Partition,
    concept_shift,
    dirichlet,
    feature_shift,
    from_lists,
    iid,
    partition,
    quantity_skew,
    rotation_shift,
)
from dlsim.problems.supervised import Batch, supervised

KEY = jax.random.key(7)
RNG = np.random.default_rng(0)
IMAGES = dataset(
    RNG.integers(0, 17, (600, 8, 8, 1), dtype=np.uint8), RNG.integers(0, 4, 600), num_classes=4, offset=8.0, scale=0.2
)
REAL = dataset(RNG.standard_normal((200, 5)), RNG.standard_normal(200), regression=True)


def parts(partitioner, num_nodes=9, data=IMAGES):
    return partition(data, num_nodes, partitioner, seed=1)


SKEWED = parts(quantity_skew(0.5, min_size=6))


def stack(problem, num=None, spread=0.3):
    """Different parameters at every node."""
    num = problem.num_nodes if num is None else num
    params = jax.vmap(problem.init)(jax.random.split(KEY, num))
    leaves, treedef = jax.tree.flatten(params)
    noisy = [leaf + spread * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(treedef, noisy)


def row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def assert_close(got, wanted, rtol=1e-4, atol=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def plain_loss(logits, labels):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


@pytest.mark.parametrize("model", ["softmax", "mlp", "lenet"])
def test_gradients_are_those_of_a_loop_over_nodes(model):
    problem = supervised(model, IMAGES, SKEWED, regularization=0.1)
    apply, params, ids = resolve(model, IMAGES).apply, stack(problem), jnp.arange(9)
    gradients, losses = jax.jit(problem.gradient)(KEY, params, ids)
    batch = problem.sample(KEY, ids)
    assert batch.inputs.shape == (9, 6, 8, 8, 1) and batch.inputs.dtype == jnp.float32
    for i in range(9):

        def loss(x, i=i):
            norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x))
            return plain_loss(apply(x, batch.inputs[i]), batch.labels[i]) + 0.05 * norm

        value, gradient = jax.value_and_grad(loss)(row(params, i))
        assert_close((row(gradients, i), losses[i]), (gradient, value))
        assert_close(problem.loss(row(params, i), row(batch, i)), value)


def test_full_gradients_are_the_mean_over_exactly_the_nodes_examples():
    problem = supervised(mlp((5,)), IMAGES, SKEWED, regularization=0.1)
    params = stack(problem)
    full_gradient = jax.jit(problem.full_gradient)
    gradients, losses = full_gradient(KEY, params, jnp.arange(9))
    again, _ = full_gradient(jax.random.key(99), params, jnp.arange(9))
    assert_close(gradients, again, 1e-6, 1e-6)
    for i in range(9):
        held = SKEWED.of_node(i)
        batch = ((IMAGES.inputs[held].astype(np.float32) - 8.0) * 0.2, IMAGES.labels[held])
        value, gradient = jax.value_and_grad(problem.loss)(row(params, i), Batch(*map(jnp.asarray, batch)))
        assert_close((row(gradients, i), losses[i]), (gradient, value))


def test_full_gradient_takes_more_examples_than_one_chunk_and_nodes_in_any_order():
    data = dataset(RNG.standard_normal((900, 3)), RNG.integers(0, 2, 900), test_fraction=0.1)
    sizes = [np.arange(0, 600), np.arange(600, 610), np.arange(610, 800)]
    problem = supervised("softmax", data, from_lists(sizes))
    order = jnp.array([2, 0])
    params = stack(problem, 2)
    _, losses = problem.full_gradient(KEY, params, order)
    for i, node in enumerate((2, 0)):
        batch = Batch(jnp.asarray(data.inputs[sizes[node]]), jnp.asarray(data.labels[sizes[node]]))
        assert_close(losses[i], problem.loss(row(params, i), batch))


def test_batches_hold_distinct_examples_of_the_node_and_nothing_else():
    labelled = IMAGES._replace(inputs=np.arange(len(IMAGES.labels), dtype=np.int32)[:, None], offset=0.0, scale=1.0)
    problem = supervised("softmax", labelled, SKEWED, batch_size=6)
    for seed in range(20):
        drawn = np.asarray(problem.sample(jax.random.key(seed), jnp.arange(9)).inputs)[..., 0].astype(int)
        for node in range(9):
            assert len(set(drawn[node])) == 6 and set(drawn[node]) <= set(SKEWED.of_node(node).tolist())


def test_rows_depend_on_node_ids_alone():
    problem = supervised("mlp", IMAGES, parts(feature_shift(0.5, base=dirichlet(0.5))), batch_size=8)
    params, ids = stack(problem), jnp.arange(9)
    sample, gradient = jax.jit(problem.sample), jax.jit(problem.gradient)
    batch, (gradients, losses) = sample(KEY, ids), gradient(KEY, params, ids)
    for chosen in ([8, 2, 5], [4]):
        rows = jnp.array(chosen)
        # What is drawn is the same bit for bit; sums may be ordered otherwise for another number of nodes.
        for a, b in zip(sample(KEY, rows), batch, strict=True):
            assert (a == b[rows]).all()
        got = gradient(KEY, row(params, rows), rows)
        assert_close(got, (row(gradients, rows), losses[rows]), 1e-5, 1e-6)


def test_relabelled_nodes_relabel_results():
    order = np.array([4, 7, 0, 1, 8, 2, 6, 3, 5])
    moved = SKEWED._replace(offsets=SKEWED.offsets[order], sizes=SKEWED.sizes[order])
    one, other = supervised("mlp", IMAGES, SKEWED), supervised("mlp", IMAGES, moved)
    params = stack(one)
    assert_close(
        other.full_gradient(KEY, row(params, order), jnp.arange(9)),
        row(one.full_gradient(KEY, params, jnp.arange(9)), order),
        1e-5,
        1e-6,
    )
    assert (other.num_examples == one.num_examples[order]).all()


@pytest.mark.parametrize("node_block", [1, 4, 9, "auto"])
def test_blocks_change_nothing_but_speed(node_block):
    whole = supervised("mlp", IMAGES, SKEWED, node_block=None)
    blocked = supervised("mlp", IMAGES, SKEWED, node_block=node_block)
    params, ids = stack(whole), jnp.arange(9)
    for name in ("gradient", "full_gradient"):
        got, wanted = (jax.jit(getattr(problem, name))(KEY, params, ids) for problem in (blocked, whole))
        assert_close(got, wanted, 1e-5, 1e-6)
    assert_close(blocked.evaluate(params, ids), whole.evaluate(params, ids), 1e-5)


def test_evaluate_is_the_mean_over_the_test_set():
    problem = supervised("mlp", IMAGES, SKEWED)
    params = stack(problem, 3)
    metrics = jax.jit(problem.evaluate)(params, jnp.arange(3))
    x = jnp.asarray((IMAGES.test_inputs.astype(np.float32) - 8.0) * 0.2)
    for i in range(3):
        logits = resolve("mlp", IMAGES).apply(row(params, i), x)
        assert_close(metrics["loss"][i], plain_loss(logits, IMAGES.test_labels))
        assert_close(metrics["accuracy"][i], np.mean(np.argmax(logits, 1) == IMAGES.test_labels))
    assert_close(problem.evaluate(params, None), metrics, 1e-5)
    assert_close(problem.evaluate(params), metrics, 1e-5)


def test_num_test_takes_evenly_spaced_examples():
    data = IMAGES._replace(test_inputs=np.repeat(IMAGES.test_inputs[:2], 300, 0), test_labels=np.repeat([0, 1], 300))
    few, all_of_it = (supervised("softmax", data, SKEWED, num_test=n) for n in (10, None))
    params = stack(all_of_it)
    assert_close(few.evaluate(params), all_of_it.evaluate(params), 1e-4)


def test_noise_has_the_nodes_standard_deviation_and_is_drawn_anew():
    made = parts(iid())._replace(noise=np.linspace(0, 2, 9).astype(np.float32))
    noisy, clean = supervised("softmax", IMAGES, made), supervised("softmax", IMAGES, parts(iid()))
    ids = jnp.arange(9)
    added = noisy.sample(KEY, ids).inputs - clean.sample(KEY, ids).inputs
    np.testing.assert_allclose(np.std(added, axis=(1, 2, 3, 4)), made.noise, rtol=0.06, atol=1e-6)
    other = noisy.sample(jax.random.key(8), ids).inputs - clean.sample(jax.random.key(8), ids).inputs
    assert abs(np.corrcoef(np.ravel(added[8]), np.ravel(other[8]))[0, 1]) < 0.1


def test_rotation_and_label_permutation_hold_for_training_and_for_the_nodes_own_test():
    turned, plain = (supervised("softmax", IMAGES, parts(p)) for p in (rotation_shift(4, base=iid()), iid()))
    ids = jnp.array([0, 1, 2, 3])
    seen, raw = turned.sample(KEY, ids).inputs, plain.sample(KEY, ids).inputs
    for k in range(4):
        assert (seen[k] == jnp.rot90(raw[k], k, axes=(1, 2))).all()
    params = stack(plain)
    one = row(params, jnp.array([2]))
    assert_close(turned.evaluate(one), plain.evaluate(one), 1e-5)
    rotated = IMAGES._replace(test_inputs=np.rot90(IMAGES.test_inputs, 2, axes=(1, 2)))
    wanted = supervised("softmax", rotated, parts(iid())).evaluate(one)
    assert_close(turned.evaluate(one, jnp.array([2])), wanted, 1e-5)

    made = parts(concept_shift(3))
    shifted = supervised("softmax", IMAGES, made)
    labels, raw_labels = shifted.sample(KEY, ids).labels, plain.sample(KEY, ids).labels
    assert (np.asarray(labels) == np.take_along_axis(made.label_permutation[:4], np.asarray(raw_labels), 1)).all()
    assert (np.asarray(labels) != np.asarray(raw_labels)).any()
    relabelled = IMAGES._replace(test_labels=made.label_permutation[1][IMAGES.test_labels])
    wanted = supervised("softmax", relabelled, parts(iid())).evaluate(one)
    assert_close(shifted.evaluate(one, jnp.array([1])), wanted, 1e-5)


def test_regression_with_squared_loss_and_a_loss_of_ones_own():
    made = partition(REAL, 4, iid(), 0)
    linear = Model(init=lambda key: jnp.zeros(5), apply=lambda w, x: x @ w)
    squared = supervised(linear, REAL, made)
    absolute = supervised(linear, REAL, made, loss=lambda outputs, labels: jnp.abs(outputs - labels))
    params, ids = jax.random.normal(KEY, (4, 5)), jnp.arange(4)
    _, losses = squared.full_gradient(KEY, params, ids)
    _, distances = absolute.full_gradient(KEY, params, ids)
    for i in range(4):
        x, y = REAL.inputs[made.of_node(i)], REAL.labels[made.of_node(i)]
        residual = x @ np.asarray(params[i]) - y
        assert_close((losses[i], distances[i]), (0.5 * np.mean(residual**2), np.mean(np.abs(residual))))
    assert set(squared.evaluate(params)) == {"loss"}
    column = supervised("softmax", REAL, made)
    zeros = jax.vmap(column.init)(jax.random.split(KEY, 4))
    halves = np.array([0.5 * np.mean(REAL.labels[made.of_node(i)] ** 2) for i in range(4)])
    assert_close(column.full_gradient(KEY, zeros, ids)[1], halves)


def test_squared_loss_for_classes_is_brier_like():
    problem = supervised("softmax", IMAGES, SKEWED, loss="squared")
    zeros = jax.vmap(problem.init)(jax.random.split(KEY, 9))
    assert_close(problem.gradient(KEY, zeros, jnp.arange(9))[1], np.full(9, 0.5))


def test_regularization_may_be_traced():
    ids = jnp.arange(9)

    def loss(weight):
        problem = supervised("softmax", IMAGES, SKEWED, regularization=weight)
        return problem.gradient(KEY, params, ids)[1]

    params = stack(supervised("softmax", IMAGES, SKEWED))
    swept = jax.jit(jax.vmap(loss))(jnp.array([0.0, 0.5]))
    assert_close(swept[0], loss(0.0))
    norms = sum(jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(params))
    assert_close(swept[1] - swept[0], 0.25 * norms, 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 7},
            r"supervised: batch_size must be at most 6, the number of examples of node \d, got 7\. Use",
        ),
        ({"batch_size": 0}, r"supervised: batch_size must be an integer >= 1, got 0"),
        ({"sampling": "shuffle"}, r"supervised: sampling must be one of"),
        ({"loss": "cross_entropi"}, r"loss must be one of cross_entropy, .* Did you mean 'cross_entropy'"),
        ({"regularization": -1.0}, r"regularization must be a number in \[0, inf\), got -1"),
        ({"num_test": 0}, r"num_test must be an integer >= 1, got 0"),
        ({"node_block": "whole"}, r"map_nodes: node_block must be an integer >= 1, None or \"auto\", got 'whole'"),
    ],
)
def test_bad_options_get_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message):
        problem = supervised("softmax", IMAGES, SKEWED, **options)
        problem.evaluate(stack(problem))


def test_bad_data_get_one_clear_line():
    with pytest.raises(ValueError, match=r'loss must be "squared" or a function for a regression'):
        supervised("softmax", REAL, partition(REAL, 3, iid(), 0), loss="cross_entropy")
    with pytest.raises(ValueError, match=r"classification: dataset must be one with class labels, got a regression"):
        classification(REAL, 3)
    vectors = dataset(RNG.standard_normal((40, 3)), RNG.integers(0, 2, 40))
    made = partition(vectors, 3, iid(), 0)._replace(rotation=np.arange(3, dtype=np.int32))
    with pytest.raises(ValueError, match=r"supervised: inputs must be square images .* got \[32, 3\]"):
        supervised("softmax", vectors, made)
    with pytest.raises(ValueError, match=r"indices must be training examples"):
        supervised("softmax", vectors, Partition(np.array([99], np.int32), np.zeros(1, np.int32), np.ones(1, np.int32)))


def test_batch_size_defaults_to_32_or_the_smallest_node_which_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert supervised("softmax", IMAGES, parts(iid())).batch_size == 32
        assert supervised("softmax", IMAGES, SKEWED, sampling="with_replacement").batch_size == 32
        assert supervised("softmax", IMAGES, SKEWED, batch_size=6).batch_size == 6
    node = int(np.argmin(SKEWED.sizes))
    message = rf"supervised: batch_size is 6 instead of 32, all that node {node} holds; batch_size=6 says the same"
    for make in (
        lambda: supervised("softmax", IMAGES, SKEWED),
        lambda: classification(IMAGES, 9, partition=SKEWED, model="softmax"),
    ):
        with pytest.warns(UserWarning, match=message) as said:
            assert make().batch_size == 6
        assert len(said) == 1 and said[0].filename == __file__ and "\n" not in str(said[0].message)


def test_names_and_lists_where_data_and_partitions_go_are_one_line():
    for make, reason in (
        (lambda: supervised("mlp", "digits", SKEWED), r"dataset must be a Dataset, got 'digits'\. Make one: load"),
        (
            lambda: supervised("mlp", IMAGES, [[0], [1]]),
            r"partition must be a Partition, got \[\[0\], \[1\]\]\. Make one: .*from_lists",
        ),
        (lambda: supervised("mlp", IMAGES, iid()), r"partition must be a Partition, got function partition_fn"),
        (lambda: supervised("softmax", IMAGES, SKEWED, node_block="abc"), r"node_block must be .*, got 'abc'"),
        (lambda: supervised("softmax", IMAGES, SKEWED, loss={}), r"supervised: loss must be"),
        (lambda: classification([[1.0, 2.0]], 3), r"load: source must be a name, a path or a data set, got list"),
        (lambda: classification(IMAGES, 3, partition=[[0], [1], [2]]), r"partition_from_lists\(lists\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            make()


def test_classification_of_digits_learns():
    problem = classification("digits", num_nodes=10, partition=dirichlet(alpha=0.1), model="mlp", num_test=200)
    ids = jnp.arange(10)
    params = jax.vmap(problem.init)(jnp.repeat(jax.random.key(0)[None], 10))
    before = problem.evaluate(params, ids)

    def step(params, key):
        gradients, losses = problem.gradient(key, params, ids)
        updated = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
        # The complete graph: everybody takes the mean.
        return jax.tree.map(lambda p: jnp.broadcast_to(p.mean(0), p.shape), updated), losses

    params, losses = jax.jit(lambda params: jax.lax.scan(step, params, jax.random.split(KEY, 150)))(params)
    after = problem.evaluate(params, ids)
    assert problem.num_nodes == 10 and len(problem.num_examples) == 10 and jnp.isfinite(losses).all()
    assert float(before["accuracy"].mean()) < 0.4 < 0.85 < float(after["accuracy"].mean())
