"""Random numbers: a draw depends on (seed, step, node id, purpose) alone.

A run has one key.  The simulator folds in the step, a noun folds in its purpose (`stream`), and a draw for nodes
hashes each node's id into the counter of the generator.  So a draw does not depend on how many nodes there are, in
what order or in what blocks they are computed, on the number of devices, or on whether the run was interrupted.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp

Array = jax.Array

THREEFRY = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # bits, in turns of four rounds


def stream(key: Array, purpose: str) -> Array:
    """The key of a named purpose: `fold_in` of the name's CRC-32, the same on every machine and in every version."""
    return fold_in(key, zlib.crc32(purpose.encode()))


def fold_in(key: Array, *data: Array | int) -> Array:
    """`jax.random.fold_in` of each of the data in turn: the same keys, of one shape with the data `[...]`.

    JAX's own runs a loop of twenty rounds on a CPU, which cannot be fused with anything: one key an event cost more
    than the event.
    """
    if str(jax.random.key_impl(key)) != THREEFRY:
        shape = jnp.broadcast_shapes(key.shape, *(jnp.shape(one) for one in data))
        fold = jax.random.fold_in
        for _ in shape:
            fold = jax.vmap(fold)
        for one in data:
            key = fold(jnp.broadcast_to(key, shape), jnp.broadcast_to(_word(one), shape))
        return key
    first, second = _words(key)
    for one in data:
        first, second = _threefry(first, second, jnp.uint32(0), _word(one))
    # Reshaped, not stacked: under vmap a stack leaves a transpose that the compiler does not look through.
    columns = [jax.lax.reshape(word, (*word.shape, 1)) for word in (first, second)]
    return jax.random.wrap_key_data(jnp.concatenate(columns, axis=-1), impl=THREEFRY)


def at_nodes(key: Array, node_ids: Array) -> Array:
    """One key a node, `[n]`: `fold_in` of each node's id."""
    return fold_in(key, node_ids)


def _words(key: Array) -> tuple[Array, Array]:
    """The first two words of keys `[...]`, by static slices: a compiler sees through them to where keys were made."""
    data = jax.random.key_data(key).astype(jnp.uint32)
    first, second = (jax.lax.index_in_dim(data, place, axis=-1, keepdims=False) for place in (0, 1))
    return first, second


def _word(value: Array | int) -> Array:
    # A Python int may need all 32 bits, an array of int32 wraps.
    return jnp.uint32(value) if isinstance(value, int) else jnp.asarray(value).astype(jnp.uint32)


def _threefry(key_0: Array, key_1: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds, of the counter (first, second), word by word in arrays of one shape.

    Written out, so that a compiler fuses it with what uses the words; nodes laid over devices draw their own.
    Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    shape = jnp.broadcast_shapes(*(jnp.shape(word) for word in (key_0, key_1, first, second)))
    return _rounds(*(jnp.broadcast_to(word, shape) for word in (key_0, key_1, first, second)))


@jax.jit
def _rounds(key_0: Array, key_1: Array, first: Array, second: Array) -> tuple[Array, Array]:
    keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA))
    first, second = first + keys[0], second + keys[1]
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            first = first + second
            second = first ^ ((second << jnp.uint32(distance)) | (second >> jnp.uint32(32 - distance)))
        first, second = first + keys[(turn + 1) % 3], second + keys[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return first, second


def _hash(key: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of the counters (first, second) under `key`: two words each, uint32 `[...]`.

    Generators with longer keys (rbg) lend the first two words of theirs: their own bits depend on the shape drawn.
    """
    return _threefry(*_words(key), first.astype(jnp.uint32), second.astype(jnp.uint32))


def node_words(key: Array, node_ids: Array, num: int) -> tuple[Array, Array]:
    """Two uniform random words a place, uint32 `[n, num]` each: Threefry-2x32 of the counters (id, j) under `key`.

    The words of `node_bits`, not laid side by side.
    """
    ids = jnp.broadcast_to(node_ids[:, None], (node_ids.shape[0], num))
    return _hash(key, ids, jnp.broadcast_to(jnp.arange(num), ids.shape))


def normal_of(words: Array) -> Array:
    """Standard normal floats, float32, of uniform random words (inverse of the distribution function, 23 bits each)."""
    # The centre of each of 2^23 cells keeps the argument strictly inside (-1, 1), where the inverse is finite.
    cells = (words >> 9).astype(jnp.float32)
    return jnp.sqrt(jnp.float32(2)) * jax.lax.erf_inv((cells + 0.5) * jnp.float32(2**-22) - 1.0)


def node_bits(key: Array, node_ids: Array, num: int) -> Array:
    """Uniform random words, uint32 `[n, num]`; row i depends on (key, node_ids[i]) alone, and prefixes are stable.

    One call of the generator for all nodes: the block with counter (id, j) is Threefry-2x32 of that counter under
    `key`, which is as good as one key a node.
    """
    # Both words of a block are computed for either: to lay them side by side afterwards costs as much, is no work for
    # vector registers, and keeps a compiler from drawing where the words are used.
    place = jnp.broadcast_to(jnp.arange(num), (node_ids.shape[0], num))
    first, second = _hash(key, jnp.broadcast_to(node_ids[:, None], place.shape), place // 2)
    return first if num == 1 else jnp.where(place % 2 == 0, first, second)


def node_uniform(key: Array, node_ids: Array, num: int) -> Array:
    """Uniform floats in [0, 1), float32 `[n, num]`, by the rule of `node_bits` (24 random bits each)."""
    return (node_bits(key, node_ids, num) >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def node_normal(key: Array, node_ids: Array, num: int) -> Array:
    """Standard normal floats, float32 `[n, num]`, by the rule of `node_bits` (inverse of the distribution function)."""
    return normal_of(node_bits(key, node_ids, num))


def edge_uniform(key: Array, first_ids: Array, second_ids: Array, symmetric: bool = False) -> Array:
    """Uniform floats in [0, 1), `[L]`, one a pair of node ids; `symmetric` gives (i, j) and (j, i) the same draw."""
    if symmetric:
        first_ids, second_ids = jnp.minimum(first_ids, second_ids), jnp.maximum(first_ids, second_ids)
    # As uint32 the server's id -1 is the last word and meets no node.
    return (_hash(key, first_ids, second_ids)[0] >> 8).astype(jnp.float32) * jnp.float32(2**-24)
