"""Local epochs: every node goes through its own data, each example once an epoch, the last batch as large as it is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from oracles.epochs import trained

import dlsim
from dlsim import algorithms, keys, networks, problems
from dlsim.core import Array, Problem
from dlsim.problems.sampling import permutations

SIZES = np.array([3, 8, 5, 4], np.int32)
NUM, FEATURES, BATCH, RATE = len(SIZES), 3, 3, 0.05
IDS = jnp.arange(NUM)
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)[:-1]]).astype(np.int32)
_RNG = np.random.default_rng(0)
INPUTS = _RNG.normal(size=(int(SIZES.sum()), FEATURES)).astype(np.float32)
TARGETS = _RNG.normal(size=int(SIZES.sum())).astype(np.float32)


def problem(**options: Any) -> Problem:
    """Least squares, 1/2 (a'x - b)^2, on uneven data: node i holds SIZES[i] examples."""
    data = problems.dataset(INPUTS, TARGETS, test_inputs=INPUTS, test_labels=TARGETS, regression=True)
    parts = problems.Partition(np.arange(len(INPUTS), dtype=np.int32), OFFSETS, SIZES)
    linear = problems.Model(init=lambda key: jnp.zeros(FEATURES), apply=lambda x, inputs: (inputs @ x)[:, None])
    return problems.supervised(linear, data, parts, batch_size=BATCH, **options)


def orders(key: Array, epochs: int) -> np.ndarray:
    """The orders that the nodes draw, `[E, N, largest]`."""
    stream = keys.stream(key, "epoch")
    draws = [keys.stream(keys.fold_in(stream, e), "order") for e in range(epochs)]
    return np.stack([permutations(draw, IDS, jnp.asarray(SIZES), int(SIZES.max())) for draw in draws])


def expected(key: Array, start: np.ndarray, epochs: int, batch: int = BATCH) -> np.ndarray:
    drawn = orders(key, epochs)
    examples = [slice(o, o + s) for o, s in zip(OFFSETS, SIZES, strict=True)]
    return np.stack(
        [
            trained(start, INPUTS[own], TARGETS[own], drawn[:, i, : SIZES[i]], batch, RATE)
            for i, own in enumerate(examples)
        ]
    )


@pytest.mark.parametrize("node_block", [None, 3])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_node_takes_the_steps_of_its_own_data(epochs: int, node_block: int | None) -> None:
    local = algorithms.local_updates(problem(node_block=node_block), optax.sgd(RATE), num_local_epochs=epochs)
    start = jnp.zeros((NUM, FEATURES)) + 0.1
    key = jax.random.key(5)
    found, _, info = local.run(key, start, local.init(start), IDS)
    np.testing.assert_allclose(found, expected(key, np.full(FEATURES, 0.1), epochs), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(local.steps_of(IDS), epochs * -(-SIZES // BATCH))
    np.testing.assert_array_equal(info["num_gradients"], epochs * SIZES)
    assert local.num_steps == epochs * 3


def test_the_loss_is_that_of_the_batches_of_each_node() -> None:
    """At rate zero the mean over batches of the mean over each, by hand."""
    local = algorithms.local_updates(problem(), optax.sgd(0.0), num_local_epochs=2)
    start = jnp.full((NUM, FEATURES), 0.3)
    key = jax.random.key(2)
    _, _, info = local.run(key, start, local.init(start), IDS)
    losses = 0.5 * (INPUTS @ np.full(FEATURES, 0.3) - TARGETS) ** 2
    drawn = orders(key, 2)
    for i, size in enumerate(SIZES):
        own = losses[OFFSETS[i] : OFFSETS[i] + size]
        means = [own[order[b : b + BATCH]].mean() for order in drawn[:, i, :size] for b in range(0, size, BATCH)]
        np.testing.assert_allclose(info["loss"][i], np.mean(means), rtol=1e-5)


def test_orders_are_fresh_and_belong_to_nodes() -> None:
    key, sizes = jax.random.key(0), jnp.asarray(SIZES)
    drawn = np.asarray(permutations(key, IDS, sizes, 11))
    for row, size in zip(drawn, SIZES, strict=True):
        assert sorted(row[:size]) == list(range(size))
    turned = permutations(key, IDS[::-1], sizes[::-1], 11)
    np.testing.assert_array_equal(turned[::-1], drawn)
    np.testing.assert_array_equal(permutations(key, IDS, sizes, 8), drawn[:, :8])
    first, second = orders(key, 2)
    assert any((first[i, :size] != second[i, :size]).any() for i, size in enumerate(SIZES))


def test_every_order_is_equally_likely() -> None:
    ids = jnp.arange(6000)
    drawn = np.asarray(permutations(jax.random.key(1), ids, jnp.full(6000, 3), 4))[:, :3]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 5 / 6)


METHODS = {
    "fedavg": lambda p, e: algorithms.fedavg(p, optax.sgd(RATE), num_local_epochs=e),
    "fedprox": lambda p, e: algorithms.fedprox(p, optax.sgd(RATE), num_local_epochs=e, proximal_weight=0.0),
    "fedadam": lambda p, e: algorithms.fedadam(
        p, optax.sgd(RATE), 1e4, tau=1e4, beta_1=0.0, beta_2=0.0, num_local_epochs=e
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_servers_average_them_by_examples(name: str) -> None:
    """FedAvg's Algorithm 1: B examples a batch, E epochs, weights n_k / n."""
    made = problem()
    algorithm = METHODS[name](made, 2)
    network, key = networks.ring(NUM), jax.random.key(7)
    state = algorithm.init(key, jnp.zeros((NUM, FEATURES)), network)
    state, _, _ = jax.jit(algorithm.step)(key, state, network)
    trained_models = expected(key, np.zeros(FEATURES), 2)
    np.testing.assert_allclose(state.params, np.average(trained_models, axis=0, weights=SIZES), rtol=2e-4, atol=1e-5)


def test_scaffold_divides_by_the_steps_of_each_client() -> None:
    """From c = 0 the first c_i+ is (x - y_i) / (K_i eta), K_i = E ceil(m_i / B)."""
    algorithm = algorithms.scaffold(problem(), RATE, num_local_epochs=2)
    network, key = networks.ring(NUM), jax.random.key(7)
    state = algorithm.init(key, jnp.zeros((NUM, FEATURES)), network)
    state, _, _ = algorithm.step(key, state, network)
    reach = RATE * 2 * -(-SIZES // BATCH)
    moved = expected(key, np.zeros(FEATURES), 2)
    np.testing.assert_allclose(state.client_control_variates, -moved / reach[:, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dsgd", "choco_sgd", "stochastic_gradient_push", "relay_sgd", "isolated_training"])
def test_decentralised_methods_mix_what_was_trained(name: str) -> None:
    network = networks.path(NUM) if name == "relay_sgd" else networks.ring(NUM)
    made = problem()
    algorithm = getattr(algorithms, name)(made, optax.sgd(RATE), num_local_epochs=2)
    key = jax.random.key(7)
    process = dlsim.learn(made, algorithm, network)
    run = dlsim.simulate(process, seed=0, num_steps=3)
    assert run.status.ok
    assert run.results.gradient_evaluations.values[-1] == 3 * 2 * SIZES.sum()
    if name in ("dsgd", "isolated_training"):
        state = algorithm.init(key, jnp.zeros((NUM, FEATURES)), network)
        state, _, _ = algorithm.step(key, state, network)
        moved = expected(key, np.zeros(FEATURES), 2)
        matrix = ring_of_four() if name == "dsgd" else np.eye(NUM)
        np.testing.assert_allclose(state.params, matrix @ moved, rtol=1e-4, atol=1e-5)


def ring_of_four() -> np.ndarray:
    """Metropolis-Hastings weights: a third to oneself and to either neighbour."""
    shift = np.roll(np.eye(4), 1, axis=1)
    return (np.eye(4) + shift + shift.T) / 3


def test_absent_nodes_do_not_train() -> None:
    made = problem()
    algorithm = algorithms.dsgd(made, optax.sgd(RATE, momentum=0.5), num_local_epochs=1)
    network = networks.ring(NUM).replace(is_present=IDS != 1)
    state = algorithm.init(jax.random.key(0), jnp.zeros((NUM, FEATURES)), network)
    after, _, info = algorithm.step(jax.random.key(1), state, network)
    np.testing.assert_array_equal(after.params[1], state.params[1])
    assert int(info["num_gradients"][1]) == 0 and int(info["num_gradients"][0]) == SIZES[0]


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^dsgd: problem must be one with examples to go through"):
        algorithms.dsgd(six_nodes.problem(), optax.sgd(RATE), num_local_epochs=1)
    with pytest.raises(
        ValueError, match=r"^fedavg: num_local_steps must be left out where num_local_epochs is given, got 3"
    ):
        algorithms.fedavg(problem(), optax.sgd(RATE), num_local_steps=3, num_local_epochs=1)
    with pytest.raises(ValueError, match=r"^scaffold: num_local_steps must be left out"):
        algorithms.scaffold(problem(), RATE, num_local_steps=5, num_local_epochs=1)
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"^fedavg: num_local_epochs must be an integer >= 1"):
            algorithms.fedavg(problem(), optax.sgd(RATE), num_local_epochs=bad)
