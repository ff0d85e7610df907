"""Models that work with a secret key alone: authorisation before the fact, where marks prove ownership after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems.maps import without_maps
from dlsim.problems.variables import trained, with_trained
from dlsim.trust.marks.models import named_leaf

SOURCE = "Chakraborty, Mondal and Srivastava, DAC 2020"


class ModelLock(NamedTuple):
    """A secret bit for every unit of a layer."""

    signs: Array  # float32 [d], -1 or 1
    turn: Callable[[PyTree, Array], PyTree]  # (params [...], signs [d]) -> params whose units are multiplied by them


@checks.typed
def model_lock(problem: Problem, carrier: str, *, axis: int = -1, seed: int = 0) -> ModelLock:
    """A key of one bit a unit, uniform in {-1, 1}: draws of (seed, unit) alone.

    Args:
      problem: whose parameters are locked.
      carrier: the name of a leaf of the parameters, or the end of its path, as in "scale" or "Dense_0/kernel".
      axis: of the units: -1 in flax's layers, 0 in those of `dlsim.problems.mlp`.
      seed: of the key.
    """
    where = "model_lock"
    place, name, shape = named_leaf(where, trained(jax.eval_shape(problem.init, jax.random.key(0))), carrier)
    axis = checks.integer(where, "axis", axis, -len(shape), len(shape) - 1) % len(shape)
    key = keys.stream(jax.random.key(checks.seed(where, seed)), "model lock")
    drawn = keys.node_bits(key, jnp.arange(shape[axis]), 1)[:, 0]

    def turn(params: PyTree, signs: Array) -> PyTree:
        leaves, form = jax.tree.flatten(trained(params))
        if getattr(leaves[place] if place < len(leaves) else None, "shape", None) != shape:
            checks.fail("lock_weights", "params", f"a model with {name} {list(shape)}", checks.describe(params))
        wide = signs.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        leaves[place] = leaves[place] * wide.astype(leaves[place].dtype)
        return with_trained(params, jax.tree.unflatten(form, leaves))

    return ModelLock(1.0 - 2.0 * (drawn & 1).astype(jnp.float32), turn)


@checks.typed
def lock_weights(lock: ModelLock, params: PyTree) -> PyTree:
    """The model with the weights of unit j multiplied by s_j: locked if it was not, and unlocked, bit for bit, if it was.

    Args:
      lock: from `model_lock`; who guesses the key has another one with `lock._replace(signs=...)`.
      params: one model, `[...]`; `vmap` it over several.
    """
    checks.shape("lock_weights", "lock.signs", lock.signs, (None,))
    return lock.turn(params, lock.signs)


@checks.typed
def locked_problem(problem: Problem, lock: ModelLock) -> Problem:
    """The same problem for nodes that hold the key, and start, keep, send and mix locked models:

        f'_k(x) = f_k(L x),   grad f'_k(x) = L grad f_k(L x),   L = diag(1, ..., s_1, ..., s_d, ..., 1),   L L = 1

    Every method that treats a number and its negative alike (SGD, momentum, Adam, means, medians) walks the mirror image of
    the way it walks without: a locked model is as good as the plain one to those who hold the key, and to nobody else:
    `problem.evaluate` measures what others get.  The weights of all leaves but one are as they were: locks of several
    layers are locks of locked problems.  Closed proximal maps are gone.

    Args:
      lock: from `model_lock` of this problem.
    Source: Chakraborty, Mondal and Srivastava, Hardware-assisted intellectual property protection of deep learning models,
      DAC 2020.  Differs: the key multiplies weights, and no device keeps it; one layer is locked by one key.
    """
    where = "locked_problem"
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    jax.eval_shape(lambda x: lock_weights(lock, x), shapes)
    if problem.with_statistics is not None:
        checks.fail(where, "problem", "one whose model keeps no running statistics", "one with BatchNorm")

    def turned(params: PyTree) -> PyTree:
        return lock.turn(params, lock.signs)

    each = jax.vmap(turned)

    def by(oracle: Any) -> Any:
        def gradient(key: Array, params: PyTree, node_ids: Array, *batch: Array) -> tuple[PyTree, Array]:
            plain, losses = oracle(key, each(params), node_ids, *batch)
            return each(plain), losses

        return gradient

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        return problem.evaluate(each(params), node_ids)

    at, start, loss, model = problem.gradient_at, problem.start, problem.loss, problem.model
    if model is not None:
        plain = model
        model = plain._replace(
            init=lambda key: turned(plain.init(key)),
            apply=lambda params, inputs: plain.apply(turned(params), inputs),
            train=None if plain.train is None else lambda key, params, inputs: plain.train(key, turned(params), inputs),
        )
    return without_maps(problem)._replace(
        init=lambda key: turned(problem.init(key)),
        loss=None if loss is None else lambda params, batch: loss(turned(params), batch),
        gradient=by(problem.gradient),
        full_gradient=by(problem.full_gradient),
        gradient_at=None if at is None else by(at),
        evaluate=evaluate,
        optimum=None if problem.optimum is None else turned(problem.optimum),
        start=None if start is None else lambda key, node_ids: each(start(key, node_ids)),
        model=model,
        source="; ".join(filter(None, (problem.source, SOURCE))),
    )
