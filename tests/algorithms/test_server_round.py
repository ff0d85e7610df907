"""Servers and what does not reach them: who is not heard contributes nothing, whatever it holds; what a round costs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from six_nodes import DIMENSION, NUM_NODES, RATE

from dlsim import algorithms
from dlsim.core import Algorithm, Array, Channel, Packet, Problem, PyTree, Route
from dlsim.networks.network import Network

SIZES = np.array([3, 1, 4, 1, 5, 9], np.int32)
BAD = 2  # its gradients are not finite


def without(lost_up: int, lost_down: int = -2) -> Channel:
    """A channel that loses whatever `lost_up` sends and whatever is sent to `lost_down`."""

    def send(key: Array, state: PyTree, packet: Packet, route: Route) -> tuple[PyTree, Packet]:
        del key
        arrives = (route.senders != lost_up) & (route.receivers != lost_down)
        return state, packet._replace(delivered=arrives)

    return Channel(init=lambda message, num_senders: (), send=send)


def poisoned() -> Problem:
    """Six quadratics, one of which answers NaN."""
    problem = six_nodes.problem()

    def gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[PyTree, Array]:
        gradients, losses = problem.gradient(key, params, node_ids)
        return jnp.where((node_ids == BAD)[:, None], jnp.nan, gradients), losses

    return problem._replace(gradient=gradient, full_gradient=gradient)


METHODS = {
    "fedavg": lambda p: algorithms.fedavg(p, optax.sgd(RATE), weighting="uniform"),
    "fedprox": lambda p: algorithms.fedprox(p, optax.sgd(RATE), weighting="uniform"),
    "scaffold-I": lambda p: algorithms.scaffold(p, RATE, num_local_steps=2, option="I"),
    "scaffold-II": lambda p: algorithms.scaffold(p, RATE, num_local_steps=2),
}


def rounds(algorithm: Algorithm, network: Network, count: int = 3) -> tuple[PyTree, dict[str, Array]]:
    state = algorithm.init(jax.random.key(0), jnp.asarray(six_nodes.start(), jnp.float32), network)
    info: dict[str, Array] = {}
    for t in range(count):
        state, _, info = algorithm.step(jax.random.key(t), state, network)
    return state, info


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("lost_up", "lost_down"), [(BAD, -2), (-2, BAD)], ids=["uplink", "downlink"])
def test_a_client_that_is_not_heard_contributes_nothing(name: str, lost_up: int, lost_down: int) -> None:
    lossy = six_nodes.network().with_channel(without(lost_up, lost_down))
    state, _ = rounds(METHODS[name](poisoned()), lossy)
    there = jnp.arange(NUM_NODES) != BAD
    expected, _ = rounds(METHODS[name](six_nodes.problem()), six_nodes.network().replace(is_present=there))
    np.testing.assert_allclose(state.params, expected.params, rtol=1e-5, atol=1e-6)
    assert np.abs(state.params - six_nodes.start()[0]).max() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_the_poison_is_one(name: str) -> None:
    """Heard, the same client spoils the model: the test above shows something."""
    state, _ = rounds(METHODS[name](poisoned()), six_nodes.network())
    assert np.isnan(state.params).all()


@pytest.mark.parametrize("cohort", [None, np.array([4, 0, 2])], ids=["all", "cohort"])
@pytest.mark.parametrize(("option", "passes"), [("I", 1), ("II", 0)])
def test_gradients_of_scaffold_are_counted(option: str, passes: int, cohort: np.ndarray | None) -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES, batch_size=2)
    algorithm = algorithms.scaffold(problem, RATE, num_local_steps=3, option=option)
    there = np.array([True, True, False, True, True, True])
    network = six_nodes.network().replace(
        is_present=jnp.asarray(there), cohort=None if cohort is None else jnp.asarray(cohort, jnp.int32)
    )
    state, info = rounds(algorithm, network, 1)
    rows = np.arange(NUM_NODES) if cohort is None else cohort
    expected = np.where(there, 3 * 2 + passes * SIZES, 0)[rows]
    np.testing.assert_array_equal(info["num_gradients"], expected)
    assert info["num_gradients"].dtype == jnp.uint32
    assert state.params.shape == (DIMENSION,)
