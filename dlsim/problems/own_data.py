"""What nodes find out about models, their own and others', on their own data: the one way, for every rule that judges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.blocks import check_rows, map_nodes

ON = ("batch", "all")


def own_losses(problem: Problem, key: Array, models: PyTree, node_ids: Array | None, *, on: str = "batch") -> Array:
    """What each of K models a node loses on the node's own data, `[n, K]`; no gradient is taken and nothing is sent.

    Args:
      problem: whose loss and data.
      key: of the draw.  It is the same for all models of a node, and with the same key for other models too.
      models: every leaf `[n, K, ...]`: what a node heard (`inbox.values`), or its own (`leaf[:, None]`).
      node_ids: int32 `[n]` whose data: `inbox.node_ids`.  A server has none, and is refused.
      on: `"batch"`: on one batch of the problem's size, drawn as for a gradient; `"all"`: on all of a node's data.

    Cost: K forward passes a node (with `"all"` as many as the largest node has batches), block by block (`map_nodes`).
    """
    where = "own_losses"
    whose = _check(where, problem, models, node_ids)
    checks.key(where, "key", key)
    checks.one_of(where, "on", on, ON)

    if on == "all":  # in blocks of its own

        def losses(models: PyTree) -> Array:
            return problem.full_gradient(key, models, whose)[1]

        return jax.vmap(losses, in_axes=1, out_axes=1)(models)

    def of_block(models: PyTree, node_ids: Array) -> Array:
        of_models = jax.vmap(problem.loss, in_axes=(0, None))
        return jax.vmap(of_models)(models, problem.sample(key, node_ids))

    return map_nodes(of_block, problem.node_block)(models, whose)  # type: ignore[no-any-return]


def own_outputs(problem: Problem, models: PyTree, node_ids: Array | None) -> tuple[Array, Array, Array]:
    """Outputs of K models a node on the node's own test examples, `[n, K, T, C]`; their labels and which there are, `[n, T]`.

    Args:
      problem: one whose nodes hold test examples of their own (`dlsim.problems.local_test`).
      models, node_ids: as in `own_losses`.
    """
    where = "own_outputs"
    whose = _check(where, problem, models, node_ids)
    check_own_tests(where, problem)

    def of_block(models: PyTree, node_ids: Array) -> tuple[Array, Array, Array]:
        batch, mask = problem.own_tests(node_ids)  # type: ignore[misc]
        of_models = jax.vmap(problem.model.apply, in_axes=(0, None))  # type: ignore[union-attr]
        return jax.vmap(of_models)(models, batch.inputs), batch.labels, mask

    return map_nodes(of_block, problem.node_block)(models, whose)  # type: ignore[no-any-return]


def check_own_tests(where: str, problem: Problem) -> None:
    """Refuse a problem whose nodes have nothing of their own to test a model on."""
    if problem.own_tests is None or problem.model is None:
        fix = "Use classification(..., test_per_node=0.2), or partition with local_test."
        checks.fail(where, "problem", "one whose nodes hold test examples of their own", "one without", fix)


def num_classes_of(where: str, problem: Problem) -> int:
    """C of a problem of an output layer alone, whose every array leads with it; refuses any other."""
    check_own_tests(where, problem)
    model = jax.eval_shape(problem.init, jax.random.key(0))
    batch, _ = jax.eval_shape(problem.own_tests, jax.ShapeDtypeStruct((1,), jnp.int32))  # type: ignore[arg-type]
    inputs = jax.ShapeDtypeStruct(batch.inputs.shape[1:], batch.inputs.dtype)
    outputs = jax.eval_shape(problem.model.apply, model, inputs)  # type: ignore[union-attr]
    shapes = [leaf.shape for leaf in jax.tree.leaves(model)]
    if any(shape[:1] != outputs.shape[-1:] for shape in shapes) or len(shapes) > 2:
        got = ", ".join(str(list(shape)) for shape in shapes[:4])
        fix = "Freeze the rest: softmax_regression() on features of a fixed network."
        checks.fail(where, "problem", f"one of an output layer alone, arrays [{outputs.shape[-1]}, ...]", got, fix)
    return int(outputs.shape[-1])


def _check(where: str, problem: Any, models: PyTree, node_ids: Array | None) -> Array:
    """The nodes, whose data are asked for."""
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    if node_ids is None:
        fix = "Use a rule that judges by data where nodes meet: dsgd(..., aggregator=...)."
        checks.fail(where, "node_ids", "those of nodes with data of their own", "None, as at a server", fix)
    if getattr(node_ids, "ndim", None) != 1 or not jnp.issubdtype(node_ids.dtype, jnp.integer):
        checks.fail(where, "node_ids", "an array of integers [n]", checks.describe(node_ids), "Pass inbox.node_ids.")
    leaves, num = jax.tree.leaves(models), node_ids.shape[0]
    if not leaves or any(getattr(leaf, "ndim", 0) < 2 or leaf.shape[0] != num for leaf in leaves):
        got = (
            checks.describe(models)
            if len(leaves) < 2
            else ", ".join(sorted({checks.describe(leaf) for leaf in leaves}))
        )
        checks.fail(
            where, "models", f"arrays [{num}, K, ...] like {num} models", got, "One model a node: leaf[:, None]."
        )
    check_rows(where, node_ids, problem.num_nodes)
    if problem.model is not None:
        check_models(where, "models", jax.eval_shape(problem.init, jax.random.key(0)), models, 2)
    return node_ids


def check_models(where: str, argument: str, example: PyTree, given: PyTree, num_axes: int = 0) -> None:
    """Refuse what is not of the structure and shapes of the problem's model, behind so many further axes."""
    like, found = jax.tree_util.tree_leaves_with_path(example), jax.tree_util.tree_leaves_with_path(given)
    fix = "All nodes need the same layers and widths."
    if str(jax.tree.structure(example)) != str(jax.tree.structure(given)):
        names = ", ".join(jax.tree_util.keystr(path) for path, _ in found[:4])
        got = f"arrays {names}" if names.strip(", ") else checks.describe(given)
        checks.fail(where, argument, "of the problem's structure", got, fix)
    for (path, one), (_, leaf) in zip(like, found, strict=True):
        name = jax.tree_util.keystr(path)
        if not hasattr(leaf, "dtype") or not checks.is_real_type(leaf.dtype):
            checks.fail(where, argument, f"real numbers at {name}", checks.describe(leaf), fix)
        if tuple(leaf.shape[num_axes:]) != tuple(one.shape):
            rule = f"of shape {list(one.shape)} at {name}"
            checks.fail(where, argument, rule, list(leaf.shape[num_axes:]), fix)
