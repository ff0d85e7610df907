"""`bootstrap`: more nodes than examples, uniform draws, and as many classes as were asked for."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import dlsim
from dlsim.problems.bootstrap import bootstrap
from dlsim.problems.data import dataset
from dlsim.problems.partition import partition

LABELS = np.repeat(np.arange(5), [10, 20, 30, 60, 80])
INPUTS = np.arange(200, dtype=np.float32)[:, None]
DATA = dataset(INPUTS, LABELS, test_inputs=INPUTS[:5], test_labels=LABELS[:5], num_classes=5)
REGRESSION = dataset(np.arange(50)[:, None], np.linspace(0, 1, 50) ** 2)


def drawn(num_nodes, num_examples, seed=0, **options):
    made = partition(DATA, num_nodes, bootstrap(num_examples, **options), seed)
    return np.asarray(made.indices).reshape(num_nodes, num_examples)


def chi_squared(counts, expected):
    return np.sum((counts - expected) ** 2 / expected)


@settings(max_examples=15, deadline=None)
@given(
    num_nodes=st.integers(1, 700),
    num_examples=st.integers(2, 20),
    num_classes=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_node_has_its_number_of_examples(num_nodes, num_examples, num_classes, seed):
    made = partition(DATA, num_nodes, bootstrap(num_examples, num_classes=num_classes), seed)
    assert made.indices.dtype == made.offsets.dtype == made.sizes.dtype == np.int32
    assert (made.sizes == num_examples).all() and len(made.indices) == num_nodes * num_examples
    np.testing.assert_array_equal(made.offsets, np.cumsum(made.sizes) - made.sizes)
    assert made.indices.min() >= 0 and made.indices.max() < len(LABELS)


def test_draws_are_uniform_and_with_replacement():
    ids = drawn(5000, 12)
    counts = np.bincount(ids.ravel(), minlength=200)
    assert chi_squared(counts, 5000 * 12 / 200) < 290  # 199 degrees of freedom: one draw in 30,000 is above
    # 1 - 200! / (188! 200^12) of the nodes hold an example twice.
    twice = np.mean([len(np.unique(row)) < 12 for row in ids])
    assert twice == pytest.approx(1 - np.prod(1 - np.arange(12) / 200), abs=0.03)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 5])
def test_a_node_knows_its_number_of_classes(num_classes):
    labels = LABELS[drawn(3000, 12, num_classes=num_classes)]
    assert {len(np.unique(row)) for row in labels} == {num_classes}
    per_class = np.stack([np.bincount(row, minlength=5) for row in labels])
    held = per_class[per_class > 0]
    assert held.min() >= 12 // num_classes and held.max() <= -(-12 // num_classes), "class by class in turn"
    # Classes are drawn uniformly, however many examples they have; 4 standard deviations.
    share = num_classes / 5
    holders = (per_class > 0).mean(axis=0)
    np.testing.assert_allclose(holders, share, atol=4 * np.sqrt(share * (1 - share) / 3000) + 1e-12)


def test_within_a_class_draws_are_uniform():
    ids = drawn(8000, 10, num_classes=2).ravel()
    for label, size in enumerate((10, 20, 30, 60, 80)):
        counts = np.bincount(ids[LABELS[ids] == label], minlength=200)[LABELS == label]
        assert chi_squared(counts, counts.sum() / size) < size - 1 + 5 * np.sqrt(2 * (size - 1))


def test_classes_without_examples_are_not_drawn():
    x, labels = np.zeros((4, 1), np.float32), np.array([1, 1, 3, 3])
    sparse = dataset(x, labels, test_inputs=x, test_labels=labels, num_classes=5)
    made = partition(sparse, 50, bootstrap(4, num_classes=2), seed=0)
    assert set(np.unique(made.indices)) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r"^bootstrap: num_classes must be .*2 classes, got 3"):
        partition(sparse, 50, bootstrap(4, num_classes=3))


def test_the_seed_decides():
    np.testing.assert_array_equal(drawn(40, 6, seed=3, num_classes=2), drawn(40, 6, seed=3, num_classes=2))
    assert (drawn(40, 6, seed=3) != drawn(40, 6, seed=4)).mean() > 0.9


def test_a_regression_has_no_classes_to_choose():
    made = partition(REGRESSION, 80, bootstrap(3))
    assert len(made.indices) == 240
    with pytest.raises(ValueError, match=r"^bootstrap: dataset must be one with class labels"):
        partition(REGRESSION, 80, bootstrap(3, num_classes=2))


def test_more_nodes_than_examples_learn():
    problem = dlsim.problems.classification(
        "digits", num_nodes=3000, partition=dlsim.problems.bootstrap(6), model="softmax", batch_size=6
    )
    ids = np.array([0, 1500, 2999])
    params = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (3, *leaf.shape)), problem.init(jax.random.key(0)))
    gradients, losses = jax.jit(problem.gradient)(jax.random.key(1), params, jax.numpy.asarray(ids))
    assert np.isfinite(losses).all()
    assert all(np.ptp(np.asarray(leaf), axis=0).max() > 1e-3 for leaf in jax.tree.leaves(gradients)), "their own data"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_examples": 0}, r"^bootstrap: num_examples must be .*1.*, got 0"),
        ({"num_examples": 2.5}, r"^bootstrap: num_examples must be .*integer.*, got 2.5"),
        ({"num_examples": 4, "num_classes": 0}, r"^bootstrap: num_classes must be .*, got 0"),
        ({"num_examples": 2, "num_classes": 3}, r"^bootstrap: num_classes must be .*2.*, got 3"),
    ],
)
def test_bad_arguments_are_one_line(options, line):
    with pytest.raises(ValueError, match=line) as caught:
        bootstrap(**options)
    assert "\n" not in str(caught.value)


def test_more_draws_than_an_index_can_count_are_refused():
    with pytest.raises(
        ValueError, match=r"^bootstrap: num_nodes must be at most 2147 with 1000000 examples each, got 3000"
    ):
        partition(DATA, 3000, bootstrap(1_000_000))
