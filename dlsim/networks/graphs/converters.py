"""Networks from and to other people's graphs: networkx, jraph, matrices; for files see `graph_files`.

This is the only module that knows jraph.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, check_graph, graph
from dlsim.networks.graphs.labels import Labels
from dlsim.networks.graphs.normalizing import check_normalize
from dlsim.networks.graphs.topologies import Weights
from dlsim.networks.graphs.weighted_edges import (
    default_weights,
    matrix_network,
    numbers,
    undirected_if_mirrored,
    weighted_network,
)
from dlsim.networks.network import Network, connect

if TYPE_CHECKING:
    import jraph
    import networkx

_NO_WEIGHTS = 'Pass weights="metropolis_hastings", or another name, if they are no mixing weights.'


def from_networkx(
    network: networkx.Graph,
    *,
    weights: Weights | None = None,
    edge_key: str | None = None,
    normalize: str | None = None,
    lowering: str = "auto",
) -> Network:
    """A Network over a networkx graph; node p is the p-th in the order of `network.nodes`.

    Names and attributes of nodes and edges are carried as `network.labels`, and `to_networkx` gives them back; of parallel
    edges those of the last.

    Args:
      network: Graph or DiGraph; an arc (u, v) lets v hear u.  Parallel edges count once, loops only as weights.  The
        node attribute `pos`, where all nodes have it, gives the positions: pairs of numbers (triples are left out).
      weights: as in `connect`; default `"metropolis_hastings"`, or `"row_stochastic"` for a directed graph.
      edge_key: the edge attribute that holds W[v, u]; a loop's, or the node attribute `self_weight` (as `to_networkx`
        writes it), is the diagonal.  Where neither says it, it is 0 if rows or columns then sum to one, else what makes
        the row sum to one.  Excludes `weights`.
      normalize: what makes mixing weights of any weights >= 0 under `edge_key`: `"row"` or `"column"`, which divide by
        sums, or `"sinkhorn"`, which scales rows and columns until both sum to one (and is refused where that cannot be).
        Where nothing says the diagonal, it is then the mean weight of the node's edges, as if it were one more neighbour.
      lowering: as in `connect`.
    """
    import networkx as nx

    where = "from_networkx"
    checks.instance(where, "network", network, nx.Graph, "For edges use connect(graph(num_nodes, senders, receivers)).")
    names = list(network.nodes)
    if not names:
        checks.fail(where, "network", "a graph with at least one node", "none")
    place = {name: position for position, name in enumerate(names)}
    arcs = [(place[u], place[v], data) for u, v, data in network.edges(data=True)]
    senders = np.array([u for u, _, _ in arcs], np.int64)
    receivers = np.array([v for _, v, _ in arcs], np.int64)
    is_directed = network.is_directed()
    one = graph(len(names), senders, receivers, is_directed=is_directed, positions=_positions(where, network, names))
    one = dataclasses.replace(one, labels=_labels(network, names, arcs, one))
    check_normalize(where, normalize)
    if edge_key is None:
        if normalize is not None:
            fix = 'Pass edge_key, say edge_key="weight".'
            checks.fail(where, "normalize", "None where no edge_key is given", repr(normalize), fix)
        return connect(one, default_weights(one, weights), lowering)
    checks.text(where, "edge_key", edge_key, "the name of an edge attribute")
    if weights is not None:
        checks.fail(where, "weights", "None where edge_key is given", checks.describe(weights))
    lacking = next(((names[u], names[v]) for u, v, data in arcs if edge_key not in data), None)
    if lacking is not None:
        checks.fail(where, "edge_key", "an attribute of every edge", f"{edge_key!r}, absent from {lacking}")
    values = numbers(where, f"{edge_key} of edge number {{}}", [data[edge_key] for _, _, data in arcs])
    held = [network.nodes[name].get("self_weight") for name in names]
    said = [value for value in held if value is not None]
    own = None
    if said:
        own = np.full(len(names), np.nan)
        own[[value is not None for value in held]] = numbers(where, "self_weight number {}", said)
    edges = (senders, receivers, values)
    options: dict[str, Any] = {"both_ways": not is_directed, "lowering": lowering, "normalize": normalize}
    return weighted_network(where, one, edges, own=own, fix='Scale them down, or pass normalize="row".', **options)


def _labels(network: networkx.Graph, names: list[Any], arcs: list[tuple[int, int, Any]], one: Graph) -> Labels | None:
    """Names and attributes in the graph's order; None where it has none but the positions of its nodes as names."""
    num_nodes = len(names)
    by_code: dict[int, dict[str, Any]] = {}
    for u, v, data in arcs:
        for code in (v * num_nodes + u,) if one.is_directed else (v * num_nodes + u, u * num_nodes + v):
            by_code[code] = data
    nodes = tuple(dict(network.nodes[name]) for name in names)
    edges = None
    if any(by_code.values()):
        codes = one.receivers.astype(np.int64) * num_nodes + one.senders
        edges = tuple(dict(by_code[code]) for code in codes.tolist())
    if edges is None and not network.graph and not any(nodes) and names == list(range(num_nodes)):
        return None
    return Labels(tuple(names), nodes, edges, dict(network.graph))


def _positions(where: str, network: networkx.Graph, names: list[Any]) -> np.ndarray | None:
    """Float64 `[N, 2]`; None where some node has none, or where they are not of the plane."""
    given = [network.nodes[name].get("pos") for name in names]
    if any(pos is None for pos in given):
        return None
    rows = []
    for name, pos in zip(names, given, strict=True):
        try:
            row = np.asarray(pos, np.float64)
        except (TypeError, ValueError):
            row = np.zeros(0)
        if isinstance(pos, str) or row.shape not in ((2,), (3,)) or not np.isfinite(row).all():
            fix = 'Drop it: for _, data in graph.nodes(data=True): data.pop("pos", None).'
            checks.fail(where, f"pos of node {name!r}", "a pair of finite numbers", checks.describe(pos), fix)
        rows.append(row)
    return np.stack(rows) if all(row.shape == (2,) for row in rows) else None


def to_networkx(network: Network, *, loops: bool = False, edge_key: str | None = None) -> networkx.Graph:
    """A Graph (a DiGraph where W is not symmetric), W[v, u] as `weight` of (u, v), the diagonal as nodes' `self_weight`.

    Names and attributes that the network came with (`from_networkx`) are there again.

    Args:
      network: any with a list of edges.
      loops: whether the diagonal stands on loops as well, so that a file of the edges keeps it.
      edge_key: the attribute that W is written as; default `weight`, or `mixing_weight` where the edges came with a
        `weight` that is another number, which stays.
    """
    import networkx as nx

    checks.flag("to_networkx", "loops", loops)
    if edge_key is not None:
        checks.text("to_networkx", "edge_key", edge_key, "the name of an edge attribute")
    num_nodes, senders, receivers, edge_weights = _lists("to_networkx", network)
    is_plain = {"symmetric", "undirected"} <= network.properties
    result = nx.Graph() if is_plain else nx.DiGraph()
    labels, own = network.labels, np.asarray(network.self_weights).tolist()
    names = range(num_nodes) if labels is None else labels.names
    attributes = None if labels is None else labels.edges
    key = edge_key or _free_key(attributes, edge_weights)
    if labels is not None:
        result.graph.update(labels.graph)
    for node, name in enumerate(names):
        result.add_node(name, **{**({} if labels is None else labels.nodes[node]), "self_weight": own[node]})
    if network.positions is not None:
        places = zip(names, np.asarray(network.positions).tolist(), strict=True)
        nx.set_node_attributes(result, {name: at for name, at in places if "pos" not in result.nodes[name]}, "pos")
    columns = zip(senders.tolist(), receivers.tolist(), edge_weights.tolist(), strict=True)
    for edge, (u, v, weight) in enumerate(columns):
        result.add_edge(names[u], names[v], **{**({} if attributes is None else attributes[edge]), key: weight})
    if loops:
        result.add_edges_from((name, name, {key: weight}) for name, weight in zip(names, own, strict=True))
    return result


def _free_key(attributes: tuple[dict[str, Any], ...] | None, edge_weights: np.ndarray) -> str:
    """`weight`, where it is free or says what it would say anyway."""
    given = [None if attributes is None else one.get("weight") for one in attributes or ()]
    if all(value is None for value in given):
        return "weight"
    known = [float(value) if isinstance(value, int | float | np.number) else np.nan for value in given]
    return "weight" if np.allclose(known, edge_weights, rtol=1e-6, atol=1e-7) else "mixing_weight"


def from_jraph(graphs_tuple: jraph.GraphsTuple, *, weights: Weights | None = None, lowering: str = "auto") -> Network:
    """A Network over the one graph of a `jraph.GraphsTuple`.

    With `weights=None`, `edges["weights"]` are used where they are there, with the diagonal of `nodes["self_weights"]`
    (as `to_jraph` writes them) or of loops; where neither says it, it is 0 if rows or columns then sum to one, else what
    makes the row sum to one.  Without them it is `"metropolis_hastings"`, or `"row_stochastic"` where some edge has no
    opposite.
    """
    where = "from_jraph"
    if isinstance(graphs_tuple, type) or not all(hasattr(graphs_tuple, n) for n in ("n_node", "senders", "receivers")):
        checks.fail(where, "graphs_tuple", "a jraph.GraphsTuple", checks.describe(graphs_tuple))
    if graphs_tuple.n_node is None or graphs_tuple.senders is None or graphs_tuple.receivers is None:
        checks.fail(where, "graphs_tuple", "one with n_node, senders and receivers", "None for one of them")
    sizes = checks.array(where, "n_node", graphs_tuple.n_node).ravel()
    if sizes.size != 1:
        fix = "Use jraph.unbatch, or jraph.unpad_with_graphs for padding."
        checks.fail(where, "graphs_tuple", "one graph", f"{sizes.size}", fix)
    num_nodes = checks.integer(where, "n_node", sizes[0], 1)
    nodes, edges = (side if isinstance(side, dict) else {} for side in (graphs_tuple.nodes, graphs_tuple.edges))
    one = graph(
        num_nodes, graphs_tuple.senders, graphs_tuple.receivers, is_directed=True, positions=nodes.get("positions")
    )
    one = undirected_if_mirrored(one)
    if weights is not None or "weights" not in edges:
        return connect(one, default_weights(one, weights), lowering)
    senders, receivers = (np.asarray(ends, np.int64) for ends in (graphs_tuple.senders, graphs_tuple.receivers))
    code = receivers * num_nodes + senders
    if len(np.unique(code)) != len(code):
        got = f"{len(code) - len(np.unique(code))} of them"
        checks.fail(where, "graphs_tuple", "free of double edges where edges carry weights", got)
    values = np.ravel(checks.array(where, "edges['weights']", edges["weights"])).astype(np.float64)
    checks.shape(where, "edges['weights']", values, (len(senders),))
    own = None
    if "self_weights" in nodes:
        own = np.ravel(checks.array(where, "nodes['self_weights']", nodes["self_weights"])).astype(np.float64)
        checks.shape(where, "nodes['self_weights']", own, (num_nodes,))
    return weighted_network(where, one, (senders, receivers, values), own=own, lowering=lowering, fix=_NO_WEIGHTS)


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


def from_matrix(matrix: Any, *, normalize: str | None = None, lowering: str = "auto") -> Network:
    """A Network from its mixing matrix W `[N, N]`, dense or scipy sparse: W[i, j] is what receiver i gives sender j.

    Rows or columns must sum to one, or `normalize` makes them: `"row"`, `"column"` or `"sinkhorn"` (both), as in
    `from_networkx`; the diagonal is what the matrix says.  The network is undirected if the places of its non-zeros are
    symmetric.
    """
    return matrix_network("from_matrix", matrix, lowering, normalize=check_normalize("from_matrix", normalize))


def _lists(where: str, network: Network) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    checks.instance(where, "network", network, Network, "Of a Graph: connect(graph).")
    check_graph(where, network, weighted=True)
    if network.is_implicit:
        checks.fail(where, "network", "one with an edge list", f"the complete graph of {network.num_nodes} nodes")
    there = slice(None) if network.is_edge is None else np.asarray(network.is_edge)
    senders, receivers = np.asarray(network.senders)[there], np.asarray(network.receivers)[there]
    return network.num_nodes, senders, receivers, np.asarray(network.edge_weights)[there]
