"""Automata against each other: closed forms, a plain loop, exact chains, bad input."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import trust

NAMES = (
    "tit_for_tat",
    "always_defect",
    "suspicious_tit_for_tat",
    "win_stay_lose_shift",
    "grim",
    "tit_for_two_tats",
    "alternate",
)
RANDOM = ("tit_for_tat", "generous_tit_for_tat", "random", "joss", "grim")
PAYOFFS = np.array(((3, 0), (5, 1)))


def run(automata, num_rounds, seed=0, **options):
    process = trust.tournament(automata, **options)
    record = dlsim.Record(every=num_rounds, fn=lambda state, info: {"payoffs": trust.tournament_scores(state).payoffs})
    return dlsim.simulate(process, seed=seed, num_steps=num_rounds, record=record, progress=False).results.isel(step=-1)


def plain(automata, num_rounds):
    """Two automata that draw nothing, one game after the other."""
    out, goes = np.asarray(automata.cooperates), np.asarray(automata.goes)
    scores = np.zeros((len(out),) * 2)
    for i, j in itertools.product(range(len(out)), repeat=2):
        s = t = 0
        for _ in range(num_rounds):
            m, n = int(out[i, s] < 0.5), int(out[j, t] < 0.5)
            scores[i, j] += PAYOFFS[m, n]
            s, t = goes[i, s, m, n], goes[j, t, n, m]
    return scores


def test_a_tournament_is_a_plain_loop_and_has_the_known_scores() -> None:
    field = trust.strategies(*NAMES)
    found = run(field, 200)
    np.testing.assert_array_equal(found.payoffs, plain(field, 200))
    score = {(a, b): float(found.payoffs[i, j]) for (i, a), (j, b) in itertools.product(enumerate(NAMES), repeat=2)}
    assert (score["tit_for_tat", "always_defect"], score["always_defect", "tit_for_tat"]) == (199, 204)
    assert score["tit_for_tat", "suspicious_tit_for_tat"] == score["suspicious_tit_for_tat", "tit_for_tat"] == 500
    assert (score["win_stay_lose_shift", "always_defect"], score["always_defect", "win_stay_lose_shift"]) == (100, 600)
    assert score["tit_for_tat", "tit_for_tat"] == 600
    exact = trust.expected_scores(field, 200)
    np.testing.assert_allclose(exact.payoffs, found.payoffs, rtol=1e-5)
    cooperation = np.asarray(exact.cooperation)
    assert cooperation[0, 1] == pytest.approx(1 / 200) and cooperation[0, 0] == 1


def test_drawn_games_agree_with_the_chain_and_depend_on_the_seed() -> None:
    field, seeds = trust.strategies(*RANDOM), 40
    found = run(field, 60, seed=range(seeds), noise=0.05)
    exact = trust.expected_scores(field, 60, noise=0.05)
    values = found.payoffs.values
    # 25 entries, each within 4 standard errors of its mean (chance of a miss of one in 600).
    error = values.std(0, ddof=1) / np.sqrt(seeds)
    assert (np.abs(values.mean(0) - np.asarray(exact.payoffs)) < 4 * error + 1e-3).all()
    assert (values[0] != values[1]).any()


def test_a_long_noisy_game_of_tit_for_tat_cooperates_half_of_the_time() -> None:
    found = trust.expected_scores(trust.strategies("tit_for_tat"), 4000, noise=0.02)
    assert float(found.cooperation[0, 0]) == pytest.approx(0.5, abs=0.01)
    assert float(jnp.max(trust.expected_scores(trust.strategies("grim"), 0).payoffs)) == 0


def test_discounted_games_have_their_closed_forms() -> None:
    field = trust.strategies("tit_for_tat", "always_defect", "alternate")
    solve = jax.jit(lambda w: trust.discounted_scores(field, w).payoffs)
    for w in (0.3, 2 / 3, 0.9):
        found = np.asarray(solve(w))
        assert found[0, 0] == pytest.approx(3 / (1 - w), rel=1e-4)
        assert found[1, 0] == pytest.approx(5 + w / (1 - w), rel=1e-4)
        # The alternator cooperates first here: against tit for tat R, then T, S, T, S, ...
        assert found[2, 0] == pytest.approx(3 + w * 5 / (1 - w**2), rel=1e-4)
    np.testing.assert_allclose(solve(2 / 3)[:2, :2], [[9, 2], [7, 3]], rtol=1e-4)
    np.testing.assert_allclose(trust.resisting_continuation(), [1 / 2, 2 / 3], rtol=1e-6)
    assert float(trust.invasion_share(200)) == pytest.approx(1 / 397, rel=1e-5)
    assert float(trust.invasion_share(1)) == np.inf


def test_probabilities_and_payoffs_may_be_traced() -> None:
    def score(p, temptation):
        field = trust.strategies(trust.memory_one(1.0, p, 1.0, p), "always_defect")
        payoffs = jnp.stack([jnp.array([3.0, 0.0]), jnp.stack([temptation, jnp.float32(1)])])
        return trust.expected_scores(field, 10, payoffs=payoffs).payoffs[1, 0]

    found = jax.jit(score)(0.0, jnp.float32(5))
    assert float(found) == 14
    assert float(jax.jit(jax.grad(score))(0.5, jnp.float32(5))) > 0


def test_own_automata_are_those_of_the_same_name() -> None:
    grim = trust.automaton([1, 0], [[0, 1], [1, 1]])
    both = trust.strategies(grim, "grim")
    np.testing.assert_array_equal(both.goes[0], both.goes[1])
    assert trust.strategies().cooperates.shape == (10, 5)
    assert set(trust.strategy_names()) >= set(NAMES)


CASES = [
    (lambda: trust.strategies("tit_for_tot"), "strategies: which must be one of tit_for_tat, .*Did you mean"),
    (lambda: trust.strategies(3), "strategies: which must be one of"),
    (lambda: trust.memory_one(1.2, 0, 0, 0), r"memory_one: p_cc must be a number in \[0, 1\], got 1.2"),
    (lambda: trust.automaton([1, 0], [[0, 2], [1, 1]]), r"automaton: goes\[0, 1\] must be a number in \[0, 1\], got 2"),
    (lambda: trust.automaton([1, 0], [[0, 0.5], [1, 1]]), "automaton: goes must be integers, got dtype float64"),
    (
        lambda: trust.automaton([1, 0], [0, 1]),
        r"automaton: goes must be of shape \[2, 2\] or \[2, 2, 2\], got shape \[2\]",
    ),
    (
        lambda: trust.automaton([], np.zeros((0, 2), int)),
        "automaton: cooperates must be of 1 to 128 states, got 0 states",
    ),
    (lambda: trust.tournament("grim"), "tournament: automata must be an Automata, got 'grim'"),
    (
        lambda: trust.tournament(trust.strategies(), noise=1.5),
        r"tournament: noise must be a number in \[0, 1\], got 1.5",
    ),
    (
        lambda: trust.expected_scores(trust.strategies(), -1),
        "expected_scores: num_rounds must be an integer .*, got -1",
    ),
    (lambda: trust.discounted_scores(trust.strategies(), 1.0), r"continuation must be a number in \[0, 1\), got 1"),
    (
        lambda: trust.invasion_share(5, payoffs=((3, 0), (2, 1))),
        "invasion_share: payoffs must be .* of a dilemma: .*, got T=2, R=3, P=1, S=0",
    ),
    (lambda: trust.resisting_continuation(payoffs=((1, 0), (5, 2))), "payoffs must be .* of a dilemma"),
    (lambda: trust.tournament(trust.strategies(), payoffs=(1, 2)), r"payoffs must be of shape \[2, 2\], got \[2\]"),
]


@pytest.mark.parametrize(("make", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_bad_input_is_one_line(make, line) -> None:
    with pytest.raises(ValueError, match=line):
        make()


def test_another_game_is_played_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match="tournament: payoffs are not .* of a dilemma.*T=2, R=3, P=1, S=0: another game"
    ):
        trust.tournament(trust.strategies("grim"), payoffs=((3, 0), (2, 1)))
