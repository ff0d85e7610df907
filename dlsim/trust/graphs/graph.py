"""Graphs of trust: weighted edges from who trusts to who is trusted, in rows, and draws along them.

A network's edges say who hears whom; those of a trust graph say what a node thinks another is worth.  Weights are data
(they may be tracers, change from step to step and be swept); a weight of 0 is no edge, so graphs of different edges have one
form where the larger is padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array


@flax.struct.dataclass
class TrustGraph:
    """N rows of weighted edges, sorted by source and then by target."""

    starts: Array  # int32 [N + 1]: the edges of node i are starts[i] up to, and without, starts[i + 1]
    sources: Array  # int32 [E], who trusts
    targets: Array  # int32 [E], who is trusted
    weights: Array  # [E], 0 or more
    num_targets: int = flax.struct.field(pytree_node=False)  # N, or the size of the other side of a two-sided graph
    most: int = flax.struct.field(pytree_node=False)  # edges of one node, at most

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.starts.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """E, those of weight 0 among them."""
        return self.sources.shape[0]

    def __repr__(self) -> str:
        return f"TrustGraph({self.num_nodes} nodes, {self.num_edges} edges)"


def trust_graph(
    num_nodes: int, trusters: Any, trusted: Any, weights: Any = 1.0, *, most: int | None = None
) -> TrustGraph:
    """A graph of trust from a list of edges.

    Args:
      num_nodes: N.
      trusters, trusted: the ends of each edge, integers `[E]` in 0..N-1, in any order, tracers or not.  Nobody trusts himself
        here.  The same pair twice is two edges, whose weights count together.
      weights: one number, or one an edge `[E]`, 0 or more; data.
      most: edges of a node, at most; counted where the trusters are known, E where they are tracers.
    """
    where = "trust_graph"
    num_nodes = checks.integer(where, "num_nodes", num_nodes, 1)
    made = rows(where, num_nodes, num_nodes, ("trusters", trusters), ("trusted", trusted), weights, most)
    if checks.is_concrete((made.sources, made.targets)):
        own = np.flatnonzero(np.asarray(made.sources == made.targets) & ~np.asarray(made.weights == 0))
        if len(own):
            fix = "Leave such edges out."
            checks.fail(where, "trusted", "another than the truster", f"node {int(made.sources[own[0]])}", fix)
    return dataclasses.replace(made, weights=jnp.where(made.sources == made.targets, 0, made.weights))


def trust_matrix(matrix: Any) -> TrustGraph:
    """A graph of trust from a matrix: `matrix[i, j]`, 0 or more, is how much i trusts j; `[N, N]`, N at least 2.

    All pairs are edges, so that matrices which change (tracers) have one form.  The diagonal must be 0.
    """
    where = "trust_matrix"
    given = real_array(where, "matrix", matrix, (None, None))
    num = given.shape[0]
    if given.shape != (num, num) or num < 2:
        checks.fail(where, "matrix", "square, of 2 nodes or more", f"shape {list(given.shape)}")
    not_negative(where, "matrix", given)
    if checks.is_concrete(given) and np.diagonal(np.asarray(given)).any():
        node = int(np.flatnonzero(np.diagonal(np.asarray(given)))[0])
        checks.fail(where, "matrix", "0 on the diagonal", f"{float(given[node, node]):g} for node {node}")
    places = np.arange(num * (num - 1))
    sources, offset = places // (num - 1), places % (num - 1)
    targets = (offset + (offset >= sources)).astype(np.int32)
    return TrustGraph(
        starts=jnp.arange(num + 1, dtype=jnp.int32) * (num - 1),
        sources=jnp.asarray(sources, jnp.int32),
        targets=jnp.asarray(targets),
        weights=given[sources, targets],
        num_targets=num,
        most=num - 1,
    )


def rows(
    where: str,
    num_rows: int,
    num_targets: int,
    sources: tuple[str, Any],
    targets: tuple[str, Any],
    weights: Any,
    most: int | None = None,
    argument: str = "weights",
) -> TrustGraph:
    """Edges in rows, with the ends' names for errors."""
    ends = [
        _ends(where, name, given, num)
        for (name, given), num in zip((sources, targets), (num_rows, num_targets), strict=True)
    ]
    if ends[0].shape != ends[1].shape:
        checks.fail(where, targets[0], f"as long as {sources[0]} ({ends[0].shape[0]})", ends[1].shape[0])
    count = ends[0].shape[0]
    if not isinstance(weights, jax.core.Tracer):
        weights = checks.array(where, argument, weights)
    if weights.shape not in ((), (count,)):
        checks.fail(where, argument, f"one number, or one an edge ({count})", f"shape {list(weights.shape)}")
    not_negative(where, argument, weights)
    values = jnp.broadcast_to(jnp.asarray(weights, jnp.result_type(float)), (count,))
    if most is not None:
        most = checks.integer(where, "most", most, 1)
    if checks.is_concrete(ends[0]):
        found = int(np.bincount(ends[0], minlength=1).max()) if count else 0
        if most is not None and found > most:
            checks.fail(where, "most", f"at least what a node has ({found})", most)
    else:
        found = count
    order = jnp.lexsort((ends[1], ends[0]))
    ordered = jnp.asarray(ends[0], jnp.int32)[order]
    return TrustGraph(
        starts=jnp.searchsorted(ordered, jnp.arange(num_rows + 1, dtype=jnp.int32)).astype(jnp.int32),
        sources=ordered,
        targets=jnp.asarray(ends[1], jnp.int32)[order],
        weights=values[order],
        num_targets=num_targets,
        most=max(most or found, 1),
    )


def _ends(where: str, name: str, given: Any, num: int) -> Any:
    if isinstance(given, jax.core.Tracer):
        checks.shape(where, name, given, (None,))
        if not jnp.issubdtype(given.dtype, jnp.integer):
            checks.fail(where, name, "integers", f"a tracer of {given.dtype}")
        return given
    ends = checks.array(where, name, given, (None,))
    if len(ends) and not np.issubdtype(ends.dtype, np.integer):
        checks.fail(where, name, "integers", f"dtype {ends.dtype}")
    if len(ends) and (ends.min() < 0 or ends.max() >= num):
        bad = int(ends.max()) if ends.max() >= num else int(ends.min())
        checks.fail(where, name, f"in 0 to {num - 1}", bad)
    return ends.astype(np.int32)


def real_array(where: str, argument: str, value: Any, expected: tuple[int | None, ...]) -> Array:
    """Finite real numbers of a shape, as an array of JAX's floats; tracers pass on shape and type."""
    checked = checks.array(where, argument, value, expected)
    return jnp.asarray(checked, jnp.result_type(float))


def not_negative(where: str, argument: str, values: Any) -> None:
    """No weight below 0: what is distrust to one rule is an error to another, so it has to be said otherwise."""
    if not checks.is_concrete(values):
        return
    known = np.asarray(values)
    if (known < 0).any():
        place = np.argwhere(known < 0)[0].tolist()
        fix = "Distrust is no weight: leave such edges out."
        checks.fail(
            where, argument, "0 or more", f"{known[tuple(place)]:g}" + (f" at index {place}" if place else ""), fix
        )


def check_trust(where: str, graph: Any, argument: str = "graph") -> TrustGraph:
    """A TrustGraph between nodes of one kind."""
    checks.instance(where, argument, graph, TrustGraph, "Make one with dlsim.trust.trust_graph.")
    if graph.num_targets != graph.num_nodes:
        got = f"one of {graph.num_nodes} to {graph.num_targets}"
        checks.fail(where, argument, "a graph between nodes of one kind", got)
    return graph


def check_roots(where: str, roots: Any, graph: TrustGraph, argument: str = "roots") -> Array:
    """Nodes that scores are seen from, int32 `[]` or `[r]`, each of them with an edge as far as is known."""
    if isinstance(roots, jax.core.Tracer):
        if roots.ndim > 1 or not jnp.issubdtype(roots.dtype, jnp.integer):
            checks.fail(where, argument, "a node or several", f"a tracer of shape {list(roots.shape)}, {roots.dtype}")
        return roots
    given = checks.array(where, argument, roots)
    if given.ndim > 1 or not given.size or not np.issubdtype(given.dtype, np.integer):
        checks.fail(where, argument, "a node or several", checks.describe(roots))
    if given.min() < 0 or given.max() >= graph.num_nodes:
        bad = int(given.max()) if given.max() >= graph.num_nodes else int(given.min())
        checks.fail(where, argument, f"in 0 to {graph.num_nodes - 1}", bad)
    if checks.is_concrete(graph):
        total = np.bincount(np.asarray(graph.sources), np.asarray(graph.weights, np.float64), graph.num_nodes)
        alone = np.atleast_1d(given)[total[np.atleast_1d(given)] <= 0]
        if len(alone):
            fix = "Give it an edge of positive weight, or take another root."
            checks.fail(where, argument, "nodes that trust somebody", f"node {int(alone[0])} without edges", fix)
    return jnp.asarray(given, jnp.int32)


def row_sums(graph: TrustGraph) -> Array:
    """How much trust each node gives in all, `[N]`."""
    return jax.ops.segment_sum(graph.weights, graph.sources, graph.num_nodes, indices_are_sorted=True)


def shares(graph: TrustGraph) -> Array:
    """Each edge's part of its node's trust, `[E]`; 0 where the node trusts nobody."""
    total = row_sums(graph)[graph.sources]
    return jnp.where(total > 0, graph.weights / jnp.where(total > 0, total, 1), 0)


def cumulated(graph: TrustGraph) -> Array:
    """Weights summed up along each row, `[E]`: each row by itself, so that long lists lose no digits."""
    place = jnp.arange(graph.num_edges)
    is_first = place == graph.starts[graph.sources]
    raw = _along(jnp.add, graph.weights, is_first)
    # Sums in a tree round each for itself: an edge of weight 0 must not be where they differ, and none may fall.
    is_some = graph.weights > 0
    latest = jax.lax.cummax(jnp.where(is_some | is_first, place, 0))
    return _along(jnp.maximum, jnp.where(is_some[latest], raw[latest], 0), is_first)


def _along(join: Callable[[Array, Array], Array], values: Array, is_first: Array) -> Array:
    def pair(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(right[1], right[0], join(left[0], right[0])), left[1] | right[1]

    return jax.lax.associative_scan(pair, (values, is_first))[0]


def pick(graph: TrustGraph, sums: Array, nodes: Array, uniform: Array, skip: Array | None = None) -> Array:
    """An edge of each node, with probability in proportion to its weight; -1 where there is none: int32 `[n]`.

    A binary search in the node's row of `sums` (`cumulated`): log2(most) gathers.

    Args:
      nodes: int32 `[n]`; a negative one has no edges.
      uniform: `[n]` in [0, 1).
      skip: an edge that is not to be drawn, int32 `[n]`; -1: none.  It is an edge of the node.
    """
    at = jnp.maximum(nodes, 0)
    first, last = graph.starts[at], graph.starts[at + 1]
    whole = jnp.where(last > first, sums[jnp.maximum(last - 1, 0)], 0)
    if skip is None:
        remaining = whole
        aim, low, high = uniform.astype(whole.dtype) * whole, first, last - 1
    else:
        out = jnp.maximum(skip, 0)
        is_out = skip >= 0
        before = jnp.where(is_out & (out > first), sums[jnp.maximum(out - 1, 0)], 0)
        until = jnp.where(is_out, sums[out], 0)
        remaining = before + (whole - until)
        aim = uniform.astype(whole.dtype) * remaining
        is_after = is_out & (aim >= before)
        # Rounding must lead neither back to what is left out nor beyond the last edge of positive weight.
        aim = jnp.where(is_after, jnp.minimum(until + (aim - before), jnp.nextafter(whole, jnp.zeros_like(whole))), aim)
        low = jnp.where(is_after, out + 1, first)
        high = jnp.where(is_out & ~is_after, out - 1, last - 1)
    for _ in range(graph.most.bit_length()):
        middle = (low + high) // 2
        is_beyond = sums[jnp.maximum(middle, 0)] > aim
        low, high = jnp.where(is_beyond, low, jnp.minimum(middle + 1, high)), jnp.where(is_beyond, middle, high)
    return jnp.where((nodes >= 0) & (remaining > 0), low, -1).astype(jnp.int32)
