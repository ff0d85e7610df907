"""Low rank, and memories around every compressor: contraction, bookkeeping, absent senders."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks, trees
from dlsim.core import Channel, Packet, PyTree, Route
from dlsim.networks.messages import open_channels

NODES = 5
SHAPES = {"b": (6,), "w": (3, 4, 10)}  # the matrix is 12 by 10
SIZE = 126

# Compressors that make a message no larger, and the least share of its square that they keep (in the mean).
COMPRESSORS: dict[str, tuple[Channel, float]] = {
    "top_k": (networks.top_k(20), 20 / SIZE),
    "random_k": (networks.random_k(20, is_unbiased=False), 20 / SIZE * 0.75),
    "random_sparsification": (networks.random_sparsification(0.3, is_unbiased=False), 0.3 * 0.75),
    "sign": (networks.sign(), 1 / SIZE),
    "low_rank": (networks.low_rank(2), 0.0),
    "quantize": (networks.quantize(6), 1 - SIZE / 31**2),
    "top_k and quantize": (networks.chain(networks.top_k(20), networks.quantize(8)), 0.9 * 20 / SIZE),
    "top_k and sign": (networks.chain(networks.top_k(20), networks.sign()), 1 / SIZE),
    "random_k and sign": (networks.chain(networks.random_k(20, is_unbiased=False), networks.sign()), 0.0),
}
every_compressor = pytest.mark.parametrize("name", COMPRESSORS)


def message(seed: int = 0, num: int = NODES) -> PyTree:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(num, *shape)), jnp.float32) for name, shape in SHAPES.items()}


def put(channel: Channel, tree: PyTree, key: int = 0, state: PyTree = None) -> tuple[PyTree, Packet]:
    num = jax.tree.leaves(tree)[0].shape[0]
    words, ids = jnp.ones(num, jnp.uint32), jnp.arange(num)
    packet = Packet(tree, SIZE * words, 32 * words, 0 * words)
    state = channel.init(tree, num) if state is None else state
    return channel.send(jax.random.key(key), state, packet, Route(ids, ids, (ids + 1) % num))


def flat(tree: PyTree) -> np.ndarray:
    return np.asarray(trees.ravel(tree)[0])


@every_compressor
def test_compressors_contract(name: str) -> None:
    channel, share = COMPRESSORS[name]
    x = message()
    _, packet = put(channel, x)
    left = ((flat(x) - flat(packet.values)) ** 2).sum(axis=1)
    square = (flat(x) ** 2).sum(axis=1)
    if name.startswith("random"):  # in the mean over draws: all nodes together
        left, square = left.sum(), square.sum()
    assert np.all(left <= (1 - share) * square + 1e-4)


@every_compressor
def test_error_feedback_keeps_what_is_left_out(name: str) -> None:
    """What was sent and what is kept are what was to be sent; with one message over and over its mean is heard."""
    channel = networks.error_feedback(COMPRESSORS[name][0])
    send = jax.jit(lambda key, state, x: put(channel, x, key, state))
    x, state, sent = message(), channel.init(message(), NODES), 0.0
    for t in range(60):
        state, packet = send(t, state, x)
        sent = sent + flat(packet.values)
        if t == 0:
            np.testing.assert_allclose(flat(state[0]), flat(x) - flat(packet.values), atol=1e-5)
    np.testing.assert_allclose(sent + flat(state[0]), 60 * flat(x), atol=5e-3)
    # The residual is bounded: after 60 messages the mean is near what was said.
    error = np.linalg.norm(sent / 60 - flat(x), axis=1) / np.linalg.norm(flat(x), axis=1)
    assert (error < 0.6).all()


@every_compressor
def test_ef21_comes_to_what_is_said(name: str) -> None:
    channel = networks.ef21(COMPRESSORS[name][0])
    send = jax.jit(lambda key, state, x: put(channel, x, key, state))
    x, state = message(), channel.init(message(), NODES)
    errors = []
    for t in range(60):
        state, packet = send(t, state, x)
        np.testing.assert_array_equal(flat(packet.values), flat(state[0]))  # both ends hold the same
        errors.append(np.linalg.norm(flat(packet.values) - flat(x), axis=1) / np.linalg.norm(flat(x), axis=1))
    assert (errors[-1] < 0.2).all() and (errors[-1] <= errors[4]).all()


@pytest.mark.parametrize("memory", [networks.error_feedback, networks.ef21])
def test_absent_senders_keep_their_memory(memory) -> None:
    """A node that is away keeps its residual, and goes on from there."""
    channel = memory(networks.chain(networks.top_k(20), networks.quantize(8)))
    network = networks.ring(NODES).with_channel(channel)
    network = open_channels(network, lambda probed: probed.send(jax.random.key(0), message())[1])
    away = network.replace(is_present=jnp.arange(NODES) != 2)
    _, once = network.send(jax.random.key(0), message())
    _, twice = away.with_state(once.state).send(jax.random.key(1), message(1))
    before, after = (flat(one.state.channels["send"][0]) for one in (once, twice))
    np.testing.assert_array_equal(before[2], after[2])
    assert (before[[0, 1, 3, 4]] != after[[0, 1, 3, 4]]).any(axis=1).all()


def test_low_rank_is_a_projection() -> None:
    """C(M) = P P^T M: orthonormal P, no longer than M, and M itself once its rank is r."""
    x = message()
    state, packet = put(networks.low_rank(3), x)
    m, c = (np.asarray(tree["w"], np.float64).reshape(NODES, 12, 10) for tree in (x, packet.values))
    assert (np.linalg.matrix_rank(c, tol=1e-4) == 3).all()
    np.testing.assert_allclose(np.sum(c * (m - c), axis=(1, 2)), 0, atol=1e-3)
    np.testing.assert_array_equal(packet.values["b"], x["b"])
    np.testing.assert_array_equal(packet.num_entries, 3 * (12 + 10) + 6)
    exact = {**x, "w": packet.values["w"]}
    _, again = put(networks.low_rank(3), exact, state=state)
    np.testing.assert_allclose(again.values["w"], exact["w"], atol=1e-4)


def test_low_rank_comes_to_the_leading_vectors() -> None:
    """Power iteration, a step a message: the error falls to that of the best approximation (Eckart, Young)."""
    left, right = (np.linalg.qr(np.random.default_rng(seed).normal(size=(n, 10)))[0] for seed, n in ((0, 12), (1, 10)))
    values = 2.0 ** -np.arange(10)
    matrix = (left * values) @ right.T
    x = {"b": jnp.ones((2, 6)), "w": jnp.asarray(np.tile(matrix, (2, 1, 1)).reshape(2, 3, 4, 10), jnp.float32)}
    channel = networks.low_rank(2)
    state, errors = channel.init(x, 2), []
    send = jax.jit(lambda state: put(channel, x, 0, state))
    for _ in range(12):
        state, packet = send(state)
        errors.append(float(jnp.linalg.norm((packet.values["w"] - x["w"])[0])))
    best = np.sqrt((values[2:] ** 2).sum())
    assert errors[0] > 1.02 * best and errors[-1] == pytest.approx(best, rel=1e-3)


def test_low_rank_of_nothing_and_of_dependent_columns() -> None:
    """Zero matrices are sent as zero and forgotten; a matrix of rank one needs one column, whatever the rank."""
    nothing = jax.tree.map(jnp.zeros_like, message())
    channel = networks.low_rank(2)
    state, packet = put(channel, nothing)
    np.testing.assert_array_equal(flat(packet.values), 0)
    one = np.multiply.outer(np.arange(1.0, 13), np.linspace(-1, 1, 10)).reshape(3, 4, 10)
    x = {**message(), "w": jnp.asarray(np.tile(one, (NODES, 1, 1, 1)), jnp.float32)}
    for _ in range(3):
        state, packet = put(channel, x, state=state)
        np.testing.assert_allclose(packet.values["w"], x["w"], atol=1e-4)


def test_matrices_too_small_are_sent_whole() -> None:
    x = {"b": jnp.ones((2, 4)), "w": jax.random.normal(jax.random.key(0), (2, 3, 3))}
    _, packet = put(networks.low_rank(2), x)
    jax.tree.map(np.testing.assert_array_equal, packet.values, x)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="low_rank: rank must be an integer >= 1, got 0"):
        networks.low_rank(0)
    with pytest.raises(ValueError, match="ef21: compressor must be a Channel, got 3"):
        networks.ef21(3)
