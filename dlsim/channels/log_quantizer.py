"""A channel that sends every number as a sign and a rounded logarithm, and what an encoder makes of that."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.channels.bits import Reader, Writer
from dlsim.channels.packets import is_sent, stateless
from dlsim.core import Array, Channel, Packet, Route

MOST_BITS = 16


@checks.typed
def log_quantize(num_bits: int = 8, *, steps_per_e: Any = 8.0) -> Channel:
    """A sign and the logarithm of the magnitude, rounded: one byte a number by default.

        k = clip(round(c ln|x_d|), -2^(b-2), 2^(b-2) - 1),   C(x)_d = sign(x_d) e^(k/c),   c = steps_per_e, b = num_bits

    Deterministic, odd (zero counts as positive) and idempotent, without a scale of its own: a number is read alone.  With
    b = 8 and c = 8 magnitudes run from 3.35e-4 to 2,631, within which the relative error is at most
    e^(1/(2c)) - 1 = 6.45 %; what is outside, zero too, becomes the nearest end.  b = 1 is the sign alone, C(x)_d = +-1.
    Sends b bits a number and nothing else; `encode_log` makes these bits.

    Args:
      num_bits: b, from 1 to 16; structural.
      steps_per_e: c > 0, steps a factor of e; may be traced.

    Source: Zelikman, Huang, Liang, Haber and Goodman, Just one byte (per gradient), 2023.  Differs: their code clips the
      rounded 16 ln|x| to [-127, 127] and keeps the sign beside it, which takes 9 bits (here `log_quantize(9,
      steps_per_e=16)`), and then sends the number as it was; one byte is 8 steps a factor of e.
    """
    low, high = _ends("log_quantize", num_bits, steps_per_e)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        flat, unravel = trees.ravel(packet.values)
        level = jnp.clip(jnp.round(steps_per_e * jnp.log(jnp.abs(flat))), low, high)
        size = jnp.exp(level / steps_per_e).astype(flat.dtype)
        values = jnp.where(is_sent(flat, packet), jnp.where(flat < 0, -size, size), 0)
        return state, packet._replace(
            values=unravel(values), bits_per_entry=jnp.full_like(packet.bits_per_entry, num_bits)
        )

    return Channel(init=stateless, send=send, source="Zelikman et al., Just one byte, 2023")


@checks.typed
def encode_log(values: Any, num_bits: int = 8, *, steps_per_e: Any = 8.0) -> bytes:
    """What `log_quantize` puts on the air, on the host: b bits a number, most significant first, the last byte filled up.

    A number is its sign (1: negative) and then k less the least k, see `log_quantize`; a byte each for b = 8.

    Args:
      values: the numbers of a message, any shape, finite.
      num_bits, steps_per_e: as of the channel.
    """
    where = "encode_log"
    checks.known(where, "values", (values, steps_per_e), "known: a code is made on the host", "Call it outside of jit.")
    low, high = _ends(where, num_bits, steps_per_e)
    made = checks.array(where, "values", values)
    if made.ndim == 0:
        checks.fail(where, "values", "an array or list of numbers", checks.describe(values))
    flat = made.astype(np.float32).ravel()
    with np.errstate(divide="ignore"):
        level = np.clip(np.round(steps_per_e * np.log(np.abs(flat))), low, high)
    words = (level - low).astype(np.uint32) + ((flat < 0).astype(np.uint32) << np.uint32(num_bits - 1))
    writer = Writer()
    writer.numbers(words, num_bits)
    return np.packbits(writer.bits()).tobytes()


@checks.typed
def decode_log(code: bytes, count: int, num_bits: int = 8, *, steps_per_e: Any = 8.0) -> np.ndarray:
    """The numbers that `encode_log` wrote, float32 `[count]`.

    Args:
      code: what was written.
      count: how many numbers were.
      num_bits, steps_per_e: as they were written with.
    """
    where = "decode_log"
    checks.known(where, "steps_per_e", steps_per_e, fix="Call it outside of jit.")
    low, _ = _ends(where, num_bits, steps_per_e)
    checks.integer(where, "count", count, 0)
    if len(code) != -(-count * num_bits // 8):
        rule = f"{-(-count * num_bits // 8)} bytes long, {count} numbers of {num_bits} bits"
        checks.fail(where, "code", rule, f"{len(code)} bytes")
    words = Reader(np.unpackbits(np.frombuffer(code, np.uint8))).numbers(count, num_bits)
    level = words % (1 << (num_bits - 1)) + low
    size = np.exp(level / steps_per_e)
    return np.where(words >> (num_bits - 1), -size, size).astype(np.float32)


def _ends(where: str, num_bits: int, steps_per_e: Any) -> tuple[int, int]:
    """The least and the greatest k."""
    checks.integer(where, "num_bits", num_bits, 1, MOST_BITS)
    checks.number(where, "steps_per_e", steps_per_e, 0.0, open_minimum=True)
    levels = 2 ** (num_bits - 1)
    return -(levels // 2), levels - 1 - levels // 2
