"""Random numbers for every number of a message: as cheap as reading it, where a cryptographic hash costs ten times as much.

A draw depends on (key, sender, place in the message) alone, as everywhere (`dlsim.keys`).  Threefry gives each sender two
words under the key; from them each place has its own by three rounds of multiplying and shifting.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array

# Of sqrt(2) erfinv(x) / x in t = sqrt(2 - log(1 - x^2)) - 2.75, lowest power first; fitted at Chebyshev points of t over
# the 2^22 arguments that there are.  Relative error below 6e-6.
_QUANTILE = (
    3.1081044,
    1.59989694,
    -0.00741723442,
    -0.057118756,
    0.056798045,
    -0.0190692488,
    -0.0107820942,
    0.00883310667,
    0.000822803806,
    -0.00128751157,
)


# Of (log(1 + m) - m + m^2 / 2) / m^3 for m from -0.29 to 0.41: that of the Cephes library, `logf`.
_LOGARITHM = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)


def words(key: Array, node_ids: Array, num: int, first: int | Array = 0) -> Array:
    """Uniform random words, uint32 `[n, num]`, of the places from `first` on: a permutation of 32 bits for each sender.

    Source: the constants are Wellons's (a search for hashes of 32 bits without bias, 2018); between the rounds each sender
      has a second word of its own, so that two senders' words are no shifted copies of each other.
    """
    start, between = keys.node_words(key, node_ids, 1)
    word = start + (jnp.arange(num, dtype=jnp.uint32) + jnp.asarray(first, jnp.uint32))
    word = (word ^ (word >> 17)) * jnp.uint32(0xED5AD4BB)
    word = (word ^ (word >> 11)) * jnp.uint32(0xAC4C1B51) + between
    word = (word ^ (word >> 15)) * jnp.uint32(0x31848BAB)
    return word ^ (word >> 14)


def integers(key: Array, node_ids: Array, num: int) -> Array:
    """The same bits as int32, for who reads them often: XLA computes `words` anew in each pass, but not a loop's result."""
    half = -(-num // 2)

    def write(turn: Array, into: Array) -> Array:
        first = jnp.asarray(turn, jnp.uint32) * half
        drawn = jax.lax.bitcast_convert_type(words(key, node_ids, half, first), jnp.int32)
        return jax.lax.dynamic_update_slice(into, drawn, (0, turn * half))

    both = jax.lax.fori_loop(0, 2, write, jnp.zeros((len(node_ids), 2 * half), jnp.int32))
    return both[:, :num]


def uniform(key: Array, node_ids: Array, num: int, first: int = 0) -> Array:
    """Uniform floats in [0, 1), float32 `[n, num]`, 24 random bits each."""
    return (words(key, node_ids, num, first) >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def normal(key: Array, node_ids: Array, num: int, first: int = 0) -> Array:
    """Standard normal floats, float32 `[n, num]`, of 23 random bits each."""
    return normal_of(words(key, node_ids, num, first))


def normal_of(random: Array) -> Array:
    """Words through the inverse of the distribution function, as one polynomial without branches.

    `keys.normal_of` is the same function from the same bits, as exact, in two branches and a slower logarithm.
    """
    # The centre of each of 2^23 cells of (0, 2): both p and 2 - p are exact, and so is their distance from one.
    p = ((random >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2**-22)
    t = jnp.sqrt(2 - _log(p * (2 - p))) - jnp.float32(2.75)
    ratio = jnp.full_like(t, _QUANTILE[-1])
    for coefficient in _QUANTILE[-2::-1]:
        ratio = ratio * t + jnp.float32(coefficient)
    return ratio * (p - 1)


def _log(values: Array) -> Array:
    """log x of normal floats above zero, float32, to about one unit in the last place of log x + 1."""
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    exponent = (bits - 0x3F3504F3) >> 23  # so that what is left is between sqrt(1/2) and sqrt(2)
    rest = jax.lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1
    series, square = jnp.full_like(rest, _LOGARITHM[-1]), rest * rest
    for coefficient in _LOGARITHM[-2::-1]:
        series = series * rest + jnp.float32(coefficient)
    return series * rest * square - 0.5 * square + rest + exponent.astype(jnp.float32) * jnp.float32(0.693147181)
