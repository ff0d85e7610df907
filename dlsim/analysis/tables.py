"""Results as text: a CSV file that any program reads, and a table on the terminal."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlsim import checks, files
from dlsim.analysis.records import NODE, axes, dataset, listed, recorded
from dlsim.analysis.statistics import scored

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

SHOWN_LAST = ("accuracy", "accuracy_of_mean", "loss", "consensus_distance")  # in the table of a run, where measured
MOST_ROWS = 200  # of that table on a terminal or a page
SHOWN = ("accuracy", "accuracy_of_mean", "loss", "consensus_distance", "bits_sent", "simulated_seconds")


@checks.typed
def to_csv(results: xarray.Dataset, path: str | os.PathLike[str]) -> pathlib.Path:
    """Write the long format: one line for each run and step, the axes first, then `seed`, `step` and the variables.

    Where something was recorded by node (dimension `node`), there is one line for each run, step and node, with a column
    `node` (0 to N-1) behind `step`; what is not by node stands in all of a step's lines.  Other arrays in a record (one
    number a class, say) do not fit and are left out.

    The file appears whole or not at all, in place of an earlier one; missing folders are made.  Numbers are written
    in full precision, `nan` where there is none.  Steps that a run did not record have no line, nor have nodes of which a
    run has no number at any step (where runs differ in the number of their nodes).

    Args:
      results: of a sweep or a run.
      path: of the file.

    Returns:
      The file's absolute path.
    """
    results, target = dataset("to_csv", results), files.given_path("to_csv", "path", path).absolute()
    if target.is_dir():
        checks.fail("to_csv", "path", "a file", f"the folder {target}")
    order = [*axes(results), *(name for name in ("seed", "step", NODE) if name in results.dims)]
    kept = [name for name, values in results.data_vars.items() if set(values.dims) <= set(order)]
    if not kept or not order:
        checks.fail("to_csv", "results", "a Dataset with variables over its axes, seed and step", f"{listed(results)}")
    flat = results[kept].reset_coords(drop=True)
    there = _lines(flat)
    frame = flat.to_dataframe(dim_order=[name for name in order if name in flat.dims])
    if there is not None:
        frame = frame[there.broadcast_like(flat).transpose(*frame.index.names).values.ravel()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.staged(target) as partial, partial.open("x", newline="", encoding="utf-8") as file:
            frame.to_csv(file, na_rep="nan")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        checks.fail("to_csv", "path", "a file that can be written", f"{target} ({error.strerror})")
    return target


def _lines(flat: xarray.Dataset) -> xarray.DataArray | None:
    """Which lines there are, bool over dimensions of `flat`; None: all."""
    there = recorded(flat)
    for_nodes = [values for values in flat.data_vars.values() if NODE in values.dims]
    held = None
    for values in for_nodes:
        known = values.notnull()
        known = known.any("step") if "step" in known.dims else known
        held = known if held is None else held | known
    if held is None or bool(held.all()) or "diverged_step" not in flat:  # of a sweep, which fills up with NaN
        return there
    held = held | ~held.any(NODE)  # a run without any number is one that diverged
    return held if there is None else held & there


@checks.typed
def to_table(
    results: xarray.Dataset,
    metrics: str | Sequence[str] | None = None,
    *,
    at: int | float | str = -1,
    by: str | None = None,
    mode: str = "max",
    is_sorted: bool = False,
    max_rows: int | None = None,
    title: str | None = None,
) -> Table:
    """A table for the terminal (`rich.print(table)`): a row a setting, mean ± spread over seeds of each metric.

    On a terminal that is too narrow for it columns go below each other; no number is cut.

    Args:
      results: of a sweep.
      metrics: the columns; default: those of accuracy, loss, consensus distance, bits and simulated seconds there are.
      at: the record, as in `dlsim.analysis.reduce_steps`.
      by: the metric that decides for `at="best"` and for the order; default: the first of `metrics`.
      mode: `"max"` or `"min"`: what is better in `by`.
      is_sorted: best first, settings with failed runs last; else in the order of the axes.
      max_rows: show so many; a last line says how many are not shown.
      title: above the table.
    """
    from rich.markup import escape

    from dlsim.analysis.folding import FoldingTable

    results = dataset("to_table", results)
    usual = [name for name in SHOWN if name in results]
    names = [metrics] if isinstance(metrics, str) else usual if metrics is None else list(metrics) or usual
    if not names:
        checks.fail("to_table", "metrics", "given, for none of the usual ones is there", listed(results))
    found = scored("to_table", results, names if by is None else list(dict.fromkeys([*names, by])), at, by, mode)
    keys, by = axes(found), names[0] if by is None else by
    columns = _columns(found, keys)
    look: dict[str, Any] = {"title_justify": "left", "box": None, "header_style": "bold", "pad_edge": False}
    table = FoldingTable(title=title, num_keys=len(keys), **look)
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right" if found[key].dtype.kind in "iuf" else "left")
    for name in (*names, "diverged"):
        table.add_column(name.replace("_", " "), justify="right")
    total = len(columns["num_failed"])
    order = _order(columns, by, mode) if is_sorted else list(range(total))
    shown = order[: total if max_rows is None else checks.integer("to_table", "max_rows", max_rows, 1)]
    for index in shown:
        cells = [_key_text(columns[key][index]) for key in keys]
        cells += [spread_text(columns[name][index], columns[f"{name}_spread"][index]) for name in names]
        bad = columns["num_diverged"][index]
        cells.append(f"{bad} of {columns['num_seeds'][index]}")
        table.add_row(*(escape(cell) for cell in cells), style="red" if bad else None)
    if len(shown) < total:
        table.caption, table.caption_justify = f"and {total - len(shown)} more", "left"
    return table


class LastValues(NamedTuple):
    """What the runs of a result have come to, as texts: a row a setting."""

    title: str
    keys: list[str]  # headings of the axes
    metrics: list[str]  # and of what was measured
    rows: list[list[str]]


def last_values(results: xarray.Dataset) -> LastValues:
    """Mean ± standard deviation over seeds at the last step, as the command line and reports show a run."""
    last = results.isel(step=-1)
    # Axes have coordinates; the dimensions of recorded arrays have none.
    lead = [str(dim) for dim in results.dims if dim in results.coords and dim not in ("seed", "step")]
    scalars = {str(name): one for name, one in last.data_vars.items() if not {*one.dims} - {*lead, "seed"}}
    lead = [dim for dim in lead if any(dim in one.dims for one in scalars.values())]
    shown = [name for name in SHOWN_LAST if name in scalars] or list(scalars)[:5]
    seeds = results.sizes.get("seed", 1)
    title = f"after {int(last.step)} steps, mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}"
    rows = []
    for values in itertools.product(*(last[name].values.tolist() for name in lead)):
        place = dict(zip(lead, values, strict=True))
        own = [{name: place[name] for name in lead if name in scalars[metric].dims} for metric in shown]
        cells = [_mean_and_spread(scalars[metric].sel(at)) for metric, at in zip(shown, own, strict=True)]
        rows.append([*map(str, values), *cells])
    return LastValues(
        title, [name.replace("_", " ") for name in lead], [name.replace("_", " ") for name in shown], rows
    )


def _mean_and_spread(values: xarray.DataArray) -> str:
    numbers = np.atleast_1d(np.asarray(values.values, np.float64)).reshape(-1)
    if not np.isfinite(numbers).all():
        return f"not finite in {int((~np.isfinite(numbers)).sum())} of {numbers.size}"
    spread = f" ± {numbers.std(ddof=1):.2g}" if numbers.size > 1 else ""
    return f"{numbers.mean():.4g}{spread}"


def _columns(found: xarray.Dataset, keys: list[str]) -> dict[str, list[Any]]:
    """Axes and scores as lists with a value a setting, in the order of the axes."""
    import xarray

    shape = tuple(found.sizes[key] for key in keys)
    out: dict[str, list[Any]] = {}
    for name in [*keys, *(str(one) for one in found.data_vars)]:
        values = found[name]
        missing = {key: found.sizes[key] for key in keys if key not in values.dims}
        full = xarray.DataArray(values.values, dims=values.dims).expand_dims(missing).transpose(*keys)
        out[name] = np.reshape(np.broadcast_to(full.values, shape), -1).tolist()
    return out


def _order(columns: dict[str, list[Any]], by: str, mode: str) -> list[int]:
    """Rows from best to worst; those with failed runs after the others, those without a number at the very end."""
    value = np.asarray(columns[by]) * (1 if mode == "min" else -1)
    return np.lexsort((np.where(np.isnan(value), np.inf, value), np.asarray(columns["num_failed"]) > 0)).tolist()


def _key_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def spread_text(mean: float, spread: float = float("nan")) -> str:
    """`0.913 ± 0.012` or `(5.62 ± 0.41)e9`: the mean to the two leading digits of its spread.

    The mean stands alone where the spread is NaN; a mean that is not finite is written `-`.
    """
    for name, value in (("mean", mean), ("spread", spread)):
        if checks.real(value) is None:
            checks.fail("spread_text", name, "a number", checks.describe(value))
    if spread < 0:
        checks.fail("spread_text", "spread", "at least 0", checks.describe(spread))
    if not np.isfinite(mean):
        return "-"
    if not np.isfinite(spread):
        return short_number(mean)
    if spread == 0:
        return f"{short_number(mean)} ± 0"
    size = int(np.floor(np.log10(max(abs(mean), spread))))
    power = size if size < -3 or size > 5 else 0
    decimals = max(0, 1 + power - int(np.floor(np.log10(spread))))
    if decimals > 8:  # a spread that is rounding error
        return f"{short_number(mean)} ± {short_number(spread, '.2g')}"
    text = f"{mean / 10.0**power:.{decimals}f} ± {spread / 10.0**power:.{decimals}f}"
    return f"({text})e{power}" if power else text


def short_number(value: float, form: str = ".4g") -> str:
    """A number with the digits that its exponent needs and no more: `1e-5`, not `1e-05`."""
    digits, _, power = format(value, form).partition("e")
    return f"{digits}e{int(power)}" if power else digits
