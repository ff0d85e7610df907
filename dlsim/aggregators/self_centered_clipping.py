"""Self-centred clipping (ClippedGossip)."""

from __future__ import annotations

from typing import Any

import jax

from dlsim import checks
from dlsim.aggregators.candidates import clip_scale, difference, distances_to, no_state, weighted_sum
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def self_centered_clipping(radius: Any) -> Aggregator:
    """own + sum_k w_k clip(v_k - own, radius), clip(d, r) = d min(1, r / ||d||), with the network's mixing weights.

    With an infinite radius it is the weighted mean, that is `network.mix`.

    Args:
      radius: tau > 0, traced.
    Source: He, Karimireddy and Jaggi, Byzantine-robust decentralized learning via ClippedGossip, 2022, Algorithm 1.
      Differs: one radius for all nodes and rounds instead of one from the honest nodes' spread, which no node knows.
    """
    checks.number("self_centered_clipping", "radius", radius, 0.0, open_minimum=True)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        lengths = distances_to(inbox.values, own)
        weights = inbox.weights * clip_scale(lengths, radius)  # NaN and infinities count for nothing
        moved = weighted_sum(weights, jax.tree.map(lambda v, o: difference(v, o, lengths.unit), inbox.values, own))
        return state, jax.tree.map(lambda o, m: o + m.astype(o.dtype), own, moved)

    return Aggregator(init=no_state, apply=apply, source="He, Karimireddy and Jaggi, 2022")
