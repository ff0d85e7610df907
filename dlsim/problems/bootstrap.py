"""More nodes than examples: every node draws a sample of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.problems.data import Dataset
from dlsim.problems.partition import Partition, PartitionFn

LARGEST_INDEX = 2**31 - 1  # places in the index lists of all nodes are int32


def bootstrap(num_examples: int, *, num_classes: int | None = None, alpha: Any | None = None) -> PartitionFn:
    """Every node draws `num_examples` examples, each uniformly and independently: nodes share examples.

    With `num_classes` a node first draws so many classes, and then its examples of those alone, class by class in turn:
    label skew of a fixed strength at any number of nodes.  For populations larger than the data, where no partition
    exists; memory is 4 bytes an example and node.

    With `alpha` a node first draws shares of the classes, p_i ~ Dirichlet(alpha), and then each example's class by p_i and
    the example of that class: the label skew of `dirichlet` with one common pool, from which a node with many examples
    draws every batch anew.

    Args:
      num_examples: a node's, structural.
      num_classes: classes a node knows, at most `num_examples`; None: all, as they come.
      alpha: > 0, in place of `num_classes`.
    """
    num_examples = checks.integer("bootstrap", "num_examples", num_examples, 1)
    if num_classes is not None:
        num_classes = checks.integer("bootstrap", "num_classes", num_classes, 1, num_examples)
    if alpha is not None:
        checks.number("bootstrap", "alpha", alpha, 0.0, open_minimum=True)
        checks.known("bootstrap", "alpha", alpha, "known while tracing", "Sweep it as structure.")
        if num_classes is not None:
            checks.fail("bootstrap", "alpha", "None where num_classes is given", alpha)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        most = LARGEST_INDEX // num_examples
        if num_nodes > most:
            checks.fail("bootstrap", "num_nodes", f"at most {most} with {num_examples} examples each", num_nodes)
        named = "num_classes" if alpha is None else "alpha"
        if (num_classes is not None or alpha is not None) and not dataset.num_classes:
            rule, fix = f"one with class labels where {named} is given", f"Leave {named} out."
            checks.fail("bootstrap", "dataset", rule, "a regression", fix)
        if alpha is not None:
            drawn = _by_shares(rng, np.asarray(dataset.labels), num_nodes)
        elif num_classes is None:
            drawn = rng.integers(0, len(dataset.labels), (num_nodes, num_examples), np.int32)
        else:
            drawn = _of_classes(rng, np.asarray(dataset.labels), num_nodes)
        offsets = (np.arange(num_nodes, dtype=np.int64) * num_examples).astype(np.int32)
        return Partition(drawn.reshape(-1), offsets, np.full(num_nodes, num_examples, np.int32))

    def _of_classes(rng: np.random.Generator, labels: np.ndarray, num_nodes: int) -> np.ndarray:
        known = np.unique(labels)
        assert num_classes is not None
        if num_classes > len(known):
            checks.fail("bootstrap", "num_classes", f"at most the data's {len(known)} classes", num_classes)
        order = np.argsort(labels, kind="stable").astype(np.int32)
        counts = np.bincount(np.searchsorted(known, labels))
        starts = np.cumsum(counts) - counts
        # The first so many of a random order of the classes, for every node.
        mine = np.argsort(rng.random((num_nodes, len(known)), np.float32), axis=1)[:, :num_classes]
        each = mine[:, np.arange(num_examples) % num_classes]
        return order[starts[each] + (rng.random(each.shape) * counts[each]).astype(np.int64)]

    def _by_shares(rng: np.random.Generator, labels: np.ndarray, num_nodes: int) -> np.ndarray:
        assert alpha is not None
        known = np.unique(labels)
        order = np.argsort(labels, kind="stable").astype(np.int32)
        counts = np.bincount(np.searchsorted(known, labels))
        starts = np.cumsum(counts) - counts
        shares = rng.dirichlet(np.full(len(known), float(alpha)), num_nodes)
        each = np.stack([rng.choice(len(known), num_examples, p=share) for share in shares])
        return order[starts[each] + (rng.random(each.shape) * counts[each]).astype(np.int64)]

    return partition_fn
