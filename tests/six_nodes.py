"""Six nodes, uneven links, exact quadratics and a roll-call: where methods meet their oracles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.core import Algorithm, Problem, PyTree
from dlsim.networks.graphs.graph import graph
from dlsim.networks.messages import open_channels
from dlsim.networks.network import Network, connect
from dlsim.problems import quadratic

NUM_NODES = 6
DIMENSION = 4
LINKS = ((0, 1), (0, 2), (0, 3), (1, 2), (3, 4), (4, 5))  # degrees 3, 2, 2, 2, 2, 1
RATE = 0.2

EVERYONE = np.ones((8, NUM_NODES), bool)
ROLL_CALL = EVERYONE.copy()  # [T, N]: node 3, without whom the graph falls apart, is away twice; node 5 at first
ROLL_CALL[2:4, 3] = False
ROLL_CALL[0, 5] = False


def problem(**options: Any) -> Problem:
    settings = {"heterogeneity": 0.5, "condition_number": 4.0, "curvature": "dense", "seed": 3, **options}
    return quadratic(NUM_NODES, DIMENSION, **settings)


def network(weights: str = "metropolis_hastings") -> Network:
    return connect(graph(NUM_NODES, *np.asarray(LINKS).T), weights)


def affine(of: Problem) -> tuple[np.ndarray, np.ndarray]:
    """H [N, D, D] and q [N, D], float64, with grad f_i(x) = H_i x + q_i, read off the problem's exact gradients."""
    num_nodes, ids = of.num_nodes, jnp.arange(of.num_nodes)
    dimension = jax.tree.leaves(of.init(jax.random.key(0)))[0].shape[0]

    def at(x: np.ndarray) -> np.ndarray:
        rows = jnp.broadcast_to(jnp.asarray(x, float), (num_nodes, dimension))
        return np.asarray(of.full_gradient(jax.random.key(0), rows, ids)[0], np.float64)

    constant = at(np.zeros(dimension))
    columns = [at(row) - constant for row in np.eye(dimension)]
    return np.stack(columns, axis=-1), constant


def gradients(of: Problem) -> Callable[[int, np.ndarray], np.ndarray]:
    """(node, x [D]) -> grad f_i(x), for the oracles."""
    curvature, constant = affine(of)
    return lambda i, x: curvature[i] @ x + constant[i]


def start() -> np.ndarray:
    """Everybody's first parameters [N, D], off zero."""
    return np.tile(np.linspace(-1.0, 1.0, DIMENSION), (NUM_NODES, 1))


def play(
    algorithm: Algorithm,
    on: Network,
    present: np.ndarray = ROLL_CALL,
    seed: int = 0,
    cohorts: np.ndarray | None = None,
) -> list[PyTree]:
    """(algorithm's state, network's state) after rounds 0..T under the roll-call [T, N], everyone from `start`.

    `cohorts [T, C]`: whom a server asks, round by round; None: all.
    """
    key, first = jax.random.key(seed), jnp.asarray(start(), float)

    @jax.jit
    def step(key: Any, state: PyTree, there: Any, cohort: Any) -> PyTree:
        algorithm_state, network_state = state
        now = on.with_state(network_state).replace(is_present=there, cohort=cohort)
        algorithm_state, now, _ = algorithm.step(key, algorithm_state, now)
        return algorithm_state, now.state

    opened = open_channels(on, lambda probed: algorithm.step(key, algorithm.init(key, first, on), probed))
    states = [(algorithm.init(key, first, on), opened.state)]
    for t, there in enumerate(present):
        cohort = None if cohorts is None else jnp.asarray(cohorts[t], jnp.int32)
        states.append(step(jax.random.fold_in(key, t), states[-1], jnp.asarray(there), cohort))
    return states


def models(states: list[PyTree]) -> np.ndarray:
    """Parameters after rounds 0..T, [T + 1, N, D]."""
    return np.stack([np.asarray(state.params) for state, _ in states])


def agree(measured: np.ndarray, expected: np.ndarray, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    """Trajectories [T + 1, N, D] agree in every round, and are not standing still."""
    assert measured.shape == expected.shape
    assert np.abs(expected[-1] - expected[0]).max() > 0.05, "nothing moved, so nothing was shown"
    for t, (a, b) in enumerate(zip(measured, expected, strict=True)):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"after round {t}")


@functools.cache
def matrix(weights: str = "metropolis_hastings") -> np.ndarray:
    """W [N, N], float64, of `network(weights)`, worked out here from the definition."""
    neighbors = [[j for a, b in LINKS for j in ((b,) if a == i else (a,) if b == i else ())] for i in range(NUM_NODES)]
    mixing = np.zeros((NUM_NODES, NUM_NODES))
    for i in range(NUM_NODES):
        for j in neighbors[i]:
            mixing[i, j] = 1 / (1 + max(len(neighbors[i]), len(neighbors[j])))
        mixing[i, i] = 1 - mixing[i].sum()
    return (mixing + np.eye(NUM_NODES)) / 2 if weights == "lazy_metropolis_hastings" else mixing
