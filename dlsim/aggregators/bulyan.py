"""Bulyan: Krum again and again, then the mean around the median of what it chose."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import distances_to, mean_of_nearest, no_state, squared_distances, with_own
from dlsim.aggregators.krum import krum_scores
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def bulyan(num_byzantine: int) -> Aggregator:
    """Two rules after each other, against few coordinates that are far off in a value that is near.

    1. Of c candidates (own value and what was heard) theta = c - 2 f are chosen, one after the other, each the one with
       Krum's least score among those that are left: the sum over its c - f - 2 nearest others, at least two.
    2. Each coordinate is the mean of the theta - 2 f chosen values nearest to their median, as in `mean_around_median`.

    A node that heard too little for either chooses one candidate, or takes one value.  Weights are not used.

    Args:
      num_byzantine: f >= 0, structural.  `learn` refuses one that c >= 4 f + 3 does not hold for at some node.
    Source: El-Mhamdi, Guerraoui and Rouault, The hidden vulnerability of distributed learning in Byzantium, ICML 2018.
    """
    checks.integer("bulyan", "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        squares = squared_distances(values)
        is_sound = mask & jnp.isfinite(distances_to(values, own).value)  # else it would be as far from all, and last
        count = jnp.sum(mask, axis=1)
        wanted, nearest = jnp.maximum(count - 2 * num_byzantine, 1), jnp.maximum(count - num_byzantine - 2, 2)

        def choose(step: Array, chosen: Array) -> Array:
            left = is_sound & ~chosen
            best = jnp.argmin(krum_scores(values, squares, left, nearest), axis=1)
            is_best = (jnp.arange(mask.shape[1]) == best[:, None]) & left & (step < wanted)[:, None]
            return chosen | is_best

        chosen = jax.lax.fori_loop(0, mask.shape[1], choose, jnp.zeros_like(mask))
        kept = jnp.maximum(jnp.sum(chosen, axis=1) - 2 * num_byzantine, 1)
        return state, jax.tree.map(lambda v: mean_of_nearest(v, chosen, kept), values)

    asked = bound("bulyan", "num_byzantine", num_byzantine, 4, 3)
    return Aggregator(init=no_state, apply=apply, source="El-Mhamdi, Guerraoui and Rouault, ICML 2018", bound=asked)
