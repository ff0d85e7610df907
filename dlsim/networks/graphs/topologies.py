"""Topologies that need no random numbers.  `name_graph` builds the edges, `name` a Network over them.

Nodes are 0..N-1.  Every `name` takes `weights` (a name that `mixing_weights` knows, or `(edge_weights [E],
self_weights [N])` in the graph's order) and `lowering` (how `mix` runs), both as in `connect`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, graph
from dlsim.networks.network import LARGEST_IMPLICIT_EDGES, Network, complete_network, connect
from dlsim.networks.pace.sizes import check_size

Weights = str | tuple[np.ndarray, np.ndarray]

_EQUAL_ON_COMPLETE = ("metropolis_hastings", "max_degree", "uniform", "uniform_neighbor", "laplacian", "row_stochastic")


def shift_graph(grid: Sequence[int], offsets: Iterable[Sequence[int]], where: str = "shift_graph") -> Graph:
    """Node ids run over `grid` in C order; each node hears those at `id - offset`, wrapping around every axis.

    Offsets that coincide once wrapped (as +1 and -1 on a side of 2) count once, and a zero offset not at all.  The
    graph is directed unless minus every offset is an offset too.  `where`: whom an error names.
    """
    sides = checks.integers(where, "grid", grid, minimum=1)
    rows = [checks.integers(where, "offsets", row, length=len(sides)) for row in _rows(where, offsets)]
    wrapped = dict.fromkeys(tuple(o % side for o, side in zip(row, sides, strict=True)) for row in rows)
    wrapped.pop((0,) * len(sides), None)
    num_nodes = math.prod(sides)
    check_size(where, num_nodes, num_nodes * len(wrapped), "num_nodes" if where != "shift_graph" else "grid")
    if not wrapped:
        return graph(num_nodes, np.zeros(0), np.zeros(0))
    ids = np.arange(num_nodes).reshape(sides)
    heard = [np.roll(ids, offset, tuple(range(len(sides)))).ravel() for offset in wrapped]
    # Both directions are there already where there are two, so nothing is to be added.
    built = graph(
        num_nodes,
        np.concatenate(heard),
        np.tile(np.arange(num_nodes), len(wrapped)),
        is_directed=True,
        grid=sides,
        offsets=tuple(wrapped),
    )
    opposite = {tuple(-o % side for o, side in zip(row, sides, strict=True)) for row in wrapped}
    return dataclasses.replace(built, is_directed=opposite != set(wrapped))


def ring_graph(num_nodes: int) -> Graph:
    """The cycle."""
    return shift_graph((checks.integer("ring", "num_nodes", num_nodes, 1),), [(1,), (-1,)], "ring")


def chain_graph(num_nodes: int) -> Graph:
    """The path 0 - 1 - ... - (N-1)."""
    ids = np.arange(_listed("path", num_nodes, 2))
    return graph(num_nodes, ids[:-1], ids[1:])


def star_graph(num_nodes: int) -> Graph:
    """Node 0 and its N - 1 leaves."""
    leaves = np.arange(1, _listed("star", num_nodes, 2))
    return graph(num_nodes, np.zeros_like(leaves), leaves)


def complete_graph(num_nodes: int) -> Graph:
    """Everyone hears everyone, as a list of N (N - 1) edges."""
    checks.integer("complete", "num_nodes", num_nodes, 1)
    check_size("complete", num_nodes, num_nodes * (num_nodes - 1))
    ids = np.arange(num_nodes * (num_nodes - 1))
    receivers = ids // max(num_nodes - 1, 1)
    senders = ids % max(num_nodes - 1, 1)
    return dataclasses.replace(
        graph(num_nodes, senders + (senders >= receivers), receivers, is_directed=True), is_directed=False
    )


def grid_graph(num_nodes: int, shape: Sequence[int] | None = None) -> Graph:
    """The mesh that does not wrap around; two axes give positions one apart."""
    sides = _sides("grid", num_nodes, shape, "path")
    check_size("grid", num_nodes, sum(2 * num_nodes // side * (side - 1) for side in sides))
    ids = np.arange(num_nodes).reshape(sides)
    axes = range(len(sides))
    low = [np.take(ids, range(sides[axis] - 1), axis).ravel() for axis in axes]
    high = [np.take(ids, range(1, sides[axis]), axis).ravel() for axis in axes]
    positions = np.stack([ids.ravel() % sides[1], ids.ravel() // sides[1]], axis=1) if len(sides) == 2 else None
    return graph(num_nodes, np.concatenate(low), np.concatenate(high), positions=positions)


def torus_graph(num_nodes: int, shape: Sequence[int] | None = None) -> Graph:
    """The mesh that wraps around within each row and each column: a product of cycles."""
    sides = _sides("torus", num_nodes, shape, "ring")
    unit = np.eye(len(sides), dtype=int)
    return shift_graph(sides, [*unit, *-unit], "torus")


def hypercube_graph(num_nodes: int) -> Graph:
    """Nodes whose ids differ in one bit; N a power of two."""
    dimension = checks.integer("hypercube", "num_nodes", num_nodes, 1).bit_length() - 1
    if num_nodes != 2**dimension:
        near = f"Use {2**dimension} or {2 ** (dimension + 1)}."
        checks.fail("hypercube", "num_nodes", "a power of two", num_nodes, near)
    return shift_graph((2,) * dimension, np.eye(dimension, dtype=int), "hypercube")


def binary_tree_graph(num_nodes: int) -> Graph:
    """The complete binary tree in heap order: node i hangs from (i - 1) // 2; the last level may be part full."""
    children = np.arange(1, _listed("binary_tree", num_nodes, 2))
    return graph(num_nodes, (children - 1) // 2, children)


def exponential_graph(num_nodes: int) -> Graph:
    """Directed: node i sends to i + 2^k, k = 0 .. ceil(log2 N) - 1, wrapping around."""
    checks.integer("exponential", "num_nodes", num_nodes, 1)
    offsets = [(2**k,) for k in range((num_nodes - 1).bit_length())]
    return shift_graph((num_nodes,), offsets, "exponential")


def caveman_graph(num_nodes: int, clique_size: int) -> Graph:
    """Cliques in a ring: each gives up one of its edges for one to the clique before it."""
    checks.integer("caveman", "num_nodes", num_nodes, 1)
    checks.integer("caveman", "clique_size", clique_size, 1)
    if num_nodes % clique_size:
        below = num_nodes // clique_size * clique_size
        checks.fail(
            "caveman",
            "num_nodes",
            f"a multiple of clique_size ({clique_size})",
            num_nodes,
            f"Use {below + clique_size}.",
        )
    num_cliques = num_nodes // clique_size
    if num_cliques > 1 and clique_size < 3:
        checks.fail("caveman", "clique_size", "at least 3 for several cliques", clique_size, "Use ring for pairs.")
    check_size("caveman", num_nodes, num_nodes * (clique_size - 1))
    first = np.arange(num_cliques) * clique_size
    a, b = np.triu_indices(clique_size, 1)
    if num_cliques == 1:
        return graph(num_nodes, a, b)
    a, b = a[1:], b[1:]  # the first pair, (0, 1), is given up in every clique
    senders = np.concatenate([(first[:, None] + a).ravel(), first])
    return graph(num_nodes, senders, np.concatenate([(first[:, None] + b).ravel(), (first - 1) % num_nodes]))


def bipartite_graph(num_nodes: int, num_left: int | None = None) -> Graph:
    """The complete bipartite graph between the first `num_left` nodes (default: half, rounded down) and the rest."""
    checks.integer("bipartite", "num_nodes", num_nodes, 2)
    left = checks.integer("bipartite", "num_left", num_nodes // 2 if num_left is None else num_left, 1, num_nodes - 1)
    check_size("bipartite", num_nodes, 2 * left * (num_nodes - left))
    return graph(num_nodes, np.repeat(np.arange(left), num_nodes - left), np.tile(np.arange(left, num_nodes), left))


def ring(num_nodes: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto") -> Network:
    """The cycle.  With Metropolis-Hastings weights W has eigenvalues (1 + 2 cos(2 pi k / N)) / 3."""
    return connect(ring_graph(num_nodes), weights, lowering)


def chain(num_nodes: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto") -> Network:
    """The path 0 - 1 - ... - (N-1)."""
    return connect(chain_graph(num_nodes), weights, lowering)


def star(num_nodes: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto") -> Network:
    """Node 0 and its N - 1 leaves."""
    return connect(star_graph(num_nodes), weights, lowering)


def complete(num_nodes: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto") -> Network:
    """Everyone hears everyone; W = 1 1^T / N.  Beyond four million edges no edge list is kept, for equal weights."""
    checks.integer("complete", "num_nodes", num_nodes, 1)
    is_large = num_nodes * (num_nodes - 1) > LARGEST_IMPLICIT_EDGES
    is_named = isinstance(weights, str) and isinstance(lowering, str)
    if is_large and is_named and lowering in ("auto", "average") and weights in _EQUAL_ON_COMPLETE:
        return complete_network(num_nodes)
    return connect(complete_graph(num_nodes), weights, lowering)


def grid(
    num_nodes: int,
    shape: Sequence[int] | None = None,
    *,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """The mesh of `shape` (default: the most square of two axes) that does not wrap around."""
    return connect(grid_graph(num_nodes, shape), weights, lowering)


def torus(
    num_nodes: int,
    shape: Sequence[int] | None = None,
    *,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """The mesh of `shape` (default: the most square of two axes) that wraps around within rows and columns.

    With Metropolis-Hastings weights and sides a, b >= 3, W has eigenvalues (1 + 2 cos(2 pi k/a) + 2 cos(2 pi l/b)) / 5.
    """
    return connect(torus_graph(num_nodes, shape), weights, lowering)


def hypercube(num_nodes: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto") -> Network:
    """Nodes whose ids differ in one bit.  W has eigenvalues 1 - 2 k / (log2 N + 1), each C(log2 N, k) times."""
    return connect(hypercube_graph(num_nodes), weights, lowering)


def binary_tree(num_nodes: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto") -> Network:
    """The complete binary tree in heap order."""
    return connect(binary_tree_graph(num_nodes), weights, lowering)


def exponential(num_nodes: int, *, weights: Weights = "uniform", lowering: str = "auto") -> Network:
    """The static exponential graph: node i sends to i + 2^k with weight 1 / (1 + ceil(log2 N)).

    Directed, yet doubly stochastic, as every node hears as many as hear it.

    Source: Ying, Yuan, Chen, Hu, Pan, Yin, Exponential graph is provably efficient for decentralized deep training,
      NeurIPS 2021.  Differs: the arrows point the other way (W transposed), which changes no eigenvalue.
    """
    return connect(exponential_graph(num_nodes), weights, lowering)


def caveman(
    num_nodes: int, clique_size: int, *, weights: Weights = "metropolis_hastings", lowering: str = "auto"
) -> Network:
    """Cliques in a ring, one link between neighbours: well mixed within, slow between.

    Source: Watts, Networks, dynamics, and the small-world phenomenon, American Journal of Sociology 105, 1999.
    """
    return connect(caveman_graph(num_nodes, clique_size), weights, lowering)


def bipartite(
    num_nodes: int,
    num_left: int | None = None,
    *,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """The complete bipartite graph between the first `num_left` nodes (default: half) and the rest."""
    return connect(bipartite_graph(num_nodes, num_left), weights, lowering)


def _sides(where: str, num_nodes: int, shape: Sequence[int] | None, line: str) -> tuple[int, ...]:
    """The sides asked for, or the two that are nearest to a square."""
    checks.integer(where, "num_nodes", num_nodes, 1)
    if shape is not None:
        sides = checks.integers(where, "shape", shape, minimum=1)
        if math.prod(sides) != num_nodes or not sides:
            checks.fail(where, "shape", f"of {num_nodes} nodes in all", f"{sides} with {math.prod(sides)}")
        return sides
    short = next(side for side in range(math.isqrt(num_nodes), 0, -1) if num_nodes % side == 0)
    if short == 1:
        fix = f"Use {where}({num_nodes + 1 if num_nodes > 2 else 4}) or {line}({num_nodes}), or give shape=(1, {num_nodes})."
        checks.fail(where, "num_nodes", "a product of two sides of 2 or more", num_nodes, fix)
    return short, num_nodes // short


def _rows(where: str, offsets: Iterable[Sequence[int]]) -> list[Sequence[int]]:
    return checks.sequence(where, "offsets", offsets, "a sequence of offsets, one integer an axis each")


def _listed(where: str, num_nodes: int, edges_each: int) -> int:
    """`num_nodes`, if so many directed edges a node can be listed."""
    checks.integer(where, "num_nodes", num_nodes, 1)
    return check_size(where, num_nodes, edges_each * (num_nodes - 1))
