"""Distributions, divergences and budgets against direct evaluations and dp-accounting's figures."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import privacy
from dlsim.privacy.renyi import traced_epsilon

SETTINGS = ((2, 0.3, 0.5), (3, 0.6, 0.2), (5, 0.4, 0.8), (8, 0.57, 0.66))  # m, q, Delta


def enumerated(x: float, num_levels: int, keep: float, extension: float) -> np.ndarray:
    """The mechanism as it is told: over all subsets of the inner levels."""
    levels = (1 + extension) * np.linspace(-1, 1, num_levels)
    pmf = np.zeros(num_levels)
    for kept in itertools.product([False, True], repeat=num_levels - 2):
        there = np.flatnonzero([True, *kept, True])
        chance = np.prod([keep if one else 1 - keep for one in kept]) if kept else 1.0
        high = next(k for k in there[1:] if levels[k] >= x)
        low = max(i for i in there if i < high)
        up = (x - levels[low]) / (levels[high] - levels[low])
        pmf[high] += chance * up
        pmf[low] += chance * (1 - up)
    return pmf


def direct(p: np.ndarray, q: np.ndarray, order: float) -> float:
    return float(
        np.log(np.max(p / q)) if math.isinf(order) else np.log(np.sum(p**order * q ** (1 - order))) / (order - 1)
    )


@pytest.mark.parametrize(("num_levels", "keep", "extension"), SETTINGS)
def test_rqm_is_what_its_subsets_give(num_levels: int, keep: float, extension: float) -> None:
    arguments = {"clip": 1.0, "extension": extension, "num_levels": num_levels, "keep_probability": keep}
    x = np.linspace(-1, 1, 41)
    found = privacy.rqm_pmf(x, **arguments)
    expected = np.stack([enumerated(value, num_levels, keep, extension) for value in x])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    levels = (1 + extension) * np.linspace(-1, 1, num_levels)
    np.testing.assert_allclose(found @ levels, x, atol=1e-12)
    np.testing.assert_allclose(found[::-1, ::-1], found, atol=1e-12)
    # The greatest divergence over a dense grid is that of the ends of the stretches, where these are among it.
    orders = (1.5, 2.0, 8.0, math.inf)
    mine = privacy.rqm(**arguments, orders=orders).values
    inside = [enumerated(value, num_levels, keep, extension) for value in levels[np.abs(levels) < 1]]
    rows = [*expected, *inside]
    for order, value in zip(orders, mine, strict=True):
        assert value == pytest.approx(max(direct(p, q, order) for p in rows for q in rows), rel=1e-9)


def test_divergences_of_sums_are_those_of_their_distributions() -> None:
    arguments = {"clip": 1.0, "extension": 0.8, "num_levels": 5, "keep_probability": 0.4}
    grid = np.array([-1.0, 0.0, 0.9, 1.0])  # levels at -1.8, -0.9, 0, 0.9, 1.8
    pmf = {x: enumerated(x, 5, 0.4, 0.8) for x in (*grid, -0.9)}
    for order in (2.0, 8.0, 32.0):
        worst = max(
            direct(*(np.convolve(np.convolve(pmf[one], pmf[o]), pmf[o]) for one in pair), order)
            for pair in itertools.product(pmf, repeat=2)
            for o in (-1.0, 0.0, 1.0)
        )
        found = privacy.rqm(**arguments, num_senders=3, orders=(order,)).values[0]
        assert found == pytest.approx(worst, rel=1e-10)
        assert found < privacy.rqm(**arguments, orders=(order,)).values[0]


def test_figures_of_an_independent_program() -> None:
    np.testing.assert_allclose(
        privacy.rqm_pmf(0.5, clip=1.0, extension=1.0, num_levels=3, keep_probability=0.5), [0.1875, 0.375, 0.4375]
    )
    four = privacy.rqm_pmf(0.25, clip=1.0, extension=0.5, num_levels=4, keep_probability=0.5)
    np.testing.assert_allclose(four, [0.13541667, 0.21875, 0.40625, 0.23958333], atol=1e-8)
    p, q = privacy.rqm_pmf(np.array([1.0, -1.0]), clip=1.0, extension=0.8, num_levels=5, keep_probability=0.4)
    np.testing.assert_allclose(p, [0.048, 0.0426667, 0.1066667, 0.3555556, 0.4471111], atol=1e-7)
    assert privacy.divergence(p, q, 2) == pytest.approx(1.9802646, abs=1e-7)
    assert privacy.divergence(p, q, math.inf) == pytest.approx(2.2316061, abs=1e-7)
    # The pair (c, -c) is not always the worst.
    worst = privacy.rqm(clip=1.0, extension=0.8, num_levels=5, keep_probability=0.4, orders=(math.inf,)).values[0]
    assert worst == pytest.approx(2.238, abs=1e-3)
    for theta, ratio, keep, pbm, rqm in ((0.15, 2.33, 0.42, 0.1498, 0.1573), (0.35, 0.66, 0.57, 1.6056, 1.6773)):
        found = privacy.poisson_binomial(theta=theta, num_senders=40, orders=(2,)).values[0]
        assert found == pytest.approx(pbm, abs=1e-4)
        found = privacy.rqm(clip=3.0, extension=3 * ratio, keep_probability=keep, num_senders=40, orders=(2,)).values[0]
        assert found == pytest.approx(rqm, abs=1e-4)


def test_limits_and_orders() -> None:
    for extension in (0.2, 1.0):
        two = privacy.rqm(clip=1.0, extension=extension, num_levels=2, orders=(math.inf,)).values[0]
        assert two == pytest.approx(math.log(1 + 2 / extension), rel=1e-12)
    assert (np.diff(privacy.rqm(clip=1.0, extension=1.0).values) > -1e-9).all()
    assert (np.diff(privacy.poisson_binomial(theta=0.25).values) > -1e-9).all()
    # Tails of 40 senders are smaller than a float64, and still are what counts.
    assert np.isfinite(privacy.poisson_binomial(theta=0.35, num_senders=40, orders=(2, 64)).values).all()
    p, q = np.array([0.2, 0.8, 0.0]), np.array([0.5, 0.25, 0.25])
    assert privacy.divergence(p, q, 1) == pytest.approx(0.2 * math.log(0.4) + 0.8 * math.log(3.2))
    assert privacy.divergence(q, p, 3) == math.inf and privacy.divergence(p, p, 3) == pytest.approx(0, abs=1e-15)


def test_poisson_binomial_by_counting_coins() -> None:
    pmf = privacy.poisson_binomial_pmf(np.array([0.3, -2.0]), theta=0.2, num_trials=4)
    for row, p in zip(pmf, (0.56, 0.3), strict=True):
        np.testing.assert_allclose(row, [math.comb(4, k) * p**k * (1 - p) ** (4 - k) for k in range(5)], atol=1e-12)


def test_composition_adds() -> None:
    one, other = privacy.gaussian(1.0, orders=(2, 4)), privacy.rqm(clip=1.0, extension=1.0, orders=(2, 4))
    np.testing.assert_allclose(privacy.compose(one, other, one).values, 2 * one.values + other.values)
    np.testing.assert_allclose(privacy.repeat(other, 650).values, 650 * other.values)
    np.testing.assert_allclose(
        privacy.gaussian(1.0, neighbors="replace", num_senders=4).values, privacy.gaussian(1.0).values
    )


@pytest.mark.needs("dp_accounting")
@pytest.mark.parametrize("z", [0.6, 1.0, 8.0])
def test_the_gaussian_mechanism_costs_what_dp_accounting_says(z: float) -> None:
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    table = privacy.epsilons(privacy.gaussian(z), 1e-5, num_releases=30)
    for count in (1, 7, 30):
        theirs = RdpAccountant().compose(SelfComposedDpEvent(GaussianDpEvent(z), count))
        epsilon = theirs.get_epsilon(1e-5)
        assert privacy.epsilon(privacy.gaussian(z), 1e-5, num_releases=count) == pytest.approx(epsilon, rel=1e-9)
        assert table[count] == pytest.approx(epsilon, rel=1e-9)
        assert privacy.delta(privacy.gaussian(z), epsilon, num_releases=count) == pytest.approx(1e-5, rel=1e-6)
    assert table[0] == 0
    # The same formula inside a program, the noise traced.
    traced = jax.jit(lambda z, n: traced_epsilon(privacy.gaussian(z), 1e-5, n))(z, jnp.arange(31))
    np.testing.assert_allclose(traced, table, rtol=1e-4)


@pytest.mark.needs("dp_accounting")
def test_samples_cost_what_dp_accounting_says() -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    orders = (2, 5, 32, 200)
    for z, p in ((1.1, 0.01), (0.7, 0.3), (2.0, 1.0)):
        curve = privacy.sampled_gaussian(z, p, orders=orders)
        theirs = RdpAccountant(list(orders)).compose(PoissonSampledDpEvent(p, GaussianDpEvent(z)), 100)
        assert privacy.epsilon(curve, 1e-6, num_releases=100) == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-7)


@pytest.mark.needs("dp_accounting")
def test_the_noise_that_a_budget_allows() -> None:
    z = privacy.noise_multiplier(2.0, 1e-5, num_releases=10)
    assert privacy.epsilon(privacy.gaussian(z), 1e-5, num_releases=10) == pytest.approx(2.0, rel=1e-5)
    assert privacy.epsilon(privacy.gaussian(z), 1e-5, num_releases=10) <= 2.0
    half = privacy.noise_multiplier(2.0, 1e-5, num_releases=10, num_senders=4)
    assert half == pytest.approx(z / 2, rel=1e-5)


CURVE = privacy.gaussian(1.0)
RQM = {"clip": 1.0, "extension": 1.0}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: privacy.epsilon(CURVE, 0.0), "epsilon: delta must be a number in \\(0, 1\\), got 0"),
        (lambda: privacy.epsilon(CURVE, 1.0), "epsilon: delta must be a number in \\(0, 1\\), got 1"),
        (lambda: privacy.delta(CURVE, -1.0), "delta: epsilon must be .*, got -1"),
        (lambda: privacy.noise_multiplier(0.0, 1e-5, num_releases=1), "noise_multiplier: epsilon must be .*, got 0"),
        (
            lambda: privacy.gaussian(1.0, orders=(1.0, 2.0)),
            "gaussian: order must be a number above 1, or infinity, got 1.0",
        ),
        (
            lambda: privacy.divergence([1.0], [1.0], 0.0),
            "divergence: order must be a number above 0, or infinity, got 0.0",
        ),
        (lambda: privacy.gaussian(0.0), "gaussian: noise_multiplier must be .*, got 0"),
        (lambda: privacy.rqm(**RQM, keep_probability=0.0), "rqm: keep_probability must be .*, got 0"),
        (lambda: privacy.rqm(clip=1.0, extension=0.0), "rqm: extension must be .*, got 0"),
        (lambda: privacy.poisson_binomial(theta=0.5), "theta must be .*, got 0.5"),
        (
            lambda: privacy.sampled_gaussian(1.0, 0.5, orders=(1.5,)),
            "sampled_gaussian: orders must be integers above 1",
        ),
        (
            lambda: privacy.compose(CURVE, privacy.gaussian(1.0, orders=(2,))),
            "compose: mechanisms must be of the same orders",
        ),
        (lambda: privacy.repeat(CURVE, -1), "repeat: times must be "),
    ],
)
def test_what_is_out_of_domain_gets_a_line(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
