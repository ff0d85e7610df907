"""Gradients that hide single examples: every example's gradient clipped, noise on their sum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.channels.privacy import clipped_rows
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.maps import without_maps


@checks.typed
def dp_sgd(problem: Problem, *, clip: Any, noise_multiplier: Any) -> Problem:
    """The problem whose stochastic gradients are those of DP-SGD, for any algorithm: privacy of each example of a node.

        g_i = ( sum_{e in batch} g_e min(1, C / ||g_e||) + C z n ) / B,   n ~ N(0, I)

    g_e is the gradient of one example (with the regulariser), all leaves side by side.  What a gradient costs is
    `dlsim.privacy.gaussian(z)`, or, where nobody knows who is in a batch, `sampled_gaussian(z, B / m_i)`; how many a node has
    computed is `gradient_evaluations` over B.  Losses are told as they are, and are not private.

    Args:
      problem: with single examples and batches of them (`classification`, `supervised`, `logistic_regression`), and without
        BatchNorm; Dropout drops nothing.
      clip: C > 0, the largest norm of an example's gradient; may be traced.
      noise_multiplier: z >= 0, may be traced.

    What would go round the noise is not there: `full_gradient`, `proximal`, passes over all examples (`num_local_epochs`).
    Cost: B backward passes of one example each, one after the other; memory of two gradients a node.
    Source: Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, Deep learning with differential privacy, CCS 2016,
      Algorithm 1.  Differs: batches of a fixed size, as the problem draws them.
    """
    checks.number("dp_sgd", "clip", clip, 0.0, open_minimum=True)
    checks.number("dp_sgd", "noise_multiplier", noise_multiplier, 0.0)
    fix = "Use dlsim.problems.classification, supervised or logistic_regression."
    if problem.sample is None or problem.loss is None or problem.gradient_at is None:
        checks.fail("dp_sgd", "problem", "one with single examples", "one without", fix)
    if problem.gradient is problem.full_gradient:
        checks.fail("dp_sgd", "problem", "one with batches", "one with exact gradients", "Give it a batch_size.")
    if problem.with_statistics is not None:
        fix = "Use a model without BatchNorm."
        checks.fail("dp_sgd", "problem", "one whose examples do not see each other", "one with BatchNorm", fix)

    def gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        batch = problem.sample(key, node_ids)
        of_nodes = jax.vmap(jax.value_and_grad(problem.loss))

        def one(total: tuple[Array, Array], e: Array) -> tuple[tuple[Array, Array], None]:
            example = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, e, 1, axis=1), batch)
            losses, gradients = of_nodes(params, example)
            return (total[0] + clipped_rows(trees.ravel(gradients)[0], clip), total[1] + losses), None

        flat, unravel = trees.ravel(params)
        nothing = jnp.zeros_like(flat), jnp.zeros(node_ids.shape, jnp.float32)
        size = jax.tree.leaves(batch)[0].shape[1]
        (total, losses), _ = jax.lax.scan(one, nothing, jnp.arange(size))
        noise = keys.node_normal(keys.stream(key, "privacy"), node_ids, flat.shape[1]).astype(flat.dtype)
        return unravel((total + clip * noise_multiplier * noise) / size), losses / size

    def refused(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        del key, params, node_ids
        fix = "Use a method of stochastic gradients."
        return checks.fail("dp_sgd", "algorithm", "one that asks for no exact gradients", "one that does", fix)

    sources = "; ".join(filter(None, (problem.source, "Abadi et al., CCS 2016")))
    return without_maps(problem)._replace(
        gradient=gradient,
        full_gradient=refused,
        gradient_at=None,
        source=sources,
    )
