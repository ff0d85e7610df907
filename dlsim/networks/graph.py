"""The graph under a network, on the host: plain NumPy, checked once."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from dlsim import checks


@dataclasses.dataclass(frozen=True)
class Graph:
    """Directed edges sorted by (receiver, sender), no loops, no duplicates; an undirected graph holds both directions.

    `grid` and `offsets` say that the graph is a set of shifts: node ids run over `grid` in C order, and each node
    hears the nodes at `id - offset` (component-wise, wrapping around) for every offset.  Mixing then needs no indices.
    """

    num_nodes: int
    senders: np.ndarray  # int32 [E]
    receivers: np.ndarray  # int32 [E]
    is_directed: bool = False
    grid: tuple[int, ...] | None = None
    offsets: tuple[tuple[int, ...], ...] | None = None
    positions: np.ndarray | None = None  # float32 [N, 2] where the graph is drawn in the plane

    @property
    def num_edges(self) -> int:
        """Directed edges, E."""
        return len(self.senders)

    @property
    def in_degrees(self) -> np.ndarray:
        """How many each node hears, int64 `[N]`."""
        return np.bincount(self.receivers, minlength=self.num_nodes)

    @property
    def out_degrees(self) -> np.ndarray:
        """How many hear each node, int64 `[N]`."""
        return np.bincount(self.senders, minlength=self.num_nodes)


def weight_dtype() -> np.dtype:
    """What mixing weights are kept in: float32, or float64 where JAX works in 64 bits."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


def graph(
    num_nodes: int,
    senders: np.ndarray,
    receivers: np.ndarray,
    *,
    is_directed: bool = False,
    grid: tuple[int, ...] | None = None,
    offsets: tuple[tuple[int, ...], ...] | None = None,
    positions: np.ndarray | None = None,
) -> Graph:
    """A Graph from any edge list: loops and duplicates dropped, sorted; `is_directed=False` adds the other direction.

    Args:
      num_nodes: N.
      senders, receivers: ends of each edge, integers `[E]` in 0..N-1; the receiver hears the sender.
      is_directed: whether an edge is one direction only.
      grid, offsets: that the graph is a set of shifts, as in `Graph`; not checked against the edges.
      positions: where nodes are drawn, float32 `[N, 2]`.
    """
    num_nodes = checks.integer("graph", "num_nodes", num_nodes, 1)
    senders, receivers = np.asarray(senders, np.int64).ravel(), np.asarray(receivers, np.int64).ravel()
    if senders.shape != receivers.shape:
        checks.fail("graph", "receivers", f"as long as senders ({len(senders)})", len(receivers))
    if len(senders) and (min(senders.min(), receivers.min()) < 0 or max(senders.max(), receivers.max()) >= num_nodes):
        bad = max(int(senders.max()), int(receivers.max()))
        if bad < num_nodes:
            bad = min(int(senders.min()), int(receivers.min()))
        checks.fail("graph", "edges", f"between nodes 0 and {num_nodes - 1}", f"node {bad}")
    if not is_directed:
        senders, receivers = np.concatenate([senders, receivers]), np.concatenate([receivers, senders])
    code = np.unique((receivers * num_nodes + senders)[senders != receivers])
    return Graph(
        num_nodes=num_nodes,
        senders=(code % num_nodes).astype(np.int32),
        receivers=(code // num_nodes).astype(np.int32),
        is_directed=is_directed,
        grid=grid,
        offsets=offsets,
        positions=None if positions is None else np.asarray(positions, np.float32),
    )
