"""Gradients of DP-SGD against a loop over examples, and budgets as records."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import networks, privacy

KEY, CLIP, SIZE = jax.random.key(2), 1.5, 4


@pytest.fixture(scope="module")
def problem() -> dlsim.Problem:
    return dlsim.problems.classification("digits", num_nodes=5, model="softmax", batch_size=SIZE)


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def test_every_examples_gradient_is_clipped(problem: dlsim.Problem) -> None:
    node_ids = jnp.array([3, 1])
    settings = [(CLIP, 0.0), (1e6, 0.0), (CLIP, 2.0)]
    private = [privacy.dp_sgd(problem, clip=c, noise_multiplier=z) for c, z in settings]

    @jax.jit
    def all_of_them(key):
        params = jax.tree.map(lambda leaf: 0.1 + jnp.stack([leaf, leaf]), problem.init(key))
        batch = jax.tree.map(lambda leaf: leaf[:, :, None], problem.sample(key, node_ids))
        by_example = jax.vmap(jax.vmap(jax.grad(problem.loss), (None, 0)))(params, batch)
        return by_example, [one.gradient(key, params, node_ids) for one in (problem, *private)]

    by_example, ((plain, losses), (found, same), (loose, _), (noisy, _)) = all_of_them(KEY)
    each = np.stack([flat(jax.tree.map(lambda leaf, i=i: leaf[i], by_example)) for i in range(2)])  # [2, SIZE, 650]
    norms = np.linalg.norm(each, axis=2, keepdims=True)
    assert norms.shape[1] == SIZE and norms.max() > CLIP
    expected = (each * np.minimum(1, CLIP / norms)).mean(axis=1)
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)
    assert np.abs(flat(found) - flat(plain)).max() > 0.01
    # What nothing clips and no noise hides is the plain gradient.
    np.testing.assert_allclose(flat(loose), flat(plain), atol=1e-5)
    np.testing.assert_allclose(losses, same, rtol=1e-5)
    noise = flat(noisy) - flat(found)
    np.testing.assert_allclose(noise.std(axis=1), 2 * CLIP / SIZE, rtol=0.15)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.2


def test_what_goes_round_the_noise_is_refused(problem: dlsim.Problem) -> None:
    private = privacy.dp_sgd(problem, clip=CLIP, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="dp_sgd: algorithm must be one that asks for no exact gradients"):
        private.full_gradient(KEY, None, None)
    with pytest.raises(ValueError, match="problem must be one with examples to go through for num_local_epochs"):
        dlsim.algorithms.fedavg(private, optax.sgd(0.1), num_local_epochs=1)
    with pytest.raises(ValueError, match="dp_sgd: problem must be one with single examples, got one without"):
        privacy.dp_sgd(dlsim.problems.quadratic(4, 3), clip=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="dp_sgd: clip must be "):
        privacy.dp_sgd(problem, clip=0.0, noise_multiplier=1.0)


def test_budgets_are_recorded_from_curves_and_tables() -> None:
    problem = dlsim.problems.quadratic(4, 3, seed=0)
    network = networks.ring(4).with_channel(networks.dp_gaussian(clip=1.0, noise_multiplier=1.0))
    process = dlsim.learn(problem, dlsim.algorithms.choco_sgd(problem, optax.sgd(0.1)), network)
    state = jax.jit(process.init)(KEY)
    curve, table = privacy.gaussian(1.0), np.array([0.0, 1.0, 2.5])
    reckon, look = (jax.jit(one) for one in (privacy.spent(process, curve, 1e-5), privacy.spent(process, table)))
    for count, (_, expected) in enumerate([(0, 0.0), (1, 1.0), (2, 2.5), (3, np.inf)]):
        channels = jax.tree.map(lambda leaf, count=count: jnp.full_like(leaf, count), state.network.channels)
        at = state._replace(network=state.network._replace(channels=channels))
        assert float(look(at, {})["epsilon"]) == expected
        assert (float(reckon(at, {})["epsilon"]) > 0) == (count > 0)
    bare = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), networks.ring(4))
    with pytest.raises(ValueError, match="spent: process must be over a network whose channel is private"):
        privacy.spent(bare, curve, 1e-5)(jax.eval_shape(bare.init, KEY), {})
    with pytest.raises(ValueError, match="spent: delta must be greater than 0 and less than 1, got None"):
        privacy.spent(process, curve)
    with pytest.raises(ValueError, match="spent: mechanism must be epsilons after 0, 1, .. messages, rising"):
        privacy.spent(process, table[::-1])
