"""Every pair of strategies: the books balance, and honest trainers end with what they had and their pay."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import dlsim
from dlsim import trust
from dlsim.trust.ledger.contract import AGGREGATORS, CLOSED, OWNERS

NUM, BUDGET, DEPOSIT = 3, 1000, 100


def played(owner, aggregator, **options):
    process = trust.contract_game(
        NUM, owner=owner, aggregator=aggregator, budget=BUDGET, deposit=DEPOSIT, num_rounds=2, **options
    )
    run = dlsim.simulate(process, seed=0, num_steps=12, progress=False)
    totals = run.results.total.values
    assert (totals == totals[0]).all() and totals[0] == BUDGET + (NUM + 1) * DEPOSIT
    last = run.results.isel(step=-1)
    assert int(last.phase) == CLOSED
    return last


def ended(process, keys):
    """What the aggregator has at the end, by game, of 8 ticks."""

    def game(key):
        state, _ = jax.lax.scan(lambda s, k: process.step(k, s), process.init(key), jax.random.split(key, 8))
        return state.outside + process.measure(state, {})["gains"][NUM]

    return np.asarray(jax.jit(jax.vmap(game))(keys))


PAID = [167, 333, 500]  # 1000 in proportion to 1, 2, 3; the unit left over goes to the largest remainder


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_honest_trainers_never_lose_and_are_paid_where_training_began(owner, aggregator):
    last = played(owner, aggregator)
    gains = last.gains.values
    began = owner != "never_funds" and aggregator != "never_joins"
    assert gains[:NUM].tolist() == (PAID if began else [0, 0, 0])
    assert gains[NUM] == (-DEPOSIT if began and aggregator in ("stops", "lies") else 0)
    assert gains[NUM + 1] == (-BUDGET - gains[NUM] if began else 0)
    assert (int(last.refused) > 0) == (began and owner == "withdraws")


def test_a_lie_pays_below_the_threshold_only():
    """(1 - p) g against p penalty: at g = 100 and a penalty of 100 the threshold is p = 1/2."""
    for p, pays in ((0.3, True), (0.7, False)):
        process = trust.contract_game(
            NUM, aggregator="lies", budget=BUDGET, deposit=DEPOSIT, num_rounds=1, gain=100, audit_probability=p
        )
        net = ended(process, jax.random.split(jax.random.key(1), 200))
        assert set(net.tolist()) == {100, -100} and (net.mean() > 0) == pays
        assert abs((net > 0).mean() - (1 - p)) < 0.12  # 200 draws: 3.4 standard errors


def test_a_lie_that_nobody_finds_pays_the_accomplice():
    last = played("honest", "lies", audit_probability=0.0, gain=7)
    assert last.paid.values.tolist() == [BUDGET, 0, 0] and int(last.outside) == 14


def test_bad_terms_get_one_line():
    with pytest.raises(ValueError, match="contract_game: deposit must be at least the penalty, 20, got 10"):
        trust.contract_game(3, deposit=10, penalty=20)
    with pytest.raises(ValueError, match="contract_game: audit_probability must be"):
        trust.contract_game(3, audit_probability=1.5)
    with pytest.raises(ValueError, match="contract_game: owner must be"):
        trust.contract_game(3, owner="leaves")


@pytest.mark.parametrize("wide", [False, True])
def test_states_keep_their_shapes_and_types_in_64_bits_too(wide):
    data = dlsim.problems.synthetic_classification(80, 4, 3)
    parts = dlsim.problems.partition(data, 4, dlsim.problems.local_test())
    problem = dlsim.problems.supervised("softmax", data, parts, batch_size=2)
    rule = trust.three_sigma()
    doing = trust.conduct(4, free_riders=[1], liars=[2])
    markets = [
        trust.proof_of_contribution(problem, optax.sgd(0.1), problem, outliers=rule, accomplice=1, conduct=doing),
        trust.staked_fedavg(problem, optax.sgd(0.1), num_evaluators=2, conduct=doing),
    ]
    learning = [dlsim.learn(problem, market, dlsim.networks.complete(4)) for market in markets]
    games = [trust.contract_game(2, aggregator=aggregator) for aggregator in AGGREGATORS]
    with jax.enable_x64(wide):
        for process in (*learning, *games):
            state = jax.eval_shape(process.init, jax.random.key(0))
            after = jax.eval_shape(process.step, jax.random.key(0), state)[0]
            assert jax.tree.structure(state) == jax.tree.structure(after)
            pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
            assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)
        ledger = state.ledger
        assert {leaf.dtype.name for leaf in jax.tree.leaves(ledger)} == {"int32"}
