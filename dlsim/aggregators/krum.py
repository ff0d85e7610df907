"""Krum and Multi-Krum."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import (
    distances,
    is_off_scale,
    no_state,
    ranks,
    squared_distances,
    weighted_sum,
    with_own,
)
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def krum(num_byzantine: int, *, num_selected: int = 1) -> Aggregator:
    """The candidate closest to its own neighbourhood (Krum), or the mean of the m best (Multi-Krum).

    The score of candidate k is the sum of its squared distances to its c - f - 2 nearest other candidates, c the
    number of candidates (own value and what was heard); the least scores win, ties go to the first (own first).

    Args:
      num_byzantine: f >= 0, structural.  `learn` refuses one that c >= 2 f + 3 does not hold for at some node; a node that
        hears too little in some round takes at least the nearest one into the score.
      num_selected: m >= 1, structural; at most the candidates there are that are finite.
    Source: Blanchard, El Mhamdi, Guerraoui and Stainer, Machine learning with adversaries, NeurIPS 2017.
    """
    checks.integer("krum", "num_byzantine", num_byzantine, 0)
    checks.integer("krum", "num_selected", num_selected, 1)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        size, count = mask.shape[1], jnp.sum(mask, axis=1)
        scores = krum_scores(values, squared_distances(values), mask, count - num_byzantine - 2)
        rank = ranks(scores)
        # A score that is not finite never wins, unless a node would be left with nothing: it has its own value, first.
        is_sound = jnp.isfinite(scores) | (jnp.arange(size) == 0)
        chosen = (rank < jnp.minimum(num_selected, count)[:, None]) & mask & is_sound
        weights = chosen / jnp.maximum(jnp.sum(chosen, axis=1, keepdims=True), 1)
        return state, weighted_sum(weights, values)

    asked = bound("krum", "num_byzantine", num_byzantine, 2, 3)
    return Aggregator(init=no_state, apply=apply, source="Blanchard et al., NeurIPS 2017", bound=asked)


def krum_scores(values: PyTree, squares: Array, mask: Array, nearest: Array) -> Array:
    """Of each candidate, the sum of squared distances to its nearest others among those of the mask, `[n, K]`.

    `nearest [n]` says how many; at least one is taken, and at most all others.

    Infinite for those that do not count.  Where a square left the dtype's range, all scores of that node are roots of the
    sums, which order alike.
    """
    size = mask.shape[1]
    is_other = mask[:, :, None] & mask[:, None, :] & ~jnp.eye(size, dtype=bool)
    count = jnp.sum(mask, axis=1)
    nearest = jnp.maximum(jnp.minimum(nearest, count - 1), 1)
    taken = jnp.arange(size) < nearest[:, None, None]

    def nearest_first(measures: Array) -> Array:
        # What is not finite is as far away as can be.
        ordered = jnp.sort(jnp.where(is_other & jnp.isfinite(measures), measures, jnp.inf), axis=2)
        return jnp.where(taken, ordered, 0)

    def by_squares() -> Array:
        return jnp.sum(nearest_first(squares), axis=2)

    def by_lengths() -> Array:
        """The root of the sum orders alike, and is in range where squares are not."""
        lengths = nearest_first(distances(values, squares, is_other))
        largest = jnp.max(lengths, axis=2)
        share = lengths / jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)[:, :, None]
        return jnp.where(largest < jnp.inf, largest * jnp.sqrt(jnp.sum(jnp.square(share), axis=2)), jnp.inf)

    is_off = jnp.any(is_other & is_off_scale(squares), axis=(1, 2))
    # A node's choice does not depend on whether another's values are out of range.
    scores = jax.lax.cond(jnp.any(is_off), lambda: jnp.where(is_off[:, None], by_lengths(), by_squares()), by_squares)
    scores = jnp.where(mask, scores, jnp.inf)
    # A candidate alone has no others to be measured by.
    return jnp.where((count == 1)[:, None] & mask, 0, scores)
