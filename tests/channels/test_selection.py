"""Selection by threshold against `jax.lax.top_k`, place by place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.channels.selection import largest

D = 200


def chosen_by_sorting(values: jax.Array, k: int) -> np.ndarray:
    mask = np.zeros(values.shape, bool)
    np.put_along_axis(mask, np.asarray(jax.lax.top_k(values, k)[1]), True, axis=1)
    return mask


def awkward(dtype: type = np.float32, dimension: int = D) -> jax.Array:
    """Forty rows of each kind: plain, equals, nothing but zeros, few that are not zero, crowded ones, and no numbers."""
    rng, shape = np.random.default_rng(0), (40, dimension)
    odd = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-45], shape)
    kinds = [
        rng.normal(size=shape),
        rng.integers(-3, 4, shape),
        np.zeros(shape),
        rng.normal(size=shape) * (rng.random(shape) < 0.02),
        rng.normal(size=shape) * np.where(np.arange(dimension) % 25 == 3, 100, 1),  # all in one group of eight
        np.where(rng.random(shape) < 0.3, odd, rng.normal(size=shape)),
    ]
    return jnp.asarray(np.concatenate(kinds), dtype)


@pytest.mark.parametrize("k", [4, 60, D])  # 4 goes by groups, 60 does not
def test_it_is_top_k(k: int) -> None:
    values = awkward()
    np.testing.assert_array_equal(largest(values, k), chosen_by_sorting(jnp.abs(values), k))


def test_a_part_of_a_long_row_says_where_to_look() -> None:
    """Right in most rows; wrong where the part has other numbers than the rest, which are looked through alone."""
    values = awkward(dimension=2100)
    values = values.at[:4, ::8].multiply(1e-3).at[4:8, ::8].multiply(1e3)
    np.testing.assert_array_equal(largest(values, 500), chosen_by_sorting(jnp.abs(values), 500))


def test_integers_are_compared_as_they_are() -> None:
    integers = np.random.default_rng(1).integers(-(2**31), 2**31, (40, D), dtype=np.int32)
    integers[3], integers[4, ::2] = 2**31 - 1, -(2**31)
    expected = chosen_by_sorting(jnp.asarray(integers), 60)
    np.testing.assert_array_equal(largest(jnp.asarray(integers), 60), expected)
    for around in ((2**29, 2**31 - 2**29), (0, 5), (2**31 - 9, 2**31 - 1)):  # right, too low, too high
        np.testing.assert_array_equal(largest(jnp.asarray(integers), 60, around=around), expected)


def test_wide_numbers() -> None:
    with jax.enable_x64(True):
        values = awkward(np.float64)
        assert values.dtype == np.float64
        np.testing.assert_array_equal(largest(values, 4), chosen_by_sorting(jnp.abs(values), 4))


def test_short_rows() -> None:
    for dimension, k in ((1, 1), (2, 1), (7, 3), (7, 7)):
        values = awkward()[:, :dimension]
        np.testing.assert_array_equal(largest(values, k), chosen_by_sorting(jnp.abs(values), k))


def test_runs_side_by_side() -> None:
    values = awkward()[::5]
    both = jax.vmap(lambda rows: largest(rows, 4))(jnp.stack([values, -2 * values[::-1]]))
    np.testing.assert_array_equal(both[0], chosen_by_sorting(jnp.abs(values), 4))
    np.testing.assert_array_equal(both[1], chosen_by_sorting(jnp.abs(2 * values[::-1]), 4))
