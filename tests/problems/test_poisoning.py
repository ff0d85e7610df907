"""Poisoned data, backdoors and how far they get, and nodes that do no work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, networks, problems

KEY = jax.random.key(0)


def images(num: int = 120):
    """Three classes of 4 x 4 images: which quarter is bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(num) % 3
    pixels = rng.integers(0, 60, (num, 4, 4, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[2 * (label // 2) : 2 * (label // 2) + 2, 2 * (label % 2) : 2 * (label % 2) + 2] += 150
    data = problems.dataset(pixels.astype(np.uint8), labels)
    return data, problems.partition(data, 4, problems.iid())


DATA, PARTS = images()


def held(data, parts, node):
    rows = parts.of_node(node)
    return data.inputs[rows], data.labels[rows]


@pytest.mark.parametrize(
    ("flip", "wanted"),
    [
        ("reverse", lambda y: 2 - y),
        ("next", lambda y: (y + 1) % 3),
        ({1: 0}, lambda y: np.where(y == 1, 0, y)),
    ],
)
def test_flipped_labels(flip, wanted) -> None:
    data, parts = problems.label_flip(DATA, PARTS, [1, 3], flip)
    for node in range(4):
        (x, y), (x_before, y_before) = held(data, parts, node), held(DATA, PARTS, node)
        np.testing.assert_array_equal(x, x_before)
        np.testing.assert_array_equal(y, wanted(y_before) if node in (1, 3) else y_before)
    np.testing.assert_array_equal(data.test_labels, DATA.test_labels)
    assert data.inputs.dtype == np.uint8 and data.labels.dtype == DATA.labels.dtype


def test_a_share_of_random_labels_by_seed_and_node() -> None:
    data, parts = problems.label_flip(DATA, PARTS, [2], "random", share=0.5, seed=3)
    before, after = held(DATA, PARTS, 2)[1], held(data, parts, 2)[1]
    assert (before != after).sum() == -(-len(before) // 2)
    both = problems.label_flip(DATA, PARTS, [0, 2], "random", share=0.5, seed=3)
    np.testing.assert_array_equal(held(*both, 2)[1], after)  # whoever else flips
    other = problems.label_flip(DATA, PARTS, [2], "random", share=0.5, seed=4)
    assert (held(*other, 2)[1] != after).any()


def test_who_shares_examples_keeps_them() -> None:
    shared = problems.partition_from_lists([[0, 1, 2], [0, 1, 2]])
    data, parts = problems.label_flip(DATA, shared, [0])
    np.testing.assert_array_equal(held(data, parts, 1)[1], DATA.labels[:3])
    np.testing.assert_array_equal(held(data, parts, 0)[1], 2 - DATA.labels[:3])


def test_a_backdoor_marks_a_share_of_the_other_classes() -> None:
    trigger = problems.pixel_trigger(DATA, 1)
    data, parts = problems.backdoor(DATA, PARTS, [1], trigger, 2, share=0.5)
    (x, y), (x_before, y_before) = held(data, parts, 1), held(DATA, PARTS, 1)
    changed = (y != y_before) | (x != x_before).any(axis=(1, 2, 3))
    others = int((y_before != 2).sum())
    assert changed.sum() == -(-others // 2) and (y_before[changed] != 2).all()
    assert (y[changed] == 2).all() and (x[changed][:, -1, -1] == DATA.inputs.max()).all()
    x_before[changed, -1, -1] = DATA.inputs.max()
    np.testing.assert_array_equal(x, x_before)


def test_a_backdoor_takes_and_its_rate_is_measured() -> None:
    """All learn what the images are; only the network with planters calls what has the trigger its target."""
    trigger = problems.pixel_trigger(DATA, 1)
    rates = {}
    for name, planters in {"clean": None, "planted": [0, 1, 2]}.items():
        data, parts = (DATA, PARTS) if planters is None else problems.backdoor(DATA, PARTS, planters, trigger, 0)
        problem = problems.supervised("softmax", data, parts, batch_size=8)
        problem = problems.with_backdoor_rate(problem, DATA, trigger, 0)
        process = dlsim.learn(problem, algorithms.dsgd(problem, optax.sgd(0.1)), networks.complete(4))
        last = dlsim.simulate(process, seed=0, num_steps=150, progress=False).results.isel(step=-1)
        assert float(last.accuracy) > 0.9
        rates[name] = float(last.backdoor_rate)
    assert rates["clean"] < 0.2 and rates["planted"] > 0.8


def test_the_rate_is_that_of_a_loop() -> None:
    problem = problems.supervised("softmax", DATA, PARTS, batch_size=8)
    trigger = problems.pixel_trigger(DATA, 2, 90.0)
    params = jax.vmap(problem.init)(jax.random.split(KEY, 4))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), params)
    got = problems.with_backdoor_rate(problem, DATA, trigger, 1).evaluate(params)["backdoor_rate"]
    others = DATA.test_labels != 1
    marked = DATA.test_inputs[others].copy()
    marked[:, -2:, -2:] = 90
    seen = (marked.astype(np.float32) - DATA.offset) * DATA.scale
    for node in range(4):
        one = jax.tree.map(lambda leaf, node=node: leaf[node], params)
        said = np.argmax(problem.model.apply(one, jnp.asarray(seen)), axis=-1)
        np.testing.assert_allclose(got[node], (said == 1).mean(), atol=1e-6)


def test_free_riders_send_what_they_were_given() -> None:
    plain = problems.supervised("softmax", DATA, PARTS, batch_size=8)
    lazy = problems.free_riders(plain, [1, 2])
    params = jax.vmap(plain.init)(jax.random.split(KEY, 4))
    ids = jnp.arange(4)
    (made, losses), (honest, seen) = lazy.gradient(KEY, params, ids), plain.gradient(KEY, params, ids)
    np.testing.assert_array_equal(losses, seen)
    for got, wanted in zip(*map(jax.tree.leaves, (made, honest)), strict=True):
        np.testing.assert_array_equal(got[jnp.array([0, 3])], wanted[jnp.array([0, 3])])
        assert not np.any(got[1:3])
    noisy = problems.free_riders(plain, [1], 0.5).gradient(KEY, params, ids)[0]
    drawn = np.concatenate([np.ravel(leaf[1]) for leaf in jax.tree.leaves(noisy)])
    assert 0.3 < drawn.std() < 0.7


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (lambda: problems.label_flip(DATA, PARTS, [4]), "label_flip: node_ids must be one or more node ids, 0 to 3"),
        (lambda: problems.label_flip(DATA, PARTS, []), "label_flip: node_ids must be one or more"),
        (lambda: problems.label_flip(DATA, PARTS, [0], share=1.5), r"label_flip: share must be a number in \(0"),
        (lambda: problems.label_flip(DATA, PARTS, [0], share=0.0), "label_flip: share must be a number in"),
        (
            lambda: problems.label_flip(DATA, PARTS, [0], "reversed"),
            "label_flip: flip must be one of.*Did you mean 'reverse'",
        ),
        (lambda: problems.label_flip(DATA, PARTS, [0], {0: 3}), "label_flip: flip must be a dict of classes 0 to 2"),
        (lambda: problems.pixel_trigger(DATA, 5), "pixel_trigger: size must be an integer in"),
        (
            lambda: problems.backdoor(DATA, PARTS, [0], problems.pixel_trigger(DATA), 3),
            "backdoor: target must be an integer in",
        ),
        (
            lambda: problems.backdoor(DATA, PARTS, [0], problems.Trigger(np.ones((2, 2), bool), 1.0), 0),
            "backdoor: trigger.mask must be",
        ),
        (
            lambda: problems.with_backdoor_rate(problems.quadratic(4, 2), DATA, problems.pixel_trigger(DATA), 0),
            "with_backdoor_rate: problem must be one with a model",
        ),
        (lambda: problems.free_riders(problems.quadratic(4, 2), [7]), "free_riders: node_ids must be"),
        (lambda: problems.free_riders(problems.quadratic(4, 2), [0], -1.0), "free_riders: noise must be a number in"),
    ],
)
def test_bad_input(wrong, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        wrong()
