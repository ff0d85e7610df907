"""Networks brought into one order of hidden units before they are merged."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from scipy.optimize import linear_sum_assignment

import dlsim
from dlsim.aggregators.aligned import orders_of
from dlsim.aggregators.matching import correlations
from dlsim.networks.network import Inbox

aggregators, problems = dlsim.aggregators, dlsim.problems


class Normed(linen.Module):
    """An image through a convolution and a dense layer, a BatchNorm before each ReLU."""

    @linen.compact
    def __call__(self, inputs: Any, train: bool = False) -> Any:
        x = linen.Conv(3, (3, 3), use_bias=False)(inputs.reshape(-1, 4, 4, 1))
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.Dense(6)(x.reshape(x.shape[0], -1))
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        return linen.Dense(3)(x)


class Skipping(linen.Module):
    """A layer whose inputs are added to its outputs: one stream, two layers that write to it."""

    @linen.compact
    def __call__(self, inputs: Any) -> Any:
        x = linen.relu(linen.Dense(6)(inputs.reshape(inputs.shape[0], -1)))
        return linen.Dense(3)(x + linen.relu(linen.Dense(6)(x)))


def problem_of(model: Any, num_nodes: int = 4) -> dlsim.Problem:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 64)
    inputs = (rng.normal(size=(64, 4, 4)) + labels[:, None, None]).astype(np.float32)
    return problems.classification(
        problems.dataset(inputs, labels, test_inputs=inputs, test_labels=labels), num_nodes, model=model, batch_size=8
    )


PROBLEMS = {name: problem_of(model) for name, model in {"mlp": problems.mlp((6, 5)), "normed": Normed()}.items()}
INPUTS = np.random.default_rng(1).normal(size=(40, 4, 4)).astype(np.float32)


def models(problem: dlsim.Problem, num: int, seed: int = 0) -> Any:
    """Models whose biases, scales and statistics are no constants; `[num, ...]`."""
    made = jax.vmap(problem.init)(jax.random.split(jax.random.key(seed), num))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.5 * rng.random(leaf.shape), leaf.dtype), made)


def re_ordered(problem: dlsim.Problem, model: Any, seed: int) -> Any:
    """One model with the units of every layer in a random order."""
    units = problems.hidden_units(problem.model, (4, 4))
    rng = np.random.default_rng(seed)
    return units.permute(model, [jnp.asarray(rng.permutation(space.size)) for space in units.spaces])


def outputs(problem: dlsim.Problem, params: Any) -> np.ndarray:
    return np.asarray(jax.vmap(problem.model.apply, (0, None))(params, jnp.asarray(INPUTS)))


def one(tree: Any, i: int = 0) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def test_the_assignment_is_the_optimum_on_the_device() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(3, 4, 17, 17))
    tied = rng.integers(0, 3, size=(3, 4, 17, 17)).astype(float)
    solve = jax.jit(aggregators.linear_assignment)
    for scores in (normal, tied, np.zeros_like(tied)):
        found = np.asarray(solve(scores.astype(np.float32)))
        assert found.shape == (3, 4, 17) and found.dtype == np.int32
        for place in np.ndindex(3, 4):
            matrix = scores[place].astype(np.float32)
            best = matrix[linear_sum_assignment(matrix, maximize=True)].sum()
            assert sorted(found[place]) == list(range(17))
            np.testing.assert_allclose(matrix[np.arange(17), found[place]].sum(), best, rtol=1e-5, atol=1e-5)
    assert solve(np.zeros((1, 1), np.float32)).tolist() == [0]
    assert aggregators.linear_assignment(np.eye(4)[[2, 0, 3, 1]]).tolist() == [2, 0, 3, 1]
    # Not a number is worst, and nothing goes round for ever.
    bad = np.full((3, 3), np.nan, np.float32)
    bad[0, 2] = 1
    assert aggregators.linear_assignment(bad)[0] == 2
    with pytest.raises(ValueError, match=r"linear_assignment: scores must be square matrices \[..., H, H\]"):
        aggregators.linear_assignment(np.zeros((2, 3)))


def test_the_example_by_hand() -> None:
    """W1 = I, W2 = (3, 4) and the same with its units swapped: C, q and the merge are known."""
    inputs = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    own, heard = inputs, inputs[:, ::-1]  # what the two units of each make of them, after ReLU
    scores = correlations(own, heard)
    np.testing.assert_allclose(scores, [[-0.5, 1], [1, -0.5]], atol=1e-6)
    assert aggregators.linear_assignment(scores).tolist() == [1, 0]
    data = problems.dataset(np.asarray(inputs), np.array([3.0, 4.0, 7.0]), regression=True)
    small = problems.supervised(problems.mlp((2,)), data, problems.partition(data, 1, problems.iid()), batch_size=1)
    layers = {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
    first = {**layers, "Dense_1": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.zeros(1)}}
    other = {
        "Dense_0": {"kernel": jnp.eye(2)[::-1], "bias": jnp.zeros(2)},
        "Dense_1": {"kernel": jnp.array([[4.0, 3.0]]), "bias": jnp.zeros(1)},
    }
    turned = aggregators.align(aggregators.activation_matching(small, inputs), first, other)
    merged = jax.tree.map(lambda a, b: (a + b) / 2, first, turned)
    jax.tree.map(np.testing.assert_array_equal, merged, first)
    np.testing.assert_allclose(small.model.apply(merged, inputs)[:, 0], [3, 4, 7], rtol=1e-6)
    plain = jax.tree.map(lambda a, b: (a + b) / 2, first, other)
    np.testing.assert_allclose(small.model.apply(plain, inputs)[:, 0], [3.5, 3.5, 7], rtol=1e-6)
