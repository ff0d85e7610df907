"""A market of trainers: FedAvg when nobody is judged, budgets to the unit, contributions that sum to the gain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import trust

NUM, BUDGET, DEPOSIT = 6, 1001, 50


@pytest.fixture(scope="module")
def world():
    data = dlsim.problems.synthetic_classification(240, 5, 3)
    parts = dlsim.problems.partition(data, NUM, dlsim.problems.iid(), seed=1)
    return dlsim.problems.supervised("softmax", data, parts, batch_size=8)


@pytest.fixture(scope="module")
def by_rule(world):
    """Payments and contributions under the default rule, which several tests look at."""
    return played(world, num_steps=5)


def played(world, num_steps=3, seed=0, scenario=None, channel=None, algorithm=None, **options):
    network = dlsim.networks.complete(NUM)
    network = network if channel is None else network.with_channel(channel)
    options = {"num_rounds": 3, "budget": BUDGET, "deposit": DEPOSIT, **options}
    made = algorithm or trust.proof_of_contribution(world, optax.sgd(0.2), world, num_local_epochs=2, **options)
    process = dlsim.learn(world, made, network, scenario)

    def record(state, info):
        one = state.algorithm
        if algorithm is not None:
            return {"params": jax.tree.leaves(one.params)[0]}
        return {
            "params": jax.tree.leaves(one.params)[0],
            "total": trust.total_money(one.ledger),
            "balances": one.ledger.balances,
            "paid": one.paid,
            "phi": one.contributions,
            "gain": one.utility - one.start_utility,
            "removed": info["is_removed"],
            "strikes": one.strikes,
        }

    run = dlsim.simulate(process, seed=seed, num_steps=num_steps, record=dlsim.Record(fn=record), progress=False)
    return run.results


def test_budget_and_efficiency_and_fedavg_bit_for_bit(world, by_rule):
    results = by_rule.isel(step=slice(4))
    last = results.isel(step=-1)
    plain = played(world, algorithm=dlsim.algorithms.fedavg(world, optax.sgd(0.2), num_local_epochs=2))
    assert (results.params.values == plain.params.values).all()
    assert int(last.paid.sum()) == BUDGET and (results.total == BUDGET + (NUM + 1) * DEPOSIT).all()
    assert abs(float(last.phi.sum() - last.gain)) < 1e-5 and float(last.gain) > 0.1
    share = np.maximum(last.phi.values, 0)
    assert np.abs(last.paid.values - BUDGET * share / share.sum()).max() <= 1
    held = last.balances.values
    assert (held[:NUM] == DEPOSIT + last.paid.values).all() and held[NUM:].tolist() == [DEPOSIT, 0]


def test_a_closed_market_changes_nothing_more(by_rule):
    results = by_rule
    assert (results.params.values[3] == results.params.values[5]).all()
    assert (results.balances.values[3] == results.balances.values[5]).all()


def test_random_models_are_removed_unpaid_and_slashed_and_free_riders_are_lazy(world):
    conduct = trust.conduct(NUM, random_models=[0], free_riders=[3])
    results = played(world, conduct=conduct, outliers=trust.three_sigma())
    assert results.removed.values[1:, 0].all() and results.removed.values[1:, 3].all()
    last = results.isel(step=-1)
    assert last.paid.values[0] == last.paid.values[3] == 0 and int(last.paid.sum()) == BUDGET
    assert last.balances.values[[0, 3]].tolist() == [0, 0] and last.balances.values[NUM + 1] == 2 * DEPOSIT
    assert (results.total == BUDGET + (NUM + 1) * DEPOSIT).all()


def test_a_median_takes_the_place_of_the_mean_in_the_round_and_in_coalitions(world):
    median = dlsim.aggregators.median()
    last = played(world, num_steps=1, num_rounds=1, aggregator=median)
    plain = dlsim.algorithms.fedavg(world, optax.sgd(0.2), num_local_epochs=2, aggregator=median)
    assert (last.params.values == played(world, num_steps=1, algorithm=plain).params.values).all()
    end = last.isel(step=-1)
    assert abs(float(end.phi.sum() - end.gain)) < 1e-5 and float(end.gain) > 0.05


def test_a_baseline_pays_by_size_and_sampled_values_are_near_exact_ones(world, by_rule):
    exact = by_rule.isel(step=-1)
    sampled = played(world, contribution="sampled_shapley", num_permutations=200).isel(step=-1)
    assert abs(float(sampled.phi.sum() - sampled.gain)) < 1e-5
    np.testing.assert_allclose(sampled.phi, exact.phi, atol=0.15 * float(exact.gain))
    paid = played(world, contribution="examples").isel(step=-1).paid.values
    assert sorted(paid.tolist()) == [166] + [167] * 5


def test_a_lying_aggregator_is_caught_by_proofs_and_pays(world, by_rule):
    last = played(world, accomplice=2).isel(step=-1)
    assert (by_rule.paid.values[-1] == last.paid.values).all()
    assert last.balances.values[NUM:].tolist() == [0, DEPOSIT]
    unseen = played(world, accomplice=2, audit_probability=0.0).isel(step=-1)
    assert unseen.paid.values.tolist() == [0, 0, BUDGET, 0, 0, 0]


def test_lost_and_absent_trainers_contribute_nothing_and_seeds_go_side_by_side(world):
    results = played(world, seed=[0, 1], scenario=dlsim.networks.random_presence(0.5), channel=dlsim.networks.loss(0.2))
    assert np.isfinite(results.phi.values).all() and (results.total == BUDGET + (NUM + 1) * DEPOSIT).all()
    assert (results.paid.isel(step=-1).sum("node") == BUDGET).all()


def test_where_nothing_is_positive_those_never_removed_share_alike():
    from dlsim.trust.rewards.market import contribution_shares

    shares = contribution_shares(jnp.array([-1.0, 0.0, -2.0]), jnp.array([0, 0, 1]))
    assert shares.tolist() == [1.0, 1.0, 0.0]
    assert contribution_shares(jnp.array([-1.0, 0.5, 0.0]), jnp.array([0, 0, 0])).tolist() == [0.0, 0.5, 0.0]


def test_bad_input_gets_one_line(world):
    def made(**options):
        trust.proof_of_contribution(world, optax.sgd(0.1), world, **options)

    for options, line in (
        ({"contribution": "banzhaf"}, "contribution must be"),
        ({"audit_probability": 1.2}, "audit_probability must be"),
        ({"accomplice": 6}, "accomplice must be an integer"),
        ({"deposit": 2**31 - 1}, "deposit must be an integer"),
        ({"conduct": trust.conduct(4)}, "conduct must be of the problem's 6 nodes, got 4 nodes"),
        ({"outliers": "krum"}, "outliers must be"),
        ({"aggregator": "median"}, "aggregator must be"),
    ):
        with pytest.raises(ValueError, match=f"proof_of_contribution: {line}"):
            made(**options)
    big = dlsim.problems.quadratic(17, 3)
    with pytest.raises(ValueError, match="contribution must be a sampled rule for more than 16 trainers"):
        trust.proof_of_contribution(big, optax.sgd(0.1), big)
    with pytest.raises(ValueError, match="conduct: disguised must be nodes that no other kind names, got 1"):
        trust.conduct(3, free_riders=[1], disguised=[1])
    with pytest.raises(ValueError, match="one without cohorts"):
        played(world, scenario=dlsim.networks.participation(3))
