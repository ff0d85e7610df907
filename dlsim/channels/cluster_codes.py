"""How it is written which cluster each number is in: lengths inside `jit`, bits on the host."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels import rows
from dlsim.channels.bits import BITS, Layout, Numbers, Part, Reader, Writer
from dlsim.channels.codes import (
    canonical,
    floor_log2,
    gamma_bits,
    gaps,
    huffman_bits,
    huffman_lengths,
    read_gamma,
    read_symbols,
    write_gamma,
)
from dlsim.core import Array

CODES = ("fixed", "huffman", "addresses", "differences", "best")
CHOICES = ("huffman", "addresses", "differences")  # of "best", in 2 bits


def index_width(num_clusters: int) -> int:
    """Bits that tell K clusters apart; as many for the length of one's code."""
    return math.ceil(math.log2(num_clusters))


def header_width(num_clusters: int) -> int:
    """Bits for the lengths of all codes of Huffman's, which are known where there are no more than three."""
    return num_clusters * index_width(num_clusters) if num_clusters > 3 else 0


def num_bits(code: str, cluster: Array, by_size: Array, counts: Array, sent: Array, rank: Array) -> Array:
    """Bits of one leaf, int32 `[n]`: centroids and code.

    `cluster [n, d]` of each number, `by_size [n, K]` the clusters from the largest on, `counts [n, K]` how many of the
    numbers `sent [n, d]`, which one each is `rank [n, d]`, each has.
    """
    num_clusters = counts.shape[1]
    is_coded = jnp.sum(counts > 0, axis=1) > 1  # with one value in use there is nothing to say
    if code == "best":
        lengths = [_code_bits(one, cluster, by_size, counts, sent, rank) for one in CHOICES]
        body = jnp.minimum(jnp.minimum(lengths[0], lengths[1]), lengths[2]) + 2
    else:
        body = _code_bits(code, cluster, by_size, counts, sent, rank)
    return BITS * num_clusters + jnp.where(is_coded, body, 0)


def _code_bits(code: str, cluster: Array, by_size: Array, counts: Array, sent: Array, rank: Array) -> Array:
    num_clusters, total = counts.shape[1], jnp.sum(counts, axis=1)
    if code == "fixed":
        return total * index_width(num_clusters)
    if code == "huffman":
        return huffman_bits(counts) + header_width(num_clusters)
    ordered = jnp.take_along_axis(counts, by_size, axis=1)[:, 1:]
    lengths = jnp.sum(jnp.where(ordered > 0, gamma_bits(jnp.maximum(ordered, 1)), 0), axis=1)
    if code == "addresses":
        return lengths + jnp.sum(ordered, axis=1) * (floor_log2(jnp.maximum(total, 1)) + 1)

    def behind(place: Array, so_far: Array) -> Array:
        members = sent & (cluster == jax.lax.dynamic_index_in_dim(by_size, place, axis=1))
        return so_far + rows.total(jnp.where(members, gamma_bits(jnp.maximum(gaps(members, rank), 1)), 0))

    return jax.lax.fori_loop(1, num_clusters, behind, lengths)


def part(num_clusters: int, code: str) -> Part:
    """The codec; its side is `[leaves, K]`, centroids from the largest cluster on.

    They go with the numbers, leaf by leaf, since a leaf of fewer than K numbers has none.
    """

    def write(writer: Writer, side: Any, layout: Layout) -> None:
        del writer, side, layout

    def read(reader: Reader, layout: Layout) -> None:
        del reader, layout

    def put(writer: Writer, numbers: Numbers, side: Any) -> None:
        assert numbers.values is not None
        for centroids, mine in zip(np.asarray(side, np.float32), numbers.by_leaf(), strict=True):
            values = numbers.values[mine]
            if len(values) < num_clusters:
                writer.words(values.astype(np.float32))
                continue
            writer.words(centroids)
            known = centroids[: _num_used(centroids)]
            cluster = np.argmin(np.abs(values[:, None] - known), axis=1)
            if len(known) > 1:
                _write(writer, cluster, len(known), num_clusters, code)

    def get(reader: Reader, numbers: Numbers, side: Any) -> np.ndarray:
        del side
        out = np.zeros(len(numbers.places), np.float32)
        for mine in numbers.by_leaf():
            if len(mine) < num_clusters:
                out[mine] = reader.words(len(mine), np.float32)
                continue
            centroids = reader.words(num_clusters, np.float32)
            num_used = _num_used(centroids)
            if num_used > 1:
                out[mine] = centroids[_read(reader, len(mine), num_used, num_clusters, code)]
            else:
                out[mine] = centroids[0]
        return out

    return Part(write, read, put=put, get=get)


def _num_used(centroids: np.ndarray) -> int:
    """How many clusters have members: those of the others repeat the last."""
    return 1 + int(np.sum(centroids[1:] != centroids[:-1]))


def _known_lengths(num_used: int) -> list[int]:
    return [0, *range(1, num_used - 1), num_used - 1, num_used - 1][-num_used:]


def _write(writer: Writer, cluster: np.ndarray, num_used: int, num_clusters: int, code: str) -> None:
    if code == "best":
        tried = []
        for choice in CHOICES:
            trial = Writer()
            _write(trial, cluster, num_used, num_clusters, choice)
            tried.append(trial.bits())
        shortest = int(np.argmin([len(bits) for bits in tried]))
        writer.numbers(shortest, 2)
        writer.numbers(tried[shortest], 1)
    elif code == "fixed":
        writer.numbers(cluster, index_width(num_clusters))
    elif code == "huffman":
        lengths = _known_lengths(num_used)
        if num_clusters > 3:
            lengths = sorted(huffman_lengths(np.bincount(cluster, minlength=num_used)))
            writer.numbers(lengths + [0] * (num_clusters - num_used), index_width(num_clusters))
        words = canonical(lengths)
        writer.text("".join(words[one] for one in cluster))
    else:
        for one in range(1, num_used):
            places = np.flatnonzero(cluster == one) + 1
            write_gamma(writer, len(places))
            if code == "addresses":
                writer.numbers(places, len(cluster).bit_length())
            else:
                for gap in np.diff(places, prepend=0):
                    write_gamma(writer, gap)


def _read(reader: Reader, count: int, num_used: int, num_clusters: int, code: str) -> np.ndarray:
    if code == "best":
        choice = int(reader.numbers(1, 2)[0])
        if choice >= len(CHOICES):
            checks.fail("decode", "bits", f"in one of {len(CHOICES)} codes", choice)
        return _read(reader, count, num_used, num_clusters, CHOICES[choice])
    if code == "fixed":
        return reader.numbers(count, index_width(num_clusters))
    if code == "huffman":
        lengths = _known_lengths(num_used)
        if num_clusters > 3:
            lengths = reader.numbers(num_clusters, index_width(num_clusters)).tolist()[:num_used]
        return read_symbols(reader, canonical(lengths), count)
    cluster = np.zeros(count, np.int64)
    for one in range(1, num_used):
        members = read_gamma(reader)
        if code == "addresses":
            places = reader.numbers(members, count.bit_length())
        else:
            places = np.cumsum([read_gamma(reader) for _ in range(members)])
        if places.max() > count or places.min() < 1:
            checks.fail("decode", "bits", f"with places from 1 to {count}", int(places.max()))
        cluster[places - 1] = one
    return cluster
