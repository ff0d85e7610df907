"""A partition as index lists: what it is, what is checked of it, and how to make one of lists."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dlsim import checks
from dlsim.problems import values
from dlsim.problems.data import Dataset

LARGEST = 2**31 - 1  # node ids, and places in index lists, are int32


class LocalTest(NamedTuple):
    """Test examples of every node's own, as index lists end to end."""

    indices: np.ndarray  # int32 [sum sizes] example ids, node after node
    offsets: np.ndarray  # int32 [N]
    sizes: np.ndarray  # int32 [N]
    of_training: bool  # ids of training examples that were held out; else of the data set's test examples


class Partition(NamedTuple):
    """Index lists of all nodes, end to end, and what is done to the examples a node draws."""

    indices: np.ndarray  # int32 [sum sizes] training example ids, node after node
    offsets: np.ndarray  # int32 [N] start of each node's run
    sizes: np.ndarray  # int32 [N]
    noise: np.ndarray | None = None  # float32 [N] std of Gaussian noise added to the model input: feature shift
    rotation: np.ndarray | None = None  # int32 [N] quarter turns of the node's images, 0..3: feature shift
    label_permutation: np.ndarray | None = None  # int32 [N, C]: node i sees class c as this one: concept shift
    local_test: LocalTest | None = None  # test examples of the nodes' own

    def __repr__(self) -> str:
        sizes = f"of {self.sizes.min()} to {self.sizes.max()}" if len(self.sizes) else "none"
        optional = ("noise", "rotation", "label_permutation", "local_test")
        held = [f"with {name}" for name in optional if getattr(self, name) is not None]
        return f"Partition({', '.join([f'{len(self.indices)} examples over {len(self.sizes)} nodes', sizes, *held])})"

    def of_node(self, node: int) -> np.ndarray:
        """Example ids of one node."""
        return self.indices[self.offsets[node] : self.offsets[node] + self.sizes[node]]


class PartitionFn(Protocol):
    def __call__(self, rng: np.random.Generator, dataset: Dataset, num_nodes: int, /) -> Partition: ...


def partition(dataset: Dataset, num_nodes: int, partitioner: PartitionFn | Partition, seed: int = 0) -> Partition:
    """The examples of `dataset` over `num_nodes` nodes by `partitioner`, with `numpy.random.default_rng(seed)`.

    A Partition in place of a partitioner is checked and given back.  Raises ValueError of one line if a node is left
    without an example, or if a partitioner breaks its word.
    """
    checks.instance("partition", "dataset", dataset, Dataset, 'Make one: load("digits") or dataset(x, y).')
    num_nodes = checks.integer("partition", "num_nodes", num_nodes, 1)
    checks.integer("partition", "num_nodes", num_nodes, None, LARGEST)
    deal = check_partitioner("partition", "partitioner", partitioner)
    made = deal(np.random.default_rng(checks.integer("partition", "seed", seed, 0)), dataset, num_nodes)
    if not isinstance(made, Partition):
        checks.fail("partition", "partitioner", "a function that returns a Partition", type(made).__name__)
    return check_partition(made, dataset, num_nodes)


def check_partitioner(where: str, argument: str, partitioner: Any) -> PartitionFn:
    """The partitioner, or one that gives the Partition that was given; one line for anything else."""
    if isinstance(partitioner, Partition):
        return lambda rng, dataset, num_nodes: partitioner
    try:
        inspect.signature(partitioner).bind(None, None, None)
    except (TypeError, ValueError):
        got, fix = getattr(partitioner, "__name__", type(partitioner).__name__), "Pass e.g. iid() or dirichlet(0.1)."
        if isinstance(partitioner, list | tuple):
            fix = "Of lists of example ids: partition_from_lists(lists)."
        checks.fail(where, argument, "a function of (rng, dataset, num_nodes)", got, fix)
    return partitioner


def check_partition(made: Partition, dataset: Dataset, num_nodes: int) -> Partition:
    """The partition as it is, or one line on what is wrong with it."""
    where, num_examples = "partition", len(dataset.labels)
    _check_runs(where, "", made, num_nodes, num_examples, "training")
    if made.label_permutation is not None and not dataset.num_classes:
        checks.fail(where, "label_permutation", "None for a regression", list(np.shape(made.label_permutation)))
    shifts = {"noise": made.noise, "rotation": made.rotation, "label_permutation": made.label_permutation}
    for name, shift in shifts.items():
        if shift is not None:
            wide = (dataset.num_classes,) if name == "label_permutation" else ()
            checks.shape(where, name, shift, (num_nodes, *wide))
            checks.finite(where, name, shift)
    if made.noise is not None and (np.asarray(made.noise) < 0).any():
        checks.fail(where, "noise", "a standard deviation >= 0", float(np.min(made.noise)))
    if made.label_permutation is not None:
        wrong = (np.sort(made.label_permutation, axis=1) != np.arange(dataset.num_classes)).any(axis=1)
        if wrong.any():
            got = f"none at node {int(np.argmax(wrong))}"
            checks.fail(where, "label_permutation", "a permutation of the classes", got)
    if made.local_test is not None:
        of_training = made.local_test.of_training
        pool = (num_examples, "training") if of_training else (len(dataset.test_labels), "test")
        _check_runs(where, "local_test.", made.local_test, num_nodes, *pool)
        own = made.local_test.indices if of_training else np.zeros(0, np.int32)
        shared = np.intersect1d(own, made.indices)
        if len(shared):
            checks.fail(where, "local_test", "of examples that no node trains on", f"example {shared[0]} in both")
    return made


def _check_runs(where: str, of: str, made: Any, num_nodes: int, num_examples: int, kind: str) -> None:
    """Index lists of all nodes: their shapes, an example for every node, and ids that exist."""
    indices, offsets, sizes = (np.asarray(part) for part in (made.indices, made.offsets, made.sizes))
    runs = (("indices", indices, indices.size), ("offsets", offsets, num_nodes), ("sizes", sizes, num_nodes))
    for name, given, length in runs:
        checks.shape(where, of + name, given, (length,))
        if given.dtype.kind not in "iu":
            checks.fail(where, of + name, "integers", f"dtype {given.dtype}")
    if (sizes < 1).any():
        node, empty = int(np.argmax(sizes < 1)), int((sizes < 1).sum())
        fix = f"Use fewer nodes than {num_nodes}, a larger alpha, dirichlet(balanced=True) or a min_size."
        got = f"none ({empty} of {num_nodes} nodes are empty)"
        what = "test example of its own" if of else "example"
        checks.fail(where, f"node {node}", f"given at least one {what}", got, fix)
    bad = np.flatnonzero((indices < 0) | (indices >= num_examples))
    if len(bad):
        got = f"{indices[bad[0]]} at position {bad[0]}"
        checks.fail(where, of + "indices", f"{kind} examples 0 to {num_examples - 1}", got)
    ends = offsets.astype(np.int64) + sizes
    if (offsets < 0).any() or ends.max() > len(indices):
        node = int(np.argmax((offsets < 0) | (ends > len(indices))))
        checks.fail(where, of + "offsets", f"runs within the {len(indices)} indices", f"one beyond at node {node}")


def from_lists(lists: list[np.ndarray]) -> Partition:
    """A Partition from one array of training example ids a node; unchecked, and a node may be empty."""
    sizes = np.array([len(ids) for ids in lists], np.int32)
    offsets = (np.cumsum(sizes) - sizes).astype(np.int32)
    return Partition(np.concatenate(lists).astype(np.int32), offsets, sizes)


def partition_from_lists(lists: Sequence[Any], *, test_lists: Sequence[Any] | None = None) -> Partition:
    """A Partition from one list of example ids a node, as another tool or a file has them.

    It goes where a Partition or a partitioner goes; there, ids are checked against the data set.

    Args:
      lists: N of them, each of the ids of the training examples that the node holds, one or more, all different;
        nodes may share examples.
      test_lists: N of them, of the ids of the data set's test examples that are the node's own, on which `supervised`
        then measures it too.
    """
    where = "partition_from_lists"
    runs = _runs(where, "lists", lists)
    if test_lists is None:
        return Partition(*runs)
    own = _runs(where, "test_lists", test_lists)
    if len(own[1]) != len(runs[1]):
        checks.fail(where, "test_lists", f"{len(runs[1])}, as many as lists", len(own[1]))
    return Partition(*runs, local_test=LocalTest(*own, of_training=False))


def _runs(where: str, argument: str, lists: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, offsets and sizes of lists of ids."""
    if isinstance(lists, str | bytes | Mapping | set) or not np.iterable(lists):
        fix = "Such as [[0, 1], [2, 3, 4]]."
        checks.fail(where, argument, "one list of example ids a node", type(lists).__name__, fix)
    rows = []
    for node, ids in enumerate(lists):
        row = values.array(where, f"{argument}[{node}]", ids)
        if row.ndim != 1 or not len(row) or row.dtype.kind not in "iu" or row.min() < 0 or row.max() > LARGEST:
            got = repr(ids)[:60]
            checks.fail(where, f"{argument}[{node}]", "one or more example ids, whole numbers from 0", got)
        found, counts = np.unique(row, return_counts=True)
        if counts.max() > 1:
            got = f"{found[counts.argmax()]} {counts.max()} times"
            checks.fail(where, f"{argument}[{node}]", "of different ids", got)
        rows.append(row)
    sizes = np.array([len(row) for row in rows], np.int64)
    if not 0 < sizes.sum() <= LARGEST:
        checks.fail(where, argument, f"of 1 to {LARGEST} ids together", int(sizes.sum()))
    offsets = np.cumsum(sizes) - sizes
    return np.concatenate(rows).astype(np.int32), offsets.astype(np.int32), sizes.astype(np.int32)
