"""Bristle: its numbers by hand, its steps against a loop over nodes, neighbours and classes, and what it leaves alone."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.aggregators.bristle import class_weights, draws_by_distance, f1_scores, weight_of
from dlsim.networks.network import Inbox
from dlsim.problems import own_classes, own_outputs

KEY = jax.random.key(3)
NUM, WIDTH, CLASSES = 5, 13, 10


@functools.cache
def problem(use_bias: bool = False) -> dlsim.Problem:
    """Each node holds four neighbouring classes of digits."""
    data = problems.load("digits")
    labels = np.asarray(data.labels)
    held = [[(i + k) % CLASSES for k in range(4)] for i in range(NUM)]
    ids = [
        np.concatenate([np.flatnonzero(labels == c)[12 * i : 12 * i + 12] for c in classes])
        for i, classes in enumerate(held)
    ]
    parts = problems.partition_from_lists(ids)
    parts = problems.partition(data, NUM, problems.local_test(0.8, base=parts))
    return problems.supervised(problems.softmax_regression(use_bias=use_bias), data, parts, batch_size=5)


@functools.cache
def scene():
    rng = np.random.default_rng(0)
    start = problem().init(jax.random.key(0))
    gradients, _ = problem().full_gradient(KEY, dlsim.trees.replicate(start, NUM), jnp.arange(NUM))

    def leaf(g: jax.Array) -> jax.Array:
        which = rng.integers(NUM, size=(NUM, WIDTH + 1))
        which[:, 0] = np.arange(NUM)
        made = -np.asarray(g)[which] + 0.05 * rng.normal(size=(NUM, WIDTH + 1, *g.shape[1:]))
        made[:, 3] *= -1
        return jnp.asarray(made, jnp.float32)

    whole = jax.tree.map(leaf, gradients)
    mask = jnp.asarray(np.stack([rng.permutation(WIDTH) < (0, 2, 7, 12, 13)[i] for i in range(NUM)]))
    senders = jnp.tile(jnp.arange(WIDTH, dtype=jnp.int32) + 20, (NUM, 1))
    heard = jax.tree.map(lambda v: v[:, 1:], whole)
    inbox = Inbox(heard, jnp.where(mask, 0.1, 0), mask, senders, node_ids=jnp.arange(NUM, dtype=jnp.int32))
    return jax.tree.map(lambda v: v[:, 0], whole), inbox


def kernel(tree) -> np.ndarray:
    return np.asarray(jax.tree.leaves(tree)[0], float)


def sigma(s: float) -> float:
    return max(0.0, 10 / (1 + math.exp(-s / 100)) - 4) if s > -7e4 else 0.0


def f1(outputs, labels, mask) -> np.ndarray:
    guesses = np.argmax(outputs, axis=-1)
    out = np.zeros(CLASSES)
    for c in range(CLASSES):
        tp = sum(m and g == c == y for g, y, m in zip(guesses, labels, mask, strict=True))
        fp = sum(m and g == c != y for g, y, m in zip(guesses, labels, mask, strict=True))
        fn = sum(m and g != c == y for g, y, m in zip(guesses, labels, mask, strict=True))
        out[c] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
    return out


def integrate(own, heard, m, p, familiar, k) -> np.ndarray:
    """Steps 2 to 4 at one node: [C, D], [q, C, D], [C], [q, C], [C]."""
    top, bottom = own.copy(), np.ones(CLASSES)
    for j in range(len(heard)):
        known = [c for c in range(CLASSES) if familiar[c]]
        chosen = sorted(known, key=lambda c: -p[j][c])[: len(known) if k is None else k]
        score = {}
        for c in chosen:
            delta = 10 * abs(m[c] - p[j][c])
            score[c] = delta ** (3 + m[c]) if p[j][c] > m[c] else -(delta ** (4 + m[c]))
        u = max(0.0, np.mean([p[j][c] for c in chosen]) - np.std([p[j][c] for c in chosen]))
        for c in range(CLASSES):
            w = (sigma(max(score[c], -100)) if c in score else 0.0) if familiar[c] else sigma(sum(score.values()))
            top[c], bottom[c] = top[c] + w * u * heard[j][c], bottom[c] + w * u
    mixed = top / bottom[:, None]
    return mixed - mixed.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("m", "p", "wanted"), [(0.5, 0.9, 3.8245), (0.5, 0.7, 1.2825), (0.9, 0.5, 0.0), (0.9, 0.95, 1.0017)]
)
def test_weights_by_hand(m: float, p: float, wanted: float) -> None:
    """One class, so that there is no spread and u_j = p."""
    weights = class_weights(jnp.array([[m]]), jnp.array([[[p]]]), jnp.ones((1, 1), bool), None)
    np.testing.assert_allclose(weights[0, 0, 0] / p, wanted, atol=2e-4)


def test_sigma_and_the_draws_by_hand() -> None:
    np.testing.assert_allclose(weight_of(jnp.array([0.0, 1e9, -40.55, -1e9, 128.0])), [1, 6, 0, 0, 3.8245], atol=1e-3)
    assert draws_by_distance(10, 0.4) == (4, 5, 2)
    assert draws_by_distance(10, 0.0) == (10, 0, 0) and draws_by_distance(10, 1.0) == (0, 0, 10)


def test_f1_scores_against_counting() -> None:
    inbox = scene()[1]
    outputs, labels, mask = own_outputs(problem(), inbox.values, inbox.node_ids)
    scores, familiar = f1_scores(outputs, labels, mask, CLASSES)
    for i in range(NUM):
        assert np.flatnonzero(familiar[i]).tolist() == sorted((i + k) % CLASSES for k in range(4))
        for k in range(0, WIDTH, 3):
            np.testing.assert_allclose(scores[i, k], f1(outputs[i, k], labels[i], mask[i]), atol=1e-6)


@pytest.mark.parametrize("k", [3, None])
def test_it_is_the_loop_over_nodes_neighbours_and_classes(k: int | None) -> None:
    """With all models looked at, so that nothing is drawn."""
    own, inbox = scene()
    rule = aggregators.bristle(problem(), prioritizer="random", num_drawn=WIDTH, num_common=k)
    _, got = jax.jit(rule.apply)(KEY, (), own, inbox)
    outputs, labels, mask = own_outputs(problem(), inbox.values, inbox.node_ids)
    mine = own_outputs(problem(), jax.tree.map(lambda v: v[:, None], own), inbox.node_ids)[0]
    for i in range(NUM):
        heard = np.flatnonzero(inbox.mask[i])
        familiar = [(c - i) % CLASSES < 4 for c in range(CLASSES)]
        p = [f1(outputs[i, j], labels[i], mask[i]) for j in heard]
        m = f1(mine[i, 0], labels[i], mask[i])
        wanted = integrate(kernel(own)[i], kernel(inbox.values)[i][heard], m, p, familiar, k)
        wanted = wanted if len(heard) else kernel(own)[i]
        np.testing.assert_allclose(kernel(got)[i], wanted, atol=2e-5, err_msg=f"node {i}")
    np.testing.assert_allclose(kernel(got)[1:].mean(axis=2), 0, atol=1e-6)


def test_the_prioritiser_draws_by_thirds_and_by_node_and_sender_alone() -> None:
    """Of twelve heard 4, 5 of 4, and 2: near ones are all taken, all of the middle, two of the far."""
    from dlsim.aggregators.bristle import _drawn

    own, inbox = scene()
    lengths = np.linalg.norm((kernel(inbox.values) - kernel(own)[:, None]).reshape(NUM, WIDTH, -1), axis=2)
    drawn = np.asarray(_drawn(KEY, jnp.asarray(lengths, jnp.float32), inbox.mask, inbox, (4, 5, 2)))
    row = sorted(np.flatnonzero(inbox.mask[3]), key=lambda j: lengths[3, j])
    assert [int(drawn[3, row[part]].sum()) for part in (slice(0, 4), slice(4, 8), slice(8, 12))] == [4, 4, 2]
    assert drawn.sum(axis=1).tolist()[:3] == [0, 2, 2 + 3 + 2]
    turned = jax.tree.map(lambda v: v[:, ::-1] if v.ndim > 1 else v, inbox)
    again = _drawn(KEY, jnp.asarray(lengths[:, ::-1], jnp.float32), turned.mask, turned, (4, 5, 2))
    np.testing.assert_array_equal(np.asarray(again)[:, ::-1], drawn)
    lengths = jnp.asarray(lengths, jnp.float32)
    keys = jax.random.split(KEY, 40)
    often = np.mean(jax.vmap(lambda key: _drawn(key, lengths, inbox.mask, inbox, (4, 5, 2)))(keys)[:, 3], axis=0)
    assert all(0.2 < often[j] < 0.8 for j in row[8:])


def test_order_does_not_matter_and_what_was_not_heard_or_is_not_finite_counts_for_nothing() -> None:
    own, inbox = scene()
    rule = aggregators.bristle(problem())
    apply = jax.jit(rule.apply)
    plain = kernel(apply(KEY, (), own, inbox)[1])
    turned = jax.tree.map(lambda v: v[:, ::-1] if v.ndim > 1 else v, inbox)
    np.testing.assert_allclose(kernel(apply(KEY, (), own, turned)[1]), plain, atol=1e-5)
    spoiled = inbox._replace(
        values=jax.tree.map(lambda v: jnp.where(inbox.mask[..., None, None], v, jnp.nan), inbox.values)
    )
    np.testing.assert_allclose(kernel(apply(KEY, (), own, spoiled)[1]), plain, atol=1e-6)
    lies = jax.tree.map(lambda v: v.at[:, 0].set(jnp.inf), inbox.values)
    without = inbox._replace(mask=inbox.mask.at[:, 0].set(False))
    np.testing.assert_allclose(
        kernel(apply(KEY, (), own, inbox._replace(values=lies))[1]), kernel(apply(KEY, (), own, without)[1]), atol=1e-5
    )


def test_those_who_agree_stay_and_one_who_is_better_at_a_class_moves_that_class() -> None:
    own, inbox = scene()
    own = jax.tree.map(lambda v: v - v.mean(axis=2, keepdims=True), own)
    alike = inbox._replace(values=jax.tree.map(lambda v: jnp.broadcast_to(v[:, None], (NUM, WIDTH, *v.shape[1:])), own))
    _, got = aggregators.bristle(problem()).apply(KEY, (), own, alike)
    np.testing.assert_allclose(kernel(got), kernel(own), atol=2e-6)
    weights = class_weights(jnp.array([[0.5, 0.6]]), jnp.array([[[0.8, 0.1]]]), jnp.ones((1, 2), bool), None)
    assert weights[0, 0, 0] > 0 and weights[0, 0, 1] == 0


def test_own_classes_train_their_columns_alone() -> None:
    task = own_classes(problem())
    params = dlsim.trees.replicate(problem().init(KEY), NUM)
    ids = jnp.array([4, 0, 2])
    params = jax.tree.map(lambda v: v[:3], params)
    for name in ("gradient", "full_gradient"):
        masked, losses = getattr(task, name)(KEY, params, ids)
        plain, same = getattr(problem(), name)(KEY, params, ids)
        np.testing.assert_array_equal(losses, same)
        for row, node in enumerate(ids):
            held = np.array([(c - int(node)) % CLASSES < 4 for c in range(CLASSES)])
            np.testing.assert_array_equal(kernel(masked)[row], np.where(held[:, None], kernel(plain)[row], 0))
            assert np.abs(kernel(plain)[row][~held]).max() > 0
    algorithm = algorithms.isolated_training(task, optax.adam(0.01))
    run = dlsim.simulate(dlsim.learn(task, algorithm, networks.complete(NUM)), seed=0, num_steps=3, progress=False)
    moved = np.abs(kernel(run.params)[0]).max(axis=2) > 0
    assert [np.flatnonzero(row).tolist() for row in moved] == [
        sorted((i + k) % CLASSES for k in range(4)) for i in range(NUM)
    ]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: aggregators.bristle(problems.quadratic(3, 2)), "bristle: problem must be one whose nodes hold test"),
        (
            lambda: aggregators.bristle(problems.classification("digits", 4, test_per_node=0.2, model="mlp")),
            r"bristle: problem must be one of an output layer alone, arrays \[10, ...\], got",
        ),
        (
            lambda: own_classes(problems.classification("digits", 4, model="softmax")),
            "own_classes: problem must be one whose",
        ),
        (lambda: aggregators.bristle(problem(), prioritizer="near"), "bristle: prioritizer must be one of"),
        (lambda: aggregators.bristle(problem(), num_drawn=0), "bristle: num_drawn must be an integer >= 1, got 0"),
        (lambda: aggregators.bristle(problem(), exploration=1.5), "bristle: exploration must be a number in"),
        (lambda: aggregators.bristle(problem(), num_common=0), "bristle: num_common must be an integer >= 1, got 0"),
        (lambda: aggregators.bristle(problem(), centre_columns=1), "bristle: centre_columns must be"),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
