"""Which records of a run count, and what the parts of this package share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks

if TYPE_CHECKING:
    import xarray

MAKE = "Pass what dlsim.sweep returned."
NODE = "node"  # the dimension of what was recorded by node


@checks.typed
def axes(results: xarray.Dataset | xarray.DataArray) -> list[str]:
    """Names of the swept keys, in order: the dimensions with coordinates other than `seed`, `step` and `node`."""
    arrays = list(results.data_vars.values()) if hasattr(results, "data_vars") else [results]
    arrays.sort(key=lambda array: -array.ndim)  # the fullest knows the order
    dims = dict.fromkeys(str(dim) for array in arrays for dim in array.dims)
    return [dim for dim in dims if dim not in ("seed", "step", NODE) and dim in results.coords]


@checks.typed
def reduce_steps(
    results: xarray.Dataset, at: int | float | str = -1, *, by: str | None = None, mode: str = "max"
) -> xarray.Dataset:
    """One number a run of every variable over `step`; the others stay as they are.

    In a sweep whose runs differ in length or in recorded steps, each run's own records count.

    Args:
      results: of a sweep or a run.
      at: -1, the last record; another int, the record of that step; `"best"`, for each run the record at which `by`
        is best (the first such); a float in (0, 1], the mean over that last fraction of the records.
      by: the metric that decides for `"best"`.
      mode: `"max"` or `"min"`: what is better in `by`.

    Returns:
      The Dataset without `step`; for `"best"` with a variable `best_step`.
    """
    results = dataset("reduce_steps", results)
    return reduced("reduce_steps", results, at, by, mode, recorded(results))


def reduced(
    where: str, results: xarray.Dataset, at: Any, by: str | None, mode: str, there: xarray.DataArray | None
) -> xarray.Dataset:
    """`reduce_steps`, for a caller that is named in errors; `there` is what `recorded` says of all variables together."""
    checks.one_of(where, "mode", mode, ("max", "min"))
    if isinstance(at, str):
        checks.one_of(where, "at", at, ("best",))
        metric = variable(where, "by", results, by)
        if "step" not in metric.dims:
            return results.drop_dims("step") if "step" in results.dims else results
        scored = metric.astype(np.float64) * (1 if mode == "max" else -1)
        index = scored.where(np.isfinite(scored), -np.inf).argmax("step")
        out = results.isel(step=index)
        return out.assign(best_step=out["step"]).drop_vars("step")
    if "step" not in results.dims:
        return results
    steps = results["step"].values
    if isinstance(at, float):
        checks.number(where, "at", at, 0.0, 1.0, open_minimum=True)
        if there is None:
            kept = results.isel(step=slice(len(steps) - max(1, round(at * len(steps))), None))
            return kept.map(_mean_over_steps, keep_attrs=True)
        total = there.sum("step")
        used = there & (there.cumsum("step") > total - np.maximum(1, np.round(at * total)))
        return results.map(_mean_over_steps, keep_attrs=True, args=(used,))
    at = checks.integer(where, "at", at, -1)
    if at == -1:
        if there is None:
            return results.isel(step=-1, drop=True)
        return results.isel(step=(there * np.arange(1, len(steps) + 1)).argmax("step")).drop_vars("step")
    if at not in steps:
        nearest = int(steps[np.argmin(np.abs(steps - at))])
        checks.fail(where, "at", "-1 or a recorded step", at, f"The nearest one is {nearest}.")
    return results.sel(step=at, drop=True)


def recorded(results: xarray.Dataset) -> xarray.DataArray | None:
    """Which runs have a record at which steps, bool `[axes..., seed, step]`; None if all have all, as far as is known.

    A sweep fills what a run lacks with NaN.  A step at which every number of a run is NaN is no record of it, unless
    nothing says whether the run diverged.
    """
    known = {*axes(results), "seed", "step"}
    there = None
    for values in results.data_vars.values():
        if "step" in values.dims and set(values.dims) <= known:
            there = values.notnull() if there is None else there | values.notnull()
    if there is None or "diverged_step" not in results or bool(there.all()):
        return None
    return there


def _mean_over_steps(values: xarray.DataArray, used: xarray.DataArray | None = None) -> xarray.DataArray:
    if "step" not in values.dims:
        return values
    if values.dtype.kind not in "biuf":
        return values.isel(step=-1, drop=True)
    if used is None:
        return values.astype(np.float64).mean("step", skipna=False)
    count = used.sum("step")
    return values.astype(np.float64).where(used, 0.0).sum("step", skipna=False) / count.where(count > 0)


def dataset(where: str, results: Any) -> xarray.Dataset:
    """`results`, if they are a Dataset."""
    import xarray

    return checks.instance(where, "results", results, xarray.Dataset, MAKE)


def variable(where: str, argument: str, results: xarray.Dataset, name: str | None) -> xarray.DataArray:
    """A numeric variable by name; the nearest names stand in the error."""
    numbers = [str(one) for one, values in results.data_vars.items() if values.dtype.kind in "biuf"]
    numeric = [one for one in numbers if one != "diverged_step"]
    return results[checks.one_of(where, argument, name, numeric)]  # type: ignore[arg-type]


def is_fine(results: xarray.Dataset) -> xarray.DataArray:
    """Whether each run went well, `[axes..., seed]`; all of them did where nothing is known."""
    import xarray

    if "diverged_step" in results:
        return results["diverged_step"] < 0
    return xarray.ones_like(results["seed"], dtype=bool)


def listed(names: Any) -> str:
    """Names in one line."""
    return ", ".join(str(name) for name in names)
