"""One auxiliary variable at each end of every link, as consensus ADMM keeps them: z_ij at i for its neighbour j.

In a round node j tells i 2 rho v_j - z_ji, and i takes it in:

    z_ij <- (1 - alpha) z_ij + alpha (2 rho v_j - z_ji)

At a fixed point z_ij + z_ji = 2 rho v_j = 2 rho v_i: the nodes agree on v.  z `[E, ...]`, row e of edge j -> i at its
receiver i.  What is lost, or not sent, leaves its z as it was, and moves no fixed point.
"""

from __future__ import annotations

from typing import Any

import jax

from dlsim import checks, trees
from dlsim.core import Array, PyTree
from dlsim.networks.edge_messages import from_receivers, heard_edges, reverse_edges, send_edges
from dlsim.networks.network import Network

REQUIRES = frozenset({"connected", "undirected", "fixed_topology"})


def start(where: str, network: Network, values: PyTree) -> PyTree:
    """z_ij = values_i `[N, ...]` at every edge's receiver, `[E, ...]`."""
    if network.is_implicit:
        checks.fail(where, "network", "one that lists its edges", "a large complete graph")
    return from_receivers(network, values)


def degrees(network: Network) -> Array:
    """Neighbours of each node as the topology has them, `[N]`: an absence does not change the penalty."""
    return network.in_degrees.astype(float)


def exchange(
    network: Network, key: Array, duals: PyTree, said: PyTree, penalty: Any, relaxation: Any
) -> tuple[PyTree, Network]:
    """The round above, v_j = `said [N, ...]`; one message of its size a neighbour."""
    back = reverse_edges(network)
    message = jax.tree.map(lambda v, z: 2 * penalty * v[network.senders] - z[back], said, duals)
    arrival, network = send_edges(network, key, message)
    moved = jax.tree.map(lambda z, m: z + relaxation * (m - z), duals, arrival.values)
    return trees.select(heard_edges(network, arrival), moved, duals), network
