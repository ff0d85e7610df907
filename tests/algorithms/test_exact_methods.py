"""LED, Wang and Elia, LT-ADMM, ATG, DiNNO and mixed orders of tracking: their oracles, their optimum, their limits."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
import six_nodes
from oracles import exact_methods as oracles
from oracles.decentralized_admm import admm
from six_nodes import EVERYONE, LINKS, NUM_NODES, RATE, ROLL_CALL

from dlsim import algorithms, networks
from dlsim.algorithms.gradient_tracking import stable_step
from dlsim.algorithms.led import invariant_dual
from dlsim.algorithms.wang_elia import invariant_integral
from dlsim.core import Algorithm

roll_calls = pytest.mark.parametrize("present", [EVERYONE[:6], ROLL_CALL], ids=["everyone", "roll_call"])
ADMM = {"penalty": 0.7, "relaxation": 0.4}


def measured(algorithm: Algorithm, present: np.ndarray) -> np.ndarray:
    return six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), present))


def arguments() -> tuple[Any, np.ndarray, np.ndarray]:
    return six_nodes.gradients(six_nodes.problem()), six_nodes.start(), six_nodes.matrix()


@roll_calls
def test_led(present: np.ndarray) -> None:
    algorithm = algorithms.led(six_nodes.problem(), 0.1, num_local_steps=3, dual_step_size=0.4)
    gradient, start, matrix = arguments()
    six_nodes.agree(measured(algorithm, present), oracles.led(gradient, start, matrix, 0.1, present, 3, 0.4))


@roll_calls
def test_wang_elia(present: np.ndarray) -> None:
    gradient, start, matrix = arguments()
    expected = oracles.wang_elia(gradient, start, matrix, RATE, present)
    six_nodes.agree(measured(algorithms.wang_elia(six_nodes.problem(), RATE), present), expected)


@roll_calls
def test_lt_admm(present: np.ndarray) -> None:
    algorithm = algorithms.lt_admm(six_nodes.problem(), RATE, num_local_steps=3, consensus_step_size=0.1, **ADMM)
    gradient, start, _ = arguments()
    expected = oracles.lt_admm(gradient, start, LINKS, present, rate=RATE, steps=3, beta=0.1, rho=0.7, alpha=0.4)
    six_nodes.agree(measured(algorithm, present), expected)


@roll_calls
def test_admm_tracking_gradient(present: np.ndarray) -> None:
    algorithm = algorithms.admm_tracking_gradient(six_nodes.problem(), RATE, step_size=0.5, **ADMM)
    gradient, start, _ = arguments()
    expected = oracles.admm_tracking_gradient(
        gradient, start, LINKS, present, delta=RATE, gamma=0.5, rho=0.7, alpha=0.4
    )
    six_nodes.agree(measured(algorithm, present), expected)


@roll_calls
@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_tracking_in_two_orders(order: str, present: np.ndarray) -> None:
    other = {"adapt_then_combine": "combine_then_adapt", "combine_then_adapt": "adapt_then_combine"}[order]
    algorithm = algorithms.gradient_tracking(six_nodes.problem(), optax.sgd(RATE), order=order, tracker_order=other)
    gradient, start, matrix = arguments()
    expected = oracles.tracking(gradient, start, matrix, RATE, present, order, other)
    six_nodes.agree(measured(algorithm, present), expected)


@roll_calls
def test_dinno_takes_the_optimisers_steps_on_the_augmented_lagrangian(present: np.ndarray) -> None:
    """With momentum, whose trace goes on from round to round."""
    penalty, rate, momentum = 0.4, 0.1, 0.5
    problem = six_nodes.problem()
    algorithm = algorithms.decentralized_admm(
        problem, penalty, num_local_steps=3, optimizer=optax.sgd(rate, momentum=momentum)
    )
    gradient, trace = six_nodes.gradients(problem), np.zeros_like(six_nodes.start())

    def solve(i: int, x: np.ndarray, alpha: np.ndarray, midpoints: list[np.ndarray]) -> np.ndarray:
        for _ in range(3):
            pull = 2 * penalty * np.sum([x - m for m in midpoints], axis=0)
            trace[i] = gradient(i, x) + alpha + pull + momentum * trace[i]
            x = x - rate * trace[i]
        return x

    six_nodes.agree(measured(algorithm, present), admm(solve, six_nodes.start(), LINKS, penalty, present))


def simple_gradient_tracking(rate: float, num_rounds: int) -> np.ndarray:
    """y = x - a g(x);  x <- y - y before + W x, with y before = x at first."""
    gradient, x, matrix = arguments()
    history, before = [x], x
    for _ in range(num_rounds):
        y = np.stack([row - rate * gradient(i, row) for i, row in enumerate(x)])
        x, before = y - before + matrix @ x, y
        history.append(x)
    return np.stack(history)


def test_extra_with_theta_one_is_decent_benchs_simple_tracking() -> None:
    algorithm = algorithms.extra(six_nodes.problem(), RATE, theta=1.0)
    six_nodes.agree(measured(algorithm, EVERYONE), simple_gradient_tracking(RATE, len(EVERYONE)))


LONG = np.ones((1500, NUM_NODES), bool)
EXACT = {
    "led": lambda p: algorithms.led(p, 0.05, num_local_steps=4),
    "wang_elia": lambda p: algorithms.wang_elia(p, 0.2),
    "lt_admm": lambda p: algorithms.lt_admm(p, 0.1, consensus_step_size=0.1),
    "admm_tracking_gradient": lambda p: algorithms.admm_tracking_gradient(p, 0.3, step_size=0.3),
    "next": lambda p: algorithms.gradient_tracking(p, optax.sgd(0.2), tracker_order="combine_then_adapt"),
    "dinno": lambda p: algorithms.decentralized_admm(p, 0.4, num_local_steps=4, optimizer=optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_fixed_point_is_the_optimum_whoever_is_away(name: str) -> None:
    problem = six_nodes.problem()
    present = LONG.copy()
    present[:800][np.random.default_rng(0).random((800, NUM_NODES)) < 0.2] = False
    last = measured(EXACT[name](problem), present)[-1]
    np.testing.assert_allclose(last, np.tile(problem.optimum, (NUM_NODES, 1)), atol=2e-4)


@pytest.mark.parametrize("name", ["lt_admm", "admm_tracking_gradient"])
def test_lost_messages_do_not_move_the_fixed_point(name: str) -> None:
    """Of the others a message lost in one direction does, for good."""
    problem = six_nodes.problem()
    network = six_nodes.network().with_channel(networks.loss(0.2))
    last = six_nodes.models(six_nodes.play(EXACT[name](problem), network, LONG))[-1]
    np.testing.assert_allclose(last, np.tile(problem.optimum, (NUM_NODES, 1)), atol=2e-4)


def test_duals_and_integrals_sum_to_zero_whoever_is_away() -> None:
    problem = six_nodes.problem(gradient_noise=0.5)
    made = {
        invariant_dual: algorithms.led(problem, 0.1, num_local_steps=2),
        invariant_integral: algorithms.wang_elia(problem, RATE),
    }
    for invariant, algorithm in made.items():
        for state, _ in six_nodes.play(algorithm, six_nodes.network()):
            np.testing.assert_allclose(invariant(state), 0.0, atol=2e-6)


@pytest.mark.parametrize("least", [-0.6, -1 / 3, 0.0, 0.5])
def test_two_orders_are_stable_below_the_limit_and_not_above(least: float) -> None:
    """The roots of (z - l)^2 + l c (z - 1), l over W's eigenvalues but one."""
    limit = stable_step("adapt_then_combine", least, "combine_then_adapt")
    assert limit == stable_step("combine_then_adapt", least, "adapt_then_combine")

    def radius(step: float) -> float:
        lines = [np.roots([1, -2 * v + v * step, v * v - v * step]) for v in np.linspace(least, 0.999, 41)]
        return max(np.abs(np.concatenate(lines)).max(), abs(1 - step))

    assert radius(0.99 * limit) < 1 < radius(1.01 * limit)


BAD = {
    r"led: dual_step_size must be a number in \(0, 1\], got 2": lambda p: algorithms.led(p, 0.1, dual_step_size=2.0),
    r"led: num_local_steps must be .*got 0": lambda p: algorithms.led(p, 0.1, num_local_steps=0),
    r"wang_elia: learning_rate must be .*got -1": lambda p: algorithms.wang_elia(p, -1.0),
    r"lt_admm: relaxation must be a number in \(0, 1\), got 1": lambda p: algorithms.lt_admm(p, 0.1, relaxation=1.0),
    r"admm_tracking_gradient: penalty must be .*got 0": lambda p: algorithms.admm_tracking_gradient(p, 0.1, penalty=0),
    r"extra: theta must be a number in \(0, 1\], got 0": lambda p: algorithms.extra(p, 0.1, theta=0.0),
    r"gradient_tracking: tracker_order must be one of": lambda p: algorithms.gradient_tracking(
        p, optax.sgd(0.1), tracker_order="atc"
    ),
    r"decentralized_admm: num_local_steps must be an integer >= 1 with an optimizer, got None\. Pass 5": (
        lambda p: algorithms.decentralized_admm(p, 0.4, optimizer=optax.sgd(0.1))
    ),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line(line: str) -> None:
    with pytest.raises(ValueError, match=line):
        BAD[line](six_nodes.problem())


def test_methods_with_variables_at_links_want_links() -> None:
    network = networks.complete(5000)
    assert network.is_implicit
    algorithm = algorithms.lt_admm(six_nodes.problem(), 0.1)
    with pytest.raises(ValueError, match="lt_admm: network must be one that lists its edges, got a large complete"):
        algorithm.init(jax.random.key(0), six_nodes.start(), network)
