"""Optimisers that draw: every node, round, step and seed has noise of its own, whoever is computed beside it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, arrivals, clocks, networks
from dlsim.core import Array, Problem, Record
from dlsim.networks.graphs.graph import graph
from dlsim.networks.network import Network, connect

NUM, DIMENSION = 4, 64


def silent() -> Problem:
    """Gradients of zero: what moves is noise alone."""
    problem = dlsim.problems.quadratic(NUM, DIMENSION, seed=1)

    def gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        del key
        return jnp.zeros_like(params), jnp.zeros(node_ids.shape)

    return problem._replace(gradient=gradient, full_gradient=gradient)


def alone() -> Network:
    """No node hears another."""
    return connect(graph(NUM, np.array([0]), np.array([1])))


def noise(key: Any = 0) -> optax.GradientTransformation:
    return optax.chain(optax.add_noise(1.0, 0.0, key=key), optax.scale(-1.0))


class Raw(NamedTuple):
    rng_key: Array  # uint32 [2]


def raw_noise() -> optax.GradientTransformation:
    """Noise by an old-style key."""

    def update(updates: Any, state: Raw, params: Any = None) -> tuple[Any, Raw]:
        del params
        key, draw = jax.random.split(state.rng_key)
        return jax.tree.map(lambda g: g + jax.random.normal(draw, g.shape), updates), Raw(key)

    return optax.GradientTransformation(lambda params: Raw(jax.random.PRNGKey(0)), update)


def moved(algorithm: Any, seed: int = 0, steps: int = 3, network: Network | None = None, **options: Any) -> np.ndarray:
    """What each node moved in each round, [T, N, D]."""
    process = dlsim.learn(silent(), algorithm, alone() if network is None else network, **options)
    record = Record(fn=lambda state, info: {"x": algorithm_params(algorithm, state)})
    run = dlsim.simulate(process, seed=seed, num_steps=steps, record=record)
    return np.diff(run.results.x.values, axis=0)


def algorithm_params(algorithm: Any, state: Any) -> Array:
    if hasattr(state, "nodes"):
        return algorithm.params(state.nodes)
    return algorithm.params(state.algorithm) if hasattr(state, "algorithm") else state.params[None]


def distinct(rows: np.ndarray) -> None:
    """No two rows are alike."""
    rows = rows.reshape(-1, rows.shape[-1])
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 0.6, "two draws are alike"


STACKED: dict[str, Callable[[], Any]] = {
    "isolated_training": lambda: algorithms.isolated_training(silent(), noise()),
    "old key": lambda: algorithms.isolated_training(silent(), raw_noise()),
}
MIXED = {
    "exact_diffusion": lambda: algorithms.exact_diffusion(silent(), noise()),
    "gradient_tracking": lambda: algorithms.gradient_tracking(silent(), noise()),
    "dsgd": lambda: algorithms.dsgd(silent(), noise()),
}


@pytest.mark.parametrize("name", STACKED)
def test_nodes_rounds_and_seeds_draw_their_own(name: str) -> None:
    distinct(np.stack([moved(STACKED[name](), seed=seed) for seed in (0, 1)]))


@pytest.mark.parametrize("name", MIXED)
def test_noise_that_is_mixed_differs_as_well(name: str) -> None:
    """Of one noise for all, mixing would leave the nodes equal."""
    found = [moved(MIXED[name](), seed=seed, network=networks.ring(NUM)) for seed in (0, 1)]
    assert not np.allclose(found[0], found[1])
    assert np.abs(found[0][:, 0] - found[0][:, 2]).max() > 0.1


def test_local_steps_draw_their_own() -> None:
    """The sum of K draws has variance K; of K times the same, K^2."""
    found = moved(algorithms.isolated_training(silent(), noise(), num_local_steps=9), steps=4)
    np.testing.assert_allclose(found.std(), 3.0, rtol=0.1)


@pytest.mark.parametrize("num_local_steps", [1, 9])
def test_clients_of_a_round_and_rounds_draw_their_own(num_local_steps: int) -> None:
    """The server sees the mean of N clients' K draws: variance K / N, and no two rounds alike."""
    algorithm = algorithms.fedavg(silent(), noise(), num_local_steps=num_local_steps)
    found = np.stack([moved(algorithm, seed=seed, steps=6, network=networks.ring(NUM)) for seed in (0, 1)])
    np.testing.assert_allclose(found.std(), np.sqrt(num_local_steps / NUM), rtol=0.1)
    distinct(found)


@pytest.mark.parametrize("make", ["fedbuff", "fedasync"])
def test_jobs_draw_their_own(make: str) -> None:
    pace = arrivals.pace(NUM, 0.1, 0.1)
    if make == "fedbuff":
        algorithm = algorithms.fedbuff(silent(), noise(), buffer_size=NUM, pace=pace, num_local_steps=4)
        sizes = np.sqrt(4 / NUM)
    else:
        algorithm = algorithms.fedasync(
            silent(), noise(), pace=pace, num_local_steps=4, mixing=0.5, staleness=arrivals.constant()
        )
        sizes = None
    when = clocks.timing(window=0.5)
    found = np.stack(
        [moved(algorithm, seed=seed, steps=6, network=networks.complete(NUM), timing=when) for seed in (0, 1)]
    )
    distinct(found)
    if sizes is not None:
        np.testing.assert_allclose(found.std(), sizes, rtol=0.15)


def test_a_server_that_draws_differs_by_round_and_seed() -> None:
    algorithm = algorithms.fedavg(silent(), optax.sgd(0.0), server_optimizer=noise())
    distinct(np.stack([moved(algorithm, seed=seed, network=networks.ring(NUM)) for seed in (0, 1)]))
    pace = arrivals.pace(NUM, 0.1, 0.1)
    late = algorithms.fedbuff(silent(), optax.sgd(0.0), buffer_size=NUM, pace=pace, server_optimizer=noise())
    options = {"network": networks.complete(NUM), "timing": clocks.timing(window=1.1)}
    distinct(np.stack([moved(late, seed=seed, **options) for seed in (0, 1)]))
    distinct(np.stack([moved(algorithms.centralized_sgd(silent(), noise()), seed=seed) for seed in (0, 1)]))


def test_the_key_that_the_user_gave_tells_purposes_apart() -> None:
    first, again, other = (moved(algorithms.isolated_training(silent(), noise(key))) for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    distinct(np.stack([first, other]))
    twice = optax.chain(optax.add_noise(1.0, 0.0, key=0), optax.add_noise(1.0, 0.0, key=0))
    both = moved(algorithms.isolated_training(silent(), twice))
    np.testing.assert_allclose(both.std(), np.sqrt(2), rtol=0.1)  # the same noise twice would give 2


def test_noise_belongs_to_the_id_of_a_node() -> None:
    """Whoever stands beside it, and in what order."""
    order = np.array([2, 0, 3, 1])
    local = algorithms.local_updates(silent(), noise())
    start = jnp.zeros((NUM, DIMENSION))
    key = jax.random.key(3)
    plain, _, _ = local.run(key, start, local.init(start), jnp.arange(NUM))
    turned, _, _ = local.run(key, start, local.init(start), jnp.asarray(order))
    np.testing.assert_array_equal(turned, plain[order])
    one, _, _ = local.run(key, start[:1], local.init(start[:1]), jnp.asarray([2]))
    np.testing.assert_array_equal(one[0], plain[2])


@pytest.mark.parametrize("name", ["isolated_training", "fedavg", "old key"])
def test_a_resumed_run_draws_what_an_unbroken_one_does(name: str, tmp_path: pathlib.Path) -> None:
    make = {**STACKED, "fedavg": lambda: algorithms.fedavg(silent(), noise(), server_optimizer=noise(1))}[name]

    def run(num_steps: int, **options: Any) -> Any:
        return dlsim.simulate(dlsim.learn(silent(), make(), networks.ring(NUM)), seed=0, num_steps=num_steps, **options)

    unbroken = run(6)
    run(3, checkpoint_dir=str(tmp_path))
    resumed = run(6, checkpoint_dir=str(tmp_path), resume=True)
    for a, b in zip(jax.tree.leaves(unbroken.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_annealed_noise_goes_by_the_round_at_clients() -> None:
    """Variance 1 / (1 + round)^gamma: at gamma = 2 round t has standard deviation 1 / (1 + t)."""
    optimizer = optax.chain(optax.add_noise(1.0, 2.0, key=0), optax.scale(-1.0))
    found = moved(algorithms.fedavg(silent(), optimizer), steps=5, network=networks.ring(NUM))
    np.testing.assert_allclose(found.std(axis=(1, 2)) * np.sqrt(NUM), 1 / np.arange(1, 6), rtol=0.3)


def test_noise_of_gossiping_nodes_at_events() -> None:
    algorithm = algorithms.gossip_learning(silent(), noise(), merge="average")
    found = np.stack(
        [
            moved(algorithm, seed=seed, network=networks.complete(NUM), timing=clocks.timing(window=4.0))
            for seed in (0, 1)
        ]
    )
    assert np.isfinite(found).all()
    x = found[0].sum(axis=0)
    assert all(np.abs(x[i] - x[j]).max() > 1e-3 for i in range(NUM) for j in range(i)), "two nodes are alike"
    assert not np.allclose(found[0], found[1])


def test_private_sgd_by_example_is_refused() -> None:
    """`optax.contrib.dpsgd` wants gradients by example: rows of a matrix would be taken for examples without a word."""
    problem = dlsim.problems.classification(num_nodes=5, model="softmax")
    optimizer = optax.chain(optax.contrib.differentially_private_aggregate(1.0, 1.0, key=0), optax.sgd(0.1))
    process = dlsim.learn(problem, algorithms.dsgd(problem, optimizer), networks.ring(5))
    with pytest.raises(
        ValueError, match=r"^dsgd: optimizer must be one whose updates have the shapes of the parameters"
    ):
        dlsim.simulate(process, seed=0, num_steps=1)
