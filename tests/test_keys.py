"""Draws depend on key, node id and purpose alone, and look random."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dlsim import keys

KEY = jax.random.key(0)


@pytest.fixture(params=["threefry2x32", "rbg"])
def key(request: pytest.FixtureRequest) -> jax.Array:
    return jax.random.key(7, impl=request.param)


def test_a_node_draws_the_same_in_any_company(key: jax.Array) -> None:
    ids = jnp.arange(50, dtype=jnp.int32)
    full = keys.node_bits(key, ids, 9)
    order = jax.random.permutation(KEY, 50)
    np.testing.assert_array_equal(keys.node_bits(key, ids[order], 9), full[order])
    np.testing.assert_array_equal(keys.node_bits(key, ids[13:14], 9), full[13:14])
    np.testing.assert_array_equal(jax.jit(keys.node_bits, static_argnums=2)(key, ids, 9), full)
    together = jax.vmap(keys.node_bits, in_axes=(0, None, None))(jnp.stack([key, key]), ids, 9)
    np.testing.assert_array_equal(together[0], full)


def test_a_longer_draw_begins_like_a_shorter_one() -> None:
    ids = jnp.arange(5)
    np.testing.assert_array_equal(keys.node_bits(KEY, ids, 7)[:, :4], keys.node_bits(KEY, ids, 4))


def test_uniform_and_normal() -> None:
    ids = jnp.arange(400)
    uniform = np.asarray(keys.node_uniform(KEY, ids, 250)).ravel()
    assert 0 <= uniform.min() and uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    counts = np.bincount((uniform * 64).astype(int), minlength=64)
    assert stats.chisquare(counts).pvalue > 1e-3
    normal = np.asarray(keys.node_normal(keys.stream(KEY, "other"), ids, 250)).ravel()
    assert np.isfinite(normal).all() and stats.kstest(normal, "norm").pvalue > 1e-3


def test_neighbouring_ids_steps_and_purposes_are_unrelated() -> None:
    ids = jnp.arange(20_000)
    draws = [
        keys.node_uniform(KEY, ids, 1)[:, 0],
        keys.node_uniform(KEY, ids + 1, 1)[:, 0],
        keys.node_uniform(jax.random.fold_in(KEY, 1), ids, 1)[:, 0],
        keys.node_uniform(keys.stream(KEY, "a"), ids, 1)[:, 0],
        keys.node_uniform(keys.stream(KEY, "b"), ids, 1)[:, 0],
        keys.node_uniform(KEY, ids, 2)[:, 1],
    ]
    correlation = np.corrcoef(np.stack(draws))
    assert np.abs(correlation - np.eye(len(draws))).max() < 0.03


def test_edges(key: jax.Array) -> None:
    a, b = jnp.array([0, 3, 5, -1]), jnp.array([3, 0, 2, 4])
    one_way = keys.edge_uniform(key, a, b)
    assert one_way[0] != one_way[1]
    np.testing.assert_array_equal(keys.edge_uniform(key, a[2:], b[2:]), one_way[2:])
    both = keys.edge_uniform(key, a, b, symmetric=True)
    assert both[0] == both[1]
    assert ((one_way >= 0) & (one_way < 1)).all()


def test_streams_are_the_same_everywhere() -> None:
    """CRC-32 of the name, not Python's salted hash."""
    np.testing.assert_array_equal(
        jax.random.key_data(keys.stream(KEY, "batch")), jax.random.key_data(jax.random.fold_in(KEY, 4161491668))
    )
    assert len({int(jax.random.bits(k)) for k in keys.at_nodes(KEY, jnp.arange(100))}) == 100


def _same(found: jax.Array, expected: jax.Array) -> None:
    assert jax.random.key_impl(found) == jax.random.key_impl(expected)
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(expected))


def test_fold_in_gives_the_keys_of_jax(key: jax.Array) -> None:
    data = jnp.arange(-3, 40, dtype=jnp.int32)
    expected = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, data)
    _same(keys.fold_in(key, data), expected)
    _same(jax.jit(keys.fold_in)(key, data), expected)
    _same(keys.fold_in(key, 2**32 - 1), jax.random.fold_in(key, 2**32 - 1))
    _same(keys.stream(key, "batch"), jax.random.fold_in(key, zlib.crc32(b"batch")))
    # Several in turn, keys of their own, and keys of their own under vmap.
    own = jax.random.split(key, len(data))
    twice = jax.vmap(lambda one, word: jax.random.fold_in(jax.random.fold_in(one, 7), word))(own, data)
    _same(keys.fold_in(own, 7, data), twice)
    _same(jax.vmap(lambda one, word: keys.fold_in(one, 7, word))(own, data), twice)


def test_the_generator_is_that_of_its_authors() -> None:
    # The known answers of the Random123 distribution for Threefry-2x32 with 20 rounds.
    answers = {
        ((0, 0), (0, 0)): (0x6B200159, 0x99BA4EFE),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)): (0x1CB996FC, 0xBB002BE7),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)): (0xC4923A9C, 0x483DF7A0),
    }
    for (key_words, counter), expected in answers.items():
        key = jax.random.wrap_key_data(jnp.asarray(key_words, jnp.uint32), impl="threefry2x32")
        first, second = (jnp.asarray([word], jnp.uint32) for word in counter)
        found = [int(word[0]) for word in keys._hash(key, first, second)]
        assert tuple(found) == expected
