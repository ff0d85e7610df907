"""What the private channels tell: distributions of what they send, and their Renyi divergences, reckoned exactly.

In NumPy and float64 on the host; nothing is drawn.  `orders` are those at which the divergence is reckoned, above 1, infinity
allowed.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.levels import MOST_LEVELS
from dlsim.channels.rqm import MOST_TRIALS
from dlsim.privacy.renyi import ORDERS, Renyi, check_orders, log_divergence

NEIGHBORS = {"add_or_remove": 1.0, "replace": 2.0}  # how far a clipped message can move, in clips
MOST_SENDERS = 1000  # whose sum is reckoned in seconds


def gaussian(
    noise_multiplier: Any, *, neighbors: str = "add_or_remove", num_senders: int = 1, orders: Any = ORDERS
) -> Renyi:
    """One release of `dp_gaussian`: D_alpha = alpha k^2 / (2 n z^2).

    Args:
      noise_multiplier: z > 0, as the channel's; may be traced.
      neighbors: `"add_or_remove"` (k = 1: a message is there or zero; dp-accounting's figures) or `"replace"` (k = 2: it is
        any other).
      num_senders: n whose noises add up where their sum is all that is seen (`secure_aggregation`); 1 where each message is.
      orders: alpha.
    Source: Mironov, Renyi differential privacy, CSF 2017, corollary 3.
    """
    checks.number("gaussian", "noise_multiplier", noise_multiplier, 0.0, open_minimum=True)
    checks.one_of("gaussian", "neighbors", neighbors, tuple(NEIGHBORS))
    num_senders = checks.integer("gaussian", "num_senders", num_senders, 1)
    alpha = check_orders("gaussian", orders)
    moved = NEIGHBORS[neighbors] ** 2 / (2 * num_senders)
    if checks.is_concrete(noise_multiplier):
        return Renyi(alpha, alpha * moved / float(noise_multiplier) ** 2)
    return Renyi(alpha, jnp.asarray(alpha) * moved / jnp.square(noise_multiplier))


def sampled_gaussian(noise_multiplier: float, sampling_probability: float, *, orders: Any = range(2, 257)) -> Renyi:
    """One release of a Gaussian mechanism on a sample that each takes part in with probability p, others not knowing who.

        D_alpha = ln( sum_k C(alpha, k) (1 - p)^(alpha - k) p^k exp(k (k - 1) / (2 z^2)) ) / (alpha - 1)

    Sums of clipped contributions whose neighbours have one more or one less.  For DP-SGD (`dp_sgd`), whose batches have a
    fixed size, this is the usual approximation, not a guarantee.

    Args:
      noise_multiplier: z > 0: the standard deviation of the sum's noise over the clip.
      sampling_probability: p in (0, 1].
      orders: alpha, integers above 1.
    Source: Mironov, Talwar and Zhang, Renyi differential privacy of the sampled Gaussian mechanism, 2019, section 3.3.
    """
    where = "sampled_gaussian"
    for name, value in (("noise_multiplier", noise_multiplier), ("sampling_probability", sampling_probability)):
        checks.known(where, name, value, "known on the host")
    z = float(checks.number(where, "noise_multiplier", noise_multiplier, 0.0, open_minimum=True))
    p = float(checks.number(where, "sampling_probability", sampling_probability, 0.0, 1.0, open_minimum=True))
    alpha = check_orders(where, tuple(orders) if isinstance(orders, range) else orders)
    if not (np.isfinite(alpha) & (alpha == np.round(alpha))).all():
        checks.fail(where, "orders", "integers above 1", checks.describe(orders))
    if p == 1:
        return gaussian(z, orders=alpha)

    def at(order: float) -> float:
        k = np.arange(int(order) + 1)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(k))))])
        ways = log_factorial[-1] - log_factorial - log_factorial[::-1]
        terms = ways + (order - k) * math.log1p(-p) + k * math.log(p) + k * (k - 1) / (2 * z * z)
        top = terms.max()
        return float((top + math.log(np.exp(terms - top).sum())) / (order - 1))

    return Renyi(alpha, np.maximum([at(order) for order in alpha], 0))


def rqm(
    *,
    clip: float,
    extension: float,
    num_levels: int = 16,
    keep_probability: float = 0.42,
    num_senders: int = 1,
    orders: Any = ORDERS,
) -> Renyi:
    """One number of a message of `dlsim.networks.rqm`, one input replaced by any other in [-c, c]; exact.

    The greatest divergence of two distributions of z, or of the sum of n of them where the sum is all that is seen.  A
    message has D numbers: `repeat(rqm(...), D)`.

    What z is distributed as is linear in x between levels, and the divergence is quasi-convex in the pair of
    distributions, so the maximum over inputs is at ends of those stretches: +-c and the levels between them.  For n > 1 the
    other inputs are taken to be alike, all c, -c or 0: a maximum over these, not proved to be over all.

    Args:
      clip, extension, num_levels, keep_probability: as the channel's.
      num_senders: n; 1 where each message is seen.
      orders: alpha.
    Source: Youn, Hu, Ziani and Abernethy, 2023; quasi-convexity: van Erven and Harremoes, 2014, theorem 13.
    """
    levels = _levels("rqm", clip, extension, num_levels, keep_probability)
    inside = levels[np.abs(levels) < clip]
    inputs = np.unique(np.concatenate([[-clip, clip], inside]))
    arguments: dict[str, Any] = {"extension": extension, "num_levels": num_levels, "keep_probability": keep_probability}
    pmf = rqm_pmf(inputs, clip=clip, **arguments)
    others = rqm_pmf(np.array([clip, 0.0]), clip=clip, **arguments)
    return _worst("rqm", pmf, others, num_senders, orders)


def rqm_pmf(
    x: Any, *, clip: float, extension: float, num_levels: int = 16, keep_probability: float = 0.42
) -> np.ndarray:
    """The distribution of the level that `dlsim.networks.rqm` sends of x `[...]`, `[..., m]`; x is clipped first.

    With B(j) <= x < B(j+1), the kept neighbours are i <= j and k > j with probability lo_i hi_k,

        lo_i = q (1 - q)^(j - i) for i >= 1, lo_0 = (1 - q)^j;   hi_k = q (1 - q)^(k - j - 1) for k <= m - 2, the rest m - 1

    and of these two k is sent with probability (x - B(i)) / (B(k) - B(i)).
    """
    levels = _levels("rqm_pmf", clip, extension, num_levels, keep_probability)
    checks.known("rqm_pmf", "x", x, "known on the host")
    x = np.clip(checks.array("rqm_pmf", "x", x).astype(np.float64), -clip, clip)
    span, q, m = clip + extension, keep_probability, num_levels
    place = np.minimum(np.floor((x + span) / (2 * span / (m - 1))), m - 2).astype(int).reshape(-1)
    pmf = np.zeros((x.size, m))
    for row, (value, j) in enumerate(zip(x.reshape(-1), place, strict=True)):
        low, high = np.arange(j + 1), np.arange(j + 1, m)
        lo = np.where(low == 0, 1.0, q) * (1 - q) ** (j - low)
        hi = np.where(high == m - 1, 1.0, q) * (1 - q) ** (high - j - 1)
        both = lo[:, None] * hi
        up = (value - levels[low][:, None]) / (levels[high] - levels[low][:, None])
        pmf[row, high] = (both * up).sum(axis=0)
        pmf[row, low] = (both * (1 - up)).sum(axis=1)
    return pmf.reshape(*x.shape, m)


def poisson_binomial(*, theta: float, num_trials: int = 15, num_senders: int = 1, orders: Any = ORDERS) -> Renyi:
    """One number of a message of `dlsim.networks.poisson_binomial`, one input replaced by any other in [-c, c]; exact.

    The greatest divergence, or that of the sum of n senders where the sum is all that is seen, over inputs that are c or -c
    and others that are all c, -c or 0 (a maximum over these).  A message has D numbers: `repeat`.

    Args:
      theta, num_trials: as the channel's.
      num_senders: n; 1 where each message is seen.
      orders: alpha.
    Source: Chen, Ozgur and Kairouz, ICML 2022; the divergences are of the distributions themselves, not the paper's bounds.
    """
    pmf = poisson_binomial_pmf(np.array([-1.0, 1.0]), theta=theta, num_trials=num_trials)
    others = poisson_binomial_pmf(np.array([1.0, 0.0]), theta=theta, num_trials=num_trials)
    return _worst("poisson_binomial", pmf, others, num_senders, orders)


def poisson_binomial_pmf(x: Any, *, theta: float, num_trials: int = 15) -> np.ndarray:
    """Binomial(M, 1/2 + theta x) of inputs x `[...]` in clips, clipped to [-1, 1]: `[..., M + 1]`."""
    where = "poisson_binomial_pmf"
    for name, value in (("x", x), ("theta", theta)):
        checks.known(where, name, value, "known on the host")
    checks.number(where, "theta", theta, 0.0, 0.5, open_minimum=True, open_maximum=True)
    checks.integer(where, "num_trials", num_trials, 1, MOST_TRIALS)
    x = checks.array(where, "x", x).astype(np.float64)
    heads = np.arange(num_trials + 1)
    ways = np.array([math.comb(num_trials, int(k)) for k in heads], np.float64)
    chance = (0.5 + theta * np.clip(x, -1, 1))[..., None]
    return ways * chance**heads * (1 - chance) ** (num_trials - heads)


def _levels(where: str, clip: Any, extension: Any, num_levels: Any, keep_probability: Any) -> np.ndarray:
    for name, value in (("clip", clip), ("extension", extension), ("keep_probability", keep_probability)):
        checks.known(where, name, value, "known on the host")
    checks.number(where, "clip", clip, 0.0, open_minimum=True)
    checks.number(where, "extension", extension, 0.0, open_minimum=True)
    checks.integer(where, "num_levels", num_levels, 2, MOST_LEVELS)
    checks.number(where, "keep_probability", keep_probability, 0.0, 1.0, open_minimum=True, open_maximum=True)
    return (clip + extension) * (2 * np.arange(num_levels) / (num_levels - 1) - 1)


def _worst(where: str, pmf: np.ndarray, others: np.ndarray, num_senders: int, orders: Any) -> Renyi:
    """The greatest divergence of two rows of `pmf [X, m]`, each the first of n whose others are alike, by order.

    Rows of `others` stand for c and 0; -c is the mirror image of c.
    """
    num_senders = checks.integer(where, "num_senders", num_senders, 1, MOST_SENDERS)
    alpha = check_orders(where, orders)
    with np.errstate(divide="ignore"):
        own, rest = np.log(pmf), np.log(others)
    sums = own[None]
    if num_senders > 1:
        rest = [_power(row, num_senders - 1) for row in rest]
        sums = np.stack([[_convolve(row, one) for row in own] for one in rest])
    first, second = sums[:, :, None], sums[:, None, :]
    return Renyi(alpha, np.array([float(np.max(log_divergence(first, second, order))) for order in alpha]))


def _convolve(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The distribution of a sum, both and it as logarithms.

    Summed term by term: tails are what is asked for.  They are smaller than a float64 (0.25^600 of 40 senders with 15 coins),
    and a Fourier transform's error is that of the largest entry.
    """
    if len(first) < len(second):
        first, second = second, first
    out = np.full(len(first) + len(second) - 1, -np.inf)
    for place, one in enumerate(second):
        part = out[place : place + len(first)]
        np.logaddexp(part, first + one, out=part)
    return out


def _power(row: np.ndarray, times: int) -> np.ndarray:
    """The distribution of the sum of `times` draws, as logarithms."""
    out = None
    while times:
        if times & 1:
            out = row if out is None else _convolve(out, row)
        times >>= 1
        row = _convolve(row, row) if times else row
    assert out is not None
    return out
