"""One call from a data set's name to a Problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.core import Problem
from dlsim.problems.data import load
from dlsim.problems.index_lists import Partition, PartitionFn, check_partitioner, partition as make_partition
from dlsim.problems.local_test import local_test
from dlsim.problems.partition import by_column, iid
from dlsim.problems.sampling import WITHOUT_REPLACEMENT
from dlsim.problems.supervised import supervised


@checks.typed
def classification(
    dataset: str | Any = "digits",
    num_nodes: int | None = None,
    *,
    partition: PartitionFn | Partition | None = None,
    test_per_node: float | None = None,
    model: str | Any = "mlp",
    batch_size: int | None = None,
    sampling: str = WITHOUT_REPLACEMENT,
    regularization: Any = 0.0,
    seed: int = 0,
    num_test: int | None = None,
    data_dir: str | None = None,
    node_block: int | str | None = "auto",
    dtype: str = "float32",
) -> Problem:
    """Classification of real data, spread over the nodes:  load, partition, `supervised` with cross-entropy.

    Args:
      dataset: a name (`digits`, `fashion_mnist`, `mnist`, `cifar10`), a path, or a Dataset; see `load`.
      num_nodes: N; by default 100, or as many as the partition has nodes or the data have clients.
      partition: who holds what: a partitioner such as `dirichlet(alpha=0.1)`, or a Partition (`partition_from_lists`); by
        default `iid()`, or every client its own data where they come with clients, as LEAF's and PFLlib's do.
      test_per_node: share of its own examples that every node holds out, in (0, 1), to measure `accuracy_local` and
        `loss_local` on; see `local_test`.  Clients with tests of their own are measured on those without it.
      model: `softmax`, `mlp`, `lenet`, a flax module (linen or nnx, Dropout and BatchNorm included: see `from_flax`) or a
        Model.
      seed: of the partition; structural.
      data_dir: where to look for the files first.
      batch_size, sampling, regularization, num_test, node_block, dtype: as in `supervised`.
    """
    data = load(dataset, data_dir=data_dir)
    if not data.num_classes:
        checks.fail("classification", "dataset", "one with class labels", "a regression", "Use supervised().")
    if isinstance(partition, Partition):
        num_nodes = np.size(partition.sizes) if num_nodes is None else num_nodes
    elif partition is None and data.clients:
        partition = by_column(data.clients)
        num_nodes = len(np.unique(data.columns[data.clients])) if num_nodes is None else num_nodes
    partition = iid() if partition is None else partition
    if test_per_node is not None:
        if not isinstance(partition, Partition) and data.test_columns:
            data = data._replace(test_columns={})  # what is asked for goes before what the data have
        partition = local_test(test_per_node, base=check_partitioner("classification", "partition", partition))
    parts = make_partition(data, 100 if num_nodes is None else num_nodes, partition, seed)
    return supervised(
        model,
        data,
        parts,
        loss="cross_entropy",
        batch_size=batch_size,
        sampling=sampling,
        regularization=regularization,
        num_test=num_test,
        node_block=node_block,
        dtype=dtype,
    )
