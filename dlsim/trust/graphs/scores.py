"""Reputation without walks: EigenTrust, image scores, and what flows between two nodes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array
from dlsim.trust.graphs.graph import TrustGraph, check_roots, check_trust, row_sums, shares

DEPTHS = (1, 2)


def eigen_trust(
    graph: TrustGraph, pretrusted: Any = None, *, pretrust_weight: float | Array = 0.15, num_iterations: int = 100
) -> Array:
    """EigenTrust: one reputation for all, `[N]`, of sum 1: the principal eigenvector of what nodes think of each other.

        t <- (1 - a) C^T t + a p

    C has the rows of `graph`, each of sum 1; a node that trusts nobody trusts the pretrusted.  p is uniform over them.
    The error falls by 1 - a an iteration at least.

    Args:
      graph: weights c_ij, say max(good - bad acts, 0).
      pretrusted: nodes that all trust from the start: their ids, integers `[m]`; None: everybody.
      pretrust_weight: a in [0, 1], data.
      num_iterations: of the power iteration.

    Source: Kamvar, Schlosser, Garcia-Molina, The EigenTrust algorithm for reputation management in P2P networks, WWW 2003.
    """
    where = "eigen_trust"
    check_trust(where, graph)
    weight = checks.probability(where, "pretrust_weight", pretrust_weight)
    num_iterations = checks.integer(where, "num_iterations", num_iterations, 1)
    num = graph.num_nodes
    first = jnp.full(num, 1 / num, graph.weights.dtype)
    if pretrusted is not None:
        ids = checks.array(where, "pretrusted", pretrusted, (None,), 0, num - 1)
        if isinstance(ids, jax.core.Tracer) or not ids.size or not np.issubdtype(ids.dtype, np.integer):
            checks.fail(where, "pretrusted", "ids of one or more nodes", checks.describe(pretrusted))
        ids = np.unique(ids)
        first = jnp.zeros(num, graph.weights.dtype).at[ids].set(1 / len(ids))
    part, alone = shares(graph), row_sums(graph) <= 0

    def one(_: Any, trust: Array) -> Array:
        heard = jax.ops.segment_sum(part * trust[graph.sources], graph.targets, num)
        heard = heard + jnp.sum(jnp.where(alone, trust, 0)) * first
        return (1 - jnp.asarray(weight, trust.dtype)) * heard + jnp.asarray(weight, trust.dtype) * first

    return jax.lax.fori_loop(0, num_iterations, one, first)


def image_score(scores: Any, acts: Any, *, limit: float | Array = 5.0) -> Array:
    """Image scores after acts that all have seen: s <- clip(s + acts, -limit, limit), `[..., N]`.

    Args:
      scores: `[..., N]` before; a zero for everybody at the start.
      acts: `[..., N]`, good acts less bad ones since.
      limit: positive, data.

    Source: Nowak, Sigmund, Evolution of indirect reciprocity by image scoring, Nature 1998.
    """
    where = "image_score"
    before, new = (
        jnp.asarray(checks.array(where, name, value), jnp.result_type(float))
        for name, value in (("scores", scores), ("acts", acts))
    )
    if before.ndim < 1:
        checks.fail(where, "scores", "of shape [..., N]", "one number")
    if new.shape != before.shape:
        checks.fail(where, "acts", f"of the shape of scores, {list(before.shape)}", f"shape {list(new.shape)}")
    most = checks.number(where, "limit", limit, 0.0, open_minimum=True)
    return jnp.clip(before + new, -jnp.asarray(most, before.dtype), jnp.asarray(most, before.dtype))


def max_flow(graph: TrustGraph, roots: int | Array, *, depth: int = 2) -> tuple[Array, Array]:
    """The largest flow from a root to each node, and from each node to the root, over paths of one hop or of two at most.

        flow(r, x) = w_rx + sum_k min(w_rk, w_kx)

    No edge serves two such paths, so this is the maximum, and at most what flows over paths of any length.  O(E) a root.

    Args:
      graph: capacities w_ij.
      roots: a node, or several, integers `[r]`; each with at least one edge.
      depth: hops, 1 or 2.

    Returns: two arrays, `[N]` or `[r, N]`, 0 for the root.
    """
    where = "max_flow"
    check_trust(where, graph)
    at = check_roots(where, roots, graph)
    depth = checks.integer(where, "depth", depth, DEPTHS[0], DEPTHS[1])

    def sums(values: Array, ends: Array) -> Array:
        return jax.ops.segment_sum(values, ends, graph.num_nodes)

    def one(root: Array) -> tuple[Array, Array]:
        given = sums(jnp.where(graph.sources == root, graph.weights, 0), graph.targets)
        taken = sums(jnp.where(graph.targets == root, graph.weights, 0), graph.sources)
        out, back = given, taken
        if depth > 1:
            out = out + sums(jnp.minimum(given[graph.sources], pairs), graph.targets)
            back = back + sums(jnp.minimum(taken[graph.targets], pairs), graph.sources)
        return out.at[root].set(0), back.at[root].set(0)

    pairs = _joined(graph)
    return one(at) if at.ndim == 0 else jax.lax.map(one, at)


def _joined(graph: TrustGraph) -> Array:
    """Weights with edges between the same two nodes taken together: all at the first of them, 0 at the others."""
    is_new = jnp.concatenate(
        [jnp.ones(1, bool), (graph.sources[1:] != graph.sources[:-1]) | (graph.targets[1:] != graph.targets[:-1])]
    )[: graph.num_edges]
    group = jnp.cumsum(is_new) - 1
    total = jax.ops.segment_sum(graph.weights, group, graph.num_edges, indices_are_sorted=True)
    return jnp.where(is_new, total[group], 0)


def bartercast(graph: TrustGraph, roots: int | Array, *, depth: int = 2) -> Array:
    """BarterCast: who has given more than taken, as the root can tell, in (-1, 1); `[N]` or `[r, N]`.

        r_x = arctan(flow(root, x) - flow(x, root)) / (pi / 2)

    What strangers claim about each other counts no further than the root's own dealings reach (`dlsim.trust.max_flow`).

    Args:
      graph: w_ij, what j did for i (i's trust in j).
      roots: a node, or several, integers `[r]`; each with at least one edge.
      depth: hops of the flow, 1 or 2.

    Source: Meulpolder, Pouwelse, Epema, Sips, BarterCast: a practical approach to prevent lazy freeriding in P2P networks,
    HotP2P 2009.
    """
    out, back = max_flow(graph, roots, depth=depth)
    return jnp.arctan(out - back) / (jnp.pi / 2)
