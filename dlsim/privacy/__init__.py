"""What private mechanisms tell, what they cost over rounds, and DP-SGD.

The channels are in `dlsim.networks`: `dp_gaussian`, `rqm`, `poisson_binomial`, `secure_aggregation`.  A mechanism here is its
Renyi divergence by order (`Renyi`), of one message or one number of it; `compose` and `repeat` add, `epsilon` and `delta`
turn it into what people ask for, and `spent` puts the budget beside what a run measures.
"""

from dlsim.privacy.dp_sgd import dp_sgd
from dlsim.privacy.mechanisms import (
    gaussian,
    poisson_binomial,
    poisson_binomial_pmf,
    rqm,
    rqm_pmf,
    sampled_gaussian,
)
from dlsim.privacy.renyi import ORDERS, Renyi, compose, delta, divergence, epsilon, epsilons, repeat
from dlsim.privacy.spending import noise_multiplier, spent

__all__ = [
    "ORDERS",
    "Renyi",
    "compose",
    "delta",
    "divergence",
    "dp_sgd",
    "epsilon",
    "epsilons",
    "gaussian",
    "noise_multiplier",
    "poisson_binomial",
    "poisson_binomial_pmf",
    "repeat",
    "rqm",
    "rqm_pmf",
    "sampled_gaussian",
    "spent",
]
