"""Channels that send every number in fewer bits."""

from __future__ import annotations

import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.channels.packets import is_sent, stateless
from dlsim.core import Array, Channel, Packet, Route

NORMS = ("l2", "max")


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

    return Channel(init=stateless, send=send, source="Alistarh et al., QSGD, NeurIPS 2017")


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
            values=unravel(jnp.where(is_sent(flat, packet), signs, 0)),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, 1),
            extra_bits=packet.extra_bits + jnp.uint32(32),
        )

    return Channel(init=stateless, send=send, source="Karimireddy, Rebjock, Stich and Jaggi, ICML 2019")
