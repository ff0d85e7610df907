"""What a model keeps beside its parameters, and how it computes while it is trained."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Problem, PyTree

# Arguments of a module's `__call__` that tell training from evaluation, and what they are in training.
MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


class Variables(NamedTuple):
    """A model with running statistics, as flax's BatchNorm keeps them; `_asdict()` is what flax's `apply` takes.

    The statistics are part of the model: nodes send, mix and average them as they do parameters.  They are not trained:
    a forward pass in training moves them, in place of the optimiser.
    """

    params: PyTree
    batch_stats: PyTree


def trained(tree: PyTree) -> PyTree:
    """The parameters alone, of a tree like a model."""
    return tree.params if isinstance(tree, Variables) else tree


def with_trained(tree: PyTree, params: PyTree) -> PyTree:
    """The same model with other parameters."""
    return tree._replace(params=params) if isinstance(tree, Variables) else params


def keeping_statistics(gradients: PyTree, changed: PyTree) -> PyTree:
    """What became of gradients, where the part that stands for statistics stays as it was."""
    return changed._replace(batch_stats=gradients.batch_stats) if isinstance(gradients, Variables) else changed


def moved(gradients: Variables) -> PyTree:
    """The updates of the statistics: their part of a gradient is what they were minus what they become."""
    return jax.tree.map(jnp.negative, gradients.batch_stats)


def training_gradient(model: Any, loss_fn: Any, penalty: Any) -> Any:
    """`(key, params, inputs [B, ...], labels [B], mask [B] | None) -> (loss, gradient)` of one node's model in training.

    The gradient of running statistics is what they were minus what the forward pass makes of them.
    """

    def of_one(key: Array, params: PyTree, inputs: Array, labels: Array, mask: Array | None) -> tuple[Array, PyTree]:
        def loss(own: PyTree) -> tuple[Array, PyTree]:
            outputs, statistics = model.train(key, with_trained(params, own), inputs)
            losses = loss_fn(outputs, labels)
            if mask is None:
                total = jnp.mean(losses)
            else:
                total = jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(losses.dtype)
            return total + penalty(own), statistics

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(trained(params))
        if isinstance(params, Variables):
            change = jax.tree.map(jnp.subtract, params.batch_stats, statistics)
            gradient = Variables(gradient, change)
        return value, gradient

    return of_one


def of_training(problem: Problem, model: Any, sizes: np.ndarray) -> Problem:
    """The problem of a model that computes otherwise in training, without what cannot be right for it."""
    problem = problem._replace(loss=refuse_training_mode, full_gradient=refuse_training_mode)
    if not isinstance(jax.eval_shape(model.init, jax.random.key(0)), Variables):
        return problem
    if np.any(sizes % problem.batch_size):
        problem = problem._replace(gradient_at=refuse_part_batches)
    refused = problem._replace(gradient=refuse_statistics, gradient_at=refuse_statistics)
    return refused._replace(with_statistics=problem)


def refuse_training_mode(*args: Any) -> NoReturn:
    """In place of a function that is given no key, or all of a node's examples in parts."""
    del args
    rule = "one that computes alike in training and evaluation for `loss` and full gradients"
    fix = "Use stochastic gradients; or no Dropout, and GroupNorm or LayerNorm."
    checks.fail("supervised", "model", rule, "one with Dropout or BatchNorm", fix)


def refuse_statistics(*args: Any) -> NoReturn:
    """In place of a gradient, for algorithms that would take running statistics for parameters."""
    del args
    fix = "Use dsgd, fedavg or another that trains by local_updates; or GroupNorm or LayerNorm."
    checks.fail("supervised", "model", "one without running statistics for this algorithm", "one with BatchNorm", fix)


def refuse_part_batches(*args: Any) -> NoReturn:
    """In place of gradients at given examples where a node's last batch would be filled up with others."""
    del args
    rule = "a divisor of every node's number of examples, for epochs of a model with BatchNorm"
    fix = "Use num_local_steps; or GroupNorm or LayerNorm."
    checks.fail("supervised", "batch_size", rule, "one that leaves a smaller batch over", fix)


def with_statistics(problem: Problem) -> Problem:
    """The problem whose gradients carry what running statistics become, where its model has any."""
    return problem if problem.with_statistics is None else problem.with_statistics


def without_statistics(where: str, problem: Problem) -> Problem:
    """A problem whose model has no running statistics, or one line."""
    if isinstance(problem, Problem) and problem.with_statistics is not None:
        fix = "Use dsgd or fedavg; or GroupNorm or LayerNorm."
        checks.fail(where, "problem", "one whose model keeps no running statistics", "one with BatchNorm", fix)
    return problem
