"""Numbers as one of m evenly spaced levels: rounding to them, and how they are written."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.bits import Part, fixed_width, one_scale
from dlsim.channels.packets import as_sent
from dlsim.core import Array

MOST_LEVELS = 2**16  # positions are float32


def level_bits(num_levels: int) -> int:
    """Bits of one level of m: ceil(log2 m)."""
    return math.ceil(math.log2(num_levels))


def positions(flat: Array, span: Any, num_levels: int) -> Array:
    """Where numbers lie between the levels -span + 2 span i / (m - 1), in units of their distance: [0, m - 1]."""
    place = (flat / span + 1) * ((num_levels - 1) / 2)
    return jnp.clip(place, 0, num_levels - 1)


def at_levels(levels: Array, span: Any, num_levels: int) -> Array:
    """The numbers that levels stand for: B(i) = -span + 2 span i / (m - 1)."""
    return (2 * levels - (num_levels - 1)) * _half_step(span, num_levels)


def _half_step(span: Any, num_levels: int) -> Any:
    """span / (m - 1), with which a receiver makes the same bits of a level as its sender."""
    if checks.is_concrete(span):
        return np.float32(float(span) / (num_levels - 1))
    return as_sent(jnp.asarray(span, jnp.float32) / (num_levels - 1), jnp.float32)


def codec(span: Any, num_levels: int) -> Part:
    """Of each number its level in ceil(log2 m) bits, by nodes alone; a level that is none (an attacker's) is the last."""

    def to_code(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        del scales
        level = np.rint((values / float(_known("encode")) + (num_levels - 1)) / 2)
        return np.clip(level, 0, num_levels - 1)

    def from_code(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        del scales
        level = np.minimum(codes, num_levels - 1)
        return (2 * level - (num_levels - 1)).astype(np.float32) * _known("decode")

    def _known(where: str) -> np.float32:
        checks.known(where, "channel", span, "of known settings", "Call it outside of jit.")
        return _half_step(span, num_levels)

    part = fixed_width(level_bits(num_levels), one_scale, 0, to_code, from_code)
    return part._replace(nodes_only=True, anew=True)
