"""One byte a number: its values, its error, and that an encoder sends as many bits as the channel counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.core import Packet


def sent(values: np.ndarray, num_bits: int = 8, steps_per_e: float = 8.0) -> Packet:
    """A message `[n, D]` through the channel."""
    values = jnp.asarray(values, jnp.float32)
    words = jnp.ones(len(values), jnp.uint32)
    packet = Packet(values, num_entries=values.shape[1] * words, bits_per_entry=32 * words, extra_bits=0 * words)
    return networks.log_quantize(num_bits, steps_per_e=steps_per_e).send(jax.random.key(0), (), packet, None)[1]


def test_values_worked_out_by_hand() -> None:
    given = np.array([[3.7, -0.02, 0.75, 1e-9, 5000.0, 0.0, -1.0, 4.5]])
    expected = [[3.490343, -0.020754, 0.778801, 3.3546e-4, 2630.69, 3.3546e-4, -1.0, 4.48169]]
    np.testing.assert_allclose(sent(given).values, expected, rtol=2e-5)
    np.testing.assert_allclose(sent([[3.7]], 9, 16.0).values, [[3.715451]], rtol=1e-6)
    np.testing.assert_array_equal(sent([[3.7, -0.02, 0.0]], 1).values, [[1.0, -1.0, 1.0]])


@pytest.mark.parametrize(("num_bits", "steps_per_e"), [(8, 8.0), (9, 16.0), (5, 3.0), (1, 8.0), (16, 900.0)])
def test_what_an_encoder_sends_is_what_is_counted_and_comes_back(num_bits: int, steps_per_e: float) -> None:
    values = np.random.default_rng(0).normal(size=(3, 37)) * np.exp(np.linspace(-9, 9, 37))
    packet = sent(values, num_bits, steps_per_e)
    for row in range(3):
        channel = networks.log_quantize(num_bits, steps_per_e=steps_per_e)
        code = networks.encode(channel, packet, row)
        counted = int(packet.num_entries[row] * packet.bits_per_entry[row] + packet.extra_bits[row])
        assert counted == 37 * num_bits == len(code)
        np.testing.assert_array_equal(networks.decode(channel, code, np.zeros(37, np.float32)), packet.values[row])
        again = networks.encode(channel, sent(packet.values, num_bits, steps_per_e), row)
        np.testing.assert_array_equal(again, code, "what was sent is sent as it is")


def test_a_byte_has_256_values() -> None:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)).astype(bool)
    decoded = networks.decode(networks.log_quantize(), bits, np.zeros(256, np.float32))
    assert len(set(decoded.tolist())) == 256
    np.testing.assert_array_equal(networks.encode(networks.log_quantize(), sent(decoded[None])), bits)


def test_it_is_odd_idempotent_and_within_its_relative_error() -> None:
    values = np.exp(np.random.default_rng(1).uniform(np.log(3.4e-4), np.log(2600), size=(4, 1000)))
    once = sent(values).values
    np.testing.assert_array_equal(sent(-values).values, -once)
    np.testing.assert_array_equal(sent(once).values, once)
    error = np.abs(np.asarray(once, np.float64) / values - 1).max()
    assert 0.9 * np.expm1(1 / 16) < error <= np.expm1(1 / 16) * (1 + 1e-5)


def test_after_a_sparsifier_what_is_not_sent_stays_zero() -> None:
    channel = networks.chain(networks.top_k(2), networks.log_quantize())
    network = networks.complete(2).with_channel(channel)
    packet, _ = network.send(jax.random.key(0), jnp.asarray([[1.0, 8.0, -3.0], [0.1, 0.2, 0.3]]))
    assert (np.asarray(packet.values) != 0).sum(axis=1).tolist() == [2, 2]


@pytest.mark.parametrize("num_bits", [0, 17, 8.0])
def test_bits_out_of_range(num_bits: object) -> None:
    with pytest.raises(ValueError, match=r"^log_quantize: num_bits must be an integer"):
        networks.log_quantize(num_bits)


def test_what_is_no_code() -> None:
    with pytest.raises(ValueError, match=r"^decode: bits must be a whole message, got one that ends 8 bits early"):
        networks.decode(networks.log_quantize(), np.zeros(16, bool), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"^encode: packet must be of finite values"):
        networks.encode(networks.log_quantize(), sent([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"^log_quantize: steps_per_e must be a number in \(0, inf\), got 0"):
        networks.log_quantize(steps_per_e=0.0)
