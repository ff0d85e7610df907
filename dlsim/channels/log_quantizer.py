"""A channel that sends every number as a sign and a rounded logarithm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.bits import Part, fixed_width, no_scales, one_scale
from dlsim.channels.packets import as_sent, pieces, stateless
from dlsim.core import Array, Channel, Packet, Route

MOST_BITS = 16


@checks.typed
def log_quantize(num_bits: int = 8, *, steps_per_e: Any = 8.0) -> Channel:
    """A sign and the logarithm of the magnitude, rounded: one byte a number by default.

        k = clip(round(c ln|x_d|), -2^(b-2), 2^(b-2) - 1),   C(x)_d = sign(x_d) e^(k/c),   c = steps_per_e, b = num_bits

    Deterministic, odd (zero counts as positive) and idempotent, without a scale of its own: a number is read alone.  With
    b = 8 and c = 8 magnitudes run from 3.35e-4 to 2,631, within which the relative error is at most
    e^(1/(2c)) - 1 = 6.45 %; what is outside, zero too, becomes the nearest end.  b = 1 is the sign alone, C(x)_d = +-1.
    Sends b bits a number and nothing else.

    Args:
      num_bits: b, from 1 to 16; structural.
      steps_per_e: c > 0, steps a factor of e; may be traced.

    Source: Zelikman, Huang, Liang, Haber and Goodman, Just one byte (per gradient), 2023.  Differs: their code clips the
      rounded 16 ln|x| to [-127, 127] and keeps the sign beside it, which takes 9 bits (here `log_quantize(9,
      steps_per_e=16)`), and then sends the number as it was; one byte is 8 steps a factor of e.
    """
    low, high = _ends("log_quantize", num_bits, steps_per_e)
    step = _step(steps_per_e)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        leaves, rebuild = pieces(packet.values)
        values = []
        for piece in leaves:
            level = jnp.clip(jnp.round(steps_per_e * jnp.log(jnp.abs(piece.numbers))), low, high)
            size = _sizes(level, step)
            values.append(jnp.where(piece.is_sent(packet), jnp.where(piece.numbers < 0, -size, size), 0))
        return state, packet._replace(
            values=rebuild(values),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, num_bits),
            beside=(*packet.beside, no_scales(len(packet.num_entries))),
        )

    codec = (_codec(num_bits, steps_per_e),)
    return Channel(init=stateless, send=send, source="Zelikman et al., Just one byte, 2023", codec=codec)


def _codec(num_bits: int, steps_per_e: Any) -> Part:
    """A sign (1: negative) and then k less the least k: a byte each for b = 8."""
    low, high = _ends("log_quantize", num_bits, steps_per_e)
    half = 1 << (num_bits - 1)

    def to_code(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        del scales
        with np.errstate(divide="ignore"):
            level = np.clip(np.round(np.log(np.abs(values)) / known("encode")), low, high)
        return (level - low).astype(np.int64) + np.signbit(values) * half

    def from_code(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        del scales
        size = np.asarray(jax.jit(_sizes)((codes % half + low).astype(np.float32), known("decode")))
        return np.where(codes >= half, -size, size)

    def known(where: str) -> Any:
        checks.known(where, "channel", steps_per_e, "of known settings", "Call it outside of jit.")
        return _step(steps_per_e)

    return fixed_width(num_bits, one_scale, 0, to_code, from_code)


def _step(steps_per_e: Any) -> Any:
    """1 / c, of the same bits for sender and receiver."""
    if checks.is_concrete(steps_per_e):
        return np.float32(1 / float(steps_per_e))
    return as_sent(1 / jnp.asarray(steps_per_e, jnp.float32), jnp.float32)


def _sizes(level: Array, step: Any) -> Array:
    """e^(k / c)."""
    return jnp.exp(level * step)


def _ends(where: str, num_bits: int, steps_per_e: Any) -> tuple[int, int]:
    """The least and the greatest k."""
    checks.integer(where, "num_bits", num_bits, 1, MOST_BITS)
    checks.number(where, "steps_per_e", steps_per_e, 0.0, open_minimum=True)
    levels = 2 ** (num_bits - 1)
    return -(levels // 2), levels - 1 - levels // 2
