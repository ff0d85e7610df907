"""Federated data as LEAF and PFLlib write them: a folder `train` and a folder `test`, every client with its own part."""

from __future__ import annotations

import ast
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.problems.data_files import bad_file

CLIENT = "user"  # the column of clients
_ARRAY_PARTS = {  # all that a pickled array of numbers or text is made of; pickles of anything else can run code
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


def kind(folder: Path) -> str | None:
    """`leaf`, `pfllib` or None, by what lies in the folder's `train`."""
    train = folder / "train"
    if any(train.glob("*.json")):
        return "leaf"
    return "pfllib" if any(re.fullmatch(r"\d+\.npz", path.name) for path in train.glob("*.npz")) else None


def read(folder: Path) -> dict[str, Any]:
    """Arguments of `dataset`: examples client after client, and the column `user` of training and test examples."""
    read_part = _leaf if kind(folder) == "leaf" else _pfllib
    x, y, clients = read_part(folder / "train")
    if not (folder / "test").is_dir():
        bad_file(folder, "a folder with train and test", "no test", "")
    test_x, test_y, test_clients = read_part(folder / "test")
    return {
        "inputs": x,
        "labels": y,
        "test_inputs": test_x,
        "test_labels": test_y,
        "columns": {CLIENT: clients},
        "test_columns": {CLIENT: test_clients},
    }


def _leaf(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`{"users": [u], "num_samples": [m], "user_data": {u: {"x": [m], "y": [m]}}}` in every JSON file of a folder.

    Source: Caldas et al., LEAF: a benchmark for federated settings, 2018.
    """
    inputs: list[Any] = []
    labels: list[Any] = []
    clients: list[str] = []
    seen: dict[str, Path] = {}
    files = sorted(folder.glob("*.json"))
    if not files:
        bad_file(folder, "a folder of LEAF's JSON files", "none", "")
    for path in files:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            users, counts, data = (stored[key] for key in ("users", "num_samples", "user_data"))
            numbers = [int(count) for count in counts]
            pairs = [(data[user]["x"], data[user]["y"]) for user in users]
        except (ValueError, OSError) as error:
            bad_file(path, "a JSON file", str(error).splitlines()[0].rstrip("."))
        except (KeyError, TypeError) as error:
            rule = "of LEAF's form, with users, num_samples and user_data of x and y"
            bad_file(path, rule, f"no {error}" if isinstance(error, KeyError) else str(error), "")
        if len(numbers) != len(users):
            bad_file(path, "one num_samples a user", f"{len(numbers)} for {len(users)}", "")
        for user, count, (x, y) in zip(users, numbers, pairs, strict=True):
            if not count == len(x) == len(y):
                bad_file(path, f"{count} examples of user {user!r}", f"{len(x)} inputs and {len(y)} labels", "")
            if seen.setdefault(str(user), path) is not path:
                bad_file(path, "of other users than its neighbours", f"{user!r} in {seen[str(user)].name} too", "")
            if count and isinstance(np.asarray(x[0]).flat[0], str | np.str_):
                fix = "Encode text and read images first, and give them by dataset(..., columns={'user': ...})."
                bad_file(path, "of numbers", f"text for x of user {user!r}", fix)
            inputs.extend(x)
            labels.extend(y)
            clients.extend([str(user)] * count)
    return _array(folder, "x", inputs), _array(folder, "y", labels), np.array(clients)


def _pfllib(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`0.npz`, `1.npz`, ...: each a client's `data = {"x": [m, ...], "y": [m]}`; planes first become planes last.

    Source: Zhang et al., PFLlib: a beginner-friendly and comprehensive personalized federated learning library, 2023.
    """
    numbered = [path for path in folder.glob("*.npz") if path.stem.isdigit()]
    if not numbered:
        bad_file(folder, "a folder of PFLlib's 0.npz, 1.npz, ...", "none", "")
    inputs, labels, clients = [], [], []
    for path in sorted(numbered, key=lambda path: int(path.stem)):
        data = _pickled_dict(path)
        x, y = _array(path, "x", data["x"]), _array(path, "y", data["y"])
        if len(x) != len(y):
            bad_file(path, "of as many x as y", f"{len(x)} and {len(y)}")
        if len(x):
            inputs.append(x)
            labels.append(y)
            clients.append(np.full(len(x), int(path.stem)))
    if not inputs:
        bad_file(folder, "of one example or more", "none", "")
    shapes = {x.shape[1:] for x in inputs}
    if len(shapes) > 1:
        bad_file(folder, "of inputs of one shape", " and ".join(str(list(shape)) for shape in sorted(shapes)), "")
    x = np.concatenate(inputs)
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):  # as PyTorch has images
        x = np.ascontiguousarray(np.moveaxis(x, 1, 3))
    return x, np.concatenate(labels), np.concatenate(clients)


def _array(path: Path, name: str, values: Any) -> np.ndarray:
    try:
        made = np.asarray(values)
    except ValueError:
        bad_file(path, f"of {name} of one shape", "several shapes", "Pad or cut them first.")
    if made.dtype == object and made.ndim and len(made):  # an array of arrays
        try:
            made = np.stack([np.asarray(one) for one in made])
        except ValueError:
            bad_file(path, f"of {name} of one shape", "several shapes", "Pad or cut them first.")
    return made


class _ArraysOnly(pickle.Unpickler):
    """Opens pickles of arrays, lists and dicts, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"{module}.{name}, which is no array")
        return super().find_class(module, name)


def _pickled_dict(path: Path) -> dict[str, Any]:
    """The dict `data` of an `.npz`, pickled as NumPy does; an `.npz` of plain x and y will do."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if {"x.npy", "y.npy"} <= set(names):
                with np.load(path, allow_pickle=False) as loaded:
                    return {"x": loaded["x"], "y": loaded["y"]}
            with archive.open("data.npy") as file:
                version = np.lib.format.read_magic(file)
                size = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
                header = ast.literal_eval(file.read(size).decode("latin-1"))
                if header["descr"] != "|O":
                    bad_file(path, "of a dict named data", f"an array of {header['descr']}", "")
                data: Any = _ArraysOnly(file).load()
                file.read()  # to the end, where the sum of the whole is checked
    except pickle.UnpicklingError as error:
        bad_file(path, "of arrays alone", str(error), "Only data in PFLlib's form are opened.")
    except zipfile.BadZipFile as error:
        bad_file(path, "a whole .npz file", f"a damaged one ({error})")
    except ValueError as error:
        if str(error).startswith("load:"):
            raise
        bad_file(path, "a whole .npz file in PFLlib's form", str(error).splitlines()[0])
    except Exception as error:  # a damaged file can make any part of the reader fail
        reason = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
        bad_file(path, "a whole .npz file in PFLlib's form", reason)
    data = data.item() if isinstance(data, np.ndarray) and data.size == 1 else data
    if not isinstance(data, dict) or not {"x", "y"} <= set(data):
        got = f"keys {', '.join(map(str, data))}" if isinstance(data, dict) else type(data).__name__
        checks.fail("load", str(path), "of a dict with x and y", got)
    return data
