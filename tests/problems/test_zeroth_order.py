"""Gradients estimated from losses: unbiased, of the variance that theory says, and the same in whatever blocks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import keys, problems
from dlsim.core import Problem, PyTree
from dlsim.problems.zeroth_order import directions, seed_of

NUM, DIMENSION, SAMPLES = 4, 10, 2048
drawn = jax.jit(directions, static_argnames="distribution")


@functools.cache
def problem() -> Problem:
    return problems.quadratic(NUM, DIMENSION, heterogeneity=0.5, condition_number=4.0)


@pytest.mark.parametrize(("distribution", "moment"), [("normal", DIMENSION + 2), ("rademacher", DIMENSION)])
def test_estimates_are_unbiased_and_their_second_moment_is_known(distribution: str, moment: int) -> None:
    estimated = problems.zeroth_order(problem(), smoothing=0.5, distribution=distribution)
    params, ids = jnp.broadcast_to(jnp.linspace(-1, 1, DIMENSION), (NUM, DIMENSION)), jnp.arange(NUM)
    rounds = jax.random.split(jax.random.key(0), SAMPLES)
    found = np.asarray(jax.jit(jax.vmap(lambda key: estimated.gradient(key, params, ids)[0]))(rounds), np.float64)
    exact = np.asarray(problem().full_gradient(rounds[0], params, ids)[0], np.float64)
    error = found.std(axis=0) / np.sqrt(SAMPLES)
    assert (np.abs(found.mean(axis=0) - exact) < 4.5 * error).all()  # exact for quadratics, however large the smoothing
    squares = np.sum(found**2, axis=2)
    ratio = squares.mean(axis=0) / np.sum(exact**2, axis=1) / moment
    assert (np.abs(ratio - 1) < 5 * squares.std(axis=0) / squares.mean(axis=0) / np.sqrt(SAMPLES)).all()


def test_several_directions_are_the_mean_of_single_ones() -> None:
    """By hand, from the directions that a seed tells."""
    mu, key, ids = 0.1, jax.random.key(3), jnp.arange(NUM)
    params = jax.random.normal(jax.random.key(4), (NUM, DIMENSION))
    noisy = problems.quadratic(NUM, DIMENSION, gradient_noise=1.0)
    gradients, losses = jax.jit(problems.zeroth_order(noisy, num_directions=3, smoothing=mu).gradient)(key, params, ids)

    @jax.jit
    def values(params: jax.Array, sample: int) -> jax.Array:
        return jax.vmap(noisy.loss)(params, noisy.sample(keys.fold_in(key, sample), ids))

    expected, mean = np.zeros((NUM, DIMENSION)), np.zeros(NUM)
    for s in range(3):
        z = drawn(seed_of(key), ids, s, params, "normal")
        above, below = (np.asarray(values(params + side * mu * z, s), np.float64) for side in (1, -1))
        expected += ((above - below) / (2 * mu) / 3)[:, None] * np.asarray(z)
        mean += (above + below) / 6
    np.testing.assert_allclose(gradients, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(losses, mean, rtol=1e-5)


@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_a_direction_depends_on_seed_node_sample_and_leaf_alone(distribution: str) -> None:
    like = {"a": jnp.zeros((1, 7)), "b": jnp.zeros((1, 3, 30))}
    seed, some = seed_of(jax.random.key(1)), jnp.asarray([4, 1])

    @jax.jit
    def several(seed: jax.Array) -> tuple[PyTree, ...]:
        asked = (seed, jnp.arange(6), 2), (seed, some, jnp.asarray(2)), (seed, some, 3), (seed + 1, some, 2)
        return tuple(directions(*one, like, distribution) for one in asked)

    whole, part, *others = several(seed)
    for name, leaf in whole.items():
        assert leaf.shape == (6, *like[name].shape[1:])
        np.testing.assert_array_equal(leaf[some], part[name])
        assert len({row.tobytes() for row in np.asarray(leaf)}) == 6
    assert not any(np.array_equal(part["b"], other["b"]) for other in others)
    assert not np.array_equal(whole["a"][0], whole["b"][0].ravel()[:7])
    if distribution == "rademacher":
        assert set(np.unique(whole["b"])) == {-1.0, 1.0}


def test_words_make_normal_numbers() -> None:
    z = np.asarray(
        directions(seed_of(jax.random.key(2)), jnp.arange(20), 0, jnp.zeros((1, 5001)), "normal"), np.float64
    )
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / z.size)
    assert np.abs(np.corrcoef(z)[np.triu_indices(20, 1)]).max() < 5 / np.sqrt(5001)


def test_what_takes_derivatives_is_gone() -> None:
    estimated = problems.zeroth_order(problem(), num_directions=2)
    assert estimated.proximal is None and estimated.gradient_at is None
    assert estimated.batch_size == 4 and "Spall" in estimated.source


def test_what_is_no_estimator() -> None:
    for name, value in (("num_directions", 0), ("smoothing", 0.0), ("distribution", "uniform")):
        with pytest.raises(ValueError, match=f"^zeroth_order: {name} must be "):
            problems.zeroth_order(problem(), **{name: value})
    with pytest.raises(
        ValueError, match=r"^zeroth_order: problem must be one with `loss` and `sample`, got one without `loss`"
    ):
        problems.zeroth_order(problem()._replace(loss=None))
