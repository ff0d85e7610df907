"""Codes of whole numbers: Elias gamma and omega, Huffman.  Their lengths inside `jit`, their bits on the host."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.channels.bits import Reader, Writer
from dlsim.core import Array

NOBODY = 2**30  # a count no cluster has


def floor_log2(values: Array) -> Array:
    """floor(log2 n) of integers n >= 1, exact."""
    return 31 - jax.lax.clz(values.astype(jnp.int32))


def gamma_bits(values: Array) -> Array:
    """Length of the Elias gamma code of n >= 1: 2 floor(log2 n) + 1."""
    return 2 * floor_log2(values) + 1


def omega_bits(values: Array) -> Array:
    """Length of the Elias omega code of n >= 1: 1 + sum over n, floor(log2 n), ... down to 1 of their bits."""
    total, rest = jnp.ones_like(values), values
    for _ in range(4):  # 2^31, 31, 4, 2
        is_more, log = rest > 1, floor_log2(jnp.maximum(rest, 1))
        total, rest = total + jnp.where(is_more, log + 1, 0), jnp.where(is_more, log, 1)
    return total


def write_gamma(writer: Writer, value: int) -> None:
    """floor(log2 n) zeros, then n."""
    writer.text("0" * (int(value).bit_length() - 1) + f"{int(value):b}")


def read_gamma(reader: Reader) -> int:
    """A number >= 1 in Elias's gamma code: its length in zeros, then itself."""
    zeros = 0
    while not reader.bit():
        zeros += 1
    return (1 << zeros) + (int(reader.numbers(1, zeros)[0]) if zeros else 0)


def write_omega(writer: Writer, value: int) -> None:
    """n after its length less one after the length of that ..., and a zero."""
    text, rest = "0", int(value)
    while rest > 1:
        text, rest = f"{rest:b}" + text, rest.bit_length() - 1
    writer.text(text)


def read_omega(reader: Reader) -> int:
    """A number >= 1 in Elias's omega code: each group says how long the next one is, a zero ends them."""
    value = 1
    while reader.bit():
        value = (1 << value) + (int(reader.numbers(1, value)[0]))
    return value


def gaps(members: Array, ranks: Array) -> Array:
    """How far each member `[n, d]` is behind the one before it, the first behind 0; `ranks [n, d]` count from 1."""
    last = jax.lax.cummax(jnp.where(members, ranks, 0), axis=1)
    return ranks - jnp.pad(last[:, :-1], ((0, 0), (1, 0)))


def gamma_bits_of_gaps(members: Array) -> Array:
    """Length of the gamma codes of a row's gaps (`gaps` with ranks 1, 2, ...) together, int32 `[n]` of bool `[n, d]`.

    Of 32 places in a word: the first member of each is as far behind as it is behind the last one of the words before; of
    the others, less than 32 behind, those at least 2^k behind are those with no member in the 2^k - 1 bits below.
    """
    num, width = members.shape[0], -(-members.shape[1] // 32)
    bits = jnp.pad(members, ((0, 0), (0, 32 * width - members.shape[1]))).reshape(num, width, 32)
    values = jnp.left_shift(jnp.uint32(1), jnp.arange(32, dtype=jnp.uint32))
    words = jnp.sum(jnp.where(bits, values, jnp.uint32(0)), axis=2, dtype=jnp.uint32)
    is_any, first = words > 0, words & (~words + 1)
    ends = 32 * jnp.arange(1, width + 1, dtype=jnp.int32)  # the rank of a word's last place
    highest = jnp.where(is_any, ends - jax.lax.clz(words).astype(jnp.int32), 0)
    last = jnp.pad(jax.lax.cummax(highest, axis=1)[:, :-1], ((0, 0), (1, 0)))
    behind = jnp.where(is_any, ends - jax.lax.clz(first).astype(jnp.int32) - last, 1)
    others = words ^ first
    lengths = jnp.where(is_any, gamma_bits(behind), 0) + _how_many_bits(others)
    near = words << 1
    for reach in (2, 4, 8, 16):  # near: a member in the reach - 1 places before
        lengths = lengths + 2 * _how_many_bits(others & ~near)
        near = near | (near << reach) | (words << reach)
    return jnp.sum(lengths, axis=1)


def _how_many_bits(words: Array) -> Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def huffman_bits(counts: Array) -> Array:
    """Length of all symbols `counts [n, K]` in their best prefix code: the sum of all merged counts, int32 `[n]`."""

    def merge(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        waiting, total = carry
        waiting = jnp.sort(waiting, axis=1)
        merged, is_pair = waiting[:, 0] + waiting[:, 1], waiting[:, 1] < NOBODY
        waiting = waiting.at[:, 0].set(jnp.where(is_pair, merged, waiting[:, 0]))
        waiting = waiting.at[:, 1].set(NOBODY)
        return waiting, total + jnp.where(is_pair, merged, 0)

    waiting = jnp.where(counts > 0, counts, NOBODY).astype(jnp.int32)
    start = waiting, jnp.zeros_like(waiting[:, 0])
    return jax.lax.fori_loop(0, counts.shape[1] - 1, merge, start)[1]


def huffman_lengths(counts: Any) -> list[int]:
    """Length of each symbol's code on the host, of counts above zero; one symbol alone has length 0."""
    order = itertools.count()
    heap = [(int(count), next(order), [place]) for place, count in enumerate(counts)]
    heapq.heapify(heap)
    lengths = [0] * len(heap)
    while len(heap) > 1:
        (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for place in left + right:
            lengths[place] += 1
        heapq.heappush(heap, (a + b, next(order), left + right))
    return lengths


def canonical(lengths: list[int]) -> list[str]:
    """The canonical prefix code of these lengths, which do not fall from one symbol to the next."""
    words, code, before = [], 0, lengths[0]
    for place, length in enumerate(lengths):
        code = (code + (place > 0)) << (length - before)
        before = length
        words.append(f"{code:0{length}b}" if length else "")
    return words


def read_symbols(reader: Reader, words: list[str], count: int) -> np.ndarray:
    """`count` symbols of a prefix code."""
    if len(words) == 1:
        return np.zeros(count, np.int64)
    known, out = {word: place for place, word in enumerate(words)}, np.zeros(count, np.int64)
    for at in range(count):
        word = ""
        while word not in known:
            word += "1" if reader.bit() else "0"
        out[at] = known[word]
    return out
