"""Contracts of experiment 16 played by strategies: owners and aggregators who break them, audits that may find a lie."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import dlsim
from dlsim import trust
from dlsim.trust.ledger.contract import AGGREGATORS, OWNERS

NUM, BUDGET, DEPOSIT = 8, 1_000_000, 100_000
PAIRS = tuple((owner, aggregator) for owner in OWNERS for aggregator in AGGREGATORS)
PROBABILITIES = (0.2, 0.4, 0.6, 0.8)  # of an audit that finds a lie
GAIN, GAMES = 100_000, 256
TICKS = 4  # of a contract in a step of the run


def _ticks(step: Any, key: jax.Array, state: Any) -> Any:
    """`TICKS` ticks of a contract, so that every contract is closed after four steps of the run."""
    return jax.lax.scan(lambda s, t: (step(jax.random.fold_in(key, t), s)[0], None), state, jnp.arange(TICKS))[0]


def contracts() -> dlsim.Process:
    """A contract for every pair of strategies, owners first; what trainers are short of, and what is not paid."""
    games = [
        trust.contract_game(NUM, owner=owner, aggregator=aggregator, budget=BUDGET, deposit=DEPOSIT)
        for owner, aggregator in PAIRS
    ]

    def measure(state: Any, info: Any) -> Any:
        found = [game.measure(one, info) for game, one in zip(games, state, strict=True)]  # type: ignore[misc]
        return {
            "short": jnp.stack([jnp.max(one["paid"] - one["gains"][:NUM]) for one in found]),
            "unpaid": jnp.stack([BUDGET - jnp.sum(one["paid"]) for one in found]),
            "total_change": jnp.max(jnp.stack([abs(one["total"] - BUDGET - (NUM + 1) * DEPOSIT) for one in found])),
        }

    return dlsim.Process(
        init=lambda key: tuple(game.init(key) for game in games),
        step=lambda key, state: (
            tuple(_ticks(game.step, key, one) for game, one in zip(games, state, strict=True)),
            {},
        ),
        measure=measure,
    )


def audits() -> dlsim.Process:
    """Many contracts of one round side by side, whose aggregators lie, by how likely an audit finds it."""

    def game(probability: Any) -> dlsim.Process:
        return trust.contract_game(
            NUM,
            aggregator="lies",
            num_rounds=1,
            budget=BUDGET,
            deposit=DEPOSIT,
            gain=GAIN,
            audit_probability=probability,
        )

    def step(key: jax.Array, state: Any) -> Any:
        def one(probability: jax.Array, key: jax.Array, state: Any) -> Any:
            return _ticks(game(probability).step, key, state)

        games = jax.random.split(key, (len(PROBABILITIES), GAMES))
        return jax.vmap(jax.vmap(one, (None, 0, 0)))(jnp.asarray(PROBABILITIES), games, state), {}

    def init(key: jax.Array) -> Any:
        first = game(1.0).init(key)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(PROBABILITIES), GAMES, *leaf.shape)), first)

    def measure(state: Any, info: Any) -> Any:
        found = jax.vmap(jax.vmap(lambda one: game(1.0).measure(one, {})))(state)  # type: ignore[misc]
        net = found["gains"][..., NUM] + found["outside"]
        return {"net": jnp.mean(net.astype(jnp.float32), axis=1)}

    return dlsim.Process(init, step, measure)
