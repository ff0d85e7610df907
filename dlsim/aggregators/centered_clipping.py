"""Centred clipping."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.candidates import clip_scale, difference, distances_to, no_state, weighted_sum, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def centered_clipping(radius: Any, *, num_iterations: int = 1) -> Aggregator:
    """z <- z + 1/c sum_k clip(v_k - z, radius) over own value and what was heard, clip(d, r) = d min(1, r / ||d||).

    It starts from the own value, as the server's starts from its last aggregate.  Weights are not used: with those of the
    network and one iteration it is `self_centered_clipping`; with an infinite radius it is the plain mean.  What is not
    finite moves nothing.

    Args:
      radius: tau > 0, traced.
      num_iterations: structural.
    Source: Karimireddy, He and Jaggi, Learning from history for Byzantine robust optimization, ICML 2021.  Differs: the
      start, where it runs at a node.
    """
    checks.number("centered_clipping", "radius", radius, 0.0, open_minimum=True)
    checks.integer("centered_clipping", "num_iterations", num_iterations, 1)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        count = jnp.sum(mask, axis=1, keepdims=True)

        def iterate(_: Array, centre: PyTree) -> PyTree:
            lengths = distances_to(values, centre)
            weights = jnp.where(mask, clip_scale(lengths, radius), 0) / count
            moved = weighted_sum(weights, jax.tree.map(lambda v, z: difference(v, z, lengths.unit), values, centre))
            return jax.tree.map(lambda z, m: z + m.astype(z.dtype), centre, moved)

        return state, jax.lax.fori_loop(0, num_iterations, iterate, own)

    return Aggregator(init=no_state, apply=apply, source="Karimireddy, He and Jaggi, ICML 2021")
