"""Nodes that train the classes they hold, and leave what they heard of others alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.maps import without_maps
from dlsim.problems.own_data import num_classes_of


def own_classes(problem: Problem) -> Problem:
    """The problem with gradients of the output columns of a node's own classes alone; those of the others are zero.

        g_c <- g_c where c is a class of node i's own test examples, else 0

    Softmax pushes the outputs of classes that a node never sees down, and so undoes what it heard of them.  With any
    optimiser whose step is zero where gradients always were this is a training step from consolidated weights of which only
    the own columns are kept (CWR).

    Args:
      problem: one whose nodes hold test examples of their own, and whose parameters lead with the classes; `bristle`.
    Source: Verbraeken, de Vos and Pouwelse, Bristle, 2021; Lomonaco and Maltoni, CORe50, CoRL 2017 (CWR).
    """
    where = "own_classes"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    num_classes = num_classes_of(where, problem)
    assert problem.own_tests is not None
    with jax.ensure_compile_time_eval():
        batch, mask = problem.own_tests(jnp.arange(problem.num_nodes, dtype=jnp.int32))
        held = jnp.any((batch.labels[:, :, None] == jnp.arange(num_classes)) & mask[:, :, None], axis=1)

    def of_own(gradients: PyTree, node_ids: Array) -> PyTree:
        rows = held.at[node_ids].get(mode="promise_in_bounds")
        return jax.tree.map(lambda leaf: jnp.where(trees.expand(rows, leaf), leaf, 0), gradients)

    def wrapped(gradient: Any) -> Any:
        def of_nodes(key: Array, params: PyTree, node_ids: Array, *more: Array) -> tuple[PyTree, Array]:
            gradients, losses = gradient(key, params, node_ids, *more)
            return of_own(gradients, node_ids), losses

        return of_nodes

    changed = {name: wrapped(getattr(problem, name)) for name in ("gradient", "full_gradient", "gradient_at")}
    return without_maps(problem)._replace(**changed)
