"""Channels that send some of the numbers: the largest, or some drawn at random."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp

from dlsim import checks
from dlsim.channels import draws
from dlsim.channels.error_feedback import error_feedback as with_error_feedback
from dlsim.channels.packets import (
    check_fraction,
    is_sent,
    num_kept,
    on_air,
    pieces,
    seed_words,
    side_by_side,
    stateless,
)
from dlsim.channels.places import index_width, indices, seed
from dlsim.channels.rows import how_many
from dlsim.channels.selection import largest
from dlsim.core import Array, Channel, Packet, Route


def _draw_k(key: Array, node_ids: Array, dimension: int, k: int) -> Array:
    """k of D places a node, bool `[n, D]`."""
    return largest(draws.integers(key, node_ids, dimension), k, around=_expected(k, dimension))


def _count(packet: Packet, chosen: Array, k: int) -> Array:
    """How many of the k chosen numbers are sent, uint32 `[n]`."""
    if packet.is_sent is None:
        return jnp.minimum(packet.num_entries, k).astype(jnp.uint32)
    return how_many(chosen & packet.is_sent).astype(jnp.uint32)


def top_k(fraction: float | int, *, error_feedback: bool = False) -> Channel:
    """The k entries of largest magnitude, the rest zero: C(x)_d = x_d where |x_d| is among the k largest.

    Contraction k/D: ||C(x) - x||^2 <= (1 - k/D) ||x||^2.  Sends k numbers and k indices of ceil(log2 D) bits; of equal
    magnitudes those with the lower index.

    Args:
      fraction: k = max(1, round(fraction D)) for a float in (0, 1]; an int is k itself, at most D.  Structural.
      error_feedback: add up what was left out and send it later (`error_feedback`).
    Source: Stich, Cordonnier and Jaggi, Sparsified SGD with memory, NeurIPS 2018.
    """
    fraction = check_fraction("top_k", fraction)
    checks.flag("top_k", "error_feedback", error_feedback)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        flat, unravel = side_by_side(packet.values)
        dimension = flat.shape[1]
        k = num_kept(fraction, dimension)
        chosen = largest(flat, k)
        kept = jnp.where(chosen, flat, 0)
        return state, packet._replace(
            values=unravel(kept),
            num_entries=_count(packet, chosen, k),
            extra_bits=packet.extra_bits + jnp.uint32(k * index_width(k, dimension)),
            is_sent=on_air(packet, chosen),
            beside=(*packet.beside, chosen),
        )

    source = "Stich, Cordonnier and Jaggi, NeurIPS 2018"
    channel = Channel(init=stateless, send=send, source=source, codec=(indices(fraction),))
    return with_error_feedback(channel) if error_feedback else channel


def random_k(fraction: float | int, *, is_unbiased: bool = True) -> Channel:
    """k entries drawn uniformly, the rest zero, scaled by D/k where `is_unbiased`.

    Relative variance D/k - 1: E C(x) = x and E||C(x) - x||^2 = (D/k - 1) ||x||^2.  Unscaled, contraction k/D:
    E||C(x) - x||^2 = (1 - k/D) ||x||^2.  Sends k numbers and the 64 bits of a seed from which the receiver knows their
    places.  Every sender draws its own k; the draw belongs to (step, sender).

    Args:
      fraction: k = max(1, round(fraction D)) for a float in (0, 1]; an int is k itself, at most D.  Structural.
      is_unbiased: structural; use False with `error_feedback`.
    Source: Stich, Cordonnier and Jaggi, Sparsified SGD with memory, NeurIPS 2018.
    """
    fraction = check_fraction("random_k", fraction)
    checks.flag("random_k", "is_unbiased", is_unbiased)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        flat, unravel = side_by_side(packet.values)
        dimension = flat.shape[1]
        k = num_kept(fraction, dimension, "random_k")
        kept = _draw_k(key, route.node_ids, dimension, k) & is_sent(flat, packet)
        scale = dimension / k if is_unbiased else 1.0
        return state, packet._replace(
            values=unravel(jnp.where(kept, flat * jnp.asarray(scale, flat.dtype), 0)),
            num_entries=how_many(kept).astype(jnp.uint32),
            extra_bits=packet.extra_bits + jnp.uint32(64),
            is_sent=kept,
            beside=(*packet.beside, seed_words(key, flat.shape[0])),
        )

    def draw(key: Array, node_ids: Array, dimension: int) -> Array:
        return _draw_k(key, node_ids, dimension, num_kept(fraction, dimension, "random_k"))

    def scale(dimension: int) -> Any:
        return dimension / num_kept(fraction, dimension, "random_k") if is_unbiased else 1.0

    source = "Stich, Cordonnier and Jaggi, NeurIPS 2018"
    return Channel(init=stateless, send=send, source=source, codec=(seed(draw, scale),))


def _expected(k: int, dimension: int) -> tuple[int, int]:
    """Integers between which the k-th largest of D random ones lies, but for one row in ten thousand."""
    share, spread = 0.5 - k / dimension, 4 * math.sqrt(k * (dimension - k) / dimension) / dimension
    low, high = (min(max(int(2**32 * (share + side * spread)), -(2**31)), 2**31 - 1) for side in (-1, 1))
    return low, high


def random_sparsification(probability: Any, *, is_unbiased: bool = True) -> Channel:
    """Every entry is kept with `probability` p (traced), and scaled by 1/p where `is_unbiased`.

    Relative variance 1/p - 1: E C(x) = x and E||C(x) - x||^2 = (1/p - 1) ||x||^2.  Unscaled, contraction p:
    E||C(x) - x||^2 = (1 - p) ||x||^2.  Sends the kept numbers and the 64 bits of a seed from which the receiver knows
    their places.
    Source: Wangni, Wang, Liu and Zhang, Gradient sparsification, NeurIPS 2018 (with equal probabilities).
    """
    checks.number("random_sparsification", "probability", probability, 0.0, 1.0, open_minimum=True)
    checks.flag("random_sparsification", "is_unbiased", is_unbiased)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        leaves, rebuild = pieces(packet.values)
        scale = 1 / probability if is_unbiased else 1.0
        kept, values = [], []
        for piece in leaves:
            drawn = piece.draw(draws.uniform, key, route.node_ids) < probability
            kept.append(drawn & piece.is_sent(packet))
            values.append(jnp.where(kept[-1], piece.numbers * jnp.asarray(scale, piece.numbers.dtype), 0))
        return state, packet._replace(
            values=rebuild(values),
            num_entries=functools.reduce(jnp.add, [how_many(mask) for mask in kept]).astype(jnp.uint32),
            extra_bits=packet.extra_bits + jnp.uint32(64),
            is_sent=jnp.concatenate(kept, axis=1),
            beside=(*packet.beside, seed_words(key, len(packet.num_entries))),
        )

    def draw(key: Array, node_ids: Array, dimension: int) -> Array:
        return draws.uniform(key, node_ids, dimension) < probability

    def scale(dimension: int) -> Any:
        del dimension
        return 1 / probability if is_unbiased else 1.0

    source = "Wangni, Wang, Liu and Zhang, NeurIPS 2018"
    return Channel(init=stateless, send=send, source=source, codec=(seed(draw, scale),))
