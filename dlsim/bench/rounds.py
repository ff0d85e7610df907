"""Rounds of a few methods, small, whose kernels are counted: a change that makes twice as many of them is seen here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlsim import algorithms, networks, problems
from dlsim.bench.programs import Round, round_of
from dlsim.core import Process, Scenario
from dlsim.learning.learn import learn

NUM_NODES = 32


def _process(
    make: Callable[[Any], Any], channel: Any = None, scenario: Scenario | None = None, timing: Any = None
) -> Process:
    data = problems.synthetic_classification(20 * NUM_NODES, 20, 5, seed=0)
    parts = problems.partition(data, NUM_NODES, problems.iid(), seed=0)
    problem = problems.supervised(problems.mlp(hidden=(16,)), data, parts, batch_size=4)
    network = networks.random_regular(NUM_NODES, degree=4, seed=0)
    network = network if channel is None else network.with_channel(channel)
    return learn(problem, make(problem), network, scenario, timing=timing)


def makers() -> dict[str, Callable[[], Process]]:
    """What makes the process of each round."""
    import optax

    from dlsim import clocks

    sgd = optax.sgd(0.1)
    return {
        "dsgd": lambda: _process(lambda p: algorithms.dsgd(p, sgd)),
        "dsgd, Adam": lambda: _process(lambda p: algorithms.dsgd(p, optax.adam(0.1))),
        "dsgd, top-k, churn": lambda: _process(
            lambda p: algorithms.dsgd(p, sgd), networks.top_k(0.1, error_feedback=True), networks.churn(0.1)
        ),
        "gradient_tracking": lambda: _process(lambda p: algorithms.gradient_tracking(p, sgd)),
        "fedavg": lambda: _process(lambda p: algorithms.fedavg(p, sgd, num_local_steps=2)),
        "ad_psgd": lambda: _process(lambda p: algorithms.ad_psgd(p, sgd), timing=clocks.timing(window=0.1)),
    }


NAMES = ("dsgd", "dsgd, Adam", "dsgd, top-k, churn", "gradient_tracking", "fedavg", "ad_psgd")


def counted(name: str) -> Round:
    """The round of this name, an MLP 20-16-5 at each of 32 nodes, as XLA makes it for this device."""
    return round_of(makers()[name]())
