"""What a page's plots draw: a run's arrays, thinned, as plain values."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim.results import read_json

if TYPE_CHECKING:
    import xarray

MOST_STEPS = 120  # of a curve: more are thinned to so many, evenly, first and last kept
MOST_NUMBERS = 400_000  # of a page
DIGITS = 5
NOT_SHOWN = ("diverged_step",)


def plot_data(dataset: xarray.Dataset) -> dict[str, Any] | None:
    """Axes, steps and every metric `[axes..., seed, step]` that has one number a run and step; None if there is none.

    Long runs are thinned to `MOST_STEPS` steps; where a page would hold more than `MOST_NUMBERS` numbers, to fewer, down
    to the last one; `thinned` says so.
    """
    if "step" not in dataset.dims:
        return None
    axes = [str(dim) for dim in dataset.dims if dim in dataset.coords and dim not in ("seed", "step")]
    whole = {*axes, "seed", "step"}
    names = [
        str(name)
        for name, one in dataset.data_vars.items()
        if set(map(str, one.dims)) <= whole and "step" in one.dims and one.dtype.kind in "fiu" and name not in NOT_SHOWN
    ]
    if not names:
        return None
    if "seed" not in dataset.dims:
        dataset = dataset.expand_dims("seed")
    steps = dataset.sizes["step"]
    runs = int(np.prod([dataset.sizes[name] for name in (*axes, "seed")]))
    kept = max(1, min(steps, MOST_STEPS, MOST_NUMBERS // max(1, runs * len(names))))
    chosen = np.unique(np.round(np.linspace(0, steps - 1, kept)).astype(int)) if kept > 1 else np.array([steps - 1])
    thin = dataset.isel(step=chosen)
    full = [thin.sizes[name] for name in (*axes, "seed", "step")]
    metrics = {}
    for name in names:
        missing = {dim: thin.sizes[dim] for dim in (*axes, "seed", "step") if dim not in thin[name].dims}
        values = thin[name].expand_dims(missing).transpose(*axes, "seed", "step").values.reshape(full)
        if np.isfinite(values.astype(float)).any():
            metrics[name] = [_short(x) for x in values.astype(float).ravel()]
    if not metrics:
        return None
    return {
        "axes": [{"name": name, "values": [_label(v) for v in thin[name].values.tolist()]} for name in axes],
        "seeds": int(thin.sizes["seed"]),
        "steps": [_short(float(step)) for step in thin["step"].values],
        "metrics": metrics,
        "thinned": len(chosen) < steps,
        "recorded": int(steps),
    }


def network_data(dataset: xarray.Dataset, folder: pathlib.Path) -> dict[str, Any] | None:
    """Drawings of the networks that a run kept (`networks.json`), with the metrics that fit their nodes; None without.

    A metric fits a drawing of N nodes if its only dimension beside axes, seed and step has length N.  The first seed is
    shown, at up to `MOST_STEPS` steps.
    """
    kept = folder / "networks.json"
    if not kept.is_file() or "step" not in dataset.dims:
        return None
    drawings = read_json(kept, "report", dict)
    axes = [str(dim) for dim in dataset.dims if dim in dataset.coords and dim not in ("seed", "step")]
    first = dataset.isel(seed=0) if "seed" in dataset.dims else dataset
    steps = first.sizes["step"]
    thin = first.isel(step=np.unique(np.round(np.linspace(0, steps - 1, min(steps, MOST_STEPS))).astype(int)))
    views = []
    for label, drawing in drawings.items():
        num_nodes = len(drawing["places"])
        for name, one in thin.data_vars.items():
            extra = [str(dim) for dim in one.dims if dim not in (*axes, "step")]
            if len(extra) != 1 or one.sizes[extra[0]] != num_nodes or "step" not in one.dims:
                continue
            place = {dim: drawing["at"][dim] for dim in one.dims if dim in drawing.get("at", {})}
            here = one.sel(place)
            # Of the other axes the first values are shown.
            rest = {dim: 0 for dim in here.dims if dim in axes}
            values = here.isel(rest).transpose("step", extra[0]).values.astype(float)
            views.append(
                {
                    "label": label,
                    "metric": str(name),
                    "places": [[_short(x), _short(y)] for x, y in drawing["places"]],
                    "segments": [[_short(v) for v in segment] for segment in drawing["segments"]],
                    "steps": [_short(float(step)) for step in thin["step"].values],
                    "values": [[_short(v) for v in row] for row in values],
                }
            )
    return {"views": views} if views else None


def drawing_of(network: Any, at: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `network_data` needs of a network: places and segments as `dlsim.networks.draw` has them.

    `at`: values of the axes that this network belongs to.
    """
    from dlsim.networks.drawing import host_graph, layout

    places, segments = layout(host_graph(network))
    return {
        "places": np.round(places, 4).tolist(),
        "segments": np.round(segments.reshape(len(segments), 4), 4).tolist(),
        "at": at or {},
    }


def _short(value: float) -> float | int | None:
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
