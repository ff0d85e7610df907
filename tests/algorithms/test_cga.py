"""Cross-gradient aggregation against SciPy's non-negative least squares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes as six
from scipy.optimize import nnls

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.algorithms.cga import _agreeing
from dlsim.running.counters import to_float

MOMENTUM = 0.4


def nearest(g: np.ndarray, others: np.ndarray) -> np.ndarray:
    """argmin ||d - g||^2 with others @ d >= 0: d = g + others' v, v >= 0 the least squares solution."""
    return g + others.T @ nnls(others.T, -g)[0] if len(others) else g


def test_a_loop_over_nodes() -> None:
    problem = six.problem(heterogeneity=3.0)
    network, gradient, w = six.network(), six.gradients(problem), six.matrix()
    states = six.play(algorithms.cga(problem, optax.sgd(six.RATE, MOMENTUM)), network)
    x, velocity, models, at_odds, messages = six.start(), np.zeros((6, six.DIMENSION)), [six.start()], 0, 0
    for present in six.ROLL_CALL:
        new = x.copy()
        for i in np.flatnonzero(present):
            around = [j for j in np.flatnonzero(present) if j != i and w[i, j] > 0]
            crossed = np.array([gradient(j, x[i]) for j in around]).reshape(-1, six.DIMENSION)
            own = gradient(i, x[i])
            d = nearest(own, crossed)
            at_odds += int(not np.allclose(d, own))
            messages += 2 * len(around)
            velocity[i] = MOMENTUM * velocity[i] + d
            new[i] = x[i] + sum(w[i, j] * (x[j] - x[i]) for j in around) - six.RATE * velocity[i]
        x = new
        models.append(x)
    assert at_odds > 5
    six.agree(six.models(states), np.stack(models), atol=1e-4)
    assert to_float(states[-1][1].traffic.messages).sum() == messages


def test_where_no_gradients_are_at_odds_it_is_dsgd() -> None:
    """One objective for all, one start: every gradient is the same, and so is the direction."""
    inputs = np.tile(np.random.default_rng(0).standard_normal((1, 8, 3)), (6, 1, 1))
    problem = problems.least_squares(inputs, inputs @ np.ones(3))
    sgd = optax.sgd(0.1)
    ends = [
        dlsim.simulate(dlsim.learn(problem, method, networks.ring(6)), seed=0, num_steps=5, progress=False).params
        for method in (algorithms.cga(problem, sgd), algorithms.dsgd(problem, sgd, order="combine_then_adapt"))
    ]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def test_directions_that_agree_with_everybody() -> None:
    draws = np.random.default_rng(0)
    g, others = draws.standard_normal((40, 6)), draws.standard_normal((40, 4, 6))
    others[3, 1], others[4] = others[3, 0], -g[4]
    came = draws.random((40, 4)) < 0.8
    found = np.asarray(
        _agreeing(jnp.asarray(g, jnp.float32), None, (jnp.asarray(others, jnp.float32), jnp.asarray(came)))
    )
    for i in range(40):
        np.testing.assert_allclose(found[i], nearest(g[i], others[i][came[i]]), atol=2e-4)
    # Alone a row gets what it gets in company.
    alone = _agreeing(
        jnp.asarray(g[:1], jnp.float32), None, (jnp.asarray(others[:1], jnp.float32), jnp.asarray(came[:1]))
    )
    np.testing.assert_allclose(alone[0], found[0], rtol=1e-6)


def test_a_lost_gradient_asks_for_nothing() -> None:
    """Where everything is lost nodes train alone, and who hears nobody's model sends nothing back."""
    problem = six.problem(heterogeneity=3.0)
    lossy = six.network().with_channel(networks.loss(1.0))
    runs = [
        dlsim.simulate(dlsim.learn(problem, method, network), seed=0, num_steps=3, progress=False)
        for method, network in (
            (algorithms.cga(problem, optax.sgd(0.1)), lossy),
            (algorithms.isolated_training(problem, optax.sgd(0.1)), six.network()),
        )
    ]
    np.testing.assert_allclose(runs[0].params, runs[1].params, rtol=1e-5, atol=1e-6)
    assert runs[0].results.messages_sent.values[-1] == 3 * 2 * len(six.LINKS)


def test_a_network_without_a_table() -> None:
    problem = problems.quadratic(4096, 1)
    process = dlsim.learn(problem, algorithms.cga(problem, optax.sgd(0.1)), networks.complete(4096))
    with pytest.raises(ValueError, match="^cga: network must be one with a table of neighbours"):
        process.init(jax.random.key(0))


def test_running_statistics_move_as_in_dsgd() -> None:
    """Of a model with BatchNorm gradients alone are crossed; at rate 0 the statistics are those that D-SGD has."""
    from flax import linen

    class Normed(linen.Module):
        @linen.compact
        def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
            x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(3)(inputs))
            return linen.Dense(3)(linen.relu(x))

    data = problems.synthetic_classification(48, 4, 3)
    problem = problems.supervised(Normed(), data, problems.partition(data, 4, problems.iid()), batch_size=4)
    sgd = optax.sgd(0.0)
    ends = [
        dlsim.simulate(dlsim.learn(problem, method, networks.ring(4)), seed=0, num_steps=2, progress=False).params
        for method in (algorithms.cga(problem, sgd), algorithms.dsgd(problem, sgd, order="combine_then_adapt"))
    ]
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.std(ends[0].batch_stats["BatchNorm_0"]["mean"][0], axis=0).max() > 0
