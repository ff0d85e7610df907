"""The same two workloads for every system, in plain NumPy: who holds what, and who knows whom.

Fashion-MNIST's training images divided by 255, i.i.d., 60 examples a node; batches of 32; plain SGD, one step a node a round;
softmax regression 784-10 (7,850 parameters) or a perceptron 784-128-10 (101,770).  Where nodes have neighbours, they are
those of one random 4-regular graph.  Every driver runs in an environment of its own, so that nothing of dlsim is imported
here, and nothing but NumPy (and networkx, for the graph) is needed.
"""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EXAMPLES_PER_NODE, BATCH, LEARNING_RATE, DEGREE = 60, 32, 0.1, 4
FEATURES, CLASSES, HIDDEN = 784, 10, 128
MODELS = ("logreg", "mlp")
LARGEST = 60_000 // EXAMPLES_PER_NODE  # nodes that the training set has examples for
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
FOLDERS = ("fashion-mnist", "fashion_mnist", "deb/usr/share/datasets/fashion-mnist")
SYSTEM_FOLDERS = ("/usr/share/datasets", "/usr/local/share/datasets")


class Shards(NamedTuple):
    """What the nodes hold: row i of each array is node i's."""

    inputs: np.ndarray  # float32 [N, 60, 784], in [0, 1]
    labels: np.ndarray  # int64 [N, 60]


def fail(argument: str, rule: str, got: Any, fix: str = "") -> None:
    """The one clear line for bad input."""
    raise ValueError(f"peers: {argument} must be {rule}, got {got}." + (f" {fix}" if fix else ""))


def data_folder(data: str | os.PathLike[str] | None = None) -> Path:
    """The folder with the training images and labels: `data` or a known folder in it, or where dlsim looks."""
    roots = [Path(data).expanduser()] if data is not None else []
    if data is None:
        roots += [Path(os.environ["DLSIM_DATA"]).expanduser()] if os.environ.get("DLSIM_DATA") else []
        roots += [Path("~/.cache/dlsim").expanduser(), *map(Path, SYSTEM_FOLDERS)]
    folders = [Path(data).expanduser()] if data is not None else []
    folders += [root / folder for root in roots for folder in FOLDERS]
    for folder in folders:
        if all(any((folder / (name + end)).is_file() for end in ("", ".gz")) for name in (IMAGES, LABELS)):
            return folder
    fail(
        "--data",
        f"a folder with {IMAGES} and {LABELS} (plain or .gz)",
        data if data is not None else f"nothing in {', '.join(map(str, roots))}",
        "Install it: apt-get install -y dataset-fashion-mnist",
    )
    raise AssertionError  # unreachable: the line above raises


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file of bytes, plain or gzipped."""
    packed = path if path.is_file() else path.with_name(path.name + ".gz")
    raw = gzip.decompress(packed.read_bytes()) if packed.suffix == ".gz" else packed.read_bytes()
    zeros, kind, rank = struct.unpack(">HBB", raw[:4])
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    if zeros != 0 or kind != 8 or len(raw) != 4 + 4 * rank + int(np.prod(shape)):
        fail(str(packed), "an IDX file of bytes", f"a header {raw[:4]!r} and {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def shards(num_nodes: int, data: str | os.PathLike[str] | None = None) -> Shards:
    """60 examples for each node, drawn without replacement by NumPy's generator with seed 0."""
    if not 1 <= num_nodes <= LARGEST:
        fail("--nodes", f"in [1, {LARGEST}] ({EXAMPLES_PER_NODE} of 60000 examples a node)", num_nodes)
    folder = data_folder(data)
    images, labels = read_idx(folder / IMAGES), read_idx(folder / LABELS)
    rows = np.random.default_rng(0).permutation(len(images))[: num_nodes * EXAMPLES_PER_NODE]
    shape = (num_nodes, EXAMPLES_PER_NODE)
    inputs = images[rows].reshape(*shape, FEATURES).astype(np.float32) / np.float32(255)
    return Shards(inputs, labels[rows].reshape(shape).astype(np.int64))


def graph(num_nodes: int) -> Any:
    """One random 4-regular networkx graph, the same for all who mix with neighbours."""
    import networkx

    if num_nodes <= DEGREE:
        fail("--nodes", f"> {DEGREE} for a {DEGREE}-regular graph", num_nodes)
    return networkx.random_regular_graph(DEGREE, num_nodes, seed=0)


def neighbors(num_nodes: int) -> np.ndarray:
    """int `[N, 4]`: the neighbours of each node in `graph`, ascending."""
    drawn = graph(num_nodes)
    return np.asarray([sorted(drawn.neighbors(i)) for i in range(num_nodes)])


def widths(model: str) -> tuple[int, ...]:
    """Sizes of the layers, inputs and classes included."""
    if model not in MODELS:
        fail("--models", "one of " + ", ".join(MODELS), repr(model))
    return (FEATURES, CLASSES) if model == "logreg" else (FEATURES, HIDDEN, CLASSES)
