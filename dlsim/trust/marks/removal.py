"""Attacks on marks: pruning, quantising, copying by answers, taking part without training.

Fine-tuning is a run of the problem without its watermark from the marked model (`learn(..., initial_params=)`), overwriting
one with marks of the attacker's own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.data import Dataset
from dlsim.problems.maps import without_maps
from dlsim.problems.variables import trained, with_trained
from dlsim.trust.marks.models import check_model, check_models, flags, model_of

EXACT_BITS = 32
MOST_BITS = 16  # below float32's own precision


def _leaves(where: str, params: PyTree) -> None:
    for leaf in jax.tree.leaves(params) or [None]:
        if getattr(leaf, "dtype", None) is None or not jnp.issubdtype(leaf.dtype, jnp.floating):
            checks.fail(where, "params", "a model of arrays of floats", checks.describe(params))


def prune_weights(params: PyTree, fraction: Any) -> PyTree:
    """The model without the `fraction` of numbers of least magnitude, per tensor: floor(fraction * size) become 0.

    Args:
      params: one model, `[...]`; `vmap` it over several.  Running statistics stay.
      fraction: in [0, 1]; 0 changes nothing; may be traced, so that a sweep of ratios is one program.
    """
    where = "prune_weights"
    checks.probability(where, "fraction", fraction)
    _leaves(where, trained(params))

    def pruned(leaf: Array) -> Array:
        order = jnp.argsort(jnp.abs(leaf).reshape(-1))
        rank = jnp.zeros(leaf.size, jnp.int32).at[order].set(jnp.arange(leaf.size, dtype=jnp.int32))
        # A hair more than the product, so that 0.3 of 10 is 3 in float32 too.
        out = jnp.floor(jnp.asarray(fraction, jnp.float32) * leaf.size * (1 + 1e-6)).astype(jnp.int32)
        return jnp.where(rank.reshape(leaf.shape) < out, 0, leaf).astype(leaf.dtype)

    return with_trained(params, jax.tree.map(pruned, trained(params)))


def quantize_weights(params: PyTree, bits: int) -> PyTree:
    """The model on 2^bits equal steps between the least and the largest number of each tensor, rounded to nearest.

        w <- low + round((w - low) / step) step,   step = (high - low) / (2^bits - 1)

    Args:
      params: one model, `[...]`; `vmap` it over several.  Running statistics stay.
      bits: 1 to 16, structural, or 32: the model as it is.
    """
    where = "quantize_weights"
    bits = checks.integer(where, "bits", bits, 1, EXACT_BITS)
    if MOST_BITS < bits < EXACT_BITS:
        checks.fail(where, "bits", f"in [1, {MOST_BITS}], or {EXACT_BITS}", bits)
    _leaves(where, trained(params))
    if bits == EXACT_BITS:
        return params

    def rounded(leaf: Array) -> Array:
        low, high = jnp.min(leaf), jnp.max(leaf)
        step = (high - low) / (2**bits - 1)
        safe = jnp.where(step > 0, step, 1)
        return jnp.where(step > 0, low + jnp.round((leaf - low) / safe) * safe, leaf).astype(leaf.dtype)

    return with_trained(params, jax.tree.map(rounded, trained(params)))


@checks.typed
def free_riding(problem: Problem, riders: np.ndarray, *, noise: float | Array = 0.0) -> Problem:
    """The same problem, in which some nodes only pretend to train: their gradient is noise, whatever the model is.

    With a server they send back what they got, and noise; over a network they mix as others do.  They pretend a loss of 0.

    Args:
      riders: bool `[N]`.
      noise: standard deviation of each number of a rider's gradient, >= 0; may be traced.
    Source: Li et al., FedIPR, 2022, where bits that are missing give them away.
    """
    where = "free_riding"
    checks.number(where, "noise", noise, 0.0)
    rides = jnp.asarray(flags(where, "riders", riders, problem.num_nodes))

    def by(oracle: Any) -> Any:
        def gradient(key: Array, params: PyTree, node_ids: Array, *batch: Array) -> tuple[PyTree, Array]:
            plain, losses = oracle(key, params, node_ids, *batch)
            leaves, shape = jax.tree.flatten(plain)
            drawn = [
                keys.node_normal(keys.fold_in(keys.stream(key, "riders"), place), node_ids, leaf[0].size)
                for place, leaf in enumerate(leaves)
            ]
            made = [(noise * z).reshape(leaf.shape).astype(leaf.dtype) for z, leaf in zip(drawn, leaves, strict=True)]
            idle = rides[node_ids]
            return trees.select(idle, jax.tree.unflatten(shape, made), plain), jnp.where(idle, 0.0, losses)

        return gradient

    if problem.with_statistics is not None:
        checks.fail(where, "problem", "one whose model keeps no running statistics", "one with BatchNorm")
    at = problem.gradient_at
    return without_maps(problem)._replace(
        loss=None,
        gradient=by(problem.gradient),
        full_gradient=by(problem.full_gradient),
        gradient_at=None if at is None else by(at),
        smoothness=None,
        strong_convexity=None,
        optimum=None,
    )


@checks.typed
def labelled_by(dataset: Dataset, problem: Problem, params: PyTree) -> Dataset:
    """The same training examples with the labels that a model gives them: what its thief trains a copy on (extraction).

    Args:
      dataset: whose training examples are asked; its test examples stay as they are.
      problem: whose model answers.
      params: the model, `[...]`.
    """
    where = "labelled_by"
    check_model(where, problem)
    if not dataset.num_classes:
        checks.fail(where, "dataset", "one with classes", "a regression")
    check_models(where, problem, params, stacked=False)
    apply = jax.jit(lambda x: jnp.argmax(model_of(problem).apply(params, x), axis=-1))
    inputs = (np.asarray(dataset.inputs, np.float32) - dataset.offset) * dataset.scale
    answers = [np.asarray(apply(inputs[i : i + 1024])) for i in range(0, len(inputs), 1024)]
    return dataset._replace(labels=np.concatenate(answers).astype(np.int32))
