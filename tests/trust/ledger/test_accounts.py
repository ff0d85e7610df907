"""The books balance to the unit under any events; parts of a whole are exact; reputations follow their closed form."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import trust

NUM = 4
EVENTS = ("lock", "fund", "release", "slash", "slash to", "pay", "pay part")


@jax.jit
def happen(ledger, event, who, amount, shares):
    """One of the events, chosen by number, so that all sequences are one program."""
    return jax.lax.switch(
        event,
        [
            lambda: trust.lock(ledger, who, amount)[0],
            lambda: trust.fund(ledger, who, amount)[0],
            lambda: trust.release(ledger, who),
            lambda: trust.slash(ledger, who, amount),
            lambda: trust.slash(ledger, who, amount, to=1),
            lambda: trust.pay(ledger, amount, shares)[0],
            lambda: trust.pay(ledger, amount, shares, is_whole=False)[0],
        ],
    )


AMOUNTS = st.one_of(st.integers(0, 50), st.integers(0, 2**31 - 1))
SHARE = st.one_of(st.floats(0, 1, width=32), st.sampled_from([float("nan"), float("inf"), -1.0, 1e-38, 3e38]))
EVENT = st.tuples(
    st.integers(0, len(EVENTS) - 1),
    st.lists(st.booleans(), min_size=NUM, max_size=NUM),
    AMOUNTS,
    st.lists(SHARE, min_size=NUM, max_size=NUM),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 2**29 - 1), min_size=NUM, max_size=NUM),
    st.integers(0, 2**28),
    st.lists(EVENT, max_size=12),
)
def test_money_is_conserved_and_never_negative_whatever_happens(balances, pool, events):
    ledger = trust.open_ledger(np.array(balances), pool=min(pool, 2**31 - 1 - sum(balances)))
    total = int(trust.total_money(ledger))
    assert total == sum(balances) + int(ledger.pool)
    for event, who, amount, shares in events:
        ledger = happen(ledger, event, np.array(who), jnp.int32(amount), np.array(shares, np.float32))
        held = np.concatenate([ledger.balances, ledger.stakes, [ledger.pool]]).astype(np.int64)
        assert held.sum() == total and (held >= 0).all(), EVENTS[event]


@settings(deadline=None, max_examples=200)
@given(AMOUNTS, st.lists(st.floats(0, 1, width=32), min_size=7, max_size=7), st.booleans())
def test_parts_are_those_of_exact_fractions(amount, shares, is_whole):
    parts = np.asarray(split(jnp.int32(amount), np.array(shares, np.float32), is_whole=is_whole)).astype(np.int64)
    positive = np.array(shares) > 0
    assert (parts >= 0).all() and not parts[~positive].any()
    if not positive.any():
        assert not parts.any()
        return
    left = amount - parts.sum()
    assert left == 0 if is_whole else 0 <= left < len(shares)
    whole = sum(Fraction(s) for s in shares)
    for part, share in zip(parts, shares, strict=True):
        # A unit for the remainder, and the 28 bits of a share.
        assert abs(part - amount * Fraction(share) / whole) <= 1 + amount * Fraction(9, 2**28)


split = jax.jit(trust.split_exactly, static_argnames="is_whole")


def test_parts_by_hand():
    assert split(jnp.int32(100), np.array([1.0, 1.0, 1.0])).tolist() == [34, 33, 33]
    assert split(jnp.int32(100), np.array([1.0, 1.0, 1.0]), is_whole=False).tolist() == [33, 33, 33]
    assert split(jnp.int32(7), np.array([0.5, 0.25, 0.25, 0.0])).tolist() == [3, 2, 2, 0]  # 3.5, 1.75, 1.75
    assert split(jnp.int32(2**31 - 1), np.array([0.0, 2.0])).tolist() == [0, 2**31 - 1]
    assert split(jnp.int32(5), np.array([-1.0, np.nan])).tolist() == [0, 0]


def test_only_who_can_pay_joins_and_a_slashed_deposit_is_what_is_left():
    ledger = trust.open_ledger(np.array([5, 20, 30]))
    ledger, joined = trust.lock(ledger, np.ones(3, bool), 10)
    assert joined.tolist() == [False, True, True]
    ledger = trust.slash(ledger, np.array([True, True, False]), 25)
    assert ledger.stakes.tolist() == [0, 0, 10] and int(ledger.pool) == 10
    ledger, got = trust.pay(ledger, 100, np.array([1.0, 0.0, 1.0]))
    assert got.tolist() == [5, 0, 5] and trust.release(ledger, np.ones(3, bool)).balances.tolist() == [10, 10, 35]


def test_reputation_goes_to_one_as_its_closed_form():
    reputation = jnp.array([0.5, 0.5])
    for _ in range(10):
        reputation = trust.reputation_step(reputation, np.array([True, False]), 0.2)
    np.testing.assert_allclose(reputation, [1 - 0.5 * 0.8**10, 0.5 * 0.8**10], rtol=1e-6)
    assert round(float(reputation[0]), 4) == 0.9463


def test_bad_books_get_one_line():
    with pytest.raises(ValueError, match=r"open_ledger: balances must be less than 2\^31 units in all"):
        trust.open_ledger(np.array([2**31 - 1, 1]))
    with pytest.raises(ValueError, match="open_ledger: balances must be whole numbers"):
        trust.open_ledger(np.array([0.5, 1]))
    with pytest.raises(ValueError, match="lock: amount must be whole numbers"):
        trust.lock(trust.open_ledger(np.array([1, 1])), np.ones(2, bool), -3)
    with pytest.raises(ValueError, match="slash: who must be True or False"):
        trust.slash(trust.open_ledger(np.array([1, 1])), np.ones(3, bool), 1)
    with pytest.raises(ValueError, match=r"reputation_step: reputation\[1\] must be"):
        trust.reputation_step(np.array([0.5, 1.5]), np.ones(2, bool))
