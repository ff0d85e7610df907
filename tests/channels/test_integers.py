"""Integers of b bits: rounding, bias, variance, ranges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.core import Route
from dlsim.networks.messages import message_bits, whole_packet

IDS = jnp.arange(4)
X = jax.random.normal(jax.random.key(0), (4, 90)) * jnp.array([1.0, 1e-6, 300.0, 0.0])[:, None] + jnp.array(
    [0.0, 0.0, 500.0, 0.0]
).reshape(4, 1)
TREE = {"a": X[:, :60].reshape(4, 6, 10), "b": X[:, 60:]}


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], 1)


def draws(channel, tree, num: int) -> np.ndarray:
    """`num` messages, [num, n, D]."""
    keys = jax.random.split(jax.random.key(1), num)
    packets = jax.jit(jax.vmap(lambda key: channel.send(key, (), whole_packet(tree), Route(IDS, IDS, IDS))[1].values))
    return np.stack([flat(jax.tree.map(lambda leaf, t=t: leaf[t], packets(keys))) for t in range(num)])


def send(channel, tree):
    ids = jnp.arange(len(jax.tree.leaves(tree)[0]))
    state = channel.init(tree, len(ids))
    return jax.jit(lambda p: channel.send(jax.random.key(1), state, p, Route(ids, ids, ids))[1])(whole_packet(tree))


def steps(scale: str, kind: str, bits: int) -> np.ndarray:
    """The step of each number, [n, D]."""
    parts = [slice(0, 60), slice(60, 90)] if scale == "leaf" else [slice(0, 90)]
    x, out = np.asarray(X, np.float64), np.zeros((4, 90))
    for at in parts:
        part = x[:, at]
        if kind == "integers":
            step = np.abs(part).max(1) / (2 ** (bits - 1) - 1)
        else:
            step = (part.max(1) - part.min(1)) / (2**bits - 1)
        out[:, at] = step[:, None]
    return out


@pytest.mark.parametrize("scale", ["leaf", "message"])
@pytest.mark.parametrize(("kind", "bits"), [("integers", 8), ("integers", 4), ("min_max", 8), ("min_max", 1)])
def test_nearest_is_within_half_a_step(kind: str, bits: int, scale: str) -> None:
    packet = send(getattr(networks, kind)(bits, scale=scale), TREE)
    x, got, step = np.asarray(X, np.float64), flat(packet.values), steps(scale, kind, bits)
    assert (np.abs(got - x) <= 0.5 * step * (1 + 1e-4) + 2e-7 * np.abs(x)).all()
    parts, words = (2 if scale == "leaf" else 1), (1 if kind == "integers" else 2)
    np.testing.assert_array_equal(message_bits(packet).low, 90 * bits + 32 * words * parts)
    if kind == "integers":
        whole = got / np.where(step > 0, step, 1)
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-3)
        assert (got[np.abs(x) < 0.49 * step] == 0).all()


@pytest.mark.parametrize(("kind", "bits"), [("integers", 4), ("min_max", 4)])
def test_stochastic_rounding_is_unbiased_and_its_variance_bounded(kind: str, bits: int) -> None:
    sent = draws(getattr(networks, kind)(bits, rounding="stochastic"), TREE, 300)
    x, step = np.asarray(X, np.float64), steps("leaf", kind, bits)
    # A mean of 300 draws, each of variance at most step^2 / 4: five standard errors.
    assert (np.abs(sent.mean(0) - x) <= 5 * 0.5 * step / math.sqrt(300) + 2e-7 * np.abs(x)).all()
    assert (((sent - x) ** 2).sum(2).mean(0) <= 1.05 * (step**2).sum(1) / 4 + 1e-9).all()
    assert (np.abs(sent - x) <= step * (1 + 1e-4) + 2e-7 * np.abs(x)).all()
    assert (sent.std(0)[:2] > 0).any(), "nothing was drawn"


def test_min_max_by_hand_and_its_floor() -> None:
    row = jnp.array([[-1.0, 0.0, 1.0]])
    np.testing.assert_allclose(send(networks.min_max(rounding="floor"), row).values, [[-1, -1 / 255, 1]], atol=1e-6)
    np.testing.assert_allclose(send(networks.min_max(), jnp.array([[-2.0, -1.0]])).values, [[-2, -1]], rtol=1e-6)
    for constant in (0.0, -3.5):
        np.testing.assert_array_equal(send(networks.min_max(), jnp.full((1, 4), constant)).values, constant)
    x = jax.random.normal(jax.random.key(4), (4, 4096))
    down, near = (flat(send(networks.min_max(rounding=r), x).values) - np.asarray(x) for r in ("floor", "nearest"))
    step = np.asarray(x.max(1) - x.min(1))[:, None] / 255
    assert (down <= 1e-6).all() and (down >= -step * (1 + 1e-4)).all()
    np.testing.assert_allclose((down / step).mean(1), -0.5, atol=0.03)
    assert np.abs((near / step).mean(1)).max() < 0.03


def test_what_a_sparsifier_left_out_is_neither_sent_nor_in_the_range() -> None:
    x = jnp.array([[5.0, 6.0, 7.0, 0.5, -0.25]])
    packet = send(networks.chain(networks.top_k(3), networks.min_max(1)), x)
    np.testing.assert_allclose(packet.values, [[5, 5, 7, 0, 0]], rtol=1e-6)  # 6 is halfway and goes to the even level
    nothing = send(networks.chain(networks.random_sparsification(1e-9), networks.min_max(8)), x)
    np.testing.assert_array_equal(nothing.values, 0)


@pytest.mark.parametrize("channel", [networks.integers(), networks.min_max(), networks.quantize(4)])
def test_divergence_is_not_hidden(channel) -> None:
    bad = send(channel, jnp.array([[1.0, jnp.nan, 0.0], [1.0, -jnp.inf, 0.5]])).values
    assert not np.isfinite(np.asarray(bad)).all(axis=1).any()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: networks.integers(1), r"integers: bits must be an integer in \[2, 16\], got 1"),
        (lambda: networks.integers(17), r"integers: bits must be an integer in \[2, 16\], got 17"),
        (lambda: networks.integers(8.0), r"integers: bits must be an integer in \[2, 16\], got 8.0"),
        (lambda: networks.integers(rounding="floor"), "integers: rounding must be one of .*got 'floor'"),
        (lambda: networks.integers(scale="row"), "integers: scale must be one of leaf, message, got 'row'"),
        (lambda: networks.min_max(0), r"min_max: bits must be an integer in \[1, 16\], got 0"),
        (lambda: networks.min_max(rounding="up"), "min_max: rounding must be one of .*got 'up'"),
        (lambda: networks.min_max(scale="none"), "min_max: scale must be one of .*got 'none'"),
        (lambda: networks.quantize(4, code="huffman"), "quantize: code must be one of .*got 'huffman'"),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
