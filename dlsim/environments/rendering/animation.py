"""Figures and animations of worlds that can draw themselves: one picture a state, a GIF, a page or a film of many."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.environments.environment import Environment, check_state
from dlsim.environments.rendering import film

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_INCHES = 100.0  # of a picture: 10,000 dots a side in a film


def figure_of(environment: Environment, state: Any, size: float = 4.0) -> Figure:
    """One state as a figure of `size` inches."""
    from matplotlib.figure import Figure

    _check_render("figure_of", environment)
    check_state("figure_of", "state", environment, state)
    checks.known("figure_of", "size", size)
    checks.number("figure_of", "size", size, 0, MOST_INCHES, open_minimum=True)
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
    checks.known("animate", "size and frames_per_second", (size, frames_per_second), "known numbers")
    checks.number("animate", "frames_per_second", frames_per_second, 0, open_minimum=True)
    checks.number("animate", "size", size, 0, MOST_INCHES, open_minimum=True)
    check_state("animate", "states", environment, states, stacked=True)
    host = jax.device_get(states)
    num_frames = len(jax.tree.leaves(host)[0])
    if num_frames == 0:
        checks.fail("animate", "states", "one or more", "none")
    if titles is not None:
        titles = checks.sequence("animate", "titles", titles, "one line a frame")
        if len(titles) != num_frames:
            checks.fail("animate", "titles", f"one a frame, {num_frames}", len(titles))
        titles = [checks.text("animate", f"titles[{number}]", title) for number, title in enumerate(titles)]
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
    checks.instance(where, "environment", environment, Environment, "Call its factory first.")
    if environment.render is None:
        checks.fail(where, "environment", "one that can draw its states", f"{environment.name!r} without `render`")
