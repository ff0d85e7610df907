"""PowerSGD against its oracle on models with matrices, what it counts, and who has missed an update."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles.power_sgd import power_sgd as by_worker

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.channels.low_rank import matrix_shapes, starts
from dlsim.core import Problem
from dlsim.networks.messages import open_channels
from dlsim.running import counters

NODES, ROWS, COLUMNS, RATE, RANK = 4, 6, 5, 0.1, 2
SENT = RANK * (ROWS + COLUMNS)  # numbers of the two factors
ROLL_CALL = np.ones((6, NODES), bool)
ROLL_CALL[2:4, 1] = False
ROLL_CALL[0, 3] = False


def problem() -> Problem:
    """f_i(x) = ||A_i * (W - T_i)||^2 / 2 + ||b - t_i||^2 / 2, of a matrix W and a vector b."""
    rng = np.random.default_rng(0)
    scale, target = rng.uniform(0.5, 1.5, (NODES, ROWS, COLUMNS)), rng.normal(size=(NODES, ROWS, COLUMNS))
    shift = rng.normal(size=(NODES, 3))

    def gradient(key, params, node_ids):
        del key
        a, t, s = (jnp.asarray(one, float)[node_ids] for one in (scale, target, shift))
        g = {"b": params["b"] - s, "w": a**2 * (params["w"] - t)}
        off = a * (params["w"] - t)
        return g, 0.5 * (jnp.sum(off**2, (1, 2)) + jnp.sum((params["b"] - s) ** 2, 1))

    return Problem(
        num_nodes=NODES,
        init=lambda key: {"b": jnp.zeros(3), "w": jnp.zeros((ROWS, COLUMNS))},
        loss=None,
        sample=None,
        gradient=gradient,
        full_gradient=gradient,
        evaluate=lambda params, ids: {},
        num_examples=np.ones(NODES),
    )


def play(algorithm, network, present):
    of = problem()
    key, start = jax.random.key(0), dlsim.trees.replicate(of.init(None), NODES)
    state = algorithm.init(key, start, network)
    network = open_channels(network, lambda probed: algorithm.step(key, state, probed))
    step = jax.jit(lambda key, state, network: algorithm.step(key, state, network)[:2])
    states, traffic = [state], [network.state.traffic]
    for t, there in enumerate(present):
        here = network if there.all() and present.all() else network.replace(is_present=jnp.asarray(there))
        state, network = step(jax.random.fold_in(key, t), state, here)
        states.append(state)
        traffic.append(network.state.traffic)
    return states, traffic


@pytest.mark.parametrize("momentum", [None, 0.6])
@pytest.mark.parametrize("present", [np.ones((6, NODES), bool), ROLL_CALL], ids=["everyone", "roll_call"])
def test_it_is_the_papers(present: np.ndarray, momentum: float | None) -> None:
    with jax.enable_x64(True):
        of = problem()
        algorithm = algorithms.power_sgd(of, optax.sgd(RATE), rank=RANK, momentum=momentum)
        states, _ = play(algorithm, networks.complete(NODES), present)
        first = dlsim.trees.replicate(of.init(None), NODES)
        factors = {"w": np.asarray(starts(matrix_shapes(first, RANK))[1]).T}

        def gradient(i, x):
            rows = {name: jnp.asarray(leaf)[None] for name, leaf in x.items()}
            return {name: np.asarray(g[0]) for name, g in of.gradient(None, rows, jnp.array([i]))[0].items()}

        start = {name: np.asarray(leaf[0]) for name, leaf in first.items()}
        expected = by_worker(gradient, start, factors, RATE, momentum, present)
        for state, x in zip(states, expected, strict=True):
            for name, leaf in x.items():
                np.testing.assert_allclose(state.params[name], leaf, rtol=1e-8, atol=1e-10)
    assert np.abs(expected[-1]["w"]).max() > 0.3


def test_what_it_sends() -> None:
    """Two thin matrices and a vector each way; a node that was away is sent x and Q, and nothing is lost of its error."""
    algorithm = algorithms.power_sgd(problem(), optax.sgd(RATE), rank=RANK)
    _, traffic = play(algorithm, networks.complete(NODES), np.ones((3, NODES), bool))
    np.testing.assert_array_equal(counters.to_float(traffic[-1].bits), 3 * 32 * (SENT + 3))
    assert counters.to_float(traffic[-1].server_bits) == 3 * NODES * 32 * (SENT + 3)
    assert counters.to_float(traffic[-1].messages).sum() == 3 * 2 * NODES

    states, traffic = play(algorithm, networks.complete(NODES), ROLL_CALL)
    bits = np.diff([float(counters.to_float(one.server_bits)) for one in traffic]) / 32
    model = 3 + ROWS * COLUMNS + RANK * COLUMNS
    there = ROLL_CALL.sum(axis=1)
    behind = np.array([0, 1, 0, 0, 1, 0])  # node 3 comes back in round 1, node 1 in round 4
    np.testing.assert_array_equal(bits, there * (SENT + 3) + behind * model)
    np.testing.assert_array_equal(
        [state.heard[1] == state.version for state in states], [True] * 3 + [False] * 2 + [True] * 2
    )
    np.testing.assert_array_equal(states[2].error[0][1], states[4].error[0][1])


def test_it_converges_and_through_lossy_links_too() -> None:
    of = problem()
    algorithm = algorithms.power_sgd(of, optax.sgd(RATE), rank=1)
    for network in (networks.complete(NODES), networks.complete(NODES).with_channel(networks.loss(0.2))):
        states, _ = play(algorithm, network, np.ones((150, NODES), bool))
        rows = dlsim.trees.replicate(states[-1].params, NODES)
        full = jax.tree.map(lambda g: np.abs(g.mean(0)).max(), of.gradient(None, rows, jnp.arange(NODES))[0])
        start = jax.tree.map(
            lambda g: np.abs(g.mean(0)).max(),
            of.gradient(None, jax.tree.map(jnp.zeros_like, rows), jnp.arange(NODES))[0],
        )
        assert full["w"] < 0.5 * start["w"], network
        assert np.isfinite(full["w"])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda p: algorithms.power_sgd(p, optax.sgd(0.1), rank=0), "power_sgd: rank must be an integer >= 1, got 0"),
        (
            lambda p: algorithms.power_sgd(p, optax.sgd(0.1), momentum=1.0),
            r"power_sgd: momentum must be a number in \[0, 1\), got 1",
        ),
        (lambda p: algorithms.power_sgd(p, optax.sgd(0.1), weighting="all"), "power_sgd: weighting must be one of"),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make(problems.quadratic(4, 3))
