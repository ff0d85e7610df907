"""What is measured of a population of models."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import Array, Info, Problem, PyTree


def consensus_distance(params: PyTree) -> Array:
    """(1/N) sum_i ||x_i - x_mean||^2, float32 `[]`: squared, mean over nodes."""
    _check_rows("consensus_distance", params)
    params = trees.widen(params)
    centred = jax.tree.map(lambda leaf: leaf - jnp.mean(leaf, axis=0, keepdims=True), params)
    return jnp.mean(trees.squared_norm(centred))


@checks.typed
def population(problem: Problem, params: PyTree, node_ids: Array | None = None) -> Info:
    """Every metric of `problem.evaluate`, as its mean over the models `[n, ...]` and of their mean, and their spread.

    `<name>` is the mean over nodes of the metric of their own models, `<name>_of_mean` the metric of the mean model.
    """
    num = _check_rows("population", params)
    if num == 1:
        single = {name: value[0] for name, value in problem.evaluate(params, None).items()}
        of_mean = {f"{name}_of_mean": value for name, value in single.items()}
        return {**single, **of_mean, "consensus_distance": jnp.zeros((), jnp.float32)}
    # Two calls: the mean model is one more row, but joining it to the others would copy them all.
    own = {name: jnp.mean(value) for name, value in problem.evaluate(params, node_ids).items()}
    centre = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0, keepdims=True), trees.widen(params))
    of_mean = {f"{name}_of_mean": value[0] for name, value in problem.evaluate(centre, None).items()}
    return {**own, **of_mean, "consensus_distance": consensus_distance(params)}


def _check_rows(where: str, params: PyTree) -> int:
    """How many models these are, n: every leaf `[n, ...]` of real numbers."""
    leaves = jax.tree.leaves(params)
    shapes: list[tuple[int, ...]] = [getattr(leaf, "shape", ()) for leaf in leaves]
    for leaf, shape in zip(leaves or [params], shapes or [()], strict=True):
        if not shape or shape[0] != shapes[0][0] or not checks.is_real_type(leaf.dtype):
            checks.fail(where, "params", "of leaves [n, ...] for one n", checks.describe(leaf))
    return shapes[0][0]
