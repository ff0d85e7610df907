"""Local updates: steps computed at one model may be applied to another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim.algorithms.local import local_events, local_updates

NUM = 6
PROBLEM = dlsim.problems.quadratic(num_nodes=NUM, dimension=5, gradient_noise=0.3, seed=1)
IDS = jnp.arange(NUM)
KEY = jax.random.key(3)


def models(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (NUM, 5))


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)], ids=["sgd", "momentum"])
def test_updates_go_onto_another_model(num_steps: int, optimizer: optax.GradientTransformation) -> None:
    local = local_updates(PROBLEM, optimizer, num_steps)
    params, onto = models(0), models(1)
    state = local.init(params)
    moved, plain_state, plain_info = local.run(KEY, params, state, IDS)
    found, new_state, info = local.run(KEY, params, state, IDS, onto=onto)
    np.testing.assert_allclose(found, onto + (moved - params), atol=1e-6)
    assert np.abs(moved - params).max() > 1e-2
    for a, b in zip(jax.tree.leaves((new_state, info)), jax.tree.leaves((plain_state, plain_info)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_who_is_away_keeps_the_model_that_updates_go_onto() -> None:
    local = local_updates(PROBLEM, optax.sgd(0.1))
    params, onto, here = models(0), models(1), IDS % 2 == 0
    found, _, info = local.run(KEY, params, local.init(params), IDS, is_present=here, onto=onto)
    np.testing.assert_array_equal(found[1::2], onto[1::2])
    assert (found[::2] != onto[::2]).all() and not info["num_gradients"][1::2].any()


def test_events_draw_by_their_own_keys_whatever_the_updates_go_onto() -> None:
    local = local_events(PROBLEM, optax.sgd(0.1), where="test")
    params, onto, draws = models(0), models(1), jax.random.split(KEY, NUM)
    state = local.init(params)
    moved = local.run(draws, params, state, IDS)[0]
    np.testing.assert_allclose(local.run(draws, params, state, IDS, onto)[0], onto + (moved - params), atol=1e-6)
    some = jnp.asarray([4, 1])
    alone = local.run(draws[some], params[some], jax.tree.map(lambda leaf: leaf[some], state), IDS[some], onto[some])[0]
    np.testing.assert_allclose(alone, local.run(draws, params, state, IDS, onto)[0][some], atol=1e-6)
