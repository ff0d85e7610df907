"""Channels that send of every number to which of a few values it is nearest, each leaf with values of its own."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels import cluster_codes
from dlsim.channels.packets import as_sent, check_codable, flat_leaves, ranks, stateless
from dlsim.channels.rows import how_many, how_many_each, total
from dlsim.channels.thresholds import ordered, reached_by
from dlsim.core import Array, Channel, Packet, PyTree, Route


def kmeans(num_clusters: int = 3, *, code: str = "huffman", num_iterations: int = 4, snap_zero: bool = True) -> Channel:
    """k-means quantisation: every number becomes the centroid of its cluster, K centroids a leaf and sender.

        c_j = min + j (max - min) / (K - 1),   then num_iterations times:   c_j <- mean of the x_d nearest to c_j
        C(x)_d = the nearest c_j  (of two as near, the lower one)

    Deterministic; ||C(x) - x||^2 is at most D ((max - min) / (2 (K - 1)))^2 before the first iteration and no larger after
    each.  A cluster without members keeps its centroid.  A leaf of fewer than K numbers is sent as it is, 32 bits each.

    Sends, for each other leaf of n numbers, 32 bits a centroid and the clusters in one of these codes, where c_(1) >= c_(2)
    >= ... are the sizes of the clusters; the centroids go in this order, so that it needs no bits of its own:

        "fixed"        n ceil(log2 K)
        "huffman"      the best prefix code, c_(1) + 2 (c_(2) + c_(3)) for K = 3; from K = 4 on K ceil(log2 K) for its lengths
        "addresses"    of all clusters but the largest the positions, ceil(log2(n + 1)) each, after their number
        "differences"  of all clusters but the largest how far each position is behind the one before, after their number
        "best"         the shortest of the last three, and 2 bits that say which

    Differences and numbers of positions are in Elias gamma code, 2 floor(log2 g) + 1 bits.  Clusters without members cost
    nothing but their centroid, and a leaf with one value in use no code.  After a sparsifier n counts what is sent.

    Args:
      num_clusters: K in [2, 16], structural.
      code: how clusters are written, structural.  Use this channel last in a chain of compressors.
      num_iterations: structural.
      snap_zero: the centroid nearest to zero becomes zero, so that what is small adds up to nothing; structural.
    Source: Malekijoo et al., FedZip, 2021 (K = 3, 4 iterations); its bits for differences, floor(log2 g) + 1, cannot be
      told apart by a reader, and it counts none for the numbers of positions.
    """
    check_clusters("kmeans", num_clusters, code, num_iterations, snap_zero)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        return state, clustered("kmeans", packet, packet.values, num_clusters, code, num_iterations, snap_zero)

    codec = cluster_codes.part(num_clusters, code)
    return Channel(init=stateless, send=send, source="Malekijoo et al., FedZip, 2021", codec=(codec,))


def fedzip(sparsity: Any = 0.8, *, code: str = "differences", snap_zero: bool = True) -> Channel:
    """FedZip: the smallest numbers of each weight matrix become zero, then all of them one of three values (`kmeans`).

        k = n - round(n sparsity),   x_d <- x_d if |x_d| is at least the k-th largest of its leaf, else 0;   C = kmeans(3)

    Leaves with one axis a node (biases) are not thinned out, unless all are such.  Of equal numbers at the threshold all
    stay.  Sends what `kmeans` sends: at sparsity 0.8, 1.2 bits a number in Huffman code.

    Args:
      sparsity: share of zeros, in [0, 1); may be traced.  A leaf keeps one number at least.
      code: `"fixed"`, `"huffman"`, `"addresses"`, `"differences"` or `"best"`, see `kmeans`; structural.
      snap_zero: the centroid nearest to zero becomes zero; False is the authors' program, in which it is off zero by the
        mean of its members; structural.
    Source: Malekijoo et al., FedZip: a compression framework for communication-efficient federated learning, 2021.
    """
    checks.number("fedzip", "sparsity", sparsity, 0.0, 1.0, open_maximum=True)
    check_clusters("fedzip", 3, code, 4, snap_zero)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        del key, route
        thin = thinned_out(packet.values, sparsity)
        return state, clustered("fedzip", packet, thin, 3, code, 4, snap_zero)

    codec = cluster_codes.part(3, code)
    return Channel(init=stateless, send=send, source="Malekijoo et al., FedZip, 2021", codec=(codec,))


def check_clusters(where: str, num_clusters: Any, code: Any, num_iterations: Any, snap_zero: Any) -> None:
    """The arguments of k-means."""
    checks.integer(where, "num_clusters", num_clusters, 2, 16)
    checks.one_of(where, "code", code, cluster_codes.CODES)
    checks.integer(where, "num_iterations", num_iterations, 0)
    checks.flag(where, "snap_zero", snap_zero)


def thinned_out(tree: PyTree, sparsity: Any) -> PyTree:
    """The k largest magnitudes of each leaf, k = n - round(n sparsity) >= 1, and all that equal the least of them."""
    has_matrices = any(leaf.ndim > 2 for leaf in jax.tree.leaves(tree))

    def leaf(one: Array) -> Array:
        flat = one.reshape(one.shape[0], -1)
        if flat.shape[1] == 0 or (has_matrices and one.ndim <= 2):
            return one
        size = flat.shape[1]
        kept = jnp.maximum(size - jnp.round(size * jnp.asarray(sparsity, jnp.float32)).astype(jnp.int32), 1)
        wide = flat.astype(jnp.float32)
        small = ordered(wide) < reached_by(wide, jnp.broadcast_to(kept, flat.shape[:1]))[:, None]
        return jnp.where(small, 0, flat).reshape(one.shape)

    return jax.tree.map(leaf, tree)


def clustered(
    where: str, packet: Packet, values: PyTree, num_clusters: int, code: str, num_iterations: int, snap_zero: bool
) -> Packet:
    """The packet with `values` in its place, each by the centroid of its cluster."""
    parts, rebuild = flat_leaves(values)
    ends = np.cumsum([0, *(part.shape[1] for part in parts)])
    check_codable(where, int(ends[-1]))
    arrived, sides, extra_bits, numbers = [], [], packet.extra_bits, jnp.arange(num_clusters)
    for x, at, end in zip(parts, ends[:-1], ends[1:], strict=True):
        sent = None if packet.is_sent is None else packet.is_sent[:, at:end]
        centroids = _centroids(x, sent, num_clusters, num_iterations)
        cluster, counts = _nearest(x, centroids), _sizes(x, sent, centroids)
        if snap_zero:
            nearest = jnp.argmin(jnp.abs(centroids), axis=1)[:, None]
            centroids = jnp.where(numbers == nearest, 0, centroids)
        centroids = as_sent(centroids, x.dtype)
        value = jnp.zeros_like(x)
        for j in range(num_clusters):
            value = jnp.where(cluster == j, centroids[:, j, None], value)
        few = jnp.sum(counts, axis=1) < num_clusters
        value = jnp.where(few[:, None], x, value)
        arrived.append(value if sent is None else jnp.where(sent, value, 0))
        by_size = jnp.argsort(-counts, axis=1, stable=True)
        sent = jnp.ones((1, x.shape[1]), bool) if sent is None else sent
        bits = cluster_codes.num_bits(code, cluster, by_size, counts, sent, ranks(sent, packet.is_sent is None))
        extra_bits = extra_bits + jnp.where(few, 32 * jnp.sum(counts, axis=1), bits).astype(jnp.uint32)
        sides.append(_in_order(centroids, by_size, counts).astype(jnp.float32))
    return packet._replace(
        values=rebuild(arrived),
        bits_per_entry=jnp.zeros_like(packet.bits_per_entry),
        extra_bits=extra_bits,
        beside=(*packet.beside, jnp.stack(sides, axis=1)),
    )


def _middles(centroids: Array) -> list[Array]:
    """Halfway between each two neighbours of `[n, K]` ascending centroids."""
    half = 0.5 * centroids
    return [half[:, j] + half[:, j + 1] for j in range(centroids.shape[1] - 1)]


def _nearest(x: Array, centroids: Array) -> Array:
    """Which centroid each number is nearest to, int32 `[n, d]`; of two as near, the lower."""
    cluster = jnp.zeros(x.shape, jnp.int32)
    for middle in _middles(centroids):
        cluster = cluster + (x > middle[:, None])
    return cluster


def _sizes(x: Array, sent: Array | None, centroids: Array) -> Array:
    """How many of the numbers that are sent (None: all) are nearest to each centroid, int32 `[n, K]`."""
    beyond = how_many_each([_among(sent, x > middle[:, None]) for middle in _middles(centroids)])
    everything = jnp.full_like(beyond[0], x.shape[1]) if sent is None else how_many(sent)
    return jnp.stack([a - b for a, b in itertools.pairwise([everything, *beyond, jnp.zeros_like(everything)])], axis=1)


def _among(sent: Array | None, mask: Array) -> Array:
    return mask if sent is None else sent & mask


def _centroids(x: Array, sent: Array | None, num_clusters: int, num_iterations: int) -> Array:
    """Ascending centroids `[n, K]` of the numbers `[n, d]` that are sent (None: all)."""
    low = jnp.min(x, axis=1, where=sent, initial=jnp.inf)
    high = jnp.max(x, axis=1, where=sent, initial=-jnp.inf)
    if sent is not None:
        is_any = jnp.any(sent, axis=1)
        low, high = jnp.where(is_any, low, 0), jnp.where(is_any, high, 0)
    share = jnp.arange(num_clusters) / (num_clusters - 1)
    start = low[:, None] * (1 - share) + high[:, None] * share

    whole = total(x if sent is None else jnp.where(sent, x, 0))
    least, most = jnp.full_like(whole, -jnp.inf), jnp.full_like(whole, jnp.inf)

    def improve(_: int, centroids: Array) -> Array:
        count = _sizes(x, sent, centroids)
        # The largest cluster has what the others leave of the whole: a pass less, and its mean is as exact, since it has
        # at least one number in K.
        largest = jnp.argmax(count, axis=1)
        edges = [least, *_middles(centroids), most]
        totals = []
        # Of the others: from here on one cluster further where the largest is before.
        for place in range(num_clusters - 1):
            is_before = place < largest
            above = jnp.where(is_before, edges[place], edges[place + 1])
            up_to = jnp.where(is_before, edges[place + 1], edges[place + 2])
            totals.append(total(jnp.where(_among(sent, (x > above[:, None]) & (x <= up_to[:, None])), x, 0)))
        rest = whole - functools.reduce(jnp.add, totals)
        before, after = jnp.stack([*totals, rest], axis=1), jnp.stack([rest, *totals], axis=1)
        at, largest = jnp.arange(num_clusters), largest[:, None]
        whole_of = jnp.where(at == largest, rest[:, None], jnp.where(at < largest, before, after))
        return jnp.where(count > 0, whole_of / jnp.maximum(count, 1), centroids)

    return jax.lax.fori_loop(0, num_iterations, improve, start)


def _in_order(centroids: Array, by_size: Array, counts: Array) -> Array:
    """Centroids from the largest cluster on; those of clusters without members repeat the last one that has some."""
    last = jnp.maximum(jnp.sum(counts > 0, axis=1, keepdims=True) - 1, 0)
    places = jnp.minimum(jnp.arange(centroids.shape[1])[None], last)
    return jnp.take_along_axis(centroids, jnp.take_along_axis(by_size, places, axis=1), axis=1)
