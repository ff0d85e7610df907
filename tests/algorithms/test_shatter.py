"""Shatter against a loop over virtual nodes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes as six

import dlsim
from dlsim import algorithms, keys, networks, problems
from dlsim.networks.scenes.dynamics import drawn_regular
from dlsim.running.counters import to_float

PROBLEM, NETWORK = six.problem(), six.network()
VIRTUAL, DEGREE = 3, 4
SHATTER = algorithms.shatter(PROBLEM, optax.sgd(six.RATE), num_virtual_nodes=VIRTUAL, degree=DEGREE)


def receivers(t: int, seed: int = 0) -> np.ndarray:
    """[N, v, r] the nodes that each virtual node's chunk goes to in round t."""
    key = keys.stream(jax.random.fold_in(jax.random.key(seed), t), "virtual nodes")
    ids = jnp.arange(six.NUM_NODES * VIRTUAL, dtype=jnp.int32)
    return np.asarray(drawn_regular(key, ids, DEGREE)).reshape(six.NUM_NODES, VIRTUAL, DEGREE) // VIRTUAL


def test_a_loop_over_virtual_nodes() -> None:
    states = six.play(SHATTER, NETWORK)
    x, gradient = six.start(), six.gradients(PROBLEM)
    models, messages, bits = [x], 0, 0
    for t, present in enumerate(six.ROLL_CALL):
        y = np.stack([x[i] - six.RATE * gradient(i, x[i]) if present[i] else x[i] for i in range(six.NUM_NODES)])
        total, heard = y.copy(), np.ones_like(y)
        for i, chunks in enumerate(receivers(t)):
            for p, to in enumerate(chunks):
                for j in to:
                    if present[i] and present[j]:
                        total[j, p::VIRTUAL] += y[i, p::VIRTUAL]
                        heard[j, p::VIRTUAL] += 1
                        messages += int(i != j)
                        bits += 32 * len(y[i, p::VIRTUAL]) * int(i != j)
        x = np.where(present[:, None], total / heard, x)
        models.append(x)
    six.agree(six.models(states), np.stack(models))
    traffic = states[-1][1].traffic
    assert to_float(traffic.messages).sum() == messages and to_float(traffic.bits).sum() == bits


def test_the_graph_is_regular_and_another_one_each_round() -> None:
    ids = jnp.arange(24, dtype=jnp.int32)
    first, second = (np.asarray(drawn_regular(jax.random.key(t), ids, 5)) for t in (0, 1))
    for drawn in (first, second):
        assert (np.bincount(drawn.ravel(), minlength=24) == 5).all()
        assert all(len(set(row) | {i}) == 6 for i, row in enumerate(drawn.tolist()))
    assert (first != second).any()


def test_leaves_of_several_shapes_come_back_as_they_were() -> None:
    """At rate 0 from one start nothing moves, however the numbers of a model are dealt out."""
    data = problems.synthetic_classification(60, 4, 3)
    problem = problems.supervised("softmax", data, problems.partition(data, 6, problems.iid()), batch_size=2)
    algorithm = algorithms.shatter(problem, optax.sgd(0.0), num_virtual_nodes=4, degree=3)
    run = dlsim.simulate(dlsim.learn(problem, algorithm, networks.ring(6)), seed=0, num_steps=2, progress=False)
    for leaf in jax.tree.leaves(run.params):
        np.testing.assert_allclose(leaf[0], np.broadcast_to(leaf[0, :1], leaf[0].shape), rtol=1e-6)
    assert run.results.accuracy.values[-1] == run.results.accuracy.values[0]


def test_nobody_hears_a_whole_model_from_one_node() -> None:
    """Of sixteen chunks on a graph of degree 2, who hears most of one node hears a few."""
    drawn = np.asarray(drawn_regular(jax.random.key(3), jnp.arange(100 * 16, dtype=jnp.int32), 2)) // 16
    pairs = np.zeros((100, 100), int)
    np.add.at(pairs, (np.repeat(np.arange(100), 32), drawn.reshape(-1)), 1)
    assert pairs.sum() == 3200 and pairs.max() <= 5


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_virtual_nodes": 0}, "shatter: num_virtual_nodes must be an integer >= 1, got 0"),
        ({"degree": 0}, "shatter: degree must be an integer >= 1, got 0"),
        (
            {"num_virtual_nodes": 2, "degree": 12},
            "shatter: degree must be below the 12 virtual nodes there are, got 12",
        ),
        ({"num_virtual_nodes": 5}, "shatter: num_virtual_nodes must be at most the 4 numbers of a model, got 5"),
    ],
)
def test_refusals(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        algorithm = algorithms.shatter(PROBLEM, optax.sgd(0.1), **options)
        dlsim.learn(PROBLEM, algorithm, NETWORK).init(jax.random.key(0))
