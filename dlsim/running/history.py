"""Records of a run on the host, and the labelled arrays made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlsim.core import PyTree
from dlsim.running.counters import Clock, Counter

if TYPE_CHECKING:
    import xarray


def _is_count(value: Any) -> bool:
    return isinstance(value, Counter | Clock)


class History:
    """Rows `[(runs,) records, ...]` of every recorded quantity, as NumPy arrays, in the order they were made."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._parts: list[PyTree] = []
        self._axis = 0

    def append(self, steps: list[int], rows: PyTree, has_runs: bool) -> None:
        """Add records of `steps`; the record axis of `rows` is 0, or 1 behind the axis of runs."""
        self._axis = 1 if has_runs else 0
        self.steps.extend(steps)
        self._parts.append(jax.tree.map(np.asarray, rows))

    def rows(self) -> PyTree:
        """Everything so far as one tree of arrays."""
        if len(self._parts) > 1:
            self._parts = [jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=self._axis), *self._parts)]
        return self._parts[0]

    def drop_partial(self, every: int) -> None:
        """Drop the last record if it stands between two multiples of `every`: the end of a run that now goes on."""
        if self.steps and self.steps[-1] % every:
            kept = range(len(self.steps) - 1)
            self._parts = [jax.tree.map(lambda leaf: np.take(leaf, kept, axis=self._axis), self.rows())]
            self.steps.pop()

    def latest(self) -> dict[str, float]:
        """The last record's scalars, averaged over runs."""
        if not self._parts:
            return {}
        out = {}
        for name, value in self._parts[-1].items():
            if not _is_count(value) and value.ndim == self._axis + 1:
                out[name] = float(np.mean(np.take(value, -1, axis=self._axis)))
        return out

    def variables(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """By name, the dims and values: `step` (after the axis of runs), then `<name>_<axis>`; counts become float64."""
        from dlsim.running.counters import to_float

        out = {}
        for name, value in self.rows().items():
            array = to_float(value) if _is_count(value) else np.asarray(value)
            if array.dtype.kind == "V":  # bfloat16 and its like, unknown to xarray's operations and to NetCDF
                array = array.astype(np.float32)
            extra = [f"{name}_{axis}" for axis in range(array.ndim - self._axis - 1)]
            out[name] = (("step", *extra), array)
        return out

    def dataset(self, seeds: list[int] | None) -> xarray.Dataset:
        """An xarray Dataset with dims (seed,) step and, for arrays, `<name>_<axis>`."""
        import xarray

        lead = () if seeds is None else ("seed",)
        variables = {name: ((*lead, *dims), array) for name, (dims, array) in self.variables().items()}
        coordinates: dict[str, Any] = {"step": np.asarray(self.steps)}
        if seeds is not None:
            coordinates["seed"] = np.asarray(seeds)
        return xarray.Dataset(variables, coords=coordinates)
