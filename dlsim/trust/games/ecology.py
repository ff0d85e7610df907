"""Populations of strategies: replicator dynamics in a well-mixed one, imitation among neighbours of a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, Scenario
from dlsim.networks.network import Network
from dlsim.trust.draws import ranks
from dlsim.trust.rounds import check_world, in_rounds

TINY = 1e-30


@checks.typed
def ecology(scores: Any, *, shares: Any = None) -> Process:
    """Replicator dynamics in discrete time: a strategy grows as it scores above the mean.

        x_s <- x_s (M x)_s / (x^T M x)

    The shares stay at 0 or more and sum to 1; what is 0 stays 0.  The process measures `shares` `[A]` and `mean_score`.

    Args:
      scores: M `[A, A]`, what the row's strategy has of games with the column's, 0 or more (`expected_scores(...).payoffs`);
        traced.
      shares: `[A]` at first, 0 or more, not all 0, made to sum to 1; None: all alike; traced.

    Where the mean score is 0 nothing changes.
    Source: Axelrod, The evolution of cooperation, 1984 (ecological tournament); Taylor, Jonker, Evolutionarily stable
      strategies and game dynamics, Mathematical Biosciences 1978.
    """
    where = "ecology"
    table = _table(where, scores, least=0.0)
    num = table.shape[0]
    if shares is None:
        first = jnp.full(num, 1 / num, jnp.float32)
    else:
        given = checks.array(where, "shares", shares, (num,), 0.0)
        if checks.is_concrete(given) and not np.sum(given) > 0:
            checks.fail(where, "shares", "above 0 for some strategy", "zeros alone")
        first = jnp.asarray(given, jnp.float32) / jnp.sum(jnp.asarray(given, jnp.float32))

    def step(key: Array, x: Array) -> tuple[Array, Info]:
        del key
        grown = x * (table @ x)
        mean = jnp.sum(grown)
        # Dividing by the sum as it was rounded keeps the shares on the simplex.
        return jnp.where(mean > 0, grown / jnp.maximum(mean, TINY), x), {}

    def measure(x: Array, info: Info) -> Info:
        del info
        return {"shares": x, "mean_score": x @ table @ x}

    sources = ("Taylor, Jonker, Mathematical Biosciences 1978",)
    return Process(lambda key: first, step, measure, sources, dims={"shares": ("strategy",)})


class Population(NamedTuple):
    """Who plays what."""

    strategies: Array  # int32 [N]
    scores: Array  # float32 [N] of the last generation: mean over the neighbours played


@checks.typed
def imitation(
    network: Network,
    scores: Any,
    *,
    shares: Any = None,
    rule: str = "fermi",
    temperature: float = 0.1,
    mutation: float = 0.0,
    scenario: Scenario | None = None,
) -> Process:
    """Evolution on a graph: every generation nodes play their neighbours, and then copy one of them, or not.

        f_i = mean over the neighbours j of M[s_i, s_j]
        fermi:  a random neighbour j, with probability 1 / (1 + exp(-(f_j - f_i) / K))
        best:   the neighbour with the greatest f_j, where that is above f_i (the first of several)
        then, with probability mu, a strategy at random

    Games and scores go over the network's links, channel and scenario: a node plays those it hears, and those away keep
    their strategy.  A channel that changes numbers changes scores, not strategies.  The process measures `shares` `[A]`,
    `mean_score`, and `num_strategies` that are left.

    Args:
      network: undirected, who plays whom.
      scores: M `[A, A]`, of a row's strategy against a column's, per round say; traced.
      shares: `[A]` of the nodes that start with each strategy, at random; None: all alike; traced.
      rule: "fermi" or "best"; structural.
      temperature: K, above 0; traced.
      mutation: mu in [0, 1]; traced.
      scenario: what happens to nodes and links.

    Cost: two messages a link and generation; O(N K) for the largest degree K.
    Source: Nowak, May, Evolutionary games and spatial chaos, Nature 1992; Szabo, Toke, Evolutionary prisoner's dilemma game
      on a square lattice, Physical Review E 1998.
    """
    where = "imitation"
    check_world(where, network, scenario, 2)
    if "undirected" not in network.properties:
        checks.fail(where, "network", "undirected", "a directed one", "Who plays is played.")
    table = _table(where, scores)
    num_kinds, num = table.shape[0], network.num_nodes
    checks.one_of(where, "rule", rule, ("fermi", "best"))
    checks.number(where, "temperature", temperature, 0.0, open_minimum=True)
    checks.probability(where, "mutation", mutation)
    given = np.ones(num_kinds) if shares is None else checks.array(where, "shares", shares, (num_kinds,), 0.0)
    if checks.is_concrete(given) and not np.sum(given) > 0:
        checks.fail(where, "shares", "above 0 for some strategy", "zeros alone")
    ids = network.node_ids

    def start(key: Array) -> Population:
        up_to = jnp.cumsum(jnp.asarray(given, jnp.float32))
        place = (ranks(key, ids).astype(jnp.float32) + 0.5) / num * up_to[-1]
        kinds = jnp.minimum(jnp.searchsorted(up_to, place, side="right"), num_kinds - 1)
        return Population(kinds.astype(jnp.int32), jnp.zeros(num, jnp.float32))

    def one_round(key: Array, own: Population, current: Network) -> tuple[Population, Network, Info]:
        inbox, current = current.gather(keys.stream(key, "play"), own.strategies, stream="play")
        payoff = jnp.where(inbox.mask, table[own.strategies[:, None], inbox.values], 0.0)
        heard = jnp.sum(inbox.mask, axis=1)
        mine = jnp.sum(payoff, axis=1) / jnp.maximum(heard, 1)
        told, current = current.gather(keys.stream(key, "tell"), {"score": mine, "kind": own.strategies}, stream="tell")
        theirs, kinds = told.values["score"], told.values["kind"]
        draws = keys.node_uniform(keys.stream(key, "copy"), ids, 4)
        if rule == "fermi":
            # The n-th of those that were heard.
            can = jnp.sum(told.mask, axis=1)
            turn = jnp.minimum((draws[:, 0] * can).astype(jnp.int32), jnp.maximum(can - 1, 0))
            at = jnp.argmax(told.mask & (jnp.cumsum(told.mask, axis=1) == turn[:, None] + 1), axis=1)
        else:
            at = jnp.argmax(jnp.where(told.mask, theirs, -jnp.inf), axis=1)
        model = jnp.take_along_axis(kinds, at[:, None], axis=1)[:, 0]
        lead = jnp.take_along_axis(theirs, at[:, None], axis=1)[:, 0] - mine
        copies = draws[:, 1] < jax.nn.sigmoid(lead / temperature) if rule == "fermi" else lead > 0
        after = jnp.where(copies & jnp.any(told.mask, axis=1), model, own.strategies)
        other = jnp.minimum((draws[:, 3] * num_kinds).astype(jnp.int32), num_kinds - 1)
        after = jnp.where(draws[:, 2] < mutation, other, after)
        if current.is_present is not None:
            after = jnp.where(current.is_present, after, own.strategies)
        return Population(after, mine), current, {}

    def measure(own: Population, info: Info) -> Info:
        del info
        count = jnp.zeros(num_kinds).at[own.strategies].add(1.0)
        return {
            "shares": count / num,
            "mean_score": jnp.mean(own.scores),
            "num_strategies": jnp.sum(count > 0, dtype=jnp.int32),
        }

    source = "Szabo, Toke, Physical Review E 1998" if rule == "fermi" else "Nowak, May, Nature 1992"
    return in_rounds(where, network, scenario, start, one_round, measure, source, {"shares": ("strategy",)})


def _table(where: str, scores: Any, least: float | None = None) -> Array:
    table = checks.array(where, "scores", scores, (None, None), least)
    if table.shape[0] != table.shape[1] or table.shape[0] < 1:
        checks.fail(where, "scores", "of shape [A, A]", f"shape {list(table.shape)}")
    return jnp.asarray(table, jnp.float32)
