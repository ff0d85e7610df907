"""Who is left out: the formula of masked outliers, the cross-round check, and the published code's sequence in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import trust


@jax.jit
def first(features, bound):
    """A first round in which nobody is lazy."""
    rule = trust.three_sigma(bound, lazy=0.0)
    return rule.apply(rule.init(features), features, jnp.ones(features.shape[1]), jnp.ones(len(features), bool))[1]


def once(rule, features, given=None):
    features = jnp.asarray(features, jnp.float32)
    given = jnp.ones(features.shape[1]) if given is None else given
    return jax.jit(rule.apply)(rule.init(features), features, given, jnp.ones(len(features), bool))[1]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_k_equal_outliers_are_found_below_the_formula_and_not_above(k):
    n = 8
    z = np.sqrt((n - k) / k)
    features = np.ones((n, 3))
    features[:k] = [1, -1, 5]
    for bound, is_found in ((z - 0.01, True), (z + 0.01, False), (3.0, False)):  # 3: never one of ten or fewer
        assert first(features, bound).is_far.tolist() == [is_found] * k + [False] * (n - k)
    assert [round(float(np.sqrt((8 - j) / j)), 3) for j in (1, 2, 3)] == [2.646, 1.732, 1.291]


def test_nobody_is_removed_where_all_are_alike_and_nan_always_is():
    assert once(trust.three_sigma(0.0, lazy=0.0), np.full((5, 2), 2.0)).is_kept.all()
    features = np.ones((5, 2))
    features[3] = np.nan
    assert once(trust.three_sigma(lazy=0.0), features).is_kept.tolist() == [True, True, True, False, True]


def test_who_returns_what_it_was_given_is_lazy_and_who_moves_a_little_is_not():
    given = jnp.array([1.0, 2.0, 3.0])
    features = np.stack([given, given + 1e-2, [1.0, 2.2, 3.0], [1.1, 2.0, 3.0]])
    verdict = once(trust.three_sigma(10.0), features, given)
    assert verdict.is_lazy.tolist() == [True, False, False, False] and not verdict.is_kept[0]


def in_numpy(rounds, given, bound, suspicious=0.3, lazy=1e-7):
    """The rule, one trainer after the other, with the first round tested."""
    cached, centre, kept_all = {}, None, []
    cos = lambda a, b: 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    for t, (f, g) in enumerate(zip(rounds, given, strict=True)):
        n = len(f)
        d = [[cos(f[i], g)] + ([cos(f[i], cached[i])] if i in cached else []) for i in range(n)]
        is_lazy = [min(x) < lazy for x in d]
        moved = [max(x) > suspicious and not z for x, z in zip(d, is_lazy, strict=True)]
        for i in range(n):
            if not moved[i]:
                cached[i] = f[i]
        kept = [i for i in range(n) if not is_lazy[i]]
        if any(moved) or t == 0:
            if centre is None:
                m = -(-len(kept) // 2) - 1
                squares = np.array([[((f[i] - f[j]) ** 2).sum() for j in kept] for i in kept])
                scores = np.sort(squares, axis=1)[:, 1 : m + 1].sum(1)
                centre = f[np.array(kept)[np.argsort(scores)[:m]]].mean(0)
            s = {i: np.linalg.norm(f[i] - centre) for i in kept}
            values = np.array(list(s.values()))
            kept = [i for i in kept if s[i] <= values.mean() + bound * values.std()]
            centre = f[kept].mean(0)
        kept_all.append([i in kept for i in range(n)])
    return kept_all


def test_rounds_are_those_of_the_sequential_rule():
    rng = np.random.default_rng(0)
    rounds = rng.normal(size=(6, 9, 4)) * 0.1 + np.array([1.0, 2, 3, 4])
    rounds[[0, 2, 5], 1] = rng.normal(size=(3, 4)) * 4
    rounds[3, 2] = rounds[2, 2]  # hands in its last one again
    given = rng.normal(size=(6, 4)) * 0.1 + np.array([1.0, 2, 3, 4])
    rule = trust.three_sigma(1.0)
    apply, state, found = jax.jit(rule.apply), rule.init(jnp.zeros((9, 4))), []
    for f, g in zip(rounds, given, strict=True):
        state, verdict = apply(state, jnp.asarray(f, jnp.float32), jnp.asarray(g, jnp.float32), jnp.ones(9, bool))
        found.append(verdict.is_kept.tolist())
    assert found == in_numpy(rounds, given, 1.0)
    assert not found[0][1] and not found[2][1] and not found[3][2] and all(found[1])


def test_the_published_code_lets_the_first_round_pass():
    features = np.ones((8, 3))
    features[0] = [1, -1, 5]
    assert once(trust.three_sigma(first_round="passes"), features, jnp.array([1.0, 1.1, 1.0])).is_kept.all()
    with pytest.raises(ValueError, match="three_sigma: first_round must be"):
        trust.three_sigma(first_round="skipped")
    with pytest.raises(ValueError, match="three_sigma: num_sigmas must be"):
        trust.three_sigma(-1.0)


def test_multi_krum_keeps_those_of_the_least_scores_as_in_numpy():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(9, 5))
    features[[2, 6]] *= 6
    for f, missing in ((2, []), (1, [0, 5]), (0, []), (3, [4])):
        there = [i for i in range(9) if i not in missing]
        squares = np.array([[((features[i] - features[j]) ** 2).sum() for j in there] for i in there])
        scores = np.sort(squares, axis=1)[:, 1 : len(there) - f - 1].sum(axis=1)
        kept = set(np.array(there)[np.argsort(scores)[: len(there) - f]].tolist())
        mask = jnp.asarray([i in there for i in range(9)])
        rule = trust.krum_outliers(f)
        values = jnp.asarray(features, jnp.float32)
        _, verdict = rule.apply(rule.init(values), values, values[0], mask)
        assert set(np.flatnonzero(verdict.is_kept).tolist()) == kept and not verdict.is_lazy.any()
        assert set(np.flatnonzero(verdict.is_far).tolist()) == set(there) - kept
    two = trust.krum_outliers(2).apply((), values, values[0], jnp.ones(9, bool))[1]
    assert np.flatnonzero(two.is_far).tolist() == [2, 6]
    assert once(trust.krum_outliers(1), np.where(np.arange(5)[:, None] == 3, np.nan, features[:5])).is_far[3]


def test_multi_krum_needs_trainers_enough():
    with pytest.raises(
        ValueError, match=r"krum_outliers: num_removed must be f with 2 f \+ 3 <= 8 trainers, got 3. Use"
    ):
        trust.krum_outliers(3).init(jnp.zeros((8, 2)))
    with pytest.raises(ValueError, match="krum_outliers: num_removed must be an integer"):
        trust.krum_outliers(-1)
