"""Staked federated averaging: FedAvg when nothing is at stake, medians, tests, fines, and books that balance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import trust
from dlsim.networks.scenes.presence import restrict
from dlsim.trust.ledger.staking import evaluators, judge

NUM = 8
SGD = optax.sgd(0.2)


def problem_of(parts, data):
    return dlsim.problems.supervised("softmax", data, parts, batch_size=8)


@pytest.fixture(scope="module")
def worlds():
    data = dlsim.problems.synthetic_classification(480, 5, 3)
    parts = dlsim.problems.partition(data, NUM, dlsim.problems.local_test(0.4), seed=1)
    flip = np.broadcast_to(np.arange(3)[::-1], (NUM, 3)).astype(np.int32)
    return problem_of(parts, data), problem_of(parts._replace(label_permutation=flip), data)


def played(world, num_steps=6, scenario=None, algorithm=None, **options):
    made = algorithm or trust.staked_fedavg(world, SGD, num_local_epochs=1, num_evaluators=3, **options)
    process = dlsim.learn(world, made, dlsim.networks.complete(NUM), scenario)

    def record(state, info):
        one = state.algorithm
        found = {"params": jax.tree.leaves(one.params)[0], "accuracy": process.measure(state, info)["accuracy"]}
        if algorithm is not None:
            return found
        more = {name: info[name] for name in ("is_poison", "is_lazy", "is_liar", "earned", "slashed", "chain_bytes")}
        return {
            **found,
            **more,
            "total": trust.total_money(one.ledger),
            "balances": one.ledger.balances,
            "stakes": one.ledger.stakes,
            "pool": one.ledger.pool,
            "pot": one.pot,
            "reputation": one.reputation,
            "is_member": one.is_member,
            "paid": one.paid,
            "messages": process.measure(state, info)["messages_sent"],
        }

    record = dlsim.Record(fn=record)
    return dlsim.simulate(process, seed=0, num_steps=num_steps, record=record, progress=False).results


ENDOWED = 20_000 * NUM + 1_000_000


def test_with_nothing_at_stake_it_is_fedavg_bit_for_bit(worlds):
    free = {"slash_fraction": 0.0, "reward": 0, "reputation_rate": 0.0, "poison_margin": 2.0, "liar_margin": 2.0}
    ours = played(worlds[0], num_steps=3, **free)
    plain = dlsim.algorithms.fedavg(worlds[0], SGD, num_local_epochs=1)
    assert (ours.params.values == played(worlds[0], num_steps=3, algorithm=plain).params.values).all()
    assert (ours.reputation == 0.5).all() and not ours.earned.values[1:].any()


def test_honest_workers_are_paid_from_the_pool_and_keep_their_stakes(worlds):
    results = played(worlds[0], poison_margin=1.0)
    assert (results.total == ENDOWED).all() and (results.stakes.values[1:] == 10_000).all()
    last = results.isel(step=-1)
    assert (last.balances + last.stakes == 20_000 + last.paid).all()
    paid = results.earned.sum("node").values[1:]
    assert paid[0] > 0 and (np.cumsum(paid) <= 1_000 * NUM * np.arange(1, 7)).all()
    assert (results.pot.values[1:] + np.cumsum(paid) == 1_000 * NUM * np.arange(1, 7)).all()  # nothing is lost
    np.testing.assert_allclose(last.reputation, 1 - 0.5 * 0.8**6, rtol=1e-5)
    # A model up and 3 for its evaluators a worker; the model down is the server's.
    assert (np.diff(results.messages.values) == NUM * (1 + 3 + 1)).all()
    assert (results.chain_bytes.values[1:] == NUM * (32 + 3 * 8)).all()


def test_the_dishonest_are_found_fined_and_expelled_from_the_round_they_begin(worlds):
    conduct = trust.conduct(NUM, free_riders=[1], flipped=[2], liars=[5], since=2)
    options = {"num_steps": 12, "conduct": conduct, "poisoned": worlds[1], "poison_margin": 0.2}
    results = played(worlds[0], **options)
    assert not results.is_lazy.values[1:3].any() and (results.is_lazy.values[3:5] == (np.arange(NUM) == 1)).all()
    assert results.is_poison.values[3, 2] and results.is_liar.values[3, 5]
    assert not results.is_liar.values[1:, [0, 1, 2, 3, 4, 6, 7]].any()
    assert results.stakes.values[3, [1, 2, 5]].tolist() == [5_000] * 3
    assert (results.total == ENDOWED).all()
    last = results.isel(step=-1)
    wealth = (last.balances + last.stakes).values
    assert wealth[[0, 3, 4, 6, 7]].min() > wealth[[1, 2, 5]].max() and wealth[2] < 20_000
    assert not last.is_member.values[[1, 2, 5]].any() and (last.stakes.values[[1, 2, 5]] == 0).all()
    assert results.earned.values[3:, [1, 2, 5]].sum() == 0
    back = played(worlds[0], rejoins=True, **options).isel(step=-1)
    assert (back.balances + back.stakes).values[[1, 2, 5]].sum() < wealth[[1, 2, 5]].sum()


def away(rows, at, more, later):
    """These nodes are away from round `at` on, and `more` as well from round `later` on."""
    first, second = (jnp.asarray(~np.isin(np.arange(NUM), one)) for one in (rows, [*rows, *more]))
    return dlsim.Scenario(
        init=lambda key, network: jnp.zeros((), jnp.int32),
        step=lambda key, t, network: (t + 1, restrict(network, (first | (t < at)) & (second | (t < later)))),
    )


def test_who_is_away_loses_reputation_and_too_few_members_pause_the_contract(worlds):
    results = played(worlds[0], num_steps=6, scenario=away([0, 1], 1, [2, 3, 4], 4))
    assert results.reputation.values[4, 0] < 0.5 < results.reputation.values[4, 5]
    assert results.earned.values[2:, :2].sum() == 0 and (results.total == ENDOWED).all()
    assert not results.earned.values[5:].any() and (results.params.values[5:] == results.params.values[4]).all()
    assert (results.reputation.values[5:] == results.reputation.values[4]).all()


def test_everybody_is_scored_by_k_others_and_scores_k():
    for active in (np.ones(9, bool), np.arange(9) % 3 > 0):
        to, is_asked = evaluators(jax.random.key(1), jnp.asarray(active), 4)
        to, is_asked = np.asarray(to), np.asarray(is_asked)
        assert (is_asked == active[:, None]).all()
        assert (to[active] != np.flatnonzero(active)[:, None]).all() and active[to[active]].all()
        assert (np.bincount(to[active].ravel(), minlength=9) == 4 * active).all()
        assert all(len(set(row)) == 4 for row in to[active].tolist())


def test_the_median_of_five_takes_two_lies_and_not_three():
    base, member = jnp.zeros(6), jnp.ones(6, bool)
    to, heard = jnp.arange(1, 6)[None].repeat(6, 0), jnp.ones((6, 5), bool)

    def quality(*scores):
        return judge(jnp.tile(jnp.array(scores), (6, 1)), base, to, heard, member)

    assert float(quality(0.9, 0.9, 0.8, 0, 0).quality[0]) == pytest.approx(0.8)
    assert float(quality(0.9, 0.9, 0, 0, 0).quality[0]) == 0.0
    told = quality(0.9, 0.9, 0.8, jnp.nan, -1.0)
    assert float(told.quality[0]) == pytest.approx(0.9)
    assert told.is_absurd.tolist() == [False] * 4 + [True, True]
    np.testing.assert_allclose(told.error, [0, 0, 0, 0.1, 0, 0], atol=1e-6)
    four = judge(jnp.array([[0.1, 0.2, 0.4, 0.5]]).repeat(6, 0), base, to[:, :4], heard[:, :4], member)
    assert float(four.quality[0]) == pytest.approx(0.3)  # of an even number, the mean of the middle two


def test_bad_terms_get_one_line(worlds):
    for options, line in (
        ({"stake": 30_000}, "stake must be at most the endowment, 20000, got 30000"),
        ({"slash_fraction": 1.1}, "slash_fraction must be"),
        ({"expel_below": -0.1}, "expel_below must be"),
        ({"pays": "all"}, "pays must be"),
        ({"conduct": trust.conduct(NUM, flipped=[1])}, "poisoned must be given where conduct names flipped workers"),
    ):
        with pytest.raises(ValueError, match=f"staked_fedavg: {line}"):
            trust.staked_fedavg(worlds[0], SGD, **options)
    with pytest.raises(ValueError, match="problem must be one that measures accuracy_local"):
        trust.staked_fedavg(dlsim.problems.quadratic(4, 3), SGD)
    with pytest.warns(UserWarning, match="staked_fedavg: the stake is 0"):
        trust.staked_fedavg(worlds[0], SGD, stake=0)
