"""Shapley values: the page's example, a brute-force NumPy version, efficiency, symmetry, null players, additivity."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import trust

KEY = jax.random.key(3)


def brute_force(table: np.ndarray, num: int) -> np.ndarray:
    """The mean gain over all n! orders; `table[coalition]`, bit i for player i."""
    values = np.zeros(num)
    for order in itertools.permutations(range(num)):
        coalition = 0
        for player in order:
            values[player] += table[coalition | 1 << player] - table[coalition]
            coalition |= 1 << player
    return values / math.factorial(num)


def of_table(table):
    """A utility that looks coalitions up."""
    table = jnp.asarray(table, jnp.float32)

    def utility(masks):
        return table[masks @ (1 << jnp.arange(masks.shape[1]))]

    return utility


@jax.jit
def exact(table):
    return trust.exact_shapley(of_table(table), 5)


@jax.jit
def sampled(key, table, present):
    return trust.sampled_shapley(key, of_table(table), 5, num_permutations=400, present=present)


PAGE = np.array([0, 40, 60, 70, 80, 75, 85, 90.0])  # {}, 0, 1, 01, 2, 02, 12, 012


def test_the_example_by_hand():
    values = trust.exact_shapley(of_table(PAGE), 3)
    np.testing.assert_allclose(values, [95 / 6, 185 / 6, 260 / 6], rtol=1e-6)
    assert [round(float(v), 2) for v in values] == [15.83, 30.83, 43.33] and abs(float(values.sum()) - 90) < 1e-5
    np.testing.assert_allclose(trust.leave_one_out(of_table(PAGE), 3), [5, 15, 20], rtol=1e-6)
    np.testing.assert_allclose(trust.exact_shapley(of_table([1.0, 4.0]), 1), [3.0])  # u(1) - u(0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_values_are_those_of_all_orders_and_sum_to_the_gain(seed):
    table = np.random.default_rng(seed).normal(size=32).astype(np.float32)
    values = np.asarray(exact(table))
    np.testing.assert_allclose(values, brute_force(table, 5), atol=2e-6)
    assert abs(values.sum() - (table[31] - table[0])) < 1e-5
    estimate = sampled(jax.random.key(seed), table, np.ones(5, bool))
    assert abs(float(estimate.values.sum()) - (table[31] - table[0])) < 1e-5  # each order's gains do
    assert (np.abs(np.asarray(estimate.values) - values) < 5.5 * np.asarray(estimate.standard_errors) + 1e-6).all()


def test_players_that_are_alike_get_alike_and_null_players_nothing():
    masks = (np.arange(32)[:, None] >> np.arange(5)) & 1
    # 0 and 1 are alike, 3 never matters.
    table = np.sqrt(masks[:, 0] + masks[:, 1] + 2 * masks[:, 2]) + masks[:, 4] * masks[:, 0] * masks[:, 1]
    values = np.asarray(exact(table))
    assert abs(values[0] - values[1]) < 1e-6 and values[3] == 0 and values[4] > 0
    assert np.asarray(sampled(KEY, table, np.ones(5, bool)).values)[3] == 0
    assert np.asarray(trust.leave_one_out(of_table(table), 5))[3] == 0


def test_values_of_two_rounds_add_up():
    first, second = np.random.default_rng(0).normal(size=(2, 32))
    np.testing.assert_allclose(exact(first + second), exact(first) + exact(second), atol=1e-5)


def test_who_is_removed_gets_nothing_and_the_others_what_they_get_without_it():
    table = np.random.default_rng(1).normal(size=8)
    present = np.array([True, False, True])
    values = np.asarray(trust.exact_shapley(of_table(table), 3, present=present))
    small = brute_force(table[[0, 1, 4, 5]], 2)
    assert values[1] == 0
    np.testing.assert_allclose(values[[0, 2]], small, atol=1e-6)
    estimate = sampled(KEY, np.concatenate([table, table, table, table]), np.array([True, False, True, False, False]))
    assert float(estimate.values[1]) == 0 == float(estimate.standard_errors[1])
    loo = np.asarray(trust.leave_one_out(of_table(table), 3, present=present))
    np.testing.assert_allclose(loo, [table[5] - table[4], 0, table[5] - table[1]], atol=1e-6)
    pairs = np.asarray(trust.sampled_leave_one_out(KEY, of_table(table), 3, present=present))
    np.testing.assert_allclose(pairs, [table[5] - table[4], 0, table[5] - table[1]], atol=1e-6)


def gtg_in_numpy(orders: np.ndarray, table: np.ndarray, between: float, within: float, change: float) -> np.ndarray:
    """GTG-Shapley one coalition after the other, on given orders (n a turn)."""
    num = orders.shape[1]
    if abs(table[-1] - table[0]) <= between:
        return np.zeros(num)
    records: list[np.ndarray] = []
    for k, order in enumerate(orders):
        if k % num == 0 and k > 30:
            running = np.cumsum(records, 0) / np.arange(1, k + 1)[:, None]
            tail = running[-10:]
            if np.max(np.mean(np.abs(tail - tail[-1:]) / (np.abs(tail[-1:]) + 1e-12), -1)) <= change:
                break
        worth, coalition, gains = table[0], 0, np.zeros(num)
        for player in order:
            coalition |= 1 << player
            now = table[coalition] if abs(table[-1] - worth) >= within else worth
            gains[player], worth = now - worth, now
        records.append(gains)
    return np.mean(records, axis=0)


@jax.jit
def guided(table, within, change):
    options = {"num_permutations": 200, "is_guided": True, "between": 0.01, "within": within, "change": change}
    return trust.sampled_shapley(KEY, of_table(table), 5, **options)


@pytest.mark.parametrize(("within", "change"), [(0.05, 0.0), (0.05, 0.05), (1e-3, 0.02)])
def test_gtg_is_the_sequential_one(within, change):
    from dlsim.trust.rewards.shapley import _orders

    masks = (np.arange(32)[:, None] >> np.arange(5)) & 1
    table = (1 - np.exp(-(masks @ np.array([1.0, 0.8, 0.5, 0.3, 0.1])))).astype(np.float32)
    estimate = guided(table, within, change)
    rank = np.asarray(_orders(KEY, 200, 5, True))
    orders = np.argsort(rank, axis=1)
    assert (orders[:, 0] == np.arange(200) % 5).all()
    np.testing.assert_allclose(estimate.values, gtg_in_numpy(orders, table, 0.01, within, change), atol=2e-6)
    assert (int(estimate.num_permutations) < 200) == (change > 0)
    assert not np.asarray(guided(0.01 * table, within, change).values).any()


def test_a_coalition_is_the_weighted_average_of_its_models_in_any_blocks():
    rng = np.random.default_rng(2)
    models = {"w": rng.normal(size=(6, 3, 2)).astype(np.float32), "b": rng.normal(size=(6, 2)).astype(np.float32)}
    alone = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}
    weights = np.array([1.0, 2, 3, 0, 4, 5])

    def evaluate(made):
        return jnp.sum(made["w"] ** 2, axis=(1, 2)) + made["b"][:, 0]

    masks = rng.random((11, 6)) < 0.5
    masks[0], masks[1] = False, np.arange(6) == 3  # nobody; one without weight
    found = [trust.coalition_utility(evaluate, models, weights, alone, block=b)(jnp.asarray(masks)) for b in (None, 4)]
    for mask, *got in zip(masks, *found, strict=True):
        held = weights * mask
        mean = alone
        if held.sum() > 0:
            mean = {k: np.tensordot(held / held.sum(), v, axes=1) for k, v in models.items()}
        want = (mean["w"] ** 2).sum() + mean["b"][0]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bad_input_gets_one_line():
    with pytest.raises(ValueError, match="exact_shapley: num_players must be an integer"):
        trust.exact_shapley(of_table(PAGE), 17)
    with pytest.raises(ValueError, match="sampled_shapley: num_permutations must be a multiple of the 3 players"):
        trust.sampled_shapley(KEY, of_table(PAGE), 3, num_permutations=10, is_guided=True)
    with pytest.raises(ValueError, match="leave_one_out: utility must be a function of masks"):
        trust.leave_one_out(lambda masks: masks, 3)
    with pytest.raises(ValueError, match=r"coalition_utility: weights\[0\] must be"):
        trust.coalition_utility(lambda m: m, np.ones((2, 3)), np.array([-1.0, 1]), np.ones(3))
    with pytest.raises(ValueError, match="exact_shapley: present must be True or False"):
        trust.exact_shapley(of_table(PAGE), 3, present=np.ones(3))


def test_coalitions_whose_models_a_median_mixes():
    """u(S) is the median of x_i over S, and of nobody what there is without."""
    x = jnp.asarray([[1.0], [10.0], [2.0], [7.0]])

    def mix(mask):
        return jnp.nanmedian(jnp.where(mask[:, None], x, jnp.nan), axis=0)

    utility = trust.coalition_utility(lambda m: m[:, 0], x, jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.array([-3.0]), mix=mix)
    masks = jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]], bool)
    assert utility(masks).tolist() == [2.0, 5.5, 2.0, -3.0]
