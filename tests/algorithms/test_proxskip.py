"""Decentralised ProxSkip against its oracle, its coin, and the communication it saves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import six_nodes
from oracles.proxskip import proxskip as oracle

import dlsim
from dlsim import algorithms
from dlsim.algorithms.proxskip import invariant_control
from dlsim.running import counters

ROLL_CALL = np.concatenate([six_nodes.ROLL_CALL, six_nodes.ROLL_CALL])


def coins_of(states: list[Any]) -> np.ndarray:
    """Whether anybody spoke in rounds 1..T, read off the traffic."""
    sent = [np.sum(counters.to_float(network_state.traffic.messages)) for _, network_state in states]
    return np.diff(sent) > 0


@pytest.mark.parametrize(("probability", "share"), [(0.5, 0.5), (0.4, 0.3), (1.0, 0.5)])
def test_it_agrees_with_the_oracle(probability: float, share: float) -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.proxskip(problem, six_nodes.RATE, probability, consensus_step_size=share)
    states = six_nodes.play(algorithm, six_nodes.network(), ROLL_CALL, seed=1)
    coins = coins_of(states)
    assert coins.all() if probability == 1 else 0 < coins.sum() < len(coins)
    expected = oracle(
        six_nodes.gradients(problem),
        six_nodes.start(),
        six_nodes.matrix(),
        six_nodes.RATE,
        share * probability / six_nodes.RATE,
        probability,
        coins,
        ROLL_CALL,
    )
    six_nodes.agree(six_nodes.models(states), expected)


def test_the_coin_is_thrown_once_a_round_for_everybody() -> None:
    problem, network = six_nodes.problem(), six_nodes.network()
    present = np.ones((400, six_nodes.NUM_NODES), bool)
    states = six_nodes.play(algorithms.proxskip(problem, six_nodes.RATE, 0.3), network, present)
    messages = np.stack([counters.to_float(network_state.traffic.messages) for _, network_state in states])
    for sent in np.diff(messages, axis=0):
        assert not sent.any() or (sent == np.asarray(network.out_degrees)).all()
    # 400 throws of 0.3: a standard deviation of 9.2
    assert abs(coins_of(states).sum() - 120) < 4 * 9.2


def test_control_variates_sum_to_zero_whoever_is_away() -> None:
    problem = six_nodes.problem(gradient_noise=0.5)
    states = six_nodes.play(algorithms.proxskip(problem, six_nodes.RATE, 0.5), six_nodes.network(), ROLL_CALL)
    for state, _ in states:
        np.testing.assert_allclose(invariant_control(state), 0.0, atol=2e-6)
    assert np.abs(states[-1][0].control_variate).max() > 0.1


def test_control_variates_tend_to_the_gradients_at_the_optimum() -> None:
    problem = six_nodes.problem()
    curvature, constant = six_nodes.affine(problem)
    present = np.ones((500, six_nodes.NUM_NODES), bool)
    state, _ = six_nodes.play(algorithms.proxskip(problem, 0.5, 0.5), six_nodes.network(), present)[-1]
    at_optimum = curvature @ np.asarray(problem.optimum, np.float64) + constant
    np.testing.assert_allclose(state.control_variate, at_optimum, atol=1e-4)


def test_skipping_saves_communication_on_an_ill_conditioned_problem() -> None:
    """To a distance of 1e-3 with p = 1 / sqrt(kappa): at most a quarter of the messages of speaking every round."""
    problem = dlsim.problems.quadratic(8, 5, condition_number=100.0, shared_curvature=True)
    network = dlsim.networks.complete(8)

    def messages(probability: float) -> int:
        algorithm = algorithms.proxskip(problem, 1.0, probability, consensus_step_size=1.0)
        first = algorithm.init(jax.random.key(0), jnp.zeros((8, 5)), network)

        def unfinished(carry: Any) -> Any:
            return jnp.max(jnp.abs(carry[1].params - problem.optimum)) > 1e-3

        def step(carry: Any) -> Any:
            t, state, network_state = carry
            key = jax.random.fold_in(jax.random.key(0), t)
            state, now, _ = algorithm.step(key, state, network.with_state(network_state))
            return t + 1, state, now.state

        _, _, network_state = jax.jit(lambda carry: jax.lax.while_loop(unfinished, step, carry))(
            (0, first, network.state)
        )
        return int(np.sum(counters.to_float(network_state.traffic.messages)))

    assert messages(0.1) < messages(1.0) / 4


def test_bad_input_is_one_clear_line() -> None:
    problem = six_nodes.problem()
    with pytest.raises(ValueError, match=r"proxskip: learning_rate must be a number in \(0, inf\), got 0"):
        algorithms.proxskip(problem, 0.0)
    with pytest.raises(ValueError, match=r"proxskip: probability must be a number in \(0, 1\], got 0"):
        algorithms.proxskip(problem, 0.1, 0.0)
    with pytest.raises(ValueError, match=r"proxskip: consensus_step_size must be a number in \(0, 1\], got 2"):
        algorithms.proxskip(problem, 0.1, consensus_step_size=2.0)
