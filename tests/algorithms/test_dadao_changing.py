"""DADAO on graphs that change: a constant one changes nothing, rates are those of the slowest, and it converges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import algorithms, clocks, networks, problems

NUM = 6
PROBLEM = problems.quadratic(NUM, 2, condition_number=2.0, seed=0)
MU, SMOOTHNESS = float(PROBLEM.strong_convexity()), float(PROBLEM.smoothness())
STAR, PATH = networks.star(NUM), networks.path(NUM)
EDGES = {tuple(sorted(pair)) for one in (STAR, PATH) for pair in zip(*clocks.clock_edges(one), strict=True)}
BOTH = networks.connect(networks.graph(NUM, *zip(*sorted((int(a), int(b)) for a, b in EDGES), strict=True)))


def in_turn(*graphs: Any) -> dlsim.Scenario:
    """The links of one graph after the other, a window each."""
    there = np.zeros((len(graphs), NUM, NUM), bool)
    for k, graph in enumerate(graphs):
        there[k, np.asarray(graph.receivers), np.asarray(graph.senders)] = True
    up = jnp.asarray(there[:, np.asarray(BOTH.receivers), np.asarray(BOTH.senders)])

    def step(key: Any, count: Any, network: Any) -> Any:
        return count + 1, network.replace(is_linked=up[count % len(graphs)])

    return dlsim.Scenario(init=lambda key, network: jnp.zeros((), jnp.int32), step=step)


def run(scenario: Any, windows: int, **options: Any) -> Any:
    method = algorithms.dadao(PROBLEM, MU, SMOOTHNESS, use_full_gradient=True, **options)
    process = dlsim.learn(PROBLEM, method, BOTH, scenario, timing=clocks.timing(window=1.0))
    return dlsim.simulate(process, seed=0, num_steps=windows, progress=False)


def chis(graph: Any) -> tuple[float, float]:
    """Of one meeting a second and link."""
    first, second = clocks.clock_edges(graph)
    ends = np.eye(NUM)[first] - np.eye(NUM)[second]
    laplacian = ends.T @ ends
    resistance = np.einsum("ei,ij,ej->e", ends, np.linalg.pinv(laplacian), ends)
    return 1 / np.linalg.eigvalsh(laplacian)[1], resistance.max() / 2


def test_a_graph_that_stays_is_the_network_itself() -> None:
    """All that the graphs change, to the last bit: the clocks, and the chi_1 of the first state."""
    found = []
    for options in ({}, {"graphs": [BOTH]}, {"graphs": [BOTH, BOTH], "rates": dlsim.algorithms.dadao_rates(BOTH)}):
        method = algorithms.dadao(PROBLEM, MU, SMOOTHNESS, **options)
        when = method.clocks(BOTH, clocks.timing(window=1.0))
        start = method.init(jax.random.key(0), jnp.zeros((NUM, 2)), BOTH)
        found.append((np.asarray(when.communication.rate), np.asarray(start.chi_1)))
    for rates, chi_1 in found[1:]:
        np.testing.assert_array_equal(rates, found[0][0])
        np.testing.assert_array_equal(chi_1, found[0][1])


def test_it_converges_at_the_rates_of_the_slowest_graph() -> None:
    done = run(in_turn(STAR, PATH), 120, graphs=[STAR, PATH])
    worst = np.max([chis(STAR), chis(PATH)], axis=0)
    rate = np.sqrt(2 * worst.prod())
    held = done.state.nodes
    np.testing.assert_allclose(held.chi_1, worst[0] / rate, rtol=1e-5)
    assert np.abs(np.asarray(held.params) - np.asarray(PROBLEM.optimum)).max() < 1e-3
    # Meetings over a link that is down do not take place, nor count.
    first, _ = clocks.clock_edges(BOTH)
    met = np.asarray(done.state.network.traffic.messages.low, np.int64).sum() / 2
    share = (len(clocks.clock_edges(STAR)[0]) + len(clocks.clock_edges(PATH)[0])) / 2 / len(first)
    assert met == pytest.approx(120 * rate * len(first) * share, rel=0.15)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"graphs": []}, "graphs must be one or more Networks, or None, got none"),
        ({"graphs": [STAR, 3]}, r"dadao: graphs must be a sequence, each a Network"),
        ({"graphs": [networks.from_matrix(np.eye(NUM))]}, "graphs must be connected, each of them, got"),
        ({"graphs": [networks.complete(NUM)]}, "graphs must be of links that the network has, got one from node"),
        ({"graphs": [networks.path(4)]}, f"graphs must be of the network's {NUM} nodes, got 4 nodes"),
        ({"graphs": [STAR], "rates": "optimal"}, "rates must be \"uniform\" or numbers where graphs are given"),
        ({"graphs": [STAR, PATH], "rates": 0.1}, "rates must be such that chi_1 chi_2 <= 1/2"),
    ],
)  # fmt: skip
def test_refusals(options: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        run(in_turn(STAR), 1, **options)
