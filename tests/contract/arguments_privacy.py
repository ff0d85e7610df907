"""Rows of `arguments_table`: private channels, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from contract.arguments_parts import LATER, examples, just, private_curve, process

PRIVATE_CHANNELS: dict[str, Any] = {
    "clipped_rounding": just(clip=1.0),
    "dp_gaussian": just(clip=1.0, noise_multiplier=1.0),
    "poisson_binomial": just(clip=1.0, theta=0.25),
    "rqm": just(clip=1.0, extension=1.0),
    "secure_aggregation": lambda: {"clip": 1.0, "weights": np.array([1, 2])},
}
PRIVACY: dict[str, Any] = {
    "compose": lambda: {LATER: (private_curve(),)},
    "delta": lambda: {"mechanism": private_curve(), "epsilon": 1.0},
    "divergence": lambda: {"p": np.array([0.5, 0.5]), "q": np.array([0.25, 0.75]), "order": 2.0},
    "dp_sgd": lambda: {"problem": examples(), "clip": 1.0, "noise_multiplier": 1.0},
    "epsilon": lambda: {"mechanism": private_curve(), "delta": 1e-5},
    "epsilons": lambda: {"mechanism": private_curve(), "delta": 1e-5, "num_releases": 2},
    "gaussian": just(noise_multiplier=1.0),
    "noise_multiplier": just(epsilon=1.0, delta=1e-5, num_releases=2),
    "poisson_binomial": just(theta=0.25),
    "poisson_binomial_pmf": lambda: {"x": np.array([0.5]), "theta": 0.25},
    "repeat": lambda: {"mechanism": private_curve(), "times": 2.0},
    "rqm": just(clip=1.0, extension=1.0, orders=(2.0,)),
    "rqm_pmf": lambda: {"x": np.array([0.5]), "clip": 1.0, "extension": 1.0},
    "sampled_gaussian": just(noise_multiplier=1.0, sampling_probability=0.1),
    "spent": lambda: {"process": process(), "mechanism": private_curve(), "delta": 1e-5},
}
