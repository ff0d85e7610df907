"""Quadratics against float64 matrices recovered from the problem's own gradients, and against their promises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.problems.quadratic import quadratic

KINDS = [(curvature, shared) for curvature in ("diagonal", "dense") for shared in (False, True)]
N, D = 6, 5
IDS = jnp.arange(N)
KEY = jax.random.key(0)


def make(curvature="diagonal", shared=False, **options):
    return quadratic(N, D, curvature=curvature, shared_curvature=shared, **{"condition_number": 8.0, **options})


def matrices(problem):
    """A_i [N, D, D] and the gradient at zero [N, D], float64, from the full gradients at 0 and the unit vectors."""
    at_zero = np.asarray(problem.full_gradient(KEY, jnp.zeros((N, D)), IDS)[0], np.float64)
    columns = [
        np.asarray(problem.full_gradient(KEY, jnp.tile(jnp.eye(D)[d], (N, 1)), IDS)[0], np.float64) - at_zero
        for d in range(D)
    ]
    return np.stack(columns, axis=2), at_zero


@pytest.mark.parametrize(("curvature", "shared"), KINDS)
def test_closed_form(curvature, shared):
    problem = make(curvature, shared, heterogeneity=2.5)
    a, at_zero = matrices(problem)
    np.testing.assert_allclose(a, np.swapaxes(a, 1, 2), atol=1e-6)
    np.testing.assert_allclose(np.linalg.eigvalsh(a), np.tile(8.0 ** -np.linspace(1, 0, D), (N, 1)), rtol=1e-5)
    assert (np.abs(a - a[0]).max() < 1e-6) == shared
    optimum = np.linalg.solve(a.mean(0), -at_zero.mean(0))
    np.testing.assert_allclose(problem.optimum, optimum, atol=1e-5)
    assert abs(np.linalg.norm(optimum) - 1) < 1e-5
    at_optimum = np.einsum("nij,j->ni", a, optimum) + at_zero
    np.testing.assert_allclose(np.mean(np.sum(at_optimum**2, axis=1)), 2.5, rtol=1e-5)
    # The losses are those of centres b_i = -A_i^-1 grad f_i(0), each f_i with minimum zero.
    centres = -np.linalg.solve(a, at_zero[..., None])[..., 0]
    x = np.random.default_rng(0).standard_normal((N, D))
    _, losses = problem.full_gradient(KEY, jnp.asarray(x, jnp.float32), IDS)
    z = x - centres
    np.testing.assert_allclose(losses, np.einsum("ni,nij,nj->n", z, a, z) / 2, rtol=2e-4)
    # The global objective at every x_i.
    z = x[:, None] - centres
    f = np.einsum("kni,nij,knj->kn", z, a, z).mean(1) / 2
    z = optimum - centres
    best = (np.einsum("ni,nij,nj->n", z, a, z) / 2).mean()
    out = problem.evaluate(jnp.asarray(x, jnp.float32), IDS)
    np.testing.assert_allclose(out["loss"], f, rtol=1e-4)
    np.testing.assert_allclose(out["suboptimality"], f - best, rtol=1e-3)
    np.testing.assert_allclose(out["distance"], np.sum((x - optimum) ** 2, axis=1), rtol=1e-4)


@pytest.mark.parametrize(("curvature", "shared"), KINDS)
def test_proximal_solves_its_equation(curvature, shared):
    problem = make(curvature, shared)
    x = jax.random.normal(KEY, (N, D))
    for rho in (0.3, jnp.linspace(0.1, 4.0, N)):
        y = problem.proximal(x, rho, IDS)
        weight = jnp.broadcast_to(rho, (N,))[:, None]
        residual = problem.full_gradient(KEY, y, IDS)[0] + weight * (y - x)
        np.testing.assert_allclose(residual, 0, atol=3e-6)


@pytest.mark.parametrize(("curvature", "shared"), KINDS)
def test_subsets_and_orders_of_nodes(curvature, shared):
    problem = make(curvature, shared, gradient_noise=1.0)
    x = jax.random.normal(KEY, (N, D))
    some = jnp.array([4, 1, 2])
    for function in (problem.gradient, problem.full_gradient):
        whole, part = function(KEY, x, IDS), function(KEY, x[some], some)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[some], whole), part, rtol=1e-5, atol=1e-6)
    whole = problem.proximal(x, 0.5, IDS)[some]
    np.testing.assert_allclose(whole, problem.proximal(x[some], 0.5, some), rtol=1e-5, atol=1e-6)
    for name, value in problem.evaluate(x[some], None).items():
        np.testing.assert_allclose(value, problem.evaluate(x, IDS)[name][some], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("curvature", ["diagonal", "dense"])
def test_gradients_are_those_of_the_sampled_loss(curvature):
    problem = make(curvature, gradient_noise=1.0)
    x = jax.random.normal(KEY, (N, D))
    batch = problem.sample(KEY, IDS)
    assert all(leaf.shape[:2] == (N, 1) for leaf in jax.tree.leaves(batch))
    losses, gradients = jax.vmap(jax.value_and_grad(problem.loss))(x, batch)
    got_gradients, got_losses = problem.gradient(KEY, x, IDS)
    np.testing.assert_allclose(got_gradients, gradients, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got_losses, losses, rtol=1e-5, atol=1e-6)


def test_noise_has_the_variance_asked_for():
    problem = make(gradient_noise=3.0)
    x = jax.random.normal(KEY, (N, D))
    exact, _ = problem.full_gradient(KEY, x, IDS)
    keys = jax.random.split(jax.random.key(1), 4000)
    noise = jax.vmap(lambda key: problem.gradient(key, x, IDS)[0])(keys) - exact
    assert abs(float(jnp.mean(jnp.sum(noise**2, axis=-1))) / 3.0 - 1) < 0.02
    # 24,000 draws of each coordinate of variance 0.6: five standard errors.
    assert float(jnp.abs(jnp.mean(noise, axis=(0, 1))).max()) < 5 * (0.6 / 24000) ** 0.5
    corr = np.corrcoef(np.asarray(noise[:, :, 0]).T)
    assert np.abs(corr - np.eye(N)).max() < 5 / 4000**0.5
    silent = make(gradient_noise=0.0)
    np.testing.assert_array_equal(silent.gradient(KEY, x, IDS)[0], exact)


@pytest.mark.parametrize("curvature", ["diagonal", "dense"])
def test_floats_may_be_traced(curvature):
    def outcome(heterogeneity, gradient_noise, condition_number):
        problem = make(
            curvature,
            heterogeneity=heterogeneity,
            gradient_noise=gradient_noise,
            condition_number=condition_number,
        )
        x = jnp.ones((N, D))
        return problem.gradient(KEY, x, IDS), problem.evaluate(x, IDS), problem.proximal(x, 0.7, IDS)

    grid = (jnp.array([0.0, 1.0, 4.0]), jnp.array([0.5, 0.0, 2.0]), jnp.array([1.0, 8.0, 100.0]))
    swept = jax.jit(jax.vmap(outcome))(*grid)
    for i in range(3):
        single = outcome(*(float(g[i]) for g in grid))
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], swept), single, rtol=2e-4, atol=1e-5)


def test_centralised_descent_reaches_the_square_of_rounding():
    problem = make(heterogeneity=1.0)
    x = problem.init(KEY)
    assert x.shape == (D,) and float(jnp.abs(x).max()) == 0.0
    rates = []
    for _ in range(400):
        gradients, _ = problem.full_gradient(KEY, jnp.tile(x, (N, 1)), IDS)
        before = float(problem.evaluate(x[None], None)["distance"][0])
        x = x - gradients.mean(axis=0)
        rates.append(float(problem.evaluate(x[None], None)["distance"][0]) / max(before, 1e-30))
    final = problem.evaluate(x[None], None)
    assert float(final["suboptimality"][0]) < 1e-12 and float(final["distance"][0]) < 1e-12
    assert max(rates[:5]) <= (1 - 1 / 8.0) ** 2 + 1e-4  # step 1/L contracts by 1 - 1/kappa at least


def test_shared_curvature_has_one_heterogeneity_everywhere():
    problem = make(shared=True, heterogeneity=2.0)
    for seed in range(3):
        x = jnp.tile(jax.random.normal(jax.random.key(seed), (D,)), (N, 1))
        gradients, _ = problem.full_gradient(KEY, x, IDS)
        spread = jnp.mean(jnp.sum((gradients - gradients.mean(axis=0)) ** 2, axis=1))
        np.testing.assert_allclose(spread, 2.0, rtol=1e-5)


def test_sizes_at_the_ends():
    one = quadratic(1, 3, heterogeneity=0.0)
    gradients, losses = one.full_gradient(KEY, one.optimum[None], jnp.arange(1))
    np.testing.assert_array_equal(gradients, 0)
    np.testing.assert_array_equal(losses, 0)
    flat = quadratic(4, 1, curvature="dense")
    np.testing.assert_allclose(jnp.abs(flat.optimum), 1.0)
    assert flat.num_examples.tolist() == [1] * 4
    again, other = quadratic(4, 3, seed=1), quadratic(4, 3, seed=2)
    np.testing.assert_array_equal(again.optimum, quadratic(4, 3, seed=1).optimum)
    assert float(jnp.abs(again.optimum - other.optimum).max()) > 0.01


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"num_nodes": 0}, "num_nodes"),
        ({"dimension": 2.0}, "dimension"),
        ({"heterogeneity": -1.0}, "heterogeneity must be a number in [0, inf), got -1"),
        ({"gradient_noise": float("nan")}, "gradient_noise"),
        ({"condition_number": 0.5}, "condition_number must be a number in [1, inf)"),
        ({"curvature": "dens"}, "Did you mean 'dense'"),
        ({"num_nodes": 1}, "Pass heterogeneity=0.0"),
        ({"seed": -1}, "seed"),
    ],
)
def test_one_line_for_bad_input(arguments, reason):
    with pytest.raises(ValueError) as error:
        quadratic(**{"num_nodes": 3, "dimension": 2, **arguments})
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"num_nodes": 2 * 10**9, "dimension": 10**3},
            "num_nodes must be small enough for .* GiB of memory, got 2000000000, which needs",
        ),
        ({"num_nodes": 10**12}, r"num_nodes must be an integer in \[1, 2147483647\], got 1000000000000"),
        ({"dimension": 2 * 10**9, "num_nodes": 10**3}, ".* must be small enough"),
        ({"dimension": 10**6, "curvature": "dense"}, "dimension must be small enough"),
        ({"shared_curvature": "no"}, "shared_curvature must be True or False, got 'no'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_made(options, reason):
    with pytest.raises(ValueError, match=f"quadratic: {reason}"):
        quadratic(**{"num_nodes": 3, "dimension": 2, **options})
