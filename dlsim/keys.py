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


def stream(key: Array, purpose: str) -> Array:
    """The key of a named purpose: `fold_in` of the name's CRC-32, the same on every machine and in every version."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def at_nodes(key: Array, node_ids: Array) -> Array:
    """One key a node, `[n]`: `fold_in` of each node's id."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, node_ids)


def _hash(key: Array, first: Array, second: Array) -> Array:
    """Threefry-2x32 of the counters (first, second) under `key`: two words each, uint32 `[2, ...]`.

    Generators with longer keys (rbg) lend the first two words of theirs: their own bits depend on the shape drawn.
    """
    from jax.extend.random import threefry2x32_p

    data = jax.random.key_data(key).astype(jnp.uint32)
    # The primitive works word by word, so nodes laid over devices draw their own; `threefry_2x32` flattens first.
    words = threefry2x32_p.bind(data[..., 0], data[..., 1], first.astype(jnp.uint32), second.astype(jnp.uint32))
    return jnp.stack(words)


def node_bits(key: Array, node_ids: Array, num: int) -> Array:
    """Uniform random words, uint32 `[n, num]`; row i depends on (key, node_ids[i]) alone, and prefixes are stable.

    One call of the generator for all nodes: the block with counter (id, j) is Threefry-2x32 of that counter under
    `key`, which is as good as one key a node and costs half as much.
    """
    blocks = (num + 1) // 2
    ids = jnp.broadcast_to(node_ids[:, None], (node_ids.shape[0], blocks))
    words = _hash(key, ids, jnp.broadcast_to(jnp.arange(blocks), ids.shape))
    return jnp.moveaxis(words, 0, -1).reshape(node_ids.shape[0], 2 * blocks)[:, :num]


def node_uniform(key: Array, node_ids: Array, num: int) -> Array:
    """Uniform floats in [0, 1), float32 `[n, num]`, by the rule of `node_bits` (24 random bits each)."""
    return (node_bits(key, node_ids, num) >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def node_normal(key: Array, node_ids: Array, num: int) -> Array:
    """Standard normal floats, float32 `[n, num]`, by the rule of `node_bits` (inverse of the distribution function)."""
    # The centre of each of 2^23 cells keeps the argument strictly inside (-1, 1), where the inverse is finite.
    cells = (node_bits(key, node_ids, num) >> 9).astype(jnp.float32)
    return jnp.sqrt(jnp.float32(2)) * jax.lax.erf_inv((cells + 0.5) * jnp.float32(2**-22) - 1.0)


def edge_uniform(key: Array, first_ids: Array, second_ids: Array, symmetric: bool = False) -> Array:
    """Uniform floats in [0, 1), `[L]`, one a pair of node ids; `symmetric` gives (i, j) and (j, i) the same draw."""
    if symmetric:
        first_ids, second_ids = jnp.minimum(first_ids, second_ids), jnp.maximum(first_ids, second_ids)
    # As uint32 the server's id -1 is the last word and meets no node.
    return (_hash(key, first_ids, second_ids)[0] >> 8).astype(jnp.float32) * jnp.float32(2**-24)
