"""One linear gossip product, y_i = w_ii own_i + sum_j w_ij values_j, in five lowerings with one meaning.

| lowering    | what it does                                       | cost a product          | when                       |
|-------------|----------------------------------------------------|-------------------------|----------------------------|
| `average`   | one sum over nodes (complete graph, equal weights) | 2 N D                   | complete                   |
| `shifts`    | rolls along a grid of nodes                        | (K + 1) N D, no indices | ring, torus, exponential   |
| `neighbors` | one row gather a neighbour, padded to K            | (K + 1) N D             | bounded degrees            |
| `edges`     | gather by sender, sorted segment sum by receiver   | 2 E D + N D             | hubs                       |
| `dense`     | matrix product                                     | 2 N^2 D flops           | dense graphs               |

`choose` is the rule.  All agree to rounding.  On a CPU `neighbors` and `edges` mix large leaves by columns
(`dlsim.networks.columns`): read once, written once, in place.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.networks.columns import by_columns
from dlsim.networks.fields import NetworkFields, host_graph
from dlsim.networks.graphs.graph import Graph
from dlsim.networks.pace.sizes import check_table
from dlsim.running.meshes import gathered, spread

Array = jax.Array
PyTree = Any
Fields = TypeVar("Fields", bound=NetworkFields)

LOWERINGS = ("average", "shifts", "neighbors", "edges", "dense")

# Rows gathered in the time in which a dense product does one row's share, per node: the flops of a dense row, 2 N D,
# against the bytes of one gathered row, 8 D.  Two cores: 90 gathers cost a dense product at N=1000; accelerators have
# 10 to 20 flops per byte more.
DENSE_ROWS_PER_NODE = {"cpu": 1 / 11, "gpu": 1 / 40, "tpu": 1 / 80}
UNROLL = 16  # neighbours summed in one fused loop


def choose(graph: Graph, is_uniform_complete: bool, table_fits: bool, backend: str) -> str:
    """The lowering by the cost rule of this page.

    `average` for the complete graph with equal weights; `shifts` where the graph is a few shifts; `dense` where the
    mean degree passes N times `DENSE_ROWS_PER_NODE` (and the matrix has at most 2^28 entries); `neighbors` where the
    padded table is not mostly padding; else `edges`.
    """
    num_nodes = graph.num_nodes
    if is_uniform_complete:
        return "average"
    if graph.offsets is not None and len(graph.offsets) <= UNROLL:
        return "shifts"
    degree = graph.num_edges / num_nodes
    if degree + 1 > num_nodes * DENSE_ROWS_PER_NODE.get(backend, 1 / 40) and num_nodes**2 <= 2**28 and num_nodes > 32:
        return "dense"
    return "neighbors" if table_fits else "edges"


def neighbor_table(graph: Graph) -> np.ndarray:
    """Edge ids by receiver, int32 `[N, K]`, padded with E; column k is offset k where the graph is a set of shifts."""
    degrees = graph.in_degrees
    width = int(degrees.max()) if graph.num_edges else 0
    table = np.full((graph.num_nodes, width), graph.num_edges, np.int32)
    if graph.offsets is not None and graph.grid is not None:
        code = graph.receivers.astype(np.int64) * graph.num_nodes + graph.senders
        ids = np.arange(graph.num_nodes).reshape(graph.grid)
        axes = tuple(range(len(graph.grid)))
        for k, offset in enumerate(graph.offsets):
            heard = np.roll(ids, offset, axes).ravel().astype(np.int64)
            table[:, k] = np.searchsorted(code, np.arange(graph.num_nodes) * graph.num_nodes + heard)
        return table
    starts = np.concatenate([[0], np.cumsum(degrees)[:-1]])
    column = np.arange(graph.num_edges) - starts[graph.receivers]
    table[graph.receivers, column] = np.arange(graph.num_edges)
    return table


def table_weights(table: Any, edge_weights: Array) -> Array:
    """Weights by receiver and column, `[N, K]`, zero in the padding."""
    return edge_weights.at[table].get(mode="fill", fill_value=0)


def matrix(network: NetworkFields, edge_weights: Array, self_weights: Array, num_senders: int | None = None) -> Array:
    """The mixing matrix W `[N, N]`, W[i, j] the weight receiver i gives sender j; more columns where more rows are heard."""
    is_unique = network.is_edge is None  # else the padding names one place many times
    start = jnp.diag(self_weights)
    if num_senders is not None and num_senders != network.num_nodes:
        start = jnp.pad(start, ((0, 0), (0, num_senders - network.num_nodes)))
    return start.at[network.receivers, network.senders].add(edge_weights, unique_indices=is_unique)


def lower(network: Fields, lowering: str, graph: Graph | None = None) -> Fields:
    """The network with the arrays that `lowering` needs; `"auto"` follows the cost rule."""
    checks.one_of("with_lowering", "lowering", lowering, ("auto", *LOWERINGS))
    if network.is_implicit:
        if lowering not in ("auto", "average"):
            checks.fail(
                "with_lowering", "lowering", "'average' for a complete graph without an edge list", repr(lowering)
            )
        return network
    if network.is_edge is not None:
        checks.fail("with_lowering", "network", "one whose list of edges is not padded", "one with a mask is_edge")
    graph = host_graph(network) if graph is None else graph
    num_nodes, edge_weights = graph.num_nodes, np.asarray(network.edge_weights)
    is_complete = graph.num_edges == num_nodes * (num_nodes - 1) and num_nodes > 1
    is_uniform_complete = is_complete and np.allclose(edge_weights, 1 / num_nodes, rtol=1e-5)
    widest = int(graph.in_degrees.max()) if graph.num_edges else 0
    table_fits = num_nodes * widest <= max(4 * (graph.num_edges + num_nodes), 2**20)
    if lowering == "auto":
        lowering = choose(graph, is_uniform_complete, table_fits, jax.default_backend())
    if lowering == "average" and not is_uniform_complete:
        checks.fail("with_lowering", "lowering", "one that fits the weights", "'average' on an incomplete graph")
    if lowering == "shifts" and graph.offsets is None:
        checks.fail("with_lowering", "lowering", "one that fits the graph", "'shifts' on a graph that is not a grid")
    if lowering == "dense":
        check_table("with_lowering", "the matrix of lowering 'dense'", num_nodes, num_nodes, "weights")
    if lowering == "neighbors":
        what = "neighbours, three numbers each"
        check_table("with_lowering", "the table of lowering 'neighbors'", num_nodes, widest, what, itemsize=12)
    changes: dict[str, Any] = {"lowering": lowering, "matrix": None}
    if network.neighbor_edges is None and (lowering in ("neighbors", "shifts") or table_fits):
        changes |= _table(graph, edge_weights)
    if lowering == "dense":
        changes["matrix"] = matrix(network, network.edge_weights, jnp.zeros_like(network.self_weights))
    return network.replace(**changes)


def _table(graph: Graph, edge_weights: np.ndarray) -> dict[str, Array]:
    table = neighbor_table(graph)
    padded = np.concatenate([edge_weights, np.zeros(1, edge_weights.dtype)])
    is_padding = table == graph.num_edges
    senders = np.concatenate([graph.senders, np.zeros(1, np.int32)])[table]
    senders = np.where(is_padding, np.arange(graph.num_nodes, dtype=np.int32)[:, None], senders)
    return {
        "neighbors": jnp.asarray(senders, jnp.int32),
        "neighbor_edges": jnp.asarray(table, jnp.int32),
        "neighbor_weights": jnp.asarray(padded[table]),
    }


def product(
    network: NetworkFields, values: PyTree, own: PyTree, edge_weights: Array | None, self_weights: Array | None
) -> PyTree:
    """One gossip product for every leaf `[N, ...]`; `edge_weights=None` means the network's own.

    With `self_weights` y_i = w_ii own_i + sum_j w_ij values_j.  Without, rows are taken to sum to one and

        y_i = own_i + sum_j w_ij (values_j - own_i),

    which rounds in proportion to disagreement instead of size: nodes that agree stay where they are to the last bit, and
    methods that sum up what mixing leaves over (D2, EXTRA) do not drift.
    """
    lowering = network.lowering
    if lowering == "average" and (edge_weights is not None or self_weights is not None):
        lowering = "dense"  # weights are no longer equal
    if lowering == "average":
        return jax.tree.map(_average, values, own)
    if lowering == "dense":
        full: Any = network.matrix
        if edge_weights is not None or full is None:
            given = network.edge_weights if edge_weights is None else edge_weights
            num_heard = jax.tree.leaves(values)[0].shape[0]
            full = matrix(network, given, jnp.zeros_like(network.self_weights), num_heard)
        return jax.tree.map(lambda v, o: _flat(_dense, network, full, v, o, self_weights), values, own)
    if lowering == "edges":
        by_edge = network.edge_weights if edge_weights is None else edge_weights
        return jax.tree.map(lambda v, o: _flat(_edges, network, by_edge, v, o, self_weights), values, own)
    weights: Any = network.neighbor_weights
    if edge_weights is not None:
        weights = table_weights(network.neighbor_edges, edge_weights)
    if lowering == "shifts":
        return jax.tree.map(lambda v, o: _flat(_shifts, network, weights, v, o, self_weights), values, own)
    return jax.tree.map(lambda v, o: _flat(_neighbors, network, weights, v, o, self_weights), values, own)


def _average(values: Array, own: Array) -> Array:
    # Around one node's values, so that nodes which agree have a mean that is exactly what they hold.
    anchor = values[:1]
    centre = anchor + jnp.mean(values - anchor, axis=0, keepdims=True)
    if values is own:
        return jnp.broadcast_to(centre, values.shape)
    return centre + jnp.asarray(1 / values.shape[0], values.dtype) * (own - values)


def scaled(network: Fields, share: Array) -> Fields:
    """The network with its edges' weights times `share` `[]`; what that leaves over stays with the receivers."""

    def times(weights: Array | None) -> Array | None:
        return None if weights is None else weights * share.astype(weights.dtype)

    return network.replace(
        edge_weights=times(network.edge_weights),
        neighbor_weights=times(network.neighbor_weights),
        matrix=times(network.matrix),
    )


def weighed_average(values: PyTree, own: PyTree) -> PyTree:
    """Equal weights: own_i / N + sum_{j != i} values_j / N."""

    def leaf(v: Array, o: Array) -> Array:
        return (jnp.sum(v, axis=0, keepdims=True) + (o - v)) * jnp.asarray(1 / v.shape[0], v.dtype)

    return jax.tree.map(leaf, values, own)


def masked_average(values: PyTree, own: PyTree, is_present: Array) -> PyTree:
    """`average` among those present; the weight of each absent node stays with the receiver, an absent node rests."""
    num_nodes = is_present.shape[0]
    heard = jnp.maximum(jnp.sum(is_present) - 1, 0) / num_nodes

    def leaf(v: Array, o: Array) -> Array:
        present = trees.expand(is_present, v)
        others = jnp.sum(jnp.where(present, v, 0), axis=0, keepdims=True) - v
        mixed = (1 - heard).astype(o.dtype) * o + others * jnp.asarray(1 / num_nodes, v.dtype)
        return jnp.where(present, mixed, o)

    return jax.tree.map(leaf, values, own)


def _start(own: Array, self_weights: Array | None) -> Array:
    return own if self_weights is None else trees.expand(self_weights, own).astype(own.dtype) * own


def _weigh(weights: Array, heard: Array, own: Array, self_weights: Array | None) -> Array:
    """One neighbour's part `[n, ...]` of the sum."""
    difference = heard - own if self_weights is None else heard
    return trees.expand(weights, heard).astype(heard.dtype) * difference


def _dense(network: NetworkFields, weights: Any, values: Array, own: Array, self_weights: Array | None) -> Array:
    del network
    weights = weights.astype(values.dtype)
    # Around one node's values: the product then rounds in proportion to disagreement too.
    anchor = values[:1] if self_weights is None else jnp.zeros_like(values[:1])
    heard = jnp.matmul(weights, gathered(values - anchor), precision=jax.lax.Precision.HIGHEST)
    if self_weights is None:
        heard = heard - jnp.sum(weights, axis=1, keepdims=True) * (own - anchor)
    return _start(own, self_weights) + heard


def _flat(
    rows: Any, network: NetworkFields, weights: Any, values: Array, own: Array, self_weights: Array | None
) -> Array:
    # One long row a node: gathers of short inner axes (64 x 10) take 1.2 to 2.7 times as long.
    flat = values.reshape(values.shape[0], -1)
    flat_own = flat if values is own else own.reshape(own.shape[0], -1)

    def mixed(values: Array, own: Array) -> Array:
        # Half precision is for storage: weights and sums are float32, and rounded once.
        wide = trees.widen(own)
        made: Array = rows(network, weights, wide if values is own else trees.widen(values), wide, self_weights)
        return made.astype(own.dtype)

    # Of messages kept from several rounds most are not heard: blocks of their columns would read them all.
    if rows in (_neighbors, _edges) and values.shape[0] == own.shape[0]:
        return by_columns(mixed, flat, flat_own).reshape(own.shape)
    # Products and shifted rows run through memory in order: blocks would cost them more than they save.
    return mixed(flat, flat_own).reshape(own.shape)


def _edges(network: NetworkFields, weights: Array, values: Array, own: Array, self_weights: Array | None) -> Array:
    messages = spread(gathered(values).at[network.senders].get(mode="promise_in_bounds"))
    mine = gathered(own).at[network.receivers].get(mode="promise_in_bounds") if self_weights is None else own
    heard = jax.ops.segment_sum(
        _weigh(weights, messages, mine, self_weights),
        network.receivers,
        num_segments=own.shape[0],
        indices_are_sorted=True,
        mode="promise_in_bounds",
    )
    return _start(own, self_weights) + heard


def _neighbors(network: NetworkFields, weights: Any, values: Array, own: Array, self_weights: Array | None) -> Array:
    neighbors: Any = network.neighbors
    values = gathered(values)

    # Row gathers promise to be in bounds: clamping every index keeps XLA's CPU loop from vectorising (7 times slower).
    def column(k: Array | int) -> Array:
        row = values.at[neighbors[:, k]].get(mode="promise_in_bounds")
        return _weigh(weights[:, k], row, own, self_weights)

    total = _start(own, self_weights)
    width = neighbors.shape[1]
    for k in range(width % UNROLL):
        total = total + column(k)

    def block(i: Array, partial: Array) -> Array:
        for k in range(UNROLL):
            partial = partial + column(width % UNROLL + i * UNROLL + k)
        return partial

    return jax.lax.fori_loop(0, width // UNROLL, block, total) if width >= UNROLL else total


def _shifts(network: NetworkFields, weights: Any, values: Array, own: Array, self_weights: Array | None) -> Array:
    grid, offsets = network.grid or (), network.offsets or ()
    total = _start(own, self_weights)
    on_grid = values.reshape(*grid, *values.shape[1:])
    axes = tuple(range(len(grid)))
    for k, offset in enumerate(offsets):
        row = jnp.roll(on_grid, offset, axes).reshape(values.shape)
        total = total + _weigh(weights[:, k], row, own, self_weights)
    return total
