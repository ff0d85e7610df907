"""Toy arithmetic in the place of cryptography: it behaves as a hash, a cipher and RSA do, and keeps nothing secret.

32-bit mixing, a cipher on 20 bits and moduli below 2^12: a behavioural model of protocols, not cryptography to be used.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim.core import Array

BITS = 20  # of the cipher's domain, in two halves
HALF = BITS // 2
MASK = (1 << HALF) - 1
ROUNDS = 4
MODULUS_BITS = 12  # products of two residues, and their sums, stay far below 2^32


def mix(x: Array) -> Array:
    """A 32-bit hash:  x ^= x>>16; x *= 0x7feb352d; x ^= x>>15; x *= 0x846ca68b; x ^= x>>16.  uint32, any shape."""
    x = jnp.asarray(x).astype(jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _scrambled(half: Array, key: Array, turn: int) -> Array:
    return mix(half ^ mix(key + jnp.uint32(turn))) & jnp.uint32(MASK)


def encrypt(key: Array, x: Array) -> Array:
    """E_k(x) of x in [0, 2^20): four Feistel rounds,  (l, r) <- (r, l ^ (mix(r ^ mix(k + i)) & 1023)),  i = 0..3."""
    left, right = x >> HALF, x & jnp.uint32(MASK)
    for turn in range(ROUNDS):
        left, right = right, left ^ _scrambled(right, key, turn)
    return (left << HALF) | right


def decrypt(key: Array, y: Array) -> Array:
    """D_k, the inverse of `encrypt`."""
    left, right = y >> HALF, y & jnp.uint32(MASK)
    for turn in reversed(range(ROUNDS)):
        left, right = right ^ _scrambled(left, key, turn), left
    return (left << HALF) | right


def power(x: Array, exponent: Array, modulus: Array) -> Array:
    """x^exponent mod modulus by square and multiply, for moduli and exponents below 2^12; uint32, shapes broadcast."""
    x, exponent, modulus = jnp.broadcast_arrays(*(jnp.asarray(v).astype(jnp.uint32) for v in (x, exponent, modulus)))

    def one(bit: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, square = carry
        is_set = (exponent >> jnp.uint32(bit)) & 1
        return jnp.where(is_set == 1, found * square % modulus, found), square * square % modulus

    found, _ = jax.lax.fori_loop(0, MODULUS_BITS, one, (jnp.ones_like(x), x % modulus))
    return found


def next_key(key: Array, epoch: Array) -> Array:
    """k_{e+1} = H(k_e || e), the hash chain of the backbone; uint32."""
    return mix(key ^ mix(jnp.asarray(epoch).astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))


def tag(key: Array, link: Array, sequence: Array, payload: Array) -> Array:
    """What authenticates a packet on a link under an epoch's key; uint32.  A guess is right once in 2^32."""
    return mix(mix(mix(key ^ mix(link)) ^ sequence) ^ payload)
