"""Pictures of topologies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks, palette
from dlsim.networks.graphs import layouts
from dlsim.networks.graphs.graph import Graph, check_graph
from dlsim.networks.graphs.layouts import layout
from dlsim.networks.network import Network, host_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "layout"]

LARGEST_DRAWING = 1_000_000  # edges
MOST_ARROWS = 2_000  # that are drawn where nobody asks for them
THINNEST, THICKEST = 0.3, 4.0  # points


def draw(
    network: Network | Graph,
    values: Any = None,
    ax: Axes | None = None,
    *,
    label: str = "",
    layout: Any = "auto",
    labels: bool | Sequence[Any] = False,
    widths: Any = None,
    arrows: bool | None = None,
) -> Axes:
    """Draw a topology, each node coloured by a metric or a group of its own.

    The layout `"auto"` takes the network's positions; a plane for a two-dimensional torus, with its links around the edge
    as stubs; a circle for shifts along one axis and for small networks; else springs started from (for many nodes, only)
    the slow eigenvectors of the Laplacian, which put nodes that mix fast together.

        club = dlsim.networks.from_networkx(networkx.karate_club_graph())
        dlsim.networks.draw(club, "club", layout="communities", labels=True, widths="weight")

    Args:
      network: what to draw.
      values: a number a node, `[N]`, e.g. its accuracy; NaN is drawn hollow.  Or a text a node: a colour each, and a
        legend.  Or the name of an attribute that the nodes came with, or `"communities"`, which are then looked for.
        Default: one colour.
      ax: matplotlib Axes; default a new figure's.
      label: of the colour bar or the legend.
      layout: `"auto"`; `"positions"`, `"circular"`, `"spring"`, `"spectral"`; `"communities"`, groups apart, those of
        `values` where they are texts, else found ones; or places `[N, 2]`.
      labels: whether to write names of nodes (ids where they have none), or what to write, `[N]`.
      widths: how thick edges are: `"weights"` (W), the name of an attribute that the edges came with, or numbers >= 0
        in the order of the edges, `[E]`.  Default: all alike.
      arrows: whether edges have heads; default where the graph is directed, up to 2,000 edges.
    Returns: the Axes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    checks.instance("draw", "network", network, (Network, Graph))
    check_graph("draw", network)
    if getattr(network, "is_implicit", False) or network.num_edges > LARGEST_DRAWING:
        checks.fail("draw", "network", f"one with at most {LARGEST_DRAWING} edges", f"{network.num_nodes} nodes")
    graph = network if isinstance(network, Graph) else host_graph(network)
    numbers, groups = _colours(graph, values)
    checks.text("draw", "label", label)
    label = label or (values if isinstance(values, str) and values != "communities" else "")
    texts = _texts(graph, labels)
    thick = _widths(network, graph, widths)
    if arrows is not None:
        checks.flag("draw", "arrows", arrows)
    places, segments = _layout(graph, layout, groups)
    if ax is not None:
        checks.instance("draw", "ax", ax, Axes)
    else:
        ax = plt.subplots(figsize=(5.5, 5), layout="constrained")[1]
    size = float(np.clip(9000 / graph.num_nodes, 1, 160))
    alpha = float(np.clip(3 / (len(segments) / graph.num_nodes + 1), 0.08, 0.7))
    has_arrows = graph.is_directed and graph.num_edges <= MOST_ARROWS if arrows is None else arrows
    if has_arrows:
        _arrows(ax, graph, places, thick, alpha, size)
    else:
        _lines(ax, graph, segments, thick, alpha)
    style: dict[str, Any] = {"s": size, "zorder": 2, "linewidths": min(0.8, size / 40), "edgecolors": "white"}
    bright = np.zeros(graph.num_nodes, bool)  # where white letters would not be seen
    if groups is not None:
        _groups(ax, places, groups, style, label)
    elif numbers is None:
        ax.scatter(places[:, 0], places[:, 1], color=palette.COLORS[0], **style)
    else:
        is_known = np.isfinite(numbers)
        (x, y), (hollow_x, hollow_y) = places[is_known].T, places[~is_known].T
        points = ax.scatter(x, y, c=numbers[is_known], cmap=palette.RAMP, **style)
        ax.scatter(hollow_x, hollow_y, **(style | {"facecolors": "white", "edgecolors": "0.4", "linewidths": 0.8}))
        low, high = points.get_clim()
        bright = ~is_known | (numbers > low + 0.6 * (high - low))
        ax.figure.colorbar(points, ax=ax, label=label, shrink=0.8)
    for node, text in enumerate(texts or ()):
        _write(ax, places[node], text, size, "0.15" if bright[node] else "white")
    ax.autoscale_view()
    ax.margins(0.06)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_axis_off()
    return ax


def _colours(graph: Graph, values: Any) -> tuple[np.ndarray | None, list[str] | None]:
    """A number a node, or a group a node, or neither."""
    if values is None:
        return None, None
    if isinstance(values, str):
        name, known = values, set() if graph.labels is None else {key for one in graph.labels.nodes for key in one}
        if name == "communities" and name not in known:
            return None, layouts.communities(graph)
        checks.one_of("draw", "values", name, ["communities", *sorted(known, key=str)])
        values = [] if graph.labels is None else graph.labels.of_nodes(name)
        if any(value is None or isinstance(value, str | bool | tuple) for value in values):
            return None, ["none" if value is None else str(value) for value in values]
    checks.known("draw", "values", values, "known values")
    checks.shape("draw", "values", values, (graph.num_nodes,))
    values = np.asarray(values)
    if values.dtype.kind in "US" or (values.dtype == object and all(isinstance(value, str) for value in values)):
        return None, [str(value) for value in values.tolist()]
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or np.iscomplexobj(values):
        checks.fail("draw", "values", "real numbers, or texts, one a node", f"dtype {values.dtype}")
    return values.astype(np.float64), None


def _texts(graph: Graph, labels: Any) -> list[str] | None:
    if isinstance(labels, bool | np.bool_):
        names = range(graph.num_nodes) if graph.labels is None else graph.labels.names
        return [str(name) for name in names] if labels else None
    given = checks.sequence("draw", "labels", labels, "True, False, or a text for each node")
    if len(given) != graph.num_nodes:
        checks.fail("draw", "labels", f"of the {graph.num_nodes} nodes", f"{len(given)} texts")
    return [str(text) for text in given]


def _widths(network: Network | Graph, graph: Graph, widths: Any) -> np.ndarray | None:
    """Points of each edge `[E]`; None: all alike."""
    if widths is None:
        return None
    if isinstance(widths, str):
        known = set() if graph.labels is None else {key for one in graph.labels.edges or () for key in one}
        has_weights = isinstance(network, Network) and "weights" not in known
        checks.one_of("draw", "widths", widths, [*(["weights"] if has_weights else []), *sorted(known, key=str)])
        if isinstance(network, Network) and has_weights and widths == "weights":
            there = slice(None) if network.is_edge is None else np.asarray(network.is_edge)
            numbers = np.abs(np.asarray(network.edge_weights, np.float64)[there])
            return _points(numbers)
        found = [] if graph.labels is None else graph.labels.of_edges(widths) or []
        if any(value is None for value in found):
            checks.fail("draw", "widths", "an attribute of every edge", f"{widths!r}, absent from some")
        widths = found
    numbers = np.asarray(checks.array("draw", "widths", widths, (graph.num_edges,), 0.0), np.float64)
    return _points(numbers)


def _points(numbers: np.ndarray) -> np.ndarray:
    largest = numbers.max(initial=0)
    return np.full(len(numbers), 0.8) if largest == 0 else np.maximum(THICKEST * numbers / largest, THINNEST)


def _layout(graph: Graph, how: Any, groups: list[str] | None) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(how, str):
        checks.one_of("draw", "layout", how, layouts.LAYOUTS)
        if how == "auto":
            return layout(graph)
        places = layouts.placed(graph, how, groups)
    else:
        rule = f"places [N, 2] or one of {', '.join(layouts.LAYOUTS)}"
        if how is None or np.ndim(checks.host("draw", "layout", how, rule)) != 2:
            checks.fail("draw", "layout", rule, checks.describe(how))
        places = np.asarray(checks.array("draw", "layout", how, (graph.num_nodes, 2)), np.float64)
    first, second = layouts.pairs_of(graph)
    return places, np.stack([places[first], places[second]], axis=1)


def _lines(ax: Axes, graph: Graph, segments: np.ndarray, thick: np.ndarray | None, alpha: float) -> None:
    """A line a linked pair, as thick as the thicker of its directions; stubs are alike."""
    from matplotlib.collections import LineCollection

    points: Any = 0.8
    first, second = layouts.pairs_of(graph)
    if thick is not None and len(segments) == len(first):
        low, high = np.minimum(graph.senders, graph.receivers), np.maximum(graph.senders, graph.receivers)
        place = np.searchsorted(first * graph.num_nodes + second, low.astype(np.int64) * graph.num_nodes + high)
        points = np.zeros(len(first))
        np.maximum.at(points, place, thick)
    ax.add_collection(LineCollection(list(segments), colors="0.55", linewidths=points, alpha=alpha))


def _arrows(ax: Axes, graph: Graph, places: np.ndarray, thick: np.ndarray | None, alpha: float, size: float) -> None:
    """An arrow an edge from its sender to its receiver, bent where there is one back."""
    from matplotlib.patches import FancyArrowPatch

    radius = np.sqrt(size) / 2 + 0.5  # points
    code = graph.receivers.astype(np.int64) * graph.num_nodes + graph.senders
    has_back = np.isin(graph.senders.astype(np.int64) * graph.num_nodes + graph.receivers, code)
    for edge, (sender, receiver) in enumerate(zip(graph.senders, graph.receivers, strict=True)):
        width = 0.8 if thick is None else float(thick[edge])
        arrow = FancyArrowPatch(
            tuple(places[sender]),
            tuple(places[receiver]),
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={0.15 if has_back[edge] else 0.0}",
            mutation_scale=max(4.0, min(10.0, radius * 1.5)) + 1.5 * width,
            linewidth=width,
            color="0.4",
            alpha=max(alpha, 0.35),
            shrinkA=radius,
            shrinkB=radius,
            zorder=1,
        )
        ax.add_patch(arrow)
    ax.update_datalim(places)


def _groups(ax: Axes, places: np.ndarray, groups: list[str], style: dict[str, Any], label: str) -> None:
    """A colour a group, with a marker a round of colours, and a legend of them below."""
    known = sorted(set(groups), key=lambda name: (len(name), name))
    for number, name in enumerate(known):
        x, y = places[[group == name for group in groups]].T
        again, color = divmod(number, len(palette.AREAS))
        marker = palette.MARKERS[again % len(palette.MARKERS)]
        ax.scatter(x, y, color=palette.AREAS[color], marker=marker, label=name, **style)
    columns = min(len(known), 4)
    legend = ax.legend(title=label or None, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns, frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([40.0])  # type: ignore[union-attr]


def _write(ax: Axes, place: np.ndarray, text: str, size: float, inside: str) -> None:
    """Short texts in the node where there is room, others beside it."""
    is_inside = len(text) <= 2 and size > 100
    ax.annotate(
        text,
        tuple(place),
        xytext=(0, 0) if is_inside else (0, np.sqrt(size) / 2 + 1.5),
        textcoords="offset points",
        ha="center",
        va="center" if is_inside else "bottom",
        fontsize=7,
        color=inside if is_inside else "0.15",
        zorder=3,
    )
