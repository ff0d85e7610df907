"""Edges as pairs in memory: lists of tuples, arrays `[E, 2]`, with a weight each where they are triples."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks

_RULE = "the name of a file, or pairs (sender, receiver), or triples with a weight"


class Pairs(NamedTuple):
    """What pairs say."""

    ends: list[Any]  # sender, receiver, sender, receiver, ...: all ints, or all text
    is_whole: bool
    values: np.ndarray | None  # float64 [M]


def read_pairs(where: str, given: Any, values: bool) -> Pairs:
    """The ends, and the weights where there are three columns; `values`: whether to read them."""
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        checks.known(where, "edges", given, "known while tracing", "A graph is built outside jit and vmap.")
        return _of_array(where, checks.array(where, "edges", given, (None, None)), values)
    is_view = isinstance(given, Mapping) and not isinstance(given, dict)  # networkx's edges, by (u, v)
    rows = [*given] if is_view else checks.sequence(where, "edges", given, _RULE)
    if is_view and any(not isinstance(row, tuple) or len(row) != 2 for row in rows):
        checks.fail(where, "edges", _RULE, checks.describe(given), "A networkx graph goes to from_networkx.")
    if not rows:
        checks.fail(where, "edges", "one or more pairs", "none")
    made = []
    for place, row in enumerate(rows):
        if isinstance(row, np.ndarray):
            row = row.tolist()
        if not isinstance(row, tuple | list) or len(row) not in (2, 3):
            checks.fail(where, f"edges[{place}]", "(sender, receiver) or (sender, receiver, weight)", row)
        made.append(row)
    width = len(made[0])
    odd = next((place for place, row in enumerate(made) if len(row) != width), None)
    if odd is not None:
        checks.fail(where, f"edges[{odd}]", f"of {width} entries as those before", made[odd])
    column = None
    if width == 3 and values:
        column = np.array([_weight(where, place, row[2]) for place, row in enumerate(made)], np.float64)
    ends = [_end(where, place, end) for place, row in enumerate(made) for end in row[:2]]
    is_whole = all(isinstance(end, int) for end in ends)
    return Pairs(ends if is_whole else [str(end) for end in ends], is_whole, column)


def _of_array(where: str, table: np.ndarray, values: bool) -> Pairs:
    if table.shape[1] not in (2, 3) or not len(table):
        checks.fail(where, "edges", "of shape [E, 2], or [E, 3] with weights, E >= 1", list(table.shape))
    ends = table[:, :2]
    if ends.dtype.kind == "f":
        bad = np.argwhere(ends != np.round(ends))
        if len(bad):
            row, column = bad[0].tolist()
            checks.fail(where, f"edges[{row}, {column}]", "a whole number", f"{ends[row, column]:g}")
    column = table[:, 2].astype(np.float64) if table.shape[1] == 3 and values else None
    return Pairs(ends.astype(np.int64).ravel().tolist(), True, column)


def _end(where: str, place: int, end: Any) -> int | str:
    if isinstance(end, str):
        return end
    if not isinstance(end, int | np.integer) or isinstance(end, bool):
        checks.fail(where, f"edges[{place}]", "between nodes that are integers or names", checks.describe(end))
    return int(end)


def _weight(where: str, place: int, value: Any) -> float:
    if isinstance(value, Mapping):
        checks.fail(
            where, f"edges[{place}]", "a weight in third place", value, "A networkx graph goes to from_networkx."
        )
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not np.isfinite(float(value)):
        checks.fail(where, f"edges[{place}]", "a finite weight in third place", checks.describe(value))
    return float(value)
