"""Right calls of what collectives are made of."""

from __future__ import annotations

import numpy as np
from contract.arguments_parts import Call, just, ring

from dlsim import networks

COLLECTIVES: dict[str, Call] = {
    "elect": just(hashes=np.zeros(4, np.uint32), revisions=np.zeros(4, int), expected=0),
    "pipes": just(bandwidth=np.ones((4, 4)), latency=0.1, window=8.0),
    "ring_order": just(bandwidth=np.ones((4, 4))),
    "state_hash": just(tree=np.ones((4, 3), np.float32)),
    "synchronize": lambda: {
        "network": ring(),
        "tree": np.ones((4, 3), np.float32),
        "revisions": np.zeros(4, int),
        "expected": 0,
    },
    "transfer_seconds": lambda: {"pipes": networks.pipes(np.ones((4, 4))), "bits": 8.0},
}
