"""Channels that send every number as an integer of b bits, in steps of each leaf's own or of the whole message."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels import draws
from dlsim.channels.bits import BITS, fixed_width, one_scale, scale_a_leaf
from dlsim.channels.packets import as_sent, one_piece, pieces, stateless
from dlsim.core import Array, Channel, Packet, Route

SCALES = ("leaf", "message")
ROUNDINGS = ("nearest", "stochastic")


def integers(bits: int = 8, *, rounding: str = "nearest", scale: str = "leaf") -> Channel:
    """b-bit integers around zero (int8, int4): multiples of a step, up to s = 2^(b-1) - 1 of them either way.

        step = max_d |x_d| / s,   C(x)_d = step q_d,   q_d = x_d / step rounded

    To the nearest (halves to even): |C(x)_d - x_d| <= step / 2.  Stochastic: up with the fraction's probability, so
    unbiased, and E||C(x) - x||^2 <= D step^2 / 4; over a whole message that is `quantize` by the maximum norm.  Zero
    stays zero.  Sends b bits a number and 32 for each step.

    Args:
      bits: b in [2, 16], structural.
      rounding: `"nearest"` or `"stochastic"`, structural.
      scale: a step for each `"leaf"` of a sender's message, or one for the `"message"`; structural.
    Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
      CVPR 2018, with the zero point at zero.
    """
    checks.integer("integers", "bits", bits, 2, 16)
    checks.one_of("integers", "rounding", rounding, ROUNDINGS)
    checks.one_of("integers", "scale", scale, SCALES)
    largest = 2 ** (bits - 1) - 1

    def apply(x: Array, sent: Array, random: Array | None) -> tuple[Array, Array]:
        size = jnp.max(jnp.abs(x), axis=1, keepdims=True, initial=0)
        step = as_sent(size / largest, x.dtype)
        level = jnp.clip(_rounded(x * (largest / jnp.where(size > 0, size, 1)), rounding, random), -largest, largest)
        return jnp.where(level == 0, 0, level) * step, step  # a zero has no sign

    def to_code(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return np.rint(values / np.where(scales[:, 0] > 0, scales[:, 0], 1)).astype(np.int64) + largest

    def from_code(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return (codes - largest).astype(np.float32) * scales[:, 0]

    codec = fixed_width(bits, one_scale if scale == "message" else scale_a_leaf, 1, to_code, from_code)
    send = _sender(apply, bits, 1, rounding, scale)
    return Channel(init=stateless, send=send, source="Jacob et al., CVPR 2018", codec=(codec,))


def min_max(bits: int = 8, *, rounding: str = "nearest", scale: str = "leaf") -> Channel:
    """b-bit integers from the least number to the largest (uint8): s = 2^b - 1 steps between them.

        step = (max_d x_d - min_d x_d) / s,   C(x)_d = step (q_d + min_d x_d / step),   q_d = (x_d - min_d x_d) / step rounded

    To the nearest: |C(x)_d - x_d| <= step / 2.  Stochastic: unbiased, E||C(x) - x||^2 <= D step^2 / 4.  Down (`"floor"`, a
    cast that truncates, as in PCCL's ring): never above x and half a step below it in the mean, a bias that does not
    average out over senders.  Zero need not stay zero.  Sends b bits a number and, for each leaf, 64: the step and where
    it starts.

    Args:
      bits: b in [1, 16], structural.
      rounding: `"nearest"`, `"stochastic"` or `"floor"`, structural.
      scale: a range for each `"leaf"` of a sender's message, or one for the `"message"`; structural.
    Source: Keiblinger et al., Prime Collective Communications Library, 2025 (its quantiser works on the chunks of a ring,
      and hop by hop; this one on what a sender says).
    """
    checks.integer("min_max", "bits", bits, 1, 16)
    checks.one_of("min_max", "rounding", rounding, (*ROUNDINGS, "floor"))
    checks.one_of("min_max", "scale", scale, SCALES)
    largest = 2**bits - 1

    def apply(x: Array, sent: Array, random: Array | None) -> tuple[Array, Array]:
        low = jnp.min(x, axis=1, keepdims=True, where=sent, initial=jnp.inf)
        high = jnp.max(x, axis=1, keepdims=True, where=sent, initial=-jnp.inf)
        is_any = jnp.any(sent, axis=1, keepdims=True)
        low, high = jnp.where(is_any, low, 0), jnp.where(is_any, high, 0)
        alone = jnp.where(low == 0, 1, jnp.abs(low))  # all are equal: the start itself is the step
        step = as_sent(jnp.where(high == low, alone, (high - low) / largest), x.dtype)
        start = as_sent(low / step, x.dtype)
        level = jnp.clip(_rounded((x - low) / step, rounding, random), 0, largest)
        level = jnp.where((x >= high) & (high > low), largest, level)  # rounding must not lose the last step
        return jnp.where(sent, (level + start) * step, 0), jnp.concatenate([step, start], axis=1)

    def to_code(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        level = np.rint(values / scales[:, 0] - scales[:, 1].astype(np.float64))
        return np.clip(level, 0, largest).astype(np.int64)

    def from_code(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return (codes.astype(np.float32) + scales[:, 1]) * scales[:, 0]

    codec = fixed_width(bits, one_scale if scale == "message" else scale_a_leaf, 2, to_code, from_code)
    send = _sender(apply, bits, 2, rounding, scale)
    return Channel(init=stateless, send=send, source="Keiblinger et al., PCCL, 2025", codec=(codec,))


def _rounded(level: Array, rounding: str, random: Array | None) -> Array:
    if rounding == "nearest":
        return jnp.round(level)
    down = jnp.floor(level)
    return down if random is None else down + (random < level - down)


def _sender(
    apply: Callable[[Array, Array, Array | None], tuple[Array, Array]],
    bits: int,
    num_scales: int,
    rounding: str,
    scale: str,
) -> Callable[..., tuple[tuple[()], Packet]]:
    """`apply(x [n, d], sent [n, d], random [n, d] | None) -> (x as it arrives, scales [n, num_scales])`, part by part."""

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        parts, rebuild = pieces(packet.values) if scale == "leaf" else one_piece(packet.values)
        values, scales = [], []
        for piece in parts:
            random = piece.draw(draws.uniform, key, route.node_ids) if rounding == "stochastic" else None
            value, side = apply(piece.numbers, piece.is_sent(packet), random)
            values.append(value)
            scales.append(side.astype(jnp.float32))
        return state, packet._replace(
            values=rebuild(values),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, bits),
            extra_bits=packet.extra_bits + jnp.uint32(BITS * num_scales * len(parts)),
            beside=(*packet.beside, jnp.stack(scales, axis=1)),
        )

    return send
