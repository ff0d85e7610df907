"""Trust from taste: users trust those whose ratings are like their own (user-based collaborative filtering)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array
from dlsim.trust.graphs.graph import TrustGraph, not_negative, real_array


def similarity_trust(ratings: Any, *, num_best: int = 5, correlation_weight: float | Array = 0.5) -> TrustGraph:
    """A trust graph in which each user trusts the `num_best` users that are most like him.

    Of two users u and v with more than one common item, with the means of their own ratings taken off in a~ and b~:

        c   = common items / the most that u has in common with anybody
        r   = sum a~ b~ / (sum |a~| sum |b~|)                        over common items
        d   = 1 - mean |a - b| / span, 0 where the span is 0         over common items
        T_uv = 1 + w c r + (1 - w) d

    where the span is the largest common rating of the two less the smallest.  Users with fewer like ones have edges of
    weight 0.  O(N^2 S), one user at a time.

    Args:
      ratings: `[N, S]`, 0 or more, 0: none; data.
      num_best: edges of a user, 1 to N - 1.
      correlation_weight: w in [0, 1], data.

    Source: Madhwal, Pouwelse, Web3Recommend, 2023, and the program beside it, whose denominators of r are sums of absolute
    values, not of squares.
    """
    where = "similarity_trust"
    given = real_array(where, "ratings", ratings, (None, None))
    not_negative(where, "ratings", given)
    num = given.shape[0]
    if num < 2:
        checks.fail(where, "ratings", "of 2 users or more", num)
    num_best = checks.integer(where, "num_best", num_best, 1, num - 1)
    weight = jnp.asarray(checks.probability(where, "correlation_weight", correlation_weight), given.dtype)
    is_rated = given > 0
    means = jnp.sum(given, axis=1) / jnp.maximum(jnp.sum(is_rated, axis=1), 1)
    centered = jnp.where(is_rated, given - means[:, None], 0)

    def one(user: Array) -> tuple[Array, Array]:
        common = is_rated & is_rated[user]
        count = jnp.where(jnp.arange(num) == user, 0, jnp.sum(common, axis=1))
        mine = jnp.where(common, centered[user], 0)
        theirs = jnp.where(common, centered, 0)
        scale = jnp.sum(jnp.abs(mine), axis=1) * jnp.sum(jnp.abs(theirs), axis=1)
        alike = jnp.sum(mine * theirs, axis=1) / jnp.where(scale > 0, scale, 1)
        apart = jnp.sum(jnp.where(common, jnp.abs(given - given[user]), 0), axis=1) / jnp.maximum(count, 1)
        high = jnp.max(jnp.where(common, jnp.maximum(given, given[user]), 0), axis=1)
        low = jnp.min(jnp.where(common, jnp.minimum(given, given[user]), jnp.inf), axis=1)
        span = jnp.where(count > 0, high - jnp.where(count > 0, low, 0), 0)
        near = jnp.where(span > 0, 1 - apart / jnp.where(span > 0, span, 1), 0)
        trust = 1 + weight * count / jnp.maximum(jnp.max(count), 1) * alike + (1 - weight) * near
        best, who = jax.lax.top_k(jnp.where(count > 1, trust, 0), num_best)
        order = jnp.argsort(who)
        return best[order], who[order].astype(jnp.int32)

    best, who = jax.lax.map(one, jnp.arange(num))
    return TrustGraph(
        starts=jnp.arange(num + 1, dtype=jnp.int32) * num_best,
        sources=jnp.repeat(jnp.arange(num, dtype=jnp.int32), num_best),
        targets=who.ravel(),
        weights=best.ravel(),
        num_targets=num,
        most=num_best,
    )
