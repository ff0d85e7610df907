"""Clipping before a rule: to a length that is given, or to one that the candidates give."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import around, bound
from dlsim.aggregators.candidates import Lengths, clip_scale, difference, distances_to
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def norm_clipping(inner: Aggregator, radius: Any) -> Aggregator:
    """`inner` of own + clip(v_k - own, radius), clip(d, r) = d min(1, r / ||d||): nobody moves it by more than the radius.

    What is not finite is heard as the own value.

    Args:
      inner: the rule that sees the clipped values.
      radius: > 0, traced.
    Source: Sun, Kairouz, Suresh and McMahan, Can you really backdoor federated learning?, 2019.
    """
    checks.instance("norm_clipping", "inner", inner, Aggregator, "Pass a rule, e.g. mean().")
    checks.number("norm_clipping", "radius", radius, 0.0, open_minimum=True)

    def apply(key: Array, state: PyTree, own: PyTree, inbox: Inbox) -> tuple[PyTree, PyTree]:
        lengths = distances_to(inbox.values, own)
        return inner.apply(key, state, own, _clipped(own, inbox, lengths, radius))

    return around(inner, apply, "Sun, Kairouz, Suresh and McMahan, 2019")


def adaptive_robust_clipping(inner: Aggregator, num_byzantine: int) -> Aggregator:
    """`norm_clipping` (ARC) with the radius of the candidates themselves, so that honest ones are hardly touched.

    Of c candidates the k = floor(2 f / c (c - f)) longest ways v_k - own are clipped to the length of the next longest.
    With f = 0 nothing is.  The radius is a node's own and changes with what it hears.

    Args:
      inner: the rule that sees the clipped values.
      num_byzantine: f >= 0, structural.  `learn` refuses one that c >= 2 f + 1 does not hold for at some node.
    Source: Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, Adaptive gradient clipping for robust federated learning,
      ICLR 2025.  Differs: lengths are measured from the own value, which is one of the candidates.
    """
    where = "adaptive_robust_clipping"
    checks.instance(where, "inner", inner, Aggregator, "Pass a rule, e.g. trimmed_mean(1).")
    checks.integer(where, "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: PyTree, own: PyTree, inbox: Inbox) -> tuple[PyTree, PyTree]:
        lengths = distances_to(inbox.values, own)
        measured = jnp.where(jnp.isfinite(lengths.value), lengths.value, jnp.inf)
        longest = -jnp.sort(jnp.where(inbox.mask, -measured, 0), axis=1)  # those that were not heard have no length
        count = 1 + jnp.sum(inbox.mask, axis=1)
        clips = (2 * num_byzantine * jnp.maximum(count - num_byzantine, 0)) // count
        # The own way has length zero, so where all others are clipped they are clipped to nothing.
        padded = jnp.concatenate([longest, jnp.zeros_like(longest[:, :1])], axis=1)
        radius = jnp.take_along_axis(padded, jnp.minimum(clips, padded.shape[1] - 1)[:, None], axis=1)
        return inner.apply(key, state, own, _clipped(own, inbox, lengths, radius))

    return around(inner, apply, "Allouah et al., ICLR 2025", bound(where, "num_byzantine", num_byzantine, 2, 1))


def _clipped(own: PyTree, inbox: Inbox, lengths: Lengths, radius: Any) -> Inbox:
    """The inbox with own + clip(v_k - own, radius) in place of v_k; the radius is one, or one a node, `[n, 1]`."""
    scale = clip_scale(lengths, radius)

    def leaf(v: Array, o: Array) -> Array:
        by = scale.reshape(scale.shape + (1,) * (v.ndim - 2))
        way = difference(v, o, lengths.unit)
        moved = o[:, None] + jnp.where(by == 0, 0, by * way).astype(v.dtype)
        is_whole = (scale * lengths.unit >= 1).reshape(by.shape)  # what is not clipped stays to the bit
        return jnp.where(is_whole, v, moved)

    return inbox._replace(values=jax.tree.map(leaf, inbox.values, own))
