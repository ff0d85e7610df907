"""Fisher markets: worked examples, the oracle, the equilibrium as a convex program, invariants, and bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import fisher as oracle

from dlsim.environments.markets import fisher
from dlsim.environments.markets.fisher import fisher_market

ONE = jnp.zeros((3, 1), jnp.int32)


def world(seed=0, users=40, stations=8, cluster=3):
    draw = np.random.default_rng(seed)
    near = np.stack([draw.choice(stations, cluster, replace=False) for _ in range(users)]).astype(np.int32)
    worth = draw.uniform(0.2, 4.0, (users, cluster)).astype(np.float32)
    return (
        near,
        worth,
        draw.uniform(0.5, 2.0, users).astype(np.float32),
        draw.uniform(1, 5, stations).astype(np.float32),
    )


def test_one_seller_is_cleared_in_one_round():
    made = fisher_market(ONE, jnp.array([[1.0], [2.0], [4.0]]), jnp.array([1.0, 1.0, 2.0]), jnp.array([10.0]), 1).trade
    np.testing.assert_allclose(made.allocation[:, 0], [2.5, 2.5, 5.0], rtol=1e-6)
    np.testing.assert_allclose(made.prices, [0.4], rtol=1e-6)
    np.testing.assert_allclose(made.rates, [2.5, 5.0, 20.0], rtol=1e-6)


def test_a_buyer_that_needs_little_spends_little():
    demand = jnp.array([1.0, jnp.inf, jnp.inf])
    budgets = jnp.array([1.0, 1.0, 2.0])
    made = fisher_market(ONE, jnp.array([[1.0], [2.0], [4.0]]), budgets, jnp.array([10.0]), 60, demand=demand)
    np.testing.assert_allclose(made.trade.allocation[:, 0], [1.0, 3.0, 6.0], rtol=1e-5)
    np.testing.assert_allclose(made.trade.prices, [1 / 3], rtol=1e-5)
    np.testing.assert_allclose(made.spent, [1 / 3, 1.0, 2.0], rtol=1e-5)


def test_buyers_of_different_goods_part_at_once():
    near = jnp.array([[0, 1], [0, 1]])
    made = fisher_market(near, jnp.eye(2), jnp.ones(2), jnp.ones(2), 2).trade
    np.testing.assert_allclose(made.allocation, np.eye(2), atol=1e-7)
    np.testing.assert_allclose(made.prices, [1.0, 1.0], rtol=1e-6)


def test_bids_of_symmetric_buyers_part_by_half_each_round():
    near, worth = jnp.array([[0, 1], [0, 1]]), jnp.array([[2.0, 1.0], [1.0, 2.0]])
    for rounds in range(1, 8):
        made = fisher_market(near, worth, jnp.ones(2), jnp.ones(2), rounds)
        np.testing.assert_allclose(made.bids[0, 1] / made.bids[0, 0], 0.5**rounds, rtol=1e-5)
        np.testing.assert_allclose(made.trade.prices, [1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("is_capped", [False, True])
def test_rounds_are_those_of_the_oracle(is_capped):
    near, worth, budgets, supply = world()
    demand = np.where(np.arange(40) % 3 == 0, 1.0, np.inf) if is_capped else np.full(40, np.inf)
    made = fisher_market(near, worth, budgets, supply, 12, demand=jnp.asarray(demand, jnp.float32))
    as_lists = (near.tolist(), worth.tolist(), budgets.tolist(), supply.tolist())
    prices, allocation, rates, utilities = oracle.play(*as_lists, 12, demand.tolist())
    np.testing.assert_allclose(made.trade.prices, prices, rtol=2e-5)
    np.testing.assert_allclose(made.trade.allocation, allocation, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(made.trade.rates, rates, rtol=2e-5)
    np.testing.assert_allclose(made.utilities, utilities, rtol=1e-5, atol=1e-4)


@pytest.mark.needs("cvxpy")
def test_the_limit_is_the_convex_programs_optimum():
    import cvxpy

    near, worth, budgets, supply = world(3, users=12, stations=5)
    x = cvxpy.Variable(near.shape, nonneg=True)
    rates = cvxpy.sum(cvxpy.multiply(worth, x), axis=1)
    limits = [cvxpy.sum(cvxpy.multiply((near == j).astype(float), x)) <= supply[j] for j in range(5)]
    program = cvxpy.Problem(cvxpy.Maximize(budgets @ cvxpy.log(rates)), limits)
    program.solve()
    made = fisher_market(near, worth, budgets, supply, 4000)
    assert abs(program.value - float(made.utilities[-1])) < 1e-3
    np.testing.assert_allclose(made.trade.rates, rates.value, rtol=5e-3)
    np.testing.assert_allclose(made.trade.prices, [float(limit.dual_value) for limit in limits], rtol=5e-3)


@pytest.mark.parametrize("seed", range(4))
def test_invariants(seed):
    near, worth, budgets, supply = world(seed)
    trade, bids = None, fisher.start_bids(jnp.asarray(worth), jnp.asarray(budgets))
    for _ in range(15):
        trade = fisher.clear(near, worth, bids, supply)
        bids = fisher.respond(worth, trade, budgets, bids)
        sold = np.zeros(8)
        np.add.at(sold, near, np.asarray(trade.allocation))
        np.testing.assert_allclose(sold, supply, rtol=1e-5)
        np.testing.assert_allclose(np.sum(bids, axis=1), budgets, rtol=1e-5)
    made = fisher_market(near, worth, budgets, supply, 3000)
    assert np.all(np.diff(made.utilities[:50]) >= -1e-4)
    ratio = worth * budgets[:, None] / np.asarray(made.trade.rates)[:, None] / np.asarray(made.trade.prices)[near]
    assert ratio.max() <= 1 + 5e-3
    traded = np.asarray(made.trade.allocation) > 0.05
    np.testing.assert_allclose(ratio[traded], 1.0, atol=5e-3)


def test_scales_and_orders():
    near, worth, budgets, supply = world(1)
    plain = fisher_market(near, worth, budgets, supply, 30).trade
    richer = fisher_market(near, worth, 4 * budgets, supply, 30).trade
    np.testing.assert_allclose(richer.prices, 4 * plain.prices, rtol=1e-5)
    np.testing.assert_allclose(richer.allocation, plain.allocation, rtol=1e-4, atol=1e-6)
    better = worth.copy()
    better[5] *= 8
    np.testing.assert_allclose(
        fisher_market(near, better, budgets, supply, 30).trade.allocation, plain.allocation, rtol=1e-4, atol=1e-6
    )
    order = np.random.default_rng(0).permutation(40)
    mixed = fisher_market(near[order], worth[order], budgets[order], supply, 30).trade
    np.testing.assert_allclose(mixed.rates, plain.rates[order], rtol=1e-4)


def test_edges():
    near = jnp.array([[0, 1], [0, 2], [1, 2]])
    worth = jnp.array([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]])  # padding; a buyer nobody can serve
    made = fisher_market(near, worth, jnp.ones(3), jnp.array([1.0, 0.0, 2.0]), 20)
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(made)])).all()
    assert float(made.trade.rates[1]) == 0.0
    np.testing.assert_allclose(made.bids[1], [0.5, 0.5])
    np.testing.assert_allclose(made.bids[0], [1.0, 0.0], atol=1e-6)  # what is of no worth gets no bids
    assert float(made.trade.prices[1]) == 0.0 and float(made.trade.allocation[:, 0][2]) == 0.0
    nobody = fisher_market(near, worth, jnp.ones(3), jnp.ones(4), 3, demand=jnp.zeros(3))
    assert not np.any(nobody.bids) and not np.any(nobody.trade.prices)
    still = fisher_market(near, worth, jnp.ones(3), jnp.ones(3), 50, tolerance=0.5)
    # The first round changes half of a budget, the second less than that, and the third is not played.
    np.testing.assert_array_equal(still.bids, fisher_market(near, worth, jnp.ones(3), jnp.ones(3), 2).bids)


def test_markets_batch():
    near, worth, budgets, supply = world(2)
    scales = jnp.array([1.0, 2.0, 5.0])
    many = jax.vmap(lambda s: fisher_market(near, worth, budgets, s * supply, 8).trade.rates)(scales)
    one = fisher_market(near, worth, budgets, 2.0 * supply, 8).trade.rates
    np.testing.assert_allclose(many[1], one, rtol=1e-6)


def test_best_responses_are_best():
    """Against any bids of the others no split on a fine grid is worth more."""
    near, worth, budgets, supply = world(4, users=6, stations=4)
    bids = np.asarray(fisher.start_bids(jnp.asarray(worth), jnp.asarray(budgets)))
    made = np.asarray(fisher.anticipate(near, worth, bids, budgets, supply))
    np.testing.assert_allclose(made.sum(axis=1), budgets, rtol=1e-5)
    assert (made >= 0).all()
    grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)])
    total = np.zeros(4)
    np.add.at(total, near, bids)
    for i in range(6):
        others = total[near[i]] - bids[i]

        def value(b, i=i, others=others):
            return np.sum(worth[i] * supply[near[i]] * b / (b + others + 1e-12), axis=-1)

        assert value(made[i]) >= value(budgets[i] * grid).max() - 1e-4


def test_one_that_bids_alone_keeps_its_budget():
    near, worth = jnp.array([[0, 1], [1, 2]]), jnp.array([[1.0, 2.0], [1.0, 0.0]])
    bids = fisher.anticipate(near, worth, jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.ones(2), jnp.ones(3))
    np.testing.assert_allclose(bids.sum(axis=1), 1.0, rtol=1e-6)
    assert float(bids[0, 0]) < 0.01 and float(bids[1, 1]) == 0.0


def test_baselines():
    near, worth = jnp.array([[0, 1], [0, 1], [0, 1]]), jnp.array([[1.0, 2.0], [2.0, 1.0], [4.0, 1.0]])
    supply = jnp.array([6.0, 3.0])
    np.testing.assert_allclose(fisher.equal_share(near, worth, supply, "first").rates, [2.0, 4.0, 8.0])
    np.testing.assert_allclose(fisher.equal_share(near, worth, supply, "best").rates, [6.0, 6.0, 12.0])
    np.testing.assert_allclose(fisher.equal_share(near, worth, supply).rates, [4.0, 5.0, 9.0])
    # In the order 2, 0, 1 at price 1: 5 of the six units of seller 0; all three of seller 1; what is left.
    order = jnp.array([2, 0, 1])
    made = fisher.posted_price(near, worth, jnp.array([4.0, 2.0, 5.0]), supply, 1.0, order)
    np.testing.assert_allclose(made.allocation, [[1.0, 3.0], [0.0, 0.0], [5.0, 0.0]])
    drawn = fisher.random_matching(jax.random.key(0), near, worth, supply)
    assert np.all(np.count_nonzero(drawn.allocation, axis=1) == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": -np.ones(3)}, r"budgets must be 0 or more, got -1 at index \[0\]"),
        ({"budgets": np.array([1, np.nan, 1])}, "budgets must be finite"),
        ({"supply": np.array([-1.0, 1])}, r"supply must be 0 or more, got -1 at index \[0\]"),
        ({"near": np.array([[0, 2], [0, 1], [0, 1]])}, "near must be of numbers of sellers, 0 to 1, got 0 to 2"),
        (
            {"near": np.array([[0, 1], [1, 1], [0, 1]])},
            r"without a seller twice in a row, got \[1, 1\] in row 1",
        ),
        ({"near": np.zeros(3, int)}, r"near must be of shape \[U, C\]"),
        ({"worth": np.ones((3, 1))}, r"worth must be of shape \[3, 2\]"),
        ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
        ({"demand": -1.0}, "demand must be 0 or more"),
    ],
)
def test_bad_input(change, message):
    good = {"near": np.array([[0, 1]] * 3), "worth": np.ones((3, 2)), "budgets": np.ones(3), "supply": np.ones(2)}
    with pytest.raises(ValueError, match="fisher_market: .*" + message):
        fisher_market(**{**good, "rounds": 2, **change})
