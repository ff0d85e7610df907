"""Markets of strangers: a plain loop, who gains, and names that are changed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import keys, networks, trust
from dlsim.trust.games.market import matched

PAYOFFS = np.array(((3, 0), (5, 1)))
NUM = 20
NUMBERS = {"defectors": 0.3, "traitors": 0.0, "threshold": 0.0, "newcomers": 0.0, "whitewashing": 0.0, "founding": 0.0}


def solve(good, bad, before):
    """A reputation whose answer needs no sense."""
    return before * 0 + jnp.sum(good - bad, axis=0)


REPUTATIONS = {
    "none": trust.no_reputation(),
    "image": trust.image_scoring(),
    "own": trust.own_experience(),
    "solved": trust.solved_reputation(solve),
}


@functools.cache
def program(name):
    """A market of 60 for some rounds, its numbers as data: `(seed, num_steps, numbers) -> (state, measured)`."""

    def play(seed, num_steps, numbers):
        process = trust.anonymous_market(networks.complete(60), REPUTATIONS[name], **numbers)
        key = jax.random.key(seed)

        def one(t, state):
            return process.step(jax.random.fold_in(key, t), state)[0]

        state = jax.lax.fori_loop(0, num_steps, one, process.init(key))
        return state, process.measure(state, {})

    return jax.jit(play)


def market(name, num_steps=30, **numbers):
    return program(name)(0, num_steps, {**NUMBERS, **numbers})


@pytest.mark.parametrize("num", [2, 7, 8])
def test_pairs_are_mutual_and_leave_out_one_of_an_odd_number(num: int) -> None:
    partners, has_met = matched(jax.random.key(1), jnp.arange(num), None)
    np.testing.assert_array_equal(partners[partners], np.arange(num))
    np.testing.assert_array_equal(has_met, partners != np.arange(num))
    assert int(has_met.sum()) == num - num % 2
    here = jnp.arange(num) < num - 1
    partners, has_met = matched(jax.random.key(1), jnp.arange(num), here)
    assert int(has_met.sum()) == (num - 1) - (num - 1) % 2 and not bool(has_met[num - 1])


def test_a_market_is_a_plain_loop() -> None:
    """Deterministic but for the pairs: node by node, from the pairs that were drawn."""
    process = trust.anonymous_market(
        networks.complete(NUM), trust.image_scoring(2), defectors=0.3, traitors=0.2, whitewashing=1.0, newcomers=-1.0
    )
    state, step = process.init(jax.random.key(3)), jax.jit(process.step)
    kinds = np.asarray(state.own.kinds)
    assert [int((kinds == kind).sum()) for kind in (0, 1, 2)] == [10, 6, 4]
    score, known, founder = [0] * NUM, [False] * NUM, [True] * NUM
    earned, names = [0.0] * NUM, [0] * NUM
    for t in range(15):
        key = jax.random.key(100 + t)
        pairs = keys.stream(keys.stream(key, "anonymous_market"), "pairs")
        partners = np.asarray(matched(pairs, jnp.arange(NUM), None)[0])
        state, _ = step(key, state)
        rating = [score[j] if known[j] else 0 if founder[j] else -1 for j in range(NUM)]
        trusted = [rating[j] >= 0 for j in range(NUM)]
        moves = [{0: trusted[partners[i]], 1: False, 2: not trusted[i]}[int(kinds[i])] for i in range(NUM)]
        washed = [kinds[i] != 0 and not trusted[i] for i in range(NUM)]
        for i in range(NUM):
            earned[i] += PAYOFFS[int(not moves[i]), int(not moves[partners[i]])]
            score[i] = min(max(score[i] + (1 if moves[i] else -1), -2), 2)
            known[i] = True
            if washed[i]:
                score[i], known[i], founder[i] = 0, False, False
                names[i] += 1
        np.testing.assert_array_equal(state.own.memory[0], score)
        np.testing.assert_array_equal(state.own.memory[1], known)
        np.testing.assert_array_equal(state.own.earned, earned)
    np.testing.assert_array_equal(state.own.names, names)
    assert sum(names) > 10


def test_unconditional_cooperators_reach_the_bound() -> None:
    for num_steps, score in ((4, 4), (5, 5), (6, 5)):
        state, _ = market("image", num_steps, defectors=0.0)
        np.testing.assert_array_equal(state.own.memory[0], np.full(60, score))


def test_reputation_pays_and_whitewashing_pays_where_newcomers_are_trusted() -> None:
    last = {
        "none": market("none", 100),
        "image": market("image", 100),
        "washed": market("image", 100, whitewashing=1.0),
        "strict": market("image", 100, whitewashing=1.0, newcomers=-1.0),
    }
    gap = {name: float(measured["gap"]) for name, (_, measured) in last.items()}
    assert gap["none"] < 0 < gap["image"] and gap["washed"] < 0 < gap["strict"]
    # Strangers that trust all: a defector has T or P, a cooperator R or S, by shares of 42 and 18 of 60, 59 others.
    expected = (3 * 41 / 59) - (5 * 42 + 1 * 17) / 59
    assert gap["none"] == pytest.approx(expected, abs=0.25)  # 2,000 games of a spread of 2: 4 standard errors


def test_own_experience_is_the_counts_of_who_met_whom() -> None:
    state, _ = market("own", 20)
    total = np.asarray(state.own.memory[0] + state.own.memory[1])
    np.testing.assert_array_equal(total, total.T)
    np.testing.assert_array_equal(total.sum(1), state.own.games)
    assert (np.diagonal(total) == 0).all()


def test_a_solved_reputation_is_asked_every_round_and_forgets_names() -> None:
    _, one = market("solved", 60)
    _, washed = market("solved", 60, whitewashing=1.0)
    assert float(washed["gap"]) < float(one["gap"]) and float(washed["names_per_defector"]) > 1


def test_nobody_trusted_is_a_state_that_is_reported() -> None:
    _, found = market("image", 3, founding=-1.0)
    assert not bool(found["is_trusting"]) and float(found["cooperation"]) == 0
    assert float(found["cooperator_payoff"]) == 1 == float(found["defector_payoff"])


def test_those_away_sit_out() -> None:
    process = trust.anonymous_market(networks.complete(8), trust.image_scoring(), scenario=networks.crash(0, 1.0))
    last = dlsim.simulate(process, seed=0, num_steps=4, progress=False).results.isel(step=-1)
    assert float(last.cooperator_payoff) == 0 == int(last.num_present) and int(last.messages_sent) == 0


CASES = [
    ({"defectors": 1.5}, r"defectors must be a number in \[0, 1\], got 1.5"),
    ({"traitors": 0.8}, "anonymous_market: traitors must be at most 1 - defectors = 0.7, got 0.8"),
    ({"whitewashing": -0.1}, r"whitewashing must be a number in \[0, 1\], got -0.1"),
    ({"threshold": float("nan")}, "anonymous_market: threshold must be a finite number, got nan"),
    ({"reputation": "image"}, "anonymous_market: reputation must be a Reputation, got 'image'"),
    ({"network": 5}, "anonymous_market: network must be a Network, got 5"),
]


@pytest.mark.parametrize(("options", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_bad_input_is_one_line(options, line) -> None:
    given = {"network": networks.complete(4), "reputation": trust.image_scoring(), **options}
    with pytest.raises(ValueError, match=line):
        trust.anonymous_market(**given)
    with pytest.raises(ValueError, match="image_scoring: bound must be an integer"):
        trust.image_scoring(0)
