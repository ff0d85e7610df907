"""The best setting of some axes for every combination of the others, and its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlsim import checks
from dlsim.analysis.records import axes, dataset, listed
from dlsim.analysis.statistics import scored

if TYPE_CHECKING:
    import xarray


@checks.typed
def best(
    results: xarray.Dataset,
    metric: str,
    *,
    over: str | Sequence[str],
    mode: str = "max",
    at: int | float | str = -1,
    max_failed: int = 0,
) -> xarray.Dataset:
    """The best values of some axes for every combination of the others, by the mean over seeds.

    A mean over the runs that survived flatters a setting at the edge of divergence, so a setting with more than
    `max_failed` failed seeds is not chosen.  Of equals the first in the order of the axes is.

    Args:
      results: of a sweep.
      metric: what to be best in.
      over: the axes to choose values of, such as `"learning_rate"`.
      mode: `"max"` or `"min"`.
      at: the record, as in `reduce_steps`; `"best"` takes each run at its own best record.
      max_failed: failed seeds that a setting may have.

    Returns:
      Dataset over the other axes: the chosen value of each axis in `over`, and the `scores` there.  Where no setting
      qualifies, the chosen values are NaN (the dtype then allows for it) and so is the metric.
    """
    import xarray

    found = scored("best", results, [metric], at, metric, mode)
    over = [over] if isinstance(over, str) else list(over)
    if not over or len(set(over)) < len(over):
        checks.fail("best", "over", "one or more different axes", listed(over) or "none")
    for name in over:
        checks.one_of("best", "over", name, axes(found))
    max_failed = checks.integer("best", "max_failed", max_failed, 0)
    ranked = (found[metric] if mode == "max" else -found[metric]).where(found.num_failed <= max_failed, -np.inf)
    flat = ranked.fillna(-np.inf).stack(_setting=over, create_index=False)
    index = flat.argmax("_setting")
    is_found = flat.max("_setting") > -np.inf
    places = np.unravel_index(index.values, [found.sizes[name] for name in over])
    indexers = {name: xarray.DataArray(at_, dims=index.dims) for name, at_ in zip(over, places, strict=True)}
    chosen = found.isel(indexers).reset_coords(over)
    if not bool(is_found.all()):
        for name in (*over, metric, f"{metric}_spread"):
            chosen[name] = chosen[name].where(is_found)
    return chosen[[*over, metric, f"{metric}_spread", "num_failed", "num_diverged", "num_seeds"]]


@checks.typed
def best_runs(results: xarray.Dataset, chosen: xarray.Dataset) -> xarray.Dataset:
    """The runs of the settings that `best` chose, as curves over the remaining axes, `seed` and `step`.

    The chosen values become coordinates.  Where nothing was chosen the numbers are NaN and `diverged_step` is left.
    """
    import xarray

    results = dataset("best_runs", results)
    over = [name for name in axes(results) if name in dataset("best_runs", chosen).data_vars]
    if not over:
        checks.fail("best_runs", "chosen", "what best returned for these results", f"variables {listed(chosen)}")
    indexers, is_found = {}, xarray.DataArray(True)
    for name in over:
        known = {value: index for index, value in enumerate(results[name].values.tolist())}
        flat = [known.get(value, -1) for value in np.ravel(chosen[name].values).tolist()]
        positions = xarray.zeros_like(chosen[name], dtype=int).copy(data=np.reshape(flat, chosen[name].shape))
        missing = positions.where(chosen[name].isnull(), 0) < 0
        if bool(((positions < 0) & ~missing).any()):
            checks.fail("best_runs", "chosen", "what best returned for these results", f"another value of {name}")
        indexers[name], is_found = positions.clip(min=0), is_found & ~missing
    runs = results.isel(indexers).transpose(..., *(dim for dim in ("seed", "step") if dim in results.dims))
    runs = runs.assign_coords({name: chosen[name] for name in over})
    if bool(is_found.all()):
        return runs
    return runs.map(lambda values: values.where(is_found) if values.dtype.kind == "f" else values, keep_attrs=True)
