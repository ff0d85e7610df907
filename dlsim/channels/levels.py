"""Numbers as one of m evenly spaced levels: rounding to them, and the bits that are sent of them."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.bits import Reader, Writer
from dlsim.core import Array

MOST_LEVELS = 2**16  # positions are float32


def level_bits(num_levels: int) -> int:
    """Bits of one level of m: ceil(log2 m)."""
    return math.ceil(math.log2(num_levels))


def positions(flat: Array, span: Any, num_levels: int) -> Array:
    """Where numbers lie between the levels -span + 2 span i / (m - 1), in units of their distance: [0, m - 1]."""
    place = (flat / span + 1) * ((num_levels - 1) / 2)
    return jnp.clip(place, 0, num_levels - 1)


def at_levels(levels: Any, span: Any, num_levels: int) -> Any:
    """The numbers that levels stand for: B(i) = -span + 2 span i / (m - 1)."""
    return span * (2 * levels - (num_levels - 1)) / (num_levels - 1)


@checks.typed
def encode_levels(values: Any, span: float, num_levels: int) -> bytes:
    """What a sender puts on the air of `values [D]` that are levels: D ceil(log2 m) bits, the last byte filled with zeros.

    On the host.  Raises ValueError where a number is no level.
    """
    _check("encode_levels", span, num_levels)
    checks.known("encode_levels", "values", values, "known on the host")
    given = checks.array("encode_levels", "values", values, (None,)).astype(np.float64)
    place = (given / span + 1) * ((num_levels - 1) / 2)
    levels = np.rint(place)
    off = np.abs(place - levels) > 1e-3
    if off.any() or (levels < 0).any() or (levels > num_levels - 1).any():
        rule = f"at the {num_levels} levels from -{span:g} to {span:g}"
        checks.fail("encode_levels", "values", rule, "others", "Encode what a channel gave.")
    writer = Writer()
    writer.numbers(levels, level_bits(num_levels))
    return np.packbits(writer.bits()).tobytes()


@checks.typed
def decode_levels(data: bytes, num_entries: int, span: float, num_levels: int) -> np.ndarray:
    """`encode_levels` undone: float32 `[num_entries]`; a level that is none (an attacker's) counts as the nearest."""
    _check("decode_levels", span, num_levels)
    width, num_entries = level_bits(num_levels), checks.integer("decode_levels", "num_entries", num_entries, 1)
    length = -(-num_entries * width // 8)
    if not isinstance(data, bytes) or len(data) != length:
        got = f"{len(data)} bytes" if isinstance(data, bytes) else checks.describe(data)
        checks.fail("decode_levels", "data", f"{length} bytes", got)
    levels = Reader(np.unpackbits(np.frombuffer(data, np.uint8))).numbers(num_entries, width)
    return at_levels(np.minimum(levels, num_levels - 1).astype(np.float64), span, num_levels).astype(np.float32)


def _check(where: str, span: Any, num_levels: int) -> None:
    checks.number(where, "span", span, 0.0, open_minimum=True)
    checks.known(where, "span", span, "known on the host")
    checks.integer(where, "num_levels", num_levels, 2, MOST_LEVELS)
