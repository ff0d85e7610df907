"""What a mechanism costs in privacy: its Renyi divergence by order, which adds up over releases, and (epsilon, delta)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array

MOST_RELEASES = 10_000_000
ORDERS = (*(1 + k / 10 for k in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)  # those of dp-accounting


class Renyi(NamedTuple):
    """The Renyi divergence between a mechanism's outputs for any two neighbouring inputs, by order."""

    orders: Any  # [A] above 1
    values: Any  # [A] may be traced


def divergence(p: Any, q: Any, order: float) -> np.ndarray:
    """D_alpha(P || Q) = ln(sum_z P(z)^alpha Q(z)^(1 - alpha)) / (alpha - 1) of distributions `[..., m]`, `[...]`.

    In logarithms and float64.  Order 1 is the Kullback-Leibler divergence, infinity the largest log ratio; infinite where
    P is possible and Q is not.

    Args:
      p, q: probabilities, non-negative; their last axes have the same m.
      order: alpha > 0.
    Source: van Erven and Harremoes, Renyi divergence and Kullback-Leibler divergence, IEEE Trans. Inf. Theory 2014.
    """
    order = _order("divergence", order, 0.0)
    p, q = (checks.array("divergence", name, x).astype(np.float64) for name, x in (("p", p), ("q", q)))
    for name, x in (("p", p), ("q", q)):
        if x.ndim == 0 or x.shape[-1:] != p.shape[-1:] or not (x >= 0).all():
            rule = "probabilities of the same values [..., m], none negative"
            checks.fail("divergence", name, rule, f"shape {list(x.shape)}, least {x.min() if x.size else 'none'}")
    with np.errstate(divide="ignore"):
        return log_divergence(np.log(p), np.log(q), order)


def log_divergence(log_p: np.ndarray, log_q: np.ndarray, order: float) -> np.ndarray:
    """`divergence` of distributions given by their logarithms, which hold what a float64 probability cannot."""
    with np.errstate(invalid="ignore"):
        is_possible = log_p > -np.inf  # what cannot come says nothing
        ratio = np.where(is_possible, log_p - log_q, -np.inf)
        if math.isinf(order):
            return np.max(ratio, axis=-1)
        if order == 1:
            return np.sum(np.where(is_possible, np.exp(log_p) * ratio, 0), axis=-1)
        terms = np.where(is_possible, order * log_p + (1 - order) * log_q, -np.inf)
    top = np.max(terms, axis=-1)
    safe = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore", over="ignore"):
        total = safe + np.log(np.sum(np.exp(terms - safe[..., None]), axis=-1))
    return np.where(np.isposinf(top), np.inf, total) / (order - 1)


def compose(*mechanisms: Renyi) -> Renyi:
    """Several mechanisms, each used once on the same data: their divergences add up, order by order.

    Source: Mironov, Renyi differential privacy, CSF 2017, proposition 1.
    """
    if not mechanisms:
        checks.fail("compose", "mechanisms", "at least one", "none")
    for one in mechanisms:
        _check_curve("compose", one, "mechanisms")
        if not np.array_equal(one.orders, mechanisms[0].orders):
            checks.fail("compose", "mechanisms", "of the same orders", "others", "Give all the same orders=.")
    return Renyi(mechanisms[0].orders, sum(one.values for one in mechanisms))


def repeat(mechanism: Renyi, times: Any) -> Renyi:
    """One mechanism used `times` >= 0 times (over rounds, over the numbers of a message), may be traced."""
    _check_curve("repeat", mechanism)
    checks.number("repeat", "times", times, 0)
    return Renyi(mechanism.orders, mechanism.values * times)


def epsilon(mechanism: Renyi, delta: float, *, num_releases: int = 1) -> float:
    """The least epsilon for which the mechanism, used so often, is (epsilon, delta)-differentially private; by dp-accounting.

    Args:
      mechanism: divergences of one release.
      delta: in (0, 1), the probability by which more may be told; below 1 / the number of people is usual.
      num_releases: how often it is used; 0 gives 0.
    Source: Canonne, Kamath and Steinke, The discrete Gaussian for differential privacy, NeurIPS 2020, proposition 12; needs
      the extra `privacy`.
    """
    _check_curve("epsilon", mechanism)
    return float(
        _epsilons("epsilon", mechanism, delta, [checks.integer("epsilon", "num_releases", num_releases, 0)])[0]
    )


def epsilons(mechanism: Renyi, delta: float, *, num_releases: int) -> np.ndarray:
    """`epsilon` after 0, 1, .., `num_releases` releases, `[num_releases + 1]`: a table that `spent` takes."""
    _check_curve("epsilons", mechanism)
    num_releases = checks.integer("epsilons", "num_releases", num_releases, 0, MOST_RELEASES)
    return _epsilons("epsilons", mechanism, delta, range(num_releases + 1))


def delta(mechanism: Renyi, epsilon: float, *, num_releases: int = 1) -> float:
    """The least delta for which the mechanism, used so often, is (epsilon, delta)-differentially private; by dp-accounting.

    Args:
      mechanism: divergences of one release.
      epsilon: >= 0.
      num_releases: how often it is used.
    """
    _check_curve("delta", mechanism)
    checks.known("delta", "epsilon", epsilon, "known on the host")
    checks.number("delta", "epsilon", epsilon, 0.0)
    num_releases = checks.integer("delta", "num_releases", num_releases, 0)
    orders, values = _host("delta", mechanism)
    return (
        0.0 if num_releases == 0 else float(_package("delta").compute_delta(orders, num_releases * values, epsilon)[0])
    )


def _epsilons(where: str, mechanism: Renyi, delta: float, counts: Any) -> np.ndarray:
    check_delta(where, delta)
    checks.known(where, "delta", delta, "known on the host")
    orders, values = _host(where, mechanism)
    package = _package(where)
    return np.array([package.compute_epsilon(orders, n * values, delta)[0] if n else 0.0 for n in counts])


def traced_epsilon(mechanism: Renyi, delta: Any, count: Array) -> Array:
    """`epsilon` of `count [...]` releases inside a program, by the formula that dp-accounting has:

    min_alpha  n D_alpha + ln(1 - 1/alpha) - ln(alpha delta) / (alpha - 1),   0 where n D_alpha < -ln(1 - delta^2)
    """
    orders = jnp.asarray(mechanism.orders, float)
    spent = jnp.asarray(count, float)[..., None] * jnp.asarray(mechanism.values, float)
    turned = spent + jnp.log1p(-1 / orders) - jnp.log(delta * orders) / (orders - 1)
    turned = jnp.where(orders > 1.01, turned, jnp.inf)  # where rounding would tell
    turned = jnp.where(delta**2 + jnp.expm1(-spent) > 0, 0, turned)
    return jnp.where(jnp.asarray(count) > 0, jnp.maximum(jnp.min(turned, axis=-1), 0), 0)


def check_delta(where: str, delta: Any) -> None:
    """delta in (0, 1), or ValueError."""
    checks.number(where, "delta", delta, 0.0, 1.0, open_minimum=True, open_maximum=True)


def check_orders(where: str, orders: Any) -> np.ndarray:
    """Orders above 1, float64 `[A]`, infinity allowed; or ValueError."""
    checks.known(where, "orders", list(orders) if isinstance(orders, tuple) else orders, "known while tracing")
    is_row = isinstance(orders, tuple | list) or (isinstance(orders, np.ndarray) and orders.ndim == 1)
    if not is_row or len(orders) == 0:
        checks.fail(where, "orders", "a sequence of numbers above 1", checks.describe(orders), "E.g. (2, 8, 32).")
    return np.array([_order(where, one, 1.0) for one in orders])


def _order(where: str, order: Any, minimum: float) -> float:
    value = checks.real(order)
    if value is None or isinstance(order, bool) or not value > minimum:
        checks.fail(where, "order", f"a number above {minimum:g}, or infinity", checks.describe(order))
    return float(value)


def _check_curve(where: str, mechanism: Any, argument: str = "mechanism") -> None:
    checks.instance(where, argument, mechanism, Renyi, "Make one: dlsim.privacy.gaussian(1.0).")


def _host(where: str, mechanism: Renyi) -> tuple[np.ndarray, np.ndarray]:
    fix = "Use dlsim.privacy.spent, which reckons inside a program."
    checks.known(where, "mechanism", mechanism.values, "known on the host", fix)
    return np.asarray(mechanism.orders, float), np.asarray(mechanism.values, float)


def _package(where: str) -> Any:
    return checks.package(where, "dp_accounting.rdp.rdp_privacy_accountant", "privacy")
