"""DADAO: its closed-form flow, its fixed point and invariants, hand-worked numbers, a loop over events, its refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import six_nodes as six
from oracles.dadao import dadao as oracle, flow_matrix
from scipy.linalg import expm

import dlsim
from dlsim import algorithms, clocks, keys, networks, problems
from dlsim.algorithms.dadao import DADAOState
from dlsim.algorithms.edge_rates import agreement
from dlsim.networks.network import Network

PROBLEM, NETWORK = six.problem(), six.network()
MU, SMOOTHNESS, SECONDS = 0.25, 1.0, 12
PAIR = problems.quadratic(2, 1, condition_number=1.0)


def rows(values: Any, chi_1: float = 0.0) -> DADAOState:
    """Of (x, x~, y, y~, z, z~) `[6, n, D]`."""
    values = jnp.asarray(values, float)
    return DADAOState(*values, chi_1=jnp.full(values.shape[1], chi_1, float))


def array(state: DADAOState) -> np.ndarray:
    return np.stack([np.asarray(part, np.float64) for part in state[:6]])


def event_keys(num: int) -> Any:
    return jax.vmap(jax.random.key)(jnp.arange(num))


@pytest.mark.parametrize("ratio", [1.0, 2.0, 100.0, 1e4])
def test_the_flow_is_the_exponential_of_its_matrix(ratio: float) -> None:
    draws = np.random.default_rng(0).standard_normal((6, 5, 3))
    times = np.array([0.0, 0.01, 0.7, 5.0, 80.0])
    with jax.enable_x64(True):
        method = algorithms.dadao(problems.quadratic(5, 3), 1.0, ratio)
        found = array(method.flow(rows(draws), jnp.asarray(times)))
        expected = np.stack([expm(flow_matrix(1.0, ratio) * t) @ draws[:, k] for k, t in enumerate(times)], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
        np.testing.assert_array_equal(found[:, 0], draws[:, 0])
        # A semigroup, under which x + x~ stays.
        split = method.flow(method.flow(rows(draws), jnp.asarray(0.3 * times)), jnp.asarray(0.7 * times))
        np.testing.assert_allclose(array(split), found, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
        np.testing.assert_allclose(found[0] + found[1], draws[0] + draws[1], atol=1e-12)


def test_hand_worked_numbers() -> None:
    """f = (x - 3)^2 / 2, mu = L = 1, from x = 1: a second of flow, then a gradient event."""
    one = problems.least_squares(np.array([[[np.sqrt(0.5)]]]), np.array([[3 * np.sqrt(0.5)]]))
    assert one.smoothness() == pytest.approx(1.0) and float(one.optimum[0]) == pytest.approx(3.0)
    method = algorithms.dadao(one, 1.0, 1.0)
    flowed = method.flow(rows(np.array([1.0, 0, 0, 0, 0, 0])[:, None, None]), jnp.ones(1))
    expected = [0.918983, 0.081017, -0.000838, -0.014592, 0.0, 0.0]
    np.testing.assert_allclose(array(flowed).ravel(), expected, atol=1e-6)
    after, info = method.on_gradient(event_keys(1), flowed, jnp.arange(1))
    np.testing.assert_allclose(array(after).ravel(), [1.550462, 0.974063, -0.000838, -2.987031, 0, 0], atol=2e-6)
    assert int(info["num_gradients"][0]) == 1
    assert method.on_message is None  # alone
    # Two nodes: chi_1 = 0.7071 with the rate 0.7071, so that z~ moves by 2 (mu = L).
    pair = algorithms.dadao(PAIR, 1.0, 1.0)
    start = pair.init(jax.random.key(0), jnp.zeros((2, 1)), networks.path(2))
    np.testing.assert_allclose(start.chi_1, np.sqrt(0.5), rtol=1e-6)
    met, _ = pair.on_message(event_keys(2), start, jnp.ones((2, 1)), jnp.arange(2))
    np.testing.assert_allclose([met.consensus[0, 0], met.consensus_momentum[0, 0]], [0.5, 2.0], rtol=1e-6)


def at_optimum(problem: dlsim.Problem) -> np.ndarray:
    best = np.broadcast_to(np.asarray(problem.optimum, np.float64), (problem.num_nodes, problem.optimum.shape[0]))
    ids = jnp.arange(problem.num_nodes)
    gradient = np.asarray(problem.full_gradient(jax.random.key(0), jnp.asarray(best, float), ids)[0], np.float64)
    y = gradient - MU / 2 * best
    z = -MU / 2 * best - y
    return np.stack([best, best, y, y, z, z])


def test_the_optimum_stays_where_it_is() -> None:
    state = at_optimum(PROBLEM)
    np.testing.assert_allclose(state[4].sum(0), 0, atol=1e-5)
    method, ids = algorithms.dadao(PROBLEM, MU, SMOOTHNESS), jnp.arange(six.NUM_NODES)
    given = rows(state, chi_1=0.7)
    flowed = method.flow(given, jnp.linspace(0.0, 30.0, six.NUM_NODES))
    stepped, _ = method.on_gradient(event_keys(six.NUM_NODES), given, ids)
    heard = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), method.message(given))
    met, _ = method.on_message(event_keys(six.NUM_NODES), given, heard, ids)
    for moved in (flowed, stepped, met):
        np.testing.assert_allclose(array(moved), state, atol=2e-6)


def played(method: Any, network: Network = NETWORK, seconds: int = SECONDS, **options: Any) -> Any:
    process = dlsim.learn(PROBLEM, method, network, timing=clocks.timing(**options))
    return dlsim.simulate(process, seed=4, num_steps=seconds, record=dlsim.Record(every=seconds), progress=False)


def flowed_to_the_end(method: Any, state: Any) -> np.ndarray:
    return array(method.flow(state.nodes, state.idle))


def test_a_loop_over_events() -> None:
    method = algorithms.dadao(PROBLEM, MU, SMOOTHNESS)
    run = played(method)
    rates = algorithms.dadao_rates(NETWORK)
    key = keys.stream(jax.random.key(4), "tape")
    tape = clocks.make_tape(NETWORK, clocks.poisson(1.0), clocks.poisson(rates), key, SECONDS)
    chi_1, _ = agreement("test", NETWORK, rates)
    start = np.zeros((six.NUM_NODES, six.DIMENSION))
    expected = oracle(six.gradients(PROBLEM), start, tape, MU, SMOOTHNESS, chi_1, SECONDS)
    found = flowed_to_the_end(method, run.state)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found[4:].sum(axis=1), 0, atol=1e-4)  # the sums of z and z~
    assert np.abs(expected[4]).max() > 0.05
    assert float(run.results.messages_sent[-1]) == 2 * int((tape.b >= 0).sum())


def test_rates_of_known_graphs() -> None:
    n = 16
    for network, expected in (
        (networks.complete(n), (n - 1) / np.sqrt(2)),
        (networks.star(n), n - 1),
        (networks.path(n), (n - 1) / (2 * np.sin(np.pi / (2 * n)))),
        (networks.ring(n), np.sqrt(n * (n - 1)) / (2 * np.sin(np.pi / n))),
        (networks.path(2), np.sqrt(0.5)),
        (networks.grid(n), 26.2523),  # of an independent program
    ):
        rates = algorithms.dadao_rates(network)
        assert rates.sum() == pytest.approx(expected, rel=1e-5)
        assert np.prod(agreement("test", network, rates)) == pytest.approx(0.5)
    uneven = algorithms.dadao_rates(networks.path(4), [1.0, 2.0, 1.0])
    assert uneven[1] / uneven[0] == pytest.approx(2.0)
    assert np.prod(agreement("test", networks.path(4), uneven)) == pytest.approx(0.5)


def test_optimal_rates_of_a_barbell() -> None:
    import networkx

    network = networks.from_networkx(networkx.barbell_graph(8, 0))
    equal, best = (algorithms.dadao_rates(network, name) for name in ("uniform", "optimal"))
    assert equal.sum() == pytest.approx(126.1, abs=0.1)
    assert best.sum() == pytest.approx(32.92, abs=0.05)  # 32.9 by Nelder-Mead on three classes of links
    logs = np.log(best / best.min())
    first, second = clocks.clock_edges(network)
    at_bridge = np.isin(first, (7, 8)).astype(int) + np.isin(second, (7, 8))
    for count, value in ((0, 0.0), (1, 1.71), (2, 3.43)):
        np.testing.assert_allclose(logs[at_bridge == count], value, atol=0.05)
    # Nothing better in any direction of a few.
    for seed in range(6):
        other = best * np.exp(0.05 * np.random.default_rng(seed).standard_normal(len(best)))
        assert algorithms.dadao_rates(network, other).sum() > best.sum()


def test_the_conjugate_inverts_the_gradient() -> None:
    draws = np.random.default_rng(3)
    regression = problems.least_squares(draws.standard_normal((4, 9, 3)), draws.standard_normal((4, 9)), ridge=0.1)
    for problem in (PROBLEM, regression, problems.quadratic(4, 3)):
        num = problem.num_nodes
        x = jnp.asarray(draws.standard_normal((num, problem.optimum.shape[0])), jnp.float32)
        gradient, _ = problem.full_gradient(jax.random.key(0), x, jnp.arange(num))
        np.testing.assert_allclose(problem.conjugate(gradient, jnp.arange(num)), x, rtol=1e-4, atol=1e-5)


def disconnected() -> Network:
    return networks.connect(networks.graph(6, [0, 1, 3, 4], [1, 2, 4, 5]))


LOW = 0.9 * algorithms.dadao_rates(NETWORK)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: algorithms.dadao(PROBLEM, 0.0, 1.0), r"dadao: strong_convexity must be a number in \(0, inf\), got 0"),
        (lambda: algorithms.dadao(PROBLEM, -1.0, 1.0), r"dadao: strong_convexity must be a number in \(0, inf\), got -1"),
        (lambda: algorithms.dadao(PROBLEM, 2.0, 1.0), r"dadao: smoothness must be at least strong_convexity, 2, got 1"),
        (lambda: algorithms.dadao(PROBLEM._replace(smoothness=None)), "dadao: smoothness must be given for a problem"),
        (lambda: algorithms.dadao(PROBLEM, rates="best"), "dadao: rates must be one of"),
        (lambda: played(algorithms.dadao(PROBLEM), disconnected()), "learn: network must be connected"),
        (lambda: algorithms.dadao_rates(disconnected()), "dadao_rates: network must be connected"),
        (
            lambda: played(algorithms.dadao(PROBLEM, rates=LOW)),
            r"dadao: rates must be such that chi_1 chi_2 <= 1/2, 10.5268 meetings a second in these proportions, "
            r"got 0.6173 of 9.47413 a second. Multiply them by 1.111, or use dadao_rates\(network\)",
        ),
        (lambda: played(algorithms.dadao(PROBLEM, rates=[1.0, 2.0])), r"dadao: rates must be one or 6 finite numbers"),
        (
            lambda: played(algorithms.dadao(PROBLEM), communication=clocks.poisson(1.0)),
            r"dadao: timing.communication must be of its 10.52\d+ meetings a second, got 6. Leave it out",
        ),
        (
            lambda: played(algorithms.dadao(PROBLEM), gradient=clocks.poisson(2.0)),
            r"dadao: timing.gradient must be a clock of one event a second and node, got 2 to 2 a second",
        ),
        (lambda: algorithms.dadao_rates(NETWORK, [1.0, 0.0, 1, 1, 1, 1]), "dadao_rates: relative must be one or 6 finite"),
        (lambda: algorithms.dadao_rates(networks.complete(100), "optimal"), "dadao_rates: network must be one of at most"),
        (lambda: problems.least_squares(np.zeros((2, 3, 2)), np.zeros((2, 3))), "least_squares: inputs must be of full"),
    ],
)  # fmt: skip
def test_refusals(call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        call()


def test_rates_too_low_may_be_asked_for() -> None:
    assert dlsim.learn(PROBLEM, algorithms.dadao(PROBLEM, rates=LOW, allow_low_rates=True), NETWORK).num_nodes == 6
