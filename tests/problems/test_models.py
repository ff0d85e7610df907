"""Models by name, by hand and from flax; what cannot be node-stacked is refused in one line."""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from dlsim.problems.models import Model, from_flax, lenet, mlp, resolve, softmax_regression

KEY = jax.random.key(0)


def data(shape=(28, 28, 1), num_classes=10):
    return SimpleNamespace(inputs=np.zeros((3, *shape), np.uint8), num_classes=num_classes)


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(model.init(KEY)))


@pytest.mark.parametrize(
    ("model", "num_params"),
    [
        ("softmax", 7_850),
        ("mlp", 784 * 64 + 64 + 64 * 10 + 10),
        (mlp((128,)), 101_770),
        (mlp(()), 7_850),
        ("lenet", 25 * 16 + 16 + 25 * 16 * 32 + 32 + 7 * 7 * 32 * 10 + 10),
        (lenet((6, 16), (120, 84)), 156 + 2_416 + (784 * 120 + 120) + (120 * 84 + 84) + 850),
    ],
)
def test_named_models(model, num_params):
    made = resolve(model, data())
    assert count(made) == num_params
    assert made.apply(made.init(KEY), jnp.ones((4, 28, 28, 1))).shape == (4, 10)


def test_softmax_is_a_matrix_product_and_starts_at_zero():
    model = softmax_regression()((6,), 3)
    params = model.init(KEY)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(params))
    x = jax.random.normal(KEY, (5, 6))
    params = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), params)
    kernel, bias = (next(v for v in jax.tree.leaves(params) if v.ndim == d) for d in (2, 1))
    np.testing.assert_allclose(model.apply(params, x), x @ kernel.T + bias, rtol=1e-5, atol=1e-6)


def test_mlp_layers_start_with_variance_one_over_fan_in():
    params = mlp((200,))((500,), 10).init(KEY)
    kernels = sorted((leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2), key=lambda k: -k.shape[1])
    for kernel, fan_in in zip(kernels, (500, 200), strict=True):
        assert kernel.shape[1] == fan_in
        assert float(jnp.var(kernel)) == pytest.approx(1 / fan_in, rel=0.1)


def test_lenet_equals_the_same_network_of_flax_layers():
    class Plain(linen.Module):
        @linen.compact
        def __call__(self, x):
            for width in (16, 32):
                x = linen.Conv(width, (5, 5), conv_general_dilated=jax.lax.conv_general_dilated)(x)
                x = linen.max_pool(linen.relu(x), (2, 2), strides=(2, 2))
            return linen.Dense(10)(x.reshape(x.shape[0], -1))

    model = lenet()((28, 28, 1), 10)
    params = model.init(KEY)
    plain = {
        "Conv_0": params["Conv_0"],
        "Conv_1": params["Conv_1"],
        "Dense_0": {**params["Dense_0"], "kernel": params["Dense_0"]["kernel"].T},
    }
    x = jax.random.normal(KEY, (2, 28, 28, 1))
    np.testing.assert_allclose(model.apply(params, x), Plain().apply({"params": plain}, x), rtol=1e-4, atol=1e-5)


def test_lenet_takes_images_without_a_channel_axis_and_refuses_vectors():
    assert resolve("lenet", data((8, 8))).apply(resolve("lenet", data((8, 8))).init(KEY), jnp.ones((2, 8, 8))).shape
    with pytest.raises(ValueError, match=r"lenet: inputs must be images .* got \[30\]\. Use model=\"mlp\""):
        resolve("lenet", data((30,)))


class Small(linen.Module):
    num_outputs: int = 10

    def setup(self):
        self.conv = linen.Conv(4, (3, 3))

    @linen.compact
    def __call__(self, x):
        x = linen.GroupNorm(2)(linen.relu(self.conv(x)))
        return linen.Dense(self.num_outputs)(x.reshape(x.shape[0], -1))


def test_any_flax_module_is_taken_and_its_convolutions_become_products():
    module = Small()
    model = resolve(module, data((8, 8, 1)))
    params, x = model.init(KEY), jax.random.normal(KEY, (2, 8, 8, 1))
    jaxpr = str(jax.make_jaxpr(model.apply)(params, x))
    assert "conv_general_dilated" not in jaxpr and "dot_general" in jaxpr
    np.testing.assert_allclose(model.apply(params, x), module.apply({"params": params}, x), rtol=1e-4, atol=1e-5)
    # The user's module is as it was.
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda p: module.apply({"params": p}, x))(params))


def test_a_convolution_named_by_the_user_is_kept():
    class Own(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(2, (3, 3), conv_general_dilated=jax.lax.conv_general_dilated)(x)
            return x.reshape(x.shape[0], -1)[:, :10]

    model = from_flax(Own(), (8, 8, 1))
    assert "conv_general_dilated" in str(jax.make_jaxpr(model.apply)(model.init(KEY), jnp.ones((1, 8, 8, 1))))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lennet", r"resolve: model must be one of lenet, .*Did you mean 'lenet'\?"),
        (3, r"resolve: model must be one of softmax, mlp, lenet, a Model, a flax module .* got 3"),
        (Small, r"resolve: model must be .* \(an instance\)"),
        (Small(num_outputs=7), r"outputs must be of shape \[B, 10\], one for each class, got \[2, 7\] for B = 2"),
    ],
)
def test_bad_models_get_one_clear_line(model, message):
    with pytest.raises(ValueError, match=message):
        resolve(model, data())


def test_from_flax_asks_for_an_instance():
    with pytest.raises(ValueError, match=r"from_flax: module must be a flax.linen module, got the class Small"):
        from_flax(Small, (28, 28, 1))


def test_a_model_by_hand_for_a_regression():
    model = Model(init=lambda key: {"w": jnp.zeros(5)}, apply=lambda params, x: x @ params["w"])
    assert resolve(model, data((5,), 0)) is model
    with pytest.raises(ValueError, match="outputs must be of shape"):
        resolve(model, data((5,), 10))


# flax.nnx


class NnxNet(nnx.Module):
    """A convolution, a list of layers (whose keys are whole numbers), and dropout where it is asked for."""

    def __init__(self, num_outputs=10, width=8, *, rngs, rate=None, depth=1):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        sizes = [6 * 6 * 4, *[width] * depth, num_outputs]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.dropout = None if rate is None else nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x).reshape(x.shape[0], -1)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x if self.dropout is None else self.dropout(x))


SIX = (6, 6, 1)


def of_rngs(rngs):
    return NnxNet(rngs=rngs, depth=11)  # twelve layers: "10" sorts before "2"


def test_an_nnx_module_made_of_rngs_starts_anew_with_every_key_and_computes_what_nnx_does():
    model = resolve(of_rngs, data(SIX))
    x = jax.random.normal(KEY, (3, *SIX))
    for seed in range(2):
        key = jax.random.key(seed)
        params = model.init(key)
        module = of_rngs(nnx.Rngs(key))
        np.testing.assert_allclose(model.apply(params, x), module(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(params["layers"]["11"]["kernel"], module.layers[11].kernel[...])
    partial = functools.partial(NnxNet, 10, depth=11)
    np.testing.assert_array_equal(resolve(partial, data(SIX)).init(key)["conv"]["kernel"], params["conv"]["kernel"])
    stacked = jax.vmap(model.init)(jax.random.split(KEY, 3))
    outputs = jax.vmap(model.apply, (0, None))(stacked, x)
    assert outputs.shape == (3, 3, 10) and not np.allclose(outputs[0], outputs[1])
    gradient = jax.grad(lambda p: model.apply(p, x).sum())(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(model.apply)(params, x))


def test_an_nnx_module_made_already_starts_with_its_own_values_and_stays_as_it_is():
    module = NnxNet(rngs=nnx.Rngs(5))
    with pytest.warns(UserWarning, match=r"from_flax: all nodes and all seeds start with the values .* NnxNet") as said:
        model = from_flax(module, SIX)
    assert said[0].filename == __file__
    x = jax.random.normal(KEY, (3, *SIX))
    for seed in range(2):
        np.testing.assert_allclose(model.apply(model.init(jax.random.key(seed)), x), module(x), rtol=1e-4, atol=1e-5)
    assert module.conv.conv_general_dilated is jax.lax.conv_general_dilated
    stacked = jax.vmap(model.init)(jax.random.split(KEY, 3))
    np.testing.assert_array_equal(stacked["conv"]["kernel"][2], module.conv.kernel[...])


def test_bad_nnx_models_get_one_clear_line():
    with pytest.raises(ValueError, match=r"NnxNet must be a module that can be applied to inputs \[1, 5, 5, 1\]"):
        resolve(of_rngs, data((5, 5, 1)))
    with pytest.raises(ValueError, match=r"outputs must be of shape \[B, 7\]"):
        resolve(of_rngs, data(SIX, 7))
    with pytest.raises(
        ValueError, match=r"resolve: model must be a function of \(input_shape, num_outputs\) .* got len"
    ):
        resolve(len, data(SIX))
    with pytest.raises(
        ValueError, match=r"resolve: model\(input_shape, num_outputs\) must be a Model, got \(\(6, 6, 1\), 10\)"
    ):
        resolve(lambda shape, num: (shape, num), data(SIX))
    with pytest.raises(ValueError, match=r"from_flax: module must be a function of rngs that makes .* got int"):
        from_flax(lambda rngs: 3, SIX)
