"""Gradients estimated from losses alone, along random directions that a seed tells."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.core import Array, Problem, PyTree
from dlsim.problems.blocks import map_nodes
from dlsim.problems.maps import without_maps
from dlsim.problems.variables import without_statistics

DISTRIBUTIONS = ("normal", "rademacher")


@checks.typed
def zeroth_order(
    problem: Problem, *, num_directions: int = 1, smoothing: Any = 1e-3, distribution: str = "normal"
) -> Problem:
    """The same problem, whose gradients are estimated from losses: two forward passes a direction, and no backward pass.

        g_is = (f_i(x + mu z_is; b_is) - f_i(x - mu z_is; b_is)) / (2 mu),   s = 1..S
        gradient at node i = (1/S) sum_s g_is z_is

    E z z' = I, so the mean of the estimate is grad f_i up to O(mu^2) (for quadratics exactly), and for normal z
    E||g z||^2 = (D + 2) ||grad f||^2.  Every algorithm takes it: `dsgd(zeroth_order(problem), ...)` is decentralised
    zeroth-order gossip, whose messages are parameters.  Where the directions are shared one number a direction is enough:
    `dlsim.algorithms.spsa`.

    Directions are drawn by node, for each leaf of the parameters by itself; every direction has a batch of its own, the
    same for both passes.  Losses are taken as the model computes in evaluation, in float32 or wider.  `loss` that a
    gradient tells is the mean of the 2 S losses.

    Args:
      problem: with `loss` and `sample`; of models without Dropout and BatchNorm.
      num_directions: S a gradient; structural.
      smoothing: mu > 0, traced or not.  The difference of two float32 losses of size f carries an error of about
        1e-7 f / mu.
      distribution: of z: `"normal"`, or `"rademacher"` (+-1, the original's), for which E||g z||^2 = D ||grad f||^2;
        structural.

    Cost of a gradient: 2 S forward passes of a batch and S D random numbers a node; `batch_size`, which the gradient
    evaluations are counted by, is 2 S times the problem's.  `full_gradient` stays exact; epochs (`gradient_at`) and
    proximal maps, which take derivatives, are gone.
    Source: Spall, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation, IEEE TAC
      1992 (Rademacher); Nesterov and Spokoiny, Random gradient-free minimization of convex functions, FoCM 2017 (normal).
    """
    where = "zeroth_order"
    check_estimator(where, problem, num_directions, smoothing, distribution)
    losses_alone = problem

    def gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        def of_block(params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
            def add(total: PyTree, sample: Array) -> tuple[PyTree, Array]:
                g, loss, z = along(losses_alone, key, params, node_ids, sample, smoothing, distribution)
                return trees.add(total, trees.scale(g / num_directions, z)), loss

            nothing = trees.zeros_like(trees.widen(params))
            total, losses = jax.lax.scan(add, nothing, jnp.arange(num_directions))
            return trees.cast_like(total, params), jnp.mean(losses, axis=0)

        return map_nodes(of_block, problem.node_block)(params, node_ids)

    return without_maps(problem)._replace(
        gradient=gradient,
        batch_size=2 * num_directions * problem.batch_size,
        gradient_at=None,
        source="; ".join(filter(None, (problem.source, "Spall, IEEE TAC 1992"))),
    )


def check_estimator(
    where: str, problem: Problem, num_directions: int, smoothing: Any, distribution: str
) -> tuple[Problem, int]:
    """What every estimate of a gradient needs, or one line."""
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    without_statistics(where, problem)
    for name in ("loss", "sample"):
        if not callable(getattr(problem, name)):
            checks.fail(where, "problem", "one with `loss` and `sample`", f"one without `{name}`")
    checks.integer(where, "num_directions", num_directions, 1)
    checks.number(where, "smoothing", smoothing, 0.0, open_minimum=True)
    checks.one_of(where, "distribution", distribution, DISTRIBUTIONS)
    return problem, num_directions


def along(
    problem: Problem, key: Array, params: PyTree, node_ids: Array, sample: Any, smoothing: Any, distribution: str
) -> tuple[Array, Array, PyTree]:
    """`(g [n], losses [n], z [n, ...])` along direction `sample` of each node; `params` `[n, ...]`, or `[1, ...]` for all."""
    batch = problem.sample(keys.fold_in(key, sample), node_ids)
    wide = trees.widen(params)
    z = directions(seed_of(key), node_ids, sample, wide, distribution)

    def losses_at(side: Array) -> Array:
        moved = jax.tree.map(lambda x, z: x + (side * smoothing).astype(x.dtype) * z, wide, z)
        return jax.vmap(problem.loss)(moved, batch)

    # One side after the other: a loop's operand is made once, where two uses of z would have it drawn twice.
    above, below = jax.lax.map(losses_at, jnp.asarray([1.0, -1.0]))
    return (above - below) / (2 * smoothing), (above + below) / 2, z


def seed_of(key: Array) -> Array:
    """The seed of a round's directions, uint32 `[2]`: all that somebody needs to draw them."""
    return keys.node_bits(keys.stream(key, "direction"), jnp.zeros(1, jnp.int32), 2)[0]


def directions(seed: Array, node_ids: Array, sample: Any, like: PyTree, distribution: str) -> PyTree:
    """Directions z, every leaf `[n, ...]` where that of `like` is `[any, ...]`.

    A direction depends on (seed, node id, sample, leaf) alone: whoever has the seed draws the same, in whatever blocks.
    """
    key = jax.random.wrap_key_data(seed, impl=keys.THREEFRY)
    leaves, treedef = jax.tree.flatten(like)

    def leaf(place: int, one: Array) -> Array:
        own, num = keys.fold_in(key, sample, place), math.prod(one.shape[1:])
        if distribution == "normal":
            drawn = keys.normal_of(_words(own, node_ids, num))
        else:
            words = _words(own, node_ids, -(-num // 32))
            bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
            drawn = 1.0 - 2.0 * bits.reshape(node_ids.shape[0], -1)[:, :num].astype(jnp.float32)
        return drawn.astype(one.dtype).reshape(node_ids.shape[0], *one.shape[1:])

    return jax.tree.unflatten(treedef, [leaf(place, one) for place, one in enumerate(leaves)])


def _words(key: Array, node_ids: Array, num: int) -> Array:
    """Random words, uint32 `[n, num]`, of every node by itself: the first words of all counters, then the second ones."""
    words = keys.node_words(key, node_ids, -(-num // 2))
    if jax.default_backend() == "cpu":  # fused with what follows they are no work for vector registers
        words = jax.lax.optimization_barrier(words)
    return jnp.concatenate(words, axis=1)[:, :num]
