"""Asynchronous averaging: rates that the spectrum predicts, and what is kept on the way."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlsim import algorithms, clocks, networks, problems
from dlsim.algorithms.a2cid2 import A2CiD2State
from dlsim.core import EventAlgorithm, Record
from dlsim.learning.average import average
from dlsim.networks.graphs import spectral
from dlsim.networks.network import Network
from dlsim.running.simulate import simulate

NUM = 16
SEEDS = 96
STILL = problems.quadratic(NUM, 1)  # nodes that only average


def uneven_ring() -> tuple[Network, np.ndarray]:
    """A ring whose links have different rates, in the order of the clocks."""
    network = networks.ring(NUM)
    return network, 0.3 + 0.2 * (np.arange(len(clocks.clock_edges(network)[0])) % 4)


def laplacian(network: Network, rates: np.ndarray) -> np.ndarray:
    """Of the links' rates, link by link."""
    out = np.zeros((network.num_nodes, network.num_nodes))
    for i, j, rate in zip(*clocks.clock_edges(network), rates, strict=True):
        out[i, i] += rate
        out[j, j] += rate
        out[i, j] -= rate
        out[j, i] -= rate
    return out


def averaged(algorithm: EventAlgorithm, network: Network, rates: Any, seconds: int, seeds: Any, start: Any) -> Any:
    """Rows after some seconds of averaging."""
    timing = clocks.timing(communication=clocks.poisson(rates))
    record = Record(every=seconds, fn=lambda state, info: {"window": state.window})
    process = average(start, network, algorithm, timing=timing)
    return simulate(process, seed=seeds, num_steps=seconds, record=record).state.nodes


@pytest.mark.parametrize("step_size", [0.5, 0.2])
def test_gossip_falls_with_the_second_eigenvalue_of_the_expected_mixing_matrix(step_size: float) -> None:
    network, rates = uneven_ring()
    values, vectors = np.linalg.eigh(laplacian(network, rates))
    second, seconds = vectors[:, 1], 12
    start = (second * np.sqrt(NUM)).astype(np.float32)[:, None]
    rows = averaged(algorithms.randomized_gossip(step_size=step_size), network, rates, seconds, range(SEEDS), start)
    ends = np.asarray(rows.params, np.float64)[:, :, 0]
    np.testing.assert_allclose(ends.mean(axis=1), 0, atol=1e-5)
    # E x(t) = exp(-a L t) x(0), and the start is an eigenvector: what is left of it falls as exp(-a lambda_2 t).
    left = ends @ second / np.sqrt(NUM)
    expected = np.exp(-step_size * values[1] * seconds)
    spread = left.std(ddof=1) / np.sqrt(SEEDS)
    assert 0.2 < expected < 0.9 and spread < 0.03
    assert abs(left.mean() - expected) < 4 * spread, (left.mean(), expected, spread)
    # The mean square falls no slower than at 2 a (1 - a) lambda_2.
    squares = np.square(ends).mean(axis=1)
    bound = np.exp(-2 * step_size * (1 - step_size) * values[1] * seconds)
    assert squares.mean() < bound + 4 * squares.std(ddof=1) / np.sqrt(SEEDS)


def only_averaging(method: EventAlgorithm, start: Any) -> EventAlgorithm:
    """The method without gradients, from values of its own."""
    return method._replace(
        init=lambda key, params, network: A2CiD2State(jnp.asarray(start), jnp.asarray(start), ()),
        on_gradient=None,
        trains=False,
    )


def test_a2cid2_agrees_sooner_than_gossip_on_a_ring() -> None:
    network = networks.ring(NUM)
    rates = clocks.neighbor_rates(network, 0.5)
    start = np.cos(2 * np.pi * np.arange(NUM) / NUM).astype(np.float32)[:, None]  # the slowest to go
    constants = algorithms.a2cid2_constants(network)
    fast = only_averaging(algorithms.a2cid2(STILL, optax.sgd(0.0), constants), start)
    left = {}
    for name, method in (("a2cid2", fast), ("gossip", algorithms.randomized_gossip())):
        rows = averaged(method, network, rates, 60, range(8), start)
        left[name] = np.square(np.asarray(rows.params)).mean(axis=(1, 2))
    # Gossip: lambda_2 / 2 a second; with momentum the rate is of order 1 / sqrt(chi_1 chi_2).
    assert left["a2cid2"].max() < 0.1 * left["gossip"].min(), left


def test_averaging_keeps_the_mean() -> None:
    network, rates = uneven_ring()
    start = np.random.default_rng(0).standard_normal((NUM, 3)).astype(np.float32)
    method = algorithms.a2cid2(STILL, optax.sgd(0.0), algorithms.a2cid2_constants(network, rates))
    rows = averaged(only_averaging(method, start), network, rates, 10, 0, start)
    both = np.asarray(rows.params, np.float64) + np.asarray(rows.momentum, np.float64)
    np.testing.assert_allclose(both.mean(axis=0), 2 * start.mean(axis=0, dtype=np.float64), atol=1e-5)
    assert np.abs(rows.params - rows.momentum).max() > 0.01
    # One meeting keeps the means of both, and moves both towards the partner.
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    pair = A2CiD2State(jnp.asarray(start[:2]), jnp.asarray(start[2:4]), ())
    met, _ = method.on_message(keys, pair, pair.params[::-1], jnp.arange(2))
    for before, after in zip(pair[:2], met[:2], strict=True):
        np.testing.assert_allclose(np.mean(before, axis=0), np.mean(after, axis=0), atol=1e-6)
        assert not np.allclose(before, after)


def test_the_flow_is_a_semigroup_that_keeps_the_mean() -> None:
    method = algorithms.a2cid2(STILL, optax.sgd(0.1), algorithms.A2CiD2Constants(0.8))
    draws = np.random.default_rng(1).standard_normal((2, 4, 3)).astype(np.float32)
    rows = A2CiD2State(jnp.asarray(draws[0]), jnp.asarray(draws[1]), ())
    first, second = jnp.asarray([0.0, 0.3, 1.0, 20.0]), jnp.asarray([0.5, 0.0, 2.0, 1.0])
    twice, once = method.flow(method.flow(rows, first), second), method.flow(rows, first + second)
    for a, b in zip(twice[:2], once[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(once.params + once.momentum, draws.sum(axis=0), rtol=1e-5, atol=1e-6)
    shrunk = np.exp(-1.6 * np.asarray(first + second))[:, None] * (draws[0] - draws[1])
    np.testing.assert_allclose(once.params - once.momentum, shrunk, rtol=1e-4, atol=1e-6)
    same = method.flow(rows, jnp.zeros(4))
    np.testing.assert_array_equal(same.params, rows.params)


def test_constants() -> None:
    # Complete, rate r a link: all positive eigenvalues are N r, every resistance is 2 / (N r).
    for network in (networks.complete(NUM), networks.random_regular(NUM, degree=NUM - 1, seed=0)):
        eta, alpha, alpha_tilde = algorithms.a2cid2_constants(network, 0.25)
        assert (eta, alpha, alpha_tilde) == pytest.approx((NUM * 0.25 / 2, 0.5, 0.5))
    # Ring, rate r: lambda_2 = 2 r (1 - cos(2 pi / N)), resistance (N - 1) / (N r).
    eta, _, alpha_tilde = algorithms.a2cid2_constants(networks.ring(NUM), 0.5)
    chi_1, chi_2 = 1 / (1 - np.cos(2 * np.pi / NUM)), (NUM - 1) / NUM
    assert (eta, alpha_tilde) == pytest.approx((0.5 / np.sqrt(chi_1 * chi_2), 0.5 * np.sqrt(chi_1 / chi_2)))
    assert algorithms.a2cid2_constants(networks.ring(NUM)) == pytest.approx((eta, 0.5, alpha_tilde))  # the usual rates
    # Different rates, against the definitions.
    network, rates = uneven_ring()
    matrix = laplacian(network, rates)
    inverse = np.linalg.pinv(matrix)
    resistances = [
        inverse[i, i] + inverse[j, j] - 2 * inverse[i, j] for i, j in zip(*clocks.clock_edges(network), strict=True)
    ]
    chi_1, chi_2 = 1 / np.linalg.eigvalsh(matrix)[1], max(resistances) / 2
    found = algorithms.a2cid2_constants(network, rates)
    assert found == pytest.approx((0.5 / np.sqrt(chi_1 * chi_2), 0.5, 0.5 * np.sqrt(chi_1 / chi_2)))
    order = np.random.default_rng(0).permutation(NUM)
    moved = algorithms.a2cid2_constants(networks.ring(NUM).relabel(order), 0.5)
    assert moved == pytest.approx((eta, 0.5, alpha_tilde))
    assert spectral.chi_2(networks.complete(NUM)) == pytest.approx(2 / NUM)
