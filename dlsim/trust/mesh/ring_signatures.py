"""Ring signatures of Rivest, Shamir and Tauman in toy arithmetic: one of n has signed, and nothing says who.

A behavioural model, not cryptography to be used: moduli have twelve bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array
from dlsim.trust.mesh.toy_ciphers import BITS, MODULUS_BITS, decrypt, encrypt, mix, power

DOMAIN = 1 << BITS
LEAST_MODULUS = 1 << (MODULUS_BITS - 1)
ELEMENT_BYTES = 128  # of RSA-1024, which the toy stands for
ID_BYTES = 4  # of a public key's name


class Ring(NamedTuple):
    """Key pairs of members, uint32 `[..., n]`: public moduli (with exponent 3) and private exponents."""

    moduli: Array
    exponents: Array


class RingSignature(NamedTuple):
    """What a signer publishes: the glue v, `[]`, and an element a member, `[n]`; uint32."""

    glue: Array
    elements: Array


@checks.typed
def toy_keys(primes: np.ndarray) -> Ring:
    """Toy RSA key pairs with e = 3 of pairs of primes, `[n, 2]`: n_i = p q, d_i = 1/3 mod (p-1)(q-1).

    Raises ValueError where a number is no prime, a pair is twice the same, a modulus has more than twelve bits, or 3
    divides (p-1)(q-1).
    """
    where = "toy_keys"
    pairs = checks.array(where, "primes", primes, (None, 2), 2)
    if isinstance(pairs, jax.core.Tracer) or not np.issubdtype(pairs.dtype, np.integer) or not len(pairs):
        checks.fail(where, "primes", "pairs of known integers [n, 2]", checks.describe(primes))
    moduli, exponents = [], []
    for row, (p, q) in enumerate(pairs.tolist()):
        if p == q or any(x % d == 0 for x in (p, q) for d in range(2, int(x**0.5) + 1)):
            checks.fail(where, f"primes[{row}]", "two different primes", f"{p}, {q}")
        if p * q >= 1 << MODULUS_BITS:
            checks.fail(where, f"primes[{row}]", f"of a product below {1 << MODULUS_BITS}", f"{p} x {q} = {p * q}")
        order = (p - 1) * (q - 1)
        if order % 3 == 0:
            fix = "Use primes that leave 2 when divided by 3."
            checks.fail(where, f"primes[{row}]", "such that 3 does not divide (p-1)(q-1)", f"{p}, {q}", fix)
        moduli.append(p * q)
        exponents.append(pow(3, -1, order))
    return Ring(jnp.asarray(moduli, jnp.uint32), jnp.asarray(exponents, jnp.uint32))


def all_toy_primes() -> np.ndarray:
    """The pairs of primes for moduli in [2^11, 2^12), with exponent 3, in order of their products; int `[85, 2]`."""
    few = [p for p in range(5, LEAST_MODULUS) if p % 3 == 2 and all(p % d for d in range(2, int(p**0.5) + 1))]
    found = [(p, q) for i, p in enumerate(few) for q in few[i + 1 :] if LEAST_MODULUS <= p * q < 2 * LEAST_MODULUS]
    return np.array(sorted(found, key=lambda pair: (pair[0] * pair[1], pair[0])))


def extended(x: Array, modulus: Array, exponent: Array) -> Array:
    """RSA's permutation of the whole domain: q, r = divmod(x, n); q n + r^exponent mod n where (q+1) n <= 2^20, else x.

    With exponent 3 it is g_i, with d_i its inverse.
    """
    quotient, rest = x // modulus, x % modulus
    fits = (quotient + 1) * modulus <= DOMAIN
    return jnp.where(fits, quotient * modulus + power(rest, exponent, modulus), x)


def _forwards(keyed: Array, glue: Array, images: Array, mask: Array) -> Array:
    """z_j = E_k(z_{j-1} xor y_j) from z_0 = glue over the places of the mask; the last."""

    def one(z: Array, place: tuple[Array, Array]) -> tuple[Array, None]:
        image, is_in = place
        return jnp.where(is_in, encrypt(keyed, z ^ image), z), None

    return jax.lax.scan(one, glue, (images, mask))[0]


@checks.typed
def ring_sign(key: Array, message: Array | int, ring: Ring, signer: Array | int) -> RingSignature:
    """Sign a word of 32 bits for the ring, as its member `signer` (a place in the ring, may be traced).

        k = mix(message);  v and x_j (j != s) at random,  y_j = g_j(x_j)
        z_0 = v,  z_j = E_k(z_{j-1} xor y_j),  z_n = v  solved for y_s:  y_s = D_k(z_s) xor z_{s-1}
        x_s = g_s^{-1}(y_s)

    z runs forwards from v to s-1, and backwards by D_k from v to s.  One compiled program serves all signers; `vmap` it over
    messages.  Source: Rivest, Shamir, Tauman, How to leak a secret, ASIACRYPT 2001.  Differs: toy sizes, a behavioural model
    and not cryptography to be used; the cipher's key is a 32-bit hash of the message.
    """
    where = "ring_sign"
    num = check_ring(where, ring)
    if checks.is_concrete(signer):
        place = checks.host(where, "signer", signer)
        checks.integer(where, "signer", place.item() if place.shape == () else signer, 0, num - 1)
    checks.key(where, "key", key)
    signer, keyed = jnp.asarray(signer, jnp.int32), mix(_word(where, message))
    drawn = jax.random.bits(key, (num + 1,), jnp.uint32) & jnp.uint32(DOMAIN - 1)
    glue, elements = drawn[0], drawn[1:]
    images = extended(elements, ring.moduli, jnp.uint32(3))
    places = jnp.arange(num)
    before = _forwards(keyed, glue, images, places < signer)

    def back(z: Array, place: tuple[Array, Array]) -> tuple[Array, None]:
        image, is_in = place
        return jnp.where(is_in, decrypt(keyed, z) ^ image, z), None

    after = jax.lax.scan(back, glue, (images, places > signer), reverse=True)[0]
    own = decrypt(keyed, after) ^ before
    solved = extended(own, ring.moduli[signer], ring.exponents[signer])
    return RingSignature(glue, jnp.where(places == signer, solved, elements))


@checks.typed
def ring_verify(message: Array | int, signature: RingSignature, ring: Ring) -> Array:
    """Whether z_n = v, bool `[]`; needs the public moduli alone.  A word made up at random passes once in 2^20."""
    where = "ring_verify"
    num = check_ring(where, ring)
    checks.instance(where, "signature", signature, RingSignature, "Make it with ring_sign.")
    checks.shape(where, "signature.elements", signature.elements, (num,))
    images = extended(signature.elements, ring.moduli, jnp.uint32(3))
    ends = _forwards(mix(_word(where, message)), signature.glue, images, jnp.ones(num, bool))
    return ends == signature.glue


def ring_bytes(num: int) -> int:
    """Bytes of a ring signature of n members with RSA-1024 in the toy's place: (n+1) 128 and the names of n keys."""
    return (num + 1) * ELEMENT_BYTES + num * ID_BYTES


def _word(where: str, message: Any) -> Array:
    if checks.is_concrete(message):
        given = checks.host(where, "message", message)
        if given.shape != () or not np.issubdtype(given.dtype, np.integer) or not 0 <= int(given) < 2**32:
            checks.fail(where, "message", "a word of 32 bits, an integer in [0, 2^32)", checks.describe(message))
        return jnp.asarray(int(given) & 0xFFFFFFFF, jnp.uint32)
    if message.shape != () or not jnp.issubdtype(message.dtype, jnp.integer):
        checks.fail(where, "message", "a word of 32 bits", f"a tracer of shape {list(message.shape)}, {message.dtype}")
    return jnp.asarray(message, jnp.uint32)


def check_ring(where: str, ring: Ring) -> int:
    """How many members it has, two or more."""
    checks.instance(where, "ring", ring, Ring, "Make it with toy_keys.")
    checks.shape(where, "ring.moduli", ring.moduli, (None,))
    num = ring.moduli.shape[0]
    if num < 2:
        checks.fail(where, "ring", "of two members or more", num, "A ring of one is a pseudonym.")
    return num
