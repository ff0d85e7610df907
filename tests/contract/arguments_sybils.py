"""Right calls of what has to do with Sybils."""

from __future__ import annotations

import numpy as np
from contract.arguments_parts import Call, data, examples, ring

from dlsim import aggregators

AGGREGATORS: dict[str, Call] = {
    "by_node": lambda: {"rules": (aggregators.mean(), aggregators.median()), "choice": np.array([0, 1, 1, 0])}
}
NETWORKS: dict[str, Call] = {
    "join_sybils": lambda: {"graph": ring(), "density": 1.0},
    "limit_degrees": lambda: {"graph": ring(), "max_degree": 2},
}
PROBLEMS: dict[str, Call] = {"with_flip_rate": lambda: {"problem": examples(), "dataset": data(), "flip": {0: 1}}}
