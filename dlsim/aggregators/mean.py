"""The weighted mean: what `mix` computes, as a rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.candidates import no_state, weighted_sum
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


@checks.typed
def mean(*, is_partial: bool = False) -> Aggregator:
    """own + sum_k w_k (v_k - own) with the network's mixing weights; no robustness.  Equals `network.mix`.

    With `is_partial` (structural) every coordinate is averaged over those who sent it:

        own_d + sum_k w_k [v_kd != 0] (v_kd - own_d)

    for models of which a sparsifier sends a part (`top_k`, `random_k(is_unbiased=False)`): where nothing was sent the
    receiver's own value stands, and not zero.  This is partial model sharing, as JWINS, sampled models and sub-sampling
    have it.  A value that is zero itself counts as not sent.
    Source: Dhasade, Kermarrec, Pires, Sharma, Vujasinovic and Wigger, Get more for less in decentralized learning systems
      (JWINS), ICDCS 2023, without its wavelets; Hegedus, Danner and Jelasity, JPDC 2021 (sampled models).
    """

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        difference = jax.tree.map(lambda v, o: v - o[:, None], inbox.values, own)
        if is_partial:
            difference = jax.tree.map(lambda v, d: jnp.where(v != 0, d, 0), inbox.values, difference)
        return state, jax.tree.map(jnp.add, own, weighted_sum(inbox.weights, difference))

    return Aggregator(init=no_state, apply=apply)
