"""Who knows which rows of the click logs and whom he may ask; see `dlsim.trust.g_rank` for the letters."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array
from dlsim.trust.graphs.click_logs import Logs

SHARE = 0.1  # of every log, that a newcomer gets


class GRank(NamedTuple):
    """N nodes and then A attackers, n in all."""

    logs: Logs
    versions: Array  # int32 [n, n], V
    known: Array  # bool [n, n], whom each may ask
    similarity: Array  # [n, n], S
    library: Array  # bool [n, I]
    tags: Array  # bool [I, Q]
    tick: Array  # int32 []
    rows_sent: Array  # [] in replies, this far


def introduced(versions: Array, known: Array, node: Array, peer: Array) -> tuple[Array, Array]:
    """A newcomer has the first tenth of every log that a peer knows; each of the two knows of the other."""
    part = jnp.ceil(jnp.float32(SHARE) * versions[peer]).astype(jnp.int32)
    row = jnp.maximum(versions[node], part)
    versions = versions.at[node].set(row)
    ids = jnp.arange(versions.shape[0])
    known = known.at[node].set((known[node] | (row > 0) | (ids == peer)) & (ids != node)).at[peer, node].set(True)
    return versions, known


def told(state: GRank, hearer: Array, speaker: Array) -> GRank:
    """All that the speaker knows is now known to the hearer; nothing where either is nobody (negative)."""
    is_real = (hearer >= 0) & (speaker >= 0)
    at, peer = jnp.maximum(hearer, 0), jnp.maximum(speaker, 0)
    row = jnp.where(is_real, jnp.maximum(state.versions[at], state.versions[peer]), state.versions[at])
    sent = jnp.sum(row - state.versions[at]).astype(jnp.float32)
    ids = jnp.arange(row.shape[0])
    seen = (state.known[at] | (is_real & ((row > 0) | (ids == peer)))) & (ids != at)
    versions, known = state.versions.at[at].set(row), state.known.at[at].set(seen)
    return state._replace(versions=versions, known=known, rows_sent=state.rows_sent + sent)


def met(known: Array, node: Array, other: Array) -> Array:
    """The node knows of the other from now on."""
    at = jnp.maximum(node, 0)
    return known.at[at, other].set(known[at, other] | (node >= 0))


def pushed(key: Array, state: GRank, ids: Array) -> GRank:
    """Each of `ids [A]`, one after the other, tells two of those it may ask, drawn at random, all that it knows."""
    whole = state.versions.shape[0]

    def one(place: Array, state: GRank) -> GRank:
        node = ids[place]
        chance = keys.node_uniform(keys.fold_in(key, node), jnp.arange(whole), 1)[:, 0]
        _, peers = jax.lax.top_k(jnp.where(state.known[node], chance, -1.0), 2)
        for peer in (peers[0], peers[1]):
            state = told(state, jnp.where(state.known[node, peer], peer, -1), node)
        return state

    return jax.lax.fori_loop(0, ids.shape[0], one, state)
