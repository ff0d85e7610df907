"""Figures one would put in a paper: curves with bands over seeds, in colours that colour-blind readers tell apart.

Nothing here changes matplotlib's settings: they hold inside `style()` alone, and figures are made without pyplot, so
no window and no global figure list is involved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.palette import COLORS, GRID, LINES, RAMP

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS, LARGEST_FIGURE = 100, 1000.0  # a side; inches
COLUMN, PAGE = 3.4, 7.0  # inches: one column, and the page, of a two-column paper

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.4,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "image.cmap": RAMP,
    "figure.dpi": 120,
    "savefig.bbox": "tight",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The settings of a paper's figure, inside the `with` block alone."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


@checks.typed
def panels(
    num_rows: int, num_columns: int, *, width: float = PAGE, height: float | None = None, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `[num_rows, num_columns]`; sizes in inches, `options` go to `Figure.subplots`.

    Without a `height` panels are 0.72 as high as they are wide; `width` is that of the whole figure.
    """
    from matplotlib.figure import Figure

    num_rows = checks.integer("panels", "num_rows", num_rows, 1, MOST_PANELS)
    num_columns = checks.integer("panels", "num_columns", num_columns, 1, MOST_PANELS)
    for name, value in (("width", width), ("height", height)):
        if value is not None:
            checks.known("panels", name, value)
            checks.number("panels", name, value, 0.0, LARGEST_FIGURE, open_minimum=True)
    size = (width, height if height is not None else 0.72 * width * num_rows / num_columns)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, **options)


@checks.typed
def curves(
    ax: Axes,
    data: xarray.DataArray,
    hue: str,
    *,
    labels: Mapping[Any, str] | None = None,
    band: str = "spread",
    log: bool = False,
    x: xarray.DataArray | None = None,
) -> None:
    """One curve for each value of `hue` over `step`: the mean over seeds, in a band that shows the seeds.

    Args:
      ax: where to draw.
      data: dims `hue`, `step` and perhaps `seed`.
      hue: the dimension that the curves differ in.
      labels: what the legend says of a value; by default the value.
      band: `"spread"` (mean plus and minus one standard deviation over seeds) or `"range"` (least to greatest).
      log: a logarithmic axis; the mean is then geometric, and values of 0 are left out.
      x: what to draw over in place of `step`, such as `results.bits_sent`: never falling over `step`, with dims among
        those of `data`.  Seeds that differ in it are interpolated linearly, where all of them have records.
    """
    checks.one_of("curves", "band", band, ("spread", "range"))
    checks.one_of("curves", "hue", hue, [str(dim) for dim in data.dims])
    if x is not None:
        for dim in x.dims:
            checks.one_of("curves", "x.dims", str(dim), [str(known) for known in data.dims])
        x = x.broadcast_like(data)
    for index, value in enumerate(data[hue].values.tolist()):
        y = _rows(data.sel({hue: value}))
        if log:
            y = np.log10(np.where(y > 0, y, np.nan))
        if x is None:
            at = data["step"].values
            kept = np.isfinite(y).all(axis=0)
            at, y = at[kept], y[:, kept]
        else:
            at, y = _common_grid(_rows(x.sel({hue: value})), y)
        if not len(at):
            y = y[:1]  # nothing to draw, but the legend names it
        middle, low, high = _band(y, band)
        if log:
            middle, low, high = 10.0**middle, 10.0**low, 10.0**high
        color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
        ax.plot(at, middle, color=color, linestyle=line, label=(labels or {}).get(value, str(value)))
        if len(y) > 1:
            ax.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0)
    if log:
        ax.set_yscale("log")
    ax.margins(x=0.01)


def _rows(data: xarray.DataArray) -> np.ndarray:
    """float64 `[seeds, steps]`."""
    rows = data.transpose("seed", "step") if "seed" in data.dims else data.expand_dims("seed")
    return np.asarray(rows.values, np.float64)


def _common_grid(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of all seeds at the same places: the mean places of the records, within the range that all seeds cover."""
    kept = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0)
    x, y = x[:, kept], y[:, kept]
    if not kept.any():
        return x[0], y
    if (np.diff(x, axis=1) < 0).any():
        checks.fail("curves", "x", "never falling over step", f"a step down of {-np.diff(x, axis=1).min():g}")
    least, greatest = x[:, 0].max(), x[:, -1].min()
    grid = np.unique(np.clip(x.mean(axis=0), least, greatest)) if least <= greatest else x[0, :0]
    # Of records at the same place (nothing was sent between them) the last counts.
    last = [np.append(np.diff(places) > 0, True) for places in x]
    rows = [np.interp(grid, places[one], values[one]) for places, values, one in zip(x, y, last, strict=True)]
    return grid, np.stack(rows)


def _band(y: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    middle = y.mean(axis=0)
    if band == "range":
        return middle, y.min(axis=0), y.max(axis=0)
    spread = y.std(axis=0, ddof=1) if len(y) > 1 else np.zeros_like(middle)
    return middle, middle - spread, middle + spread


@checks.typed
def share_legend(figure: Figure, axes: Sequence[Axes] | np.ndarray, *, title: str | None = None) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes_of("share_legend", axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=title, handlelength=2.6)


def axes_of(where: str, axes: Any) -> list[Axes]:
    """The panels one after the other."""
    from matplotlib.axes import Axes

    panels = (
        np.ravel(np.asarray(axes, dtype=object)).tolist() if isinstance(axes, list | tuple | np.ndarray) else [axes]
    )
    if not panels or not all(isinstance(one, Axes) for one in panels):
        checks.fail(where, "axes", "one or more matplotlib Axes", checks.describe(axes))
    return panels


@checks.typed
def letters(axes: Sequence[Axes] | np.ndarray, titles: Sequence[str]) -> None:
    """Titles of the panels, lettered (a), (b), ..."""
    panels = axes_of("letters", axes)
    if len(panels) != len(titles):
        checks.fail("letters", "titles", f"one for each of the {len(panels)} panels", checks.describe(titles))
    for index, (ax, title) in enumerate(zip(panels, titles, strict=True)):
        ax.set_title(f"({chr(ord('a') + index)}) {title}")
