"""Random walks along trust: where they went, which nodes they reached first and through whom.

A walk starts at its root.  Before every hop it stops with probability a, at a node that trusts nobody it stops anyway,
else it goes to one of those whom its node trusts, in proportion to the weights.  Walk w of root r draws by
(key, r, hop, w) alone.

How many hops a walk may make is drawn first, and the longest walks are put first: those that are still under way are then
the first lanes, and no work is done for those that have ended.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, PyTree
from dlsim.running.batching import in_turn
from dlsim.trust.graphs.graph import TrustGraph, check_roots, check_trust, cumulated, pick

CUT = 1e-3  # walks of a root that are expected to be longer than `max_hops` where it is not given
MOST_HOPS = 2**16
COUNTS = 2**26  # pair counts held at once
LANES = (64, 2**15)  # walks looked at together, at least and at most: about a 32nd of them
ROWS = 16  # hops looked at together


class Tally(NamedTuple):
    """What the walks of one root say of each node."""

    visits: Array  # [M] how often it was met; 0 for the root
    hits: Array  # [M] in how many walks
    bottlenecks: Array  # [M] of those, the largest part that had met one and the same other node (not the root) before


class HopFn(Protocol):
    def __call__(self, place: Array, uniform: Array, state: PyTree, /) -> tuple[PyTree, Array]: ...


def stops(where: str, argument: str, value: Any) -> Any:
    """A probability to stop at every hop: in (0, 1]."""
    return checks.number(where, argument, value, 0.0, 1.0, open_minimum=True)


def hops(where: str, max_hops: int | None, stop: Any, num_walks: int, argument: str = "transitivity_decay") -> int:
    """How many hops there is room for: all but `CUT` of the walks of a root, by expectation, end before."""
    if max_hops is not None:
        return checks.integer(where, "max_hops", max_hops, 1, MOST_HOPS)
    checks.known(where, argument, stop, "a known number where max_hops is not given", "Give max_hops.")
    alpha = float(stop)
    if alpha >= 1:
        return 1
    return min(MOST_HOPS, max(1, math.ceil(math.log(CUT / num_walks) / math.log1p(-alpha))))


def random_walks(
    key: Array,
    graph: TrustGraph,
    root: int | Array,
    num_walks: int = 10_000,
    *,
    transitivity_decay: float | Array = 0.1,
    max_hops: int | None = None,
) -> Array:
    """The nodes on each walk, int32 `[max_hops + 1, num_walks]`: the root first, -1 after the end.

    Args:
      graph: of N nodes.
      root: a node with at least one edge.
      num_walks: R.
      transitivity_decay: a in (0, 1], the probability to stop at every hop; may be a tracer.
      max_hops: how many hops there is room for.  By default so many that a walk in a thousand roots is cut off.
    """
    where = "random_walks"
    checks.key(where, "key", key)
    check_trust(where, graph)
    at = check_roots(where, root, graph, "root")
    checks.shape(where, "root", at, ())
    num_walks = checks.integer(where, "num_walks", num_walks, 1)
    alpha = stops(where, "transitivity_decay", transitivity_decay)
    return walk_from(key, graph, at, num_walks, alpha, hops(where, max_hops, alpha, num_walks))


def walk_from(key: Array, graph: TrustGraph, root: Array, num_walks: int, stop: Any, max_hops: int) -> Array:
    """`random_walks`, unchecked.  Batches of roots walk in turn: a loop for all would copy every walk at every hop."""

    def walk(key: Array, graph: TrustGraph, root: Array, stop: Array) -> Array:
        sums = cumulated(graph)

        def hop(place: Array, uniform: Array, nodes: Array) -> tuple[Array, Array]:
            del place
            edge = pick(graph, sums, nodes, uniform)
            nodes = jnp.where(edge >= 0, graph.targets[jnp.maximum(edge, 0)], -1)
            return nodes, nodes

        start = jnp.full(num_walks, root, jnp.int32)
        return walk_along(keys.fold_in(key, root), start, start, hop, stop, max_hops)

    return in_turn(walk)(key, graph, root, jnp.asarray(stop, jnp.float32))


def walk_along(key: Array, start: Array, state: PyTree, hop: HopFn, stop: Array, max_hops: int) -> Array:
    """The nodes on walks of drawn lengths, int32 `[max_hops + 1, R]`, longest first; -1 after the end.

    Args:
      start: int32 `[R]`, the first nodes.
      state: what a walk has to remember, every leaf `[R]`, alike for all at the start.
      hop: `hop(number of the hop from 0, uniform [n], state) -> (state, nodes [n])`; a negative node ends the walk.
      stop: the probability to stop at every hop.
    """
    num = start.shape[0]
    # Pr(length >= h) = (1 - a)^h.
    draws = keys.node_uniform(keys.stream(key, "length"), jnp.arange(num), 1)[:, 0]
    lengths = jnp.minimum(jnp.floor(jnp.log1p(-draws) / jnp.log1p(-stop)), max_hops).astype(jnp.int32)
    ids = jnp.argsort(-lengths, stable=True).astype(jnp.int32)
    lengths = lengths[ids]
    size = lanes(num)
    room = -(-num // size) * size
    ids, state, lengths = jax.tree.map(lambda leaf: jnp.pad(leaf, (0, room - num)), (ids, state, lengths))
    walks = jnp.full((max_hops + 1, room), -1, jnp.int32).at[0, :num].set(start)

    def one(carry: tuple[Array, PyTree, Array]) -> tuple[Array, PyTree, Array]:
        place, state, walks = carry
        now = keys.fold_in(key, place)

        def part(lane: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            state, walks = carry
            mine = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice(leaf, (lane * size,), (size,)), (ids, state, lengths)
            )
            before = jax.lax.dynamic_slice(walks, (place, lane * size), (1, size))[0]
            made, nodes = hop(place, keys.node_uniform(now, mine[0], 1)[:, 0], mine[1])
            nodes = jnp.where((before >= 0) & (mine[2] > place), nodes, -1)
            state = jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_slice(leaf, new, (lane * size,)), state, made)
            return state, jax.lax.dynamic_update_slice(walks, nodes[None], (place + 1, lane * size))

        still = jnp.sum(lengths > place)
        state, walks = jax.lax.fori_loop(0, -(-still // size), part, (state, walks))
        return place + 1, state, walks

    first = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(lambda carry: carry[0] < lengths[0], one, (first, state, walks))[2][:, :num]


def lanes(num_walks: int) -> int:
    """How many walks go together: a power of two."""
    return min(max(LANES[0], 1 << (num_walks // 32).bit_length()), LANES[1])


def tally(walks: Array, root: Array, num_nodes: int, is_connected: bool = True) -> Tally:
    """Visits, hits and bottlenecks of the M nodes; without bottlenecks (all 0) where they are not asked for.

    A bottleneck of x is the node y other than the root that most walks to x had met before they first met x.  For walks of
    l hops, O(R l^2) pairs, counted in blocks of targets, `COUNTS` at a time.  Roots under `vmap` are tallied in turn.
    """
    return in_turn(lambda walks, root: _tally(walks, root, num_nodes, is_connected))(walks, root)


def _tally(walks: Array, root: Array, num: int, is_connected: bool) -> Tally:
    size = lanes(walks.shape[1])
    depth = -(-walks.shape[0] // ROWS) * ROWS
    room = -(-walks.shape[1] // size) * size
    walks = jnp.pad(walks, ((0, depth - walks.shape[0]), (0, room - walks.shape[1])), constant_values=-1)
    # Lanes up to the last one that is under way, by hop.
    still = jnp.max(jnp.where(walks >= 0, jnp.arange(1, room + 1), 0), axis=1)
    longest = jnp.sum(still > 0)

    def each(body: Any, value: Any) -> Any:
        """`body(hop, lane, value)` for all walks that are under way at a hop, some lanes at a time."""

        def row(place: Array, value: Any) -> Any:
            return jax.lax.fori_loop(0, -(-still[place] // size), lambda i, v: body(place, i * size, v), value)

        return jax.lax.fori_loop(1, longest, row, value)

    def before(nodes: Array, place: Array, lane: Array, look: Any, value: Any) -> Any:
        """`look(nodes of some earlier hops [ROWS, lanes], value)` for all hops before `place`."""

        def some(block: Array, value: Any) -> Any:
            met = jax.lax.dynamic_slice(nodes, (block * ROWS, lane), (ROWS, size))
            is_before = block * ROWS + jnp.arange(ROWS) < place
            return look(jnp.where(is_before[:, None], met, -1), value)

        return jax.lax.fori_loop(0, -(-place // ROWS), some, value)

    def count(place: Array, lane: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        firsts, visits, hits = carry
        here = jax.lax.dynamic_slice(walks, (place, lane), (1, size))[0]
        is_again = before(
            walks, place, lane, lambda met, seen: seen | jnp.any(met == here, axis=0), jnp.zeros(size, bool)
        )
        is_other = (here >= 0) & (here != root)
        new = jnp.where(is_other & ~is_again, here, -1)
        visits = visits.at[jnp.where(is_other, here, num)].add(1, mode="drop")
        hits = hits.at[jnp.where(new >= 0, new, num)].add(1, mode="drop")
        return jax.lax.dynamic_update_slice(firsts, new[None], (place, lane)), visits, hits

    nothing = jnp.zeros(num, jnp.int32)
    firsts, visits, hits = each(count, (jnp.full(walks.shape, -1, jnp.int32), nothing, nothing))
    kind = jnp.result_type(float)
    if not is_connected:
        return Tally(visits.astype(kind), hits.astype(kind), jnp.zeros(num, kind))
    block = min(num, max(1, COUNTS // num))

    def most(low: Array) -> Array:
        def pairs(place: Array, lane: Array, counts: Array) -> Array:
            here = jax.lax.dynamic_slice(firsts, (place, lane), (1, size))
            is_mine = (here >= low) & (here < low + block)

            def look(met: Array, counts: Array) -> Array:
                at = jnp.where(is_mine & (met >= 0), (here - low) * num + met, block * num)
                return counts.at[at].add(1, mode="drop")

            return before(firsts, place, lane, look, counts)

        return jnp.max(each(pairs, jnp.zeros(block * num, jnp.int32)).reshape(block, num), axis=1)

    largest = jax.lax.map(most, jnp.arange(-(-num // block)) * block).ravel()[:num]
    return Tally(visits.astype(kind), hits.astype(kind), largest.astype(kind) / jnp.maximum(hits, 1).astype(kind))
