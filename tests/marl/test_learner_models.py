"""Networks of learners, and what their outputs stand for."""

import inspect
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments.probes import probe
from flax import linen as nn

from dlsim import marl
from dlsim.marl.distributions import categorical, normal

SEEN = jax.random.normal(jax.random.key(0), (6, 3, 2, 2))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_memory_is_forgotten_where_it_is_told_to(layer_norm):
    net = marl.recurrent(8, layer_norm=layer_norm).build(4, 1.0)
    params = net.init(jax.random.key(1), SEEN[0, 0])
    resets = jnp.zeros((6, 3), bool).at[3].set(True)
    memory, whole = net.apply(params, net.memory(3), SEEN, resets)
    assert whole.shape == (6, 3, 4) and memory.shape == (3, 8)
    later, rest = net.apply(params, net.memory(3), SEEN[3:], resets[3:])
    np.testing.assert_allclose(whole[3:], rest, atol=1e-6)
    np.testing.assert_allclose(memory, later, atol=1e-6)
    _, remembered = net.apply(params, net.memory(3), SEEN, jnp.zeros((6, 3), bool))
    assert float(jnp.abs(remembered[3:] - rest).max()) > 1e-3
    # Step by step is the same as all steps at once.
    memory = net.memory(3)
    for t in range(6):
        memory, one = net.apply(params, memory, SEEN[t : t + 1], resets[t : t + 1])
        np.testing.assert_allclose(one[0], whole[t], atol=1e-6)


def test_a_gated_unit_is_the_plain_one():
    net = marl.recurrent(5, embedding=(), activation="tanh").build(2, 1.0)
    params = net.init(jax.random.key(2), SEEN[0, 0])
    tree = jax.tree.map(np.asarray, params["params"])
    cell = next(value for key, value in tree.items() if "Forgetful" in key or "scan" in key.lower())["GRUCell_0"]
    last, middle = tree["Dense_1"], tree["Dense_0"]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    dense = lambda name, x: x @ cell[name]["kernel"] + cell[name].get("bias", 0)  # noqa: E731
    hidden = np.zeros((3, 5))
    _, found = net.apply(params, net.memory(3), SEEN, jnp.zeros((6, 3), bool))
    for t in range(6):
        seen = np.asarray(SEEN[t]).reshape(3, 4)
        reset = sigmoid(dense("ir", seen) + dense("hr", hidden))
        update = sigmoid(dense("iz", seen) + dense("hz", hidden))
        new = np.tanh(dense("in", seen) + reset * dense("hn", hidden))
        hidden = (1 - update) * new + update * hidden
        out = np.tanh(hidden @ middle["kernel"] + middle["bias"]) @ last["kernel"] + last["bias"]
        np.testing.assert_allclose(found[t], out, atol=1e-5)


def test_dense_layers_start_orthogonal_and_flatten():
    net = marl.feedforward((7,), activation="relu").build(3, 0.01)
    params = net.init(jax.random.key(3), SEEN[0, 0])["params"]
    kernel = np.asarray(params["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(4), atol=1e-5)
    assert np.abs(params["Dense_1"]["kernel"]).max() <= 0.011 and not net.is_recurrent
    _, found = net.apply({"params": params}, (), SEEN, jnp.zeros((6, 3), bool))
    flat = np.asarray(SEEN).reshape(6, 3, 4)
    expected = np.maximum(flat @ kernel + params["Dense_0"]["bias"], 0) @ params["Dense_1"]["kernel"]
    np.testing.assert_allclose(found, expected + params["Dense_1"]["bias"], atol=1e-5)


def test_any_flax_module_serves():
    class Sum(nn.Module):
        outputs: int

        @nn.compact
        def __call__(self, seen):
            return nn.Dense(self.outputs)(jnp.sum(seen, axis=(1, 2))[:, None])

    net = marl.from_flax(Sum).build(3, 0.01)
    params = net.init(jax.random.key(4), SEEN[0, 0])
    _, found = net.apply(params, (), SEEN, jnp.zeros((6, 3), bool))
    expected = SEEN.sum((2, 3))[..., None] * params["params"]["Dense_0"]["kernel"][0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    wrong = marl.from_flax(lambda outputs: Sum(outputs + 1)).build(3, 0.01)
    with pytest.raises(ValueError, match=r"from_flax: outputs must be of shape \[18, 3\]"):
        wrong.apply(wrong.init(jax.random.key(4), SEEN[0, 0]), (), SEEN, jnp.zeros((6, 3), bool))


def test_chances_of_actions():
    chances = categorical(4)
    outputs = jnp.array([0.1, 2.0, -1.0, 0.5])
    allowed = jnp.array([True, False, True, True])
    plain = np.exp(np.asarray(outputs, np.float64)) * np.asarray(allowed)
    plain /= plain.sum()
    for action in (0, 2, 3):
        np.testing.assert_allclose(
            chances.log_prob(outputs, jnp.int32(action), allowed), np.log(plain[action]), rtol=1e-5
        )
    positive = plain[plain > 0]
    np.testing.assert_allclose(chances.entropy(outputs, allowed), -(positive * np.log(positive)).sum(), rtol=1e-5)
    assert int(chances.best(outputs, allowed)) == 3 and int(chances.best(outputs, None)) == 1
    drawn = jax.vmap(lambda key: chances.sample(key, outputs, allowed))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, plain, atol=0.03)


def test_normal_actions():
    from scipy import stats

    normals = normal((2, 2))
    outputs = jnp.array([0.1, 2.0, -1.0, 0.5, 0.0, -1.0, 0.5, 0.2])
    action = jnp.array([[0.0, 1.0], [2.0, -1.0]])
    plain = stats.norm(np.asarray(outputs[:4]), np.exp(np.asarray(outputs[4:])))
    np.testing.assert_allclose(normals.log_prob(outputs, action, None), plain.logpdf(action.ravel()).sum(), rtol=1e-5)
    np.testing.assert_allclose(normals.entropy(outputs, None), plain.entropy().sum(), rtol=1e-5)
    np.testing.assert_allclose(normals.best(outputs, None), outputs[:4].reshape(2, 2))
    drawn = jax.vmap(lambda key: normals.sample(key, outputs, None))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(drawn.std(0).ravel(), np.exp(outputs[4:]), rtol=0.06)


# What a learner takes stands in its signature, and so in `help`.


def options_of(learner):
    parameters = inspect.signature(learner).parameters.values()
    assert all(one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters)
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("name", ["ippo", "mappo", "iql", "vdn", "qmix", "pqn_vdn"])
def test_help_shows_every_option_and_its_default(name):
    learner = getattr(marl, name)
    options = options_of(learner)
    text = " ".join(pydoc.render_doc(learner, renderer=pydoc.plaintext).split())
    assert {"sharing", "model", "num_copies", "num_steps", "discount", "has_ids", "eval_steps"} <= set(options)
    for option, default in options.items():
        assert re.search(rf"\b{option}: .+? = {re.escape(repr(default))} ?[,)]", text), option
        assert re.search(rf"\b{option}\b", inspect.getdoc(learner)), option


def test_learners_of_one_kind_take_the_same_options():
    assert options_of(marl.ippo) == options_of(marl.mappo)
    assert options_of(marl.iql) == options_of(marl.vdn)
    assert options_of(marl.qmix) == {**options_of(marl.iql), "embedding": 32, "hidden": 128}
    with pytest.raises(TypeError, match="num_copy"):
        marl.ippo(probe("action"), num_copy=3)
