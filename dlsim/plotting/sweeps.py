"""Figures of a sweep: heat maps over two axes, metric against cost with the Pareto front, and measured power laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.analysis.records import axes
from dlsim.analysis.tables import short_number, spread_text
from dlsim.analysis.tradeoffs import PowerLaw, numbers, pareto, power_law
from dlsim.palette import COLORS, MARKERS, MISSING, RAMP, SOFT
from dlsim.plotting.curves import axes_of

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage


@checks.typed
def heat_map(
    ax: Axes,
    data: xarray.DataArray,
    *,
    x: str,
    y: str,
    label: str | None = None,
    log: bool = False,
    form: str = ".3g",
    mark: str | None = None,
    colors: str = RAMP,
    limits: tuple[float, float] | None = None,
    bar: bool = True,
) -> AxesImage:
    """A cell for each pair of values of two axes, with its number in it, and a colour bar.

    Args:
      ax: where to draw.
      data: dims `x` and `y`, such as `found.accuracy.where(found.num_failed == 0)` of
        `found = dlsim.analysis.scores(results, ["accuracy"])`, for a mean over the seeds that survived flatters.  Cells
        without a finite number (or, for `log`, a positive one) are grey with a dash.
      x: the dimension across.
      y: the dimension upwards.
      label: of the colour bar; default: the name of `data`.
      log: colours by logarithm.
      form: how a number is written, as in `format(number, form)`.
      mark: `"max"` or `"min"`: frame the best cell of each row.
      colors: name of a matplotlib colour map.
      limits: the numbers at the two ends of the colours; default: the least and the greatest of `data`.  Maps that are to
        be compared need the same: `heat_maps` sees to it.
      bar: whether a colour bar is drawn.

    Returns:
      The image.
    """
    import matplotlib

    dims = [str(dim) for dim in data.dims]
    for argument, dim in (("x", x), ("y", y)):
        checks.one_of("heat_map", argument, dim, dims)
    if len(dims) != 2 or x == y:
        fix = "Select or average the others first."
        checks.fail("heat_map", "data", "an array over x and y alone", f"dims {', '.join(dims)}", fix)
    try:
        format(1.0, form)
    except ValueError:
        checks.fail("heat_map", "form", "a format of numbers", checks.describe(form), "E.g. '.3g'.")
    if mark is not None:
        checks.one_of("heat_map", "mark", mark, ("max", "min"))
    values = np.asarray(data.transpose(y, x).values, np.float64)
    shown = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
    color_map = matplotlib.colormaps[checks.one_of("heat_map", "colors", colors, list(matplotlib.colormaps))]
    image = ax.imshow(
        shown, origin="lower", aspect="auto", cmap=color_map.with_extremes(bad=MISSING), norm=_norm(shown, log, limits)
    )
    _write_cells(ax, image, form)
    if mark is not None:
        _frame_best(ax, shown if mark == "max" else -shown)
    ax.set_xticks(range(shown.shape[1]), [_written(value) for value in data[x].values.tolist()])
    ax.set_yticks(range(shown.shape[0]), [_written(value) for value in data[y].values.tolist()])
    ax.set(xlabel=_words(x), ylabel=_words(y))
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if bar:
        _color_bar(ax, image, _words(str(data.name or "")) if label is None else label)
    return image


@checks.typed
def heat_maps(
    axes: Sequence[Axes] | np.ndarray,
    data: xarray.DataArray,
    *,
    x: str,
    y: str,
    panel: str,
    labels: Mapping[Any, str] | None = None,
    **options: Any,
) -> list[AxesImage]:
    """A `heat_map` for each value of a third axis, side by side: one colour scale for all, and one colour bar.

    Args:
      axes: where to draw, as `panels` gives them; at least as many as `panel` has values, and those beyond are hidden.
      data: dims `x`, `y` and `panel`.
      x: the dimension across.
      y: the dimension upwards.
      panel: the dimension that the maps differ in.
      labels: what the title says of a value of `panel`; by default the value.
      options: of every map: `label`, `log`, `form`, `mark`, `colors`, `limits`.

    Returns:
      The images.
    """
    where = "heat_maps"
    for argument, dim in (("x", x), ("y", y), ("panel", panel)):
        checks.one_of(where, argument, dim, [str(one) for one in data.dims])
    if len(data.dims) != 3 or len({x, y, panel}) != 3:
        fix = "Select or average the others first."
        checks.fail(where, "data", "an array over x, y and panel alone", f"dims {', '.join(map(str, data.dims))}", fix)
    for name in options:
        checks.one_of(where, "options", name, ("label", "log", "form", "mark", "colors", "limits"))
    places, values = axes_of(where, axes), data[panel].values.tolist()
    if len(places) < len(values):
        checks.fail(where, "axes", f"one for each of the {len(values)} values of {panel}", len(places))
    if any(ax.figure is not places[0].figure for ax in places):
        checks.fail(where, "axes", "panels of one figure", "those of several", "Make them with plotting.panels(1, 2).")
    label = options.pop("label", None)
    log, limits = bool(options.get("log", False)), options.pop("limits", None)
    if limits is None:
        limits = _ends(np.asarray(data.values, np.float64), log)
    images = []
    for place, (ax, value) in enumerate(zip(places, values, strict=False)):
        part = data.sel({panel: value}, drop=True)
        images.append(heat_map(ax, part, x=x, y=y, limits=limits, bar=False, **options))
        written = f"{_words(panel)} {_written(value)}" if labels is None else labels.get(value, _written(value))
        ax.set_title(written)
        spec = ax.get_subplotspec()
        if place and (spec is None or not spec.is_first_col()):
            ax.set(ylabel="", yticklabels=[])
    for ax in places[len(values) :]:
        ax.set_visible(False)
    _color_bar(places[: len(values)], images[0], _words(str(data.name or "")) if label is None else label)
    return images


def _color_bar(ax: Axes | list[Axes], image: AxesImage, label: str) -> None:
    drawn_on = ax if isinstance(ax, list) else [ax]
    bar = drawn_on[0].figure.colorbar(image, ax=ax, label=label)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # type: ignore[operator]


def _norm(shown: np.ndarray, log: bool, limits: tuple[float, float] | None) -> Normalize:
    """From the least to the greatest number, or between given ones."""
    from matplotlib.colors import LogNorm, Normalize

    if limits is None:
        low, high = _ends(shown, log)
    else:
        pair = checks.sequence("heat_map", "limits", limits, "two numbers, the lower first")
        known = [one for one in map(checks.real, pair) if one is not None and np.isfinite(one)]
        if not len(pair) == len(known) == 2 or not known[0] < known[1] or (log and known[0] <= 0):
            rule = f"two{' positive' if log else ''} numbers, the lower first"
            checks.fail("heat_map", "limits", rule, checks.describe(limits))
        low, high = known
    return LogNorm(low, high) if log else Normalize(low, high)


def _ends(values: np.ndarray, log: bool) -> tuple[float, float]:
    """The least and the greatest number that has a colour; equal ones get a range around them."""
    finite = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 1.0)
    if low == high:
        low, high = (low / 2, low * 2) if log else (low - 0.5, low + 0.5)
    return float(low), float(high)


def _write_cells(ax: Axes, image: AxesImage, form: str) -> None:
    numbers: np.ndarray = np.ma.filled(np.ma.asarray(image.get_array()), np.nan)
    for (row, column), number in np.ndenumerate(numbers):
        is_there = bool(np.isfinite(number))
        red, green, blue = image.cmap(image.norm(number))[:3] if is_there else (1.0, 1.0, 1.0)
        is_dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5  # Rec. 709 luma
        text = short_number(float(number), form) if is_there else "–"
        ax.text(column, row, text, ha="center", va="center", color="white" if is_dark else "black", fontsize="small")


def _frame_best(ax: Axes, score: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for row in np.flatnonzero(np.isfinite(score).any(axis=1)):
        corner = (np.nanargmax(score[row]) - 0.47, row - 0.47)
        ax.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=COLORS[1], linewidth=1.6))


@checks.typed
def pareto_plot(
    ax: Axes,
    results: xarray.Dataset,
    metric: str,
    cost: str,
    *,
    hue: str,
    mode: str = "max",
    at: int | float | str = -1,
    max_failed: int = 0,
    log: bool = True,
    labels: Mapping[Any, str] | None = None,
) -> xarray.Dataset:
    """A point for each setting, metric against cost with its spread over seeds, and a line along the Pareto front.

    Settings on the front are drawn full, the others pale, and those that failed hollow.

    Args:
      ax: where to draw.
      results: of a sweep.
      metric: what is wanted, upwards.
      cost: `"bits_sent"`, `"simulated_seconds"`, ..., across.
      hue: the axis that colours and markers tell apart.
      mode: `"max"` or `"min"` of the metric.
      at: the record, as in `dlsim.analysis.reduce_steps`.
      max_failed: settings with more failed seeds are never on the front.
      log: a logarithmic cost axis; settings that cost nothing are then not seen.
      labels: what the legend says of a value of `hue`; by default the value.

    Returns:
      What `dlsim.analysis.pareto` found.
    """
    found = pareto(results, metric, cost, mode=mode, at=at, max_failed=max_failed)
    checks.one_of("pareto_plot", "hue", hue, axes(found))
    for index, value in enumerate(found[hue].values.tolist()):
        part = found.sel({hue: value})
        x, y, spread = (np.ravel(part[name].values) for name in (cost, metric, f"{metric}_spread"))
        bad = np.ravel(part.num_failed.values) > max_failed
        best = np.ravel(part.is_efficient.values)
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        look: dict[str, Any] = {
            "marker": marker,
            "linestyle": "none",
            "markersize": 4.5,
            "markeredgewidth": 0.7,
            "color": color,
            "zorder": 3,
        }
        ax.errorbar(x, y, np.nan_to_num(spread), fmt="none", ecolor=color, elinewidth=0.7, alpha=0.35, zorder=2)
        ax.plot(x[best], y[best], label=(labels or {}).get(value, str(value)), markeredgecolor="black", **look)
        ax.plot(x[~best & ~bad], y[~best & ~bad], alpha=0.35, markeredgecolor="none", **look)
        ax.plot(x[bad], y[bad], alpha=0.6, fillstyle="none", **look)
    chosen = found.is_efficient.values
    front = np.stack([found[name].values[chosen] for name in (cost, metric)])
    front = front[:, np.argsort(front[0], kind="stable")]
    if log:
        ax.set_xscale("log")
    ax.plot(*front, color=SOFT, linewidth=1.0, drawstyle="steps-post", zorder=1, label="Pareto front")
    ax.set(xlabel=_words(cost), ylabel=_words(metric))
    return found


@checks.typed
def slope(
    ax: Axes,
    x: Any,
    y: Any,
    expected: float,
    *,
    points: Sequence[str] | None = None,
    label: str = "measured",
    color: str = COLORS[0],
) -> PowerLaw:
    """Points in a log-log plot, with the power law that fits them and the predicted one, both slopes in the legend.

    The predicted line has the slope `expected` and goes through the points' geometric mean: theory gives the power, not
    the factor.

    Args:
      ax: where to draw.
      x: positive numbers.
      y: positive numbers, the shape of `x`; pairs that are not finite are left out.
      expected: the power that theory predicts.
      points: a name to write beside each point.
      label: what the legend calls the points.
      color: of the points and of the fitted line.

    Returns:
      The fit.
    """
    from matplotlib.colors import is_color_like

    law = power_law(x, y)
    checks.known("slope", "expected", expected)
    expected = checks.number("slope", "expected", expected)
    if not is_color_like(color):
        checks.fail("slope", "color", "a matplotlib colour", checks.describe(color), f"E.g. {COLORS[0]!r}.")
    x, y = numbers("slope", "x", x), numbers("slope", "y", y)
    if points is not None and len(points) != len(x):
        checks.fail("slope", "points", f"one name for each of the {len(x)} points", len(points))
    kept = np.isfinite(x) & np.isfinite(y)
    ends = np.array([x[kept].min(), x[kept].max()])
    fitted = spread_text(law.slope, law.slope_error)
    ax.plot(x[kept], y[kept], "o", color=color, markersize=4.5, zorder=3, markeredgecolor="white", markeredgewidth=0.4)
    ax.plot(ends, law.factor * ends**law.slope, color=color, label=f"{label}: slope {fitted}")
    middle = np.exp(np.log(x[kept]).mean()), np.exp(np.log(y[kept]).mean())
    predicted = middle[1] * (ends / middle[0]) ** expected
    ax.plot(ends, predicted, "--", color="black", linewidth=1.0, label=f"predicted: slope {expected:g}")
    names = list(points or ())
    for index in np.flatnonzero(kept).tolist() if names else ():
        offset: dict[str, Any] = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": "small"}
        ax.annotate(names[index], (x[index], y[index]), **offset)
    ax.set(xscale="log", yscale="log")
    ax.margins(x=0.15 if names else 0.05)
    ax.legend()
    return law


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
