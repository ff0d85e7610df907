"""Watchdogs: what a sender believes of the next router, from what it saw it forward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim.core import Array

KEPT = 0.9  # of the trust before
FLOOR = 0.02  # of trust, in the cost of a link


def link_costs(trust: Array) -> Array:
    """1 / max(trust, 0.02), `[E]`."""
    return 1.0 / jnp.maximum(trust, FLOOR)


def watched(trust: Array, link: Array, rank: Array, is_there: Array, seen: Array) -> Array:
    """Trust `[E]` after the hand-overs of one step:  trust <- 0.9 trust + 0.1 [seen to forward], one after the other.

    The c hand-overs on a link in their order 0..c-1 come to  0.9^c trust + sum_j 0.1 * 0.9^(c-1-j) [seen_j].

    Args:
      link, rank: int32 `[P]`, of each packet: its link, and its place there among those of `is_there`.
      is_there, seen: bool `[P]`: handed over; seen to be forwarded.
    """
    num = trust.shape[0]
    count = jax.ops.segment_sum(is_there.astype(jnp.float32), link, num)
    after = count[link] - 1 - rank.astype(jnp.float32)
    gain = jnp.where(is_there & seen, (1 - KEPT) * KEPT**after, 0.0)
    return KEPT**count * trust + jax.ops.segment_sum(gain, link, num)
