"""The geometric median, by smoothed Weiszfeld steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.candidates import distances_to, median_by_entry, no_state, weighted_sum, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def geometric_median(*, num_iterations: int = 8, smoothing: Any = 1e-6) -> Aggregator:
    """argmin_z sum_k ||v_k - z|| over own value and what was heard, by Weiszfeld's iteration.

        z <- sum_k b_k v_k / sum_k b_k,   b_k = 1 / max(smoothing, ||v_k - z||)

    It starts from one such step from the coordinate-wise median, with the median distance to it for `smoothing`: from
    the mean, a lie at distance L takes log L iterations to forget.  What is not finite counts for nothing.

    Args:
      num_iterations: structural.
      smoothing: least distance counted, traced.
    Source: Pillutla, Kakade and Harchaoui, Robust aggregation for federated learning, IEEE TSP 2022 (RFA), with equal
      weights.  Differs: the start.
    """
    checks.integer("geometric_median", "num_iterations", num_iterations, 1)
    checks.number("geometric_median", "smoothing", smoothing, 0.0, open_minimum=True)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        counts = mask & jnp.isfinite(distances_to(values, own).root)

        def towards(distance: Array, least: Array) -> PyTree:
            weights = jnp.where(counts, 1 / jnp.maximum(distance, least), 0)
            return weighted_sum(weights / jnp.sum(weights, axis=1, keepdims=True), values)

        def iterate(_: Array, centre: PyTree) -> PyTree:
            return towards(distances_to(values, centre).value, smoothing)

        middle = jax.tree.map(lambda v: median_by_entry(v, counts), values)
        distance = distances_to(values, middle).value
        start = towards(distance, jnp.maximum(median_by_entry(distance, counts), smoothing)[:, None])
        return state, jax.lax.fori_loop(0, num_iterations, iterate, start)

    return Aggregator(init=no_state, apply=apply, source="Pillutla, Kakade and Harchaoui, IEEE TSP 2022")
