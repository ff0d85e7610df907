"""The rows of the contract table whose nodes choose in the step whom they speak to."""

from __future__ import annotations

import functools

import optax
from contract.rows import Case, Reduction

from dlsim import algorithms, networks


@functools.cache
def _tape() -> networks.SamplingTape:
    """Eight nodes, of which one crashes; two aggregators."""
    leaving = networks.turnover(8, random_crashes=(1, 3, 4))
    return networks.sampling_tape(
        8, 130, sample_size=4, num_aggregators=2, success_fraction=0.75, turnover=leaving, seed=1
    )


CHOSEN_CASES = (
    Case(
        "modest",
        lambda p, rate: algorithms.modest(p, optax.sgd(rate), _tape(), num_local_steps=2),
        num_steps=120,
        beside=lambda num: float(256 * _tape().small[:num].sum() + 128 * 8 * _tape().models[:num].sum()),
        reduces_to=(
            Reduction(
                "with everyone in the sample and one local step it is mini-batch SGD",
                lambda p, rate: algorithms.modest(
                    p,
                    optax.sgd(rate),
                    networks.sampling_tape(p.num_nodes, 20, sample_size=p.num_nodes, num_aggregators=2),
                    num_local_steps=1,
                ),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
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
    Case(
        "shatter",
        lambda p, rate: algorithms.shatter(p, optax.sgd(rate), num_virtual_nodes=3, degree=2),
        reduces_to=(
            Reduction(
                "with every virtual node sending to all others it is mini-batch SGD",
                lambda p, rate: algorithms.shatter(p, optax.sgd(rate), num_virtual_nodes=2, degree=2 * p.num_nodes - 1),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
)
