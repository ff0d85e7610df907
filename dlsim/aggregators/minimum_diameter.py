"""MDA: the mean of the subset of least diameter."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import distances, no_state, squared_distances, weighted_sum, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox

MOST_SUBSETS = 100_000


def minimum_diameter(num_byzantine: int) -> Aggregator:
    """The mean of those c - f of the c candidates whose greatest distance from each other is least (MDA).

    All subsets are tried, one after the other: (K + 1) choose f of them for K neighbours.  Of equal diameters the first
    subset wins, in the order that keeps the own value and the first that were heard.  A node that heard so little that
    nothing would be left keeps its own value, and what is not finite is far from everything.

    Args:
      num_byzantine: f >= 0, structural.  `learn` refuses one that c >= 2 f + 1 does not hold for at some node.
    Raises:
      ValueError: when it is traced, if there are more than 100,000 subsets.
    Source: El-Mhamdi, Guerraoui and Rouault, Distributed momentum for Byzantine-resilient stochastic gradient descent, ICLR
      2021; Rousseeuw, 1985.
    """
    checks.integer("minimum_diameter", "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        size = mask.shape[1]
        is_other = mask[:, :, None] & mask[:, None, :] & ~jnp.eye(size, dtype=bool)
        lengths = distances(values, squared_distances(values), is_other)
        lengths = jnp.where(is_other, jnp.where(jnp.isfinite(lengths), lengths, jnp.inf), 0)
        wanted = jnp.maximum(jnp.sum(mask, axis=1) - num_byzantine, 1)

        def better(best: tuple[Array, Array], keeps: Array) -> tuple[tuple[Array, Array], None]:
            kept = mask & keeps
            diameter = jnp.max(jnp.where(kept[:, :, None] & kept[:, None, :], lengths, 0), axis=(1, 2))
            is_better = (jnp.sum(kept, axis=1) == wanted) & (diameter < best[0])
            return (jnp.where(is_better, diameter, best[0]), jnp.where(is_better[:, None], kept, best[1])), None

        alone = jnp.zeros_like(mask).at[:, 0].set(True)
        start = (jnp.full(mask.shape[:1], jnp.inf, lengths.dtype), alone)
        (_, chosen), _ = jax.lax.scan(better, start, jnp.asarray(_subsets(size, num_byzantine)))
        return state, weighted_sum(chosen / jnp.sum(chosen, axis=1, keepdims=True), values)

    asked = bound("minimum_diameter", "num_byzantine", num_byzantine, 2, 1)
    return Aggregator(init=no_state, apply=apply, source="El-Mhamdi, Guerraoui and Rouault, ICLR 2021", bound=asked)


def _subsets(size: int, num_left_out: int) -> np.ndarray:
    """Which of `size` candidates are kept, bool `[S, size]`, for every way to leave out so many."""
    left_out = min(num_left_out, size - 1)
    count = math.comb(size, left_out)
    if count > MOST_SUBSETS:
        rule, fix = f"such that at most {MOST_SUBSETS:,} subsets are to be tried", "Use krum or mean_around_median."
        got = f"{num_left_out}: {count:,} of {size} candidates"
        checks.fail("minimum_diameter", "num_byzantine", rule, got, fix)
    keeps = np.ones((count, size), bool)
    for row, out in zip(keeps[::-1], itertools.combinations(range(size), left_out), strict=True):
        row[list(out)] = False
    return keeps
