"""Right calls of channels and delays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from contract.arguments_parts import KEY, Call, just, ring

from dlsim import networks

CHANNELS: dict[str, Call] = {
    "alie_strength": just(num_nodes=10, num_liars=2),
    "byzantine": just(node_ids=(0, 1)),
    "decode": lambda: {"channel": networks.sign(), "bits": np.zeros(34, bool), "like": jnp.ones(2)},
    "ef21": lambda: {"compressor": networks.sign()},
    "encode": lambda: {"channel": networks.loss(0.1), "packet": ring().send(KEY, jnp.ones((4, 2)))[0]},
    "error_feedback": lambda: {"compressor": networks.sign()},
    "fixed_delay": just(rounds=1),
    "fixed_seconds": just(seconds=0.5),
    "gaussian_noise": just(standard_deviation=0.1),
    "geometric_delay": just(mean_rounds=1.5, max_rounds=4),
    "link_delay": just(round_seconds=0.5, max_rounds=4),
    "log_normal_seconds": just(median=0.5, sigma=1.0),
    "loss": just(probability=0.2),
    "low_rank": just(rank=1),
    "quantize": just(bits=4),
    "random_delay": just(probabilities=[0.5, 0.3, 0.2]),
    "random_k": just(fraction=0.5),
    "random_seconds": just(samples=[0.1, 0.4]),
    "random_sparsification": just(probability=0.5),
    "to_server": lambda: {"channel": networks.sign()},
    "top_k": just(fraction=0.5),
    "trace_delay": just(rounds=[0, 1, 2]),
    "trace_seconds": just(seconds=[0.1, 0.4]),
}
