"""Channels that send every number as a short float."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim.channels.packets import stateless
from dlsim.core import Array, Channel, Packet, Route

SMALLEST = 6  # the least exponent is -6
BITS = 4


def e3m0() -> Channel:
    """Floats of a sign, 3 bits of exponent and none of mantissa, in units of the largest magnitude of each leaf.

        s = max_d |x_d| over a leaf,   a = |x_d| / s,   k = floor(log2 a)
        C(x)_d = sign(x_d) s q,   q = 2^k if a < 1.5 2^k, else 2^(k + 1);   q >= 2^-6;   q = 0 if a < 2^-7

    Fifteen values: 0 and +- s 2^k for k = -6, ..., 0.  Deterministic, idempotent, odd; relative error at most 1/3 from
    2^-6 s on, so that ||C(x) - x||^2 <= ||x||^2 / 9 + D (s / 128)^2.  Sends 4 bits a number and 32 a leaf.
    Source: Douillard et al., Streaming DiLoCo with overlapping communication, 2025 (outer gradients in E3M0), which does
      not state the scale: that of a leaf and a sender is ours.
    """

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        leaves, treedef = jax.tree.flatten(packet.values)
        return state, packet._replace(
            values=jax.tree.unflatten(treedef, [_rounded(leaf) for leaf in leaves]),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, BITS),
            extra_bits=packet.extra_bits + jnp.uint32(32 * len(leaves)),
        )

    return Channel(init=stateless, send=send, source="Douillard et al., Streaming DiLoCo, 2025")


def _rounded(leaf: Array) -> Array:
    flat = leaf.reshape(leaf.shape[0], -1).astype(jnp.float32)
    scale = jnp.max(jnp.abs(flat), axis=1, keepdims=True, initial=0)
    ratio = jnp.abs(flat) / jnp.where(scale > 0, scale, 1)
    # Half a mantissa more carries into the exponent from 1.5 2^k on: exact, which a logarithm is not.
    exponent = (jax.lax.bitcast_convert_type(ratio, jnp.uint32) + jnp.uint32(1 << 22)) >> 23
    exponent = jnp.clip(exponent, 127 - SMALLEST, 127)
    power = jax.lax.bitcast_convert_type(exponent << 23, jnp.float32)
    size = jnp.where(ratio < 2.0 ** -(SMALLEST + 1), 0, power * scale)  # a NaN compares False and stays
    return (jnp.sign(flat) * size).astype(leaf.dtype).reshape(leaf.shape)
