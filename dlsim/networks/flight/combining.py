"""What receivers make of what they hear: the weighted sum, or the messages themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import Array, Packet, PyTree
from dlsim.networks import mixing
from dlsim.networks.fields import Inbox, NetworkFields, Told
from dlsim.networks.flight import in_flight
from dlsim.networks.messages import Fields, active_edges, both, send


def mix(network: Fields, key: Array, tree: PyTree, weights: Any, stream: str, hear: str) -> tuple[PyTree, Fields]:
    """One gossip product: `send`, then `combine` with the node's own exact value."""
    sent_with = None
    if network.delays is not None and hear == "all" and weights is not None:
        sent_with = given_weights(network, weights)[0]
    packet, network = send(network, key, tree, stream, hear, sent_with)
    return combine(network, packet, tree, weights), network


def combine(network: NetworkFields, packet: Packet, own: PyTree | None, weights: Any) -> PyTree:
    """y_i = w_ii own_i + sum_j w_ij values_j over what arrived; no traffic.

    `own=None` stands for the packet's own values.  `weights` overrides the network's: a matrix `[N, N]` (W[i, j] the
    weight receiver i gives sender j; only entries on edges count) or `(edge_weights [E], self_weights [N])`; traced.
    """
    own = packet.values if own is None else own
    if packet.heard is not None:
        return _combined_late(network, packet, own, weights)
    mask, delivered = active_edges(network), packet.delivered
    if network.is_implicit:
        if weights is not None:
            checks.fail("mix", "network", "one that lists its edges where weights are given", "a large complete graph")
        if network.is_present is not None:
            return mixing.masked_average(packet.values, own, network.is_present)
        return mixing.product(network, packet.values, own, None, None)
    edge_weights, self_weights = (None, None) if weights is None else given_weights(network, weights)
    is_row_stochastic = "row_stochastic" in network.properties
    if weights is None and not is_row_stochastic:
        self_weights = network.self_weights
    if mask is None and delivered is None and packet.told is None:
        return mixing.product(network, packet.values, own, edge_weights, self_weights)
    full = network.edge_weights if edge_weights is None else edge_weights
    arrives = both(mask, delivered)
    if self_weights is not None and arrives is not None:
        self_weights = _with_left_over(network, full, self_weights, mask, arrives)
    full = full if arrives is None else jnp.where(arrives, full, 0)
    if packet.told is None:
        return mixing.product(network, packet.values, own, full, self_weights)
    honest = jnp.where(packet.told.is_told, 0, full)
    mixed = mixing.product(network, packet.values, own, honest, self_weights)
    return _with_told(network, packet.told, mixed, None if self_weights is not None else own, full)


def _with_told(network: NetworkFields, told: Told, mixed: PyTree, own: PyTree | None, weights: Array) -> PyTree:
    """A product without them, and what those who tell each receiver something else add to it: share (told - own)."""
    lies = jnp.where(told.is_told, weights, 0)
    share = jax.ops.segment_sum(lies, network.receivers, network.num_nodes, indices_are_sorted=True)

    def leaf(mixed: Array, told: Array, own: Array | None) -> Array:
        way = trees.widen(told) if own is None else trees.widen(told) - trees.widen(own)
        part = trees.expand(share, way)
        return (trees.widen(mixed) + jnp.where(part == 0, 0, part.astype(way.dtype) * way)).astype(mixed.dtype)

    if own is None:
        return jax.tree.map(lambda m, t: leaf(m, t, None), mixed, told.values)
    return jax.tree.map(leaf, mixed, told.values, own)


def _with_left_over(
    network: NetworkFields, full: Array, self_weights: Array, mask: Array | None, arrives: Array | None
) -> Array:
    """Self weights with what missing links and lost messages leave over: see `Network`."""
    if "row_stochastic" in network.properties:
        if arrives is not None:
            left_over = jnp.where(arrives, 0, full)
            self_weights = self_weights + jax.ops.segment_sum(left_over, network.receivers, network.num_nodes)
    elif mask is not None:
        left_over = jnp.where(mask, 0, full)
        self_weights = self_weights + jax.ops.segment_sum(left_over, network.senders, network.num_nodes)
    return self_weights


def _combined_late(network: NetworkFields, packet: Packet, own: PyTree, weights: Any) -> PyTree:
    """`combine` of what has arrived by now of a stream (`in_flight`)."""
    heard: in_flight.Heard = packet.heard
    if network.is_implicit and weights is not None:
        checks.fail("mix", "network", "one that lists its edges where weights are given", "a large complete graph")
    if heard.hear == "all":
        return _all_late(network, packet, own, weights)
    size = jax.tree.leaves(heard.values)[0].shape[1]
    then = in_flight.at(network, heard.topology, heard.slots)
    if jnp.ndim(heard.mask) == 0 and weights is None:
        # One message old, or nobody has heard anything yet.
        values, is_there = in_flight.rows(heard), heard.mask
        if network.lowering == "average":
            return jax.tree.map(
                lambda new, old: jnp.where(is_there, new, old), mixing.product(then, values, own, None, None), own
            )
        return mixing.product(mixing.scaled(then, is_there), values, own, None, None)
    edge_weights, self_weights = (None, None) if weights is None else given_weights(network, weights)
    full = then.edge_weights if edge_weights is None else edge_weights
    arrives = jnp.broadcast_to(heard.mask, full.shape)
    if self_weights is not None:
        self_weights = _with_left_over(network, full, self_weights, None, arrives)
    full = jnp.where(arrives, full, 0)
    if jnp.ndim(heard.slots) == 0:
        return mixing.product(then, in_flight.rows(heard), own, full, self_weights)
    view = in_flight.slotted(network, heard.slots, size)
    return mixing.product(view, in_flight.flat(heard.values), own, full, self_weights)


def _all_late(network: NetworkFields, packet: Packet, own: PyTree, weights: Any) -> PyTree:
    """Every message once: what a node keeps of its own in this exchange, and what arrives in it."""
    heard: in_flight.Heard = packet.heard
    mask = active_edges(network)
    edge_weights, self_weights = network.edge_weights, network.self_weights
    if weights is not None:
        edge_weights, self_weights = given_weights(network, weights)
    if network.is_implicit:
        values = jax.tree.map(lambda leaf: jnp.where(heard.mask, leaf, 0), in_flight.rows(heard))
        return mixing.weighed_average(values, own)
    self_weights = _with_left_over(network, edge_weights, self_weights, mask, both(mask, packet.delivered))
    ring, slots = heard.weights, heard.slots
    size = jax.tree.leaves(heard.values)[0].shape[1]
    if slots is not None and jnp.ndim(slots) == 0:
        then = in_flight.at(network, heard.topology, slots)
        full = (then.edge_weights if weights is None else edge_weights) if ring is None else ring[:, slots]
        return mixing.product(then, in_flight.rows(heard), own, jnp.where(heard.mask, full, 0), self_weights)
    if slots is not None:
        full = edge_weights if ring is None else jnp.take_along_axis(ring, slots[:, None], axis=1)[:, 0]
        view = in_flight.slotted(network, slots, size)
        return mixing.product(view, in_flight.flat(heard.values), own, jnp.where(heard.mask, full, 0), self_weights)

    ones = jnp.ones_like(self_weights)

    def from_place(place: Array, total: PyTree) -> PyTree:
        then = in_flight.at(network, heard.topology, place)
        full = (then.edge_weights if weights is None else edge_weights) if ring is None else ring[:, place]
        values = jax.tree.map(lambda leaf: leaf[:, place], heard.values)
        return mixing.product(then, values, total, jnp.where(heard.mask[:, place], full, 0), ones)

    kept = jax.tree.map(lambda leaf: trees.expand(self_weights, leaf).astype(leaf.dtype) * leaf, own)
    return jax.lax.fori_loop(0, size, from_place, kept)


def given_weights(network: NetworkFields, weights: Any) -> tuple[Array, Array]:
    """Weights made inside a step, as `(edge_weights [E], self_weights [N])`."""
    if isinstance(weights, tuple):
        checks.shape("mix", "weights[0]", weights[0], (network.num_edges,))
        checks.shape("mix", "weights[1]", weights[1], (network.num_nodes,))
        by_edge, own = weights
    else:
        checks.shape("mix", "weights", weights, (network.num_nodes, network.num_nodes))
        by_edge, own = weights[network.receivers, network.senders], jnp.diagonal(weights)
    return (by_edge if network.is_edge is None else jnp.where(network.is_edge, by_edge, 0)), own


class Hearing(NamedTuple):
    """What a node hears, as places in rows that all share, so that its inbox can be made when it is wanted."""

    places: Array  # int32 [N, K] rows of `Listening.rows`
    weights: Array  # [N, K]
    mask: Array  # bool [N, K]
    senders: Array  # int32 [N, K] positions
    node_ids: Array  # int32 [N]
    sender_ids: Array  # int32 [N, K]
    told: PyTree = ()  # [N, ...] what a node is told in place of some messages
    is_told: Array | tuple[()] = ()  # bool [N, K] of which


def listen(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[PyTree, Hearing, Fields]:
    """Each node sends its row to its neighbours: the messages `[M, ...]`, and which of them each node hears."""
    if network.neighbors is None:
        checks.fail(
            "gather",
            "network",
            "of bounded degree (a table [N, largest degree] of messages)",
            f"{network.num_nodes} nodes and no table",
            'Use network.with_lowering("neighbors") if the table fits in memory.',
        )
    packet, network = send(network, key, tree, stream)
    if packet.heard is not None:
        rows, hearing = _heard_late(network, packet.heard)
        return rows, hearing, network
    arrives = both(active_edges(network), packet.delivered)
    table: Any = network.neighbor_edges
    mask = table < network.num_edges
    if arrives is not None:
        mask = mask & arrives.at[table].get(mode="fill", fill_value=False)
    hearing = _hearing(network, network, network.neighbors, mask)
    if packet.told is not None:
        is_told = packet.told.is_told.at[table].get(mode="fill", fill_value=False)
        hearing = hearing._replace(told=packet.told.values, is_told=is_told)
    return packet.values, hearing, network


def _hearing(network: NetworkFields, then: Any, places: Any, mask: Array) -> Hearing:
    """Of messages sent over the links of `then`."""
    weights, ids = jnp.where(mask, then.neighbor_weights, 0), network.node_ids
    return Hearing(places, weights, mask, then.neighbors, ids, ids[then.neighbors])


def inbox_of(rows: PyTree, hearing: Hearing) -> Inbox:
    """The messages themselves, `[n, K, ...]`, of any n nodes."""
    values = jax.tree.map(lambda leaf: leaf.at[hearing.places].get(mode="promise_in_bounds"), rows)
    if not isinstance(hearing.is_told, tuple):
        is_told: Array = hearing.is_told

        def told(value: Array, other: Array) -> Array:
            return jnp.where(trees.expand(is_told, value), other[:, None], value)

        values = jax.tree.map(told, values, hearing.told)
    return Inbox(
        values=values,
        weights=hearing.weights,
        mask=hearing.mask,
        senders=hearing.senders,
        node_ids=hearing.node_ids,
        candidate_ids=jnp.concatenate([hearing.node_ids[:, None], hearing.sender_ids], axis=1),
    )


def gather(network: Fields, key: Array, tree: PyTree, stream: str) -> tuple[Inbox, Fields]:
    """What each node heard from each neighbour, for rules that are not linear."""
    rows, hearing, network = listen(network, key, tree, stream)
    return inbox_of(rows, hearing), network


def _heard_late(network: NetworkFields, heard: in_flight.Heard) -> tuple[PyTree, Hearing]:
    """What has arrived by now: of each neighbour the newest."""
    then = in_flight.at(network, heard.topology, heard.slots)
    table = then.neighbor_edges
    if jnp.ndim(heard.mask):
        mask = heard.mask.at[table].get(mode="fill", fill_value=False)
    else:
        mask = (table < network.num_edges) & heard.mask
    if jnp.ndim(heard.slots) == 0:
        return in_flight.rows(heard), _hearing(network, then, then.neighbors, mask)
    size = jax.tree.leaves(heard.values)[0].shape[1]
    places = in_flight.slotted(network, heard.slots, size).neighbors
    return in_flight.flat(heard.values), _hearing(network, then, places, mask)
