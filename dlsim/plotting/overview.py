"""A figure for any sweep: what an experiment draws where it has no figure of its own for these axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import analysis, checks
from dlsim.palette import COLORS, LINES
from dlsim.plotting.curves import curves, panels, share_legend, style

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = (("accuracy", "max"), ("loss", "min"), ("consensus_distance", "min"))
MOST_CURVES = 7
MOST_PANELS = 6


@checks.typed
def overview(results: xarray.Dataset) -> Figure:
    """The last value of the main metric against the axis of numbers, or its curves over the rounds.

    Lines differ in the axis with most names, panels in the next; of any further axis the best value is taken.  The main
    metric is the accuracy, the loss or the consensus distance, else the first number a run recorded.
    """
    metric, mode = main_metric(results)
    names = sorted(analysis.axes(results), key=lambda name: -results.sizes[name])
    numeric = [name for name in names if results[name].dtype.kind == "f" and results.sizes[name] > 1]
    x = numeric[0] if numeric else None
    named = [name for name in names if name != x and results.sizes[name] > 1]
    hue = next((name for name in named if results.sizes[name] <= MOST_CURVES), None)
    panel = next((name for name in named if name != hue and results.sizes[name] <= MOST_PANELS), None)
    kept = [name for name in (x, hue, panel) if name is not None]
    further = [name for name in names if name not in kept]
    if further:
        results = analysis.best_runs(results, analysis.best(results, metric, over=further, mode=mode))
    values: list[Any] = results[panel].values.tolist() if panel else [None]
    with style():
        columns = min(3, len(values))
        rows = -(-len(values) // columns)
        figure, axes = panels(rows, columns, height=2.8 * rows, sharey=True)
        for ax, value in zip(axes.flat, values, strict=False):
            part = results if value is None else results.sel({panel: value})
            if x is not None:
                _against(ax, part, metric, x, hue)
            else:
                _over_rounds(ax, part, metric, hue)
            if value is not None:
                ax.set_title(f"{_words(str(panel))} {value}")
        for ax in axes.flat[len(values) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_ylabel(_words(metric))
        if hue:
            share_legend(figure, axes, title=_words(hue))
    return figure


@checks.typed
def main_metric(results: xarray.Dataset) -> tuple[str, str]:
    """The metric to look at first, and whether more of it is better."""
    for name, mode in METRICS:
        if name in results:
            return name, mode
    lead = {*analysis.axes(results), "seed", "step"}
    fits = (str(name) for name, one in results.data_vars.items() if "step" in one.dims and {*one.dims} <= lead)
    first = next(fits, None)
    if first is None:
        got = ", ".join(map(str, results)) or "none"
        checks.fail("main_metric", "results", "a Dataset with a variable of one number a run and step", got)
    return first, "min"


def _against(ax: Axes, part: xarray.Dataset, metric: str, x: str, hue: str | None) -> None:
    """The last value, mean over seeds with their spread; failed settings are left out and marked at the bottom."""
    found = analysis.scores(part, [metric])
    for index, value in enumerate(found[hue].values.tolist() if hue else [None]):
        one = found if value is None else found.sel({hue: value})
        fine = (one.num_failed == 0).values
        at, mean, spread = one[x].values, one[metric].values, np.nan_to_num(one[f"{metric}_spread"].values)
        style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "linestyle": LINES[index % len(LINES)]}
        ax.errorbar(at[fine], mean[fine], spread[fine], marker="o", markersize=3, capsize=2, label=str(value), **style)
        if not fine.all():
            ax.plot(
                at[~fine], np.full((~fine).sum(), 0.02), "x", color=style["color"], transform=ax.get_xaxis_transform()
            )
    if (found[x].values > 0).all() and found.sizes[x] > 2:
        ax.set_xscale("log")
    ax.set_xlabel(f"{_words(x)} (x: diverged)" if bool((found.num_failed > 0).any()) else _words(x))


def _over_rounds(ax: Axes, part: xarray.Dataset, metric: str, hue: str | None) -> None:
    if hue is None:
        curves(ax, part[metric].expand_dims(run=[""]), "run")
    else:
        curves(ax, part[metric], hue)
    ax.set_xlabel("round")


def _words(name: str) -> str:
    return name.replace("_", " ")
