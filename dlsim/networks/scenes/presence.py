"""Scenarios: what happens to nodes and links, round by round.  They compose with `chain`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.network import Network


def _nothing(key: Array, network: Network) -> tuple[()]:
    del key, network
    return ()


def restrict(network: Network, is_present: Array) -> Network:
    """The network in which only those are present that were and that `is_present` [N] admits."""
    return network.replace(is_present=is_present if network.is_present is None else network.is_present & is_present)


def churn(rate: Any = 0.02, return_rate: Any = 0.2) -> Scenario:
    """Nodes leave and come back: present -> absent with probability `rate` a round, absent -> present with `return_rate`.

    Everyone is there at first; in the long run a share rate / (rate + return_rate) is absent, for 1 / return_rate rounds
    at a time.  Absent nodes keep their state and neither send nor hear.  Both rates are traced.
    """
    checks.probability("churn", "rate", rate)
    checks.probability("churn", "return_rate", return_rate)

    def init(key: Array, network: Network) -> Array:
        del key
        return jnp.ones(network.num_nodes, bool)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        draw = keys.node_uniform(key, network.node_ids, 1)[:, 0]
        state = jnp.where(state, draw >= rate, draw < return_rate)
        return state, restrict(network, state)

    return Scenario(init=init, step=step)


def crash(at_step: int, fraction: Any) -> Scenario:
    """Each node fails for good with probability `fraction` (traced) once `at_step` rounds are done (structural)."""
    checks.integer("crash", "at_step", at_step, 0)
    checks.probability("crash", "fraction", fraction)

    def init(key: Array, network: Network) -> tuple[Array, Array]:
        draw = keys.node_uniform(key, network.node_ids, 1)[:, 0]
        return jnp.zeros((), jnp.int32), draw >= fraction

    def step(key: Array, state: tuple[Array, Array], network: Network) -> tuple[tuple[Array, Array], Network]:
        del key
        rounds, survives = state
        return (rounds + 1, survives), restrict(network, survives | (rounds < at_step))

    return Scenario(init=init, step=step)


def participation(cohort_size: int) -> Scenario:
    """A fresh uniformly random cohort of `cohort_size` nodes (structural) a round; nobody else takes part.

    Server-based methods compute for the cohort alone, `[C, ...]`; to methods between nodes the others are absent.
    Members that another scenario has sent away do not answer.
    """
    checks.integer("participation", "cohort_size", cohort_size, 1)

    def init(key: Array, network: Network) -> tuple[()]:
        del key
        if cohort_size > network.num_nodes:
            checks.fail("participation", "cohort_size", f"at most the {network.num_nodes} nodes", cohort_size)
        return ()

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        # The nodes with the largest of one draw each: depends on ids alone, not on their order.
        _, cohort = jax.lax.top_k(keys.node_bits(key, network.node_ids, 1)[:, 0], cohort_size)
        cohort = cohort.astype(jnp.int32)
        chosen = jnp.zeros(network.num_nodes, bool).at[cohort].set(True)
        return state, restrict(network, chosen).replace(cohort=cohort)

    return Scenario(init=init, step=step)


def link_failure(probability: Any, *, is_symmetric: bool | None = None) -> Scenario:
    """Every link is down with `probability` (traced) in each round, independently.

    Both ends know, and send nothing over it.  `is_symmetric` (structural): a link fails both ways at once; None: where
    the graph is undirected.
    """
    checks.probability("link_failure", "probability", probability)
    if is_symmetric is not None:
        checks.flag("link_failure", "is_symmetric", is_symmetric)

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        if network.is_implicit:
            checks.fail("link_failure", "network", "one that lists its edges", "a large complete graph")
        both_ways = "undirected" in network.properties if is_symmetric is None else is_symmetric
        ids = network.node_ids
        draw = keys.edge_uniform(key, ids[network.senders], ids[network.receivers], both_ways)
        up = draw >= probability
        return state, network.replace(is_linked=up if network.is_linked is None else network.is_linked & up)

    return Scenario(init=_nothing, step=step)


def random_presence(probability: Any) -> Scenario:
    """Every node is present with `probability` (traced) in each round, independently of the past."""
    checks.probability("random_presence", "probability", probability)

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        draw = keys.node_uniform(key, network.node_ids, 1)[:, 0]
        return state, restrict(network, draw < probability)

    return Scenario(init=_nothing, step=step)
