"""Grid worlds drawn on axes, and in letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# By symbol: nothing, off the map, wall, box, prey, nest, food, agent, agent whose light is off or who carries nothing.
COLORS = ("#ffffff", "#d9d9d9", "#4d4d4d", "#b07d4f", "#d62728", "#2ca02c", "#ffbf00", "#1f77b4", "#9ecae1")
NAMES = ("", "off the map", "wall", "box", "prey", "nest", "food", "agent", "agent, dark")
LETTERS = ".*WBPNFAa"
ROUND = (4, 7, 8)  # prey and agents are drawn as discs


def draw_symbols(plane: Any, axes: Axes) -> None:
    """A plane of swarm symbols, `[H, W]`: fields as squares, agents and prey as discs."""
    from matplotlib.colors import ListedColormap

    symbols = np.asarray(plane)
    ground = np.where(np.isin(symbols, ROUND), 0, symbols)
    axes.imshow(ground, cmap=ListedColormap(COLORS), vmin=0, vmax=len(COLORS) - 1, interpolation="nearest")
    for symbol in ROUND:
        rows, columns = np.nonzero(symbols == symbol)
        if len(rows):
            size = _marker_size(axes, symbols.shape)
            axes.scatter(
                columns, rows, s=size, c=COLORS[symbol], edgecolors="black", linewidths=0.5, label=NAMES[symbol]
            )
    _frame(axes, symbols.shape)


def draw_paths(obstacles: Any, positions: Any, goals: Any, axes: Axes) -> None:
    """Agents as discs and their goals as rings, in one colour each, joined by thin lines, on a map of obstacles."""
    from matplotlib import colormaps

    blocked, here, there = np.asarray(obstacles), np.asarray(positions), np.asarray(goals)
    axes.imshow(blocked, cmap="Greys", vmin=0, vmax=1.4, interpolation="nearest")
    colors = colormaps["tab20"](np.arange(len(here)) % 20)
    size = _marker_size(axes, blocked.shape)
    if len(here) <= 50:  # more lines than that hide the map
        for start, end, color in zip(here, there, colors, strict=True):
            axes.plot([start[1], end[1]], [start[0], end[0]], color=color, linewidth=0.5, alpha=0.6)
    axes.scatter(
        there[:, 1], there[:, 0], s=size, facecolors="none", edgecolors=list(map(tuple, colors)), linewidths=1.0
    )
    axes.scatter(here[:, 1], here[:, 0], s=size, c=colors, edgecolors="black", linewidths=0.3)
    _frame(axes, blocked.shape)


def _marker_size(axes: Axes, shape: tuple[int, ...]) -> float:
    """The area in points^2 of a disc that fills most of a cell."""
    figure = axes.get_figure()
    box = axes.get_window_extent()
    dpi = figure.dpi if figure is not None else 100.0
    cell = min(box.width / shape[1], box.height / shape[0]) * 72 / dpi
    return max(1.0, (0.7 * cell) ** 2)


def _frame(axes: Axes, shape: tuple[int, ...]) -> None:
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(shape[0] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")


def render_text(plane: Any) -> str:
    """A plane of swarm symbols in letters, a line a row: . nothing, * off the map, W B P N F, A agent, a dark agent."""
    return "\n".join("".join(LETTERS[symbol] for symbol in row) for row in np.asarray(plane))
