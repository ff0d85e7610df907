"""The rows of the contract table that are DiLoCo and its kin."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from contract import world
from contract.rows import Case, Invariant, Reduction

from dlsim import algorithms, trees

NESTEROV = optax.sgd(0.7, momentum=0.5, nesterov=True)


def halves(model: Any) -> Any:
    """Every other row of every leaf."""
    return jax.tree.map(lambda leaf: np.arange(leaf.shape[0]) % 2, model)


def _streaming(p: Any, rate: Any, **options: Any) -> Any:
    kinds = {"num_local_steps": 2, "outer_optimizer": NESTEROV, "fragments": halves, **options}
    return algorithms.streaming_diloco(p, optax.sgd(rate, momentum=0.5), **kinds)


DILOCO_CASES = (
    Case(
        "diloco",
        lambda p, rate: algorithms.diloco(
            p, optax.sgd(rate, momentum=0.5), num_local_steps=2, outer_optimizer=NESTEROV
        ),
        reduces_to=(
            Reduction(
                "with one local step of SGD and an outer rate of 1 it is data-parallel SGD",
                lambda p, rate: algorithms.diloco(
                    p, optax.sgd(rate), num_local_steps=1, outer_optimizer=optax.sgd(1.0)
                ),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
            Reduction(
                "with inner SGD, which keeps nothing, it is FedAvg with its outer optimiser at the server",
                lambda p, rate: algorithms.diloco(p, optax.sgd(rate), num_local_steps=3, outer_optimizer=NESTEROV),
                lambda p, rate: algorithms.fedavg(
                    p, optax.sgd(rate), num_local_steps=3, server_optimizer=NESTEROV, weighting="uniform"
                ),
            ),
        ),
    ),
    Case(
        "diloco",
        lambda p, rate: algorithms.diloco(p, optax.sgd(rate), num_local_steps=2, over="gossip"),
        variant="gossip",
        reduces_to=(
            Reduction(
                "on the complete graph gossip is the all-reduce",
                lambda p, rate: algorithms.diloco(p, optax.sgd(rate), num_local_steps=2, over="gossip"),
                lambda p, rate: algorithms.diloco(p, optax.sgd(rate), num_local_steps=2),
                world.complete,
            ),
            Reduction(
                "with an outer rate of 1 and no momentum it is D-SGD with as many local steps",
                lambda p, rate: algorithms.diloco(
                    p, optax.sgd(rate), num_local_steps=2, over="gossip", outer_optimizer=optax.sgd(1.0)
                ),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate), num_local_steps=2),
            ),
        ),
        invariants=(
            Invariant(
                "the mean of the mixed public copies is that of the public copies",
                lambda s, info, net: trees.mean(s.shared.mixed_public),
                lambda s, info, net: trees.mean(s.shared.public),
            ),
        ),
    ),
    Case(
        "async_diloco",
        lambda p, rate: algorithms.async_diloco(p, optax.sgd(rate, momentum=0.5), num_local_steps=2),
    ),
    Case(
        "streaming_diloco",
        _streaming,
        reduces_to=(
            Reduction(
                "with one fragment, applied at once and whole, it is DiLoCo",
                lambda p, rate: algorithms.streaming_diloco(
                    p, optax.sgd(rate), num_local_steps=2, fragments=1, num_overlap_steps=0, outer_optimizer=NESTEROV
                ),
                lambda p, rate: algorithms.diloco(p, optax.sgd(rate), num_local_steps=2, outer_optimizer=NESTEROV),
            ),
            Reduction(
                "on the complete graph gossip is the all-reduce",
                lambda p, rate: _streaming(p, rate, over="gossip"),
                _streaming,
                world.complete,
            ),
        ),
        shared=("is_current",),  # what the others know of who was there
    ),
)
