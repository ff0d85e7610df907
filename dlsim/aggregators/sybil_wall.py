"""SybilWall: FoolsGold among neighbours, who also know what others farther away say."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.aggregators.candidates import weighted_sum
from dlsim.aggregators.similarity import confident, cosines, foolsgold_weights, is_finite
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.edge_messages import send_edges
from dlsim.networks.messages import both
from dlsim.networks.network import Inbox, Network

EMPTY = -1


class Records(NamedTuple):
    """What a node knows of others: of each the newest model it has heard of, at first or second hand."""

    peers: Array  # int32 [N, M] positions; -1: none
    rounds: Array  # int32 [N, M] in which the peer sent it, -1: none
    distances: Array  # int32 [N, M] hops that it has come, 1 from the peer itself
    sources: Array  # int32 [N, M] positions of the neighbours that it came from
    values: PyTree  # [N, M, ...]


class SybilWallState(NamedTuple):
    round: Array  # int32 [N]
    records: Records


def sybil_wall(*, num_records: int = 32, decay: Any = 0.8) -> Aggregator:
    """The mean of one's own model and the neighbours' with FoolsGold's weights, compared with models from farther away.

    A round of node i, whose neighbours are j:

        to each j:  one record (peer, round, distance, model) of those that i has, with probability in proportion to
                    decay exp(-decay (distance - 1)), but none of j itself and none that came from j
        received:   stored at distance + 1, in place of an older one of the same peer; models heard directly at distance 1
        w:          FoolsGold's weights of all models that i has of others (`foolsgold`), of which those of neighbours
                    heard in this round are kept, and only then scaled by their largest
        x_i = (y_i + sum_j w_ij y_j) / (1 + sum_j w_ij)

    Records are for comparison alone.  So a model that one adversary sends to every victim under another name has a twin two
    hops away, even where no victim hears it twice.  Histories of summed changes are the newest models, which is what is
    kept.  Who hears nobody keeps its own model, as does who hears none but twins.

    Records are messages of their own, over the same links and through the same channel as any other, of D numbers and a
    header of three integers: traffic is twice that of a mean.  A liar lies in them as in its models; nodes that are to send
    none run another rule (`by_node`).

    Not translation equivariant: cosines are taken of the models themselves, about zero.

    Args:
      num_records: M, what a node has room for, its neighbours' models among them; at least its neighbours; structural.
        The oldest is given up for a newer one.  Memory N M D.
      decay: lambda > 0 of the draw; traced.

    Cost: one Gram matrix a receiver, 2 M^2 D flops.
    Source: Werthenbach and Pouwelse, Towards Sybil resilience in decentralized learning, 2023.  Differs: room for M models,
      where theirs is without bound; equal weights of zero where all have a twin.
    """
    where = "sybil_wall"
    checks.integer(where, "num_records", num_records, 1)
    checks.number(where, "decay", decay, 0.0, open_minimum=True)

    def init(params: PyTree) -> SybilWallState:
        num = jax.tree.leaves(params)[0].shape[0]
        empty = jnp.full((num, num_records), EMPTY, jnp.int32)
        nothing = jax.tree.map(lambda p: jnp.zeros((num, num_records, *p.shape[1:]), p.dtype), params)
        records = Records(empty, empty, jnp.zeros_like(empty), empty, nothing)
        return SybilWallState(jnp.zeros(num, jnp.int32), records)

    def ask(key: Array, state: SybilWallState, network: Network) -> tuple[SybilWallState, Network]:
        """Everybody tells every neighbour of somebody."""
        table: Any = network.neighbor_edges
        if table is None:
            rule, got = "of bounded degree (a table of its neighbours)", f"{network.num_nodes} nodes and no table"
            checks.fail(where, "network", rule, got, 'Use network.with_lowering("neighbors").')
        _check_room(num_records, table.shape[1])
        header, values, is_one = _drawn(key, state.records, network, decay)
        told = network.replace(is_linked=both(network.is_linked, is_one))
        arrival, told = send_edges(told, key, values, header=header, stream="records")
        network = network.with_state(told.state)
        values, (peers, rounds, distances) = arrival.values
        # To the table of neighbours; the last row is of what is no edge.
        heard = jnp.append(arrival.mask, False).at[table].get(mode="clip")
        edge = jnp.minimum(table, network.num_edges - 1)
        peers, rounds, distances = peers[edge], rounds[edge], distances[edge]
        values = jax.tree.map(lambda leaf: leaf[edge], values)
        heard = heard & (peers != jnp.arange(network.num_nodes)[:, None]) & is_finite(values)
        new = Records(peers, rounds, distances + 1, jnp.asarray(network.neighbors), values)
        # Rounds are counted by the nodes, who may be away: what is heard from a neighbour now is the newest there is.
        latest = jnp.max(jnp.where(heard, rounds + 1, 0), axis=1, initial=0)
        return SybilWallState(jnp.maximum(state.round, latest), _stored(state.records, new, heard)[0]), network

    def apply(key: Array, state: SybilWallState, own: PyTree, inbox: Inbox) -> tuple[SybilWallState, PyTree]:
        del key
        _check_room(num_records, inbox.mask.shape[1])
        mask = inbox.mask & is_finite(inbox.values)
        now = jnp.broadcast_to(state.round[:, None], mask.shape)
        new = Records(inbox.senders, now, jnp.ones_like(now), inbox.senders, inbox.values)
        records, places = _stored(state.records, new, mask)
        there = records.peers != EMPTY
        compared = foolsgold_weights(cosines(records.values, there), there)
        of_heard = jnp.take_along_axis(compared, jnp.minimum(places, num_records - 1), axis=1)
        weights = confident(jnp.where(mask, of_heard, 0))
        share = 1 / (1 + jnp.sum(weights, axis=1))
        heard = weighted_sum(weights * share[:, None], inbox.values)
        mixed = jax.tree.map(lambda o, h: (trees.expand(share, o) * o + h).astype(o.dtype), own, heard)
        return SybilWallState(state.round + 1, records), mixed

    return Aggregator(init=init, apply=apply, ask=ask, source="Werthenbach and Pouwelse, 2023")


def _check_room(num_records: int, num_neighbors: int) -> None:
    if num_records < num_neighbors:
        rule = f"at least {num_neighbors}, the largest number of neighbours"
        checks.fail("sybil_wall", "num_records", rule, num_records, f"Use num_records={4 * num_neighbors}.")


def _drawn(key: Array, records: Records, network: Network, decay: Any) -> tuple[tuple[Array, ...], PyTree, Array]:
    """Of every edge the record that goes over it: its header, its model, and whether there is one; `[E, ...]`."""
    senders, receivers = network.senders, network.receivers
    peers = records.peers[senders]
    is_candidate = (peers != EMPTY) & (peers != receivers[:, None]) & (records.sources[senders] != receivers[:, None])
    far = records.distances[senders] - 1
    nearest = jnp.min(jnp.where(is_candidate, far, jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
    # In proportion, so that the nearest has weight one however far it is.
    odds = jnp.where(is_candidate, jnp.exp(-decay * jnp.where(is_candidate, far - nearest, 0)), 0)
    below = jnp.cumsum(odds, axis=1)
    ids = network.node_ids
    drawn = keys.edge_uniform(keys.stream(key, "record"), ids[senders], ids[receivers])
    chosen = jnp.sum(below <= drawn[:, None] * below[:, -1:], axis=1)
    # Rounding may leave the draw at the sum of all: the last candidate then.
    last = peers.shape[1] - 1 - jnp.argmax(is_candidate[:, ::-1], axis=1)
    chosen = jnp.minimum(chosen, last)
    values = jax.tree.map(lambda leaf: leaf[senders, chosen], records.values)
    header = tuple(leaf[senders, chosen] for leaf in (records.peers, records.rounds, records.distances))
    return header, values, jnp.any(is_candidate, axis=1)


def _stored(records: Records, new: Records, mask: Array) -> tuple[Records, Array]:
    """The records with `new` `[N, K, ...]` of the mask `[N, K]`, and the place of each, `[N, K]` (M: nowhere).

    One after the other: of a peer that is known only a newer one is taken, of another in place of the oldest.
    """
    num, size = records.peers.shape
    rows = jnp.arange(num)

    def one(carry: tuple[Array, ...], k: Array) -> tuple[tuple[Array, ...], Array]:
        peers, rounds, distances, sources, filled = carry
        peer, round, distance, source, is_there = (
            jax.lax.dynamic_index_in_dim(leaf, k, axis=1, keepdims=False)
            for leaf in (new.peers, new.rounds, new.distances, new.sources, mask)
        )
        is_same = peers == peer[:, None]
        place = jnp.where(jnp.any(is_same, axis=1), jnp.argmax(is_same, axis=1), jnp.argmin(rounds, axis=1))
        takes = is_there & (round > rounds[rows, place])
        at = jnp.where(takes, place, size)

        def put(leaf: Array, value: Any) -> Array:
            return leaf.at[rows, at].set(value, mode="drop", unique_indices=True)

        carry = (
            put(peers, peer),
            put(rounds, round),
            put(distances, distance),
            put(sources, source),
            put(filled, jnp.broadcast_to(k, rows.shape)),
        )
        return carry, at

    start: tuple[Array, ...] = (*records[:4], jnp.full_like(records.peers, EMPTY))
    (peers, rounds, distances, sources, filled), places = jax.lax.scan(one, start, jnp.arange(mask.shape[1]))
    places = places.T.astype(jnp.int32)
    # Who was there first and had to go again is not written.
    last = jnp.take_along_axis(filled, jnp.minimum(places, size - 1), axis=1) == np.arange(mask.shape[1])
    places = jnp.where((places < size) & last, places, size)
    values = jax.tree.map(
        lambda old, value: old.at[rows[:, None], places].set(value.astype(old.dtype), mode="drop"),
        records.values,
        new.values,
    )
    return Records(peers, rounds, distances, sources, values), places
