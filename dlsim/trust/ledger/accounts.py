"""Accounts in whole units: free money, deposits and a pool, between which money moves and is never made or lost.

Every operation takes a `Ledger` and gives one with the same `total_money`; nothing in it ever goes below zero.  So no sum
can overflow if the first one does not, which `open_ledger` checks.  All are pure, and batch under `vmap`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.aggregators.candidates import ranks
from dlsim.core import Array

WEIGHT_BITS = 28  # of a share: sums of all shares, three times over, still fit into 32 bits


class Ledger(NamedTuple):
    """Who has what, in whole units."""

    balances: Array  # int32 [n] free money of each account
    stakes: Array  # int32 [n] what each has locked as its deposit
    pool: Array  # int32 [] what the contract holds


@checks.typed
def open_ledger(balances: Any, *, pool: int = 0) -> Ledger:
    """Books with these balances, no deposits, and a pool.

    Args:
      balances: whole units >= 0, `[n]`; with the pool less than 2^31 in all.
      pool: whole units >= 0 that the contract holds.
    """
    where = "open_ledger"
    held = _amounts(where, "balances", balances)
    pool = checks.integer(where, "pool", pool, 0)
    if np.ndim(held) != 1 or not np.size(held):
        checks.fail(where, "balances", "whole units of one account or more, [n]", checks.describe(balances))
    if checks.is_concrete(held) and int(np.sum(held, dtype=np.int64)) + pool > checks.LARGEST_INTEGER:
        total = int(np.sum(held, dtype=np.int64)) + pool
        checks.fail(where, "balances", "less than 2^31 units in all, with the pool", total, "Count in larger units.")
    held = jnp.asarray(held, jnp.int32)
    return Ledger(held, jnp.zeros_like(held), jnp.asarray(pool, jnp.int32))


@checks.typed
def total_money(ledger: Ledger) -> Array:
    """All there is, int32 `[]`: sum of balances and stakes, and the pool.  No operation changes it."""
    return _sum(ledger.balances) + _sum(ledger.stakes) + ledger.pool


@checks.typed
def lock(ledger: Ledger, who: Any, amount: Any) -> tuple[Ledger, Array]:
    """Those of `who` that can lock `amount` from their balance as a deposit; and who did, bool `[n]`.

    A balance below the amount is no error: that account stays outside.

    Args:
      ledger: the books, as `open_ledger` opens them.
      who: bool `[n]`.
      amount: whole units >= 0, one for all or `[n]`.
    """
    wanted, can = _taken("lock", ledger, who, amount)
    return ledger._replace(balances=ledger.balances - wanted, stakes=ledger.stakes + wanted), can


@checks.typed
def fund(ledger: Ledger, who: Any, amount: Any) -> tuple[Ledger, Array]:
    """Those of `who` that can pay `amount` from their balance into the pool; and who did, bool `[n]`.

    Args:
      ledger: the books, as `open_ledger` opens them.
      who: bool `[n]`.
      amount: whole units >= 0, one for all or `[n]`.
    """
    paid, can = _taken("fund", ledger, who, amount)
    return ledger._replace(balances=ledger.balances - paid, pool=ledger.pool + _sum(paid)), can


@checks.typed
def release(ledger: Ledger, who: Any) -> Ledger:
    """The deposits of `who`, bool `[n]`, go back to their balances."""
    back = jnp.where(_mask("release", ledger, who), ledger.stakes, 0)
    return ledger._replace(balances=ledger.balances + back, stakes=ledger.stakes - back)


@checks.typed
def slash(ledger: Ledger, who: Any, amount: Any, *, to: int | None = None) -> Ledger:
    """`amount` of the deposits of `who`, or what is left of them, goes to the pool, or to the account `to`.

    Args:
      ledger: the books, as `open_ledger` opens them.
      who: bool `[n]`.
      amount: whole units >= 0, one for all or `[n]`.
      to: position of an account, structural; None: the pool.
    """
    where = "slash"
    owed = _per_account(where, ledger, amount)
    taken = jnp.where(_mask(where, ledger, who), jnp.minimum(owed, ledger.stakes), 0)
    left = ledger._replace(stakes=ledger.stakes - taken)
    if to is None:
        return left._replace(pool=ledger.pool + _sum(taken))
    to = checks.integer(where, "to", to, 0, ledger.balances.shape[0] - 1)
    return left._replace(balances=left.balances.at[to].add(_sum(taken)))


@checks.typed
def pay(ledger: Ledger, amount: Any, shares: Any, *, is_whole: bool = True) -> tuple[Ledger, Array]:
    """`amount` of the pool, or what is in it, goes to the balances in proportion to `shares`; and what each got, int32 `[n]`.

    Args:
      ledger: the books, as `open_ledger` opens them.
      amount: whole units >= 0.
      shares: `[n]`; what is not above zero gets nothing, and where nothing is, nothing is paid.
      is_whole: see `split_exactly`: whether the units that are left over are paid as well, or stay in the pool.
    """
    where = "pay"
    shares = _shares(where, shares, ledger.balances.shape[0])
    due = jnp.minimum(jnp.asarray(_amounts(where, "amount", amount, is_one=True), jnp.int32), ledger.pool)
    parts = split_exactly(due, shares, is_whole=is_whole)
    return ledger._replace(balances=ledger.balances + parts, pool=ledger.pool - _sum(parts)), parts


@checks.typed
def split_exactly(amount: Any, shares: Any, *, is_whole: bool = True) -> Array:
    """Whole parts of a whole amount, in proportion to shares, int32 `[n]`: to the unit, whatever the rounding of floats.

        w_i = floor(2^28 s_i / sum s),   p_i = floor(amount w_i / sum w)

    in integers.  What the floors leave, fewer than n units, goes one by one to the largest remainders, of equal ones the
    first; or nobody gets it.  Equal shares get equal parts, but for that one unit.

    Args:
      amount: whole units in [0, 2^31); may be traced.
      shares: `[n]`; those that are not finite and above zero count as zero.  All zero: nobody gets anything.
      is_whole: whether all of the amount is given, or the remainder is kept back; structural.
    """
    where = "split_exactly"
    shares = _shares(where, shares)
    due = jnp.asarray(_amounts(where, "amount", amount, is_one=True)).astype(jnp.uint32)
    counted = jnp.where(jnp.isfinite(shares) & (shares > 0), shares, 0).astype(jnp.float32)
    counted = counted / jnp.maximum(jnp.max(counted, initial=0), jnp.finfo(jnp.float32).tiny)
    relative = counted / jnp.maximum(jnp.sum(counted), 1)  # the largest is one, unless all are zero
    weights = jnp.floor(relative * 2.0**WEIGHT_BITS).astype(jnp.uint32)
    whole = jnp.maximum(jnp.sum(weights), 1).astype(jnp.uint32)

    def next_bit(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """Long division of amount * w_i by sum w, one bit of the amount after the other, in 32 bits."""
        quotient, rest = carry
        bit = (due >> (30 - k).astype(jnp.uint32)) & 1
        rest = 2 * rest + bit * weights
        times = (rest >= whole).astype(jnp.uint32) + (rest >= 2 * whole).astype(jnp.uint32)
        return 2 * quotient + times, rest - times * whole

    quotient, rest = jax.lax.fori_loop(0, 31, next_bit, (jnp.zeros_like(weights), jnp.zeros_like(weights)))
    if is_whole:
        left = due - jnp.sum(quotient).astype(jnp.uint32)
        rank = ranks(-rest.astype(jnp.int32)).astype(jnp.uint32)
        quotient = quotient + ((rank < left) & (rest > 0)).astype(jnp.uint32)
    return quotient.astype(jnp.int32)


@checks.typed
def reputation_step(reputation: Any, has_passed: Any, step: Any = 0.2) -> Array:
    """t <- (1 - step) t + step [passed], `[n]`: never failing, t goes to one as 1 - (1 - t_0) (1 - step)^r.

    Args:
      reputation: `[n]` in [0, 1].
      has_passed: bool `[n]`.
      step: in [0, 1]; may be traced.
    """
    where = "reputation_step"
    given = checks.array(where, "reputation", reputation, (None,), 0.0, 1.0)
    checks.probability(where, "step", step)
    passed = jnp.asarray(_booleans(where, "has_passed", has_passed, given.shape[0]))
    return (1 - step) * jnp.asarray(given, jnp.float32) + step * passed


def _taken(where: str, ledger: Ledger, who: Any, amount: Any) -> tuple[Array, Array]:
    """What leaves the balances of those of `who` that have it, `[n]`, and who they are."""
    wanted = _per_account(where, ledger, amount)
    can = _mask(where, ledger, who) & (ledger.balances >= wanted)
    return jnp.where(can, wanted, 0), can


def _sum(amounts: Array) -> Array:
    """int32 `[]`, also where JAX would take 64 bits."""
    return jnp.sum(amounts, dtype=jnp.int32)


def _per_account(where: str, ledger: Ledger, amount: Any) -> Array:
    given = jnp.asarray(_amounts(where, "amount", amount), jnp.int32)
    if given.shape not in ((), ledger.balances.shape):
        rule = f"whole units, one or {ledger.balances.shape[0]}"
        checks.fail(where, "amount", rule, f"shape {list(given.shape)}")
    return jnp.broadcast_to(given, ledger.balances.shape)


def _mask(where: str, ledger: Ledger, who: Any) -> Array:
    return jnp.asarray(_booleans(where, "who", who, ledger.balances.shape[0]))


def _booleans(where: str, argument: str, value: Any, num: int) -> Any:
    got = (
        value if isinstance(value, jax.core.Tracer) else checks.host(where, argument, value, f"True or False, [{num}]")
    )
    if got.dtype != bool or got.shape != (num,):
        checks.fail(where, argument, f"True or False, [{num}]", checks.describe(value))
    return got


def _shares(where: str, shares: Any, num: int | None = None) -> Array:
    got = shares if isinstance(shares, jax.core.Tracer) else checks.host(where, "shares", shares)
    if not checks.is_real_type(got.dtype):
        checks.fail(where, "shares", "real numbers", checks.describe(shares))
    checks.shape(where, "shares", got, (num,))
    return jnp.asarray(got)


def _amounts(where: str, argument: str, value: Any, *, is_one: bool = False) -> Any:
    """Whole units >= 0, on the host, or a tracer of integers."""
    rule = "one whole number of units >= 0, below 2^31" if is_one else "whole numbers of units >= 0, below 2^31"
    got = value if isinstance(value, jax.core.Tracer) else checks.host(where, argument, value, rule)
    is_integer = np.issubdtype(got.dtype, np.integer)
    if not is_integer or (is_one and got.ndim):
        checks.fail(where, argument, rule, checks.describe(value))
    if not isinstance(got, jax.core.Tracer) and got.size and not 0 <= got.min() <= got.max() <= checks.LARGEST_INTEGER:
        checks.fail(where, argument, rule, checks.describe(value))
    return got
