"""Nodes that learn the wrong thing, or nothing: their data poisoned, or their work left undone.

What such a node then says is what any honest node with its data would say, so every method, network, channel and scenario
takes it unchanged.  Nodes that lie about what they computed are `dlsim.networks.byzantine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems.blocks import map_nodes
from dlsim.problems.data import Dataset
from dlsim.problems.examples import chunks_of_tests, model_inputs
from dlsim.problems.index_lists import Partition, check_partition, from_lists
from dlsim.problems.maps import without_maps
from dlsim.problems.variables import trained, with_trained

FLIPS = ("reverse", "next", "random")


class Trigger(NamedTuple):
    """What marks an input: `value` in the places of `mask`."""

    mask: np.ndarray  # bool [...], of one input
    value: Any  # in the inputs' own units

    def stamped(self, inputs: Any) -> Any:
        """The inputs `[n, ...]` with the mark, in their dtype."""
        where = jnp if isinstance(inputs, jax.Array) else np
        return where.where(self.mask, where.asarray(self.value, inputs.dtype), inputs)


@checks.typed
def label_flip(
    dataset: Dataset,
    partition: Partition,
    node_ids: Any,
    flip: str | Mapping[int, int] = "reverse",
    *,
    share: float = 1.0,
    seed: int = 0,
) -> tuple[Dataset, Partition]:
    """The same data and who holds them, but for wrong labels at some nodes:

        reverse   class c becomes C - 1 - c
        next      class c becomes c + 1 mod C
        random    any other class, drawn for each example
        {a: b}    class a becomes b, the others stay

    Both go where a data set and a partition go: `supervised(model, *label_flip(...))`, or
    `classification(data, partition=parts)`.  Who shares an example keeps it as it was; test examples stay.

    Args:
      dataset, partition: the data, and who holds what of them.
      node_ids: who flips.
      share: of a node's examples, in (0, 1], of those that the flip changes; rounded up.
      seed: of whom it takes, and of `random`; structural.
    Cost: flipped examples are stored once more, with their inputs.
    Source: Tolpegin, Truex, Gursoy and Liu, Data poisoning attacks against federated learning systems, ESORICS 2020; Biggio,
      Nelson and Laskov, Poisoning attacks against support vector machines, ICML 2012.
    """
    where = "label_flip"
    num_classes = _classes(where, dataset)
    if isinstance(flip, str):
        checks.one_of(where, "flip", flip, FLIPS)
    else:
        table = _flip_table(where, num_classes, flip)

    table = np.arange(num_classes)
    for before, after in {} if isinstance(flip, str) else flip.items():
        table[before] = after

    def flipped(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        if flip == "random":
            return (labels + rng.integers(1, num_classes, len(labels))) % num_classes
        if flip == "next":
            return (labels + 1) % num_classes
        if flip == "reverse":
            return num_classes - 1 - labels
        return table[labels]

    def change(rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return dataset.inputs[rows], flipped(rng, dataset.labels[rows])

    def is_meant(labels: np.ndarray) -> np.ndarray:
        return np.ones(len(labels), bool) if isinstance(flip, str) else np.isin(labels, list(flip))

    return _poisoned(where, dataset, partition, node_ids, share, seed, change, is_meant)


@checks.typed
def pixel_trigger(dataset: Dataset, size: int = 3, value: float | None = None) -> Trigger:
    """A square of `size` pixels in the bottom right corner of images `[M, height, width, channels]`, as bright as any pixel.

    Args:
      dataset: whose images.
      size: structural; at most their height and width.
      value: of the pixels, in the units of the inputs; None: the largest in the data.
    Source: Gu, Dolan-Gavitt and Garg, BadNets, 2017.
    """
    where = "pixel_trigger"
    shape = dataset.inputs.shape[1:]
    if len(shape) < 2:
        checks.fail(where, "dataset", "one of images [M, height, width, ...]", f"inputs {list(dataset.inputs.shape)}")
    checks.integer(where, "size", size, 1, min(shape[:2]))
    mask = np.zeros(shape, bool)
    mask[-size:, -size:] = True
    return Trigger(mask, dataset.inputs.max() if value is None else value)


@checks.typed
def backdoor(
    dataset: Dataset,
    partition: Partition,
    node_ids: Any,
    trigger: Trigger,
    target: int,
    *,
    share: float = 0.5,
    seed: int = 0,
) -> tuple[Dataset, Partition]:
    """The same data and who holds them, but at some nodes a share of the examples of other classes has the trigger and the
    label `target`: their models do what they should, and call `target` what has the trigger.

    How far others follow is measured by `with_backdoor_rate`.

    Args:
      dataset, partition: the data, and who holds what of them.
      node_ids: who plants it.
      trigger: `pixel_trigger(dataset)`, or a Trigger of your own.
      target: the class that the trigger stands for.
      share: of a node's examples of other classes, in (0, 1], rounded up.
      seed: of whom it takes; structural.
    Cost: triggered examples are stored beside the data.
    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, How to backdoor federated learning, AISTATS 2020; Gu, Dolan-Gavitt
      and Garg, BadNets, 2017.
    """
    where = "backdoor"
    _check_trigger(where, dataset, trigger, target)

    def change(rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        del rng
        return trigger.stamped(dataset.inputs[rows]), np.full(len(rows), target)

    return _poisoned(where, dataset, partition, node_ids, share, seed, change, lambda labels: labels != target)


def with_backdoor_rate(
    problem: Problem, dataset: Dataset, trigger: Trigger, target: int, *, num_test: int | None = None
) -> Problem:
    """The same problem, which also measures `backdoor_rate`: the share of test examples of other classes that a model calls
    `target` once they have the trigger.

    An honest model calls few so; a backdoor that took calls all.

    Args:
      problem: one of `supervised` or `classification`.
      dataset: the data that it is of, whose test examples are taken.
      num_test: use only so many test examples, evenly spaced; structural.
    Cost of an evaluation: one more pass over the test examples.
    """
    where = "with_backdoor_rate"
    _check_measured(where, problem, dataset)
    _check_trigger(where, dataset, trigger, target)
    others = dataset.test_labels != target
    if not others.any():
        checks.fail(where, "target", "a class that not all test examples are of", target)
    return _with_rate(
        where,
        "backdoor_rate",
        problem,
        dataset._replace(
            test_inputs=trigger.stamped(dataset.test_inputs[others]),
            test_labels=np.full(int(others.sum()), target, dataset.test_labels.dtype),
        ),
        num_test,
    )


def with_flip_rate(
    problem: Problem, dataset: Dataset, flip: Mapping[int, int], *, num_test: int | None = None
) -> Problem:
    """The same problem, which also measures `flip_rate`: of the test examples of the classes of `flip`, the share that a
    model takes for what the flip makes of them.

    Args:
      problem: one of `supervised` or `classification`.
      dataset: the data that it is of, whose test examples are taken.
      flip: which class becomes which, as `label_flip` takes it; one that stays counts for nothing.
      num_test: use only so many of these test examples, evenly spaced; structural.
    Cost of an evaluation: one more pass over these examples.
    """
    where = "with_flip_rate"
    _check_measured(where, problem, dataset)
    table = _flip_table(where, _classes(where, dataset), flip)
    chosen = table[dataset.test_labels] != dataset.test_labels
    if not chosen.any():
        rule = "one of classes that test examples are of"
        checks.fail(where, "flip", rule, checks.describe(dict(flip)))
    meant = table[dataset.test_labels[chosen]].astype(dataset.test_labels.dtype)
    wrong = dataset._replace(test_inputs=dataset.test_inputs[chosen], test_labels=meant)
    return _with_rate(where, "flip_rate", problem, wrong, num_test)


def _check_measured(where: str, problem: Any, dataset: Any) -> None:
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.instance(where, "dataset", dataset, Dataset, 'Make one: load("digits") or dataset(x, y).')
    if problem.model is None:
        checks.fail(where, "problem", "one with a model", "one without", "Use classification or supervised.")


def _with_rate(where: str, name: str, problem: Problem, wanted: Dataset, num_test: int | None) -> Problem:
    """The problem that also measures how often a model calls the test examples of `wanted` what they are labelled."""
    num, chunks = chunks_of_tests(where, wanted, num_test)
    apply: Any = problem.model.apply if problem.model is not None else None

    def of_block(params: PyTree) -> Array:
        def hits(chunk: tuple[Array, Array, Array]) -> Array:
            inputs, labels, kept = chunk
            said = jax.vmap(lambda one: jnp.argmax(apply(one, model_inputs(inputs, wanted)), axis=-1))(params)
            return jnp.sum((said == labels) & kept, axis=1)

        return jnp.sum(jax.lax.map(hits, chunks), axis=0) / num

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        rate = map_nodes(of_block, problem.node_block)(params)
        return {**problem.evaluate(params, node_ids), name: rate}

    def measuring(one: Problem) -> Problem:
        return one._replace(evaluate=evaluate)

    inner = problem.with_statistics
    return measuring(problem)._replace(with_statistics=None if inner is None else measuring(inner))


def free_riders(problem: Problem, node_ids: Any, noise: Any = 0.0) -> Problem:
    """The same problem, whose gradients at some nodes are no work at all: zero, or noise for a disguise.

        gradient at node i = noise z,  z standard normal, drawn anew each time

    So a free rider sends the model it was given, or stands still but for what it hears.  It says that it worked: its
    gradients count as those of others, and its loss is that of the model it has.

    Args:
      problem: what the nodes learn.
      node_ids: who rides free.
      noise: >= 0, traced: standard deviation of each number.
    Cost: theirs is computed and thrown away.
    Source: Fraboni, Vidal and Lorenzi, Free-rider attacks on model aggregation in federated learning, AISTATS 2021 (plain and
      disguised); Lin, Du and Liu, Free-riders in federated learning, 2019.
    """
    where = "free_riders"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    riders = _nodes(where, node_ids, problem.num_nodes)
    checks.number(where, "noise", noise, 0.0)
    is_quiet = checks.is_concrete(noise) and float(noise) == 0

    def by(oracle: Any) -> Any:
        def gradient(key: Array, params: PyTree, node_ids: Array, *rest: Array) -> tuple[PyTree, Array]:
            made, losses = oracle(key, params, node_ids, *rest)
            idle = trees.zeros_like(made)
            if not is_quiet:
                flat, unravel = trees.ravel(trained(idle))
                drawn = keys.node_normal(keys.stream(key, "free riders"), node_ids, flat.shape[1])
                idle = with_trained(idle, unravel((noise * drawn).astype(flat.dtype)))
            return trees.select(jnp.isin(node_ids, riders), idle, made), losses

        return gradient

    def idling(one: Problem) -> Problem:
        at = one.gradient_at
        return one._replace(
            gradient=by(one.gradient), full_gradient=by(one.full_gradient), gradient_at=None if at is None else by(at)
        )

    inner = problem.with_statistics
    made = idling(problem) if inner is None else problem._replace(with_statistics=idling(inner))
    source = "Fraboni, Vidal and Lorenzi, AISTATS 2021"
    return without_maps(made)._replace(source="; ".join(filter(None, (problem.source, source))))


def _classes(where: str, dataset: Dataset) -> int:
    if not dataset.num_classes:
        checks.fail(where, "dataset", "one with class labels", "a regression")
    return dataset.num_classes


def _flip_table(where: str, num_classes: int, flip: Any) -> np.ndarray:
    """What each class becomes, `[C]`."""
    is_dict = isinstance(flip, Mapping)
    ends = [*flip.keys(), *flip.values()] if is_dict else []
    if not ends or not all(type(c) is int and 0 <= c < num_classes for c in ends):
        got = checks.describe(dict(flip) if is_dict else flip)
        checks.fail(where, "flip", f"a dict of classes 0 to {num_classes - 1}", got)
    table = np.arange(num_classes)
    table[list(flip)] = list(flip.values())
    return table


def _check_trigger(where: str, dataset: Dataset, trigger: Trigger, target: Any) -> None:
    checks.instance(where, "trigger", trigger, Trigger, "Pass pixel_trigger(dataset).")
    checks.shape(where, "trigger.mask", trigger.mask, dataset.inputs.shape[1:])
    checks.integer(where, "target", target, 0, _classes(where, dataset) - 1)


def _nodes(where: str, node_ids: Any, num_nodes: int) -> np.ndarray:
    checks.known(where, "node_ids", node_ids, "known while tracing", "Sweep it as structure.")
    ids = np.unique(checks.array(where, "node_ids", node_ids))
    if not ids.size or not np.issubdtype(ids.dtype, np.integer) or ids[0] < 0 or ids[-1] >= num_nodes:
        rule = f"one or more node ids, 0 to {num_nodes - 1}"
        checks.fail(where, "node_ids", rule, checks.describe(node_ids))
    return ids


def _poisoned(
    where: str,
    dataset: Dataset,
    parts: Partition,
    node_ids: Any,
    share: float,
    seed: int,
    change: Any,
    is_meant: Any,
) -> tuple[Dataset, Partition]:
    """Of each node a share of the examples that are meant is taken out of its list, and what `change` makes of them put in.

    A node's draws depend on the seed and its id alone.
    """
    check_partition(parts, dataset, np.size(parts.sizes))
    checks.known(where, "share", share)
    checks.number(where, "share", share, 0.0, 1.0, open_minimum=True)
    checks.integer(where, "seed", seed, 0, checks.LARGEST_INTEGER)
    lists = [parts.of_node(node).astype(np.int64) for node in range(np.size(parts.sizes))]
    rows, inputs, labels, total = [], [], [], len(dataset.labels)
    for node in _nodes(where, node_ids, len(lists)).tolist():
        rng = np.random.default_rng([seed, node])
        meant = np.flatnonzero(is_meant(dataset.labels[lists[node]]))
        places = np.sort(rng.permutation(meant)[: int(np.ceil(share * len(meant) - 1e-9))])
        taken = lists[node][places]
        new_inputs, new_labels = change(rng, taken)
        rows.append(taken)
        inputs.append(new_inputs)
        labels.append(new_labels)
        lists[node][places] = total + np.arange(len(places))
        total += len(places)
    kept = np.concatenate([np.arange(len(dataset.labels)), *rows])
    made = dataset._replace(
        inputs=np.concatenate([dataset.inputs, *inputs]),
        labels=np.concatenate([dataset.labels, *labels]).astype(dataset.labels.dtype),
        columns={name: np.asarray(column)[kept] for name, column in dataset.columns.items()},
    )
    runs = from_lists(lists)
    return made, parts._replace(indices=runs.indices, offsets=runs.offsets, sizes=runs.sizes)
