"""Mixing by columns is mixing, whatever the block; and a round of it needs no second copy of what is mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import networks
from dlsim.networks import columns
from dlsim.running.programs import compile_traced, single, trace

KEY = jax.random.key(5)
GRAPHS = {
    "neighbors": lambda: networks.random_regular(12, degree=4, seed=1),
    "hub": lambda: networks.star(24).with_lowering("neighbors"),  # more neighbours than one fused loop sums
    "edges": lambda: networks.star(24).with_lowering("edges"),
    "shifts": lambda: networks.torus(12),
    "dense": lambda: networks.random_regular(12, degree=4, seed=1).with_lowering("dense"),
    "push": lambda: networks.from_matrix(np.array([[0.5, 0.0, 0.2], [0.5, 0.7, 0.0], [0.0, 0.3, 0.8]])),
}


def small_blocks(monkeypatch, num_bytes: int) -> None:
    monkeypatch.setattr(columns, "BLOCK_BYTES", num_bytes)
    monkeypatch.setattr(columns, "LEAST_BYTES", 0)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("width", [1, 48, 83])
def test_blocks_change_nothing(monkeypatch, name, width):
    network = GRAPHS[name]()
    x = 5 + jax.random.normal(KEY, (network.num_nodes, width))
    other = jax.random.normal(jax.random.key(6), x.shape)
    packet, _ = network.send(KEY, x)
    expected = [network.mix(KEY, x)[0], network.combine(packet, other)]
    small_blocks(monkeypatch, 16 * 4 * network.num_nodes)
    assert columns.block_columns(x, x) == (16 if width > 16 else width)
    made = [jax.jit(lambda x: network.mix(KEY, x)[0])(x), jax.jit(network.combine)(packet, other)]
    for want, got in zip(expected, made, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    matrix = np.zeros((network.num_nodes,) * 2)
    matrix[np.asarray(network.receivers), np.asarray(network.senders)] = np.asarray(network.edge_weights)
    matrix += np.diag(np.asarray(network.self_weights))
    np.testing.assert_allclose(made[0], matrix @ np.asarray(x, np.float64), rtol=1e-6, atol=1e-6)


def test_blocks_side_by_side(monkeypatch):
    """A leading axis of runs, as seeds have."""
    network = GRAPHS["neighbors"]()
    x = jax.random.normal(KEY, (3, 12, 70))
    expected = jnp.stack([network.mix(KEY, row)[0] for row in x])
    small_blocks(monkeypatch, 16 * 4 * 12)
    made = jax.jit(jax.vmap(lambda row: network.mix(KEY, row)[0]))(x)
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)


def test_block_sizes():
    def size(rows: int, width: int, dtype=jnp.float32) -> int:
        x = jax.ShapeDtypeStruct((rows, width), dtype)
        return columns.block_columns(x, x)

    assert size(1000, 100_352) == 256  # of 262: 392 blocks of whole lines, and no remainder
    assert size(1000, 100_352, jnp.bfloat16) == 512  # half the bytes, twice the columns
    assert size(1000, 128) == 128  # fits as it is
    assert size(1000, 7_840) == 7_840  # less than 32 MiB in all
    assert size(2000, 7_840) == 112  # 70 blocks
    assert size(100, 101) == 101
    assert size(1000, 100_003) == 256  # a prime: whole lines, and a remainder
    assert size(10**6, 784) == 16  # never less than a line


def test_a_round_needs_no_second_copy(monkeypatch):
    """Parameters and optimiser states are updated and mixed where they lie: nothing of a leaf's size beside them."""
    monkeypatch.setattr(columns, "LEAST_BYTES", 0)
    model = dlsim.problems.mlp(hidden=(1024,))
    problem = dlsim.problems.classification("digits", num_nodes=50, model=model, batch_size=4, node_block=2)
    network = networks.random_regular(50, degree=4, seed=0).with_lowering("neighbors")
    process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.adam(1e-3)), network)
    traced = trace(lambda _: (process, lambda state, info: {"loss": jnp.mean(info["loss"])}), {}, KEY)
    program = compile_traced(traced, single(traced, KEY))
    leaf = 4 * 50 * 1024 * 64  # the first layer
    assert program.advance.memory_analysis().temp_size_in_bytes < 0.5 * leaf
