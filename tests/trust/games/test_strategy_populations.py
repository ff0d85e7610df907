"""Shares of strategies: the replicator, and imitation on a graph against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

import dlsim
from dlsim import networks, trust

GAME = ((3.0, 0.0), (5.0, 1.0))


def last(process, num_steps, **options):
    return dlsim.simulate(process, seed=0, num_steps=num_steps, progress=False, **options)


def test_the_replicator_keeps_the_simplex_and_drives_defectors_out() -> None:
    scores = trust.expected_scores(trust.strategies(), 200).payoffs
    shares = last(trust.ecology(scores), 50).results.shares
    assert dict(shares.sizes) == {"step": 51, "strategy": 10}
    np.testing.assert_allclose(shares.sum("strategy"), 1, atol=1e-5)
    x = np.full(10, 0.1)
    for t in range(1, 51):
        x = x * (np.asarray(scores, np.float64) @ x) / (x @ np.asarray(scores, np.float64) @ x)
        np.testing.assert_allclose(shares.values[t], x, atol=2e-5)
    assert (shares.values >= 0).all()


def test_tit_for_tat_invades_above_its_threshold_alone() -> None:
    scores = trust.expected_scores(trust.strategies("tit_for_tat", "always_defect"), 200).payoffs
    threshold = float(trust.invasion_share(200))
    for factor, end in ((0.9, 0.0), (1.1, 1.0)):
        run = last(trust.ecology(scores, shares=[factor * threshold, 1 - factor * threshold]), 3000)
        assert float(run.results.shares[-1, 0]) == pytest.approx(end, abs=0.01)


def test_what_scores_nothing_stays() -> None:
    found = last(trust.ecology(np.zeros((2, 2)), shares=[1, 3]), 2).results.shares.values[-1]
    np.testing.assert_allclose(found, [0.25, 0.75])


def test_the_best_neighbour_is_copied_as_in_a_plain_loop() -> None:
    table, size = np.asarray(GAME), 5
    network = networks.torus(size * size)
    process = trust.imitation(network, GAME, shares=[0.8, 0.2], rule="best")
    record = dlsim.Record(every=1, fn=lambda state, info: {"kind": state.own.strategies, "score": state.own.scores})
    found = last(process, 4, record=record).results
    near = [np.asarray(network.neighbors[i])[: int(network.in_degrees[i])] for i in range(size * size)]
    kinds = found.kind.values.astype(int)
    assert kinds[0].sum() == 5
    for before, after, scores in zip(kinds[:-1], kinds[1:], found.score.values[1:], strict=True):
        mine = np.array([np.mean([table[before[i], before[j]] for j in near[i]]) for i in range(len(before))])
        np.testing.assert_allclose(scores, mine, rtol=1e-6)
        for i in range(len(before)):
            best = near[i][np.argmax(mine[near[i]])]
            assert after[i] == (before[best] if mine[best] > mine[i] else before[i])


def test_fermi_with_little_noise_spreads_defection_and_those_away_keep_theirs() -> None:
    network = networks.complete(12)
    defecting = last(trust.imitation(network, GAME, temperature=0.01), 40).results
    assert float(defecting.shares[-1, 1]) == 1.0 and int(defecting.num_strategies[-1]) == 1
    assert int(defecting.messages_sent[-1]) == 2 * 40 * 12 * 11
    away = trust.imitation(network, GAME, mutation=1.0, scenario=networks.crash(0, 1.0))
    run = last(away, 3)
    np.testing.assert_array_equal(run.results.shares[0], run.results.shares[-1])


def test_a_mutation_draws_every_strategy() -> None:
    process = trust.imitation(networks.torus(400), np.ones((4, 4)), shares=[1, 0, 0, 0], mutation=1.0)
    shares = last(process, 1).results.shares.values[-1]
    # 400 uniform draws: a standard deviation of 0.022.
    np.testing.assert_allclose(shares, 0.25, atol=4 * 0.022)


CASES = [
    (lambda: trust.ecology([[1.0, -1.0], [0, 0]]), r"ecology: scores\[0, 1\] must be a number in \[0, inf\), got -1"),
    (lambda: trust.ecology(np.ones((2, 3))), r"ecology: scores must be of shape \[A, A\], got shape \[2, 3\]"),
    (lambda: trust.ecology(GAME, shares=[0, 0]), "ecology: shares must be above 0 for some strategy, got zeros alone"),
    (lambda: trust.imitation(networks.ring(4), GAME, rule="fermy"), "imitation: rule must be one of fermi, best"),
    (
        lambda: trust.imitation(networks.ring(4), GAME, temperature=0),
        r"temperature must be a number in \(0, inf\), got 0",
    ),
    (lambda: trust.imitation(networks.ring(4), GAME, mutation=2), r"mutation must be a number in \[0, 1\], got 2"),
    (
        lambda: trust.imitation(networks.exponential(8), GAME),
        "imitation: network must be undirected, got a directed one",
    ),
]


@pytest.mark.parametrize(("make", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_bad_input_is_one_line(make, line) -> None:
    with pytest.raises(ValueError, match=line):
        make()
