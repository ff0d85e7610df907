"""The rows of the contract table whose nodes choose in the step whom they speak to."""

from __future__ import annotations

import optax
from contract.rows import Case, Reduction

from dlsim import algorithms, networks

CHOSEN_CASES = (
    Case(
        "teleportation",
        lambda p, rate: algorithms.teleportation(p, optax.sgd(rate), networks.ring(4), num_local_steps=2),
        num_steps=120,
        reduces_to=(
            Reduction(
                "with everyone active on a complete graph it is mini-batch SGD",
                lambda p, rate: algorithms.teleportation(p, optax.sgd(rate), networks.complete(p.num_nodes)),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
)
