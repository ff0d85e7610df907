"""What matches prove: tails of the binomial, claims of several, how many bits a layer can hold."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dlsim import checks


class OwnershipTest(NamedTuple):
    """A paired one-sided t-test of a suspect model."""

    mean: float  # of the gain by the stamp, less the margin
    statistic: float
    p_value: float
    is_stolen: bool


def log10_p_value(matches: int, num: int, *, chance: float = 0.5) -> float:
    """log10 P[Bin(num, chance) >= matches], on the host in float64: n of n bits are n log10(1/2), however many.

    Args:
      matches: bits or triggers that were right, 0 to num.
      num: of how many.
      chance: of a match without a watermark: 1/2 for bits, 1/C for labels; in (0, 1).
    """
    where = "log10_p_value"
    num = checks.integer(where, "num", num, 1)
    matches = checks.integer(where, "matches", matches, 0, num)
    checks.known(where, "chance", chance)
    checks.number(where, "chance", chance, 0.0, 1.0, open_minimum=True, open_maximum=True)
    if matches == 0:
        return 0.0
    from scipy.special import gammaln, logsumexp

    k = np.arange(matches, num + 1)
    ways = gammaln(num + 1) - gammaln(k + 1) - gammaln(num - k + 1)
    terms = ways + k * math.log(chance) + (num - k) * math.log1p(-chance)
    return min(float(logsumexp(terms)) / math.log(10), 0.0)


def proves_ownership(
    matches: int, num: int, *, chance: float = 0.5, num_claimants: int = 1, level: float = 1e-3
) -> bool:
    """Whether p < level / num_claimants (Bonferroni): at most that share of all claims are false alarms.

    Args:
      matches, num, chance: as in `log10_p_value`.
      num_claimants: who all claim the model.
      level: rate of false alarms, in (0, 1).
    """
    where = "proves_ownership"
    claimants = checks.integer(where, "num_claimants", num_claimants, 1)
    checks.known(where, "level", level)
    checks.number(where, "level", level, 0.0, 1.0, open_minimum=True, open_maximum=True)
    return log10_p_value(matches, num, chance=chance) < math.log10(level / claimants)


def joint_capacity(num_bits: int, dimension: int) -> float:
    """Probability that some vector of `dimension` numbers has all `num_bits` signs that were drawn at random.

        2^(1-n) sum_{k<d} C(n-1, k)

    It is 1 up to n = d and one half at n = 2d; what gradient descent reaches is less.  Source: Cover, Geometrical and
    statistical properties of systems of linear inequalities, IEEE Transactions on Electronic Computers 1965.
    """
    where = "joint_capacity"
    n = checks.integer(where, "num_bits", num_bits, 1, 100_000)
    d = checks.integer(where, "dimension", dimension, 1)
    if n <= d:
        return 1.0
    from scipy.special import gammaln, logsumexp

    k = np.arange(d)
    log_ways = gammaln(n) - gammaln(k + 1) - gammaln(n - k)
    return min(float(np.exp(logsumexp(log_ways) + (1 - n) * math.log(2))), 1.0)


@checks.typed
def ownership_test(before: np.ndarray, after: np.ndarray, *, margin: float = 0.2, level: float = 0.01) -> OwnershipTest:
    """Was a suspect trained on watermarked data?  Paired one-sided t-test of p(y_t | stamped x) - p(y_t | x) > margin.

    Args:
      before, after: the suspect's probabilities of the target class on m inputs of other classes, without and with the
        stamp, `[m]` each, m >= 2, in [0, 1].
      margin: tau, in [-1, 1].
      level: stolen if the p-value is below it; in (0, 1).
    Source: after Li et al., Black-box dataset ownership verification via backdoor watermarking, IEEE TIFS 2023.
    """
    where = "ownership_test"
    pair = []
    for name, value in (("before", before), ("after", after)):
        checks.known(where, name, value)
        pair.append(np.asarray(checks.array(where, name, value, (None,), 0.0, 1.0), np.float64))
    if len(pair[0]) < 2 or len(pair[0]) != len(pair[1]):
        rule = "two or more for the same inputs"
        checks.fail(where, "before and after", rule, f"{len(pair[0])} and {len(pair[1])}")
    for name, asked, low in (("margin", margin, -1.0), ("level", level, 0.0)):
        checks.known(where, name, asked)
        checks.number(where, name, asked, low, 1.0, open_minimum=True, open_maximum=True)
    from scipy.stats import t

    gain = pair[1] - pair[0] - margin
    mean, spread = float(gain.mean()), float(gain.std(ddof=1))
    if spread <= 1e-12:  # all alike: no doubt either way
        statistic = math.copysign(math.inf, mean) if mean else 0.0
    else:
        statistic = mean / (spread / math.sqrt(len(gain)))
    p_value = float(t.sf(statistic, len(gain) - 1))
    return OwnershipTest(mean, statistic, p_value, p_value < level)
