"""k-means quantisation and FedZip against a loop in NumPy, and the bits of their codes by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import networks
from dlsim.channels import codes
from dlsim.channels.bits import Reader, Writer
from dlsim.channels.kmeans import thinned_out
from dlsim.core import Route
from dlsim.networks.messages import message_bits, whole_packet

BY_HAND = (0.0, 0.0, 5.0, 0.0, -4.0, 0.0, 0.0, 6.0, 0.0, -5.0)


@functools.cache
def compiled(channel):
    def send(tree):
        ids = jnp.arange(len(jax.tree.leaves(tree)[0]))
        return channel.send(jax.random.key(0), (), whole_packet(tree), Route(ids, ids, ids))[1]

    return jax.jit(send)


def bits(channel, tree) -> np.ndarray:
    return np.asarray(message_bits(compiled(channel)(tree)).low)


def oracle(x: np.ndarray, num_clusters: int, num_iterations: int, snap_zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """What arrives of a leaf `[d]` and the counts of its clusters, in float64, point by point."""
    centroids = np.linspace(x.min(), x.max(), num_clusters)

    def nearest(one: float) -> int:
        return int(np.argmin(np.abs(one - centroids)))  # the first of equals

    for _ in range(num_iterations):
        members = [[one for one in x if nearest(one) == j] for j in range(num_clusters)]
        centroids = np.array([np.mean(m) if m else c for m, c in zip(members, centroids, strict=True)])
    cluster = np.array([nearest(one) for one in x])
    if snap_zero:
        centroids[np.argmin(np.abs(centroids))] = 0
    return centroids[cluster], np.bincount(cluster, minlength=num_clusters)


def test_the_hand_example_in_every_code() -> None:
    """Clusters of 6, 2 and 2; gaps 3, 5 and 5, 5; beside 96 bits of centroids, two numbers of two positions: 3 bits each."""
    tree = jnp.asarray([BY_HAND])
    wanted = [[0, 0, 5.5, 0, -4.5, 0, 0, 5.5, 0, -4.5]]
    sizes = {"fixed": 20, "huffman": 14, "addresses": 16 + 6, "differences": 18 + 6, "best": 14 + 2}
    for code, size in sizes.items():
        packet = compiled(networks.fedzip(0.6, code=code))(tree)
        np.testing.assert_array_equal(packet.values, wanted)
        assert int(message_bits(packet).low[0]) == 96 + size, code


def test_what_kmeans_does_to_few_values() -> None:
    merged = compiled(networks.kmeans())(jnp.array([[0.0, 0.9, 1.0]])).values
    np.testing.assert_allclose(merged, [[0, 0.95, 0.95]], rtol=1e-6)
    three = jnp.array([[-2.0, 0.0, 2.0, 2.0]])
    np.testing.assert_array_equal(compiled(networks.kmeans())(three).values, three)
    for constant in (0.0, 7.0):  # one value: its centroids and no code
        assert bits(networks.kmeans(), jnp.full((1, 9), constant)).tolist() == [96]
    two = jnp.array([[1.0, 1.0, 1.0, 3.0, 3.0]])
    assert bits(networks.kmeans(), two).tolist() == [96 + 5]
    few = jnp.array([[0.25, -1.0]])
    np.testing.assert_array_equal(compiled(networks.kmeans())(few).values, few)
    assert bits(networks.kmeans(), few).tolist() == [64]


def test_a_hundred_numbers_in_huffman_code() -> None:
    row = np.concatenate([np.zeros(80), np.full(12, 1.0), np.full(8, -1.0)])
    assert bits(networks.kmeans(), jnp.asarray([row], jnp.float32)).tolist() == [120 + 96]


@pytest.mark.parametrize(("num_clusters", "snap_zero"), [(3, True), (3, False), (2, False), (8, False)])
def test_kmeans_is_the_loop(num_clusters: int, snap_zero: bool) -> None:
    x = np.random.default_rng(1).normal(size=(5, 60)).astype(np.float32)
    channel = networks.kmeans(num_clusters, num_iterations=4, snap_zero=snap_zero)
    packet = compiled(channel)(jnp.asarray(x))
    for row, got, sent_bits in zip(x, np.asarray(packet.values), np.asarray(message_bits(packet).low), strict=True):
        wanted, counts = oracle(row.astype(np.float64), num_clusters, 4, snap_zero)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        counts = counts[counts > 0]
        lengths = codes.huffman_lengths(counts)
        header = num_clusters * 3 if num_clusters > 3 else 0
        assert sent_bits == 32 * num_clusters + int(np.dot(counts, lengths)) + header


def test_more_iterations_and_clusters_lose_less() -> None:
    x = jax.random.normal(jax.random.key(2), (4, 500))
    reach, lost = np.asarray(x.max(1) - x.min(1)), {}
    for num_clusters, num_iterations in ((3, 0), (3, 1), (3, 4), (6, 4)):
        channel = networks.kmeans(num_clusters, num_iterations=num_iterations, snap_zero=False, code="fixed")
        lost[num_clusters, num_iterations] = np.square(compiled(channel)(x).values - x).sum(1)
        assert (lost[num_clusters, num_iterations] <= 500 * (reach / (2 * (num_clusters - 1))) ** 2).all()
    assert (lost[6, 4] < lost[3, 4]).all() and (lost[3, 4] <= lost[3, 1]).all() and (lost[3, 1] <= lost[3, 0]).all()
    assert (lost[3, 4] < 0.5 * np.square(x).sum(1)).all()


def test_order_matters_to_differences_alone() -> None:
    x = jax.random.normal(jax.random.key(3), (3, 80))
    moved = jax.random.permutation(jax.random.key(4), x, axis=1)
    for code, is_same in (("huffman", True), ("addresses", True), ("differences", False)):
        assert (bits(networks.fedzip(code=code), x) == bits(networks.fedzip(code=code), moved)).all() == is_same


def test_thinning_out_keeps_the_largest_of_each_matrix() -> None:
    x = jax.random.normal(jax.random.key(5), (3, 77))
    tree = {"bias": x[:, :7], "matrix": x[:, 7:].reshape(3, 10, 7)}
    for sparsity in (0.0, 0.8, 0.99, 0.999):
        thin = jax.jit(thinned_out)(tree, sparsity)
        np.testing.assert_array_equal(thin["bias"], tree["bias"])
        rows, full = np.asarray(thin["matrix"]).reshape(3, -1), np.asarray(tree["matrix"]).reshape(3, -1)
        kept = max(70 - round(70 * sparsity), 1)
        for row, all_of in zip(rows, full, strict=True):
            np.testing.assert_array_equal(np.sort(np.abs(row))[::-1][:kept], np.sort(np.abs(all_of))[::-1][:kept])
            assert (row != 0).sum() == kept and (row[row != 0] == all_of[row != 0]).all()
    assert (np.asarray(thinned_out(x, 0.5)) != 0).sum(axis=1).tolist() == [39] * 3  # vectors alone: thinned out as well
    ties = jnp.array([[1.0, -1.0, 1.0, 0.5]])
    np.testing.assert_array_equal(thinned_out(ties, 0.5), [[1, -1, 1, 0]])


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=20))
@settings(max_examples=25)
def test_elias_codes_are_as_long_as_counted_and_come_back(values: list[int]) -> None:
    for write, read, length in (
        (codes.write_gamma, codes.read_gamma, codes.gamma_bits),
        (codes.write_omega, codes.read_omega, codes.omega_bits),
    ):
        writer = Writer()
        for value in values:
            write(writer, value)
        text = writer.bits()
        padded = np.ones(20, np.int32)
        padded[: len(values)] = values
        assert len(text) == int(np.asarray(length(jnp.asarray(padded)))[: len(values)].sum())
        reader = Reader(text)
        assert [read(reader) for _ in values] == values and reader.left == 0


def test_elias_codes_at_their_steps() -> None:
    values = jnp.array([1, 2, 3, 4, 7, 8, 15, 16, 2**16 - 1, 2**16, 2**24, 2**31 - 1])
    wanted = [f"{int(v):b}" for v in values]
    np.testing.assert_array_equal(codes.gamma_bits(values), [2 * len(text) - 1 for text in wanted])
    # 0; 10 0; 11 0; 10 100 0; 10 111 0; 11 1000 0; ...
    np.testing.assert_array_equal(codes.omega_bits(values)[:7], [1, 3, 3, 6, 6, 7, 7])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 1.0])
def test_the_codes_of_all_gaps_of_a_row_are_as_long_as_each_of_them_together(share: float) -> None:
    members = np.random.default_rng(0).random((20, 700)) < share
    members[0, [0, 31, 32, 63, 699]] = True
    wanted = [sum(2 * int(gap).bit_length() - 1 for gap in np.diff(np.flatnonzero(row), prepend=-1)) for row in members]
    np.testing.assert_array_equal(codes.gamma_bits_of_gaps(jnp.asarray(members)), wanted)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8))
@settings(max_examples=25)
def test_huffman_codes_are_the_best_and_prefixes_of_none(counts: list[int]) -> None:
    used = sorted((count for count in counts if count), reverse=True)
    total = int(codes.huffman_bits(jnp.pad(jnp.asarray([counts], jnp.int32), ((0, 0), (0, 8 - len(counts)))))[0])
    if len(used) < 2:
        assert total == 0
        return
    lengths = sorted(codes.huffman_lengths(used))
    assert total == int(np.dot(used, lengths))
    assert sum(2.0**-length for length in lengths) == 1
    words = codes.canonical(lengths)
    assert not any(a != b and b.startswith(a) for a in words for b in words)
    share = np.array(used) / sum(used)
    entropy = -(share * np.log2(share)).sum() * sum(used)
    assert entropy - 1e-6 <= total < entropy + sum(used)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: networks.kmeans(1), r"kmeans: num_clusters must be an integer in \[2, 16\], got 1"),
        (lambda: networks.kmeans(17), r"kmeans: num_clusters must be an integer in \[2, 16\], got 17"),
        (lambda: networks.kmeans(code="zip"), "kmeans: code must be one of .*got 'zip'"),
        (lambda: networks.kmeans(num_iterations=-1), "kmeans: num_iterations must be an integer >= 0, got -1"),
        (lambda: networks.kmeans(snap_zero=1), "kmeans: snap_zero must be "),
        (lambda: networks.fedzip(1.0), r"fedzip: sparsity must be a number in \[0, 1\), got 1"),
        (lambda: networks.fedzip(-0.1), r"fedzip: sparsity must be a number in \[0, 1\), got -0.1"),
        (lambda: networks.fedzip(code="gap"), "fedzip: code must be one of .*got 'gap'"),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
