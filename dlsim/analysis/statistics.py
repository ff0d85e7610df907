"""Means and spreads over seeds, without the runs that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks
from dlsim.analysis.records import axes, dataset, is_fine, listed, recorded, reduced, variable

if TYPE_CHECKING:
    import xarray

STATISTICS = ("mean", "spread", "standard_error", "count")


@checks.typed
def mean_and_spread(results: xarray.Dataset) -> xarray.Dataset:
    """Statistics over seeds of every numeric variable that has them.

    Args:
      results: of a sweep, or what `reduce_steps` made of it.

    Returns:
      Dataset with a leading dimension `statistic` in place of `seed`: `mean`, `spread` (standard deviation, ddof 1),
      `standard_error` of the mean, and `count` of the runs that did not fail there (spread is NaN below 2, the mean
      below 1).  `num_diverged` `[axes...]` replaces `diverged_step`; variables without seeds stay as they are.
    """
    import xarray

    results = dataset("mean_and_spread", results)
    if "seed" not in results.dims:
        checks.fail("mean_and_spread", "results", "a Dataset with a seed dimension", f"dims {listed(results.dims)}")
    fine = is_fine(results)
    variables = {}
    for name, values in results.data_vars.items():
        if "seed" not in values.dims:
            variables[name] = values
        elif name != "diverged_step" and values.dtype.kind in "biuf":
            variables[name] = statistics(values, fine)
    variables["num_diverged"] = (~fine).sum("seed")
    coordinates = {"statistic": list(STATISTICS)}
    return xarray.Dataset(variables, coords=coordinates, attrs=results.attrs)


def statistics(values: xarray.DataArray, fine: xarray.DataArray) -> xarray.DataArray:
    """The four statistics over seeds, in float64 with the dimension `statistic` first."""
    import xarray

    values = values.astype(np.float64)
    good = values.where(np.isfinite(values) & fine)
    count = good.notnull().sum("seed").astype(np.float64)
    mean = good.mean("seed")
    # Written out, for NumPy warns of each cell that has too few runs.
    spread = (((good - mean) ** 2).sum("seed") / (count - 1).where(count > 1)) ** 0.5
    parts = [mean, spread, spread / count.where(count > 0) ** 0.5, count]
    together = xarray.concat(parts, dim=xarray.Variable("statistic", list(STATISTICS)), coords="minimal")
    return together.transpose("statistic", *mean.dims)


@checks.typed
def scores(
    results: xarray.Dataset,
    metrics: Sequence[str],
    *,
    at: int | float | str = -1,
    by: str | None = None,
    mode: str = "max",
) -> xarray.Dataset:
    """Each setting's mean and spread over seeds in one number a run.

    Args:
      results: of a sweep.
      metrics: names of variables over the axes, `seed` and perhaps `step`.
      at: the record, as in `reduce_steps`.
      by: the metric that decides for `at="best"`; default: the first of `metrics`.
      mode: `"max"` or `"min"`: what is better in `by`.

    Returns:
      Dataset over the axes: `<metric>`, `<metric>_spread`, and `num_failed`, `num_diverged`, `num_seeds` (counts).
    """
    return scored("scores", results, metrics, at, by, mode)


def scored(where: str, results: Any, metrics: Sequence[str], at: Any, by: str | None, mode: str) -> xarray.Dataset:
    """`scores`, for a caller that is named in errors."""
    results = dataset(where, results)
    if not len(metrics):
        checks.fail(where, "metrics", "one or more names", "none")
    for name in metrics:
        variable(where, "metric", results, name)
    by = metrics[0] if by is None else by
    variable(where, "by", results, by)
    needed = [*metrics, by, *(["diverged_step"] if "diverged_step" in results else [])]
    last = reduced(where, results[list(dict.fromkeys(needed))], at, by, mode, recorded(results))
    if "seed" not in last.dims:
        last = last.expand_dims(seed=[0])
    values = last[list(metrics)]
    extra = sorted({str(dim) for dim in values.dims} - {*axes(results), "seed"})
    if extra:
        checks.fail(where, "metric", "one number a run and record", f"one with dims {listed(extra)}")
    fine = is_fine(last)
    failed = ~fine
    out: dict[str, Any] = {}
    for name in metrics:
        found = statistics(values[name], fine)
        out[name], out[f"{name}_spread"] = (found.sel(statistic=one, drop=True) for one in ("mean", "spread"))
        failed = failed | ~np.isfinite(values[name].astype(np.float64))
    out["num_failed"], out["num_diverged"] = failed.sum("seed"), (~fine).sum("seed")
    out["num_seeds"] = ((), last.sizes["seed"])
    return last.drop_dims("seed").assign(out).assign_attrs(results.attrs).drop_vars("best_step", errors="ignore")
