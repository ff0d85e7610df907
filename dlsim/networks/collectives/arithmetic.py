"""What a collective computes, addition by addition: chunks, the ring, the butterfly, and quantised hops.

Peers are compacted: rank r of P is node `ring[r]`.  P is data, so one program serves every membership; a chunk is no
array of its own but a number at each entry.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

SMALLEST = 1.1754944e-38  # the smallest normal float32
ROWS = 8  # ranks whose rows are added in one pass over the vector
LEVELS = 255  # codes of 8 bits: 0 .. 255


class MinMax(NamedTuple):
    """How a chunk goes over a hop: `collective` has the meaning of the fields."""

    rounding: str = "floor"
    faithful: bool = False


def compact(is_in: Array, order: Array) -> Array:
    """Positions of those that are in, in the order of the ring, int32 `[N]`; without meaning beyond the last of them."""
    inside = is_in[order]
    place = jnp.where(inside, jnp.cumsum(inside.astype(jnp.int32)) - 1, order.shape[0])
    return jnp.zeros_like(order).at[place].set(order, mode="drop", unique_indices=True)


def ranks(is_in: Array, order: Array) -> Array:
    """The rank of every node among those that are in, int32 `[N]`; without meaning for the others."""
    place = jnp.cumsum(is_in[order].astype(jnp.int32)) - 1
    return jnp.zeros_like(place).at[order].set(place, unique_indices=True)


def chunk_sizes(num_entries: int, num_peers: Array, chunk: Array) -> Array:
    """Entries of these chunks, int32: D = q P + r, the first r chunks have q + 1."""
    whole, rest = num_entries // num_peers, num_entries % num_peers
    return whole + (chunk < rest).astype(jnp.int32)


def chunks(num_entries: int, num_peers: Array) -> Array:
    """The chunk of every entry, int32 `[D]`."""
    whole, rest = num_entries // num_peers, num_entries % num_peers
    entry = jnp.arange(num_entries, dtype=jnp.int32)
    border = rest * (whole + 1)
    return jnp.where(entry < border, entry // (whole + 1), rest + (entry - border) // jnp.maximum(whole, 1))


def quantized(values: Array, chunk: Array, num_chunks: int, how: MinMax) -> Array:
    """Every chunk of float32 `[D]` after a hop in 8 bits.

    q = round(255 (x - min) / (max - min)),  x' = min + q (max - min) / 255;  x' = min where max = min
    """
    low = jax.ops.segment_min(values, chunk, num_chunks, indices_are_sorted=True)
    high = jax.ops.segment_max(values, chunk, num_chunks, indices_are_sorted=True)
    if how.faithful:
        high = jnp.maximum(high, SMALLEST)
    low, span = low[chunk], (high - low)[chunk]
    share = (LEVELS * (values - low)) / jnp.where(span == 0, 1, span)
    code = jnp.floor(share) if how.rounding == "floor" else jnp.round(share)
    # A divisor that looks like data at every entry: of a constant a compiler makes a factor, and of the product and the sum
    # one operation, whose last bits are others.
    levels = jnp.where(code == code, jnp.float32(LEVELS), 1)
    return jnp.where(span == 0, low, (code * span) / levels + low)


def ring_sum(values: Array, ring: Array, num_peers: Array, how: MinMax | None) -> tuple[Array, Array]:
    """The sum over ranks 0..P-1 of `values [N, D]`: `(what everyone ends with, what the owners of the chunks had)`, `[D]`.

    Chunk k begins at rank k and goes once around: ((x_k + x_{k+1}) + x_{k+2}) + ..., in this order and no other, which is
    what the bits of the result depend on.  All chunks are on their way at once; hop j adds rank (k + j) mod P to chunk k.
    Its last rank, (k - 1) mod P, owns the sum.  With `how` a chunk is quantised before each hop, and once more by its
    owner before it is handed to everyone.
    """
    size, num_entries = values.shape
    peers = jnp.maximum(num_peers, 1)
    chunk = chunks(num_entries, peers)
    if how is None:
        total = _row_by_row(values, ring, peers, chunk)
        return total, total
    entry = jnp.arange(num_entries, dtype=jnp.int32)

    def own(j: Array | int) -> Array:
        return values.at[ring[(chunk + j) % peers], entry].get(mode="promise_in_bounds")

    def hop(j: Array, total: Array) -> Array:
        return own(j) + quantized(total, chunk, size, how)

    total = jax.lax.fori_loop(1, peers, hop, own(0))
    return jnp.where(peers > 1, quantized(total, chunk, size, how), total), total


def _row_by_row(values: Array, ring: Array, peers: Array, chunk: Array) -> Array:
    """The same additions in the order of memory: rank r adds to the chunks k < r, the second time around to those k > r."""
    ring = jnp.pad(ring, (0, -ring.shape[0] % ROWS))

    def rows(block: Array, total: Array, is_second: bool) -> Array:
        for offset in range(ROWS):
            rank = block * ROWS + offset
            row = jax.lax.dynamic_index_in_dim(values, ring[rank], 0, keepdims=False)
            if is_second:
                total = jnp.where(rank < chunk, total + row, total)
            else:
                total = jnp.where(rank == chunk, row, jnp.where((rank > chunk) & (rank < peers), total + row, total))
        return total

    num_blocks = (peers + ROWS - 1) // ROWS
    total = jax.lax.fori_loop(0, num_blocks, lambda b, total: rows(b, total, False), jnp.zeros_like(values[0]))
    return jax.lax.fori_loop(0, num_blocks, lambda b, total: rows(b, total, True), total)


def owners(num_entries: int, num_peers: Array) -> Array:
    """The rank that owns each entry's sum, int32 `[D]`: chunk k ends at rank (k - 1) mod P."""
    peers = jnp.maximum(num_peers, 1)
    return (chunks(num_entries, peers) + peers - 1) % peers


def largest_power(num_peers: Array, most: int) -> Array:
    """The largest power of two up to P, int32; 1 for P = 0."""
    power = jnp.int32(1)
    for exponent in range(1, most.bit_length()):
        power = jnp.where(num_peers >= 2**exponent, jnp.int32(2**exponent), power)
    return power


def butterfly_sum(values: Array, ring: Array, num_peers: Array) -> Array:
    """The sum over ranks 0..P-1 of `values [N, D]` by recursive halving, `[D]`.

    With Q the largest power of two up to P, ranks 0..2(P - Q)-1 add up in pairs first; then i adds i + Q/2, i + Q/4, ...,
    the same tree at every entry, whoever holds it.
    """
    size = values.shape[0]
    leaves = largest_power(num_peers, size)
    pairs = num_peers - leaves

    def row(place: Array) -> Array:
        at = ring.at[jnp.clip(place, 0, size - 1)].get(mode="promise_in_bounds")
        return jax.lax.dynamic_index_in_dim(values, at, 0, keepdims=False)

    def leaf(rank: Array) -> Array:
        is_pair = rank < pairs
        own = row(jnp.where(is_pair, 2 * rank + 1, rank + pairs))
        return jnp.where(is_pair, own + row(2 * rank), own)

    # The first three halvings of a rank at once, so that each vector is read where it lies and none is copied.
    is_wide = leaves >= 8

    def three(rank: Array, totals: Array) -> Array:
        branches = [leaf(rank + place * leaves // 8) for place in range(8)]
        alone = branches[0]
        for distance in (4, 2, 1):
            branches = [branches[place] + branches[place + distance] for place in range(distance)]
        return totals.at[rank].set(jnp.where(is_wide, branches[0], alone))

    most = 2 ** (size.bit_length() - 1)
    width = max(most // 8, min(most, 4))
    power = jnp.where(is_wide, leaves // 8, leaves)
    total = jax.lax.fori_loop(0, power, three, jnp.zeros((width, values.shape[1]), values.dtype))
    while width > 1:
        width, power = width // 2, power // 2
        other = total.at[jnp.arange(width) + power].get(mode="promise_in_bounds")
        total = jnp.where((jnp.arange(width) < power)[:, None], total[:width] + other, total[:width])
    return total[0]


class Cost(NamedTuple):
    """What one whole operation of P peers sends, by node."""

    entries: Array  # uint32 [N]
    messages: Array  # uint32 [N]


def ring_cost(num_entries: int, is_in: Array, rank: Array) -> Cost:
    """Rank r sends every chunk but (r + 1) mod P, then every chunk but (r + 2) mod P: 2 (P - 1)/P D in the mean."""
    num = jnp.sum(is_in, dtype=jnp.int32)
    peers = jnp.maximum(num, 1)
    kept = chunk_sizes(num_entries, peers, (rank + 1) % peers) + chunk_sizes(num_entries, peers, (rank + 2) % peers)
    entries = jnp.where(is_in & (num > 1), 2 * jnp.uint32(num_entries) - kept.astype(jnp.uint32), 0)
    return Cost(entries, jnp.where(is_in, 2 * (peers - 1).astype(jnp.uint32), 0))


def butterfly_cost(num_entries: int, is_in: Array, rank: Array, most: int) -> Cost:
    """A rank of the tree sends what it gives up when it halves, and what it holds when it doubles; see `butterfly_sum`."""
    num = jnp.sum(is_in, dtype=jnp.int32)
    power = largest_power(num, most)
    pairs = num - power
    gives = (rank < 2 * pairs) & (rank % 2 == 0)  # hands its vector to its neighbour and waits
    takes = (rank < 2 * pairs) & (rank % 2 == 1)
    place = jnp.where(rank < 2 * pairs, rank // 2, rank - pairs)
    held = jnp.full(rank.shape, num_entries, jnp.uint32)
    entries, messages = jnp.zeros(rank.shape, jnp.uint32), jnp.zeros(rank.shape, jnp.uint32)
    distance = power
    for _ in range(most.bit_length() - 1):
        distance = distance // 2
        halves, is_upper = distance > 0, (place // jnp.maximum(distance, 1)) % 2 == 1
        entries = entries + jnp.where(halves, held, 0)
        messages = messages + jnp.where(halves, jnp.uint32(2), 0)
        held = jnp.where(halves, jnp.where(is_upper, held // 2, held - held // 2), held)
    one, whole = jnp.uint32(1), jnp.uint32(num_entries)
    entries = jnp.where(gives, whole, entries + jnp.where(takes, whole, 0))
    messages = jnp.where(gives, one, messages + jnp.where(takes, one, 0))
    works = is_in & (num > 1)
    return Cost(jnp.where(works, entries, 0), jnp.where(works, messages, 0))


def in_any_order(values: Array, is_in: Array) -> Array:
    """The sum over those that are in, `[D]`, in whatever order is fastest."""
    return jnp.sum(jnp.where(is_in[:, None], values, 0), axis=0)
