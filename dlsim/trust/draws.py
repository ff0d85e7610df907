"""Draws without replacement, many at once, and who is drawn among others or neighbours."""

from __future__ import annotations

import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array
from dlsim.networks.network import Network
from dlsim.trust.rounds import is_complete


def subset(words: Array, size: Array) -> Array:
    """k distinct numbers of 0 .. m-1, int32 `[..., k]`, every set of k as likely; all of them, then -1, where m < k.

    Args:
      words: uniform random words, uint32 `[..., k]`.
      size: m, int32 `[...]`.

    For t = 0 .. k-1, with b = m - k + t: draw r in 0 .. b; take r, or b where r is taken already.  O(k^2) comparisons and
    no sort.  Source: Bentley, Floyd, Programming pearls: a sample of brilliance, CACM 1987.
    """
    num = words.shape[-1]
    taken: list[Array] = []
    for t in range(num):
        last = jnp.maximum(size - num + t, 0)
        drawn = (words[..., t] % (last.astype(jnp.uint32) + 1)).astype(jnp.int32)
        is_taken = jnp.zeros(drawn.shape, bool)
        for before in taken:
            is_taken = is_taken | (before == drawn)
        drawn = jnp.where(is_taken, last, drawn)
        taken.append(jnp.where(size >= num, drawn, jnp.where(t < size, t, -1)))
    return jnp.stack(taken, axis=-1)


def peers(key: Array, network: Network, num: int) -> Array:
    """For each node `num` others at random, int32 `[N, num]`; among its neighbours where the graph is not complete.

    Distinct; a node with fewer neighbours has them all, and -1.
    """
    words = keys.node_bits(key, network.node_ids, num)
    size = network.num_nodes
    position = jnp.arange(size, dtype=jnp.int32)[:, None]
    if is_complete(network):
        if num >= size - 1:
            return (position + 1 + jnp.arange(num, dtype=jnp.int32)) % size
        return (position + 1 + subset(words, jnp.full(size, size - 1, jnp.int32))) % size
    near = network if network.neighbors is not None else network.with_lowering("neighbors")
    table: Array = near.neighbors  # type: ignore[assignment]
    place = subset(words, near.in_degrees.astype(jnp.int32))
    return jnp.where(place < 0, -1, jnp.take_along_axis(table, jnp.maximum(place, 0), axis=1))


def ranks(key: Array, node_ids: Array) -> Array:
    """A random order of the nodes: the place of each, int32 `[N]`."""
    order = jnp.argsort(keys.node_bits(key, node_ids, 1)[:, 0])
    return jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32))


def share_of(key: Array, node_ids: Array, share: Array | float) -> Array:
    """Who is among a random share of the nodes, bool `[N]`: as many as share N, rounded."""
    place = ranks(key, node_ids)
    return place.astype(jnp.float32) + 0.5 < share * node_ids.shape[0]
