"""A server that learns a sum and no summand: messages hidden in masks that cancel over the cohort."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.channels.levels import positions
from dlsim.core import SERVER, Array, Channel, Packet, PyTree, Route

KEY_BITS = 256  # of a public key
SHARE_BITS = 256  # of one share of a secret
LARGEST_WORD = 31  # bits of the sum, whose double is an int32


def secure_aggregation(
    *,
    clip: Any,
    weights: Any,
    num_levels: int = 2**16,
    rounding: str = "stochastic",
    threshold: float = 2 / 3,
    with_masks: bool = True,
) -> Channel:
    """A server's uplink by which it learns the mean of its cohort's messages and nothing else (Bonawitz et al.).

        z_i = n_i round((x_i / c + 1) (m - 1) / 2)                                 integers; x_i clipped to [-c, c]
        y_i = z_i + r_i + sum_{j > i} s_ij - sum_{j < i} s_ij   mod 2^b             what is sent; j over those that began
        sum_{i in A} y_i - sum_{i in A} r_i - sum_{i in A, j not in A} +-s_ij = sum_{i in A} z_i   mod 2^b

    A are those whose message arrived.  Masks r_i (a seed of each one's own) and s_ij (a seed that i and j agree on) are words
    of a generator; the seeds are shared among the cohort, and the survivors give the server the r of those that are there
    and the s of those that are not.  Sums are of integers, so masks cancel to the bit, whoever drops out.  With fewer than
    t = max(2, ceil(threshold C)) survivors of the C asked nothing can be opened: nothing arrives.  An absent client has not
    begun; one whose message is lost (a `loss` before this in the chain) dropped out, which is what masks must survive.

    Every row that the server gets is the mean  sum n_i x_i / sum n_i  over A, so any weighting of its own gives that mean:
    weights belong here, to what clients send.  A rule that compares clients (a median, a norm clip) has nothing to compare.
    If a client's message is not finite, so is the mean.

    Bits: of a client, D + 1 words (D where all weigh alike) of b = ceil(log2((m - 1) sum n_i + 1)) bits, the sum over the C
    heaviest; beside them two public keys, 2 (C' - 1) encrypted shares and C' shares in the end, 256 bits each, C' those that
    began.  The server passes on keys and shares, 2 (C - 1) of each 256 bits a copy of its broadcast, reckoned as if all that
    are asked were there.

    Args:
      clip: c > 0, the largest number that can be sent; may be traced.
      weights: None (all alike) or n_i, integers by node id `[N]`, e.g. `problem.num_examples`.
      num_levels: m of a number; structural.  After `rqm`, its levels, with `clip` its c + Delta and rounding="nearest".
      rounding: "stochastic" (unbiased) or "nearest" (exact for numbers that are levels); structural.
      threshold: in (0, 1]; structural.
      with_masks: whether masks are made and taken off again.  They cancel to the bit, so False gives the same bits without
        their cost of C / 2 words a client and number; structural.
    Source: Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS 2017, against a server
      that is honest but curious.  Differs: keys are agreed and shares reconstructed without arithmetic of their own, whose
      result is certain from t shares on; seeds have 64 bits.
    """
    where = "secure_aggregation"
    checks.number(where, "clip", clip, 0.0, open_minimum=True)
    checks.integer(where, "num_levels", num_levels, 2, 2**16)
    checks.one_of(where, "rounding", rounding, ("stochastic", "nearest"))
    checks.known(where, "threshold", threshold, "known while tracing")
    checks.number(where, "threshold", threshold, 0.0, 1.0, open_minimum=True)
    checks.flag(where, "with_masks", with_masks)
    counts = None if weights is None else _check_weights(where, weights)

    def init(message: PyTree, num_senders: int) -> tuple[()]:
        del message
        if counts is not None and num_senders not in (1, len(counts)):
            checks.fail(where, "weights", f"one a node, [{num_senders}]", f"[{len(counts)}]")
        return ()

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        num, others = route.node_ids.shape[0], route.receivers.shape[0] - 1
        if num == 1:
            # The server's broadcast, and the keys and shares that it passes on; a cohort of one has no sum to hide in.
            is_server = route.node_ids == SERVER
            relayed = jnp.uint32(2 * others * (KEY_BITS + SHARE_BITS))
            alone = jnp.broadcast_to(is_server, route.receivers.shape)
            delivered = alone if packet.delivered is None else alone & packet.delivered
            extra = packet.extra_bits + jnp.where(is_server, relayed, 0)
            return state, packet._replace(extra_bits=extra, delivered=delivered)
        bits = word_bits(num, num_levels, counts)
        began = jnp.ones(num, bool) if route.acting is None else route.acting
        arrived = began if packet.delivered is None else began & packet.delivered
        flat, unravel = trees.ravel(packet.values)
        weight = jnp.ones(num, jnp.uint32) if counts is None else jnp.asarray(counts, jnp.uint32)[route.node_ids]
        draw: Any = 0.5
        if rounding == "stochastic":
            draw = keys.node_uniform(keys.stream(key, "rounding"), route.node_ids, flat.shape[1])
        level = jnp.floor(positions(flat, clip, num_levels) + draw)
        words = jnp.where(level > 0, jnp.minimum(level, num_levels - 1), 0).astype(jnp.uint32) * weight[:, None]
        if counts is not None:
            words = jnp.concatenate([words, weight[:, None]], axis=1)
        if with_masks:
            masked = words + masks(keys.stream(key, "masks"), route.node_ids, began, words.shape[1])
            total = jnp.sum(jnp.where(arrived[:, None], masked, 0), axis=0, dtype=jnp.uint32)
            has_dropped = packet.delivered is not None
            total = total - opened(
                keys.stream(key, "masks"), route.node_ids, began, arrived, words.shape[1], has_dropped
            )
        else:
            total = jnp.sum(jnp.where(arrived[:, None], words, 0), axis=0, dtype=jnp.uint32)
        total = total & jnp.uint32(2**bits - 1)
        num_heard = jnp.sum(arrived, dtype=jnp.uint32)
        heavy = num_heard if counts is None else total[-1]
        mean = _mean(total[: flat.shape[1]], heavy, clip, num_levels)
        is_finite = jnp.all(jnp.isfinite(flat) | ~arrived[:, None])
        mean = jnp.where(is_finite, mean, jnp.nan).astype(flat.dtype)
        enough = num_heard >= max(2, math.ceil(threshold * num))
        num_began = jnp.sum(began, dtype=jnp.uint32)
        exchanged = 2 * KEY_BITS + (3 * num_began - 2) * SHARE_BITS
        return state, packet._replace(
            values=unravel(jnp.broadcast_to(mean, flat.shape)),
            num_entries=jnp.full_like(packet.num_entries, words.shape[1]),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, bits),
            extra_bits=jnp.broadcast_to(exchanged, (num,)).astype(jnp.uint32),
            delivered=jnp.broadcast_to(enough, (num,)) & arrived,
        )

    source = "Bonawitz et al., CCS 2017"
    return Channel(init=init, send=send, source=source, is_sum=True)


def word_bits(num_senders: int, num_levels: int, counts: np.ndarray | None) -> int:
    """Bits b of a word, so that the sum of the heaviest `num_senders` does not wrap; ValueError beyond 31."""
    heaviest = num_senders if counts is None else int(np.sort(counts)[-num_senders:].sum())
    bits = ((num_levels - 1) * heaviest).bit_length()
    if bits > LARGEST_WORD:
        fix = f"Use fewer levels or smaller weights; now the sum has {bits} bits."
        most = 2**LARGEST_WORD // heaviest
        checks.fail("secure_aggregation", "num_levels", f"at most {most} for weights of {heaviest}", num_levels, fix)
    return bits


def masks(key: Array, node_ids: Array, began: Array, num_words: int) -> Array:
    """What each sender adds to its words, uint32 `[n, num_words]`: r_i and, over those that began, +-s_ij."""
    own = keys.node_bits(keys.stream(key, "own"), node_ids, num_words)
    return own + _pairs(key, node_ids, began, began, num_words)


def opened(
    key: Array, node_ids: Array, began: Array, arrived: Array, num_words: int, has_dropped: bool = True
) -> Array:
    """What the server takes off the sum over `arrived`, uint32 `[num_words]`: their r_i, and their +-s_ij with the others.

    Between two that arrived s_ij has cancelled.
    """
    own = keys.node_bits(keys.stream(key, "own"), node_ids, num_words)
    total = jnp.sum(jnp.where(arrived[:, None], own, 0), axis=0, dtype=jnp.uint32)
    if not has_dropped:
        return total
    left = _pairs(key, node_ids, arrived, began & ~arrived, num_words)
    return total + jnp.sum(left, axis=0, dtype=jnp.uint32)


def _pairs(key: Array, node_ids: Array, senders: Array, partners: Array, num_words: int) -> Array:
    """Sums of +-s_ij over j, of those i in `senders` and j in `partners`, uint32 `[n, num_words]`; + for the smaller id.

    One pair of places after the other, (p, p + o) for all p at once, so that memory is that of the messages.
    """
    num = node_ids.shape[0]
    place = jnp.arange(num)

    def at(offset: Array, total: Array) -> Array:
        other = (place + offset) % num
        # Half way round, every pair comes twice.
        is_new = (2 * offset != num) | (place < offset)
        low, high = jnp.minimum(node_ids, node_ids[other]), jnp.maximum(node_ids, node_ids[other])
        seeds = keys.fold_in(keys.stream(key, "pair"), low, high)
        words = jax.vmap(lambda seed: keys.node_bits(seed, jnp.zeros(1, jnp.int32), num_words)[0])(seeds)
        words = jnp.where((node_ids < node_ids[other])[:, None], words, -words)
        here = is_new & senders & partners[other]
        there = is_new & senders[other] & partners
        total = total + jnp.where(here[:, None], words, 0)
        return total + jnp.roll(jnp.where(there[:, None], -words, 0), offset, axis=0)

    return jax.lax.fori_loop(1, num // 2 + 1, at, jnp.zeros((num, num_words), jnp.uint32))


def _mean(total: Array, heavy: Array, clip: Any, num_levels: int) -> Array:
    """The mean number behind a sum of levels; whole numbers up to the last step: c (2 T - (m - 1) W) / ((m - 1) W)."""
    centred = jax.lax.bitcast_convert_type(2 * total - (num_levels - 1) * heavy, jnp.int32)
    parts = (num_levels - 1) * jnp.maximum(heavy, 1).astype(jnp.float32)
    return clip * (centred.astype(jnp.float32) / parts)


def _check_weights(where: str, weights: Any) -> np.ndarray:
    fix = "Pass problem.num_examples, or None for equal weights."
    checks.known(where, "weights", weights, "known while tracing")
    given = checks.array(where, "weights", weights, (None,))
    if not np.issubdtype(given.dtype, np.integer) or given.size == 0 or (given < 0).any() or not given.any():
        checks.fail(where, "weights", "integers >= 0, not all 0", checks.describe(weights), fix)
    if int(given.astype(np.int64).sum()) > checks.LARGEST_INTEGER:
        checks.fail(
            where, "weights", f"of a sum up to {checks.LARGEST_INTEGER}", f"{given.astype(np.int64).sum()}", fix
        )
    return given.astype(np.int64)
