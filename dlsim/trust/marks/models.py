"""Whether what is given are models of a problem, leaves of them, and flags of its nodes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dlsim import checks
from dlsim.core import Problem, PyTree


def check_model(where: str, problem: Problem) -> None:
    """A problem that has a model."""
    if problem.model is None:
        checks.fail(where, "problem", "one with a model, as of supervised or classification", "one without")


def model_of(problem: Problem) -> Any:
    """The model of a problem that has one (`check_model`)."""
    return problem.model


def check_models(where: str, problem: Problem, params: PyTree, stacked: bool) -> None:
    """One model of the problem, `[...]`, or some, every leaf `[n, ...]`."""
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    leaves, wanted = jax.tree.leaves(params), jax.tree.leaves(shapes)
    own = [getattr(leaf, "shape", None) for leaf in leaves]
    lead = own[0][:1] if stacked and own and own[0] else ()
    structures: tuple[Any, Any] = jax.tree.structure(params), jax.tree.structure(shapes)
    alike = structures[0] == structures[1] and len(lead) == int(stacked)
    if not alike or any(one != (*lead, *other.shape) for one, other in zip(own, wanted, strict=True)):
        rule = "models of the problem, every leaf [n, ...]" if stacked else "one model of the problem, [...]"
        checks.fail(where, "params", rule, checks.describe(params))


def named_leaf(where: str, shapes: PyTree, carrier: str) -> tuple[int, str, tuple[int, ...]]:
    """`(place among the leaves, whole path, shape)` of the leaf with this name, or whose path ends with it."""
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        named["/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)] = leaf
    found = [name for name in named if name == carrier or name.endswith(f"/{carrier}")]
    if not carrier or not found:
        checks.one_of(where, "carrier", carrier, named)
    if len(found) > 1:
        checks.fail(where, "carrier", "the name of one leaf", f"{carrier!r} for {', '.join(found)}")
    shape = tuple(named[found[0]].shape)
    if not shape:
        checks.fail(where, "carrier", "a leaf of one dimension or more", found[0])
    return list(named).index(found[0]), found[0], shape


def flags(where: str, name: str, value: Any, num: int) -> np.ndarray:
    """True or False for each of `num` nodes."""
    checks.known(where, name, value)
    rule = f"True or False for each of {num} nodes"
    got = checks.host(where, name, value, rule)
    if got.shape != (num,) or got.dtype != bool:
        checks.fail(where, name, rule, checks.describe(value))
    return got
