"""Poisoned data, and how often they work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import problems

KEY = jax.random.key(0)


def digits():
    data = problems.load("digits")
    return data, problems.partition(data, 5, problems.iid(), seed=0)


def pixels(data, rows):
    return np.asarray(data.inputs)[rows], np.asarray(data.labels)[rows]


def test_labels_are_swapped_at_those_nodes_alone():
    data, parts = digits()
    made, held = problems.label_flip(data, parts, (1, 3), classes=(0, 7))
    np.testing.assert_array_equal(made.labels[: len(data.labels)], data.labels)
    np.testing.assert_array_equal(made.test_labels, data.test_labels)
    swap = np.arange(10)
    swap[[0, 7]] = [7, 0]
    for node in range(5):
        old, new = pixels(data, parts.of_node(node)), pixels(made, held.of_node(node))
        np.testing.assert_array_equal(new[0], old[0])
        np.testing.assert_array_equal(new[1], swap[old[1]] if node in (1, 3) else old[1])
    # A copy for each example of the two classes, and no more.
    of_both = np.isin(np.asarray(data.labels), (0, 7))
    own = np.concatenate([parts.of_node(1), parts.of_node(3)])
    assert len(made.labels) == len(data.labels) + of_both[own].sum()


def test_an_adversary_with_all_of_both_classes():
    data, parts = digits()
    made, held = problems.label_flip(data, parts, [4], whole_classes=True)
    labels = np.asarray(made.labels)[held.of_node(4)]
    of_both = np.isin(np.asarray(data.labels), (0, 1))
    other = (~of_both[parts.of_node(4)]).sum()
    assert held.sizes[4] == of_both.sum() + other
    assert (labels == 0).sum() == (np.asarray(data.labels) == 1).sum()
    np.testing.assert_array_equal(held.of_node(0), parts.of_node(0))


def test_the_trigger():
    data, parts = digits()
    made, held = problems.backdoor(data, parts, [2], target=1, size=3)
    inputs, labels = pixels(made, held.of_node(2))
    old, _ = pixels(data, parts.of_node(2))
    assert (labels == 1).all() and (inputs[:, :3, :3] == np.max(data.inputs)).all()
    np.testing.assert_array_equal(inputs[:, 3:], old[:, 3:])
    np.testing.assert_array_equal(inputs[:, :, 3:], old[:, :, 3:])
    assert made.inputs.dtype == data.inputs.dtype


def stub(taken):
    """A problem whose model takes an image for the class that `taken(params, images)` says."""
    data, parts = digits()
    model = problems.Model(lambda key: jnp.zeros(1), lambda p, x: jax.nn.one_hot(taken(p, x), 10))
    return problems.supervised(model, data, parts, batch_size=4), data


def test_how_often_labels_are_flipped():
    problem, data = stub(lambda p, x: jnp.broadcast_to(p[0].astype(int), x.shape[:1]))
    success = jax.jit(problems.flip_success(problem, data, classes=(3, 5)))
    labels = np.asarray(data.test_labels)
    num = [(labels == c).sum() for c in (3, 5)]
    # Who says 3 to all has the share of fives, who says 5 that of threes, anybody else nothing.
    got = success(jnp.array([[3.0], [5.0], [4.0]]))
    np.testing.assert_allclose(got, [num[1] / sum(num), num[0] / sum(num), 0], rtol=1e-6)


def test_how_often_the_trigger_works():
    def taken(p, x):
        corner = jnp.min(x[:, :2, :2, 0], axis=(1, 2))
        lit = corner >= (np.max(data.inputs) - data.offset) * data.scale - 1e-5
        return jnp.where((p[0] > 0) & lit, 6, 2)

    data, _ = digits()
    problem, _ = stub(taken)
    success = problems.backdoor_success(problem, data, target=6, size=2)
    np.testing.assert_array_equal(success(jnp.array([[1.0], [0.0]])), [1, 0])
    only_two = problems.backdoor_success(problem, data, target=2, size=2)(jnp.array([[1.0], [0.0]]))
    np.testing.assert_array_equal(only_two, [0, 1])


def test_poison_works_on_who_learns_it_alone():
    data, parts = digits()
    made, held = problems.label_flip(data, parts, [0], whole_classes=True)
    problem = problems.supervised("softmax", made, held, batch_size=32)
    params = jax.vmap(problem.init)(jax.random.split(KEY, 2))
    ids = jnp.array([0, 1])

    def step(params, t):
        gradients, _ = problem.gradient(jax.random.fold_in(KEY, t), params, ids)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradients), None

    params, _ = jax.jit(lambda params: jax.lax.scan(step, params, jnp.arange(60)))(params)
    poisoned, clean = problems.flip_success(problem, data)(params)
    assert poisoned > 0.8 and clean < 0.1


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda d, p: problems.label_flip(d, p, [5]), r"label_flip: node_ids must be node ids in 0..4, got"),
        (
            lambda d, p: problems.label_flip(d, p, [1], classes=(2, 2)),
            "label_flip: classes must be two different classes",
        ),
        (lambda d, p: problems.label_flip(d, p, [1], classes=(2, 10)), r"label_flip: classes\[1\] must be an integer"),
        (lambda d, p: problems.backdoor(d, p, [1], size=9), "backdoor: size must be an integer in"),
        (lambda d, p: problems.backdoor(d, p, [1], target=10), "backdoor: target must be an integer in"),
        (
            lambda d, p: problems.backdoor(problems.synthetic_classification(50, 4, 2), p, [1]),
            "backdoor: dataset must be images",
        ),
        (
            lambda d, p: problems.flip_success(problems.quadratic(4, 2), d),
            "flip_success: problem must be one with a model, got none",
        ),
    ],
)
def test_bad_input(make, line):
    with pytest.raises(ValueError, match=line):
        make(*digits())
