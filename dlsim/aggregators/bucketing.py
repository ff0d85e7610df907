"""Bucketing: random groups of candidates are averaged before a rule sees them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.aggregators.bounds import Bound, around
from dlsim.aggregators.candidates import distances_to, mixtures, ranks, with_own
from dlsim.core import SERVER, Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


def bucketing(inner: Aggregator, bucket_size: int = 2) -> Aggregator:
    """`inner` of the means of buckets: candidates in random order, cut into buckets of s, the last one the smaller.

        y_b = mean of v_pi((b - 1) s + 1), ..., v_pi(b s),   b = 1, ..., ceil(c / s)

    of c candidates, the own one among them.  Means differ less than the values, where honest nodes hold different data, and
    f liars spoil at most f buckets: give the rule inside the same f.  Each receiver draws an order of its own anew in every
    step.  What counts to `inner` as a node's own value is the bucket that this fell into.  What is not finite is left out.

    Args:
      inner: the rule that sees the means; one that is centred on the own value sees a bucket that may hold a lie.
      bucket_size: s >= 1, structural.  With s = 1 it is `inner`.
    Source: Karimireddy, He and Jaggi, Byzantine-robust learning on heterogeneous datasets via bucketing, ICLR 2022,
      Algorithm 1, s = 2.  Differs: a smaller last bucket is divided by what it holds.
    """
    checks.instance("bucketing", "inner", inner, Aggregator, "Pass a rule, e.g. krum(1).")
    checks.integer("bucketing", "bucket_size", bucket_size, 1)

    def apply(key: Array, state: PyTree, own: PyTree, inbox: Inbox) -> tuple[PyTree, PyTree]:
        values, mask = with_own(own, inbox)
        num, size = mask.shape
        heard = jnp.isfinite(distances_to(inbox.values, own).value)
        sound = mask & jnp.concatenate([jnp.ones((num, 1), bool), heard], axis=1)
        place = ranks(jnp.where(sound, _draws(keys.stream(key, "buckets"), inbox), 2.0))
        of = place // bucket_size
        num_buckets = -(-size // bucket_size)
        # The own bucket comes first, the others in their order.
        of = jnp.where(of == of[:, :1], 0, of + (of < of[:, :1]))
        is_in = (of[:, None, :] == jnp.arange(num_buckets)[:, None]) & sound[:, None, :]
        count = jnp.sum(is_in, axis=2)
        made = mixtures(is_in / jnp.maximum(count, 1)[:, :, None], values)
        mine = 1 - jnp.sum(inbox.weights, axis=1, keepdims=True)
        weights = jnp.sum(jnp.where(is_in, jnp.concatenate([mine, inbox.weights], axis=1)[:, None], 0), axis=2)
        others = Inbox(
            values=jax.tree.map(lambda v: v[:, 1:], made),
            weights=weights[:, 1:],
            mask=count[:, 1:] > 0,
            senders=jnp.zeros((num, num_buckets - 1), jnp.int32),
            node_ids=inbox.node_ids,
        )
        return inner.apply(keys.stream(key, "inner"), state, jax.tree.map(lambda v: v[:, 0], made), others)

    asked = None
    if inner.bound is not None:
        least = bucket_size * (inner.bound.least - 1) + 1
        why = f"{bucket_size} (({inner.bound.why}) - 1) + 1"
        asked = Bound(f"bucketing({inner.bound.rule}, bucket_size={bucket_size})", least, why)
    return around(inner, apply, "Karimireddy, He and Jaggi, ICLR 2022", asked)


def _draws(key: Array, inbox: Inbox) -> Array:
    """One number in [0, 1) a candidate, `[n, K + 1]`, by step, receiver and candidate."""
    num, width = inbox.mask.shape
    receivers = jnp.full(num, SERVER, jnp.int32) if inbox.node_ids is None else inbox.node_ids
    everyone = inbox.candidate_ids
    if everyone is None:  # an inbox made by hand: by position
        everyone = jnp.concatenate([jnp.full((num, 1), SERVER, jnp.int32), inbox.senders], axis=1)
    pairs = jnp.broadcast_to(receivers[:, None], (num, width + 1)).reshape(-1)
    return keys.edge_uniform(key, pairs, everyone.reshape(-1)).reshape(num, width + 1)
