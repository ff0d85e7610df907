"""Peers that come, go, and die in the middle of what they do together."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.fields import Membership
from dlsim.networks.network import Network
from dlsim.networks.scenes.presence import restrict


def peer_churn(
    death_rate: Any = 0.1, join_rate: Any = 0.3, *, leave_rate: Any = 0.0, minimum: Any = 2, initial: Any = None
) -> Scenario:
    """Peers join and leave between rounds, and die in the middle of one.

    A network of N nodes has N slots.  At the beginning of a round

    - an empty slot is taken by a new peer with probability `join_rate`: it is there in this round, is marked as new
      (`network.membership.is_new`), and has nothing of what the slot's last peer had;
    - a peer leaves with probability `leave_rate`, after the last round was over;
    - a peer is about to die with probability `death_rate`, at a time drawn evenly from the duration of a collective
      (`network.membership.dies_at`): it takes part until then, and its slot is empty from the next round on.

    Never are fewer than `minimum` left: those with the largest draws are spared.  Verbs other than `all_reduce` are over
    before anybody dies.  All rates are traced.

    Args:
      death_rate, join_rate, leave_rate: probabilities a round.
      minimum: peers that are left at least, an integer >= 0; may be traced.
      initial: how many slots are taken at first, those with the smallest draws; None: all.
    """
    where = "peer_churn"
    for name, rate in (("death_rate", death_rate), ("join_rate", join_rate), ("leave_rate", leave_rate)):
        checks.probability(where, name, rate)
    checks.number(where, "minimum", minimum, 0)
    if initial is not None:
        checks.number(where, "initial", initial, 1)

    def spare(at_risk: Array, is_there: Array, draw: Array) -> Array:
        """Of those at risk, as many with the smallest draws as can be spared."""
        risk = jnp.where(at_risk, draw, jnp.inf)
        place = jnp.argsort(jnp.argsort(risk))
        return at_risk & (place < jnp.sum(is_there, dtype=jnp.int32) - minimum)

    def init(key: Array, network: Network) -> Array:
        for name, number in (("minimum", minimum), ("initial", initial)):
            if number is not None and checks.is_concrete(number) and number > network.num_nodes:
                checks.fail(where, name, f"at most the {network.num_nodes} slots", checks.describe(number))
        if initial is None:
            return jnp.ones(network.num_nodes, bool)
        draw = keys.node_uniform(key, network.node_ids, 1)[:, 0]
        return jnp.argsort(jnp.argsort(draw)) < initial

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        join, leave, death, when = keys.node_uniform(key, network.node_ids, 4).T
        leaves = spare(state & (leave < leave_rate), state, leave)
        is_new = ~state & (join < join_rate)
        is_there = (state & ~leaves) | is_new
        dies = spare(is_there & (death < death_rate), is_there, death)
        dies_at = jnp.where(dies, when, jnp.inf)
        if network.membership is not None:  # others before it in a chain have said something too
            dies_at = jnp.minimum(dies_at, network.membership.dies_at)
            is_new = is_new | network.membership.is_new
        network = restrict(network, is_there).replace(membership=Membership(dies_at=dies_at, is_new=is_new))
        return is_there & ~dies, network

    return Scenario(init=init, step=step, source="Keiblinger et al., 2025")
