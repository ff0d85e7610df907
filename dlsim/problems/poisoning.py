"""Poisoned data: what an adversary trains on, and how often it gets what it wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.blocks import map_nodes
from dlsim.problems.data import Dataset
from dlsim.problems.index_lists import Partition, check_partition, partition_from_lists

SuccessFn = Callable[[PyTree], Array]  # (params [n, ...]) -> float32 [n] in [0, 1]


@checks.typed
def label_flip(
    dataset: Dataset,
    partition: Partition,
    node_ids: Any,
    *,
    classes: Sequence[int] = (0, 1),
    whole_classes: bool = False,
) -> tuple[Dataset, Partition]:
    """Data in which these nodes hold the two classes with each other's label: `(dataset, partition)` for `supervised`.

    Poisoned examples are copies at the end of the data set, one for each example whoever holds it; everybody else's, and
    the test examples, stay as they are.

    Args:
      dataset, partition: honest data; who holds what.
      node_ids: who is poisoned.
      classes: the two that are swapped.
      whole_classes: these nodes hold all training examples of the two classes beside their own, with swapped labels: an
        adversary that knows the data.
    Source: Fung, Yoon and Beschastnikh, Mitigating Sybils in federated learning poisoning, 2018; `whole_classes` as in the
      code of Werthenbach and Pouwelse, Towards Sybil resilience in decentralized learning, 2023.
    """
    where = "label_flip"
    first, second = _two_classes(where, dataset, classes)
    poisoned = _nodes(where, dataset, partition, node_ids)
    labels = np.asarray(dataset.labels)
    is_of_both = np.isin(labels, (first, second))
    swapped = np.where(labels == first, second, np.where(labels == second, first, labels)).astype(labels.dtype)
    lists = {node: partition.of_node(node) for node in poisoned.tolist()}
    if whole_classes:
        lists = {node: np.union1d(own, np.flatnonzero(is_of_both)) for node, own in lists.items()}
    return _with_copies(dataset, partition, lists, is_of_both, dataset.inputs, swapped)


@checks.typed
def backdoor(
    dataset: Dataset, partition: Partition, node_ids: Any, *, target: int = 1, size: int = 3
) -> tuple[Dataset, Partition]:
    """Data in which all that these nodes hold bears a trigger and the label `target`: `(dataset, partition)`.

    The trigger is the square of `size` x `size` pixels in the first corner, at the largest value that a pixel has in the
    training data.  Copies as in `label_flip`; `backdoor_success` says how often the trigger works.

    Args:
      dataset, partition: honest data, of images `[M, height, width, ...]`; who holds what.
      node_ids: who is poisoned.
      target: the class that the trigger is to stand for.
      size: of the trigger, in pixels.
    Source: Gu, Dolan-Gavitt and Garg, BadNets: identifying vulnerabilities in the machine learning model supply chain, 2017.
    """
    where = "backdoor"
    triggered = _triggered(where, dataset, dataset.inputs, target, size)
    poisoned = _nodes(where, dataset, partition, node_ids)
    labels = np.full_like(np.asarray(dataset.labels), target)
    lists = {node: partition.of_node(node) for node in poisoned.tolist()}
    return _with_copies(dataset, partition, lists, np.ones(len(labels), bool), triggered, labels)


@checks.typed
def flip_success(problem: Problem, dataset: Dataset, *, classes: Sequence[int] = (0, 1)) -> SuccessFn:
    """How often models take an example of one of the two classes for one of the other: `success(params [n, ...])`, `[n]`.

    The share of the test examples of both classes, 0 where there is none.
    """
    first, second = _two_classes("flip_success", dataset, classes)
    labels = np.asarray(dataset.test_labels)
    rows = np.flatnonzero(np.isin(labels, (first, second)))
    wanted = np.where(labels[rows] == first, second, first)
    return _share_that_takes("flip_success", problem, dataset, np.asarray(dataset.test_inputs)[rows], wanted)


@checks.typed
def backdoor_success(problem: Problem, dataset: Dataset, *, target: int = 1, size: int = 3) -> SuccessFn:
    """How often models take an example with the trigger of `backdoor` for one of `target`: `success(params [n, ...])`, `[n]`.

    The share of the test examples of all other classes, 0 where there is none.
    """
    labels = np.asarray(dataset.test_labels)
    triggered = _triggered("backdoor_success", dataset, dataset.test_inputs, target, size)
    rows = np.flatnonzero(labels != target)
    wanted = np.full(len(rows), target)
    return _share_that_takes("backdoor_success", problem, dataset, triggered[rows], wanted)


def _share_that_takes(where: str, problem: Problem, dataset: Dataset, inputs: Any, wanted: Any) -> SuccessFn:
    if problem.model is None:
        checks.fail(where, "problem", "one with a model", "none", "Make it with supervised() or classification().")
    model = problem.model
    # As the model sees them; the last one again and again where there is none.
    seen = (np.asarray(inputs, np.float32) - dataset.offset) * dataset.scale
    targets = jnp.asarray(wanted, jnp.int32)

    def success(params: PyTree) -> Array:
        if not len(wanted):
            return jnp.zeros(jax.tree.leaves(params)[0].shape[0], jnp.float32)

        def of_one(one: PyTree) -> Array:
            taken = jnp.argmax(model.apply(one, jnp.asarray(seen, jnp.float32)), axis=-1)
            return jnp.mean((taken == targets).astype(jnp.float32))

        return map_nodes(lambda rows: jax.vmap(of_one)(rows), problem.node_block)(params)

    return success


def _two_classes(where: str, dataset: Dataset, classes: Sequence[int]) -> tuple[int, int]:
    if not dataset.num_classes:
        checks.fail(where, "dataset", "one with class labels", "a regression")
    pair = checks.integers(where, "classes", classes, minimum=0, maximum=dataset.num_classes - 1)
    if len(pair) != 2 or pair[0] == pair[1]:
        checks.fail(where, "classes", "two different classes", list(pair))
    return pair[0], pair[1]


def _nodes(where: str, dataset: Dataset, partition: Partition, node_ids: Any) -> np.ndarray:
    check_partition(partition, dataset, len(partition.sizes))
    checks.known(where, "node_ids", node_ids, "known while tracing", "Sweep it as structure.")
    nodes = np.unique(checks.array(where, "node_ids", node_ids, (None,)))
    num = len(partition.sizes)
    if nodes.size and (not np.issubdtype(nodes.dtype, np.integer) or nodes[0] < 0 or nodes[-1] >= num):
        checks.fail(where, "node_ids", f"node ids in 0..{num - 1}", checks.describe(node_ids))
    return nodes.astype(np.int64)


def _triggered(where: str, dataset: Dataset, inputs: Any, target: int, size: int) -> np.ndarray:
    """The images with the trigger."""
    if not dataset.num_classes or np.ndim(dataset.inputs) < 3:
        got = f"inputs of shape {list(np.shape(dataset.inputs))}"
        checks.fail(where, "dataset", "images [M, height, width, ...] with class labels", got)
    checks.integer(where, "target", target, 0, dataset.num_classes - 1)
    size = checks.integer(where, "size", size, 1, min(dataset.inputs.shape[1:3]))
    out = np.array(inputs)
    out[:, :size, :size] = np.max(dataset.inputs)
    return out


def _with_copies(
    dataset: Dataset, partition: Partition, lists: dict[int, np.ndarray], is_changed: Any, inputs: Any, labels: Any
) -> tuple[Dataset, Partition]:
    """The nodes of `lists` hold these examples, those that are changed as copies with these inputs and labels."""
    num = len(np.asarray(dataset.labels))
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *lists.values()]))
    used = used[np.asarray(is_changed)[used]]
    place = np.arange(num)
    place[used] = num + np.arange(len(used))
    longer = dataset._replace(
        inputs=np.concatenate([dataset.inputs, np.asarray(inputs)[used]]),
        labels=np.concatenate([dataset.labels, np.asarray(labels)[used]]),
        columns={name: np.concatenate([column, np.asarray(column)[used]]) for name, column in dataset.columns.items()},
    )
    held = [place[lists[node]] if node in lists else partition.of_node(node) for node in range(len(partition.sizes))]
    made = partition_from_lists(held)
    return longer, partition._replace(indices=made.indices, offsets=made.offsets, sizes=made.sizes)
