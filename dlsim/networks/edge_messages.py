"""A different message over every edge."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dlsim import checks
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
def send_edges(network: Network, key: Array, tree: PyTree, *, stream: str = "edges") -> tuple[Arrival, Network]:
    """Node `senders[e]` sends row e of `tree [E, ...]` over edge e; `Arrival([E, ...], [E])` is what `receivers[e]` gets.

    Every edge is a stream of its own to the channel (error feedback keeps a residual an edge, also over rounds in which
    the edge is down).  Traffic is counted at the senders, once an edge that is up.  Where messages take rounds, a
    receiver has of each edge the newest that has arrived.
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
