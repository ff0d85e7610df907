"""The weighted mean: what `mix` computes, as a rule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.aggregators.candidates import no_state, weighted_sum
from dlsim.aggregators.linear import linear_rule
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


@checks.typed
def mean(*, self_weight: Any | None = None, is_partial: bool = False) -> Aggregator:
    """own + sum_k w_k (v_k - own) with the network's mixing weights; no robustness.  Equals `network.mix`.

    With `self_weight` = c, traced, a node gives its own value that share and the rest to those it heard, in proportion to
    the network's weights (alike where the network has `weights="uniform_neighbor"`), however many came:

        c own + (1 - c) sum_k w_k v_k / sum_k w_k,   own where nothing was heard

    With `is_partial` (structural) every coordinate is averaged over those who sent it:

        own_d + sum_k w_k [v_kd != 0] (v_kd - own_d)

    for models of which a sparsifier sends a part (`top_k`, `random_k(is_unbiased=False)`): where nothing was sent the
    receiver's own value stands, and not zero.  This is partial model sharing, as JWINS, sampled models and sub-sampling
    have it.  A value that is zero itself counts as not sent.

    Cost: that of the mix; with `is_partial` nodes hold the messages they hear.
    Source: Dhasade, Kermarrec, Pires, Sharma, Vujasinovic and Wigger, Get more for less in decentralized learning systems
      (JWINS), ICDCS 2023, without its wavelets (`dlsim.algorithms.jwins` has them); Hegedus, Danner and Jelasity, JPDC 2021
      (sampled models).
    """
    if self_weight is not None:
        checks.probability("mean", "self_weight", self_weight)
        if is_partial:
            fix = "Leave one of them out: who sent an entry is another for every entry."
            checks.fail("mean", "self_weight", "None where is_partial", checks.describe(self_weight), fix)

    def finish(own: tuple[PyTree, Any], mixed: tuple[PyTree, Any], share: Array) -> PyTree:
        if self_weight is None:
            return mixed[0]
        return towards(own[0], mixed[0], share, 1 - self_weight)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        difference = jax.tree.map(lambda v, o: jnp.where(v != 0, v - o[:, None], 0), inbox.values, own)
        return state, jax.tree.map(jnp.add, own, weighted_sum(inbox.weights, difference))

    if is_partial:
        return Aggregator(init=no_state, apply=apply)
    return linear_rule(lambda values: (), finish)


def towards(own: PyTree, mixed: PyTree, share: Array, step: Any = 1.0) -> PyTree:
    """own + step (mean of what was heard - own), of mixed = own + share (mean - own); own where nothing was heard."""
    factor = jnp.where(share > 0, step / jnp.where(share > 0, share, 1), 0)
    return jax.tree.map(lambda o, m: o + trees.expand(factor, o).astype(o.dtype) * (m - o), own, mixed)
