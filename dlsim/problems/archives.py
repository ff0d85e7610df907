"""Named arrays, of an `.npz` or a dict, as a data set's parts: none is left out without a word."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.problems.data_files import bad_file
from dlsim.problems.notices import notice
from dlsim.problems.values import array

_FIELDS = {
    "inputs": ("inputs", "x_train", "X_train", "x", "X"),
    "labels": ("labels", "y_train", "Y_train", "y", "Y"),
    "test_inputs": ("test_inputs", "x_test", "X_test"),
    "test_labels": ("test_labels", "y_test", "Y_test"),
}
_SCALARS = ("num_classes", "offset", "scale")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name; whatever is wrong with the file is one line."""
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except OSError as error:
        bad_file(path, "a file that can be read", error.strerror or type(error).__name__, "")
    if magic == b"\x93NUMPY":
        got = "a single array, as np.save writes it"
        bad_file(path, "an .npz file with inputs and labels", got, "np.savez(path, inputs=..., labels=...)")
    if path.suffix != ".npz":
        rule, got = (
            "an .npz file by its name",
            "one by its contents" if magic[:2] == b"PK" else f"{path.suffix} of others",
        )
        bad_file(path, rule, got, f"Rename it: {path.with_suffix('.npz').name}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except zipfile.BadZipFile as error:
        bad_file(path, "a whole .npz file", f"a damaged one ({str(error) or 'no zip archive'})")
    except Exception as error:  # a damaged header can make any part of the reader fail
        reason = (str(error).splitlines() or [""])[0].rstrip(".")[:100] or type(error).__name__
        fix = "Save it by np.savez; PFLlib's are read by the folder above train and test."
        bad_file(path, "a whole .npz file without pickled objects", reason, fix)


def parts(name: str, stored: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """Arguments of `dataset` out of named arrays.

    Inputs, labels and tests go by their usual names.  Any other array with one entry an example is a column, under its
    own name without `column_`, `train_` or `_train`; one with an entry a test example and `test` in its name is the
    column of the test examples.  What is left has no place and is named in a warning.

    Args:
      name: of the source, for messages.
      stored: the arrays.
      rule: what the source must be, for messages.
    """
    found: dict[str, Any] = {}
    rest = {str(key): value for key, value in stored.items()}
    for field, names in _FIELDS.items():
        key = next((key for key in names if key in rest), None)
        if key is not None:
            found[field] = rest.pop(key)
    for field in ("inputs", "labels"):
        if field not in found:
            fix = "np.savez(path, inputs=..., labels=...)" if name.endswith(".npz") else "Or call dataset(x, y)."
            checks.fail("load", name, f"{rule} with {field!r}", f"keys {', '.join(map(str, stored)) or 'nothing'}", fix)
    for field in _SCALARS:
        if field in rest:
            value = array("load", f"{name}: {field}", rest.pop(field))
            if value.size != 1:
                checks.fail("load", f"{name}: {field}", "one number", f"an array of shape {list(value.shape)}")
            found[field] = value.item()
    num, num_test = (np.shape(found.get(field, ()))[:1] for field in ("labels", "test_labels"))
    columns: dict[str, Any] = {}
    test_columns: dict[str, Any] = {}
    unused = []
    for key, value in rest.items():
        shape, bare = np.shape(array("load", f"{name}: {key}", value)), key.removeprefix("column_")
        of_test = bare.removeprefix("test_").removesuffix("_test")
        if of_test != bare and "test_labels" in found and shape == num_test:
            test_columns[of_test.removeprefix("column_")] = value
        elif shape == num:
            columns[bare.removeprefix("train_").removesuffix("_train")] = value
        else:
            unused.append(f"{key} {list(shape)}")
    if unused:
        notice("load", f"{name}: {', '.join(unused)} is neither inputs, labels nor a column of them, and is not used.")
    found["columns"] = columns
    found["test_columns"] = {key: value for key, value in test_columns.items() if key in columns}
    return found
