"""The verbs to and from a server."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import SERVER, Array, PyTree, Route
from dlsim.networks.fields import Arrival, NetworkFields
from dlsim.networks.messages import (
    Fields,
    check_leading,
    count,
    message_bits,
    pass_channel,
    passed,
    times,
)
from dlsim.networks.pace.seconds import from_server, timed_links, to_server
from dlsim.running import counters


def asked(network: NetworkFields) -> tuple[Array | None, Array]:
    """Rows of the nodes the server deals with in this round (None: all, in order), and who of them is there, `[C]`."""
    rows = network.cohort
    if network.is_present is None:
        size = network.num_nodes if rows is None else rows.shape[0]
        return rows, jnp.ones(size, bool)
    return rows, network.is_present if rows is None else network.is_present[rows]


def uplink(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Arrival, Fields]:
    """Each node of the cohort sends its row of `tree [C, ...]` to the server, which gets `Arrival([C, ...], [C])`."""
    rows, present = asked(network)
    check_leading(stream, tree, present.shape[0])
    ids = network.node_ids if rows is None else network.node_ids[rows]
    route = Route(node_ids=ids, senders=ids, receivers=jnp.full_like(ids, SERVER))
    acting = None if network.is_present is None else present
    packet, network = pass_channel(network, key, tree, route, stream, rows, network.num_nodes, acting)
    arrived = present if packet.delivered is None else present & packet.delivered
    bits, copies = message_bits(packet), present.astype(jnp.uint32)
    values = packet.values
    if network.delays is not None:
        if rows is not None:
            fix = "Use a method whose server does not wait (fedbuff, fedasync, ...), with a pace in place of delays."
            checks.fail("uplink", "cohort", "all nodes where reports take rounds", f"{rows.shape[0]} of them", fix)
        places, sizes = jnp.arange(network.num_nodes, dtype=jnp.int32), counters.as_float(bits)
        values, arrived, network = passed(network, key, stream, values, arrived, places, None, sizes, hear="once")
    if timed_links(network) is not None:
        network = to_server(network, key, stream, jnp.where(present, counters.as_float(bits), 0), rows)
    if rows is not None:
        nothing = jnp.zeros(network.num_nodes, jnp.uint32)
        copies = nothing.at[rows].set(copies, unique_indices=True)
        bits = counters.Counter(*(nothing.at[rows].set(word, unique_indices=True) for word in bits))
    return Arrival(values=values, mask=arrived), count(network, copies, bits)


def downlink(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Arrival, Fields]:
    """The server sends `tree [...]` to each node of the cohort; they get `Arrival([C, ...], [C])`, the same for all."""
    rows, present = asked(network)
    ids = network.node_ids if rows is None else network.node_ids[rows]
    server = jnp.full((1,), SERVER, ids.dtype)
    route = Route(node_ids=server, senders=jnp.full_like(ids, SERVER), receivers=ids)
    message = jax.tree.map(lambda leaf: leaf[None], tree)
    packet, network = pass_channel(network, key, message, route, stream, None, 1, None)
    arrived = present if packet.delivered is None else present & packet.delivered
    received = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (ids.shape[0], *leaf.shape[1:])), packet.values)
    bits = jax.tree.map(lambda word: word[0], message_bits(packet))
    copies = jnp.sum(present, dtype=jnp.uint32)
    if network.delays is not None:
        # What is under way to a node is there for it whether or not it is asked again: by node, not by place in a cohort.
        places, one = jnp.arange(network.num_nodes, dtype=jnp.int32), jnp.zeros(network.num_nodes, jnp.int32)
        made = (
            arrived if rows is None else jnp.zeros(network.num_nodes, bool).at[rows].set(arrived, unique_indices=True)
        )
        sizes = jnp.broadcast_to(counters.as_float(bits), made.shape)
        received, arrived, network = passed(
            network, key, stream, packet.values, made, None, places, sizes, hear="newest", row=one
        )
        if rows is not None:
            received, arrived = trees.take(received, rows), arrived[rows]
    if timed_links(network) is not None:
        network = from_server(network, key, stream, jnp.where(present, counters.as_float(bits), 0), rows)
    traffic = network.state.traffic
    traffic = traffic._replace(
        server_messages=counters.add(traffic.server_messages, counters.from_words(copies)),
        server_bits=counters.add(traffic.server_bits, times(bits, copies)),
    )
    return Arrival(values=received, mask=arrived), network.with_state(network.state._replace(traffic=traffic))
