"""ADOM+, MSDA and the continuized method: their oracles, their optimum, what they refuse."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import six_nodes as six
from oracles import accelerated as oracles

import dlsim
from dlsim import algorithms, clocks, keys, networks
from dlsim.algorithms.edge_rates import agreement
from dlsim.core import Algorithm

PROBLEM, NETWORK = six.problem(), six.network()
LAZY = six.network("lazy_metropolis_hastings")
CHI, LAZY_CHI = (1 / networks.spectral_gap(network) for network in (NETWORK, LAZY))
MU, SMOOTHNESS, ROUNDS, SECONDS = 0.25, 1.0, 8, 10
OFTEN = clocks.timing(None, clocks.poisson(2.0))
SUCH = "must be at least strong_convexity"


def models(algorithm: Algorithm, network: networks.Network = NETWORK) -> np.ndarray:
    return six.models(six.play(algorithm, network, six.EVERYONE[:ROUNDS]))


@pytest.mark.parametrize("num_gossip_steps", [1, 3])
def test_adom_plus(num_gossip_steps: int) -> None:
    algorithm = algorithms.adom_plus(PROBLEM, CHI, MU, SMOOTHNESS, num_gossip_steps=num_gossip_steps)
    matrix = np.linalg.matrix_power(six.matrix(), num_gossip_steps)
    chi = 1 / (1 - (1 - 1 / CHI) ** num_gossip_steps)
    expected = oracles.adom_plus(six.gradients(PROBLEM), six.start(), matrix, chi, MU, SMOOTHNESS, ROUNDS)
    six.agree(models(algorithm), expected)


def test_msda() -> None:
    curvature, linear = six.affine(PROBLEM)
    matrix = (np.eye(six.NUM_NODES) + six.matrix()) / 2
    algorithm = algorithms.msda(PROBLEM, LAZY_CHI, MU, SMOOTHNESS)
    expected = oracles.msda(curvature, linear, matrix, MU, SMOOTHNESS, ROUNDS)
    six.agree(models(algorithm, LAZY), expected)


def test_continuized() -> None:
    curvature, linear = six.affine(PROBLEM)
    method = algorithms.continuized(PROBLEM)
    process = dlsim.learn(PROBLEM, method, NETWORK)
    run = dlsim.simulate(process, seed=4, num_steps=SECONDS, record=dlsim.Record(every=SECONDS), progress=False)
    rates = np.full(6, 0.5)  # six links, three meetings a second
    tape = clocks.make_tape(NETWORK, None, clocks.poisson(rates), keys.stream(jax.random.key(4), "tape"), SECONDS)
    chi = agreement("test", NETWORK, rates)
    expected = oracles.continuized(curvature, linear, tape, MU, SMOOTHNESS, chi, SECONDS)
    last = method.flow(run.state.nodes, run.state.idle)
    np.testing.assert_allclose(np.stack([last.dual, last.momentum]), expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(expected.sum(axis=1), 0, atol=1e-10)
    assert float(run.results.gradient_evaluations[-1]) == float(run.results.messages_sent[-1]) == 2 * len(tape)
    assert np.abs(expected[0] - expected[1]).max() > 0.01


@pytest.mark.parametrize(
    ("make", "network", "rounds"),
    [
        (lambda: algorithms.adom_plus(PROBLEM, CHI), NETWORK, 8000),
        (lambda: algorithms.adom_plus(PROBLEM, CHI, num_gossip_steps=4), NETWORK, 4000),
        (lambda: algorithms.msda(PROBLEM, LAZY_CHI), LAZY, 60),
        (lambda: algorithms.continuized(PROBLEM), NETWORK, 300),
        (lambda: algorithms.dadao(PROBLEM), NETWORK, 150),
    ],
    ids=["adom_plus", "multi_consensus", "msda", "continuized", "dadao"],
)
def test_all_reach_the_optimum(make: Any, network: Any, rounds: int) -> None:
    process = dlsim.learn(PROBLEM, make(), network)
    run = dlsim.simulate(process, seed=0, num_steps=rounds, record=dlsim.Record(every=rounds), progress=False)
    assert float(run.results.distance[-1]) < 1e-6 * float(run.results.distance[0])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: algorithms.adom_plus(PROBLEM, CHI, 2.0, 1.0), f"adom_plus: smoothness {SUCH}, 2, got 1"),
        (lambda: algorithms.msda(PROBLEM, CHI, 2.0, 1.0), f"msda: smoothness {SUCH}, 2, got 1"),
        (lambda: algorithms.continuized(PROBLEM, 2.0, 1.0), f"continuized: smoothness {SUCH}, 2, got 1"),
        (lambda: algorithms.adom_plus(PROBLEM, CHI, -1.0), r"adom_plus: strong_convexity must be a number in \(0"),
        (lambda: algorithms.adom_plus(PROBLEM, 0.5), r"adom_plus: chi must be a number in \[1, inf\), got 0.5"),
        (lambda: algorithms.msda(PROBLEM, 0.5), r"msda: chi must be a number in \[1, inf\), got 0.5"),
        (lambda: algorithms.adom_plus(PROBLEM, CHI, num_gossip_steps=0), "adom_plus: num_gossip_steps must be an integer"),
        (lambda: algorithms.msda(PROBLEM._replace(conjugate=None), CHI), "msda: problem must be one with a closed gradient"),
        (
            lambda: dlsim.learn(PROBLEM, algorithms.continuized(PROBLEM), NETWORK, timing=OFTEN),
            "continuized: timing.communication must be of its 3 meetings a second, got 12",
        ),
    ],
)  # fmt: skip
def test_refusals(call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        call()
