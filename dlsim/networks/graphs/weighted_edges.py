"""Networks of weights that stand beside edges, as other people's graphs and files have them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, graph
from dlsim.networks.graphs.normalizing import normalized, with_own
from dlsim.networks.graphs.stochastic import TOLERANCE, check_stochastic
from dlsim.networks.graphs.topologies import Weights
from dlsim.networks.graphs.weights import matrix_weights
from dlsim.networks.network import Network, connect


def default_weights(one: Graph, weights: Weights | None) -> Weights:
    """What was asked for, or the weights that suit any graph of its kind."""
    if weights is not None:
        return weights
    return "row_stochastic" if one.is_directed else "metropolis_hastings"


def weighted_network(
    where: str,
    one: Graph,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    own: np.ndarray | None = None,
    both_ways: bool = False,
    lowering: str = "auto",
    fix: str = "Scale them down.",
    normalize: str | None = None,
) -> Network:
    """The Network over `one` with W[receiver, sender] of `edges = (senders, receivers, values)`, `[M]` each, in any order.

    A loop's value is an entry of the diagonal, and so is `own`, float64 `[N]` (NaN: not said); both may say the same.
    Where neither says it, it is 0 if rows or columns then sum to one, else what makes the node's row sum to one.
    `both_ways`: a value is that of both directions, of which one or both are there.  `fix` ends the error line of what
    cannot be mixing weights.  `normalize`: they are scaled to be some (`normalizing`), the diagonal as `with_own` has it.
    """
    senders, receivers, values = edges
    is_loop = senders == receivers
    diagonal = _diagonal(where, one.num_nodes, own, receivers[is_loop], values[is_loop])
    senders, receivers, values = senders[~is_loop], receivers[~is_loop], values[~is_loop]
    if both_ways:
        senders, receivers = np.concatenate([senders, receivers]), np.concatenate([receivers, senders])
        values = np.tile(values, 2)
    code, edge_weights = _once(where, "edge", receivers * one.num_nodes + senders, values, one.num_nodes)
    if len(code) != one.num_edges:
        raise AssertionError("the graph has other edges than those with weights")
    if normalize is not None:
        diagonal = with_own((one.senders, one.receivers, edge_weights), diagonal, normalize)
        ids = np.arange(one.num_nodes)
        rows, columns = np.concatenate([one.receivers, ids]), np.concatenate([one.senders, ids])
        entries = np.concatenate([edge_weights, diagonal])
        entries = normalized(where, one.num_nodes, rows, columns, entries, normalize)
        return connect(one, (entries[: one.num_edges], entries[one.num_edges :]), lowering)
    is_open = np.isnan(diagonal)
    full = np.where(is_open, 0, diagonal)
    holds = check_stochastic(one, edge_weights, full)
    rows = np.bincount(one.receivers, edge_weights, one.num_nodes)
    if holds["is_row_stochastic"] or not holds["is_column_stochastic"]:
        full = np.where(is_open, 1 - rows, diagonal)
        worst = int(np.argmin(np.where(is_open, full, 0)))
        if full[worst] < -TOLERANCE and is_open[worst]:
            rule = "with a sum of at most 1 over each node's senders"
            checks.fail(where, "weights", rule, f"{rows[worst]:.6g} at node {worst}", fix)
        if not check_stochastic(one, edge_weights, full)["is_row_stochastic"]:
            worst = int(np.argmax(np.abs(rows + full - 1)))
            got = f"row {worst} with sum {rows[worst] + full[worst]:.6g}, {full[worst]:.6g} of it its own"
            checks.fail(where, "weights", "stochastic (rows or columns sum to 1)", got, fix)
    return connect(one, (edge_weights, full), lowering)


def matrix_network(
    where: str,
    matrix: Any,
    lowering: str = "auto",
    fix: str = 'Pass normalize="row" to divide every row by its sum.',
    normalize: str | None = None,
) -> Network:
    """The Network of a mixing matrix `[N, N]`, dense or scipy sparse, for `from_matrix` and for files that hold one."""
    import scipy.sparse

    if scipy.sparse.issparse(matrix):
        if np.iscomplexobj(matrix):
            checks.fail(where, "matrix", "real numbers", f"dtype {matrix.dtype}")
        checks.finite(where, "matrix", matrix.data)
    else:
        checks.known(where, "matrix", matrix, "known while tracing", "Weights made in a step go to mix().")
        matrix = np.asarray(checks.finite(where, "matrix", matrix))
        if np.iscomplexobj(matrix):
            checks.fail(where, "matrix", "real numbers", f"dtype {matrix.dtype}")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        checks.fail(where, "matrix", "of shape [N, N]", str(list(matrix.shape)))
    entries = scipy.sparse.coo_array(matrix)
    if normalize is not None:
        entries.sum_duplicates()
        rows, columns = (side.astype(np.int64) for side in (entries.row, entries.col))
        values = normalized(where, matrix.shape[0], rows, columns, entries.data.astype(np.float64), normalize)
        matrix = entries = scipy.sparse.coo_array((values, (rows, columns)), shape=matrix.shape)
    used = entries.data != 0
    one = graph(matrix.shape[0], entries.col[used], entries.row[used], is_directed=True)
    one = undirected_if_mirrored(one)
    edge_weights, self_weights = matrix_weights(one, matrix)
    holds = check_stochastic(one, edge_weights, self_weights)
    if not (holds["is_row_stochastic"] or holds["is_column_stochastic"]):
        sums = np.asarray(entries.sum(axis=1), np.float64).ravel()
        worst = int(np.argmax(np.abs(sums - 1)))
        checks.fail(where, "matrix", "stochastic (rows sum to 1)", f"row {worst} with sum {sums[worst]:.6g}", fix)
    return connect(one, (edge_weights, self_weights), lowering)


def undirected_if_mirrored(one: Graph) -> Graph:
    """The graph, undirected if every edge has its opposite."""
    back = np.sort(one.senders.astype(np.int64) * one.num_nodes + one.receivers)
    there = one.receivers.astype(np.int64) * one.num_nodes + one.senders
    return dataclasses.replace(one, is_directed=not np.array_equal(there, back))


def numbers(where: str, argument: str, values: list[Any]) -> np.ndarray:
    """Finite numbers, float64 `[M]`, of what stands beside edges or nodes; `argument` has a place for the bad one's."""
    try:
        made = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        made = None
    if made is None or made.ndim != 1 or not np.isfinite(made).all():
        for place, value in enumerate(values):
            try:
                is_good = np.ndim(value) == 0 and bool(np.isfinite(float(value)))
            except Exception:  # whatever the object says when it is taken for a number
                is_good = False
            if not is_good:
                checks.fail(where, argument.format(place), "a finite number", checks.describe(value))
        raise AssertionError
    return made


def _diagonal(where: str, num_nodes: int, own: np.ndarray | None, nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The diagonal as far as it is said, float64 `[N]`, NaN where it is not."""
    full = np.full(num_nodes, np.nan) if own is None else np.array(own, np.float64)
    nodes, values = _once(where, "loop", nodes * num_nodes + nodes, values, num_nodes)
    nodes = nodes // num_nodes
    apart = np.abs(full[nodes] - values) > TOLERANCE  # false where it is NaN
    if apart.any():
        node, value = int(nodes[np.argmax(apart)]), float(values[np.argmax(apart)])
        got = f"{full[node]:.6g} of the node and {value:.6g} of its loop"
        checks.fail(where, f"the weight that node {node} gives itself", "given once", got)
    full[nodes] = values
    return full


def _once(where: str, what: str, code: np.ndarray, values: np.ndarray, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each code `receiver * N + sender` once, sorted, with its value."""
    order = np.argsort(code, kind="stable")
    code, values = code[order], values[order].astype(np.float64)
    again = np.flatnonzero((np.diff(code) == 0) & (np.diff(values) != 0))
    if len(again):
        receiver, sender = divmod(int(code[again[0]]), num_nodes)
        checks.fail(where, f"the weight of {what} ({sender}, {receiver})", "given once", "two different ones")
    first = np.unique(code, return_index=True)[1]
    return code[first], values[first]
