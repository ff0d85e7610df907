"""NNM: every candidate is replaced by the mean of those nearest to it, before a rule sees it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import around, bound
from dlsim.aggregators.candidates import distances, mixtures, ranks, squared_distances, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def nearest_neighbor_mixing(inner: Aggregator, num_byzantine: int) -> Aggregator:
    """`inner` of v'_k = mean of the c - f candidates nearest to v_k, itself among them; c candidates, the own one too.

    Honest candidates come closer to each other, so that the rule inside errs less where nodes hold different data.  What
    is not finite is far from everything and is not shown to the rule inside.

    Args:
      inner: the rule that sees the mixed values.
      num_byzantine: f >= 0, structural.  With f = 0 all candidates become the plain mean.  `learn` refuses one that
        c >= 2 f + 1 does not hold for at some node.
    Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan, Fixing by mixing, AISTATS 2023.
    """
    checks.instance("nearest_neighbor_mixing", "inner", inner, Aggregator, "Pass a rule, e.g. krum(1).")
    checks.integer("nearest_neighbor_mixing", "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: PyTree, own: PyTree, inbox: Inbox) -> tuple[PyTree, PyTree]:
        values, mask = with_own(own, inbox)
        is_pair = mask[:, :, None] & mask[:, None, :]
        lengths = distances(values, squared_distances(values), is_pair)
        is_sound = is_pair & jnp.isfinite(lengths)
        rank = ranks(jnp.where(is_sound, lengths, jnp.inf))
        kept = jnp.maximum(jnp.sum(mask, axis=1) - num_byzantine, 1)[:, None, None]
        near = is_sound & (rank < kept)
        share = near / jnp.maximum(jnp.sum(near, axis=2, keepdims=True), 1)
        rows = mixtures(share, values)
        mine = jax.tree.map(lambda v: v[:, 0], rows)
        heard = jax.tree.map(lambda v: v[:, 1:], rows)
        seen = inbox.mask & jnp.any(near[:, 1:], axis=2)
        return inner.apply(key, state, mine, inbox._replace(values=heard, mask=seen))

    asked = bound("nearest_neighbor_mixing", "num_byzantine", num_byzantine, 2, 1)
    return around(inner, apply, "Allouah et al., AISTATS 2023", asked)
