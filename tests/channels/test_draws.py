"""Draws for every number of a message: uniform, normal, and nobody's depends on another's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dlsim import keys
from dlsim.channels import draws

NODES, NUM = 64, 4096
IDS = np.array([-1, *range(60), 1000, 2**20, 2**31 - 1])


def table(step: int = 0) -> np.ndarray:
    return np.asarray(jax.jit(draws.words, static_argnums=2)(jax.random.key(step), IDS, NUM))


def test_every_bit_is_fair_and_no_two_go_together() -> None:
    """Of 2^18 words: shares of ones, and correlations of any two bits, of neighbours in the message, nodes and steps."""
    words = table()
    bits = ((words.reshape(-1)[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(np.float32) - 0.5
    deviation = 1 / np.sqrt(len(bits))
    assert np.abs(2 * bits.mean(axis=0)).max() < 4.5 * deviation
    pairs = 4 * bits.T @ bits / len(bits)
    assert np.abs(pairs - np.eye(32)).max() < 5 * deviation
    for other in (np.roll(words, 1, axis=1), np.roll(words, 8, axis=1), np.roll(words, 1, axis=0), table(1)):
        flipped = ((other ^ words).reshape(-1)[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        assert np.abs(2 * flipped.mean(axis=0) - 1).max() < 5 * deviation


def test_uniform_in_one_and_in_two_dimensions() -> None:
    x = np.asarray(draws.uniform(jax.random.key(2), IDS, NUM), np.float64)
    assert x.min() >= 0 and x.max() < 1
    for values in (x.ravel(), x[:, 0::64].ravel(), x[5], (x[:, 1:] + x[:, :-1]).ravel()[::2] % 1):
        assert stats.kstest(values, "uniform").pvalue > 1e-4
    cells = np.histogram2d(x[:, :-1].ravel(), x[:, 1:].ravel(), bins=64, range=((0, 1), (0, 1)))[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-4
    assert abs(stats.pearsonr(x.mean(axis=1), np.arange(NODES)).pvalue) > 1e-4


def test_every_word_of_a_long_message_is_another() -> None:
    """Three rounds that can be undone: no word comes twice within 2^32 places."""
    words = np.asarray(draws.words(jax.random.key(0), np.arange(1), 2**20))
    assert len(np.unique(words)) == 2**20


def test_normal_is_the_inverse_of_the_distribution_function() -> None:
    cells = np.concatenate([np.arange(5000), np.arange(5000, 2**23 - 5000, 97), np.arange(2**23 - 5000, 2**23)])
    made = np.asarray(draws.normal_of(jnp.asarray(cells.astype(np.uint32) << 9)), np.float64)
    expected = stats.norm.ppf((cells + 0.5) / 2**23)
    np.testing.assert_allclose(made, expected, rtol=8e-6)
    np.testing.assert_allclose(made, keys.normal_of(jnp.asarray(cells.astype(np.uint32) << 9)), rtol=1.5e-5)
    x = np.asarray(draws.normal(jax.random.key(3), IDS, NUM), np.float64)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-4 and stats.kstest(x[:, 7], "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(x) - np.eye(NODES)).max() < 5 / np.sqrt(NUM)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_draws_belong_to_senders_and_places(impl: str) -> None:
    key = jax.random.key(1, impl=impl)
    whole = draws.words(key, IDS, 50)
    np.testing.assert_array_equal(draws.words(key, IDS[::-1], 20), whole[::-1, :20])
    np.testing.assert_array_equal(draws.words(key, IDS[3:4], 50), whole[3:4])
