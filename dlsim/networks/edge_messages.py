"""What belongs to edges and not to nodes: a message of its own over each, values and weights of each, sums by receiver."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, PyTree, Route
from dlsim.networks import messages
from dlsim.networks.fields import check_single
from dlsim.networks.network import Arrival, Network
from dlsim.running import counters


def reverse_edges(network: Network) -> Array:
    """For each edge i -> j of an undirected network the edge j -> i, int32 `[E]`.

    Edges are sorted by (receiver, sender); sorting them by (sender, receiver) puts the k-th edge's reverse at place k.
    """
    checks.instance("reverse_edges", "network", network, Network)
    if "undirected" not in network.properties:
        checks.fail("reverse_edges", "network", "undirected, so that every edge has a reverse", "a directed one")
    if checks.is_concrete((network.senders, network.receivers)):
        # On the host: left in a program, the sort of constants is done by the compiler, seconds for 10,000 nodes.
        known = np.lexsort((np.asarray(network.receivers), np.asarray(network.senders)))
        back = np.zeros(network.num_edges, np.int32)
        back[known] = np.arange(network.num_edges, dtype=np.int32)
        return jnp.asarray(back)
    order = jnp.lexsort((network.receivers, network.senders))
    return jnp.zeros_like(order).at[order].set(jnp.arange(network.num_edges), unique_indices=True).astype(jnp.int32)


@checks.typed
def sum_at_receivers(network: Network, tree: PyTree) -> PyTree:
    """The sum over the edges into each node of `tree [E, ...]`, `[N, ...]`; those of the padding are the last node's."""
    messages.check_leading("sum_at_receivers", tree, network.num_edges)

    def leaf(rows: Array) -> Array:
        return jax.ops.segment_sum(rows, network.receivers, network.num_nodes, indices_are_sorted=True)

    return jax.tree.map(leaf, tree)


def from_receivers(network: Network, tree: PyTree) -> PyTree:
    """The receiver's row of `tree [N, ...]` at every edge, `[E, ...]`; zero in the padding."""
    rows = trees.take(tree, network.receivers)
    return trees.select(network.is_edge, rows, trees.zeros_like(rows))


def heard_edges(network: Network, arrival: Arrival) -> Array:
    """Over which edges something came to somebody who is there, bool `[E]`: what is under way finds some of them gone."""
    if network.is_present is None:
        return arrival.mask
    return arrival.mask & network.is_present[network.receivers]


def check_edge_weights(where: str, argument: str, weights: Any, num_nodes: int) -> Any:
    """Weights of the links, apart from those of mixing: `[N, N]` by node id, symmetric, >= 0 and 0 on the diagonal.

    None (1 a link) and tracers pass.  Entries without a link mean nothing, but must be numbers.
    """
    if weights is None:
        return None
    given = checks.array(where, argument, weights, (num_nodes, num_nodes), minimum=0.0)
    if checks.is_concrete(given):
        for i, j in np.argwhere(given != given.T)[:1].tolist():
            got = f"{given[i, j]:g} at [{i}, {j}] and {given[j, i]:g} at [{j}, {i}]"
            checks.fail(where, argument, "symmetric", got, "Pass np.maximum(a, a.T), say.")
        for (i,) in np.argwhere(np.diagonal(given))[:1].tolist():
            checks.fail(where, argument, "0 on the diagonal", f"{given[i, i]:g} at [{i}, {i}]", "A link has two ends.")
    return jnp.asarray(given, float)


def edge_weights(network: Network, weights: Array | None) -> Array:
    """Of every edge its entry of the matrix `weights [N, N]` (by node id; None: 1), `[E]`; 0 in the padding."""
    if weights is None:
        found = jnp.ones(network.num_edges)
    else:
        found = weights[network.node_ids[network.receivers], network.node_ids[network.senders]]
    return found if network.is_edge is None else jnp.where(network.is_edge, found, 0)


@checks.typed
def send_edges(
    network: Network, key: Array, tree: PyTree, *, header: PyTree = None, stream: str = "edges"
) -> tuple[Arrival, Network]:
    """Node `senders[e]` sends row e of `tree [E, ...]` over edge e; `Arrival([E, ...], [E])` is what `receivers[e]` gets.

    Every edge is a stream of its own to the channel (error feedback keeps a residual an edge, also over rounds in which
    the edge is down).  Traffic is counted at the senders, once an edge that is up.  Where messages take rounds, a
    receiver has of each edge the newest that has arrived.  A `header` `[E, ...]` arrives beside, whole whatever the channel,
    and its bits are counted: the arrival's values are then `(tree, header)`.

    Args:
      network: who sends to whom, with its channel, links and scenario.
      key: of what the channel draws.
      tree: what goes over each edge, every leaf `[E, ...]`.
      header: what arrives beside, every leaf `[E, ...]`; None: nothing.
      stream: the name of these messages, for the channel's memory and the counts.
    """
    checks.instance("send_edges", "network", network, Network)
    if network.is_implicit:
        checks.fail("send_edges", "network", "one that lists its edges", "a large complete graph")
    messages.check_leading("send_edges", tree, network.num_edges)
    check_single("send_edges", network)
    ids = network.node_ids
    senders, receivers = ids[network.senders], ids[network.receivers]
    route = Route(node_ids=senders, senders=senders, receivers=receivers)
    mask = messages.active_edges(network)
    packet, network = messages.pass_channel(network, key, tree, route, stream, None, network.num_edges, mask)
    if header is not None:
        messages.check_leading("send_edges", header, network.num_edges)
        size = jnp.asarray(trees.num_bits(header), jnp.uint32)
        packet = packet._replace(values=(packet.values, header), extra_bits=packet.extra_bits + size)
    there = network.is_edge if mask is None else mask
    up = jnp.ones(network.num_edges, bool) if there is None else there
    arrived = up if packet.delivered is None else up & packet.delivered
    values = packet.values
    if network.delays is not None:
        if network.delays.is_changing:
            checks.fail("send_edges", "scenario", "one that keeps the topology where messages take rounds", "another")
        sizes = counters.as_float(messages.message_bits(packet))
        values, arrived, network = messages.passed(
            network,
            key,
            stream,
            values,
            arrived,
            network.senders,
            network.receivers,
            sizes,
            hear="newest",
            are_links=True,
        )
    return Arrival(values=values, mask=arrived), messages.count_edges(network, key, stream, packet, up)
