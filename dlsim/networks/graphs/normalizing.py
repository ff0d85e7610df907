"""Weights that are given, made to be mixing weights: by row, by column, or both (Sinkhorn)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks

NORMALIZATIONS = ("row", "column", "sinkhorn")
CLOSE = 1e-9  # what Sinkhorn's sums may miss 1 by; float32 rounds them by more
MOST_ROUNDS = 50_000


def check_normalize(where: str, normalize: Any) -> str | None:
    """One of the names, or None: weights are taken as they are."""
    return None if normalize is None else checks.one_of(where, "normalize", normalize, NORMALIZATIONS)


def with_own(edges: tuple[np.ndarray, np.ndarray, np.ndarray], own: np.ndarray, how: str) -> np.ndarray:
    """The diagonal `[N]` where what is not said (NaN) is the mean weight of the node's edges, as if it were a neighbour.

    Those it hears by row, those that hear it by column, both for Sinkhorn; 1 where they have no weight.  So equal weights
    become 1 / (1 + degree).
    """
    senders, receivers, values = edges
    ends = {"row": (receivers,), "column": (senders,), "sinkhorn": (receivers, senders)}[how]
    total = np.sum([np.bincount(end, values, len(own)) for end in ends], axis=0)
    count = np.sum([np.bincount(end, minlength=len(own)) for end in ends], axis=0)
    mean = np.where(total > 0, total / np.maximum(count, 1), 1)
    return np.where(np.isnan(own), mean, own)


def normalized(
    where: str, num_nodes: int, receivers: np.ndarray, senders: np.ndarray, values: np.ndarray, how: str
) -> np.ndarray:
    """The entries `values [M]` of a matrix at (receiver, sender), the diagonal among them, scaled to be mixing weights.

    `row` divides every row by its sum, `column` every column.  `sinkhorn` finds the one matrix x_i a_ij y_j whose rows
    and columns both sum to one, symmetric where the weights are.  It exists if and only if every positive entry lies on a
    permutation of positive entries, which is checked first.

    Source: Sinkhorn and Knopp, Concerning nonnegative matrices and doubly stochastic matrices, Pacific J. Math. 1967.
    """
    if len(values) and values.min() < 0:
        k = int(np.argmin(values))
        fix = "Drop it, or give mixing weights that need no normalize."
        got = f"{values[k]:.6g} of edge ({senders[k]}, {receivers[k]})"
        checks.fail(where, "weights", "at least 0 to be normalised", got, fix)
    if how != "sinkhorn":
        ends = receivers if how == "row" else senders
        sums = np.bincount(ends, values, num_nodes)
        if (sums <= 0).any():
            fix = "Give it a loop with a positive weight."
            checks.fail(where, "weights", f"positive somewhere in every {how}", f"none at node {np.argmin(sums)}", fix)
        return values / sums[ends]
    used = values > 0
    rows, columns, entries = receivers[used], senders[used], values[used]
    _check_support(where, num_nodes, rows, columns)
    scaled = np.zeros(len(values))
    scaled[used] = _sinkhorn(where, num_nodes, rows, columns, entries)
    return scaled


def _check_support(where: str, num_nodes: int, rows: np.ndarray, columns: np.ndarray) -> None:
    """Every entry must lie on a permutation of entries, else it would have to vanish."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

    rule = "such that rows and columns can both be made to sum to one"
    fix = 'Use normalize="row" (or "column"), or give every node a loop with a positive weight.'
    pattern = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(num_nodes,) * 2).tocsr()
    match = np.asarray(maximum_bipartite_matching(pattern, perm_type="column"))  # of each row its column
    if (match < 0).any():
        got = f"too few entries: those of node {np.argmin(match)} and others lie in fewer columns than rows"
        checks.fail(where, "weights", rule, got, fix)
    row_of = np.empty(num_nodes, np.int64)
    row_of[match] = np.arange(num_nodes)
    # With its partner on the diagonal, an entry lies on a permutation where it lies on a cycle.
    turned = coo_array((np.ones(len(rows), np.int8), (rows, row_of[columns])), shape=(num_nodes,) * 2)
    part = connected_components(turned, directed=True, connection="strong")[1]
    bad = np.flatnonzero(part[rows] != part[row_of[columns]])
    if len(bad):
        got = f"edge ({columns[bad[0]]}, {rows[bad[0]]}), whose weight would have to be 0"
        checks.fail(where, "weights", rule, got, fix)


def _sinkhorn(where: str, num_nodes: int, rows: np.ndarray, columns: np.ndarray, entries: np.ndarray) -> np.ndarray:
    left, right, error = np.ones(num_nodes), np.ones(num_nodes), np.inf
    for _ in range(MOST_ROUNDS):
        right = 1 / np.bincount(columns, entries * left[rows], num_nodes)
        sums = np.bincount(rows, entries * right[columns], num_nodes)
        error = float(np.abs(left * sums - 1).max())
        left = 1 / sums
        if error <= CLOSE:
            break
    if error > 1e-7:
        fix = 'Use normalize="row", or weights that differ less.'
        rule = f"such that Sinkhorn brings sums to one within {MOST_ROUNDS} rounds"
        checks.fail(where, "weights", rule, f"sums that still miss it by {error:.2g}", fix)
    if _is_symmetric(num_nodes, rows, columns, entries):
        left = right = np.sqrt(left * right)
    return left[rows] * entries * right[columns]


def _is_symmetric(num_nodes: int, rows: np.ndarray, columns: np.ndarray, entries: np.ndarray) -> bool:
    there = np.lexsort((columns, rows))
    back = np.lexsort((rows, columns))
    same = np.array_equal(rows[there], columns[back]) and np.array_equal(columns[there], rows[back])
    return bool(same and np.array_equal(entries[there], entries[back]))
