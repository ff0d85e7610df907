"""Where the nodes' models start: as the problem makes them, one for all or one a node, or from models that are given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Algorithm, Array, ArrivalAlgorithm, EventAlgorithm, InitFn, Problem, PyTree

OWN = "own"  # in place of models: each node draws its own


def starting_models(
    problem: Problem,
    algorithm: Algorithm | EventAlgorithm | ArrivalAlgorithm,
    given: PyTree | None,
    node_ids: Array,
) -> InitFn:
    """`(key) -> models [N, ...]` that a method starts from, or `[...]` for a server of arrivals.

    `given` is None, one model `[...]` for all, or one a node, every leaf `[N, ...]`; or "own": every node draws its own, by
    its id.  What is given becomes constants of the process.
    """
    num = problem.num_nodes
    is_one = isinstance(algorithm, ArrivalAlgorithm)
    if given is not None and "dual_start" in algorithm.requires:
        _fail("left out for a method whose first models follow from its duals, which are zero", "some")
    if isinstance(given, str):
        if given != OWN:
            _fail(f"a model, models or {OWN!r}", repr(given))
        if is_one or algorithm.requires & {"server", "common_start"}:
            _fail("left out for a method whose nodes start alike", repr(given))
        if problem.start is not None:
            _fail("left out for a problem whose nodes start from what it gives", repr(given))

        def own_draws(key: Array) -> PyTree:
            made = jax.vmap(problem.init)(keys.at_nodes(keys.stream(key, "params"), node_ids))
            return jax.tree.map(jnp.asarray, made)

        return own_draws
    if given is None and problem.start is not None and not (is_one or algorithm.requires & {"server", "common_start"}):
        own = problem.start
        return lambda key: jax.tree.map(jnp.array, own(keys.stream(key, "params"), node_ids))  # a copy, as below
    if given is None:

        def drawn(key: Array) -> PyTree:
            model = problem.init(keys.stream(key, "params"))
            return jax.tree.map(jnp.asarray, model) if is_one else trees.replicate(model, num)

        return drawn
    models, is_stacked = _checked(problem, given)
    if is_stacked and (is_one or algorithm.requires & {"server", "common_start"}):
        fix = "Pass one of them, or their mean: jax.tree.map(lambda leaf: leaf.mean(0), models)."
        _fail("one model for a method whose nodes start alike", "one a node", fix)

    def start(key: Array) -> PyTree:
        del key
        if is_stacked or is_one:  # a copy: the state is given away to the steps, the constants are not
            return jax.tree.map(jnp.array, models)
        return jax.tree.map(jnp.array, trees.replicate(models, num))

    return start


def _checked(problem: Problem, given: PyTree) -> tuple[PyTree, bool]:
    """The models as arrays, and whether there is one a node."""
    like = jax.eval_shape(problem.init, jax.random.key(0))
    wanted: Any = jax.tree.structure(like)
    if jax.tree.structure(given) != wanted:
        _fail(f"a tree like the problem's model, {wanted}", str(jax.tree.structure(given)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(like)[0]]
    found, likes = jax.tree.leaves(given), jax.tree.leaves(like)
    for path, leaf in zip(paths, found, strict=True):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float):
            _fail(f"arrays{f', at {path}' if path else ''}", checks.describe(leaf))
    leaves = [jnp.asarray(leaf) for leaf in found]
    is_stacked = bool(leaves) and leaves[0].shape == (problem.num_nodes, *likes[0].shape)
    for path, leaf, one in zip(paths, leaves, likes, strict=True):
        wanted_shape = (problem.num_nodes, *one.shape) if is_stacked else one.shape
        if leaf.shape != wanted_shape or leaf.dtype != one.dtype:
            rule = f"{one.dtype} {list(one.shape)}, or {[problem.num_nodes, *one.shape]} with one a node"
            _fail(f"{rule}, at {path}" if path else rule, f"{leaf.dtype} {list(leaf.shape)}")
        checks.finite("learn", f"initial_params{path}", leaf)
    return jax.tree.unflatten(wanted, leaves), is_stacked


def _fail(rule: str, got: Any, fix: str = "") -> None:
    checks.fail("learn", "initial_params", rule, got, fix)
