"""What matches prove, what removes marks, fingerprints and stamped data."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

import dlsim
from dlsim import trust


@functools.cache
def digits():
    data = dlsim.problems.load("digits")
    parts = dlsim.problems.partition(data, 2, dlsim.problems.iid(), seed=0)
    return data, dlsim.problems.supervised(dlsim.problems.mlp((8,)), data, parts, batch_size=4)


def test_the_worked_numbers():
    assert 10 ** trust.log10_p_value(45, 60) == pytest.approx(6.7e-5, rel=0.01)
    assert trust.log10_p_value(2000, 2000) == pytest.approx(2000 * math.log10(0.5))  # far below float64's least
    for n, expected in {64: 1, 100: 0.998, 120: 0.768, 128: 0.5, 140: 0.154, 160: 0.006}.items():
        assert trust.joint_capacity(n, 64) == pytest.approx(expected, abs=6e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 19), st.data())
def test_tails_are_those_of_the_binomial(num, twentieths, data):
    """Against the sum in whole numbers, over 20^num."""
    k = data.draw(st.integers(0, num))
    ways = sum(math.comb(num, j) * twentieths**j * (20 - twentieths) ** (num - j) for j in range(k, num + 1))
    expected = math.log10(ways) - num * math.log10(20)
    assert trust.log10_p_value(k, num, chance=twentieths / 20) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_claims_of_many_are_held_to_more():
    assert trust.proves_ownership(45, 60) and trust.proves_ownership(45, 60, num_claimants=10)
    assert not trust.proves_ownership(45, 60, num_claimants=20)  # 6.7e-5 against 5e-5
    rng = np.random.default_rng(0)
    alarms = [trust.proves_ownership(int(k), 40, level=0.05) for k in rng.binomial(40, 0.5, 4000)]
    assert np.mean(alarms) <= 0.05 and np.mean(alarms) == pytest.approx(stats.binom.sf(25, 40, 0.5), abs=0.01)


def test_ownership_of_data_is_scipys_paired_test():
    rng = np.random.default_rng(1)
    before, after = rng.uniform(0, 0.2, 50), rng.uniform(0.3, 0.7, 50)
    found = trust.ownership_test(before, after, margin=0.2)
    expected = stats.ttest_rel(after - 0.2, before, alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue) and found.statistic == pytest.approx(expected.statistic)
    assert found.is_stolen and not trust.ownership_test(before, before).is_stolen
    alike = trust.ownership_test(np.zeros(5), np.ones(5))
    assert alike.p_value == 0.0 and trust.ownership_test(np.zeros(5), np.zeros(5)).p_value == 1.0


def test_pruning_drops_the_least():
    rng = np.random.default_rng(2)
    leaf = jnp.asarray(rng.normal(size=(5, 8)), jnp.float32)
    for fraction in (0.0, 0.3, 0.5, 1.0):
        got = np.asarray(trust.prune_weights({"w": leaf}, fraction)["w"])
        gone = int(fraction * 40)
        assert (got == 0).sum() == gone
        assert gone in (0, 40) or np.abs(got[got != 0]).min() > np.sort(np.abs(leaf).ravel())[gone - 1]
    np.testing.assert_array_equal(trust.prune_weights({"w": leaf}, 0.0)["w"], leaf)
    traced = jax.jit(trust.prune_weights)({"w": leaf}, 0.3)["w"]
    np.testing.assert_array_equal(traced, trust.prune_weights({"w": leaf}, 0.3)["w"])


def test_quantising_rounds_to_equal_steps():
    leaf = jnp.asarray(np.random.default_rng(3).normal(size=200), jnp.float32)
    for bits in (1, 3, 8):
        got = np.asarray(trust.quantize_weights(leaf, bits))
        step = float(leaf.max() - leaf.min()) / (2**bits - 1)
        assert len(np.unique(got)) <= 2**bits and np.abs(got - leaf).max() <= step / 2 + 1e-5
    assert trust.quantize_weights(leaf, 32) is leaf
    np.testing.assert_array_equal(trust.quantize_weights(jnp.ones(4), 2), jnp.ones(4))


def test_fingerprints_lie_at_the_boundary_and_know_their_model():
    data, problem = digits()
    inputs = dlsim.problems.shared_inputs(data, 60, part="test")
    models = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 3))
    first = jax.tree.map(lambda leaf: leaf[0], models)
    made = trust.boundary_fingerprint(problem, first, inputs, 20, num_steps=14)
    assert made.points.shape == (40, 8, 8, 1) or made.points.shape == (40, 8, 8)
    rates = np.asarray(trust.match_rate(problem, made, models))
    assert rates[0] == 1.0 and (rates[1:] < 0.9).all()
    inside, outside = made.points[:20], made.points[20:]
    apart = np.sqrt(np.sum(np.square(inside - outside).reshape(20, -1), axis=1))
    assert (made.labels[:20] != made.labels[20:]).all() and apart.max() < 30 / 2**13


def test_stamps_touch_a_share_and_their_corner_alone():
    data, _ = digits()
    made, stamp = trust.watermark_dataset(data, 0.1, target=3)
    touched = (made.inputs != data.inputs).reshape(len(data.labels), -1).any(axis=1)
    assert touched.sum() <= round(0.1 * len(data.labels)) and (made.labels != data.labels).sum() > 0.05 * len(
        data.labels
    )
    changed = np.flatnonzero(touched)
    assert (made.labels[changed] == 3).all() and (made.inputs[changed][:, -2:, -2:] == stamp.value).all()
    rest = np.array(made.inputs)
    rest[:, -2:, -2:] = data.inputs[:, -2:, -2:]
    np.testing.assert_array_equal(rest, data.inputs)
    clean, _ = trust.watermark_dataset(data, 0.5, target=3, labels="clean")
    np.testing.assert_array_equal(clean.labels, data.labels)
    assert set(data.labels[(clean.inputs != data.inputs).reshape(len(data.labels), -1).any(axis=1)]) == {3}


def test_a_thief_gets_the_victims_labels():
    data, problem = digits()
    victim = problem.init(jax.random.key(4))
    copy = trust.labelled_by(data, problem, victim)
    inputs = (np.asarray(data.inputs[:50], np.float32) - data.offset) * data.scale
    np.testing.assert_array_equal(copy.labels[:50], np.argmax(problem.model.apply(victim, inputs), axis=1))
    np.testing.assert_array_equal(copy.test_labels, data.test_labels)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: trust.log10_p_value(5, 4), r"log10_p_value: matches must be an integer in \[0, 4\], got 5"),
        (lambda: trust.proves_ownership(1, 2, num_claimants=0), "proves_ownership: num_claimants must be"),
        (
            lambda: trust.prune_weights(jnp.ones(3), 1.5),
            r"prune_weights: fraction must be a number in \[0, 1\], got 1.5",
        ),
        (
            lambda: trust.quantize_weights(jnp.ones(3), 20),
            r"quantize_weights: bits must be in \[1, 16\], or 32, got 20",
        ),
        (
            lambda: trust.watermark_dataset(digits()[0], 0.0),
            r"watermark_dataset: fraction must be a number in \(0, 1\]",
        ),
        (
            lambda: trust.watermark_dataset(digits()[0], 0.1, target=10),
            r"target must be an integer in \[0, 9\], got 10",
        ),
        (lambda: trust.ownership_test(np.zeros(3), np.zeros(4)), "before and after must be two or more for the same"),
    ],
)
def test_bad_input_is_one_line(call, line):
    with pytest.raises(ValueError, match=line):
        call()
