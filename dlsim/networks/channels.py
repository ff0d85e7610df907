"""Channels: what can happen to a message on its way.  They compose with `chain`, and `error_feedback` wraps any of them.

Compressors work on a sender's whole message, all leaves side by side, in float32 or wider.  For sizes they compose too: a
sparsifier sets how many numbers are sent and adds their indices, a quantiser sets the bits of each number and adds its
scale.  What follows a sparsifier works on the numbers that are sent and leaves the others zero.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, Channel, Packet, PyTree, Route
from dlsim.running.meshes import by_part

NORMS = ("l2", "max")


def _stateless(message: PyTree, num_senders: int) -> tuple[()]:
    del message, num_senders
    return ()


def _is_sent(flat: Array, packet: Packet) -> Array:
    """Which numbers are on the air, bool `[n, D]`: all, or after a sparsifier those that are not zero."""
    return (flat != 0) | (packet.num_entries >= flat.shape[1])[:, None]


def _num_kept(fraction: float | int, dimension: int) -> int:
    """How many of D numbers a fraction, or count, keeps."""
    return min(fraction if isinstance(fraction, int) else max(1, round(float(fraction) * dimension)), dimension)


def _check_fraction(where: str, fraction: Any) -> Any:
    """A float in (0, 1], or a count of at least one as an int."""
    if isinstance(fraction, int | np.integer) and not isinstance(fraction, bool):
        return checks.integer(where, "fraction", fraction, 1)
    checks.known(where, "fraction", fraction, "known while tracing (it sets shapes)", "Sweep it as structure.")
    return checks.number(where, "fraction", fraction, 0.0, 1.0, open_minimum=True)


def loss(probability: Any) -> Channel:
    """Every transmission is lost with `probability` (traced), independently; its sender has paid for it.

    The draw belongs to (step, sender, receiver).  What a lost message means to mixing is said at `Network`.
    """
    checks.probability("loss", "probability", probability)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        arrives = keys.edge_uniform(key, route.senders, route.receivers) >= probability
        delivered = arrives if packet.delivered is None else packet.delivered & arrives
        return state, packet._replace(delivered=delivered)

    return Channel(init=_stateless, send=send)


def _places(sizes: Array, k: int) -> Array:
    """Where the k largest entries of each row are, int32 `[n, k]`; each device looks through its own rows."""
    return by_part(lambda rows: jax.lax.top_k(rows, k)[1], sizes.shape[0])(sizes)


def top_k(fraction: float | int, *, error_feedback: bool = False) -> Channel:
    """The k entries of largest magnitude, the rest zero: C(x)_d = x_d where |x_d| is among the k largest.

    Contraction k/D: ||C(x) - x||^2 <= (1 - k/D) ||x||^2.  Sends k numbers and k indices of ceil(log2 D) bits; of equal
    magnitudes those with the lower index.

    Args:
      fraction: k = max(1, round(fraction D)) for a float in (0, 1]; an int is k itself.  Structural.
      error_feedback: add up what was left out and send it later (`error_feedback`).
    Source: Stich, Cordonnier and Jaggi, Sparsified SGD with memory, NeurIPS 2018.
    """
    fraction = _check_fraction("top_k", fraction)
    checks.flag("top_k", "error_feedback", error_feedback)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        flat, unravel = trees.ravel(packet.values)
        dimension = flat.shape[1]
        k = _num_kept(fraction, dimension)
        largest = _places(jnp.abs(flat), k)
        kept = jax.vmap(lambda row, at: jnp.zeros_like(row).at[at].set(row[at], unique_indices=True))(flat, largest)
        index_bits = k * max(1, math.ceil(math.log2(dimension))) if k < dimension else 0
        return state, packet._replace(
            values=unravel(kept),
            num_entries=jnp.minimum(packet.num_entries, k).astype(jnp.uint32),
            extra_bits=packet.extra_bits + jnp.uint32(index_bits),
        )

    channel = Channel(init=_stateless, send=send, source="Stich, Cordonnier and Jaggi, NeurIPS 2018")
    return _with_error_feedback(channel) if error_feedback else channel


def random_k(fraction: float | int, *, is_unbiased: bool = True) -> Channel:
    """k entries drawn uniformly, the rest zero, scaled by D/k where `is_unbiased`.

    Relative variance D/k - 1: E C(x) = x and E||C(x) - x||^2 = (D/k - 1) ||x||^2.  Unscaled, contraction k/D:
    E||C(x) - x||^2 = (1 - k/D) ||x||^2.  Sends k numbers and the 64 bits of a seed from which the receiver knows their
    places.  Every sender draws its own k; the draw belongs to (step, sender).

    Args:
      fraction: k = max(1, round(fraction D)) for a float in (0, 1]; an int is k itself.  Structural.
      is_unbiased: structural; use False with `error_feedback`.
    Source: Stich, Cordonnier and Jaggi, Sparsified SGD with memory, NeurIPS 2018.
    """
    fraction = _check_fraction("random_k", fraction)
    checks.flag("random_k", "is_unbiased", is_unbiased)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        flat, unravel = trees.ravel(packet.values)
        dimension = flat.shape[1]
        k = _num_kept(fraction, dimension)
        chosen = _places(keys.node_bits(key, route.node_ids, dimension), k)
        nothing = jnp.zeros(dimension, bool)
        drawn = jax.vmap(lambda at: nothing.at[at].set(True, unique_indices=True))(chosen)
        kept = drawn & _is_sent(flat, packet)
        scale = dimension / k if is_unbiased else 1.0
        return state, packet._replace(
            values=unravel(jnp.where(kept, flat * jnp.asarray(scale, flat.dtype), 0)),
            num_entries=jnp.sum(kept, axis=1, dtype=jnp.uint32),
            extra_bits=packet.extra_bits + jnp.uint32(64),
        )

    return Channel(init=_stateless, send=send, source="Stich, Cordonnier and Jaggi, NeurIPS 2018")


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
        flat, unravel = trees.ravel(packet.values)
        kept = (keys.node_uniform(key, route.node_ids, flat.shape[1]) < probability) & _is_sent(flat, packet)
        scale = 1 / probability if is_unbiased else 1.0
        return state, packet._replace(
            values=unravel(jnp.where(kept, flat * jnp.asarray(scale, flat.dtype), 0)),
            num_entries=jnp.sum(kept, axis=1, dtype=jnp.uint32),
            extra_bits=packet.extra_bits + jnp.uint32(64),
        )

    return Channel(init=_stateless, send=send, source="Wangni, Wang, Liu and Zhang, NeurIPS 2018")


def quantize(bits: int, *, norm: str = "l2") -> Channel:
    """b-bit stochastic quantisation, unbiased: one sign bit and a level of s = 2^(b-1) - 1.

        C(x)_d = ||x|| sign(x_d) l_d / s,   l_d in {floor, floor + 1} of s |x_d| / ||x||, up with the fraction's probability

    Relative variance at most min(D / s^2, sqrt(D) / s) for the l2 norm, D / (4 s^2) for the maximum norm in terms of
    ||x||_inf^2.  Sends b bits a number and the 32 bits of the norm.

    Args:
      bits: b >= 2, structural.
      norm: `"l2"` (the paper's) or `"max"` (finer steps where entries are alike); structural.
    Source: Alistarh, Grubic, Li, Tomioka and Vojnovic, QSGD, NeurIPS 2017, section 3.1.
    """
    checks.integer("quantize", "bits", bits, 2, 16)
    checks.one_of("quantize", "norm", norm, NORMS)
    levels = 2 ** (bits - 1) - 1

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        flat, unravel = trees.ravel(packet.values)
        size = (
            jnp.linalg.norm(flat, axis=1, keepdims=True) if norm == "l2" else jnp.max(jnp.abs(flat), 1, keepdims=True)
        )
        level = jnp.abs(flat) * (levels / jnp.where(size > 0, size, 1))
        up = keys.node_uniform(key, route.node_ids, flat.shape[1]) < level - jnp.floor(level)
        rounded = jnp.minimum(jnp.floor(level) + up, levels)
        return state, packet._replace(
            values=unravel((jnp.sign(flat) * rounded * (size / levels)).astype(flat.dtype)),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, bits),
            extra_bits=packet.extra_bits + jnp.uint32(32),
        )

    return Channel(init=_stateless, send=send, source="Alistarh et al., QSGD, NeurIPS 2017")


def sign() -> Channel:
    """Signs and one scale: C(x) = (||x||_1 / D) sign(x).  One bit a number and 32 for the scale.

    Contraction ||x||_1^2 / (D ||x||^2), at least 1/D: ||C(x) - x||^2 = (1 - ||x||_1^2 / (D ||x||^2)) ||x||^2; use it
    with `error_feedback`.  A zero counts as positive.  After a sparsifier D is the number of entries sent.
    Source: Karimireddy, Rebjock, Stich and Jaggi, Error feedback fixes SignSGD, ICML 2019.
    """

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        flat, unravel = trees.ravel(packet.values)
        count = jnp.maximum(packet.num_entries, 1).astype(flat.dtype)[:, None]
        scale = jnp.sum(jnp.abs(flat), axis=1, keepdims=True) / count
        signs = jnp.where(flat >= 0, scale, -scale)
        return state, packet._replace(
            values=unravel(jnp.where(_is_sent(flat, packet), signs, 0)),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, 1),
            extra_bits=packet.extra_bits + jnp.uint32(32),
        )

    return Channel(init=_stateless, send=send, source="Karimireddy, Rebjock, Stich and Jaggi, ICML 2019")


def gaussian_noise(standard_deviation: Any) -> Channel:
    """Independent Gaussian noise on every number sent; `standard_deviation` >= 0, traced."""
    checks.number("gaussian_noise", "standard_deviation", standard_deviation, 0.0)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        flat, unravel = trees.ravel(packet.values)
        noise = keys.node_normal(key, route.node_ids, flat.shape[1]).astype(flat.dtype)
        noise = jnp.where(_is_sent(flat, packet), standard_deviation * noise, 0)
        return state, packet._replace(values=unravel(flat + noise))

    return Channel(init=_stateless, send=send)


def error_feedback(compressor: Channel) -> Channel:
    """What a compressor leaves out is kept and added to the next message:  send C(x + e),  e <- x + e - C(x + e).

    The residual e `[num_senders, ...]` belongs to one stream of messages of one sender; an absent sender keeps it.
    Meant for messages that add up over rounds (gradients, differences): a stream of parameters needs differences
    first (`choco_sgd`).
    Source: Seide et al., 1-bit SGD, Interspeech 2014; Karimireddy et al., ICML 2019.
    """
    if not isinstance(compressor, Channel):
        checks.fail("error_feedback", "compressor", "a Channel", checks.describe(compressor))

    def init(message: PyTree, num_senders: int) -> tuple[PyTree, PyTree]:
        residual = jax.tree.map(lambda leaf: jnp.zeros((num_senders, *leaf.shape[1:]), leaf.dtype), message)
        return residual, compressor.init(message, num_senders)

    def send(
        key: Array, state: tuple[PyTree, PyTree], packet: Packet, route: Route
    ) -> tuple[tuple[PyTree, PyTree], Packet]:
        residual, inner = state
        wanted = trees.add(packet.values, residual)
        inner, packet = compressor.send(key, inner, packet._replace(values=wanted), route)
        return (trees.subtract(wanted, packet.values), inner), packet

    return Channel(init=init, send=send, source="; ".join(filter(None, ("Seide et al., 2014", compressor.source))))


_with_error_feedback = error_feedback  # under a name that `top_k`'s argument does not shadow
