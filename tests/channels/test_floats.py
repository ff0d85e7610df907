"""Short floats: E3M0 against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.core import Packet, Route
from dlsim.networks.messages import message_bits, whole_packet


def sent(tree) -> Packet:
    ids = jnp.arange(len(jax.tree.leaves(tree)[0]))
    channel = networks.e3m0()
    return jax.jit(channel.send)(jax.random.key(0), (), whole_packet(tree), Route(ids, ids, ids))[1]


def definition(row: np.ndarray) -> np.ndarray:
    """The nearest of {0, 2^-6, ..., 1} times the largest magnitude, ties up, nothing below 2^-7: a loop."""
    scale = np.abs(row).max()
    out = np.zeros_like(row)
    for d, x in enumerate(row):
        ratio = abs(x) / scale if scale else 0.0
        if ratio >= 2.0**-7:
            k = next(k for k in range(0, -8, -1) if ratio >= 2.0**k)
            power = 2.0**k if ratio < 1.5 * 2.0**k else 2.0 ** (k + 1)
            out[d] = np.sign(x) * scale * min(max(power, 2.0**-6), 1.0)
    return out


def test_e3m0_is_its_definition_leaf_by_leaf() -> None:
    np.testing.assert_array_equal(
        sent({"x": jnp.array([[0.9, -0.3, 0.02, 0.001]])}).values["x"],
        np.array([[0.9, -0.225, 0.0140625, 0]], np.float32),
    )
    x = jax.random.normal(jax.random.key(1), (4, 300)) * jnp.array([1.0, 1e-20, 3e5, 0.0])[:, None]
    tree = {"a": x[:, :200].reshape(4, 20, 10), "b": x[:, 200:]}
    packet = sent(tree)
    for name, leaf in tree.items():
        rows = np.asarray(leaf, np.float64).reshape(4, -1)
        wanted = np.stack([definition(row) for row in rows])
        np.testing.assert_allclose(np.asarray(packet.values[name]).reshape(4, -1), wanted, rtol=1e-6)
        lost = ((wanted - rows) ** 2).sum(1)
        bound = (rows**2).sum(1) / 9 + rows.shape[1] * (np.abs(rows).max(1) / 128) ** 2
        assert (lost <= bound).all()
    np.testing.assert_array_equal(message_bits(packet).low, 4 * 300 + 2 * 32)


def test_e3m0_at_powers_and_ties() -> None:
    powers = 2.0 ** np.arange(0, -10, -1)
    wanted = np.where(powers >= 2.0**-7, np.maximum(powers, 2.0**-6), 0)
    np.testing.assert_array_equal(sent(jnp.asarray(powers, jnp.float32)[None]).values[0], wanted)
    ties = np.concatenate([[1.0], 1.5 * powers[1:7]])
    np.testing.assert_array_equal(sent(jnp.asarray(ties, jnp.float32)[None]).values[0], [1.0, *powers[:6]])
    under = np.nextafter(np.float32(1.5 * powers[1:6]), np.float32(0))
    np.testing.assert_array_equal(sent(jnp.asarray([[1.0, *under]])).values[0], [1.0, *powers[1:6]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_e3m0_is_idempotent_odd_and_scales_with_powers_of_two(dtype) -> None:
    x = jax.random.normal(jax.random.key(2), (3, 64)).astype(dtype)
    once = sent(x).values
    assert once.dtype == dtype
    np.testing.assert_array_equal(sent(once).values, once)
    np.testing.assert_array_equal(sent(-x).values, -once)
    np.testing.assert_array_equal(sent(8 * x).values, 8 * once)
    assert len(np.unique(np.asarray(once[0], np.float32))) <= 15


def test_e3m0_hides_no_divergence() -> None:
    values = np.asarray(sent(jnp.array([[1.0, np.nan, 2.0], [1.0, np.inf, 2.0]])).values)
    assert np.isnan(values[0]).all() and np.isinf(values[1, 1])
