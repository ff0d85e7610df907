"""One auxiliary variable at each end of every link, as consensus ADMM keeps them: z_ij at i for its neighbour j.

In a round node j tells i 2 rho v_j - z_ji, and i takes it in:

    z_ij <- (1 - alpha) z_ij + alpha (2 rho v_j - z_ji)

At a fixed point z_ij + z_ji = 2 rho v_j = 2 rho v_i: the nodes agree on v.  z `[E, ...]`, row e of edge j -> i at its
receiver i.  What is lost, or not sent, leaves its z as it was, and moves no fixed point.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import Array, PyTree
from dlsim.networks.edge_messages import reverse_edges, send_edges
from dlsim.networks.network import Network

REQUIRES = frozenset({"connected", "undirected", "fixed_topology"})


def start(where: str, network: Network, values: PyTree) -> PyTree:
    """z_ij = values_i `[N, ...]` at every edge's receiver, `[E, ...]`."""
    if network.is_implicit:
        checks.fail(where, "network", "one that lists its edges", "a large complete graph")
    duals = trees.take(values, network.receivers)
    return trees.select(network.is_edge, duals, trees.zeros_like(duals))  # padding holds nothing


def summed(network: Network, duals: PyTree) -> PyTree:
    """sum_j z_ij, `[N, ...]`."""

    def leaf(one: Array) -> Array:
        return jax.ops.segment_sum(one, network.receivers, network.num_nodes, indices_are_sorted=True)

    return jax.tree.map(leaf, duals)


def degrees(network: Network) -> Array:
    """Neighbours of each node as the topology has them, `[N]`: an absence does not change the penalty."""
    there = jnp.ones(network.num_edges) if network.is_edge is None else network.is_edge.astype(float)
    return summed(network, there)


def exchange(
    network: Network, key: Array, duals: PyTree, said: PyTree, penalty: Any, relaxation: Any
) -> tuple[PyTree, Network]:
    """The round above, v_j = `said [N, ...]`; one message of its size a neighbour."""
    back = reverse_edges(network)
    message = jax.tree.map(lambda v, z: 2 * penalty * v[network.senders] - z[back], said, duals)
    arrival, network = send_edges(network, key, message)
    heard = arrival.mask
    if network.is_present is not None:
        heard = heard & network.is_present[network.receivers]
    moved = jax.tree.map(lambda z, m: z + relaxation * (m - z), duals, arrival.values)
    return trees.select(heard, moved, duals), network
