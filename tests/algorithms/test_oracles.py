"""The methods that are not exact against their oracles: node by node, from the papers, with 64-bit numbers.

The exact methods meet theirs in a file each.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import optax
import pytest
import six_nodes
from oracles import federated
from oracles.choco_sgd import choco_sgd, keep_largest
from oracles.dsgd import dsgd
from oracles.quasi_global_momentum import quasi_global_momentum
from oracles.relay_sgd import relay_sgd
from oracles.stochastic_gradient_push import stochastic_gradient_push
from six_nodes import EVERYONE, NUM_NODES, RATE, ROLL_CALL

from dlsim import algorithms, networks
from dlsim.core import Algorithm

ARROWS = ((0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 5), (5, 0), (0, 4))  # (from, to), strongly connected, uneven
BRANCHES = ((0, 1), (0, 2), (2, 3), (2, 4), (4, 5))  # a tree with degrees 2, 1, 3, 1, 2, 1
SIZES = np.array([3, 1, 4, 1, 5, 9])
COHORTS = np.array([[5, 0, 2], [1, 3, 4], [4, 0, 3], [5, 3, 0], [2, 5, 1], [3, 1, 2]])  # in no order

roll_calls = pytest.mark.parametrize("present", [EVERYONE[:6], ROLL_CALL], ids=["everyone", "roll_call"])


@pytest.fixture(autouse=True)
def wide() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def agree(measured: np.ndarray, expected: np.ndarray) -> None:
    assert measured.dtype == np.float64
    six_nodes.agree(measured, expected, rtol=1e-9, atol=1e-11)


@roll_calls
@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
@pytest.mark.parametrize("num_local_steps", [1, 3])
def test_dsgd(order: str, num_local_steps: int, present: np.ndarray) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.dsgd(problem, optax.sgd(RATE), order=order, num_local_steps=num_local_steps)
    gradient, start = six_nodes.gradients(problem), six_nodes.start()
    expected = dsgd(gradient, start, six_nodes.matrix(), RATE, order, present, num_local_steps)
    agree(six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), present)), expected)


@roll_calls
@pytest.mark.parametrize("weights", ["column_stochastic", "metropolis_hastings", "exponential"])
def test_stochastic_gradient_push(weights: str, present: np.ndarray) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.stochastic_gradient_push(problem, optax.sgd(RATE))
    if weights == "column_stochastic":
        network = networks.connect(networks.graph(NUM_NODES, *np.array(ARROWS).T, is_directed=True), weights)
        matrix = np.zeros((NUM_NODES, NUM_NODES))
        for j in range(NUM_NODES):
            takers = [j, *(b for a, b in ARROWS if a == j)]
            for i in takers:
                matrix[i, j] = 1 / len(takers)
    elif weights == "exponential":  # doubly stochastic, but one-way: absences unbalance rows and columns differently
        network, matrix = networks.exponential(NUM_NODES), np.zeros((NUM_NODES, NUM_NODES))
        for j in range(NUM_NODES):
            for hop in (0, 1, 2, 4):
                matrix[(j + hop) % NUM_NODES, j] = 1 / 4
    else:
        network, matrix = six_nodes.network(weights), six_nodes.matrix(weights)
    states = six_nodes.play(algorithm, network, present)
    models = np.stack([algorithm.params(state) for state, _ in states])
    masses = np.stack([state.push_weight for state, _ in states])
    expected = stochastic_gradient_push(six_nodes.gradients(problem), six_nodes.start(), matrix, RATE, present)
    agree(models, expected[0])
    np.testing.assert_allclose(masses, expected[1], rtol=1e-12)
    somebody_was_away = not present.all()
    uneven = weights == "column_stochastic" or (weights == "exponential" and somebody_was_away)
    assert (np.abs(masses - 1).max() > 0.1) == uneven


@roll_calls
@pytest.mark.parametrize("gamma", [1.0, 0.4])
@pytest.mark.parametrize("kept", [1, 2, six_nodes.DIMENSION])
def test_choco_sgd(kept: int, gamma: float, present: np.ndarray) -> None:
    problem, network = six_nodes.problem(), six_nodes.network()
    algorithm = algorithms.choco_sgd(problem, optax.sgd(RATE), consensus_step_size=gamma)
    if kept < six_nodes.DIMENSION:
        network = network.with_channel(networks.top_k(kept))
    gradient, start = six_nodes.gradients(problem), six_nodes.start()
    expected = choco_sgd(gradient, start, six_nodes.matrix(), RATE, gamma, keep_largest(kept), present)
    agree(six_nodes.models(six_nodes.play(algorithm, network, present)), expected)


@roll_calls
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("smoothing", [None, 0.3])
def test_quasi_global_momentum(smoothing: float | None, nesterov: bool, present: np.ndarray) -> None:
    problem, beta = six_nodes.problem(), 0.6
    options = {"momentum": beta, "smoothing": smoothing, "nesterov": nesterov}
    algorithm = algorithms.quasi_global_momentum(problem, RATE, **options)
    mu = beta if smoothing is None else smoothing
    gradient, start = six_nodes.gradients(problem), six_nodes.start()
    expected = quasi_global_momentum(gradient, start, six_nodes.matrix(), RATE, beta, mu, nesterov, present)
    agree(six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), present)), expected)


@roll_calls
def test_relay_sgd(present: np.ndarray) -> None:
    problem = six_nodes.problem()
    tree = networks.connect(networks.graph(NUM_NODES, *np.array(BRANCHES).T))
    algorithm = algorithms.relay_sgd(problem, optax.sgd(RATE))
    expected = relay_sgd(six_nodes.gradients(problem), six_nodes.start(), BRANCHES, RATE, present)
    agree(six_nodes.models(six_nodes.play(algorithm, tree, present)), expected)


def served(algorithm: Algorithm, present: np.ndarray, cohorts: np.ndarray | None) -> np.ndarray:
    """The server's models, [T + 1, D]."""
    states = six_nodes.play(algorithm, six_nodes.network(), present, cohorts=cohorts)
    assert algorithm.params(states[0][0]).shape == (1, six_nodes.DIMENSION)
    return six_nodes.models(states)


def answering(present: np.ndarray, cohorts: np.ndarray | None) -> list[list[int]]:
    """Who was asked and is there, round by round."""
    asked = [range(NUM_NODES)] * len(present) if cohorts is None else cohorts
    return [[int(i) for i in group if there[i]] for group, there in zip(asked, present, strict=True)]


def empty_round(present: np.ndarray) -> np.ndarray:
    """The roll-call with a round to which nobody came."""
    present = present[: len(COHORTS)].copy()
    present[3] = False
    return present


parties = pytest.mark.parametrize(
    ("present", "cohorts"),
    [(EVERYONE[:6], None), (ROLL_CALL, None), (EVERYONE[:6], COHORTS), (empty_round(ROLL_CALL), COHORTS)],
    ids=["everyone", "roll_call", "cohorts", "cohorts-roll_call-empty_round"],
)


@parties
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("proximal_weight", [None, 0.7])
def test_fedavg_and_fedprox(
    proximal_weight: float | None, weighting: str, present: np.ndarray, cohorts: np.ndarray | None
) -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES)
    sizes = SIZES if weighting == "examples" else np.ones(NUM_NODES)
    if proximal_weight is None:
        algorithm = algorithms.fedavg(problem, optax.sgd(RATE), num_local_steps=3, weighting=weighting)
    else:
        algorithm = algorithms.fedprox(
            problem, optax.sgd(RATE), proximal_weight=proximal_weight, num_local_steps=3, weighting=weighting
        )
    expected = federated.fedavg(
        six_nodes.gradients(problem),
        six_nodes.start()[0],
        RATE,
        3,
        sizes,
        answering(present, cohorts),
        proximal_weight or 0.0,
    )
    agree(served(algorithm, present, cohorts), expected)


@parties
def test_fedadam(present: np.ndarray, cohorts: np.ndarray | None) -> None:
    problem, betas, tau = six_nodes.problem(), (0.8, 0.95), 1e-3
    server = optax.adam(0.1, *betas, eps=tau)
    algorithm = algorithms.fedavg(
        problem, optax.sgd(RATE), server_optimizer=server, num_local_steps=2, weighting="uniform"
    )
    gradient, start = six_nodes.gradients(problem), six_nodes.start()[0]
    expected = federated.fedadam(gradient, start, RATE, 2, 0.1, betas, tau, answering(present, cohorts))
    agree(served(algorithm, present, cohorts), expected)


@parties
@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize(("num_local_steps", "server_rate"), [(1, 1.0), (3, 0.6)])
def test_scaffold(
    num_local_steps: int, server_rate: float, option: str, present: np.ndarray, cohorts: np.ndarray | None
) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.scaffold(
        problem, RATE, server_learning_rate=server_rate, num_local_steps=num_local_steps, option=option
    )
    gradient, start = six_nodes.gradients(problem), six_nodes.start()[0]
    there = answering(present, cohorts)
    expected = federated.scaffold(gradient, start, NUM_NODES, RATE, server_rate, num_local_steps, there, option)
    agree(served(algorithm, present, cohorts), expected)


@roll_calls
def test_isolated_training(present: np.ndarray) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.isolated_training(problem, optax.sgd(RATE), num_local_steps=2)
    gradient, start = six_nodes.gradients(problem), six_nodes.start()
    expected = dsgd(gradient, start, np.eye(NUM_NODES), RATE, "adapt_then_combine", present, 2)
    agree(six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), present)), expected)


@pytest.mark.parametrize("present", [EVERYONE[:6], empty_round(ROLL_CALL)], ids=["everyone", "roll_call-empty_round"])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_centralized_sgd(weighting: str, present: np.ndarray) -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES)
    algorithm = algorithms.centralized_sgd(problem, optax.sgd(RATE), weighting=weighting)
    sizes = SIZES if weighting == "examples" else np.ones(NUM_NODES)
    gradient, start = six_nodes.gradients(problem), six_nodes.start()[0]
    expected = federated.fedavg(gradient, start, RATE, 1, sizes, answering(present, None))
    agree(served(algorithm, present, None), expected)
