"""Test examples of the nodes' own: held out of what they hold, and what is measured on them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info, PyTree
from dlsim.problems.blocks import map_nodes
from dlsim.problems.data import Dataset
from dlsim.problems.index_lists import LocalTest, Partition, PartitionFn, check_partitioner
from dlsim.problems.partition import iid

_CHUNK = 256  # examples at a time


def local_test(fraction: float = 0.2, *, base: PartitionFn | Partition | None = None) -> PartitionFn:
    """Every node keeps a share of its own examples to test on, and trains on the others.

    Examples are dealt by `base` (default `iid()`) and each node's own held out at random: `fraction` of them, rounded,
    but at least one and not all.  `supervised` then measures `loss_local` and `accuracy_local` on them, as papers on
    personalisation do.  Nodes must hold two examples or more, and share none: one's test would be another's training.

    Args:
      fraction: share of each node's examples, in (0, 1).
      base: who holds what.
    """
    checks.known("local_test", "fraction", fraction)
    checks.number("local_test", "fraction", fraction, 0.0, 1.0, open_minimum=True, open_maximum=True)
    deal = check_partitioner("local_test", "base", iid() if base is None else base)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        made = deal(rng, dataset, num_nodes)
        sizes = np.asarray(made.sizes)
        if made.local_test is not None:
            checks.fail("local_test", "base", "one without test examples of the nodes' own", "one with them")
        if (sizes < 2).any():
            node = int(np.argmax(sizes < 2))
            fix = "Use fewer nodes or a larger min_size."
            checks.fail("local_test", f"node {node}", "given two examples or more", int(sizes[node]), fix)
        nodes = np.repeat(np.arange(num_nodes), sizes)
        place = np.arange(len(nodes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the node's run
        ids = made.indices[np.repeat(made.offsets, sizes) + place]
        shared = np.flatnonzero(np.bincount(ids) > 1)
        if len(shared):
            got, fix = f"example {shared[0]} more than once", "Use a partition, not bootstrap."
            checks.fail("local_test", "base", "one that gives each example to one node", got, fix)
        num_test = np.clip(np.floor(fraction * sizes + 0.5).astype(np.int64), 1, sizes - 1)
        # The first so many of each node's examples in random order.
        order = np.lexsort((rng.random(len(nodes)), nodes))
        is_test = np.zeros(len(nodes), bool)
        is_test[order] = place < np.repeat(num_test, sizes)
        tests = LocalTest(*_runs(ids[is_test], num_test), of_training=True)
        indices, offsets, sizes = _runs(ids[~is_test], sizes - num_test)
        return made._replace(indices=indices, offsets=offsets, sizes=sizes, local_test=tests)

    return partition_fn


def _runs(ids: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return ids.astype(np.int32), (np.cumsum(sizes) - sizes).astype(np.int32), sizes.astype(np.int32)


def evaluate_local(view: Any, test: Any, tests: LocalTest, node_block: int | str | None) -> Any:
    """`evaluate(params [n, ...], node_ids [n] | None) -> {"loss_local": [n], ...}`, means over a node's own test examples.

    Without node ids every model is measured on all nodes' tests, and gets the mean over the nodes.

    Args:
      view: `(node_ids [n], positions [n, B]) -> Batch`, test examples as the node's model sees them.
      test: `(params, inputs [B, ...], labels [B], mask [B]) -> sums`, of one model over a batch.
      tests: whose examples they are.
      node_block: nodes at a time; see `map_nodes`.
    """
    largest, total = int(np.max(tests.sizes)), int(np.sum(tests.sizes))
    num_nodes = len(tests.sizes)
    all_sizes = jnp.asarray(tests.sizes, jnp.int32)
    # Where one model is measured at all nodes: every example with its node, its place there and its weight.
    nodes = np.repeat(np.arange(num_nodes, dtype=np.int32), tests.sizes)
    places = (np.arange(total) - np.repeat(np.cumsum(tests.sizes) - tests.sizes, tests.sizes)).astype(np.int32)
    size = min(_CHUNK, total)
    padding = -total % size
    weights = 1.0 / (num_nodes * np.asarray(tests.sizes, np.float64)[nodes])
    chunked = [np.pad(part, (0, padding)).reshape(-1, size) for part in (nodes, places, weights.astype(np.float32))]

    def of_own(params: PyTree, node_ids: Array) -> Info:
        width = min(_CHUNK, largest)
        sizes = all_sizes.at[node_ids].get(mode="promise_in_bounds")

        def chunk_sums(chunk: Array) -> Info:
            place = chunk * width + jnp.arange(width)[None, :]
            mask = place < sizes[:, None]
            batch = view(node_ids, jnp.where(mask, place, 0))
            return jax.vmap(test)(params, batch.inputs, batch.labels, mask.astype(jnp.float32))

        sums = jax.lax.map(chunk_sums, jnp.arange(-(-largest // width)))
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / sizes, sums)

    def of_all(params: PyTree) -> Info:
        def chunk_sums(chunk: tuple[Array, Array, Array]) -> Info:
            batch = view(chunk[0], chunk[1][:, None])  # [size, 1, ...]
            return jax.vmap(test, (0, None, None, None))(params, batch.inputs[:, 0], batch.labels[:, 0], chunk[2])

        sums = jax.lax.map(chunk_sums, tuple(map(jnp.asarray, chunked)))
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        if node_ids is None:
            found = map_nodes(of_all, node_block)(params)
        else:
            found = map_nodes(of_own, node_block)(params, node_ids)
        return {f"{name}_local": value for name, value in found.items()}

    return evaluate


def tests_of(view: Any, tests: LocalTest) -> Any:
    """`(node_ids [n]) -> (Batch [n, T, ...], mask [n, T])`, all test examples of a node's own; T those of the node with most.

    `view` as in `evaluate_local`.
    """
    width, all_sizes = int(np.max(tests.sizes)), np.asarray(tests.sizes, np.int32)

    def own_tests(node_ids: Array) -> tuple[Any, Array]:
        place = jnp.arange(width, dtype=jnp.int32)[None, :]
        mask = place < jnp.asarray(all_sizes).at[node_ids].get(mode="promise_in_bounds")[:, None]
        return view(node_ids, jnp.where(mask, place, 0)), mask

    return own_tests
