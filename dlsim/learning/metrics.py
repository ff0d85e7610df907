"""What is measured of a population of models."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.networks.network import Network


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


def disagreement(outputs: Array, network: Network | None = None) -> Array:
    """How much the nodes' functions differ: the share of pairs of nodes and of inputs whose predictions are not the same.

        (1/M) sum_m  share of pairs (i, j), i != j, with  argmax outputs[i, m] != argmax outputs[j, m]

    over all pairs, or those that the network links (both directions, each with the same weight).  float32 `[]`, 0 to 1; 0 for
    a single node.  It means something where `consensus_distance` does not: networks that compute the same may lie far apart,
    as those whose hidden units stand in another order do.  All pairs are counted class by class, without a list of them.

    Args:
      outputs: of every node on the same inputs, `[N, M, C]`: `jax.vmap(problem.model.apply, (0, None))(params, inputs)`,
        with inputs as of `dlsim.problems.shared_inputs`.
      network: whose edges are the pairs, by position.
    """
    if getattr(outputs, "ndim", 0) != 3 or 0 in outputs.shape:
        checks.fail("disagreement", "outputs", "of shape [N, M, C]", checks.describe(outputs))
    num, _, num_classes = outputs.shape
    predicted = jnp.argmax(outputs, axis=2)
    if network is not None:
        checks.instance("disagreement", "network", network, Network, "Leave it out for all pairs.")
        if network.num_nodes != num:
            checks.fail("disagreement", "network", f"of the {num} nodes of outputs", f"{network.num_nodes} nodes")
    if num == 1:
        return jnp.zeros((), jnp.float32)
    if network is None or network.is_implicit:
        votes = jnp.sum(jax.nn.one_hot(predicted, num_classes, dtype=jnp.float32), axis=0)  # [M, C]
        return jnp.mean(num**2 - jnp.sum(votes * votes, axis=1)) / (num * (num - 1))
    differ = jnp.mean(predicted[network.senders] != predicted[network.receivers], axis=1, dtype=jnp.float32)
    counts = jnp.ones_like(differ) if network.is_edge is None else network.is_edge.astype(jnp.float32)
    return jnp.sum(differ * counts) / jnp.maximum(jnp.sum(counts), 1)


def _check_rows(where: str, params: PyTree) -> int:
    """How many models these are, n: every leaf `[n, ...]` of real numbers."""
    leaves = jax.tree.leaves(params)
    shapes: list[tuple[int, ...]] = [getattr(leaf, "shape", ()) for leaf in leaves]
    for leaf, shape in zip(leaves or [params], shapes or [()], strict=True):
        if not shape or shape[0] != shapes[0][0] or not checks.is_real_type(leaf.dtype):
            checks.fail(where, "params", "of leaves [n, ...] for one n", checks.describe(leaf))
    return shapes[0][0]
