"""Pictures of topologies."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks, palette
from dlsim.networks.graph import Graph, check_graph
from dlsim.networks.network import Network, host_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST_CIRCLE = 40  # nodes; above, a circle of chords says nothing
LARGEST_SPRING = 500
LARGEST_DRAWING = 1_000_000  # edges


def draw(network: Network | Graph, values: Any = None, ax: Axes | None = None, *, label: str = "") -> Axes:
    """Draw a topology, each node coloured by a metric of its own.

    Layout: the network's positions; a plane for a two-dimensional torus, with its links around the edge as stubs; a
    circle for shifts along one axis and for small networks; else springs started from (for many nodes, only) the slow
    eigenvectors of the Laplacian, which put nodes that mix fast together.

    Args:
      network: what to draw.
      values: a number a node, `[N]`, e.g. its accuracy; NaN is drawn hollow.  Default: one colour.
      ax: matplotlib Axes; default a new figure's.
      label: of the colour bar.
    Returns: the Axes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection

    checks.instance("draw", "network", network, (Network, Graph))
    check_graph("draw", network)
    if getattr(network, "is_implicit", False) or network.num_edges > LARGEST_DRAWING:
        checks.fail("draw", "network", f"one with at most {LARGEST_DRAWING} edges", f"{network.num_nodes} nodes")
    if values is not None:
        checks.known("draw", "values", values, "known values")
        checks.shape("draw", "values", values, (network.num_nodes,))
        values = np.asarray(values)
        if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or np.iscomplexobj(values):
            checks.fail("draw", "values", "real numbers, one a node", f"dtype {values.dtype}")
        values = values.astype(np.float64)
    checks.text("draw", "label", label)
    if ax is not None:
        checks.instance("draw", "ax", ax, Axes)
    else:
        ax = plt.subplots(figsize=(5.5, 5), layout="constrained")[1]
    graph = network if isinstance(network, Graph) else host_graph(network)
    places, segments = layout(graph)
    alpha = float(np.clip(3 / (len(segments) / graph.num_nodes + 1), 0.08, 0.7))
    lines = LineCollection(list(segments), colors="0.55", linewidths=0.8, alpha=alpha)
    ax.add_collection(lines)
    size = float(np.clip(9000 / graph.num_nodes, 1, 160))
    style: dict[str, Any] = {"s": size, "zorder": 2, "linewidths": min(0.8, size / 40), "edgecolors": "white"}
    if values is None:
        ax.scatter(places[:, 0], places[:, 1], color=palette.COLORS[0], **style)
    else:
        is_known = np.isfinite(values)
        (x, y), (hollow_x, hollow_y) = places[is_known].T, places[~is_known].T
        points = ax.scatter(x, y, c=values[is_known], cmap=palette.RAMP, **style)
        ax.scatter(hollow_x, hollow_y, **(style | {"facecolors": "white", "edgecolors": "0.4", "linewidths": 0.8}))
        ax.figure.colorbar(points, ax=ax, label=label, shrink=0.8)
    ax.autoscale_view()
    ax.margins(0.06)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_axis_off()
    return ax


def layout(graph: Graph, largest_spring: int = LARGEST_SPRING) -> tuple[np.ndarray, np.ndarray]:
    """Places of the nodes `[N, 2]` and one segment an undirected edge `[S, 2, 2]`, by the rules of `draw`.

    `largest_spring`: nodes from which on springs take too long, a second or two for 500.
    """
    sides = () if graph.grid is None else tuple(side for side in graph.grid if side > 1)
    if graph.positions is not None:
        places = np.asarray(graph.positions, np.float64)
    elif len(sides) == 2 and max(sides) > 2:
        return _plane(graph, sides)
    elif len(sides) == 1 or (graph.num_nodes <= LARGEST_CIRCLE and not _is_tree(graph)):
        turn = np.pi / 2 - 2 * np.pi * np.arange(graph.num_nodes) / graph.num_nodes
        places = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    else:
        places = _spectral(graph)
        if graph.num_nodes <= largest_spring:
            places = _springs(graph, places)
    first, second = _ends(graph)
    return places, np.stack([places[first], places[second]], axis=1)


def _plane(graph: Graph, sides: tuple[int, int] | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns; an edge that wraps around becomes a stub at each end."""
    ids = np.arange(graph.num_nodes)
    places = np.stack([ids % sides[1], sides[0] - 1.0 - ids // sides[1]], axis=1)
    box = np.array([sides[1], sides[0]])
    first, second = _ends(graph)
    step = places[second] - places[first]
    short = step - box * np.round(step / box)
    wraps = np.abs(step - short).max(axis=1) > 0
    inner = np.stack([places[first], places[second]], axis=1)[~wraps]
    stubs = [
        np.stack([places[ends], places[ends] + sign * 0.45 * short[wraps]], axis=1)
        for ends, sign in ((first[wraps], 1), (second[wraps], -1))
    ]
    return places, np.concatenate([inner, *stubs])


def _ends(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Each pair of linked nodes once, whichever way they are linked."""
    low, high = np.minimum(graph.senders, graph.receivers), np.maximum(graph.senders, graph.receivers)
    code = np.unique(low.astype(np.int64) * graph.num_nodes + high)
    return code // graph.num_nodes, code % graph.num_nodes


def _is_tree(graph: Graph) -> bool:
    """A forest large enough to have a shape, which a circle would hide."""
    return 4 < graph.num_nodes > len(_ends(graph)[0])


def _spectral(graph: Graph) -> np.ndarray:
    """Second and third eigenvectors of I + D^{-1/2} A D^{-1/2}, the slowest ways to disagree."""
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import eigsh

    first, second = _ends(graph)
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    root = 1 / np.sqrt(np.maximum(np.bincount(rows, minlength=graph.num_nodes), 1))
    scaled = coo_array((root[rows] * root[columns], (rows, columns)), shape=(graph.num_nodes,) * 2).tocsr()
    start = np.random.default_rng(0).standard_normal(graph.num_nodes)
    # Where few eigenvalues differ (a star) the iteration starts again at random, from 1.17 on with a generator of its own.
    seeded: dict[str, Any] = {}
    if "rng" in inspect.signature(eigsh).parameters:
        seeded["rng"] = np.random.default_rng(0)
    # A picture needs two digits, so the tolerance is loose.
    ncv = min(graph.num_nodes, 40)
    _, vectors = eigsh(scaled, k=3, which="LA", v0=start, tol=1e-3, ncv=ncv, maxiter=5000, **seeded)
    places = vectors[:, :2] * root[:, None]
    spread = np.abs(places).max(axis=0)
    return places / np.where(spread > 0, spread, 1)


def _springs(graph: Graph, places: np.ndarray, num_steps: int = 150) -> np.ndarray:
    """Force-directed placement: linked nodes pull with d^2 / k, all push with k^2 / d, in steps that grow smaller.

    Source: Fruchterman, Reingold, Graph drawing by force-directed placement, Software: Practice and Experience 21, 1991.
    """
    num_nodes = graph.num_nodes
    first, second = _ends(graph)
    ideal = 2 / np.sqrt(num_nodes)
    places = places + np.random.default_rng(0).normal(0, 0.05 * ideal, places.shape)  # parts twins
    for step in range(num_steps):
        apart = places[:, None] - places[None]
        squared = np.maximum((apart**2).sum(axis=2), 1e-6 * ideal**2)
        force = ideal**2 * (apart / squared[..., None]).sum(axis=1)
        pull = places[second] - places[first]
        pull *= np.linalg.norm(pull, axis=1, keepdims=True) / ideal
        np.add.at(force, first, pull)
        np.add.at(force, second, -pull)
        length = np.maximum(np.linalg.norm(force, axis=1, keepdims=True), 1e-12)
        places = places + force / length * np.minimum(length, 0.15 * (1 - step / num_steps))
    return places - places.mean(axis=0)
