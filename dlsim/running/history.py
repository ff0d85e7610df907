"""Records of a run on the host, and the labelled arrays made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from dlsim import checks
from dlsim.core import Process, PyTree, Record
from dlsim.running.counters import Clock, Counter

if TYPE_CHECKING:
    import xarray

NODE = "node"
RESERVED = ("seed", "step")


class Axes(NamedTuple):
    """How the axes of what is recorded are called: as they were named, else `node` or `<name>_<axis>`."""

    num_nodes: int | None = None
    named: Mapping[str, Sequence[str]] = MappingProxyType({})

    def of(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Of the record `name`, an array of this shape."""
        if name in self.named:
            return tuple(self.named[name])
        first = (NODE,) if shape and shape[0] == self.num_nodes else ()
        return (*first, *(f"{name}_{axis}" for axis in range(len(first), len(shape))))

    def check(self, where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """One line if a name does not fit, or if one stands for axes of two sizes."""
        sizes: dict[str, int] = {}
        for name, shape in shapes.items():
            dims = self.of(name, shape)
            if len(dims) != len(shape) or len(set(dims)) != len(dims):
                rule, got = f"{len(shape)} different names for {name!r}", f"{list(dims)} for an array {list(shape)}"
                checks.fail(where, "record.dims", rule, got)
            for dim, size in zip(dims, shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    got = f"{dim!r} for axes of {sizes[dim]} and {size} entries"
                    checks.fail(
                        where, "record.dims", "one name for axes of one size", got, f"Call that of {name} other."
                    )
        for dim in sizes:
            if dim in RESERVED or dim in shapes:
                rule = f"names other than those of the records and {', '.join(RESERVED)}"
                checks.fail(where, "record.dims", rule, repr(dim), "Rename the axis or the record.")


def axes_of(where: str, process: Process, record: Record) -> Axes:
    """How the axes are called that this record has of this process."""
    named: dict[str, Sequence[str]] = {}
    for given in (process.dims, record.dims):
        if given is not None and not isinstance(given, Mapping):
            fix = 'Pass e.g. dims={"by_class": ("class",)}.'
            checks.fail(where, "record.dims", "a dict of names by record", checks.describe(given), fix)
        named |= given or {}
    for name, dims in named.items():
        if not isinstance(dims, tuple | list) or not all(isinstance(dim, str) and dim for dim in dims):
            rule = f"a tuple of names for {name!r}"
            checks.fail(where, "record.dims", rule, checks.describe(dims), 'Pass e.g. ("class",).')
    return Axes(process.num_nodes, named)


def shapes_of(where: str, rows: PyTree, num_run_axes: int = 0) -> dict[str, tuple[int, ...]]:
    """By name, the shape of what one record of one run holds; `rows` are shapes.  One line if it is no dict of arrays."""
    out = {}
    for name, value in rows.items():
        array = value[0] if _is_count(value) else value
        if not isinstance(name, str) or not hasattr(array, "shape"):
            got = f"{name!r}: {type(value).__name__}"
            checks.fail(where, "record.fn", "a function that gives a dict of arrays by name", got)
        out[name] = tuple(array.shape[num_run_axes:])
    return out


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

    def variables(self, axes: Axes = Axes()) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """By name, the dims and values: `step` (after the axis of runs), then those of `axes`; counts become float64."""
        from dlsim.running.counters import to_float

        out = {}
        for name, value in self.rows().items():
            array = to_float(value) if _is_count(value) else np.asarray(value)
            if array.dtype.kind == "V":  # bfloat16 and its like, unknown to xarray's operations and to NetCDF
                array = array.astype(np.float32)
            out[name] = (("step", *axes.of(name, array.shape[self._axis + 1 :])), array)
        return out

    def dataset(self, seeds: list[int] | None, axes: Axes = Axes()) -> xarray.Dataset:
        """An xarray Dataset with dims (seed,) step and, for arrays, those of `axes`."""
        import xarray

        lead = () if seeds is None else ("seed",)
        variables = {name: ((*lead, *dims), array) for name, (dims, array) in self.variables(axes).items()}
        coordinates: dict[str, Any] = {"step": np.asarray(self.steps)}
        if seeds is not None:
            coordinates["seed"] = np.asarray(seeds)
        return xarray.Dataset(variables, coords=coordinates)
