"""Counts and sums along rows against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.channels import rows


@pytest.mark.parametrize("width", [1, 7, 8, 61, 2**16 + 3])
def test_counts_and_sums_are_those_of_numpy(width: int) -> None:
    """Fewer numbers than lanes, some left over, and more than a half of a word counts."""
    drawn = np.random.default_rng(width).normal(size=(3, width)).astype(np.float32)
    whole = np.round(drawn * 100).astype(np.int32)
    masks = [drawn > 0.3, drawn > -9, drawn < 0.1]
    counts = rows.how_many_each([jnp.asarray(mask) for mask in masks])
    for mask, count in zip(masks, counts, strict=True):
        np.testing.assert_array_equal(count, mask.sum(axis=1))
        np.testing.assert_array_equal(rows.how_many(jnp.asarray(mask)), mask.sum(axis=1))
        assert count.dtype == jnp.int32
    np.testing.assert_array_equal(rows.total(jnp.asarray(whole)), whole.sum(axis=1))
    np.testing.assert_array_equal(rows.greatest(jnp.asarray(whole)), whole.max(axis=1))
    total = jax.jit(rows.total)(jnp.asarray(drawn))
    np.testing.assert_allclose(total, drawn.astype(float).sum(axis=1), atol=1e-6 * width, rtol=1e-5)


def test_what_is_not_finite_stays_so() -> None:
    values = np.ones((4, 20), np.float32)
    values[0, 3], values[1, 5], values[2, 19] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(rows.total(jnp.asarray(values)), [np.nan, np.inf, -np.inf, 20])
