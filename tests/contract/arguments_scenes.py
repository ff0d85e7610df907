"""Right calls of scenarios of disasters, moving nodes and batteries."""

from __future__ import annotations

import numpy as np
from contract.arguments_parts import Call, just, ring

from dlsim import networks

SCENES: dict[str, Call] = {
    "batteries": just(capacity=5.0),
    "components": lambda: {"network": ring()},
    "disaster": just(is_hit=np.array([True, False, False, False]), at_step=3),
    "position_trace": just(trace=(np.arange(3.0), np.zeros((3, 4, 2))), radius=0.3, max_degree=3),
    "random_waypoint": just(radius=0.3, max_degree=3),
    "relays": just(node_ids=(0, 2)),
    "reweigh": lambda: {"network": networks.ring(4)},
    "split": just(groups=np.array([0, 0, 1, 1])),
    "victims": lambda: {"network": ring(), "fraction": 0.5},
}
