"""Vectors that are given, of which the nodes want the mean."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems.blocks import check_rows


def consensus(values: PyTree) -> Problem:
    """Node i holds the vector v_i and starts from it; all want the mean, the optimum of the mean of

        f_i(x) = 1/2 ||x - v_i||^2

    There are no data and no noise.  Methods that compute no gradients (`gossip`, `push_sum`, `randomized_gossip`) average
    the vectors; methods that do are told x - v_i, and `choco_sgd(problem, optax.sgd(0.0))` is CHOCO-Gossip.  Methods whose
    nodes start from one model (a server's, `decentralized_admm`) start from zero.

    `evaluate` gives `loss` f and `distance` ||x - mean||^2, squared, to the mean of what was given.  So a run measures

        distance           (1/N) sum_i ||x_i - mean||^2, the error: what is left to agree on and what was lost of the mean,
        consensus_distance (1/N) sum_i ||x_i - x_mean||^2, the first of the two,
        distance_of_mean   ||x_mean - mean||^2, the second: zero up to rounding while the sum is conserved.

    Args:
      values: v `[N, ...]`, or a tree of such arrays; may be traced, so that they can be swept.  Integers become floats.
    """
    given, num_nodes = _checked(values)
    mean = jax.tree.map(_mean, given)
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf, _float_type(leaf)), given)
    spread = jnp.mean(trees.squared_norm(trees.subtract(rows, jax.tree.map(lambda leaf: leaf[None], mean))))

    def own(node_ids: Array) -> PyTree:
        check_rows("consensus", node_ids, num_nodes)
        return trees.take(rows, node_ids)

    def full_gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        del key
        difference = trees.subtract(params, own(node_ids))
        return difference, trees.squared_norm(difference) / 2

    def loss(params: PyTree, batch: PyTree) -> Array:
        apart = jax.tree.map(lambda x, v: jnp.broadcast_to(x, v.shape) - v, params, batch)
        return jnp.mean(trees.squared_norm(apart)) / 2

    def proximal(params: PyTree, rho: Any, node_ids: Array) -> PyTree:
        # y - v + rho (y - x) = 0
        rho = jnp.asarray(rho)

        def leaf(v: Array, x: Array) -> Array:
            weight = (trees.expand(rho, x) if rho.ndim else rho).astype(x.dtype)
            return (v + weight * x) / (1 + weight)

        return jax.tree.map(leaf, own(node_ids), params)

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        del node_ids  # the mean is the same for all
        distance = trees.squared_norm(trees.subtract(params, jax.tree.map(lambda leaf: leaf[None], mean)))
        return {"loss": (distance + spread) / 2, "distance": distance}

    return Problem(
        num_nodes=num_nodes,
        init=lambda key: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), rows),
        loss=loss,
        sample=lambda key, node_ids: jax.tree.map(lambda leaf: leaf[:, None], own(node_ids)),
        gradient=full_gradient,
        full_gradient=full_gradient,
        evaluate=evaluate,
        num_examples=np.ones(num_nodes, np.int32),
        optimum=mean,
        proximal=proximal,
        smoothness=lambda: 1.0,
        start=lambda key, node_ids: own(node_ids),
    )


def _checked(values: PyTree) -> tuple[PyTree, int]:
    """The leaves as arrays of finite numbers that lead with one N, and N."""
    rule = "numbers, leaves [N, ...] for one N"
    leaves, treedef = jax.tree.flatten(values)
    if isinstance(values, list | tuple) and all(isinstance(leaf, int | float) for leaf in leaves):
        leaves, treedef = [values], jax.tree.structure(0)  # rows of numbers are one array
    made = []
    for leaf in leaves or [values]:
        one = leaf if isinstance(leaf, jax.core.Tracer) else checks.host("consensus", "values", leaf, rule)
        if not one.ndim or not one.shape[0] or not checks.is_real_type(one.dtype):
            checks.fail("consensus", "values", rule, checks.describe(leaf))
        checks.finite("consensus", "values", one)
        made.append(one)
    sizes = sorted({one.shape[0] for one in made})
    if len(sizes) > 1:
        checks.fail("consensus", "values", rule, f"leading sizes {sizes}")
    return jax.tree.unflatten(treedef, made), sizes[0]


def _float_type(leaf: Any) -> Any:
    """The leaf's own type of floats, in as many bits as JAX works with; of integers the usual one."""
    is_float = jax.dtypes.issubdtype(leaf.dtype, np.floating)
    return jax.dtypes.canonicalize_dtype(leaf.dtype if is_float else np.float64)


def _mean(leaf: Any) -> Array:
    """Over the nodes; in float64 where the values are known."""
    if isinstance(leaf, jax.core.Tracer):
        return jnp.mean(leaf.astype(_float_type(leaf)), axis=0)
    return jnp.asarray(np.mean(leaf.astype(np.float64), axis=0), _float_type(leaf))
