"""Sharpness-aware gradients: numbers worked by hand, optax's own SAM, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.problems import sharpness_aware

KEY = jax.random.key(2)
HESSIAN = np.array([3.0, 4.0])


def bowl(num=1, scale=1.0):
    """f_i = scale (3 x^2 + 4 y^2) / 2 at every node."""
    problem = problems.quadratic(num, 2, heterogeneity=0.0)

    def gradient(key, params, node_ids):
        del key, node_ids
        return scale * HESSIAN * params, scale * jnp.sum(HESSIAN * params**2, axis=1) / 2

    return problem._replace(gradient=gradient)


def test_by_hand() -> None:
    """g = (3, 4), d = (.06, .08), gradient (3.18, 4.32), next (.682, .568); the loss is that at the start, 7/2."""
    gradient, loss = sharpness_aware(bowl(), 0.1).gradient(KEY, jnp.ones((1, 2)), jnp.arange(1))
    np.testing.assert_allclose(gradient, [[3.18, 4.32]], rtol=1e-6)
    np.testing.assert_allclose(1 - 0.1 * gradient, [[0.682, 0.568]], rtol=1e-6)
    assert float(loss[0]) == 3.5


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_step_away_has_length_rho_whatever_the_scale_of_the_loss(scale) -> None:
    seen = []

    def gradient(key, params, node_ids):
        del key, node_ids
        seen.append(np.asarray(params))
        return scale * HESSIAN * params, jnp.zeros(2)

    x = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    sharpness_aware(bowl(2)._replace(gradient=gradient), 0.3).gradient(KEY, x, jnp.arange(2))
    away = seen[1] - seen[0]
    np.testing.assert_allclose(away[0], [0.18, 0.24], rtol=1e-3 if scale < 1e-6 else 1e-6)
    np.testing.assert_array_equal(away[1], 0)  # no gradient, nowhere to go, and no NaN


def test_linear_losses_know_no_sharpness() -> None:
    slope = jnp.array([[1.0, -2.0], [3.0, 0.5]])
    flat = bowl(2)._replace(gradient=lambda key, params, node_ids: (slope, jnp.sum(slope * params, axis=1)))
    gradient, _ = sharpness_aware(flat, 5.0).gradient(KEY, jnp.ones((2, 2)), jnp.arange(2))
    np.testing.assert_array_equal(gradient, slope)


def test_it_is_what_optax_has() -> None:
    """One node's SGD with momentum on sharpness-aware gradients against optax.contrib.sam in its opaque mode."""
    from optax import contrib

    rho, steps = 0.05, 4
    base = optax.sgd(0.1, momentum=0.9)
    outer = contrib.sam(base, optax.chain(contrib.normalize(), optax.sgd(rho)), sync_period=2, opaque_mode=True)

    def loss(x):
        return jnp.sum(jnp.cosh(x * jnp.arange(1.0, 4.0))) + x[0] * x[1]

    x = mine = jnp.array([0.3, -0.7, 0.5])
    state, my_state = outer.init(x), base.init(mine)
    problem = sharpness_aware(
        problems.quadratic(1, 3, heterogeneity=0.0)._replace(
            gradient=lambda key, params, ids: (jax.vmap(jax.grad(loss))(params), jax.vmap(loss)(params))
        ),
        rho,
    )
    for _ in range(steps):
        updates, state = outer.update(jax.grad(loss)(x), state, x, grad_fn=lambda p, _: jax.grad(loss)(p))
        x = optax.apply_updates(x, updates)
        gradient, _ = problem.gradient(KEY, mine[None], jnp.arange(1))
        updates, my_state = base.update(gradient[0], my_state)
        mine = optax.apply_updates(mine, updates)
    np.testing.assert_allclose(mine, x, rtol=1e-4)


def digits(**options):
    return problems.classification("digits", num_nodes=4, model="softmax", batch_size=8, num_test=50, **options)


def test_both_gradients_see_one_batch() -> None:
    problem = digits()
    x = jax.tree.map(lambda leaf: leaf + 0.01, dlsim.trees.replicate(problem.init(KEY), 4))
    ids = jnp.arange(4)
    gradient, losses = jax.jit(sharpness_aware(problem, 0.2).gradient)(KEY, x, ids)
    batch = problem.sample(KEY, ids)
    value, first = jax.vmap(jax.value_and_grad(problem.loss))(x, batch)
    norm = np.sqrt(sum(np.sum(np.square(np.asarray(leaf)).reshape(4, -1), axis=1) for leaf in jax.tree.leaves(first)))
    there = jax.tree.map(lambda p, g: p + 0.2 * g / norm.reshape(-1, *(1,) * (g.ndim - 1)), x, first)
    wanted = jax.vmap(jax.grad(problem.loss))(there, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), gradient, wanted)
    np.testing.assert_allclose(losses, value, rtol=1e-5)


@pytest.mark.parametrize("options", [{"num_local_steps": 3}, {"num_local_epochs": 1}])
def test_twice_the_gradients_are_counted_by_steps_and_by_epochs(options) -> None:
    counts = {}
    for name, problem in (("plain", digits()), ("sam", sharpness_aware(digits(), 0.1))):
        process = dlsim.learn(problem, algorithms.dsgd(problem, optax.sgd(0.1), **options), networks.ring(4))
        counts[name] = np.asarray(jax.jit(lambda k, p=process: p.step(k, p.init(k))[1]["num_gradients"])(KEY))
    np.testing.assert_array_equal(counts["sam"], 2 * counts["plain"])
    assert (counts["plain"] > 0).all()


def test_a_radius_of_zero() -> None:
    """Python's 0 is the problem itself, at half the cost; a traced 0 gives the same numbers."""
    problem = bowl()
    assert sharpness_aware(problem, 0) is problem
    gradient, _ = jax.jit(lambda rho: sharpness_aware(problem, rho).gradient(KEY, jnp.ones((1, 2)), jnp.arange(1)))(0.0)
    np.testing.assert_array_equal(gradient, [[3.0, 4.0]])


def test_running_statistics_move_once() -> None:
    import flax.linen as nn

    class Small(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.BatchNorm(use_running_average=not train)(x.reshape(x.shape[0], -1))
            return nn.Dense(10)(x)

    problem = digits_with(Small())
    x = dlsim.trees.replicate(problem.init(KEY), 4)
    ids = jnp.arange(4)
    plain, _ = problem.with_statistics.gradient(KEY, x, ids)
    sharp = sharpness_aware(problem, 0.5)
    twice, _ = sharp.with_statistics.gradient(KEY, x, ids)
    jax.tree.map(np.testing.assert_array_equal, plain.batch_stats, twice.batch_stats)
    assert not np.allclose(plain.params["Dense_0"]["kernel"], twice.params["Dense_0"]["kernel"], atol=1e-6)
    with pytest.raises(ValueError, match="without running statistics"):
        sharp.gradient(KEY, x, ids)


def digits_with(module):
    return problems.classification("digits", num_nodes=4, model=module, batch_size=8, num_test=50)


def test_what_is_not_finite_is_no_silent_zero() -> None:
    problem = bowl()._replace(gradient=lambda key, params, ids: (params * jnp.nan, jnp.full(1, jnp.nan)))
    gradient, loss = sharpness_aware(problem, 0.1).gradient(KEY, jnp.ones((1, 2)), jnp.arange(1))
    assert np.isnan(gradient).all() and np.isnan(loss).all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"^sharpness_aware: rho must be"):
        sharpness_aware(bowl(), -0.1)
    with pytest.raises(ValueError, match=r"^sharpness_aware: problem must be"):
        sharpness_aware(optax.sgd(0.1))


def digits_of_mlp():
    return problems.classification("digits", num_nodes=4, model="mlp", batch_size=8, num_test=50)
