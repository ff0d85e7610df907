"""Hugging Face data sets, and anything with their `column_names`, `with_format` and columns by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.problems.notices import notice
from dlsim.problems.values import array, refuse_gaps

_INPUTS = ("image", "img", "pixel_values", "inputs", "features", "x")
_LABELS = ("label", "labels", "fine_label", "target", "y")
_LONGEST = 256  # characters of a key; longer text is no key, and would take its length for every example


def is_one(source: Any) -> bool:
    """Whether this is a data set of theirs, or a dict of its splits."""
    split = source["train"] if isinstance(source, Mapping) and "train" in source else source
    return hasattr(split, "column_names") and hasattr(split, "with_format")


def read(source: Any, label: str | None, columns: Sequence[str]) -> dict[str, Any]:
    """Arguments of `dataset`, through `with_format("numpy")` alone, so the library itself is not needed here.

    What is neither input nor label and has one value an example is a column.
    """
    splits = source if isinstance(source, Mapping) else {"train": source}
    train, test = splits["train"], splits.get("test")
    for split in (train, test):
        try:
            readable = split is None or len(split[split.column_names[0]][:1]) >= 0
        except (TypeError, NotImplementedError, IndexError, KeyError):
            readable = False
        if not readable:
            got, fix = type(split).__name__, "Not as a stream: load_dataset(..., streaming=False)."
            checks.fail("load", "source", "a data set whose columns can be read by name", got, fix)
    unused = [str(name) for name in splits if name not in ("train", "test")]
    names = list(train.column_names)
    label = next((n for n in _LABELS if n in names), "label") if label is None else label
    checks.one_of("load", "label", label, names)
    for key in columns:
        checks.one_of("load", "columns", key, names)
    rest = [n for n in names if n != label and n not in columns]
    field = next((n for n in _INPUTS if n in rest), rest[0] if len(rest) == 1 else None)
    if field is None:
        fix = "Keep one: data.select_columns([...]), or use dataset(x, y)."
        checks.fail("load", "source", "a data set with one input column", ", ".join(rest) or "none", fix)
    arrays: dict[str, Any] = {"inputs": _inputs(train, field), "labels": _scalars(train, label)}
    if test is not None:
        arrays |= {"test_inputs": _inputs(test, field), "test_labels": _scalars(test, label)}
    kept, test_kept = {}, {}
    for key in (name for name in names if name not in (field, label)):
        values = _scalars(train, key) if _is_scalar(train, key) else None
        if values is None or values.ndim != 1 or _is_long(values):
            if key in columns:
                checks.fail("load", key, "a column of one value an example", "longer ones", "Leave it out of columns.")
            unused.append(key)
            continue
        kept[key] = values
        if test is not None and key in test.column_names:
            test_kept[key] = _scalars(test, key)
    for key in columns:
        refuse_gaps("load", key, kept[key].tolist())
    if unused:
        notice("load", f"{', '.join(unused)} of this data set is not used.")
    name = str(getattr(getattr(train, "info", None), "dataset_name", None) or "hugging_face")
    return {**arrays, "columns": kept, "test_columns": test_kept, "name": name}


def _inputs(split: Any, key: str) -> np.ndarray:
    values = split.with_format("numpy")[key]
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    rows = [array("load", key, row) for row in values[:]]
    other = next((i for i, row in enumerate(rows) if row.shape != rows[0].shape), None)
    if other is not None:
        got = f"{list(rows[0].shape)} at index 0 and {list(rows[other].shape)} at index {other}"
        fix = "Resize or pad them first."
        if rows[0].shape[:2] == rows[other].shape[:2]:  # grey among colours
            fix = f"Convert them: data.map(lambda row: {{{key!r}: row[{key!r}].convert('RGB')}})."
        checks.fail("load", key, "of one shape in every example", got, fix)
    return np.stack(rows) if rows else np.zeros((0, 0))


def _scalars(split: Any, key: str) -> np.ndarray:
    """As they are stored: as NumPy, whole numbers with a gap among them would become float32."""
    return array("load", key, list(split[key][:]))


def _is_scalar(split: Any, key: str) -> bool:
    features = getattr(split, "features", None)
    if isinstance(features, Mapping) and key in features:
        return type(features[key]).__name__ in ("Value", "ClassLabel")
    values = split[key][:1]
    return len(values) > 0 and np.ndim(values[0]) == 0 and not hasattr(values[0], "tobytes")


def _is_long(values: np.ndarray) -> bool:
    return values.dtype.kind in "OSU" and any(isinstance(v, str | bytes) and len(v) > _LONGEST for v in values)
