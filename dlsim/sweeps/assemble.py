"""The blocks of a sweep as one labelled array: an axis for each swept key, then `seed`, then `step`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim.results import plain
from dlsim.running.status import ERRORS, NAMES
from dlsim.sweeps.source import Source
from dlsim.sweeps.store import Block

if TYPE_CHECKING:
    import xarray

_FAULTS = [bit & ERRORS > 0 for bit in NAMES]  # columns of `first_step` that are errors


def dataset(source: Source, blocks: Sequence[Block]) -> xarray.Dataset:
    """All runs in one Dataset.

    Beside what the runs recorded it has, over the axes and `seed`: `diverged_step` (int64, the first step with an error
    of the status log, -1 where there was none) and `seconds_per_step` (wall seconds without compiling; runs that share
    the machine share its seconds).  A value that a run does not have, being shorter or of another method, is NaN.
    """
    import xarray

    place = {
        source.identity(choice, seed): (*_index(source, choice), s)
        for choice in source.choices
        for s, seed in enumerate(source.seeds)
    }
    lead = (*(len(values) for values in source.axes.values()), len(source.seeds))
    dims = (*source.axes, "seed")
    steps = np.unique(np.concatenate([block.steps for block in blocks]))
    kinds = _kinds(blocks)
    arrays: dict[str, np.ndarray] = {}
    diverged, seconds = np.full(lead, -1, np.int64), np.full(lead, np.nan)
    runs = set()
    for block in blocks:
        rows = np.searchsorted(steps, block.steps)
        for r, identity in enumerate(block.identities):
            where = place.get(identity)
            if where is None:
                continue
            runs.add(where)
            faults = block.first_step[r][_FAULTS]
            diverged[where] = min(faults[faults >= 0], default=-1)
            seconds[where] = block.seconds[r] / max(1, int(block.steps[-1]))
            for name, (_, values) in block.variables.items():
                if name not in arrays:
                    arrays[name] = _blank((*lead, len(steps), *kinds[name][1]), kinds[name][0])
                # Only the leading corner, where runs differ in the size of an array.
                target = arrays[name][where]
                target[(rows, *(slice(size) for size in values.shape[2:]))] = values[r]
    variables = {name: ((*dims, *kinds[name][2]), array) for name, array in arrays.items()}
    complete = len(runs) == int(np.prod(lead)) and all(np.array_equal(block.steps, steps) for block in blocks)
    for name, (axes, array) in list(variables.items()):
        if complete and all(name in block.variables for block in blocks):
            variables[name] = (axes, _narrowed(array, blocks, name))
    out = xarray.Dataset(
        {**variables, "diverged_step": (dims, diverged), "seconds_per_step": (dims, seconds)},
        coords={**{name: _labels(values) for name, values in source.axes.items()}, "seed": source.seeds, "step": steps},
    )
    return out


def _index(source: Source, choice: dict[str, Any]) -> tuple[int, ...]:
    return tuple(source.axes[name].index(choice[name]) for name in source.axes)


def _kinds(blocks: Sequence[Block]) -> dict[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]]:
    """By variable: a dtype that can hold NaN, the largest extra shape, and the dims.

    A dim of several variables is as large in all.  What is by node in some runs and not in others was so by chance.
    """
    out: dict[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]] = {}
    for block in blocks:
        for name, (axes, values) in block.variables.items():
            dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
            extra = values.shape[2:]
            if name in out:
                dtype = np.promote_types(dtype, out[name][0])
                extra = tuple(max(both) for both in itertools.zip_longest(extra, out[name][1], fillvalue=1))
                if axes != out[name][2]:
                    axes = ("step", *(f"{name}_{axis}" for axis in range(len(extra))))
            out[name] = (dtype, extra, axes)
    size: dict[str, int] = {}
    for _, extra, axes in out.values():
        for dim, one in zip(axes[1:], extra, strict=True):
            size[dim] = max(one, size.get(dim, 0))
    return {name: (dtype, tuple(size[dim] for dim in axes[1:]), axes) for name, (dtype, _, axes) in out.items()}


def _blank(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.full(shape, np.nan, dtype)


def _narrowed(array: np.ndarray, blocks: Sequence[Block], name: str) -> np.ndarray:
    """Back to integers or bools, where all runs have them and every value is there."""
    dtype = np.result_type(*(block.variables[name][1].dtype for block in blocks))
    exact = dtype.kind in "biu" and dtype.itemsize <= 4 and np.isfinite(array).all()
    return array.astype(dtype) if exact else array


def _labels(values: list[Any]) -> list[Any]:
    scalars = all(isinstance(value, bool | int | float | str) for value in values)
    if scalars and len({type(value) for value in values}) == 1:
        return values
    named = [getattr(value, "__name__", str(value)) if callable(value) else str(value) for value in values]
    return [name if named.count(name) == 1 else f"{name} {i}" for i, name in enumerate(named)]


def attributes(source: Source, **more: Any) -> dict[str, str]:
    """What a Dataset says of itself."""
    axes = {name: _labels(values) for name, values in source.axes.items()}
    return {"experiment": source.name, "axes": json.dumps(plain(axes)), **more}
