"""MeaMed: the mean around the median."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import mean_of_nearest, no_state, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def mean_around_median(num_byzantine: int) -> Aggregator:
    """Each coordinate's mean over the c - f values nearest to its median, c candidates: own value and what was heard.

    Of two values as near, one below and one above, the one below is taken first.  A node that heard so little that nothing
    would be left takes the nearest one.  Weights are not used; with f = 0 it is the plain mean of the candidates.

    Args:
      num_byzantine: f >= 0, structural.  `learn` refuses one that c >= 2 f + 1 does not hold for at some node.
    Source: Xie, Koyejo and Gupta, Generalized Byzantine-tolerant SGD, 2018 (MeaMed).
    """
    checks.integer("mean_around_median", "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        kept = jnp.maximum(jnp.sum(mask, axis=1) - num_byzantine, 1)
        return state, jax.tree.map(lambda v: mean_of_nearest(v, mask, kept), values)

    asked = bound("mean_around_median", "num_byzantine", num_byzantine, 2, 1)
    return Aggregator(init=no_state, apply=apply, source="Xie, Koyejo and Gupta, 2018", bound=asked)
