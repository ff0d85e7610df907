"""What channels do to values and sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import networks
from dlsim.core import Packet, Route
from dlsim.networks.messages import message_bits

KEY = jax.random.key(11)


def values(num: int = 6, dimension: int = 40, seed: int = 0) -> dict[str, jax.Array]:
    x = jax.random.normal(jax.random.key(seed), (num, dimension)) * jnp.arange(1, num + 1)[:, None]
    return {"a": x[:, : dimension // 4].reshape(num, 1, -1), "b": x[:, dimension // 4 :]}


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def put(channel, tree, key=KEY, state=None, ids=None):
    num = len(jax.tree.leaves(tree)[0])
    dimension = flat(tree).shape[1]
    ids = jnp.arange(num) if ids is None else ids
    packet = Packet(
        tree, jnp.full(num, dimension, jnp.uint32), jnp.full(num, 32, jnp.uint32), jnp.zeros(num, jnp.uint32)
    )
    state = channel.init(tree, num) if state is None else state
    return channel.send(key, state, packet, Route(ids, ids, (ids + 1) % num))


def bits(packet) -> np.ndarray:
    return np.asarray(message_bits(packet).low)


@given(st.integers(1, 40), st.integers(0, 20))
@settings(max_examples=20)
def test_top_k(k: int, seed: int) -> None:
    x = values(seed=seed)
    _, packet = put(networks.top_k(k), x)
    sent, wanted = flat(packet.values), flat(x)
    for row, full in zip(sent, wanted, strict=True):
        kept = np.flatnonzero(row)
        assert len(kept) == k
        np.testing.assert_array_equal(row[kept], full[kept])
        assert np.abs(full[kept]).min() >= np.abs(np.delete(full, kept)).max(initial=0)
    lost = ((sent - wanted) ** 2).sum(axis=1)
    assert (lost <= (1 - k / 40) * (wanted**2).sum(axis=1) + 1e-4).all()
    assert (bits(packet) == k * 32 + (k * 6 if k < 40 else 0)).all()


def test_top_k_of_a_fraction_and_of_ties() -> None:
    _, packet = put(networks.top_k(0.1), {"x": jnp.ones((3, 40))})
    np.testing.assert_array_equal(flat(packet.values).sum(axis=1), 4)


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_quantize(num_bits: int, norm: str) -> None:
    x = values()
    levels = 2 ** (num_bits - 1) - 1
    draws = [put(networks.quantize(num_bits, norm=norm), x, jax.random.key(t))[1] for t in range(300)]
    wanted = flat(x)
    size = np.linalg.norm(wanted, axis=1) if norm == "l2" else np.abs(wanted).max(axis=1)
    sent = np.stack([flat(packet.values) for packet in draws])
    on_grid = sent / size[None, :, None] * levels
    np.testing.assert_allclose(on_grid, np.round(on_grid), atol=1e-3)
    step = (size / levels)[:, None]
    # A mean of 300 draws, each at most a step from the truth: five standard errors.
    assert (np.abs(sent.mean(axis=0) - wanted) < 5 * 0.5 * step / math.sqrt(300) + 1e-6).all()
    variance = ((sent - wanted) ** 2).sum(axis=2).mean(axis=0)
    dimension = wanted.shape[1]
    if norm == "l2":
        bound = min(dimension / levels**2, math.sqrt(dimension) / levels) * (wanted**2).sum(axis=1)
    else:
        bound = dimension / (4 * levels**2) * size**2
    assert (variance <= 1.05 * bound).all()
    assert (bits(draws[0]) == 40 * num_bits + 32).all()


def test_quantize_nothing_and_sign() -> None:
    zeros = {"x": jnp.zeros((2, 5))}
    np.testing.assert_array_equal(flat(put(networks.quantize(4), zeros)[1].values), 0)
    x = values()
    _, packet = put(networks.sign(), x)
    wanted = flat(x)
    np.testing.assert_allclose(flat(packet.values), np.sign(wanted) * np.abs(wanted).mean(axis=1)[:, None], rtol=1e-5)
    assert (bits(packet) == 40 + 32).all()


def test_random_sparsification() -> None:
    x = values()
    sent = np.stack(
        [flat(put(networks.random_sparsification(0.25), x, jax.random.key(t))[1].values) for t in range(400)]
    )
    wanted = flat(x)
    kept = sent != 0
    assert kept.mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(sent[kept], np.broadcast_to(wanted / 0.25, sent.shape)[kept], rtol=1e-6)
    _, packet = put(networks.random_sparsification(0.25, is_unbiased=False), x)
    count = (flat(packet.values) != 0).sum(axis=1)
    np.testing.assert_array_equal(bits(packet), 32 * count + 64)


@pytest.mark.parametrize("is_unbiased", [True, False])
def test_random_k(is_unbiased: bool) -> None:
    x = values()
    channel, wanted = networks.random_k(0.2, is_unbiased=is_unbiased), flat(x)
    draws = [put(channel, x, jax.random.key(t))[1] for t in range(400)]
    sent = np.stack([flat(packet.values) for packet in draws])
    kept = sent != 0
    assert (kept.sum(axis=2) == 8).all() and (bits(draws[0]) == 8 * 32 + 64).all()
    scale = 5 if is_unbiased else 1
    np.testing.assert_allclose(sent[kept], np.broadcast_to(scale * wanted, sent.shape)[kept], rtol=1e-6)
    counts = kept.sum(axis=(0, 1))  # each place as often: 2400 draws of 0.2, five standard deviations
    assert (np.abs(counts - 480) < 5 * np.sqrt(2400 * 0.2 * 0.8)).all()
    assert not (kept[0, 0] == kept[0, 1]).all(), "senders draw apart"
    error, square = ((sent - wanted) ** 2).sum(axis=2).mean(axis=0), (wanted**2).sum(axis=1)
    np.testing.assert_allclose(error / square, 4 if is_unbiased else 0.8, rtol=0.15)


SPARSE = [networks.top_k(10), networks.random_k(10), networks.random_sparsification(0.25)]
AFTER = [networks.sign(), networks.quantize(4), networks.gaussian_noise(0.1), networks.random_k(20)]
AFTER += [networks.random_sparsification(0.5)]


@pytest.mark.parametrize("second", AFTER, ids=["sign", "quantize", "noise", "random_k", "random_sparsification"])
@pytest.mark.parametrize("first", SPARSE, ids=["top_k", "random_k", "random_sparsification"])
def test_after_a_sparsifier_only_what_is_sent_is_changed_and_paid_for(first, second) -> None:
    x = values()
    sparse = flat(put(networks.chain(first, networks.perfect_channel()), x)[1].values)  # the same draws, by place
    _, packet = put(networks.chain(first, second), x)
    sent = flat(packet.values)
    assert not sent[sparse == 0].any()
    assert ((sent != 0).sum(axis=1) <= np.asarray(packet.num_entries)).all()
    assert (np.asarray(packet.num_entries) <= (sparse != 0).sum(axis=1)).all()
    if second is AFTER[0]:
        count = (sparse != 0).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(sent, np.sign(sparse) * np.abs(sparse).sum(axis=1, keepdims=True) / count, rtol=1e-5)
    if second is AFTER[2]:
        assert (sent != sparse)[sparse != 0].all()
    if second in AFTER[3:]:
        np.testing.assert_array_equal(np.asarray(packet.num_entries), (sent != 0).sum(axis=1))


def test_half_precision_is_quantised_in_full() -> None:
    """Levels worked out in bfloat16 would have no fraction left to round by."""
    x = {"x": jax.random.normal(KEY, (4, 64)).astype(jnp.bfloat16)}
    channel = networks.quantize(8, norm="max")
    draws = [put(channel, x, jax.random.key(t))[1].values["x"] for t in range(300)]
    assert draws[0].dtype == jnp.bfloat16
    mean, wanted = np.mean([np.asarray(d, np.float64) for d in draws], axis=0), np.asarray(x["x"], np.float64)
    step = np.abs(wanted).max(axis=1, keepdims=True) / 127
    # Five standard errors of the draw, and half a unit in the last of eight places of what arrives.
    assert (np.abs(mean - wanted) <= 5 * 0.5 * step / math.sqrt(300) + np.abs(wanted) * 2.0**-8).all()


def test_top_k_takes_the_first_of_equals() -> None:
    x = jnp.array([[1.0, -2.0, 2.0, 2.0, 0.5, -2.0]])
    _, packet = put(networks.top_k(2), {"x": x})
    np.testing.assert_array_equal(packet.values["x"], [[0, -2, 2, 0, 0, 0]])
    _, packet = put(networks.top_k(np.int64(5)), {"x": x})
    np.testing.assert_array_equal(packet.values["x"], [[1, -2, 2, 2, 0, -2]])


def test_loss_belongs_to_sender_and_receiver() -> None:
    x = values(num=2000, dimension=4)
    _, packet = put(networks.loss(0.3), x)
    assert 1 - packet.delivered.mean() == pytest.approx(0.3, abs=0.04)
    order = jax.random.permutation(jax.random.key(1), 2000)
    moved = Route(order, order, (order + 1) % 2000)
    blank = jnp.zeros(2000, jnp.uint32)
    _, again = networks.loss(0.3).send(KEY, (), Packet(x, blank, blank, blank), moved)
    np.testing.assert_array_equal(again.delivered, packet.delivered[order])
    rates = jax.vmap(lambda p: put(networks.loss(p), x)[1].delivered.mean())(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(rates, [1, 0.5, 0], atol=0.05)


COMPRESSORS = [networks.top_k(3), networks.sign(), networks.quantize(2), networks.random_k(0.1, is_unbiased=False)]


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_error_feedback_sends_everything_in_the_end(compressor) -> None:
    """sum of what was sent + residual = sum of what was to be sent."""
    channel = networks.error_feedback(compressor)
    state, total, sent = None, 0.0, 0.0
    for t in range(12):
        x = values(seed=t)
        state, packet = put(channel, x, jax.random.key(t), state)
        total, sent = total + flat(x), sent + flat(packet.values)
    np.testing.assert_allclose(sent + flat(state[0]), total, atol=2e-3)
    assert (np.abs(flat(state[0])).sum(axis=1) > 0).all()


def test_chains() -> None:
    x = values()
    both = networks.chain(networks.top_k(5), networks.quantize(4))
    _, packet = put(both, x)
    assert ((flat(packet.values) != 0).sum(axis=1) <= 5).all()
    assert (bits(packet) == 5 * 4 + 5 * 6 + 32).all()
    alone = put(networks.top_k(5), x)[1]
    with_unit = put(networks.chain(networks.top_k(5), networks.perfect_channel()), x)[1]
    jax.tree.map(np.testing.assert_array_equal, with_unit, alone)
    lossy = put(networks.chain(networks.loss(0.5), networks.loss(0.5)), values(num=2000, dimension=4))[1]
    assert lossy.delivered.mean() == pytest.approx(0.25, abs=0.03)
    a, b = put(networks.top_k(5, error_feedback=True), x), put(networks.error_feedback(networks.top_k(5)), x)
    jax.tree.map(np.testing.assert_array_equal, a, b)


DRAWING = [
    networks.quantize(4),
    networks.random_sparsification(0.5),
    networks.gaussian_noise(1.0),
    networks.random_k(9),
]


@pytest.mark.parametrize("channel", DRAWING)
def test_draws_belong_to_node_ids(channel) -> None:
    x, order = values(), jnp.array([3, 1, 5, 0, 2, 4])
    _, packet = put(channel, x)
    _, moved = put(channel, jax.tree.map(lambda leaf: leaf[order], x), ids=order)
    np.testing.assert_array_equal(flat(moved.values), flat(packet.values)[order])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: networks.loss(1.5), r"loss: probability must be a number in \[0, 1\], got 1.5"),
        (lambda: networks.top_k(0), "top_k: fraction must be an integer >= 1"),
        (lambda: networks.top_k(1.5), r"top_k: fraction must be a number in \(0, 1\]"),
        (lambda: networks.top_k(True), r"top_k: fraction must be a number in \(0, 1\], got True"),
        (
            lambda: jax.jit(lambda f: (networks.top_k(f), f)[1])(0.5),
            r"top_k: fraction must be known while tracing \(it sets shapes\), got a tracer",
        ),
        (
            lambda: put(networks.top_k(41), values()),
            "top_k: fraction must be at most the 40 numbers of a message, got 41. Give a share",
        ),
        (
            lambda: put(networks.random_k(50), values()),
            "random_k: fraction must be at most the 40 numbers of a message",
        ),
        (lambda: networks.random_k(0.0), r"random_k: fraction must be a number in \(0, 1\], got 0"),
        (lambda: networks.quantize(1), r"quantize: bits must be an integer in \[2, 16\]"),
        (lambda: networks.quantize(4, norm="l3"), "quantize: norm must be one of l2, max"),
        (lambda: networks.error_feedback(3), "error_feedback: compressor must be a Channel, got 3"),
        (
            lambda: networks.random_sparsification(0.0),
            r"random_sparsification: probability must be a number in \(0, 1\]",
        ),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
