"""The rows of the contract table that have a server."""

from __future__ import annotations

import optax
from contract.rows import Case, Invariant, Reduction, neighborhood_mean, noisy

from dlsim import aggregators, algorithms, trees

SERVER_CASES = (
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=2),
        reduces_to=(
            Reduction(
                "with one local step and everyone there it is mini-batch SGD",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), weighting="uniform"),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), server_optimizer=optax.adam(rate)),
        variant="adam_at_the_server",
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(
            p, optax.sgd(rate), num_local_steps=2, aggregator=aggregators.trimmed_mean(1)
        ),
        variant="aggregator",
        reduces_to=(
            Reduction(
                "the mean of what the clients sent is their uniform mean",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), aggregator=neighborhood_mean()),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), weighting="uniform"),
            ),
        ),
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=2, clip_norm=2 * rate),
        variant="clip",
        reduces_to=(
            Reduction(
                "with a bound that nobody reaches it is FedAvg",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), clip_norm=1e6),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, noisy(lambda count: 2 * rate / (1 + count)), num_local_steps=2),
        variant="schedule_and_noise",
        reduces_to=(
            Reduction(
                "at a rate that stays it is FedAvg at that rate",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(lambda count: rate)),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedadam",
        lambda p, rate: algorithms.fedadam(p, optax.sgd(rate), rate / 2, num_local_steps=2),
        reduces_to=(
            Reduction(
                "without moments and with tau beyond all movements it is FedAvg",
                lambda p, rate: algorithms.fedadam(p, optax.sgd(rate), 1e4, beta_1=0.0, beta_2=0.0, tau=1e4),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedyogi",
        lambda p, rate: algorithms.fedyogi(p, optax.sgd(rate), rate / 2, num_local_steps=2),
        reduces_to=(
            Reduction(
                "with tau beyond all movements v stays tau^2, and at eta = 2 tau it is FedAvg",
                lambda p, rate: algorithms.fedyogi(p, optax.sgd(rate), 2e4, beta_1=0.0, tau=1e4),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedadagrad",
        lambda p, rate: algorithms.fedadagrad(p, optax.sgd(rate), rate, num_local_steps=2),
        reduces_to=(
            Reduction(
                "with tau beyond all movements v stays tau^2, and at eta = 2 tau it is FedAvg",
                lambda p, rate: algorithms.fedadagrad(p, optax.sgd(rate), 2e4, tau=1e4),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedprox",
        lambda p, rate: algorithms.fedprox(p, optax.sgd(rate), proximal_weight=0.5, num_local_steps=2),
        reduces_to=(
            Reduction(
                "with proximal weight 0 it is FedAvg",
                lambda p, rate: algorithms.fedprox(p, optax.sgd(rate), proximal_weight=0.0, num_local_steps=3),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=3),
            ),
        ),
    ),
    Case(
        "scaffold",
        lambda p, rate: algorithms.scaffold(p, rate, num_local_steps=3),
        invariants=(
            Invariant(
                "the server's control variate is the mean of the clients'",
                lambda s, info, net: s.control_variate,
                lambda s, info, net: trees.mean(s.client_control_variates),
            ),
        ),
        reduces_to=(
            Reduction(
                "with one local step and everyone there it is mini-batch SGD",
                lambda p, rate: algorithms.scaffold(p, rate, num_local_steps=1),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "scaffold",
        lambda p, rate: algorithms.scaffold(p, rate, num_local_steps=3, option="I"),
        variant="option_one",
    ),
    Case(
        "scaffold",
        lambda p, rate: algorithms.scaffold(
            p, lambda count: 2 * rate / (1 + count), num_local_steps=3, weighting="examples"
        ),
        variant="schedule",
        reduces_to=(
            Reduction(
                "at a rate that stays, with as many examples at each, it is SCAFFOLD",
                lambda p, rate: algorithms.scaffold(p, lambda count: rate, weighting="examples"),
                lambda p, rate: algorithms.scaffold(p, rate),
            ),
        ),
    ),
    Case(
        "power_sgd",
        lambda p, rate: algorithms.power_sgd(p, optax.sgd(rate)),
        reduces_to=(
            Reduction(
                "of vectors, which are sent whole, it is mini-batch SGD",
                lambda p, rate: algorithms.power_sgd(p, optax.sgd(rate)),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "power_sgd",
        lambda p, rate: algorithms.power_sgd(p, optax.sgd(rate), momentum=0.5, weighting="examples"),
        variant="momentum",
        reduces_to=(
            Reduction(
                "at momentum 0 a step is twice that without",
                lambda p, rate: algorithms.power_sgd(p, optax.sgd(rate), momentum=0.0),
                lambda p, rate: algorithms.power_sgd(p, optax.sgd(2 * rate)),
            ),
        ),
    ),
)
