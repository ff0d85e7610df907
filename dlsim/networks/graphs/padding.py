"""Topologies in arrays of one size, so that they are data of one program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.networks.mixing import lower
from dlsim.networks.network import Network


def widen(network: Network, width: int) -> Network:
    """The network as a table `[N, width]` of neighbours, padded with the node itself at weight zero."""
    network = lower(network, "neighbors")
    neighbors, edges, weights = (
        np.asarray(leaf) for leaf in (network.neighbors, network.neighbor_edges, network.neighbor_weights)
    )
    missing = width - neighbors.shape[1]
    own = np.arange(network.num_nodes, dtype=np.int32)[:, None]

    def wider(table: np.ndarray, filling: Any) -> jax.Array:
        extra = np.broadcast_to(filling, (network.num_nodes, missing)).astype(table.dtype)
        return jnp.asarray(np.concatenate([table, extra], axis=1))

    return network.replace(
        neighbors=wider(neighbors, own),
        neighbor_edges=wider(edges, network.num_edges),
        neighbor_weights=wider(weights, 0),
        grid=None,
        offsets=None,
        labels=None,
    )


def lengthen(network: Network, num_edges: int) -> Network:
    """The network with a list of `num_edges` edges, padded with what are no edges (`Network.is_edge`)."""
    own = network.num_edges
    missing = num_edges - own

    def longer(values: jax.Array, filling: Any) -> jax.Array:
        return jnp.asarray(np.append(np.asarray(values), np.full(missing, filling, values.dtype)))

    delays = network.delays
    if delays is not None and delays.per == "link":
        extra = [(0, 0)] * (jnp.ndim(delays.values) - 1) + [(0, missing)]
        delays = delays.replace(values=jnp.pad(delays.values, extra))
    table = None if network.neighbor_edges is None else np.asarray(network.neighbor_edges)
    return network.replace(
        senders=longer(network.senders, network.num_nodes - 1),
        receivers=longer(network.receivers, network.num_nodes - 1),
        edge_weights=longer(network.edge_weights, 0),
        neighbor_edges=None if table is None else jnp.asarray(np.where(table == own, num_edges, table), jnp.int32),
        is_edge=jnp.arange(num_edges) < own,
        delays=delays,
        grid=None,
        offsets=None,
        labels=None,
    )
