"""CGE: the mean of those that moved least."""

from __future__ import annotations

import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import distances_to, no_state, ranks, weighted_sum, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def cge(num_byzantine: int) -> Aggregator:
    """Comparative gradient elimination: the mean of all but the f candidates farthest from the own value.

    What the paper's server compares is the length of gradients; a node compares that of the ways v_k - own to the values
    it heard.  Its own, which is no way at all, always counts, and so does the nearest that it heard.  Weights are not used.

    Args:
      num_byzantine: f >= 0, structural.  `learn` refuses one that c >= 2 f + 1 does not hold for at some node.
    Source: Gupta, Liu and Vaidya, Byzantine fault-tolerant distributed machine learning with norm-based comparative gradient
      elimination, DSN workshops 2021.  Differs: lengths are measured from the own value.
    """
    checks.integer("cge", "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        lengths = distances_to(values, own).value
        is_sound = mask & jnp.isfinite(lengths)
        rank = ranks(jnp.where(is_sound, lengths, jnp.inf))
        kept = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True) - num_byzantine, 2)
        chosen = is_sound & (rank < kept)
        return state, weighted_sum(chosen / jnp.sum(chosen, axis=1, keepdims=True), values)

    asked = bound("cge", "num_byzantine", num_byzantine, 2, 1)
    return Aggregator(init=no_state, apply=apply, source="Gupta, Liu and Vaidya, DSN workshops 2021", bound=asked)
