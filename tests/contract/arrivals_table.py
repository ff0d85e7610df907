"""Every server-side asynchronous method, with its schedule and what a plain loop says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
from contract.world import NUM_NODES

from dlsim import algorithms, arrivals
from dlsim.core import ArrivalAlgorithm, Problem

PACE = arrivals.pace(NUM_NODES, np.linspace(0.02, 0.1, NUM_NODES), 0.03)
RANDOM = arrivals.pace(NUM_NODES, np.linspace(0.02, 0.1, NUM_NODES), 0.03, sigma=0.4)
STEPS = 3


class Method(NamedTuple):
    make: Callable[[Problem, Any], ArrivalAlgorithm]  # (problem, client rate)
    oracle: str = "movements"
    keeps: bool = False  # the anarchic server's memory


def _sgd(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate)


COMMON: dict[str, Any] = {"pace": PACE, "num_local_steps": STEPS}
NOISY: dict[str, Any] = {"pace": RANDOM, "num_local_steps": STEPS}

METHODS: dict[str, Method] = {
    "fedasync": Method(lambda p, r: algorithms.fedasync(p, _sgd(r), **NOISY), "interpolation"),
    "fedasync movement": Method(
        lambda p, r: algorithms.fedasync(p, _sgd(r), form="movement", mixing=1.0, debias=True, **COMMON)
    ),
    "fedbuff": Method(lambda p, r: algorithms.fedbuff(p, _sgd(r), buffer_size=3, **NOISY)),
    "fedbuff waiting": Method(
        lambda p, r: algorithms.fedbuff(p, _sgd(r), buffer_size=3, restart="aggregation", debias=True, **COMMON)
    ),
    "fedfix": Method(lambda p, r: algorithms.fedfix(p, _sgd(r), window=0.12, **COMMON)),
    "fedfix infinite": Method(lambda p, r: algorithms.fedfix(p, _sgd(r), window=math.inf, **NOISY)),
    "synchronous_fedavg": Method(lambda p, r: algorithms.synchronous_fedavg(p, _sgd(r), **NOISY)),
    "synchronous_fedavg cohorts": Method(
        lambda p, r: algorithms.synchronous_fedavg(p, _sgd(r), cohort_size=3, **NOISY)
    ),
    "fedcompass": Method(
        lambda p, r: algorithms.fedcompass(
            p, _sgd(r), pace=RANDOM, server_rate=1.0, min_steps=2, max_steps=8, latest_factor=1.1
        )
    ),
    "afa_cd": Method(lambda p, r: algorithms.afa_cd(p, r, buffer_size=3, idle=0.1, **NOISY), "anarchy", False),
    "afa_cs": Method(lambda p, r: algorithms.afa_cs(p, r, buffer_size=3, idle=0.1, **NOISY), "anarchy", True),
    "federated_arrivals": Method(
        lambda p, r: algorithms.federated_arrivals(p, _sgd(r), arrivals.next_arrival(RANDOM, STEPS))
    ),
}
