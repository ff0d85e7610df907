"""Which examples a node's batch holds: positions in the node's own data, drawn for all nodes at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys

Array = jax.Array
LARGEST_BATCH = 2**20  # it is drawn one position after the other

WITHOUT_REPLACEMENT, WITH_REPLACEMENT = SAMPLING = ("without_replacement", "with_replacement")


@checks.typed
def batch_positions(
    key: Array, node_ids: Array, sizes: Array, batch_size: int, sampling: str = WITHOUT_REPLACEMENT
) -> Array:
    """Positions of a batch of each node, int32 `[n, B]`; row i depends on (key, node_ids[i], sizes[i]) alone.

    `without_replacement`: B distinct positions, every subset of `range(sizes[i])` of size B equally likely (their
    order is not random; a batch's mean does not depend on it).  Needs `sizes[i] >= B`, which is the caller's to check
    and cannot be checked here; smaller nodes get positions outside their data.
    `with_replacement`: B independent uniform positions.

    Args:
      key: of the step and the purpose.
      node_ids: int32 `[n]`.
      sizes: how many examples each of these nodes holds, int `[n]`, at least 1; may be traced.
      batch_size: B; structural.
      sampling: one of the two above; structural.

    Cost: one call of the generator for all nodes and, without replacement, B steps of [B, n] comparisons.
    Source: R. Floyd's algorithm, in Bentley, Programming Pearls: a sample of brilliance, Comm. ACM 1987.
    """
    where = "batch_positions"
    checks.one_of(where, "sampling", sampling, SAMPLING)
    batch_size = checks.integer(where, "batch_size", batch_size, 1, LARGEST_BATCH)
    is_typed = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not isinstance(key, Array) or key.ndim != 1 - is_typed or not (is_typed or key.dtype == jnp.uint32):
        checks.fail(where, "key", "a key, such as jax.random.key(0)", type(key).__name__)
    for name, ids in {"node_ids": node_ids, "sizes": sizes}.items():
        if not isinstance(ids, Array | np.ndarray) or not jnp.issubdtype(ids.dtype, jnp.integer):
            checks.fail(where, name, "an array of integers [n]", type(ids).__name__)
        checks.shape(where, name, ids, (None,) if ids is node_ids else (node_ids.shape[0],))
    words = keys.node_bits(key, node_ids, batch_size).T  # nodes on the minor axis: all nodes take a step at once
    sizes = sizes.astype(jnp.int32)
    if sampling == WITH_REPLACEMENT:
        return below(words, sizes).T
    # Floyd: the j-th draw is uniform on the first (size - B + j + 1) positions; if it is taken already, the last of
    # these positions is not, and is taken instead.
    first = sizes - batch_size
    ranks = jnp.arange(batch_size, dtype=jnp.int32)
    draws = below(words, first + ranks[:, None] + 1)

    def draw(rank: Array, chosen: Array) -> Array:
        drawn = draws.at[rank].get(mode="promise_in_bounds")
        is_taken = (chosen == drawn).any(axis=0)
        return chosen.at[rank].set(jnp.where(is_taken, first + rank, drawn), mode="promise_in_bounds")

    return jax.lax.fori_loop(0, batch_size, draw, jnp.full_like(draws, -1)).T


def permutations(key: Array, node_ids: Array, sizes: Array, num: int) -> Array:
    """An order of each node's own positions, int32 `[n, num]`: the first `sizes[i]` of row i are `range(sizes[i])`.

    Every order is equally likely; row i depends on (key, node_ids[i], sizes[i]) alone.  `num` is at least the largest size.
    Cost: one word and one sort of `num` a node.
    """
    place = jnp.arange(num, dtype=jnp.int32)
    words = keys.node_bits(key, node_ids, num)
    # What is not there sorts last: ties with the largest word keep their order, and own positions come first.
    words = jnp.where(place[None, :] < sizes[:, None], words, jnp.uint32(0xFFFFFFFF))
    return jnp.argsort(words, axis=1, stable=True).astype(jnp.int32)


def below(words: Array, bounds: Array) -> Array:
    """Uniform integers in [0, bound) from uniform 32-bit words, int32: the high word of `word * bound`.

    No value's probability is off by more than 2^-32, a relative bias of bound / 2^32: one in 70,000 for a node with
    60,000 examples.  The remainder `word % bound` has the same bias and a division; rejection would need a loop.
    Source: Lemire, Fast random integer generation in an interval, ACM TOMACS 2019.
    """
    bounds = jnp.broadcast_to(bounds, words.shape).astype(jnp.uint32)
    # The 64-bit product in halves of 16 bits: JAX has no 64-bit integers unless x64 is on.
    low, high = words & 0xFFFF, words >> 16
    bound_low, bound_high = bounds & 0xFFFF, bounds >> 16
    middle = high * bound_low + ((low * bound_low) >> 16)
    other = low * bound_high + (middle & 0xFFFF)
    return (high * bound_high + (middle >> 16) + (other >> 16)).astype(jnp.int32)
