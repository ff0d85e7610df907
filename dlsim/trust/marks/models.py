"""Whether what is given are models of a problem, and flags of its nodes."""

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


def flags(where: str, name: str, value: Any, num: int) -> np.ndarray:
    """True or False for each of `num` nodes."""
    checks.known(where, name, value)
    rule = f"True or False for each of {num} nodes"
    got = checks.host(where, name, value, rule)
    if got.shape != (num,) or got.dtype != bool:
        checks.fail(where, name, rule, checks.describe(value))
    return got
