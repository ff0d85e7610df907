"""Random walks along trust: where they went, which nodes they reached first and through whom.

A walk starts at its root.  Before every hop it stops with probability a, at a node that trusts nobody it stops anyway,
else it goes to one of those whom its node trusts, in proportion to the weights.  Walk w of root r draws by
(key, r, hop, w) alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.running.batching import in_turn
from dlsim.trust.graphs.graph import TrustGraph, check_roots, check_trust, cumulated, pick

CUT = 1e-3  # walks of a root that are expected to be longer than `max_hops` where it is not given
MOST_HOPS = 2**16
COUNTS = 2**26  # pair counts held at once
CHUNKS = (2**10, 2**16)  # entries of walks looked at together, at least and at most


class Tally(NamedTuple):
    """What the walks of one root say of each node."""

    visits: Array  # [M] how often it was met; 0 for the root
    hits: Array  # [M] in how many walks
    bottlenecks: Array  # [M] of those, the largest part that had met one and the same other node (not the root) before


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


def walk_uniforms(key: Array, hop: Array, num: int) -> tuple[Array, Array]:
    """Two uniform floats in [0, 1) a walk, float32 `[num]` each, for one hop."""
    words = keys.node_words(keys.fold_in(key, hop), jnp.arange(num), 1)
    first, second = ((word[:, 0] >> 8).astype(jnp.float32) * jnp.float32(2**-24) for word in words)
    return first, second


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
        key, sums = keys.fold_in(key, root), cumulated(graph)

        def goes_on(carry: tuple[Array, Array, Array]) -> Array:
            hop, nodes, _ = carry
            return (hop < max_hops) & jnp.any(nodes >= 0)

        def one(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            hop, nodes, walks = carry
            chance, choice = walk_uniforms(key, hop, num_walks)
            edge = pick(graph, sums, nodes, choice)
            is_on = (edge >= 0) & (chance >= stop)
            nodes = jnp.where(is_on, graph.targets[jnp.maximum(edge, 0)], -1)
            return hop + 1, nodes, jax.lax.dynamic_update_index_in_dim(walks, nodes, hop + 1, 0)

        start = jnp.full(num_walks, root, jnp.int32)
        walks = jnp.full((max_hops + 1, num_walks), -1, jnp.int32).at[0].set(start)
        return jax.lax.while_loop(goes_on, one, (jnp.zeros((), jnp.int32), start, walks))[2]

    return in_turn(walk)(key, graph, root, jnp.asarray(stop, jnp.float32))


def tally(walks: Array, root: Array, num_nodes: int, is_connected: bool = True) -> Tally:
    """Visits, hits and bottlenecks of the M nodes; without bottlenecks (all 0) where they are not asked for.

    A bottleneck of x is the node y other than the root that most walks to x had met before they first met x.
    O(V l) work for V nodes on all walks and a longest walk of l hops, as none looks further back than that; pairs are
    counted in blocks of targets, `COUNTS` at a time.  Roots under `vmap` are tallied in turn, each with its own V and l.
    """
    return in_turn(lambda walks, root: _tally(walks, root, num_nodes, is_connected))(walks, root)


def _tally(walks: Array, root: Array, num: int, is_connected: bool) -> Tally:
    length = walks.shape[0]
    chunk = max(length, min(max(8 * walks.shape[1], CHUNKS[0]), CHUNKS[1]))  # nobody looks back further than that
    longest = jnp.sum(jnp.any(walks >= 0, axis=1)) - 1

    def part(entries: Array, start: Array, back: Array | int = 0) -> Array:
        return jax.lax.dynamic_slice(entries, (start + chunk - back,), (chunk,))

    def each(used: Array, body: Any, value: Array) -> Array:
        return jax.lax.fori_loop(0, -(-used // chunk), lambda i, value: body(i * chunk, value), value)

    # Walk by walk in one list: hops to look back are places to look back.
    flat = jnp.where(walks >= 0, walks, -1).T.ravel()
    owner = jnp.repeat(jnp.arange(walks.shape[1], dtype=jnp.int32), length, total_repeat_length=flat.size)
    nodes, owner, used = _compact(flat, owner, flat >= 0, chunk)

    def repeats(start: Array, seen: Array) -> Array:
        here = part(nodes, start), part(owner, start)

        def look(back: Array, is_again: Array) -> Array:
            return is_again | ((part(nodes, start, back) == here[0]) & (part(owner, start, back) == here[1]))

        is_again = jax.lax.fori_loop(1, longest + 1, look, jnp.zeros(chunk, bool))
        return jax.lax.dynamic_update_slice(seen, is_again, (start + chunk,))

    again = each(used, repeats, jnp.zeros(nodes.shape, bool))
    is_other = (nodes >= 0) & (nodes != root)
    visits = _count(nodes, is_other, num)
    hits = _count(nodes, is_other & ~again, num)
    if not is_connected:
        return Tally(visits, hits, jnp.zeros(num))
    nodes, owner, used = _compact(nodes, owner, is_other & ~again, chunk)
    block = min(num, max(1, COUNTS // num))

    def most(low: Array) -> Array:
        def pairs(start: Array, counts: Array) -> Array:
            here, mine = part(nodes, start), part(owner, start)
            is_mine = (here >= low) & (here < low + block)

            def look(back: Array, counts: Array) -> Array:
                met = part(nodes, start, back)
                is_pair = is_mine & (met >= 0) & (part(owner, start, back) == mine)
                return counts.at[jnp.where(is_pair, (here - low) * num + met, block * num)].add(1, mode="drop")

            return jax.lax.fori_loop(1, longest + 1, look, counts)

        counts = each(used, pairs, jnp.zeros(block * num, jnp.int32))
        return jnp.max(counts.reshape(block, num), axis=1)

    lows = jnp.arange(-(-num // block)) * block
    largest = jax.lax.map(most, lows).ravel()[:num]
    return Tally(visits, hits, largest / jnp.maximum(hits, 1))


def _compact(nodes: Array, owner: Array, is_kept: Array, chunk: int) -> tuple[Array, Array, Array]:
    """The entries that are kept, in their order, with room (-1) of a chunk before them and after; and how many."""
    size = nodes.shape[0] + 2 * chunk
    place = jnp.where(is_kept, jnp.cumsum(is_kept) - 1 + chunk, size)
    room = jnp.full(size, -1, jnp.int32)
    return room.at[place].set(nodes, mode="drop"), room.at[place].set(owner, mode="drop"), jnp.sum(is_kept)


def _count(nodes: Array, is_counted: Array, num: int) -> Array:
    found = jnp.zeros(num, jnp.int32).at[jnp.where(is_counted, nodes, num)].add(1, mode="drop")
    return found.astype(jnp.result_type(float))
