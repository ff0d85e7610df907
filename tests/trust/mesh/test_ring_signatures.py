"""Ring signatures in toy arithmetic: the worked example, plain Python beside it, and that they fail where they should."""

from __future__ import annotations

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import trust
from dlsim.trust.mesh import ring_signatures, toy_ciphers

PRIMES = np.array([[47, 59], [53, 71], [41, 83], [29, 101]])
WORD = 2**32 - 1


def mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D & WORD
    x = (x ^ (x >> 15)) * 0x846CA68B & WORD
    return x ^ (x >> 16)


def encrypt(key, x):
    left, right = x >> 10, x & 1023
    for turn in range(4):
        left, right = right, left ^ (mix(right ^ mix((key + turn) & WORD)) & 1023)
    return left << 10 | right


def extended(x, n, exponent):
    q, r = divmod(x, n)
    return q * n + pow(r, exponent, n) if (q + 1) * n <= 1 << 20 else x


def verifies(message, glue, elements, moduli):
    z = glue
    for x, n in zip(elements, moduli, strict=True):
        z = encrypt(mix(message), z ^ extended(x, n, 3))
    return z == glue


@functools.cache
def ring():
    return trust.toy_keys(PRIMES)


@functools.cache
def programs():
    """Signing and verifying, each compiled once for this ring."""
    return jax.jit(lambda key, m, s: trust.ring_sign(key, m, ring(), s)), jax.jit(
        lambda m, signature: trust.ring_verify(m, signature, ring())
    )


def test_the_worked_example():
    assert ring().moduli.tolist() == [2773, 3763, 3403, 2929]
    assert int(toy_ciphers.mix(jnp.uint32(1))) == 1753845952 == mix(1)
    made = toy_ciphers.encrypt(jnp.uint32(5), jnp.uint32(12345))
    assert int(made) == 30410 == encrypt(5, 12345)
    assert int(toy_ciphers.decrypt(jnp.uint32(5), made)) == 12345
    glue, elements = 496174, [536683, 791850, 787707, 36545]
    signature = trust.RingSignature(jnp.uint32(glue), jnp.asarray(elements, jnp.uint32))
    assert bool(trust.ring_verify(7, signature, ring())) and verifies(7, glue, elements, [2773, 3763, 3403, 2929])
    assert not bool(trust.ring_verify(8, signature, ring()))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, WORD), st.integers(0, 3), st.integers(0, 1000), st.integers(1, WORD))
def test_signatures_verify_and_nothing_else_does(message, signer, seed, flip):
    sign, verify = programs()
    signature = sign(jax.random.key(seed), jnp.uint32(message), jnp.int32(signer))
    glue, elements = int(signature.glue), signature.elements.tolist()
    assert bool(verify(jnp.uint32(message), signature))
    assert verifies(message, glue, elements, ring().moduli.tolist())
    other = message ^ flip
    assert bool(verify(jnp.uint32(other), signature)) == verifies(other, glue, elements, ring().moduli.tolist())
    changed = signature._replace(elements=signature.elements.at[signer].set(elements[signer] ^ 1))
    assert not bool(verify(jnp.uint32(message), changed))  # permutations: another element is another ring


def test_all_signers_verify_and_no_other_message_does():
    """200 signatures of all signers, and none of 500 for another message: chance is one in 2^20 each."""
    keys_, messages = jax.random.split(jax.random.key(3), 200), jnp.arange(200, dtype=jnp.uint32) * 77
    made = jax.jit(jax.vmap(lambda k, m, s: trust.ring_sign(k, m, ring(), s)))(keys_, messages, jnp.arange(200) % 4)
    verify = jax.jit(jax.vmap(lambda m, one: trust.ring_verify(m, one, ring())))
    assert bool(verify(messages, made).all())
    assert not any(bool(verify(messages ^ jnp.uint32(flip), made).any()) for flip in (1, 2, 4))


def test_what_a_signer_computes_inverts_what_others_check():
    random.seed(1)
    xs = [random.randrange(1 << 20) for _ in range(300)] + [(1 << 20) - 1, 0]
    for n, d in zip(ring().moduli.tolist(), ring().exponents.tolist(), strict=True):
        forwards = ring_signatures.extended(jnp.asarray(xs, jnp.uint32), jnp.uint32(n), jnp.uint32(3))
        assert forwards.tolist() == [extended(x, n, 3) for x in xs]
        assert ring_signatures.extended(forwards, jnp.uint32(n), jnp.uint32(d)).tolist() == xs


def test_a_hash_chain_agrees_until_a_step_is_skipped():
    def chain(epochs):
        key = jnp.uint32(99)
        for epoch in epochs:
            key = toy_ciphers.next_key(key, epoch)
        return int(key)

    assert chain(range(9)) == chain(range(9))
    assert chain(range(4)) != chain(range(3)) and chain([0, 2, 3, 4]) != chain([0, 1, 2, 3])
    assert len({chain(range(n)) for n in range(12)}) == 12


def test_bad_rings_are_one_line():
    with pytest.raises(ValueError, match=r"ring_sign: ring must be of two members or more, got 1"):
        trust.ring_sign(jax.random.key(0), 1, trust.toy_keys(PRIMES[:1]), 0)
    with pytest.raises(ValueError, match=r"ring_sign: signer must be an integer in \[0, 3\], got 4"):
        trust.ring_sign(jax.random.key(0), 1, ring(), 4)
    with pytest.raises(ValueError, match=r"toy_keys: primes\[0\] must be such that 3 does not divide"):
        trust.toy_keys(np.array([[7, 11]]))
    with pytest.raises(ValueError, match=r"toy_keys: primes\[1\] must be of a product below 4096, got 101 x 107"):
        trust.toy_keys(np.array([[47, 59], [101, 107]]))
    with pytest.raises(ValueError, match=r"toy_keys: primes\[0\] must be two different primes, got 9, 11"):
        trust.toy_keys(np.array([[9, 11]]))
    with pytest.raises(ValueError, match="ring_verify: signature.elements must be of shape"):
        trust.ring_verify(1, trust.RingSignature(jnp.uint32(0), jnp.zeros(3, jnp.uint32)), ring())
