"""Kademlia's tables and lookups: ids, buckets that are computed and never stored, many lookups side by side.

An id is `bits` wide; the distance of two is their exclusive or.  Bucket l of a node holds k of those whose distance has its
highest bit at place l: those ids differ from its own first at that bit, so they are a stretch of the sorted ids.  Which k
of them is drawn by (node id, l), so a table needs no memory, and a million nodes are their sorted ids.

Source: Maymounkov, Mazieres, Kademlia: a peer-to-peer information system based on the XOR metric, IPTPS 2002.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array
from dlsim.trust.draws import subset

UNASKED, ANSWERED, TIMED_OUT = 0, 1, 2
REMEMBERED = 4  # times k: how many of the closest a lookup keeps in mind, those that timed out among them
LONGEST = 8  # rounds a bit, at most


class Ring(NamedTuple):
    """Who has which id."""

    ids: Array  # uint32 [N] sorted
    nodes: Array  # int32 [N] whose they are, in that order
    word: Array  # uint32 [] by which tables are drawn


class Found(NamedTuple):
    """What lookups ended with."""

    nodes: Array  # int32 [Q, k] the closest that answered, closest first, the asker among them; -1: fewer
    rounds: Array  # int32 [Q] of alpha questions at a time
    messages: Array  # int32 [Q] questions asked, answered or not
    timeouts: Array  # int32 [Q] of them to nodes that were away
    answered: Array  # uint32 [N] questions that each node answered


class _Search(NamedTuple):
    places: Array  # int32 [Q, L] among the sorted ids, -1: none; closest first
    states: Array  # int32 [Q, L]
    is_going: Array  # bool [Q]
    found: Found


def make_ring(key: Array, node_ids: Array, bits: int) -> Ring:
    """Ids drawn by node, distinct: of those with one id all but the first draw again."""
    num = node_ids.shape[0]

    def draw(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        attempts, _, order, is_second = carry
        attempts = attempts.at[order].add(is_second.astype(jnp.int32))
        # Each attempt of a node has a key of its own, whose first word is drawn.
        words = jax.random.key_data(keys.fold_in(key, node_ids, attempts)).astype(jnp.uint32)
        ids = words[:, 0] >> (32 - bits)
        order = jnp.lexsort((node_ids, ids)).astype(jnp.int32)
        ids = ids[order]
        return attempts, ids, order, jnp.concatenate([jnp.zeros(1, bool), ids[1:] == ids[:-1]])

    start: tuple[Array, ...] = (
        jnp.zeros(num, jnp.int32),
        jnp.zeros(num, jnp.uint32),
        jnp.arange(num, dtype=jnp.int32),
        jnp.ones(num, bool),
    )
    _, ids, nodes, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[3]), draw, start)
    return Ring(ids, nodes, keys.node_bits(keys.stream(key, "tables"), jnp.zeros(1, jnp.int32), 1)[0, 0])


def contacts(ring: Ring, node_ids: Array, places: Array, bits: int, bucket_size: int) -> Array:
    """The tables of the nodes at `places` `[n]` among the sorted ids: places `[n, bits, k]`, -1 where a bucket has fewer."""
    levels = jnp.arange(bits, dtype=jnp.uint32)
    own = ring.ids[places][:, None]
    first = ((own >> levels) ^ 1) << levels  # the least id of the bucket
    low = jnp.searchsorted(ring.ids, first)
    # The greatest of it, not the next one's least, which may be 2^32.
    high = jnp.searchsorted(ring.ids, first | ((jnp.uint32(1) << levels) - 1), side="right")
    key = keys.fold_in(jax.random.key(0, impl=keys.THREEFRY), ring.word)
    words = keys.node_bits(key, node_ids[ring.nodes[places]], bits * bucket_size)
    chosen = subset(words.reshape(*low.shape, bucket_size), (high - low).astype(jnp.int32))
    return jnp.where(chosen < 0, -1, low[..., None].astype(jnp.int32) + chosen)


def _distances(ring: Ring, places: Array, targets: Array) -> Array:
    """uint32 distances from the target; the greatest there is where a place is -1."""
    return jnp.where(places < 0, jnp.uint32(0xFFFFFFFF), ring.ids[places] ^ targets)


def _known(ring: Ring, node_ids: Array, places: Array, targets: Array, bits: int, bucket_size: int) -> Array:
    """The k contacts of each node closest to its target: places `[n, k]`, closest first, -1: fewer."""
    table = contacts(ring, node_ids, places, bits, bucket_size).reshape(places.shape[0], -1)
    distances = _distances(ring, table, targets[:, None])
    # Complemented, so that the nearest is the greatest; unsigned all the way.
    _, nearest = jax.lax.top_k(~distances, bucket_size)
    return jnp.take_along_axis(table, nearest, axis=1)


def _merge(ring: Ring, targets: Array, places: Array, states: Array, size: int) -> tuple[Array, Array]:
    """The `size` closest, each once, in the state it has reached."""
    width = places.shape[1]

    def order(places: Array, states: Array) -> tuple[Array, Array]:
        distances = _distances(ring, places, targets[:, None])
        # Of one distance: first who was asked; nobody after who is as far as can be.
        second = jnp.where(places < 0, 1, -states)
        _, _, places, states = jax.lax.sort((distances, second, places, states), dimension=1, num_keys=2)
        return places, states

    places, states = order(places, states)
    is_twice = jnp.concatenate([jnp.zeros((places.shape[0], 1), bool), places[:, 1:] == places[:, :-1]], axis=1)
    places, states = order(jnp.where(is_twice, -1, places), jnp.where(is_twice, UNASKED, states))
    return places[:, : min(size, width)], states[:, : min(size, width)]


def lookup(
    ring: Ring,
    node_ids: Array,
    is_there: Array,
    askers: Array,
    targets: Array,
    *,
    bits: int,
    bucket_size: int,
    parallelism: int,
) -> Found:
    """Lookups of `targets` uint32 `[Q]` by the nodes `askers` `[Q]`, all side by side.

    Each begins with the k contacts of the asker closest to the target.  A round asks the alpha closest that were not asked
    yet among the k closest that did not time out; each that is there answers with its own k closest contacts.  It ends when
    the k closest have all answered.  Who is away costs a question, and is not asked again.
    """
    num, num_queries = ring.ids.shape[0], askers.shape[0]
    size = REMEMBERED * bucket_size
    where = jnp.zeros(num, jnp.int32).at[ring.nodes].set(jnp.arange(num, dtype=jnp.int32))
    there = is_there[ring.nodes]
    own = where[askers]
    # Who asks knows itself alone at first, and asks itself in a turn that is no round.
    places = jnp.full((num_queries, size), -1, jnp.int32).at[:, 0].set(own)
    states = jnp.zeros(places.shape, jnp.int32)
    zeros = jnp.zeros(num_queries, jnp.int32)
    found = Found(jnp.zeros((num_queries, bucket_size), jnp.int32), zeros, zeros, zeros, jnp.zeros(num, jnp.uint32))

    def closest(search: _Search) -> Array:
        """Who of those in mind are the k closest that did not time out, bool `[Q, L]`."""
        is_live = (search.places >= 0) & (search.states != TIMED_OUT)
        return is_live & (jnp.cumsum(is_live, axis=1) <= bucket_size)

    def one_round(search: _Search, is_round: Array) -> _Search:
        waiting = closest(search) & (search.states == UNASKED)
        is_asked = waiting & (jnp.cumsum(waiting, axis=1) <= parallelism)
        _, at = jax.lax.top_k(is_asked * (size - jnp.arange(size)), parallelism)
        asks = jnp.take_along_axis(is_asked, at, axis=1)
        asked = jnp.take_along_axis(search.places, at, axis=1)
        answers = asks & there[jnp.maximum(asked, 0)]
        states = jnp.where(
            is_asked, jnp.where(there[jnp.maximum(search.places, 0)], ANSWERED, TIMED_OUT), search.states
        )
        each = jnp.broadcast_to(targets[:, None], asked.shape).reshape(-1)
        told = _known(ring, node_ids, jnp.maximum(asked, 0).reshape(-1), each, bits, bucket_size)
        told = jnp.where(answers.reshape(-1)[:, None], told, -1).reshape(num_queries, -1)
        both = jnp.concatenate([search.places, told], axis=1), jnp.concatenate([states, jnp.zeros_like(told)], axis=1)
        places, states = _merge(ring, targets, *both, size)
        count = jnp.sum(asks & is_round, axis=1, dtype=jnp.int32)
        heard = jnp.sum(answers & is_round, axis=1, dtype=jnp.int32)
        by = ring.nodes[jnp.where(answers, asked, 0)]
        found = search.found._replace(
            rounds=search.found.rounds + (count > 0),
            messages=search.found.messages + count,
            timeouts=search.found.timeouts + count - heard,
            answered=search.found.answered.at[by].add((answers & is_round).astype(jnp.uint32)),
        )
        after = search._replace(places=places, states=states, found=found)
        return after._replace(is_going=jnp.any(closest(after) & (states == UNASKED), axis=1))

    def goes_on(carry: tuple[Array, _Search]) -> Array:
        return jnp.any(carry[1].is_going) & (carry[0] <= LONGEST * bits)

    def turn(carry: tuple[Array, _Search]) -> tuple[Array, _Search]:
        return carry[0] + 1, one_round(carry[1], carry[0] > 0)

    search = _Search(places, states, jnp.ones(num_queries, bool), found)
    _, search = jax.lax.while_loop(goes_on, turn, (jnp.zeros((), jnp.int32), search))
    is_last = closest(search) & (search.states == ANSWERED)
    rank = jnp.where(is_last, jnp.cumsum(is_last, axis=1) - 1, bucket_size)
    rows = jnp.arange(num_queries)[:, None]
    nodes = jnp.full((num_queries, bucket_size + 1), -1, jnp.int32).at[rows, rank].set(ring.nodes[search.places])
    return search.found._replace(nodes=nodes[:, :bucket_size])


def nearest(ring: Ring, is_there: Array, targets: Array, bits: int) -> Array:
    """The node that is there and closest to each target, int32 `[Q]`; -1: nobody is.

    Bit by bit from the highest: into the half that the target is in, where somebody is there, else into the other.
    """
    there = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(is_there[ring.nodes], dtype=jnp.int32)])

    def halve(step: Array, prefix: Array) -> Array:
        bit = jnp.uint32(1) << (jnp.uint32(bits) - 1 - step.astype(jnp.uint32))
        wanted = prefix | (targets & bit)
        low = jnp.searchsorted(ring.ids, wanted)
        high = jnp.searchsorted(ring.ids, wanted | (bit - 1), side="right")
        return jnp.where(there[high] > there[low], wanted, wanted ^ bit)

    closest = jax.lax.fori_loop(0, bits, halve, jnp.zeros_like(targets))
    place = jnp.minimum(jnp.searchsorted(ring.ids, closest), ring.ids.shape[0] - 1)
    return jnp.where(there[-1] > 0, ring.nodes[place], -1)


def random_present(key: Array, is_there: Array, num: int) -> Array:
    """`num` nodes that are there, each at random, int32 `[num]`; node 0 where nobody is."""
    count = jnp.sum(is_there, dtype=jnp.int32)
    words = keys.node_bits(key, jnp.arange(num), 1)[:, 0]
    turn = (words % jnp.maximum(count, 1).astype(jnp.uint32)).astype(jnp.int32)
    place = jnp.searchsorted(jnp.cumsum(is_there, dtype=jnp.int32), turn + 1)
    return jnp.minimum(place, is_there.shape[0] - 1).astype(jnp.int32)
