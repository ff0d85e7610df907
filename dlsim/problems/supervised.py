"""Supervised learning, node-stacked: every node a model of its own, on its own part of one data set."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems import variables
from dlsim.problems.blocks import check_node_block, check_rows, map_nodes
from dlsim.problems.data import Dataset
from dlsim.problems.examples import CHUNK, chunks_of_tests, model_inputs
from dlsim.problems.index_lists import LocalTest, Partition, check_partition
from dlsim.problems.local_test import evaluate_local, tests_of
from dlsim.problems.losses import LossFn, resolve_loss
from dlsim.problems.models import DTYPES, Model, resolve, stored_as
from dlsim.problems.notices import notice
from dlsim.problems.sampling import SAMPLING, WITH_REPLACEMENT, WITHOUT_REPLACEMENT, batch_positions

DEFAULT_BATCH_SIZE = 32


class Batch(NamedTuple):
    inputs: Array  # float32 [n, B, ...] as the model sees them
    labels: Array  # [n, B] int32, or float32 for regression


class NodeData(NamedTuple):
    """The training examples, stored once, and who holds which."""

    inputs: Array  # [M, features], the data set's dtype
    labels: Array  # [M]
    indices: Array  # int32 [sum sizes]
    offsets: Array  # int32 [N]
    sizes: Array  # int32 [N]
    noise: Array | None  # float32 [N]
    rotation: Array | None  # int32 [N]
    label_permutation: Array | None  # int32 [N, C]


def supervised(
    model: str | Model | Any,
    dataset: Dataset,
    partition: Partition,
    *,
    loss: str | LossFn | None = None,
    batch_size: int | None = None,
    sampling: str = WITHOUT_REPLACEMENT,
    regularization: Any = 0.0,
    num_test: int | None = None,
    node_block: int | str | None = "auto",
    dtype: str = "float32",
) -> Problem:
    """f_i(x) = (1/m_i) sum_{e of node i} loss(model(x, e), label_e) + (regularization / 2) ||x||^2.

    `gradient` draws a batch of B of node i's examples and differentiates the same formula on it.  Examples are stored
    once, in their own dtype; a batch is gathered, and becomes float32, when it is used.  A node's feature shift
    (noise, rotation) and label permutation are applied to what it draws.

    `full_gradient` is exact, over all of a node's examples; with feature noise it uses one fixed draw per example.
    `evaluate` uses the data set's test examples, the same for all: `loss` (mean test loss, without the regulariser;
    f itself would cost a pass over all training data) and, for classes, `accuracy`.  Given node ids, each row sees the
    test examples as that node would (its rotation and label permutation, no noise); given None, as they are.  Where the
    partition gives the nodes test examples of their own (`local_test`, or `by_column` of users with tests), `loss_local`
    and `accuracy_local` are means over these, as the node sees them (with one fixed draw of its noise); given None, of
    each model at all nodes, every node weighing the same.

    Args:
      model: `softmax`, `mlp`, `lenet`, a Model, a flax module (Dropout and BatchNorm included: see `from_flax`), or what
        makes a Model (`mlp(hidden=(128, 64))`).
      dataset: from `load` or `dataset`.
      partition: from `partition`.
      loss: `cross_entropy` (the default for classes), `squared` (the default for regression: 1/2 ||output - label||^2,
        labels of classes as one-hot vectors), or a function (outputs [B, ...], labels [B]) -> [B].
      batch_size: B, structural; by default 32, or the size of the smallest node's data if that is less, which is said in
        a warning.
      sampling: `without_replacement` (B different examples) or `with_replacement`.
      regularization: L2 coefficient >= 0; may be traced.
      num_test: use only so many test examples, evenly spaced; structural.
      node_block: nodes at a time; see `map_nodes`.  Changes speed and memory; the result to rounding alone.
      dtype: what parameters are stored, sent and mixed as: "float32", or "bfloat16" for half the bits in memory and on the
        wire; structural.  Models, losses, optimisers and their states reckon in float32 all the same, and so do sums over
        neighbours; what is stored is rounded to 8 bits, and an update of less than 1/512 of a parameter is lost.  Digits,
        500 rounds: 96.3 % of the tests instead of 96.3 % at rate 0.1, 88.0 instead of 89.2 at 0.01, 90.0 instead of 91.7
        with Adam at 0.001, and nodes up to 45 % further apart (`experiments/benchmarks/traffic.py`).

    Cost of a gradient: B forward and backward passes a node; memory for one block's batches and intermediates.  A full
    gradient costs every node as many passes as the largest node has examples.
    """
    where = "supervised"
    checks.instance(where, "dataset", dataset, Dataset, 'Make one: load("digits") or dataset(x, y).')
    fix = "Make one: partition(dataset, num_nodes, iid()) or partition_from_lists(lists)."
    checks.instance(where, "partition", partition, Partition, fix)
    partition = check_partition(partition, dataset, np.size(partition.sizes))
    _check_node_block(node_block)
    model = stored_as(resolve(model, dataset), checks.one_of(where, "dtype", dtype, DTYPES))
    loss_fn = resolve_loss(loss, dataset.num_classes)
    num_nodes = len(partition.sizes)
    batch_size = _batch_size(where, batch_size, sampling, np.asarray(partition.sizes))
    checks.number(where, "regularization", regularization, 0.0)
    examples = _node_data(dataset, partition)
    view = _view(dataset, partition.rotation is not None)
    is_regularized = not checks.is_concrete(regularization) or float(regularization) > 0

    def penalty(params: PyTree) -> Array:
        wide = trees.widen(variables.trained(params))
        return 0.5 * regularization * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(wide))

    def node_loss(params: PyTree, batch: Batch) -> Array:
        total = jnp.mean(loss_fn(model.apply(params, batch.inputs), batch.labels))
        return total + penalty(params) if is_regularized else total

    in_training = variables.training_gradient(model, loss_fn, penalty if is_regularized else lambda params: 0.0)

    def trained(key: Array, params: PyTree, batch: Batch, node_ids: Array, mask: Array | None) -> tuple[PyTree, Array]:
        """Gradients and losses of models that compute otherwise in training: each node draws by a key of its own."""
        own = keys.at_nodes(keys.stream(key, "dropout"), node_ids)
        axes = (0, 0, 0, 0, None if mask is None else 0)
        losses, gradients = jax.vmap(in_training, axes)(own, params, *batch, mask)
        return gradients, losses

    def positions(key: Array, node_ids: Array) -> Array:
        check_rows(where, node_ids, num_nodes)
        sizes = _take(examples.sizes, node_ids)
        return batch_positions(keys.stream(key, "examples"), node_ids, sizes, batch_size, sampling)

    def sample(key: Array, node_ids: Array) -> Batch:
        return view(examples, keys.stream(key, "noise"), node_ids, positions(key, node_ids))

    def gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        # Positions are drawn for all nodes at once, everything else block by block.
        def of_block(params: PyTree, node_ids: Array, drawn: Array) -> tuple[PyTree, Array]:
            batch = view(examples, keys.stream(key, "noise"), node_ids, drawn)
            if model.train is not None:
                return trained(key, params, batch, node_ids, None)
            losses, gradients = jax.vmap(jax.value_and_grad(node_loss))(params, batch)
            return gradients, losses

        return map_nodes(of_block, node_block)(params, node_ids, positions(key, node_ids))

    def gradient_at(key: Array, params: PyTree, node_ids: Array, positions: Array, mask: Array) -> tuple[PyTree, Array]:
        check_rows(where, node_ids, num_nodes)

        def masked_loss(params: PyTree, batch: Batch, mask: Array) -> Array:
            losses = loss_fn(model.apply(params, batch.inputs), batch.labels)
            total = jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(losses.dtype)
            return total + penalty(params) if is_regularized else total

        def of_block(params: PyTree, node_ids: Array, positions: Array, mask: Array) -> tuple[PyTree, Array]:
            batch = view(examples, keys.stream(key, "noise"), node_ids, positions)
            if model.train is not None:
                return trained(key, params, batch, node_ids, mask)
            losses, gradients = jax.vmap(jax.value_and_grad(masked_loss))(params, batch, mask)
            return gradients, losses

        return map_nodes(of_block, node_block)(params, node_ids, positions, mask)

    def full_gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        del key
        check_rows(where, node_ids, num_nodes)

        def summed(params: PyTree, batch: Batch, mask: Array) -> Array:
            return jnp.sum(jnp.where(mask, loss_fn(model.apply(params, batch.inputs), batch.labels), 0.0))

        def of_block(params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
            losses, gradients = _over_all_examples(examples, view, summed, params, node_ids, max_size)
            if is_regularized:
                extra, extra_gradients = jax.vmap(jax.value_and_grad(penalty))(params)
                losses, gradients = losses + extra, jax.tree.map(jnp.add, gradients, extra_gradients)
            return gradients, losses

        return map_nodes(of_block, node_block)(params, node_ids)

    max_size = int(np.max(partition.sizes))
    evaluate, own_tests = _evaluate(model, dataset, examples, loss_fn, num_test, node_block), None
    if partition.local_test is not None:
        seen = _own_view(dataset, partition.local_test, examples, view)
        of_all, own_tests = evaluate, tests_of(seen, partition.local_test)
        of_own = _evaluate_own(model, dataset, partition.local_test, seen, loss_fn, node_block)

        def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
            return {**of_all(params, node_ids), **of_own(params, node_ids)}

    problem = Problem(
        num_nodes=num_nodes,
        init=model.init,
        loss=node_loss,
        sample=sample,
        gradient=gradient,
        full_gradient=full_gradient,
        evaluate=evaluate,
        num_examples=np.asarray(partition.sizes),
        batch_size=batch_size,
        node_block=node_block,
        gradient_at=gradient_at,
        model=model,
        own_tests=own_tests,
    )
    return problem if model.train is None else variables.of_training(problem, model, np.asarray(partition.sizes))


def _batch_size(where: str, batch_size: int | None, sampling: str, sizes: np.ndarray) -> int:
    checks.one_of(where, "sampling", sampling, SAMPLING)
    node = int(np.argmin(sizes))
    smallest = int(sizes[node])
    if batch_size is None:
        if sampling == WITH_REPLACEMENT or smallest >= DEFAULT_BATCH_SIZE:
            return DEFAULT_BATCH_SIZE
        held = f"all that node {node} holds" if smallest < sizes.max() else "all that a node holds"
        other = f'batch_size={smallest} says the same, sampling="with_replacement" allows more'
        notice(where, f"batch_size is {smallest} instead of {DEFAULT_BATCH_SIZE}, {held}; {other}.")
        return smallest
    batch_size = checks.integer(where, "batch_size", batch_size, 1)
    if sampling == WITHOUT_REPLACEMENT and batch_size > smallest:
        rule = f"at most {smallest}, the number of examples of node {node}"
        fix = f'Use batch_size={smallest}, sampling="with_replacement", or a partition with a larger min_size.'
        checks.fail(where, "batch_size", rule, batch_size, fix)
    return batch_size


def _check_node_block(node_block: int | str | None) -> None:
    """Said where the problem is made, and not where it is first used."""
    check_node_block("map_nodes", node_block)


def _node_data(dataset: Dataset, partition: Partition) -> NodeData:
    def optional(values: Any, dtype: Any) -> Array | None:
        return None if values is None else jnp.asarray(values, dtype)

    return NodeData(
        inputs=jnp.asarray(dataset.inputs).reshape(len(dataset.inputs), -1),
        labels=jnp.asarray(dataset.labels),
        indices=jnp.asarray(partition.indices, jnp.int32),
        offsets=jnp.asarray(partition.offsets, jnp.int32),
        sizes=jnp.asarray(partition.sizes, jnp.int32),
        noise=optional(partition.noise, jnp.float32),
        rotation=optional(partition.rotation, jnp.int32),
        label_permutation=optional(partition.label_permutation, jnp.int32),
    )


def _view(dataset: Dataset, rotates: bool) -> Any:
    """`view(examples, key, node_ids [n], positions [n, B]) -> Batch`: a node's examples as its model sees them."""
    shape = tuple(dataset.inputs.shape[1:])
    if rotates and (len(shape) < 2 or shape[0] != shape[1]):
        checks.fail(
            "supervised", "inputs", "square images [M, side, side, ...] to be rotated", [len(dataset.inputs), *shape]
        )

    def view(examples: NodeData, key: Array, node_ids: Array, positions: Array, fixed_noise: bool = False) -> Batch:
        places = _take(examples.offsets, node_ids)[:, None] + positions
        rows = _take(examples.indices, places)
        inputs = model_inputs(_take(examples.inputs, rows), dataset).reshape(*positions.shape, *shape)
        labels = _take(examples.labels, rows)
        if examples.rotation is not None:
            inputs = jax.vmap(_rotate)(inputs, _take(examples.rotation, node_ids))
        if examples.noise is not None:
            num = math.prod(inputs.shape[1:])
            if fixed_noise:  # of the example, whoever asks for it
                drawn = keys.node_normal(key, places.ravel(), math.prod(shape)).reshape(-1, num)
            else:
                drawn = keys.node_normal(key, node_ids, num)
            noise = drawn * _take(examples.noise, node_ids)[:, None]
            inputs = inputs + noise.reshape(inputs.shape)
        if examples.label_permutation is not None:
            labels = _relabel(labels, _take(examples.label_permutation, node_ids))
        return Batch(inputs, labels)

    return view


def _take(array: Array, rows: Array) -> Array:
    # In bounds by construction; the default mode's clipping makes a gather several times slower.
    return array.at[rows].get(mode="promise_in_bounds")


def _rotate(images: Array, turns: Array) -> Array:
    """Images [B, side, side, ...] by `turns` quarter turns, counter-clockwise."""
    turned = [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return jax.lax.select_n(turns, *turned)


def _relabel(labels: Array, permutation: Array) -> Array:
    """labels [n, B], permutation [n, C] -> [n, B]."""
    return jax.vmap(_take)(permutation, labels)


def _over_all_examples(
    examples: NodeData, view: Any, summed: Any, params: PyTree, node_ids: Array, max_size: int
) -> tuple[Array, PyTree]:
    """Mean loss and gradient of each node over all its examples, in chunks so that memory stays bounded."""
    size = min(CHUNK, max_size)
    sizes = _take(examples.sizes, node_ids)
    fixed = jax.random.key(0)

    def add_chunk(total: tuple[Array, PyTree], chunk: Array) -> tuple[tuple[Array, PyTree], None]:
        place = chunk * size + jnp.arange(size)[None, :]
        mask = place < sizes[:, None]
        batch = view(examples, jax.random.fold_in(fixed, chunk), node_ids, jnp.where(mask, place, 0))
        new = jax.vmap(jax.value_and_grad(summed))(params, batch, mask)
        return jax.tree.map(jnp.add, total, new), None

    # Sums over chunks in float32 also where parameters, and so gradients, are stored as less.
    zeros = (jnp.zeros(node_ids.shape, jnp.float32), trees.zeros_like(trees.widen(params)))
    total, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(-(-max_size // size)))

    def mean(leaf: Array) -> Array:
        return leaf / sizes.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    loss, gradient = jax.tree.map(mean, total)
    return loss, trees.cast_like(gradient, params)


def _evaluate(
    model: Model,
    dataset: Dataset,
    examples: NodeData,
    loss_fn: LossFn,
    num_test: int | None,
    node_block: int | str | None,
) -> Any:
    num, chunks = chunks_of_tests("supervised", dataset, num_test)

    def test(params: PyTree, inputs: Array, labels: Array, mask: Array) -> Info:
        outputs = model.apply(params, inputs)
        sums = {"loss": jnp.sum(jnp.where(mask, loss_fn(outputs, labels), 0.0))}
        if dataset.num_classes and outputs.ndim == 2:
            sums["accuracy"] = jnp.sum((jnp.argmax(outputs, axis=-1) == labels) & mask).astype(jnp.float32)
        return sums

    def of_block(params: PyTree, *node_ids: Array) -> Info:
        def chunk_sums(chunk: tuple[Array, Array, Array]) -> Info:
            x, y, kept = model_inputs(chunk[0], dataset), chunk[1], chunk[2]
            axes: list[int | None] = [None, None]
            if node_ids and examples.rotation is not None:
                x, axes[0] = jax.vmap(_rotate, (None, 0))(x, _take(examples.rotation, node_ids[0])), 0
            if node_ids and examples.label_permutation is not None:
                y, axes[1] = _take(examples.label_permutation, node_ids[0])[:, y], 0
            return jax.vmap(test, (0, *axes, None))(params, x, y, kept)

        sums = jax.lax.map(chunk_sums, chunks)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / num, sums)

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        return map_nodes(of_block, node_block)(params, *(() if node_ids is None else (node_ids,)))

    return evaluate


def _own_view(dataset: Dataset, tests: LocalTest, examples: NodeData, view: Any) -> Any:
    """`(node_ids [n], positions [n, B]) -> Batch` of the nodes' own test examples, with one fixed draw of their noise."""
    own = examples._replace(**{name: jnp.asarray(getattr(tests, name), jnp.int32) for name in tests._fields[:3]})
    if not tests.of_training:
        inputs = jnp.asarray(dataset.test_inputs).reshape(len(dataset.test_inputs), -1)
        own = own._replace(inputs=inputs, labels=jnp.asarray(dataset.test_labels))

    def seen(node_ids: Array, positions: Array) -> Batch:
        return view(own, keys.stream(jax.random.key(0), "test noise"), node_ids, positions, fixed_noise=True)

    return seen


def _evaluate_own(
    model: Model, dataset: Dataset, tests: LocalTest, seen: Any, loss_fn: LossFn, node_block: int | str | None
) -> Any:
    def test(params: PyTree, inputs: Array, labels: Array, weights: Array) -> Info:
        outputs = model.apply(params, inputs)
        sums = {"loss": jnp.sum(jnp.where(weights > 0, loss_fn(outputs, labels) * weights, 0.0))}
        if dataset.num_classes and outputs.ndim == 2:
            sums["accuracy"] = jnp.sum((jnp.argmax(outputs, axis=-1) == labels) * weights)
        return sums

    return evaluate_local(seen, test, tests, node_block)
