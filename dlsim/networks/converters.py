"""Networks from and to other people's graphs: networkx, jraph, edge-list files, matrices.

This is the only module that knows jraph.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.networks.graph import Graph, graph
from dlsim.networks.network import Network, connect
from dlsim.networks.stochastic import TOLERANCE, check_stochastic
from dlsim.networks.topologies import Weights
from dlsim.networks.weights import matrix_weights

if TYPE_CHECKING:
    import jraph
    import networkx


def from_networkx(
    network: networkx.Graph, *, weights: Weights | None = None, edge_key: str | None = None, lowering: str = "auto"
) -> Network:
    """A Network over a networkx graph; node p is the p-th in the order of `network.nodes`.

    Args:
      network: Graph or DiGraph; an arc (u, v) lets v hear u.  Loops and parallel edges are dropped.  The node attribute
        `pos` (a pair), where all nodes have it, gives the positions.
      weights: as in `connect`; default `"metropolis_hastings"`, or `"row_stochastic"` for a directed graph.
      edge_key: the edge attribute that holds W[v, u]; the diagonal makes the rows sum to one.  Excludes `weights`.
      lowering: as in `connect`.
    """
    names = list(network.nodes)
    if not names:
        checks.fail("from_networkx", "network", "a graph with at least one node", "none")
    place = {name: position for position, name in enumerate(names)}
    arcs = [(place[u], place[v], data) for u, v, data in network.edges(data=True) if u != v]
    senders = np.array([u for u, _, _ in arcs], np.int64)
    receivers = np.array([v for _, v, _ in arcs], np.int64)
    where = [network.nodes[name].get("pos") for name in names]
    positions = np.array(where, np.float32) if all(p is not None and len(p) == 2 for p in where) else None
    is_directed = network.is_directed()
    one = graph(len(names), senders, receivers, is_directed=is_directed, positions=positions)
    if edge_key is None:
        return connect(one, _default(one, weights), lowering)
    if weights is not None:
        checks.fail("from_networkx", "weights", "None where edge_key is given", repr(weights))
    lacking = next(((names[u], names[v]) for u, v, data in arcs if edge_key not in data), None)
    if lacking is not None:
        checks.fail("from_networkx", "edge_key", "an attribute of every edge", f"{edge_key!r}, absent from {lacking}")
    values = np.array([data[edge_key] for _, _, data in arcs], np.float64)
    return _weighted("from_networkx", one, senders, receivers, values, lowering)


def to_networkx(network: Network) -> networkx.Graph:
    """A Graph (a DiGraph where W is not symmetric), W[v, u] as `weight` of (u, v), the diagonal as nodes' `self_weight`."""
    import networkx as nx

    is_plain = {"symmetric", "undirected"} <= network.properties
    result = nx.Graph() if is_plain else nx.DiGraph()
    for node, own in enumerate(np.asarray(network.self_weights).tolist()):
        result.add_node(node, self_weight=own)
    if network.positions is not None:
        nx.set_node_attributes(result, dict(enumerate(np.asarray(network.positions).tolist())), "pos")
    _, senders, receivers, edge_weights = _lists("to_networkx", network)
    columns = (senders.tolist(), receivers.tolist(), edge_weights.tolist())
    result.add_weighted_edges_from(zip(*columns, strict=True))
    return result


def from_jraph(graphs_tuple: jraph.GraphsTuple, *, weights: Weights | None = None, lowering: str = "auto") -> Network:
    """A Network over the one graph of a `jraph.GraphsTuple`.

    With `weights=None`, `edges["weights"]` and `nodes["self_weights"]` are used where they are there (as `to_jraph`
    writes them), else `"metropolis_hastings"`, or `"row_stochastic"` where some edge has no opposite.
    """
    sizes = np.asarray(graphs_tuple.n_node).ravel()
    if sizes.size != 1:
        fix = "Use jraph.unbatch, or jraph.unpad_with_graphs for padding."
        checks.fail("from_jraph", "graphs_tuple", "one graph", f"{sizes.size}", fix)
    num_nodes = int(sizes[0])
    senders, receivers = (np.asarray(ends, np.int64) for ends in (graphs_tuple.senders, graphs_tuple.receivers))
    positions = graphs_tuple.nodes.get("positions") if isinstance(graphs_tuple.nodes, dict) else None
    one = graph(num_nodes, senders, receivers, is_directed=True, positions=positions)
    one = _undirected_if_mirrored(one)
    held = [side if isinstance(side, dict) else {} for side in (graphs_tuple.edges, graphs_tuple.nodes)]
    if weights is not None or "weights" not in held[0] or "self_weights" not in held[1]:
        return connect(one, _default(one, weights), lowering)
    if len(senders) != one.num_edges:
        got = f"{len(senders) - one.num_edges} of them"
        checks.fail("from_jraph", "graphs_tuple", "free of loops and double edges where edges carry weights", got)
    order = np.argsort(receivers * num_nodes + senders)
    edge_weights = np.asarray(held[0]["weights"], np.float64).ravel()
    checks.shape("from_jraph", "edges['weights']", edge_weights, (one.num_edges,))
    return connect(one, (edge_weights[order], np.asarray(held[1]["self_weights"], np.float64).ravel()), lowering)


def to_jraph(network: Network) -> jraph.GraphsTuple:
    """One graph: `nodes = {"self_weights" [N], "positions" [N, 2] if any}`, `edges = {"weights" [E]}`, jraph's order."""
    import jraph

    num_nodes, senders, receivers, edge_weights = _lists("to_jraph", network)
    nodes = {"self_weights": np.asarray(network.self_weights)}
    if network.positions is not None:
        nodes["positions"] = np.asarray(network.positions)
    return jraph.GraphsTuple(
        nodes=nodes,
        edges={"weights": edge_weights},
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=np.array([num_nodes], np.int32),
        n_edge=np.array([len(senders)], np.int32),
    )


def from_edge_list(
    path: str | Path,
    *,
    num_nodes: int | None = None,
    directed: bool = False,
    renumber: bool = False,
    weights: Weights | None = None,
    lowering: str = "auto",
) -> Network:
    """A Network from a text file: one edge a line, `sender receiver [weight]`, split by blanks, tabs or commas.

    What follows a `#` is a comment.  A third column, on every line or on none, holds W[receiver, sender] (of both
    directions, unless `directed`); the diagonal makes the rows sum to one.

    Args:
      path: the file.
      num_nodes: N; default the largest id plus one.
      directed: whether a line is one direction only.
      renumber: whether ids, any integers, are replaced by their ranks; else they must be in 0..N-1.
      weights: as in `connect`, for a file without a third column; default `"metropolis_hastings"`, or
        `"row_stochastic"` for a directed graph.
      lowering: as in `connect`.
    """
    where = "from_edge_list"
    if not isinstance(path, str | Path):
        fix = "For arrays use connect(graph(num_nodes, senders, receivers))."
        checks.fail(where, "path", "the name of a text file", type(path).__name__, fix)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: path must be a readable text file, got {str(path)!r} ({error}).") from None
    rows = list(_edge_lines(where, path, text))
    if not rows:
        checks.fail(where, "path", "a file with at least one edge", repr(str(path)))
    ends = np.array([row[:2] for row in rows], np.int64)
    if renumber:
        ids, flat = np.unique(ends, return_inverse=True)
        ends = flat.reshape(ends.shape)
        smallest = len(ids)
    else:
        smallest = int(ends.max()) + 1
    total = checks.integer(where, "num_nodes", smallest if num_nodes is None else num_nodes, smallest)
    one = graph(total, ends[:, 0], ends[:, 1], is_directed=directed)
    if rows[0][2] is None:
        return connect(one, _default(one, weights), lowering)
    if weights is not None:
        checks.fail(where, "weights", "None for a file with a third column", repr(weights))
    return _weighted(where, one, ends[:, 0], ends[:, 1], np.array([row[2] for row in rows], np.float64), lowering)


def from_matrix(matrix: Any, *, lowering: str = "auto") -> Network:
    """A Network from its mixing matrix W `[N, N]`, dense or scipy sparse: W[i, j] is what receiver i gives sender j.

    Rows or columns must sum to one.  The network is undirected if the places of its non-zeros are symmetric.
    """
    import scipy.sparse

    if not scipy.sparse.issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        checks.fail("from_matrix", "matrix", "of shape [N, N]", str(list(matrix.shape)))
    checks.finite("from_matrix", "matrix", matrix.data if scipy.sparse.issparse(matrix) else matrix)
    entries = scipy.sparse.coo_array(matrix)
    used = entries.data != 0
    one = graph(matrix.shape[0], entries.col[used], entries.row[used], is_directed=True)
    one = _undirected_if_mirrored(one)
    edge_weights, self_weights = matrix_weights(one, matrix)
    holds = check_stochastic(one, edge_weights, self_weights)
    if not (holds["is_row_stochastic"] or holds["is_column_stochastic"]):
        sums = np.asarray(entries.sum(axis=1), np.float64).ravel()
        worst = int(np.argmax(np.abs(sums - 1)))
        fix = "Divide every row by its sum: W / W.sum(axis=1, keepdims=True)."
        checks.fail(
            "from_matrix", "matrix", "stochastic (rows sum to 1)", f"row {worst} with sum {sums[worst]:.6g}", fix
        )
    return connect(one, (edge_weights, self_weights), lowering)


def _edge_lines(where: str, path: str | Path, text: str) -> Iterator[tuple[int, int, float | None]]:
    width = 0
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].replace(",", " ").split()
        if not fields:
            continue
        try:
            if len(fields) not in (2, 3):
                raise ValueError
            edge = int(fields[0]), int(fields[1]), float(fields[2]) if len(fields) == 3 else None
            if edge[2] is not None and not math.isfinite(edge[2]):
                raise ValueError
        except ValueError:
            rule = "'sender receiver' or 'sender receiver weight', two integers and a finite number"
            checks.fail(where, f"line {number} of {path}", rule, repr(line.strip()))
        width = width or len(fields)
        if len(fields) != width:
            checks.fail(where, f"line {number} of {path}", f"of {width} columns as those before", repr(line.strip()))
        yield edge


def _default(one: Graph, weights: Weights | None) -> Weights:
    if weights is not None:
        return weights
    return "row_stochastic" if one.is_directed else "metropolis_hastings"


def _weighted(
    where: str, one: Graph, senders: np.ndarray, receivers: np.ndarray, values: np.ndarray, lowering: str
) -> Network:
    """The Network whose W[receiver, sender] are `values`, any order, one direction of an undirected edge or both."""
    is_edge = senders != receivers
    senders, receivers, values = senders[is_edge], receivers[is_edge], values[is_edge]
    if not one.is_directed:
        senders, receivers = np.concatenate([senders, receivers]), np.concatenate([receivers, senders])
        values = np.tile(values, 2)
    code = receivers * one.num_nodes + senders
    order = np.argsort(code, kind="stable")
    code, values = code[order], values[order]
    again = np.flatnonzero((np.diff(code) == 0) & (np.diff(values) != 0))
    if len(again):
        receiver, sender = divmod(int(code[again[0]]), one.num_nodes)
        checks.fail(where, f"the weight of edge ({sender}, {receiver})", "given once", "two different ones")
    edge_weights = values[np.unique(code, return_index=True)[1]].astype(np.float64)
    own = 1 - np.bincount(one.receivers, edge_weights.astype(np.float64), one.num_nodes)
    worst = int(np.argmin(own))
    if own[worst] < -TOLERANCE:
        rule = "with a sum of at most 1 over each node's senders"
        checks.fail(where, "weights", rule, f"{1 - own[worst]:.6g} at node {worst}", "Scale them down.")
    return connect(one, (edge_weights, own.astype(np.float64)), lowering)


def _undirected_if_mirrored(one: Graph) -> Graph:
    back = np.sort(one.senders.astype(np.int64) * one.num_nodes + one.receivers)
    there = one.receivers.astype(np.int64) * one.num_nodes + one.senders
    return dataclasses.replace(one, is_directed=not np.array_equal(there, back))


def _lists(where: str, network: Network) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    if network.is_implicit:
        checks.fail(where, "network", "one with an edge list", f"the complete graph of {network.num_nodes} nodes")
    senders, receivers = np.asarray(network.senders), np.asarray(network.receivers)
    return network.num_nodes, senders, receivers, np.asarray(network.edge_weights)
