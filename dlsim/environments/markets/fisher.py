"""Fisher markets by proportional response: buyers bid on a few sellers each, and only those two ever talk.

U buyers, each with C candidate sellers of B.  A round is two messages a pair: a bid there, what it buys back.

    p_j  = sum_i b_ij / W_j                       price: all bids on a seller, over what it has
    x_ij = W_j b_ij / sum_i b_ij                  everyone gets in proportion
    r_i  = sum_j s_ij x_ij                        what that is worth to the buyer
    b_ij <- m_i s_ij x_ij / r_i                   next time, spend where the worth came from

The fixed point is the market's equilibrium, which maximises sum_i m_i log r_i subject to sum_i x_ij <= W_j (Eisenberg and
Gale), with the prices as dual variables: s_ij m_i / r_i <= p_j, and equality where x_ij > 0.  The utility never falls.

Sources: Wu and Zhang, Proportional response dynamics leads to market equilibrium, STOC 2007; Zhang, Proportional response
dynamics in the Fisher market, TCS 2011; price-anticipating buyers: Feldman, Lai, Zhang, A price-anticipating resource
allocation mechanism for distributed shared clusters, EC 2005.  All functions are pure, and batch under `vmap`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array
from dlsim.environments.environment import as_array

TINY = 1e-30
LEAST_SPENT = 1e-6  # of its budget: a buyer that needs nearly nothing can still come back


class Trade(NamedTuple):
    """What a round of bids buys."""

    prices: Array  # [B] a unit of a seller's goods; 0 where nobody bids
    allocation: Array  # [U, C]
    rates: Array  # [U] worth of it to the buyer


class Market(NamedTuple):
    """A market after some rounds."""

    bids: Array  # [U, C] of the next round
    spent: Array  # [U] the buyer's budget, less what it does not need
    trade: Trade  # of the last round
    utilities: Array  # [rounds] sum m log r after each round, of buyers that can be served


def start_bids(worth: Array, budgets: Array) -> Array:
    """The first bids, `[U, C]`: the budget in equal parts over the candidates."""
    return jnp.broadcast_to((budgets / worth.shape[1])[:, None], worth.shape)


def clear(near: Array, worth: Array, bids: Array, supply: Array) -> Trade:
    """What bids buy: each seller's goods in proportion to the bids on it.

    Args:
      near: int32 `[U, C]`, each buyer's candidates.
      worth: `[U, C]`, of a unit of the candidate's goods to the buyer (s); 0: of no use, or no candidate.
      bids: `[U, C]`, 0 or more.
      supply: `[B]`, what each seller has (W), 0 or more.
    """
    total = jnp.zeros_like(supply).at[near].add(bids)
    total = jnp.where(total > TINY, total, 0.0)  # less than that is no bid
    each = jnp.where(total > 0, supply / jnp.maximum(total, TINY), 0.0)
    allocation = bids * each[near]
    prices = jnp.where(supply > 0, total / jnp.maximum(supply, TINY), 0.0)
    return Trade(prices, allocation, jnp.sum(worth * allocation, axis=1))


def respond(worth: Array, trade: Trade, spent: Array, bids: Array) -> Array:
    """The next bids `[U, C]`: where the worth came from.  A buyer that got nothing bids as before."""
    came = worth * trade.allocation
    share = came / jnp.maximum(trade.rates, TINY)[:, None]
    before = bids / jnp.maximum(jnp.sum(bids, axis=1), TINY)[:, None]
    return spent[:, None] * jnp.where((trade.rates > 0)[:, None], share, before)


def spend(budgets: Array, spent: Array, rates: Array, demand: Array) -> Array:
    """What buyers spend `[U]` who need no more than `demand`: m_eff <- min(m, m_eff D / r), nothing where D is 0."""
    wanted = jnp.where(jnp.isinf(demand), budgets, spent * demand / jnp.maximum(rates, TINY))
    kept = jnp.clip(wanted, LEAST_SPENT * budgets, budgets)
    return jnp.where(demand > 0, kept, 0.0)


def log_utility(budgets: Array, rates: Array) -> Array:
    """sum_i m_i log r_i, `[]`, over the buyers that have something."""
    return jnp.sum(jnp.where(rates > 0, budgets * jnp.log(jnp.maximum(rates, TINY)), 0.0))


def fisher_market(
    near: Array,
    worth: Array,
    budgets: Array,
    supply: Array,
    rounds: int,
    *,
    demand: Array | float = float("inf"),
    bids: Array | None = None,
    tolerance: float = 0.0,
) -> Market:
    """A market of `rounds` rounds of proportional response.

    Args:
      near: int32 `[U, C]`, candidate sellers of each buyer, each once.
      worth: `[U, C]` (s_ij); 0 pads the candidates of buyers that have fewer.  A buyer to whom nothing is of worth is
        left out of the utility; its bids stay as they are.
      budgets: `[U]` (m_i), 0 or more.
      supply: `[B]` (W_j), 0 or more.
      rounds: R, 1 or more.
      demand: `[U]` or one number (D_i), in units of r; a buyer spends only what it needs.
      bids: `[U, C]` to start from, in place of equal parts.
      tolerance: bids stay as they are once none changes by more than this part of its buyer's budget.

    Returns a `Market`, whose `trade` is that of round R.  O(R U C) work, two gathers and one scatter-add a round.
    """
    where = "fisher_market"
    near = as_array(where, "near", near, kind="integers")
    worth, budgets = as_array(where, "worth", worth), as_array(where, "budgets", budgets)
    supply = as_array(where, "supply", supply)
    check_market(where, near, worth, budgets, supply)
    rounds = checks.integer(where, "rounds", rounds, 1)
    checks.number(where, "tolerance", tolerance, 0.0)
    wanted = _demand(where, demand, budgets)
    _not_negative(where, "demand", wanted)
    first = start_bids(worth, budgets) if bids is None else as_array(where, "bids", bids, worth.shape)
    _not_negative(where, "bids", first)
    first = jnp.where((wanted > 0)[:, None], first, 0.0)

    def one(carry: tuple[Array, Array, Array], _: Any) -> tuple[tuple[Array, Array, Array], tuple[Trade, Array]]:
        bids, spent, is_done = carry
        trade = clear(near, worth, bids, supply)
        left = spend(budgets, spent, trade.rates, wanted)
        after = respond(worth, trade, left, bids)
        change = jnp.max(jnp.abs(after - bids) / jnp.maximum(budgets, TINY)[:, None])
        after, left = (jnp.where(is_done, old, new) for old, new in ((bids, after), (spent, left)))
        return (after, left, is_done | (change < jnp.asarray(tolerance, change.dtype))), (
            trade,
            log_utility(budgets, trade.rates),
        )

    start = (first, jnp.where(wanted > 0, budgets, 0.0), jnp.zeros((), bool))
    (after, spent, _), (trades, utilities) = jax.lax.scan(one, start, length=rounds)
    return Market(after, spent, jax.tree.map(lambda leaf: leaf[-1], trades), utilities)


def anticipate(near: Array, worth: Array, bids: Array, budgets: Array, supply: Array) -> Array:
    """Best responses `[U, C]` of buyers who know that their own bids raise the prices.

    Against y_ij, what the others bid on a seller, a buyer maximises sum_j s_ij W_j b_ij / (b_ij + y_ij) at sum_j b_ij =
    m_i: b_ij = a_ij (m_i + sum y_ik) / sum a_ik - y_ij with a_ij = sqrt(s_ij W_j y_ij), over the sellers with the
    largest s_ij W_j / y_ij for which this is positive.  Where nobody else bids, a thousandth of the budget is bid, which
    buys all.  Source: Feldman, Lai, Zhang, EC 2005.
    """
    total = jnp.zeros_like(supply).at[near].add(bids)
    others = jnp.maximum(total[near] - bids, 0.0)
    value = worth * supply[near]
    alone = (others <= 1e-6 * jnp.maximum(total[near], TINY)) & (value > 0)
    token = jnp.where(alone, 1e-3 * budgets[:, None], 0.0)
    budget = jnp.maximum(budgets - jnp.sum(token, axis=1), 0.0)
    usable = (value > 0) & ~alone
    merit = jnp.where(usable, value / jnp.maximum(others, TINY), -1.0)
    order = jnp.argsort(-merit, axis=1)
    a = jnp.take_along_axis(jnp.where(usable, jnp.sqrt(value * others), 0.0), order, 1)
    y = jnp.take_along_axis(jnp.where(usable, others, 0.0), order, 1)
    # With the k best sellers, the last of them still gets a positive bid: the largest such k is the optimum.
    ratio = (budget[:, None] + jnp.cumsum(y, 1)) / jnp.maximum(jnp.cumsum(a, 1), TINY)
    positive = (a * ratio - y > 0) & (a > 0)
    count = jnp.max(jnp.where(positive, jnp.arange(1, a.shape[1] + 1), 0), axis=1)
    chosen = jnp.take_along_axis(ratio, jnp.maximum(count - 1, 0)[:, None], 1)
    sorted_bids = jnp.where(jnp.arange(a.shape[1]) < count[:, None], jnp.maximum(a * chosen - y, 0.0), 0.0)
    back = jnp.argsort(order, axis=1)
    made = jnp.take_along_axis(sorted_bids, back, 1) + token
    return made * (budgets / jnp.maximum(jnp.sum(made, 1), TINY))[:, None]


def equal_share(near: Array, worth: Array, supply: Array, asked: str = "all") -> Trade:
    """No market: every seller divides what it has equally among those who ask it.

    Buyers ask `all` their candidates, the `first` alone (the nearest), or the `best`, the one of most worth.  Padding
    (worth 0) is never asked.
    """
    checks.one_of("equal_share", "asked", asked, ("all", "first", "best"))
    places = jnp.arange(worth.shape[1])
    best = jnp.argmax(worth, axis=1)[:, None]
    asks = (worth > 0) & {"all": places >= 0, "first": places < 1, "best": places == best}[asked]
    return clear(near, worth, asks.astype(supply.dtype), supply)


def posted_price(near: Array, worth: Array, budgets: Array, supply: Array, price: Array | float, order: Array) -> Trade:
    """First come, first served at one fixed price: in `order` `[U]`, buyers spend on their best candidate that has any.

    Each goes on to its next best candidate, in the order of worth, while it has budget left.
    """
    rank = jnp.argsort(-worth, axis=1)

    def serve(left: Array, buyer: Array) -> tuple[Array, Array]:
        def visit(carry: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            left, money = carry
            seller = near[buyer, place]
            got = jnp.where(worth[buyer, place] > 0, jnp.minimum(left[seller], money / price), 0.0)
            return (left.at[seller].add(-got), money - got * price), (place, got)

        (left, _), (places, got) = jax.lax.scan(visit, (left, budgets[buyer]), rank[buyer])
        return left, jnp.zeros_like(worth[0]).at[places].set(got)

    _, rows = jax.lax.scan(serve, supply, order)
    allocation = jnp.zeros_like(worth).at[order].set(rows)
    return Trade(jnp.full_like(supply, price), allocation, jnp.sum(worth * allocation, axis=1))


def random_matching(key: Array, near: Array, worth: Array, supply: Array) -> Trade:
    """Every buyer asks one candidate, drawn uniformly from those of worth, and sellers divide equally."""
    draws = jax.random.uniform(key, worth.shape)
    chosen = jnp.argmax(jnp.where(worth > 0, draws, -1.0), axis=1)
    asks = (jnp.arange(worth.shape[1]) == chosen[:, None]) & (worth > 0)
    return clear(near, worth, asks.astype(supply.dtype), supply)


def check_market(where: str, near: Array, worth: Array, budgets: Array, supply: Array) -> None:
    """Shapes always, values where they are known: ValueError with one line."""
    if jnp.ndim(near) != 2 or near.shape[0] < 1 or near.shape[1] < 1:
        checks.fail(where, "near", "of shape [U, C]", str(list(jnp.shape(near))))
    checks.shape(where, "worth", worth, near.shape)
    checks.shape(where, "budgets", budgets, (near.shape[0],))
    checks.shape(where, "supply", supply, (None,))
    for name, value in (("worth", worth), ("budgets", budgets), ("supply", supply)):
        checks.finite(where, name, value)
        _not_negative(where, name, value)
    if not checks.is_concrete((near, worth)):
        return
    known = np.asarray(near)
    if known.min() < 0 or known.max() >= supply.shape[0]:
        got = f"{int(known.min())} to {int(known.max())}"
        checks.fail(where, "near", f"of numbers of sellers, 0 to {supply.shape[0] - 1}", got)
    used = np.where(np.asarray(worth) > 0, known, -1 - np.arange(known.shape[1]))
    ordered = np.sort(used, axis=1)
    twice = np.any(ordered[:, 1:] == ordered[:, :-1], axis=1)
    if twice.any():
        row = int(np.argmax(twice))
        checks.fail(where, "near", "without a seller twice in a row", f"{known[row].tolist()} in row {row}")


def _demand(where: str, demand: Any, budgets: Array) -> Array:
    """What buyers need, one number or `[U]`, infinite or not."""
    rule = f"numbers, one or {budgets.shape[0]}"
    if not isinstance(demand, jax.core.Tracer):
        given = checks.host(where, "demand", demand, rule)
        if not np.issubdtype(given.dtype, np.floating) and not np.issubdtype(given.dtype, np.integer):
            checks.fail(where, "demand", rule, checks.describe(demand))
        demand = given
    if demand.shape not in ((), budgets.shape):
        checks.fail(where, "demand", rule, f"shape {list(demand.shape)}")
    return jnp.broadcast_to(jnp.asarray(demand, jnp.float32), budgets.shape)


def _not_negative(where: str, name: str, value: Array) -> None:
    if not checks.is_concrete(value):
        return
    known = np.asarray(value)
    if np.isnan(known).any() or (known < 0).any():
        bad = np.argwhere(np.isnan(known) | (known < 0))[0]
        place = tuple(int(i) for i in bad)
        checks.fail(where, name, "0 or more", f"{known[place]:g} at index {list(place)}")
