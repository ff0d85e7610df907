"""What a page's plots draw: a run's arrays, thinned, as plain values."""

from __future__ import annotations

import itertools
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim.results import read_json

if TYPE_CHECKING:
    import xarray

MOST_STEPS = 120  # of a curve: more are thinned to so many, evenly, first and last kept
MOST_NUMBERS = 400_000  # of a page
MOST_RUNS = 24  # of one network, of which a page shows the nodes
DIGITS = 5
LINKS = "links"  # what nodes show where nothing was measured at them
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
    """Drawings of the networks that a run kept (`networks.json`) and the metrics of their nodes; None without drawings.

    A metric fits a drawing of N nodes if its only dimension beside axes, seed and step has length N.  The first seed is
    shown, of up to `MOST_RUNS` combinations of the axes, at up to `MOST_STEPS` steps.  Where no metric fits, a node shows
    how many links it has.
    """
    kept = folder / "networks.json"
    if not kept.is_file():
        return None
    drawings = list(read_json(kept, "report", dict).items())
    views = [view for i, (_, drawing) in enumerate(drawings) for view in _views(dataset, drawing, i)]
    numbers = sum(len(view["values"]) * len(view["values"][0]) for view in views)
    if numbers > MOST_NUMBERS:
        views = [_thinned(view, max(1, len(view["steps"]) * MOST_NUMBERS // numbers)) for view in views]
    shown = [
        {
            "label": label,
            "places": [[_short(x), _short(y)] for x, y in drawing["places"]],
            "segments": [[_short(v) for v in segment] for segment in drawing["segments"]],
            "links": drawing.get("num_links", len(drawing["segments"])),
            "server": drawing.get("has_server", False),
        }
        for label, drawing in drawings
    ]
    return {"drawings": shown, "views": views} if views else None


def _views(dataset: xarray.Dataset, drawing: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """What the nodes of one drawing show: a view for each metric and combination of axes."""
    num_nodes = len(drawing["places"])
    here = dataset.isel(seed=0) if "seed" in dataset.dims else dataset
    at = {axis: value if isinstance(value, list) else [value] for axis, value in drawing.get("at", {}).items()}
    here = here.sel({axis: values for axis, values in at.items() if axis in here.dims})
    if "step" in here.dims:
        steps = here.sizes["step"]
        here = here.isel(step=np.unique(np.round(np.linspace(0, steps - 1, min(steps, MOST_STEPS))).astype(int)))
    axes = [str(dim) for dim in here.dims if dim in here.coords and dim != "step"]
    out = []
    for name, one in here.data_vars.items():
        extra = [str(dim) for dim in one.dims if dim not in (*axes, "step")]
        if len(extra) != 1 or one.sizes[extra[0]] != num_nodes or "step" not in one.dims:
            continue
        own = [axis for axis in axes if axis in one.dims]
        places = itertools.islice(itertools.product(*(range(one.sizes[axis]) for axis in own)), MOST_RUNS)
        for place in places:
            values = one.isel(dict(zip(own, place, strict=True))).transpose("step", extra[0]).values.astype(float)
            if not np.isfinite(values).any():
                continue
            words = [
                f"{axis} {_label(one[axis].values[i].item())}"
                for axis, i in zip(own, place, strict=True)
                if one.sizes[axis] > 1
            ]
            out.append(
                {
                    "drawing": number,
                    "metric": str(name),
                    "run": ", ".join(words),
                    "steps": [_short(float(step)) for step in here["step"].values],
                    "values": [[_short(v) for v in row] for row in values],
                }
            )
    if not out and "degrees" in drawing:
        out.append({"drawing": number, "metric": LINKS, "run": "", "steps": [0], "values": [drawing["degrees"]]})
    return out


def _thinned(view: dict[str, Any], most: int) -> dict[str, Any]:
    count = len(view["steps"])
    kept = np.unique(np.round(np.linspace(0, count - 1, min(count, most))).astype(int)) if most > 1 else [count - 1]
    return {**view, "steps": [view["steps"][i] for i in kept], "values": [view["values"][i] for i in kept]}


def _short(value: float) -> float | int | None:
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
