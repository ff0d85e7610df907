"""MeritRank: how much a root can trust each node, by decayed random walks along trust.

With v_x the visits to node x of walks from the root (`dlsim.trust.random_walks`), transitivity decay a:

    score_x = v_x / sum_{y != root} v_y                                      personalised PageRank
    b_x = max_{y != root, x} Pr(a walk met y before it first met x | it met x)            bottleneck
    score_x <- score_x (1 - beta b_x)    where b_x > threshold                connectivity decay
    reputation <- theta reputation + score                                    epoch decay: `dlsim.trust.reputation`

The transitivity decay bounds what long chains of Sybils gain, the connectivity decay takes from whatever hangs on one
node.  Scores are not renormalised: what is lost is the penalty.

Source: Nasrulin, Ishmaev, Pouwelse, MeritRank: Sybil tolerant reputation for merit-based tokenomics, BRAINS 2022; thresholds
and numbers of walks as in Madhwal, Pouwelse, Web3Recommend, 2023, and the programs beside them.
Differs: their decay of users is by beta where it sets in, that of songs by beta b; here it is by beta b for both.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array
from dlsim.running.batching import one_at_a_time
from dlsim.trust.graphs.graph import TrustGraph, check_roots, check_trust, shares
from dlsim.trust.graphs.walks import hops, stops, tally, walk_from

SMALL = 1e-7  # what is left out of sums that have no end
MOST_EXACT = 8192  # nodes of an exact solve: 256 MiB for each of the matrices
COUNTED = ("visits", "hits")


def merit_rank(
    graph: TrustGraph,
    roots: int | Array,
    *,
    transitivity_decay: float | Array = 0.1,
    connectivity_decay: float | Array = 0.8,
    threshold: float | Array = 0.99,
    count: str = "visits",
    num_walks: int | None = None,
    key: Array | None = None,
    max_hops: int | None = None,
    min_visits: int = 10,
) -> Array:
    """Scores of all nodes as roots see them, `[N]` for one root and `[r, N]` for several; 0 for the root itself.

    Without `num_walks` they are exact: Z = (I - (1 - a) P)^-1 has all visits (row of the root) and, with its 2 x 2 minors,
    who is met before whom; O(N^3) once for all roots and O(N^2) a root.  With it they are estimates of R walks a root, which
    hold for any N.  Exact is what is cheaper below some thousand nodes, and for small decays, whose walks are long.

    Args:
      graph: of N nodes; at most 8192 of them without `num_walks`.
      roots: a node, or several, integers `[r]`; each with at least one edge.  (Where edges are tracers a root without any
        gives zeros.)
      transitivity_decay: a in (0, 1], data.  The authors' recommender takes 0.005 for users and 0.1 for songs.
      connectivity_decay: beta in [0, 1], data.
      threshold: in [0, 1), data; of the bottleneck from which the connectivity decay sets in.
      count: `"visits"`, all of them, or `"hits"`, once a walk (personalised hitting times).
      num_walks: R; None: exact.
      key: of the walks.
      max_hops: of a walk; see `dlsim.trust.random_walks`.
      min_visits: walks that have to meet a node before it can be said to have a bottleneck; of a node that was met once
        every other node on the way is one.  0 is the authors' program.  Exact solves need none.
    """
    where = "merit_rank"
    check_trust(where, graph)
    at = check_roots(where, roots, graph)
    alpha = stops(where, "transitivity_decay", transitivity_decay)
    beta = checks.probability(where, "connectivity_decay", connectivity_decay)
    limit = checks.number(where, "threshold", threshold, 0.0, 1.0, open_maximum=True)
    checks.one_of(where, "count", count, COUNTED)
    checks.integer(where, "min_visits", min_visits, 0)
    is_connected = not checks.is_concrete(beta) or float(beta) > 0
    if num_walks is None:
        if key is not None or max_hops is not None:
            name = "key" if key is not None else "max_hops"
            checks.fail(
                where,
                name,
                "left out of an exact solve",
                checks.describe(key if key is not None else max_hops),
                "Give num_walks as well.",
            )
        if graph.num_nodes > MOST_EXACT:
            fix = "Give num_walks and key."
            checks.fail(
                where, "num_walks", f"given for more than {MOST_EXACT} nodes", f"None for {graph.num_nodes}", fix
            )
        counts, bottlenecks = _solved(graph, at, alpha, count, is_connected)
        is_known = jnp.ones(counts.shape, bool)
    else:
        num_walks = checks.integer(where, "num_walks", num_walks, 1)
        draws = checks.key(where, "key", key)
        length = hops(where, max_hops, alpha, num_walks)

        def one(root: Array) -> tuple[Array, Array, Array]:
            found = tally(walk_from(draws, graph, root, num_walks, alpha, length), root, graph.num_nodes, is_connected)
            return (found.visits if count == "visits" else found.hits), found.bottlenecks, found.hits >= min_visits

        counts, bottlenecks, is_known = one(at) if at.ndim == 0 else jax.lax.map(one, at)
    return decayed(normalized(counts), bottlenecks, beta, limit, is_known)


def normalized(counts: Array) -> Array:
    """Counts as parts of their sum over the last axis; zeros where there are none."""
    total = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.where(total > 0, counts / jnp.where(total > 0, total, 1), 0)


def decayed(scores: Array, bottlenecks: Array, beta: Any, threshold: Any, is_known: Array) -> Array:
    """Connectivity decay: score (1 - beta b) where the bottleneck b is known and above the threshold."""
    return jnp.where(
        (bottlenecks > threshold) & is_known, scores * (1 - jnp.asarray(beta, scores.dtype) * bottlenecks), scores
    )


def steps_matrix(graph: TrustGraph) -> Array:
    """P `[N, N]`: where a walk that does not stop goes from each node; a row of zeros where it has to."""
    num = graph.num_nodes
    return jnp.zeros((num, num), graph.weights.dtype).at[graph.sources, graph.targets].add(shares(graph))


def _solved(graph: TrustGraph, roots: Array, stop: Any, count: str, is_connected: bool) -> tuple[Array, Array]:
    """Expected visits or hits and the bottlenecks, each of the shape of roots and `[N]`."""
    num = graph.num_nodes
    system = jnp.eye(num, dtype=graph.weights.dtype) - (1 - jnp.asarray(stop, graph.weights.dtype)) * steps_matrix(
        graph
    )
    visits = one_at_a_time(jnp.linalg.inv)(system)
    own = jnp.diagonal(visits)  # visits to a node of walks from there

    def one(root: Array) -> tuple[Array, Array]:
        row = jnp.maximum(visits[root], 0)
        is_root = jnp.arange(num) == root
        hits = jnp.where(is_root, 0, row / own)
        counts = jnp.where(is_root, 0, row) if count == "visits" else hits
        if not is_connected:
            return counts, jnp.zeros_like(counts)
        # Pr(x before y), for all x (rows) and y: of two nodes, hits solve [Z_xx Z_yx; Z_xy Z_yy] h = [Z_rx; Z_ry].
        minor = own[:, None] * own[None, :] - visits * visits.T
        first = (row[:, None] * own[None, :] - row[None, :] * visits.T) / jnp.where(minor > 0, minor, 1)
        through = 1 - first / jnp.where(hits > 0, hits, 1)[:, None]
        may = ~is_root[None, :] & ~jnp.eye(num, dtype=bool) & (hits > 0)[:, None]
        return counts, jnp.clip(jnp.max(jnp.where(may, through, 0), axis=1), 0, 1)

    return one(roots) if roots.ndim == 0 else jax.lax.map(one, roots)


def personalized_pagerank(
    graph: TrustGraph, roots: int | Array, *, transitivity_decay: float | Array = 0.15, num_products: int | None = None
) -> Array:
    """Personalised PageRank by sparse products, `[N]` or `[r, N]`: v = sum_k (1 - a)^k (P^T)^k e_root, without the root.

    MeritRank without connectivity decay, for any N: O(E) a product.  Walks end at nodes that trust nobody, so that
    nothing comes back to the root by itself.

    Args:
      graph: of N nodes.
      roots: a node, or several, integers `[r]`; each with at least one edge.
      transitivity_decay: a in (0, 1], data.
      num_products: of the sum; by default so many that 1e-7 of the visits are left out.
    """
    where = "personalized_pagerank"
    check_trust(where, graph)
    at = check_roots(where, roots, graph)
    alpha = stops(where, "transitivity_decay", transitivity_decay)
    if num_products is None:
        checks.known(where, "transitivity_decay", alpha, "a known number where num_products is not given")
        num_products = 1 if float(alpha) >= 1 else max(1, math.ceil(math.log(SMALL) / math.log1p(-float(alpha))))
    else:
        num_products = checks.integer(where, "num_products", num_products, 1)
    part = shares(graph) * (1 - jnp.asarray(alpha, graph.weights.dtype))

    def one(root: Array) -> Array:
        start = jnp.zeros(graph.num_nodes, part.dtype).at[root].set(1)

        def go(carry: tuple[Array, Array], _: Any) -> tuple[tuple[Array, Array], None]:
            here, visits = carry
            here = jax.ops.segment_sum(here[graph.sources] * part, graph.targets, graph.num_nodes)
            return (here, visits + here), None

        (_, visits), _ = jax.lax.scan(go, (start, jnp.zeros_like(start)), length=num_products)
        return normalized(visits.at[root].set(0))

    return one(at) if at.ndim == 0 else jax.lax.map(one, at)


def sybil_bound(transitivity_decay: Any, connectivity_decay: Any = 0.0) -> Any:
    """What Sybils score in all, in attackers' scores, at most: (1 - beta) (1 - a) / a.

    However many they are and whatever edges they have, if walks reach them through the attacker alone and the attacker's
    score counts every visit: each of its visits leads to at most (1 - a) / a more hops.  With connectivity decay all of
    them have a bottleneck of 1, the attacker (who is taken not to have one) itself.
    Source: Nasrulin, Ishmaev, Pouwelse, 2022.
    """
    alpha = stops("sybil_bound", "transitivity_decay", transitivity_decay)
    beta = checks.probability("sybil_bound", "connectivity_decay", connectivity_decay)
    return (1 - beta) * (1 - alpha) / alpha
