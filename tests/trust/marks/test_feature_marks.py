"""Feature and trigger watermarks: gradients against formulas, detection at chance without them, and with any algorithm."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import trust


@functools.cache
def plain():
    data = dlsim.problems.synthetic_classification(80, 6, 3, seed=0)
    parts = dlsim.problems.partition(data, 4, dlsim.problems.iid(), seed=0)
    return dlsim.problems.supervised(dlsim.problems.mlp((10,)), data, parts, batch_size=4)


@functools.cache
def carrier():
    """The first layer's weights [10, 6] and its bias [10]."""
    shapes = jax.eval_shape(plain().init, jax.random.key(0))
    paths = ["/".join(str(k.key) for k in path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    return next(p for p in paths if p.endswith("Dense_0/kernel")), next(p for p in paths if p.endswith("Dense_0/bias"))


@functools.cache
def marks(num_bits=3, seed=0):
    return trust.feature_marks(plain(), num_bits, carrier()[1], seed=seed)


def model(num=4, seed=1):
    drawn = jax.vmap(plain().init)(jax.random.split(jax.random.key(seed), num))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(seed), leaf.shape), drawn)


def bias_of(tree):
    return np.asarray(next(leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 2 and leaf.shape[1] == 10))


def gradients(problem, params, key=3):
    return problem.gradient(jax.random.key(key), params, jnp.arange(4))


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_the_pull_on_the_carrier_is_that_of_the_formula(loss):
    params, strength, margin = model(), 0.3, 0.5
    marked = trust.feature_watermark(plain(), marks(), strength=strength, margin=margin, loss=loss)
    (before, old), (after, new) = gradients(plain(), params), gradients(marked, params)
    gamma = bias_of(params).astype(np.float64)
    for k in range(4):
        bits, matrix = np.asarray(marks().bits[k], float), np.asarray(marks().matrices[k], float)
        held = bits * (gamma[k] @ matrix)
        if loss == "hinge":
            weight, extra = (held < margin).astype(float), np.maximum(margin - held, 0).sum()
        else:
            weight, extra = 1 / (1 + np.exp(held)), np.log1p(np.exp(-held)).sum()
        pull = -strength * matrix @ (weight * bits)
        np.testing.assert_allclose(bias_of(after)[k] - bias_of(before)[k], pull, rtol=1e-4, atol=1e-5)
        assert float(new[k] - old[k]) == pytest.approx(strength * extra, rel=1e-4, abs=1e-5)
    untouched = [leaf for leaf in jax.tree.leaves(jax.tree.map(jnp.subtract, after, before)) if leaf.shape[1:] != (10,)]
    assert len(untouched) == 3 and all(float(jnp.abs(leaf).max()) == 0 for leaf in untouched)


def test_satisfied_bits_change_no_bit_of_training():
    """The hinge is exactly 0 there: gamma = 5 M (M^T M)^-1 B has all products at 5 B."""
    params = model()
    m, b = np.asarray(marks().matrices, float), np.asarray(marks().bits, float)
    gamma = np.stack([5 * m[k] @ np.linalg.solve(m[k].T @ m[k], b[k]) for k in range(4)]).astype(np.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(gamma) if leaf.shape == (4, 10) else leaf, params)
    assert (np.diag(trust.bit_detection(marks(), params)) == 1).all()
    marked = trust.feature_watermark(plain(), marks(), strength=0.3, margin=0.5)
    for a, b_ in zip(
        jax.tree.leaves(gradients(plain(), params)), jax.tree.leaves(gradients(marked, params)), strict=True
    ):
        np.testing.assert_array_equal(a, b_)


def test_detection_is_a_count_of_signs():
    params = model(3)
    found = trust.bit_detection(marks(), params)
    gamma = bias_of(params)
    for k in range(4):
        for n in range(3):
            right = np.sign(gamma[n] @ np.asarray(marks().matrices[k])) == np.asarray(marks().bits[k])
            assert float(found[k, n]) == pytest.approx(right.mean())
    opposite = marks()._replace(bits=-marks().bits)
    np.testing.assert_allclose(trust.bit_detection(opposite, params), 1 - found, atol=1e-6)
    scaled = jax.tree.map(lambda leaf: 7 * leaf, params)
    np.testing.assert_array_equal(trust.bit_detection(marks(), scaled), found)
    zero = jax.tree.map(jnp.zeros_like, params)
    assert float(trust.bit_detection(marks(), zero).max()) == 0.0  # sign(0) matches nothing


def test_false_alarms_follow_the_binomial():
    """Without a watermark n_m ~ Bin(n, 1/2): mean, spread and the tail that `log10_p_value` says."""
    num_bits, seeds = 5, 240
    params = model(1, 5)
    rates = np.concatenate(
        [np.asarray(trust.bit_detection(marks(num_bits, seed), params)[:, 0]) for seed in range(seeds // 4)]
    )
    assert rates.mean() == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(num_bits * len(rates)))
    for hits in (3, 4, 5):
        tail = 10 ** trust.log10_p_value(hits, num_bits)
        alarms = np.mean(rates * num_bits > hits - 0.5)
        assert alarms == pytest.approx(tail, abs=3 * math.sqrt(tail * (1 - tail) / len(rates)))


def test_secrets_belong_to_nodes_and_not_to_their_number():
    data = dlsim.problems.synthetic_classification(80, 6, 3, seed=0)
    parts = dlsim.problems.partition(data, 8, dlsim.problems.iid(), seed=0)
    larger = dlsim.problems.supervised(dlsim.problems.mlp((10,)), data, parts, batch_size=4)
    more = trust.feature_marks(larger, 2, carrier()[1])
    fewer = trust.feature_marks(plain(), 2, carrier()[1])
    np.testing.assert_array_equal(more.bits[:4], fewer.bits)
    np.testing.assert_array_equal(more.matrices[:4], fewer.matrices)


def test_kernels_carry_by_their_mean_over_outputs():
    made = trust.feature_marks(plain(), 2, carrier()[0], axis=0)
    assert made.matrices.shape == (4, 6, 2)
    params = model(1)
    kernel = next(leaf for leaf in jax.tree.leaves(params) if leaf.shape == (1, 10, 6))
    np.testing.assert_allclose(made.carry(jax.tree.map(lambda x: x[0], params)), kernel[0].mean(0), rtol=1e-6)


@pytest.mark.parametrize("method", ["fedavg", "dsgd"])
def test_any_algorithm_trains_both_marks(method):
    triggers = trust.noise_triggers(plain(), 3)
    both = trust.feature_watermark(trust.trigger_watermark(plain(), triggers), marks(1), strength=0.3)
    algorithm = getattr(dlsim.algorithms, method)(both, optax.sgd(0.1), num_local_steps=4)
    process = dlsim.learn(both, algorithm, dlsim.networks.complete(4))
    run = dlsim.simulate(process, seed=0, num_steps=60, record=dlsim.Record(every=60), progress=False)
    first, last = (run.results.isel(step=place) for place in (0, -1))
    assert float(last.bit_detection) >= 0.99 > float(first.bit_detection)
    assert float(last.trigger_accuracy) > float(first.trigger_accuracy) and float(last.trigger_accuracy) > 0.5


def test_clones_of_one_key_pull_as_one_does_and_are_refused():
    """With one key for all and one model, every pull, and so their mean, is that of a single learner with the key."""
    one = marks()._replace(bits=jnp.tile(marks().bits[:1], (4, 1)), matrices=jnp.tile(marks().matrices[:1], (4, 1, 1)))
    params = jax.tree.map(lambda leaf: jnp.tile(leaf[:1], (4,) + (1,) * (leaf.ndim - 1)), model())
    alone = one._replace(is_marked=jnp.array([True, False, False, False]))
    marked = trust.feature_watermark(plain(), alone, strength=0.3)
    pull = bias_of(gradients(marked, params)[0]) - bias_of(gradients(plain(), params)[0])
    assert np.abs(pull[0]).max() > 0 and np.abs(pull[1:]).max() == 0  # and its share of a mean is a quarter

    @jax.jit
    def unchecked(bits):  # what is traced cannot be compared
        return gradients(trust.feature_watermark(plain(), one._replace(bits=bits), strength=0.3), params)[0]

    all_pull = bias_of(unchecked(one.bits)) - bias_of(gradients(plain(), params)[0])
    np.testing.assert_allclose(all_pull, np.tile(pull[:1], (4, 1)), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="feature_watermark: marks must be different for all nodes, got the same for"):
        trust.feature_watermark(plain(), one)


def test_triggers_are_examples_of_the_batch():
    """(B f + sum of m cross-entropies) / (B + m), here with all triggers of a node in every batch."""
    params, triggers = model(), trust.noise_triggers(plain(), 2)
    marked = trust.trigger_watermark(plain(), triggers, num_per_batch=2)
    (before, old), (after, new) = gradients(plain(), params), gradients(marked, params)

    def loss(one, inputs, labels):
        scores = jax.nn.log_softmax(plain().model.apply(one, inputs))
        return -jnp.sum(scores[jnp.arange(2), labels])

    extra, pull = jax.vmap(jax.value_and_grad(loss))(params, triggers.inputs, triggers.labels)
    expected = jax.tree.map(lambda a, b: (4 * a + b) / 6, before, pull)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new, (4 * old + extra) / 6, rtol=1e-5)


def test_a_server_teaches_its_own_triggers():
    triggers = trust.pattern_triggers(plain(), 4)
    assert sorted(triggers.labels[0].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    fedavg = dlsim.algorithms.fedavg(plain(), optax.sgd(0.1), num_local_steps=2)
    taught = trust.server_watermark(fedavg, plain(), triggers, optax.sgd(0.2), max_steps=200)
    process = dlsim.learn(plain(), taught, dlsim.networks.complete(4))
    state, _ = jax.jit(process.step)(jax.random.key(1), process.init(jax.random.key(0)))
    assert float(trust.trigger_accuracy(plain(), triggers, process.params(state))[0, 0]) >= 0.98


def test_free_riders_hold_no_bits_of_their_own():
    riders = np.array([False, False, False, True])
    idle = trust.free_riding(trust.feature_watermark(plain(), marks()), riders, noise=0.5)
    params = model()
    got, losses = gradients(idle, params)
    own, _ = gradients(trust.feature_watermark(plain(), marks()), params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(a[:3], b[:3], rtol=1e-5, atol=1e-7)
    drawn = np.concatenate([np.asarray(leaf[3]).ravel() for leaf in jax.tree.leaves(got)])
    assert float(losses[3]) == 0 and drawn.std() == pytest.approx(0.5, rel=0.2)


def test_forged_keys_are_always_found_and_their_hash_is_not_the_old_one():
    params = jax.tree.map(lambda leaf: leaf[0], model())
    forged = trust.forged_marks(marks(), params)
    assert (trust.bit_detection(forged, jax.tree.map(lambda x: x[None], params)) == 1).all()
    old = trust.commitment(marks())
    assert len(set(old)) == 4 and old == trust.commitment(marks()) and not set(old) & set(trust.commitment(forged))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: trust.feature_marks(plain(), 11, carrier()[1]), "num_bits must be at most 10, the numbers that"),
        (lambda: trust.feature_marks(plain(), 2, "scale"), "carrier must be one of"),
        (lambda: trust.feature_marks(plain(), 2, "kernel"), "carrier must be the name of one leaf"),
        (lambda: trust.feature_watermark(plain(), marks(), margin=-0.1), "margin must be a number in"),
        (lambda: trust.feature_watermark(plain(), marks(), strength=-1.0), "strength must be a number in"),
        (
            lambda: trust.trigger_watermark(
                plain(), trust.noise_triggers(plain(), 2)._replace(labels=jnp.full((4, 2), 3, jnp.int32))
            ),
            "triggers.labels must be classes, 0 to 2, got 3 to 3",
        ),
        (
            lambda: trust.trigger_watermark(plain(), trust.noise_triggers(plain(), 2), num_per_batch=3),
            r"num_per_batch must be an integer in \[1, 2\], got 3",
        ),
        (lambda: trust.free_riding(plain(), np.array([True])), "riders must be True or False for each of 4 nodes"),
    ],
)
def test_bad_input_is_one_line(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def test_over_capacity_is_said():
    with pytest.warns(UserWarning, match="feature_marks: 40 bits in all are more than twice the 10 numbers"):
        trust.feature_marks(plain(), 10, carrier()[1])
