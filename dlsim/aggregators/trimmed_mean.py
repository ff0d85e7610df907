"""The coordinate-wise trimmed mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import no_state, sorted_by_entry, weighted_sum, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def trimmed_mean(num_trimmed: int) -> Aggregator:
    """Each coordinate's mean without its b largest and b smallest values, over own value and what was heard.

    A node that heard so little that nothing would be left trims (count - 1) // 2 on each side.  Weights are not used;
    with b = 0 it is the plain mean of the candidates.

    Args:
      num_trimmed: b >= 0, structural; at least the number of Byzantine neighbours.  `learn` refuses one that c >= 2 b + 1
        does not hold for at some node.
    Source: Yin, Chen, Ramchandran and Bartlett, Byzantine-robust distributed learning, ICML 2018.
    """
    checks.integer("trimmed_mean", "num_trimmed", num_trimmed, 0)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        count = jnp.sum(mask, axis=1)
        cut = jnp.minimum(num_trimmed, (count - 1) // 2)
        rank = jnp.arange(mask.shape[1])
        kept = (rank >= cut[:, None]) & (rank < (count - cut)[:, None])
        weights = kept / jnp.sum(kept, axis=1, keepdims=True)
        return state, weighted_sum(weights, jax.tree.map(lambda v: sorted_by_entry(v, mask), values))

    asked = bound("trimmed_mean", "num_trimmed", num_trimmed, 2, 1)
    return Aggregator(init=no_state, apply=apply, source="Yin, Chen, Ramchandran and Bartlett, ICML 2018", bound=asked)
