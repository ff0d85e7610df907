"""Gossip learning by pushes and pulls, passing through, and with token accounts, against a loop over events."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
import six_nodes as six
from oracles import gossip_learning as oracles

import dlsim
from dlsim import algorithms, clocks, keys, networks
from dlsim.running import counters

PROBLEM, NETWORK = six.problem(), six.network()
GRADIENT, START = six.gradients(PROBLEM), np.zeros((six.NUM_NODES, six.DIMENSION))
DEGREES = np.bincount(np.asarray(six.LINKS).ravel(), minlength=six.NUM_NODES)
SGD = optax.sgd(six.RATE)
SECONDS, SEED = 12, 4
SHARES = {"over": ("prepare", 0), "acts": ("prepare", 1), "merges": ("receive", 2), "round": ("receive", 3)}


def played(algorithm: Any, network: networks.Network = NETWORK, seconds: int = SECONDS, **timing: Any) -> Any:
    process = dlsim.learn(PROBLEM, algorithm, network, timing=clocks.timing(**timing))
    record = dlsim.Record(every=seconds)
    return dlsim.simulate(process, seed=SEED, num_steps=seconds, record=record, progress=False).state


def tape(rates: Any, communication: str, seconds: int = SECONDS) -> clocks.Tape:
    key = keys.stream(jax.random.key(SEED), "tape")
    return clocks.make_tape(NETWORK, None, clocks.poisson(rates), key, seconds, communication=communication)


def draws_of(played: clocks.Tape) -> Any:
    """The uniform numbers that the events of this tape draw."""
    key = keys.stream(keys.stream(jax.random.key(SEED), "init"), "events")

    def draws(path: tuple[str, int]) -> np.ndarray:
        events = keys.fold_in(key, clocks.COMMUNICATION, played.a, played.b, played.number.astype(np.uint32))
        at = keys.fold_in(events, {"prepare": 0, "receive": 2}[path[0]])
        return np.asarray(jax.vmap(jax.random.uniform)(keys.fold_in(at, path[1])))

    table = {name: draws(path) for name, path in SHARES.items()}
    return lambda k, name: float(table[name][k])


def same(state: Any, told: oracles.Told) -> None:
    np.testing.assert_allclose(state.nodes.params, told.params, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(state.nodes.age, told.age)
    np.testing.assert_array_equal(counters.to_float(state.network.traffic.messages), told.sent)


def test_pulls_and_swaps() -> None:
    receivers = clocks.clock_edges(NETWORK, "links")[1]
    pull = played(algorithms.gossip_learning(PROBLEM, SGD, exchange="pull"))
    same(pull, oracles.gossip_learning(GRADIENT, START, tape(1 / DEGREES[receivers], "links"), six.RATE))
    swap = played(algorithms.gossip_learning(PROBLEM, SGD, exchange="push_pull"))
    rates = clocks.neighbor_rates(NETWORK, 1.0)
    told = oracles.gossip_learning(GRADIENT, START, tape(rates, "edges"), six.RATE, exchange="push_pull")
    same(swap, told)
    # Once a second a node draws a neighbour: so many messages in all, twice as many where both send.
    for state, expected in ((pull, 1), (swap, 2)):
        total = counters.to_float(state.network.traffic.messages).sum()
        assert abs(total / (expected * six.NUM_NODES * SECONDS) - 1) < 0.35


def test_passing_through() -> None:
    events = tape(1.0, "nodes")
    told = oracles.gossip_learning(GRADIENT, START, events, six.RATE, degree=DEGREES, draw=draws_of(events))
    same(played(algorithms.gossip_learning(PROBLEM, SGD, pass_through=True)), told)
    plain = oracles.gossip_learning(GRADIENT, START, events, six.RATE)
    assert told.age.sum() < plain.age.sum()
    # Where all have as many neighbours nothing passes through.
    ring = networks.ring(six.NUM_NODES)
    ends = [played(algorithms.gossip_learning(PROBLEM, SGD, pass_through=p), ring, 6) for p in (False, True)]
    np.testing.assert_array_equal(ends[0].nodes.params, ends[1].nodes.params)


ACCOUNTS = (
    ("proactive", 5, 2, "always", 3),
    ("simple", 2, 2, "always", 3),
    ("generalized", 4, 2, "newer", 3),
    ("randomized", 4, 3, "newer", 3),
    ("reactive", 5, 1, "always", 3),
)


@pytest.mark.parametrize("account", ACCOUNTS, ids=[account[0] for account in ACCOUNTS])
def test_token_accounts(account: tuple[str, int, int, str, int]) -> None:
    strategy, capacity, reactivity, useful, slots = account
    tokens = algorithms.token_account(strategy, capacity=capacity, reactivity=reactivity, useful=useful, slots=slots)
    state = played(algorithms.gossip_learning(PROBLEM, SGD, tokens=tokens))
    events = tape(float(slots), "nodes")
    told = oracles.gossip_learning(GRADIENT, START, events, six.RATE, account=account, draw=draws_of(events))
    same(state, told)
    found = np.stack([np.asarray(part) for part in state.nodes.tokens], axis=1)
    np.testing.assert_array_equal(found, told.tokens)
    held, pending, periods = found.T
    if strategy != "reactive":
        np.testing.assert_array_equal(told.sent + held + pending, periods)
        assert (held <= capacity).all() and told.sent.sum() > 10
    else:
        # One answer an arrival, nothing lost: as many messages are on their way as there were, one a node.
        assert told.sent.sum() > 10 and pending.sum() == len(pending) and (held <= periods).all()


def test_one_slot_of_a_proactive_account_is_plain_gossip() -> None:
    tokens = algorithms.token_account("proactive", slots=1)
    plain, with_tokens = (played(algorithms.gossip_learning(PROBLEM, SGD, tokens=t), seconds=6) for t in (None, tokens))
    np.testing.assert_array_equal(plain.nodes.params, with_tokens.nodes.params)
    for a, b in zip(plain.network.traffic.messages, with_tokens.network.traffic.messages, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", ["simple", "generalized", "randomized"])
def test_chances_and_answers(strategy: str) -> None:
    capacity, reactivity = 7, 3
    account = algorithms.token_account(strategy, capacity=capacity, reactivity=reactivity)
    held, draws = np.arange(12), np.linspace(0, 0.99, 12)
    expected = [oracles.proactive(strategy, capacity, reactivity, a) for a in held]
    np.testing.assert_allclose(account.proactive(held.astype(np.uint32)), expected, rtol=1e-6)
    draw_keys = jax.vmap(jax.random.key)(np.arange(12))
    draws = np.asarray(jax.vmap(jax.random.uniform)(draw_keys))
    for useful in (False, True):
        found = account.reactive(draw_keys, held.astype(np.uint32), np.full(12, useful))
        wanted = [oracles.reactive(strategy, reactivity, a, useful, d) for a, d in zip(held, draws, strict=True)]
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, exchange="pushpull"),
         "gossip_learning: exchange must be one of .*'push_pull'"),
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, merge="none", pass_through=True),
         "gossip_learning: pass_through must be False where nothing is merged"),
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, tokens="simple"),
         "gossip_learning: tokens must be a TokenAccount"),
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, exchange="pull", tokens=algorithms.token_account("simple")),
         'gossip_learning: exchange must be "push" with tokens'),
        (lambda: algorithms.token_account("simpel"), "token_account: strategy must be one of .*Did you mean 'simple'"),
        (lambda: algorithms.token_account("simple", capacity=0), "token_account: capacity must be an integer"),
        (lambda: algorithms.token_account("randomized", capacity=5, reactivity=6),
         r"token_account: reactivity must be an integer in \[1, 5\]"),
        (lambda: algorithms.token_account("simple", slots=0), "token_account: slots must be an integer"),
        (lambda: algorithms.token_account("simple", useful="never"), "token_account: useful must be one of"),
    ],
)  # fmt: skip
def test_refusals(call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        call()
