"""Click logs of many authors, of which each node knows a prefix; rankings and similarities by what it knows.

See `dlsim.trust.g_rank` for the letters.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim.core import Array

TOP_TERMS = 10


class Logs(NamedTuple):
    """All click logs, one row after the other as they were written; M rows of room."""

    author: Array  # int32 [M]
    place: Array  # int32 [M], which row of its author
    term: Array  # int32 [M]
    item: Array  # int32 [M]
    size: Array  # int32 [], rows written
    lengths: Array  # int32 [n], by author


def known_rows(logs: Logs, versions: Array) -> Array:
    """Which rows a node knows, bool `[M]`, from its versions `[n]`."""
    return (jnp.arange(logs.author.shape[0]) < logs.size) & (logs.place < versions[logs.author])


def counts_of(logs: Logs, weights: Array, num_terms: int, num_items: int) -> Array:
    """Weighted clicks by term and item, `[Q, I]`, of rows with weights `[M]`."""
    flat = jnp.zeros(num_terms * num_items, weights.dtype).at[logs.term * num_items + logs.item].add(weights)
    return flat.reshape(num_terms, num_items)


def similarities(logs: Logs, versions: Array, node: Array, num_terms: int, num_items: int, form: str) -> Array:
    """S_i `[n]` of one node from the rows it knows."""
    num = versions.shape[0]
    rows = known_rows(logs, versions)
    used = jnp.zeros(num * num_terms, jnp.int32).at[logs.author * num_terms + logs.term].add(rows.astype(jnp.int32))
    used = used.reshape(num, num_terms)
    has_used = used > 0
    # Two counts in one pass over the log: all clicks, and 2^16 for clicks on terms that the node has used itself.
    both = rows.astype(jnp.int32) * (1 + (has_used[node][logs.term].astype(jnp.int32) << 16))
    clicks = jnp.zeros(num * num_items, jnp.int32).at[logs.author * num_items + logs.item].add(both)
    clicks = clicks.reshape(num, num_items)
    own = counts_of(logs, (rows & (logs.author == node)).astype(jnp.float32), num_terms, num_items) > 0
    shared = (has_used.astype(jnp.float32) @ own.astype(jnp.float32)) > 0  # [n, I] own items under the author's terms
    m = jnp.sum(shared & (clicks >= 1 << 16), axis=1)
    u = jnp.sum((clicks > 0) | (clicks[node] > 0), axis=1)
    rank = used * num_terms + jnp.arange(num_terms - 1, -1, -1)  # of equals the lowest term first
    least = jax.lax.top_k(rank, min(TOP_TERMS, num_terms))[0][:, -1]
    top = has_used & (rank >= least[:, None])
    t = jnp.sum(top & top[node], axis=1)
    joint = t + m * m if form == "paper" else m + t * t
    found = jnp.where(u > 0, joint / jnp.maximum(u, 1), 0)
    largest = jnp.max(found)
    return jnp.where(largest > 0, found / jnp.where(largest > 0, largest, 1), 0).astype(jnp.float32)


def one_of(is_in: Array, uniform: Array) -> Array:
    """Which of `[..., I]` a uniform draw `[...]` takes among those that are in, int32; the first where none is.

    One draw, not one an item: the largest of as many draws takes XLA minutes to compile on a CPU.
    """
    rank = jnp.floor(uniform * jnp.sum(is_in, axis=-1)).astype(jnp.int32)
    return jnp.argmax(is_in & (jnp.cumsum(is_in, axis=-1) > rank[..., None]), axis=-1).astype(jnp.int32)


def drawn_once(draws: Array) -> Array:
    """The same draws `[..., k]`, in memory: else XLA makes them again in each of the many loops that use one.

    A sort by place moves nothing and is not fused with what comes after.
    """
    place = jax.lax.broadcasted_iota(jnp.int32, draws.shape, draws.ndim - 1)
    return jax.lax.sort((place, draws), dimension=-1, num_keys=1)[1]


def places(scores: Array, is_listed: Array) -> Array:
    """Where each item stands, int32 `[..., I]`: highest score first, of equals the lowest id, those not listed last."""
    order = jnp.argsort(jnp.where(is_listed, -scores, jnp.inf), axis=-1, stable=True)
    here = jnp.broadcast_to(jnp.arange(scores.shape[-1], dtype=jnp.int32), order.shape)
    return jnp.put_along_axis(jnp.zeros_like(here), order, here, axis=-1, inplace=False)


def rank_distance(scores: Array, is_listed: Array, best: Array, is_best: Array) -> Array:
    """Sum over items in both lists of how far their places are from the best places, `[...]`."""
    apart = jnp.abs(places(scores, is_listed) - best)
    return jnp.sum(jnp.where(is_listed & is_best, apart, 0), axis=-1).astype(jnp.float32)


def written(logs: Logs, nodes: Array, terms: Array, items: Array) -> tuple[Logs, Array]:
    """One row more for each of distinct nodes; rows beyond the room are not written, which is said."""
    count = nodes.shape[0]
    room = logs.author.shape[0]
    at = logs.size + jnp.arange(count, dtype=jnp.int32)
    made = Logs(
        author=logs.author.at[at].set(nodes, mode="drop"),
        place=logs.place.at[at].set(logs.lengths[nodes], mode="drop"),
        term=logs.term.at[at].set(terms, mode="drop"),
        item=logs.item.at[at].set(items, mode="drop"),
        size=jnp.minimum(logs.size + count, room),
        lengths=logs.lengths.at[nodes].add((at < room).astype(jnp.int32)),
    )
    return made, logs.size + count > room
