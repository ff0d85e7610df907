"""Channels that send every number in fewer bits, in steps of one size for the whole message."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.channels import draws, rows
from dlsim.channels.bits import BITS, Numbers, Part, Reader, Writer, fixed_width, one_scale, scales
from dlsim.channels.codes import gaps, omega_bits, read_omega, write_omega
from dlsim.channels.packets import as_sent, check_codable, is_sent, pieces, ranks, stateless
from dlsim.core import Array, Channel, Packet, Route

NORMS = ("l2", "max")
CODES = ("fixed", "elias")


def quantize(bits: int, *, norm: str = "l2", code: str = "fixed") -> Channel:
    """b-bit stochastic quantisation, unbiased: one sign bit and a level of s = 2^(b-1) - 1.

        C(x)_d = ||x|| sign(x_d) l_d / s,   l_d in {floor, floor + 1} of s |x_d| / ||x||, up with the fraction's probability

    Relative variance at most min(D / s^2, sqrt(D) / s) for the l2 norm, D / (4 s^2) for the maximum norm in terms of
    ||x||_inf^2.  Sends the 32 bits of the step ||x|| / s and, of each number, b bits (`code="fixed"`) or, of each level
    that is not zero, how far it is behind the one before, its sign and the level, where whole numbers are in Elias omega
    code (`"elias"`): at b = 2 about sqrt(D) log D bits in place of 2 D, with many levels more than b a number.

    Args:
      bits: b >= 2, structural.
      norm: `"l2"` (the paper's) or `"max"` (finer steps where entries are alike); structural.
      code: how levels are written, structural.  Use the Elias code last in a chain.
    Source: Alistarh, Grubic, Li, Tomioka and Vojnovic, QSGD, NeurIPS 2017, sections 3.1 and 3.2.
    """
    checks.integer("quantize", "bits", bits, 2, 16)
    checks.one_of("quantize", "norm", norm, NORMS)
    checks.one_of("quantize", "code", code, CODES)
    levels = 2 ** (bits - 1) - 1

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        leaves, rebuild = pieces(packet.values)
        size = _norm([piece.numbers for piece in leaves], norm)
        step = as_sent(size / levels, size.dtype)
        rounded, values = [], []
        for piece in leaves:
            level = jnp.abs(piece.numbers) * (levels / jnp.where(size > 0, size, 1))
            up = piece.draw(draws.uniform, key, route.node_ids) < level - jnp.floor(level)
            rounded.append(jnp.minimum(jnp.floor(level) + up, levels))
            # A zero has no sign.
            values.append(jnp.where(rounded[-1] == 0, 0, jnp.sign(piece.numbers) * rounded[-1]) * step)
        extra_bits, width = packet.extra_bits + jnp.uint32(BITS), bits
        if code == "elias":
            check_codable("quantize", leaves[0].dimension)
            extra_bits, width = extra_bits + _elias_bits(jnp.concatenate(rounded, axis=1), packet), 0
        return state, packet._replace(
            values=rebuild(values),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, width),
            extra_bits=extra_bits,
            beside=(*packet.beside, step[:, None].astype(jnp.float32)),
        )

    codec = _signed_levels(bits) if code == "fixed" else _elias_levels()
    return Channel(init=stateless, send=send, source="Alistarh et al., QSGD, NeurIPS 2017", codec=(codec,))


def _norm(parts: list[Array], norm: str) -> Array:
    """Of rows that lie in parts `[n, d]`, `[n, 1]`."""
    if norm == "max":
        return functools.reduce(
            jnp.maximum, [jnp.max(jnp.abs(part), axis=1, keepdims=True, initial=0) for part in parts]
        )
    return jnp.sqrt(functools.reduce(jnp.add, [jnp.sum(jnp.square(part), axis=1, keepdims=True) for part in parts]))


def _elias_bits(rounded: Array, packet: Packet) -> Array:
    """Of each level that is not zero its gap, sign and level, uint32 `[n]`."""
    members, level = rounded > 0, rounded.astype(jnp.int32)
    gap = gaps(members, ranks(members if packet.is_sent is None else packet.is_sent, packet.is_sent is None))
    return rows.total(jnp.where(members, omega_bits(gap) + 1 + omega_bits(level), 0)).astype(jnp.uint32)


def _levels(values: np.ndarray, step: Any) -> np.ndarray:
    """|value| / step, which is a whole number but for rounding."""
    return np.rint(np.abs(values) / np.where(step > 0, step, 1)).astype(np.int64)


def _signed_levels(bits: int) -> Part:
    """A sign bit and a level of b - 1 bits."""
    top = bits - 1

    def to_code(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return (np.signbit(values).astype(np.int64) << top) | _levels(values, scales[:, 0])

    def from_code(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        level = (codes & ((1 << top) - 1)).astype(np.float32)
        return np.where(codes >> top, -level, level) * scales[:, 0]

    return fixed_width(bits, one_scale, 1, to_code, from_code)


def _elias_levels() -> Part:
    """Only levels that are not zero, each after how far it is behind the one before; the message ends with the last."""
    write, read = scales(one_scale, 1)

    def put(writer: Writer, numbers: Numbers, side: Any) -> None:
        assert numbers.values is not None
        level, before = _levels(numbers.values, side[0, 0]), -1
        for at in np.flatnonzero(level).tolist():
            write_omega(writer, at - before)
            writer.numbers(numbers.values[at] < 0, 1)
            write_omega(writer, int(level[at]))
            before = at

    def get(reader: Reader, numbers: Numbers, side: Any) -> np.ndarray:
        level, at = np.zeros(len(numbers.places), np.float32), -1
        while reader.left:
            at += read_omega(reader)
            is_negative, size = reader.bit(), read_omega(reader)
            if at >= len(level):
                checks.fail("decode", "bits", f"of {len(level)} numbers", f"a level at place {at}")
            level[at] = -size if is_negative else size
        return level * side[0, 0]

    return Part(write, read, put=put, get=get)


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
        scale = as_sent(jnp.sum(jnp.abs(flat), axis=1, keepdims=True) / count, flat.dtype)
        signs = jnp.where(flat >= 0, scale, -scale)
        return state, packet._replace(
            values=unravel(jnp.where(is_sent(flat, packet), signs, 0)),
            bits_per_entry=jnp.full_like(packet.bits_per_entry, 1),
            extra_bits=packet.extra_bits + jnp.uint32(BITS),
            beside=(*packet.beside, scale[:, None].astype(jnp.float32)),
        )

    codec = fixed_width(
        1,
        one_scale,
        1,
        lambda values, scales: np.signbit(values),
        lambda codes, scales: np.where(codes, -scales[:, 0], scales[:, 0]),
    )
    return Channel(init=stateless, send=send, source="Karimireddy, Rebjock, Stich and Jaggi, ICML 2019", codec=(codec,))
