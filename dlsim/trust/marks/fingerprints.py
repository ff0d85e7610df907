"""Fingerprints: points beside a model's own decision boundary, which no training had to put there."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Problem, PyTree
from dlsim.trust.marks.models import check_model, check_models, model_of


class Fingerprint(NamedTuple):
    """Points just inside, and how the model labels them."""

    points: Array  # float32 [2m, ...] as a model sees them
    labels: Array  # int32 [2m]


@checks.typed
def boundary_fingerprint(
    problem: Problem, params: PyTree, inputs: np.ndarray, num_pairs: int, *, num_steps: int = 12, seed: int = 0
) -> Fingerprint:
    """Points on both sides of the boundary between pairs of inputs that the model tells apart.

    Pairs (a, b) of different predicted classes are drawn; the segment is halved `num_steps` times between the last point
    that is labelled as a and the first that is not. Both ends are kept with the model's labels.

    Args:
      problem: whose model it is.
      params: the model, `[...]`.
      inputs: test points as a model sees them, `[M, ...]`: see `dlsim.problems.shared_inputs`.
      num_pairs: m.
      num_steps: halvings, structural: more, and the points lie closer to the boundary, and a copy is told from its original.
      seed: of the pairs.
    Raises ValueError where the model gives all inputs one class.
    Source: after Lukas, Zhang and Kerschbaum, Deep neural network fingerprinting by conferrable adversarial examples, ICLR
      2021.  Differs: no adversarial examples are sought; the segment to the boundary is bisected.
    """
    where = "boundary_fingerprint"
    m = checks.integer(where, "num_pairs", num_pairs, 1)
    num_steps = checks.integer(where, "num_steps", num_steps, 1, 60)
    check_model(where, problem)
    given = checks.array(where, "inputs", inputs)
    if isinstance(given, jax.core.Tracer) or np.ndim(given) < 2 or len(given) < 2:
        checks.fail(where, "inputs", "two points or more, [M, ...]", checks.describe(inputs))
    apply = _answers(where, problem, params, given)
    given = jnp.asarray(given, jnp.float32)
    classes = np.asarray(apply(given))
    if (classes == classes[0]).all():
        checks.fail(where, "params", "a model that tells the inputs apart", f"class {classes[0]} for all of them")
    key = keys.stream(jax.random.key(checks.seed(where, seed)), "fingerprint")
    return boundary_points(key, model_of(problem).apply, params, given, m, num_steps)


def boundary_points(
    key: Array, apply: Any, params: PyTree, inputs: Array, num_pairs: int, num_steps: int
) -> Fingerprint:
    """`boundary_fingerprint` unchecked, for models inside a program; pairs are alike where all inputs are of one class."""

    def answers(x: Array) -> Array:
        return jnp.argmax(apply(params, x), axis=-1).astype(jnp.int32)

    classes = answers(inputs)
    draws = keys.node_uniform(key, jnp.arange(num_pairs), len(inputs) + 1)
    first = (draws[:, 0] * len(inputs)).astype(jnp.int32)
    own = classes[first]
    second = jnp.argmax(jnp.where(own[:, None] == classes, -1.0, draws[:, 1:]), axis=1)  # uniform among other classes

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        inside, outside = ends
        middle = 0.5 * (inside + outside)
        is_own = (answers(middle) == own).reshape(-1, *(1,) * (middle.ndim - 1))
        return jnp.where(is_own, middle, inside), jnp.where(is_own, outside, middle)

    points = jnp.concatenate(jax.lax.fori_loop(0, num_steps, halve, (inputs[first], inputs[second])))
    return Fingerprint(points, answers(points))


def _answers(where: str, problem: Problem, params: PyTree, inputs: np.ndarray) -> Any:
    """The model's classes of a batch; refuses what is no model of the problem, or no input of it."""
    check_models(where, problem, params, stacked=False)
    batch = jax.eval_shape(problem.sample, jax.random.key(0), jnp.arange(1)).inputs
    checks.shape(where, "inputs", inputs, (None, *batch.shape[2:]))
    return jax.jit(lambda x: jnp.argmax(model_of(problem).apply(params, x), axis=-1))


@checks.typed
def match_rate(problem: Problem, fingerprint: Fingerprint, params: PyTree) -> Array:
    """Share of the points that each suspect labels as the fingerprinted model did, float32 `[n]`; 1 for the model itself.

    Args:
      problem: whose model suspects have.
      fingerprint: from `boundary_fingerprint`.
      params: suspects, every leaf `[n, ...]`.
    """
    where = "match_rate"
    check_model(where, problem)
    check_models(where, problem, params, stacked=True)

    def of_one(one: PyTree) -> Array:
        answers = jnp.argmax(model_of(problem).apply(one, fingerprint.points), axis=-1)
        return jnp.mean(answers == fingerprint.labels, dtype=jnp.float32)

    return jax.lax.map(of_one, params)
