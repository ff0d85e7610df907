"""Inputs, labels and keys as people have them: numbers, text, objects.  A gap is no class; a number keeps its value."""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from dlsim import checks

# What pandas reads as a gap, in any case of letters, and the question mark of the UCI repository.
MISSING = {"", "?", "na", "n/a", "<na>", "#na", "#n/a", "#n/a n/a", "nan", "-nan", "nat", "null", "none"}
MISSING |= {"1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
GAP_FIX = "Drop that row or fill the gap (rename the value, if it is one)."
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def fits(where: str, argument: str, value: int, count: int) -> None:
    """One line for so many float64 numbers as this machine's memory cannot hold, before any is made."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        return
    if 8 * count > memory:
        rule = f"small enough for {memory / 2**30:.0f} GiB of memory"
        checks.fail(where, argument, rule, f"{value}, which needs {8 * count / 2**30:.3g} GiB")


def is_number(cell: str) -> bool:
    """Whether text is a finite number; `nan`, `inf` and `1_000` are not."""
    return _NUMBER.fullmatch(cell.strip()) is not None


def is_integer(cell: str) -> bool:
    """Whether text is a whole number written without a point."""
    return _INTEGER.fullmatch(cell.strip()) is not None


def is_missing(value: Any) -> bool:
    """Whether a cell is a gap: None, NaN, pandas' NA and NaT, or text that stands for one."""
    if isinstance(value, str):
        return value.strip().casefold() in MISSING
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | np.datetime64 | Decimal) and bool(value != value)


def array(where: str, argument: str, values: Any) -> np.ndarray:
    """`np.asarray`, which refuses ragged rows and the masked entries that NumPy would take for values."""
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        place = tuple(int(i) for i in np.argwhere(np.ma.getmaskarray(values))[0])
        checks.fail(where, argument, "without masked entries", f"one at index {place}", "Drop or impute those rows.")
    try:
        return np.asarray(values)
    except ValueError:  # NumPy's word for rows of several lengths
        checks.fail(where, argument, "an array with rows of one shape", "ragged rows", "Pad or cut them first.")
    except Exception as error:  # what a foreign array says of itself: a tensor with gradients, a tracer
        got = f"{type(values).__name__} ({str(error).splitlines()[0][:60] if str(error) else type(error).__name__})"
        checks.fail(where, argument, "an array", got, "Pass a NumPy array.")


def _cells(values: np.ndarray) -> list[Any]:
    """Text stripped, bytes decoded, NumPy's scalars as Python's."""

    def cell(value: Any) -> Any:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, str):
            return value.strip()
        return value.item() if isinstance(value, np.generic) else value

    return [cell(value) for value in values.tolist()]


def refuse_gaps(where: str, argument: str, values: Iterable[Any], place: Callable[[int], str] | None = None) -> None:
    """One line for the first gap of a column; `place(index)` says where it stands, by default `at index i`."""
    index = next((i for i, value in enumerate(values) if is_missing(value)), None)
    if index is not None:
        got = f"{list(values)[index]!r} {f'at index {index}' if place is None else place(index)}"
        checks.fail(where, argument, "known in every row", got, GAP_FIX)


def _as_numbers(cells: list[Any]) -> np.ndarray | None:
    """The cells as bool, int64 or float64 if all are numbers, given as such or as text; else None."""
    if all(isinstance(cell, bool) for cell in cells):
        return np.array(cells, bool)
    if not all(is_number(c) if isinstance(c, str) else isinstance(c, numbers.Real | Decimal) for c in cells):
        return None
    if all(is_integer(c) if isinstance(c, str) else isinstance(c, numbers.Integral) for c in cells):
        whole = [int(cell) for cell in cells]
        return np.array(whole, np.int64) if all(abs(n) < 2**63 for n in whole) else None
    return np.array([float(cell) for cell in cells])


def known_labels(
    where: str, parts: Mapping[str, np.ndarray], place: Callable[[int], str] | None = None
) -> tuple[np.ndarray, ...]:
    """Labels `[M]` of several arrays as numbers where all are, else as text; gaps and mixtures get one line.

    Args:
      where: the function that the user called.
      parts: arrays by the name of their argument.
      place: where the i-th one stands, by default `at index i`.
    """
    for argument, part in parts.items():
        if part.dtype.kind not in "biufOSU":
            checks.fail(where, argument, "numbers or text", f"dtype {part.dtype}")
    if all(part.dtype.kind in "biuf" for part in parts.values()):
        return tuple(parts.values())
    cells = {argument: _cells(part) for argument, part in parts.items()}
    for argument, column in cells.items():
        refuse_gaps(where, argument, column, place)
    together = [cell for column in cells.values() for cell in column]
    known = _as_numbers(together)
    if known is None:
        # Single characters are an alphabet, digits among letters; any other mixture has text where a number is missing.
        numeric = [not isinstance(cell, str) or is_number(cell) for cell in together]
        if any(numeric) and not all(isinstance(cell, str) and len(cell) == 1 for cell in together):
            _refuse_mixture(where, cells, place)
        known = np.array([str(cell) for cell in together])
    ends = np.cumsum([len(column) for column in cells.values()])
    return tuple(np.split(known, ends[:-1]))


def _refuse_mixture(where: str, cells: Mapping[str, list[Any]], place: Callable[[int], str] | None) -> None:
    """One line with the first of whichever kind is rarer, if numbers and text are mixed."""
    kinds: dict[bool, list[tuple[str, int, Any]]] = {True: [], False: []}
    for argument, column in cells.items():
        for i, cell in enumerate(column):
            kinds[not isinstance(cell, str) or is_number(cell)].append((argument, i, cell))
    if not kinds[False]:  # numbers alone, too large for 64 bits
        checks.fail(where, next(iter(cells)), "within 64 bits", kinds[True][0][2])
    rare = len(kinds[True]) < len(kinds[False])
    argument, index, cell = kinds[rare][0]
    at = f"at index {index}" if place is None else place(index)
    rule = "all numbers or all text"
    fix = "Mend or drop that row; or give every class a name, if both are classes."
    checks.fail(where, argument, rule, f"{cell!r} {at} among {'text' if rare else 'numbers'}", fix)


def keys(where: str, argument: str, values: Any) -> np.ndarray:
    """Natural keys `[M]`, such as users: numbers given as text or objects become numbers if none is lost by it."""
    given = array(where, argument, values)
    if given.dtype.kind not in "OSU" or given.ndim != 1:
        return given
    cells = _cells(given)
    known = [cell for cell in cells if not is_missing(cell)]
    if len(known) < len(cells):  # kept as it is: `by_column` refuses it if it is asked for
        return np.array(["" if is_missing(cell) else str(cell) for cell in cells])
    found = _as_numbers(cells)
    texts = np.array([str(cell) for cell in cells])
    return texts if found is None or len(np.unique(found)) < len(np.unique(texts)) else found


def inputs(where: str, argument: str, given: Any) -> np.ndarray:
    """[M, ...], at least one example, finite; floats as float32, integers of 64 bits as int32 where they fit."""
    x = array(where, argument, given)
    if x.ndim < 2 or 0 in x.shape:
        fix = "Make it dense: inputs.toarray()." if hasattr(given, "toarray") else ""
        checks.fail(where, argument, "of shape [M, ...] with M >= 1 examples of one entry or more", list(x.shape), fix)
    if x.dtype == object:
        x = _numbers(where, argument, x)
    if x.dtype == bool:
        return x.astype(np.uint8)
    if x.dtype.kind in "iu":
        if x.dtype.itemsize < 8:
            return x
        if abs(int(x.min())) >= 2**31 or int(x.max()) >= 2**31:
            checks.fail(where, argument, "within 32 bits", f"{x.dtype} up to {x.max()}")
        return x.astype(np.int32)
    if x.dtype.kind != "f":
        checks.fail(where, argument, "numeric", f"dtype {x.dtype}", "Encode text and categories as numbers first.")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported
        x = x.astype(np.float32, copy=False)
    return checks.finite(where, argument, x)


def _numbers(where: str, argument: str, x: np.ndarray) -> np.ndarray:
    """Objects that are numbers, as a table of columns of several types becomes one of objects."""
    for index, cell in np.ndenumerate(x):
        if is_missing(cell):
            checks.fail(where, argument, "known everywhere", f"{cell!r} at index {index}", GAP_FIX)
        if not isinstance(cell, numbers.Real):
            fix = "Encode text and categories as numbers first."
            checks.fail(where, argument, "numeric", f"{repr(cell)[:40]} at index {index}", fix)
    return x.astype(np.float64)


def is_real(labels: np.ndarray) -> bool:
    """Whether one of the numbers is not whole."""
    if labels.dtype.kind != "f":
        return False
    known = labels[np.isfinite(labels)]
    return bool((known != np.round(known)).any())


def targets(where: str, argument: str, labels: np.ndarray) -> np.ndarray:
    """Real labels as float32, finite."""
    return checks.finite(where, argument, labels).astype(np.float32)


def classes(
    where: str, labels: np.ndarray, test_labels: np.ndarray, num_classes: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels as int32 in 0..C-1, and C."""
    if num_classes is not None:
        num_classes = checks.integer(where, "num_classes", num_classes, 1, 2**31 - 1)
    if labels.dtype.kind == "U":
        names = np.unique(np.concatenate([labels, test_labels]))
        labels, test_labels = (np.searchsorted(names, part) for part in (labels, test_labels))
    out = []
    renumber = "np.unique(labels, return_inverse=True)[1] numbers them"
    for argument, part in (("labels", labels), ("test_labels", test_labels)):
        part = np.asarray(checks.finite(where, argument, part))
        whole = part == np.floor(part) if part.dtype.kind == "f" else np.ones(part.shape, bool)
        top = np.inf if num_classes is None else num_classes
        bad = np.flatnonzero(~whole | (part < 0) | (part >= top))
        if len(bad):
            bound = "" if num_classes is None else f" below num_classes={num_classes}"
            fix = f"Number the classes from 0, or pass regression=True; {renumber}."
            checks.fail(where, argument, f"whole numbers from 0{bound}", f"{part[bad[0]]} at index {bad[0]}", fix)
        if len(part) and int(part.max()) >= 2**31:
            checks.fail(
                where,
                argument,
                "within 32 bits",
                int(part.max()),
                "np.unique(labels, return_inverse=True)[1] numbers them.",
            )
        out.append(part.astype(np.int32))
    highest = max(int(part.max()) for part in out if len(part))
    if num_classes is None and highest > 10 * len(labels):
        fix = f"Pass regression=True or num_classes; {renumber}."
        checks.fail(where, "labels", "class numbers", f"one as high as {highest}", fix)
    count = max(highest + 1, 2) if num_classes is None else checks.integer(where, "num_classes", num_classes, 2)
    return out[0], out[1], count
