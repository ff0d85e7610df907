"""Figures and animations of grid worlds: one picture a state, a GIF, a page or a film of many."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.environments.environment import Environment
from dlsim.environments.rendering import film

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def figure_of(environment: Environment, state: Any, size: float = 4.0) -> Figure:
    """One state as a figure of `size` inches."""
    from matplotlib.figure import Figure

    _check_render("figure_of", environment)
    figure = Figure(figsize=(size, size))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.9))
    environment.render(state, axes)
    axes.set_title(environment.name, fontsize=9)
    return figure


def animate(
    environment: Environment,
    states: Any,
    path: str | pathlib.Path,
    frames_per_second: float = 5.0,
    size: float = 4.0,
    titles: Sequence[str] | None = None,
) -> pathlib.Path:
    """Write an animation of states stacked over time and return its path.

    Args:
        environment: whose `render` draws a state.
        states: its states, every leaf `[T, ...]`, e.g. what a scan over steps collected.
        path: of the file, whose ending chooses what it is: .gif; .html, a page that plays by itself and fetches nothing;
            .mp4, where ffmpeg is found.
        frames_per_second: of the animation.
        size: of a frame in inches, at 100 dots each.
        titles: one line a frame; by default the name and the step.
    """
    import jax
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check_render("animate", environment)
    path = film.check_path("animate", path)
    checks.number("animate", "frames_per_second", frames_per_second, 0, open_minimum=True)
    host = jax.device_get(states)
    num_frames = len(jax.tree.leaves(host)[0])
    if titles is not None and len(titles) != num_frames:
        checks.fail("animate", "titles", f"one a frame, {num_frames}", len(titles))
    figure = Figure(figsize=(size, size), dpi=100)
    canvas = FigureCanvasAgg(figure)
    frames = []
    for number in range(num_frames):
        figure.clear()
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.9))
        environment.render(jax.tree.map(lambda leaf, number=number: leaf[number], host), axes)
        axes.set_title(titles[number] if titles is not None else f"{environment.name}, step {number}", fontsize=9)
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    film.write(frames, path, frames_per_second, environment.name)
    return path


def _check_render(where: str, environment: Environment) -> None:
    if environment.render is None:
        checks.fail(where, "environment", "one that can draw its states", f"{environment.name!r} without `render`")
