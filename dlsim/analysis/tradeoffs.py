"""What a result cost: to a target, on the Pareto front, and as a power law of something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.analysis.records import axes, dataset, listed, variable
from dlsim.analysis.statistics import scored

if TYPE_CHECKING:
    import xarray

COSTS = ("step", "bits_sent", "simulated_seconds", "gradient_evaluations")


@checks.typed
def first_reaching(
    results: xarray.Dataset,
    metric: str,
    target: float,
    *,
    axis: str = "step",
    mode: str = "max",
    interpolate: bool = False,
) -> xarray.DataArray:
    """What each run spent until `metric` first reached `target`.

    Args:
      results: of a sweep or a run.
      metric: a variable over `step`.
      target: in the metric's unit.
      axis: `"step"`, or a cost that grows with the steps: `"bits_sent"`, `"simulated_seconds"`, ...
      mode: `"max"`: at least the target; `"min"`: at most.
      interpolate: where between two records it was reached, linearly; else the cost at the record that shows it.

    Returns:
      float64 `[axes..., seed]`, NaN where the target was never reached.  Of a run that diverged, records before its
      first bad step count: until then it ran like any other.
    """
    where = "first_reaching"
    results = dataset(where, results)
    values = variable(where, "metric", results, metric)
    checks.known(where, "target", target)
    target = checks.number(where, "target", target)
    checks.one_of(where, "mode", mode, ("max", "min"))
    if "step" not in values.dims:
        checks.fail(where, "metric", "a variable over step", f"{metric} with dims {listed(values.dims)}")
    grows = [str(name) for name in (*COSTS, *results.data_vars) if name in results and "step" in results[name].dims]
    cost = results[checks.one_of(where, "axis", axis, dict.fromkeys(grows))].astype(np.float64)
    values = values.astype(np.float64)
    if "diverged_step" in results:
        bad = results["diverged_step"]
        values = values.where((bad < 0) | (results["step"] < bad))
    reached = (values >= target) if mode == "max" else (values <= target)
    index = reached.argmax("step")
    _, cost = _broadcast(values, cost)
    spent = cost.isel(step=index)
    if interpolate:
        before = _last_finite(values).isel(step=(index - 1).clip(min=0), drop=True)
        inside = (index > 0) & (before >= 0)
        before = before.clip(min=0)
        y0, y1, x0 = (array.isel(step=place) for array, place in ((values, before), (values, index), (cost, before)))
        part = ((target - y0) / (y1 - y0).where(inside, 1.0)).where(inside, 1.0)
        spent = x0.where(inside, 0.0) + part * (spent - x0.where(inside, 0.0))
    return spent.where(reached.any("step")).drop_vars("step", errors="ignore").rename(f"{axis}_to_{metric}")


def _last_finite(values: xarray.DataArray) -> xarray.DataArray:
    """At each step the position of the last finite value up to it, -1 before the first: runs may lack records."""
    axis = values.get_axis_num("step")
    shape = [-1 if dim == "step" else 1 for dim in values.dims]
    places = np.where(np.isfinite(values.values), np.arange(values.sizes["step"]).reshape(shape), -1)
    return values.copy(data=np.maximum.accumulate(places, axis=axis))


def _broadcast(*arrays: xarray.DataArray) -> tuple[xarray.DataArray, ...]:
    import xarray

    return xarray.broadcast(*arrays)


@checks.typed
def pareto(
    results: xarray.Dataset,
    metric: str,
    cost: str,
    *,
    mode: str = "max",
    at: int | float | str = -1,
    max_failed: int = 0,
) -> xarray.Dataset:
    """Which settings are not dominated: no other is at least as good and at most as dear, and better in one of them.

    Args:
      results: of a sweep.
      metric: what is wanted; its mean over seeds counts.
      cost: what it costs, less being better: `"bits_sent"`, `"simulated_seconds"`, ...; a variable.
      mode: `"max"` or `"min"` of the metric.
      at: the record, as in `reduce_steps`; with a fraction the cost is that of the last record.
      max_failed: failed seeds that a setting on the front may have.

    Returns:
      The `scores` of both over the axes, and `is_efficient`, bool.
    """
    results = dataset("pareto", results)
    for argument, name in (("metric", metric), ("cost", cost)):
        variable("pareto", argument, results, name)
    if cost == metric:
        checks.fail("pareto", "cost", "another variable than the metric", repr(cost))
    max_failed = checks.integer("pareto", "max_failed", max_failed, 0)
    found = scored("pareto", results, [metric, cost], at, metric, mode)
    if isinstance(at, float):
        last = scored("pareto", results, [cost], -1, cost, mode)
        found = found.assign({name: last[name] for name in (cost, f"{cost}_spread")})
    # Either may lack an axis that it does not depend on.
    names = [str(name) for name in found.data_vars if name != "num_seeds"]
    full = _broadcast(*(found[name] for name in names))
    found = found.assign({name: values.transpose(*axes(found)) for name, values in zip(names, full, strict=True)})
    good = found[metric] * (1 if mode == "max" else -1)
    usable = np.isfinite(good) & np.isfinite(found[cost]) & (found.num_failed <= max_failed)
    return found.assign(is_efficient=good.copy(data=_efficient(good.values, found[cost].values, usable.values)))


def _efficient(good: np.ndarray, spent: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Whether each of the points of any shape is on the front; sorting by cost makes it n log n."""
    points = np.stack([spent[usable], -good[usable]], axis=1)
    order = np.lexsort((points[:, 1], points[:, 0]))
    keeps = np.zeros(len(points), bool)
    least, last = np.inf, (np.nan, np.nan)
    for index in order:
        point = (points[index, 0], points[index, 1])
        keeps[index] = point[1] < least or point == last  # exact equals do not dominate each other
        if keeps[index]:
            least, last = point[1], point
    out = np.zeros(good.shape, bool)
    out[usable] = keeps
    return out


class PowerLaw(NamedTuple):
    """y = factor * x**slope, fitted in logarithms."""

    slope: float
    slope_error: float  # standard error of the slope; NaN with 2 points
    factor: float
    num_points: int


def numbers(where: str, argument: str, value: Any) -> np.ndarray:
    """Real numbers in one row, float64; they need not be finite."""
    array = checks.host(where, argument, value, "real numbers")
    if array.size and not checks.is_real_type(array.dtype):
        checks.fail(where, argument, "real numbers", checks.describe(value))
    return np.ravel(array.astype(np.float64))


def power_law(x: Any, y: Any) -> PowerLaw:
    """Least squares of log y on log x; points that are not finite are left out.

    Args:
      x: positive, at least two different values.
      y: positive, the shape of `x`.
    """
    x, y = (numbers("power_law", name, value) for name, value in (("x", x), ("y", y)))
    if x.shape != y.shape:
        checks.fail("power_law", "y", f"as many numbers as x ({x.size})", y.size)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    for name, value in (("x", x), ("y", y)):
        if (value <= 0).any():
            checks.fail("power_law", name, "positive", f"{value[value <= 0][0]:g}", "Leave such points out.")
    if len(np.unique(x)) < 2:
        checks.fail("power_law", "x", "two or more different finite values", len(np.unique(x)))
    u, v = np.log(x) - np.log(x).mean(), np.log(y)
    slope = float(u @ v / (u @ u))
    offset = v.mean()
    residual = v - offset - slope * u
    error = float(np.sqrt(residual @ residual / (len(x) - 2) / (u @ u))) if len(x) > 2 else float("nan")
    return PowerLaw(slope, error, float(np.exp(offset - slope * np.log(x).mean())), len(x))
