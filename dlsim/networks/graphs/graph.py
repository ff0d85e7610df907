"""The graph under a network, on the host: plain NumPy, checked once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlsim import checks
from dlsim.networks.graphs.labels import Labels
from dlsim.networks.pace.sizes import check_size


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
    labels: Labels | None = None  # names and attributes, where it came with some

    def __repr__(self) -> str:
        kind = "directed" if self.is_directed else "undirected"
        held = [f"with {name}" for name in ("grid", "positions", "labels") if getattr(self, name) is not None]
        return f"Graph({', '.join([f'{self.num_nodes} nodes', f'{self.num_edges} directed edges', kind, *held])})"

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
    senders: Any,
    receivers: Any,
    *,
    is_directed: bool = False,
    grid: Sequence[int] | None = None,
    offsets: Sequence[Sequence[int]] | None = None,
    positions: Any = None,
) -> Graph:
    """A Graph from any edge list: loops and duplicates dropped, sorted; `is_directed=False` adds the other direction.

    Args:
      num_nodes: N.
      senders, receivers: ends of each edge, integers `[E]` in 0..N-1; the receiver hears the sender.
      is_directed: whether an edge is one direction only.
      grid, offsets: that the graph is a set of shifts, as in `Graph`; not checked against the edges.
      positions: where nodes are drawn, float32 `[N, 2]`.
    """
    where = "graph"
    num_nodes = check_size(where, checks.integer(where, "num_nodes", num_nodes, 1))
    senders, receivers = (
        _ends(name, ends, num_nodes) for name, ends in (("senders", senders), ("receivers", receivers))
    )
    if senders.shape != receivers.shape:
        checks.fail(where, "receivers", f"as long as senders ({len(senders)})", len(receivers))
    checks.flag(where, "is_directed", is_directed)
    if grid is not None:
        grid = checks.integers(where, "grid", grid, minimum=1)
        if math.prod(grid) != num_nodes:
            checks.fail(where, "grid", f"of {num_nodes} nodes in all", f"{grid} with {math.prod(grid)}")
    if offsets is not None:
        rows = checks.sequence(where, "offsets", offsets, "a sequence of offsets")
        offsets = tuple(checks.integers(where, "offsets", row, length=len(grid or ())) for row in rows)
    if positions is not None:
        positions = checks.array(where, "positions", positions, (num_nodes, 2)).astype(np.float32)
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
        positions=positions,
    )


def _ends(name: str, given: Any, num_nodes: int) -> np.ndarray:
    """One end of each edge, int64 `[E]`, all of them nodes."""
    ends = given
    if not (isinstance(given, np.ndarray) and given.ndim == 1 and np.issubdtype(given.dtype, np.integer)):
        checks.known("graph", name, given, "known values", "A graph is built outside jit and vmap.")
        ends = checks.array("graph", name, given, (None,))
        if len(ends) and not np.issubdtype(ends.dtype, np.integer):
            checks.fail("graph", name, "integers", f"dtype {ends.dtype}")
    if len(ends) and (ends.min() < 0 or ends.max() >= num_nodes):
        bad = int(ends.max()) if ends.max() >= num_nodes else int(ends.min())
        checks.fail("graph", "edges", f"between nodes 0 and {num_nodes - 1}", f"node {bad}")
    return ends.astype(np.int64, copy=False)


def check_graph(where: str, value: Any, *, weighted: bool = False, argument: str = "network") -> Any:
    """What has the fields of a Graph or, where it must be `weighted`, of a Network, known on the host; given back as it is.

    Network and Graph are not the only ones: whatever has these fields will do.
    """
    fields = ("num_nodes", "senders", "receivers", *(("edge_weights", "self_weights") if weighted else ()))
    if isinstance(value, type) or not all(hasattr(value, field) for field in fields):
        kind = "a Network" if weighted else "a Network or a Graph"
        fix = "Use connect(graph)." if isinstance(value, Graph) else "Use a topology, say dlsim.networks.ring(10)."
        checks.fail(where, argument, kind, checks.describe(value), fix)
    arrays = [getattr(value, field) for field in fields[1:]]
    checks.known(where, argument, arrays, "one whose arrays are known", "Call it outside jit and vmap.")
    return value
