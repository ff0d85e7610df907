"""Mixing weights made anew in each round, for those who are there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, Scenario
from dlsim.networks import mixing
from dlsim.networks.messages import active_edges
from dlsim.networks.network import Network

RULES = ("uniform_neighbor", "metropolis_hastings")
_DOUBLY = frozenset({"row_stochastic", "column_stochastic", "doubly_stochastic", "symmetric"})


def reweigh(network: Network, rule: str = "uniform_neighbor", *, sizes: Any | None = None) -> Scenario:
    """Weights are made anew in each round, of the links that work then; without it, what a missing link leaves over stays.

    | `rule` | W_ij over working links, N_i the nodes that i hears and i itself | |
    |---|---|---|
    | `"uniform_neighbor"` | 1 / |N_i|; with `sizes` s_j / sum_{k in N_i} s_k | rows sum to one |
    | `"metropolis_hastings"` | 1 / (1 + max(d_i, d_j)), d the working links | rows and columns do |

    The diagonal has what is left of each row: a node that hears nobody keeps what it has, and so does one all of whose sizes
    are 0.  It stands last in a `chain`, after whatever takes nodes and links away.

    Args:
      network: that of the run, as it was built; what it is besides its weights (connected, undirected) holds on.
      rule: a name; structural.
      sizes: s, by node id `[N]`, at least 0 (numbers of examples, say), for `"uniform_neighbor"`; traced.  Who has size 0 is
        not heard.

    Methods whose state belongs to the weights (`fixed_topology`) refuse it.
    Source: `sizes` as numbers of examples are the weights of Palmieri et al., ICT-DM 2023 (decentralised averaging).
    """
    where = "reweigh"
    checks.instance(where, "network", network, Network)
    checks.one_of(where, "rule", rule, RULES)
    if network.is_implicit:
        checks.fail(where, "network", "one that lists its edges", "a large complete graph")
    if sizes is not None:
        if rule != "uniform_neighbor":
            checks.fail(where, "sizes", "None for metropolis_hastings", checks.describe(sizes))
        sizes = checks.array(where, "sizes", sizes, (network.num_nodes,), 0.0)
    kept = network.properties & {"connected", "undirected"}
    if rule == "metropolis_hastings" and "undirected" not in kept:
        checks.fail(where, "network", "undirected for metropolis_hastings", "a directed one", "Use uniform_neighbor.")
    properties = kept | (_DOUBLY if rule == "metropolis_hastings" else frozenset({"row_stochastic"}))

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        del key
        up = active_edges(network)
        up = jnp.ones(network.num_edges, bool) if up is None else up
        up = up if network.is_edge is None else up & network.is_edge
        own = None if sizes is None else jnp.asarray(sizes, network.edge_weights.dtype)[network.node_ids]
        weights = edge_weights(network.senders, network.receivers, up, network.num_nodes, rule, own)
        return state, weighed(network, weights.astype(network.edge_weights.dtype), properties)

    return Scenario(init=lambda key, network: (), step=step, properties=properties)


def edge_weights(
    senders: Array, receivers: Array, up: Array, num_nodes: int, rule: str, sizes: Array | None = None
) -> Array:
    """Weights `[E]` by a rule of `RULES` over the links that are `up` `[E]`, sorted by receiver; 0 over the others."""

    def heard(values: Array) -> Array:
        return jax.ops.segment_sum(jnp.where(up, values, 0), receivers, num_nodes, indices_are_sorted=True)

    if rule == "metropolis_hastings":
        degrees = heard(jnp.ones(up.shape, jnp.float32))
        return jnp.where(up, 1 / (1 + jnp.maximum(degrees[senders], degrees[receivers])), 0)
    said = jnp.ones(up.shape, jnp.float32) if sizes is None else sizes[senders]
    total = heard(said) + (1 if sizes is None else sizes)
    return jnp.where(up, said / jnp.where(total > 0, total, 1)[receivers], 0)


def weighed(network: Network, by_edge: Array, properties: frozenset[str]) -> Network:
    """The network with other weights over its edges; each receiver keeps what is left of its row."""
    given = jax.ops.segment_sum(by_edge, network.receivers, network.num_nodes, indices_are_sorted=True)
    lowering = network.lowering
    if lowering == "average":  # weights are no longer equal
        lowering = "edges" if network.neighbor_edges is None else "neighbors"
    table = None if network.neighbor_edges is None else mixing.table_weights(network.neighbor_edges, by_edge)
    network = network.replace(
        edge_weights=by_edge, self_weights=1 - given, neighbor_weights=table, lowering=lowering, properties=properties
    )
    dense = mixing.matrix(network, by_edge, jnp.zeros_like(given)) if lowering == "dense" else None
    return network.replace(matrix=dense)
