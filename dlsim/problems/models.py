"""Models of one node: pure functions of its parameters.  Any flax module, linen or nnx, will do; see `from_flax`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.problems import linen_models, nnx_models
from dlsim.problems.convolution import conv_general_dilated, max_pool
from dlsim.problems.variables import trained, with_trained

Array = jax.Array
PyTree = Any

NAMES = ("softmax", "mlp", "lenet")
DTYPES = ("float32", "bfloat16")  # that parameters are stored as


class ApplyFn(Protocol):
    def __call__(self, params: PyTree, inputs: Array, /) -> Array: ...


class TrainFn(Protocol):
    def __call__(self, key: Array, params: PyTree, inputs: Array, /) -> tuple[Array, PyTree]: ...


class Model(NamedTuple):
    """A model of one node; node-stacking is done by `vmap`."""

    init: Callable[[Array], PyTree]  # (key) -> params [...]
    apply: ApplyFn  # (params [...], inputs [B, ...]) -> outputs [B, C], as it is evaluated
    # (key, params, inputs) -> (outputs, batch_stats), as in training, where that differs; batch_stats are what becomes of
    # those of `Variables`, else None
    train: TrainFn | None = None


class ModelFn(Protocol):
    """What makes a model once the data are known; given as `model=` like a name, a Model or a flax module."""

    def __call__(self, input_shape: tuple[int, ...], num_outputs: int, /) -> Model: ...


def resolve(model: str | Model | ModelFn | Any, dataset: Any) -> Model:
    """The Model that is meant by a name (`softmax`, `mlp`, `lenet`), a Model, a flax module or a ModelFn.

    A flax module must give one output per class (one output for regression) and is checked for that.
    """
    input_shape = tuple(int(size) for size in dataset.inputs.shape[1:])
    num_outputs = dataset.num_classes or 1
    if isinstance(model, str):
        makers: dict[str, Callable[[], ModelFn]] = {"softmax": softmax_regression, "mlp": mlp, "lenet": lenet}
        made = makers[checks.one_of("resolve", "model", model, NAMES)]()(input_shape, num_outputs)
    elif isinstance(model, Model):
        made = model
    elif is_flax(model) or nnx_models.is_module(model) or nnx_models.is_factory(model):
        made = from_flax(model, input_shape)
    elif callable(model) and not isinstance(model, type):
        made = called(model, input_shape, num_outputs)
    else:
        rule = "one of " + ", ".join(NAMES) + ", a Model, a flax module (an instance) or a function that makes a Model"
        fix = (
            f"Pass {model.__name__}(...), or lambda rngs: {model.__name__}(..., rngs=rngs)." if _is_class(model) else ""
        )
        checks.fail("resolve", "model", rule, repr(model)[:80], fix)
    _check_outputs(made, input_shape, dataset.num_classes)
    return made


def called(model: Any, input_shape: tuple[int, ...], num_outputs: int) -> Model:
    """What a function of (input_shape, num_outputs) makes, or one line."""
    rule, fix = "a function of (input_shape, num_outputs) that makes a Model", "Such as mlp(hidden=(64,))."
    try:
        inspect.signature(model).bind(input_shape, num_outputs)
    except (TypeError, ValueError):
        checks.fail("resolve", "model", rule, getattr(model, "__name__", type(model).__name__), fix)
    made = model(input_shape, num_outputs)
    return checks.instance("resolve", "model(input_shape, num_outputs)", made, Model, fix)


def _is_class(model: Any) -> bool:
    return isinstance(model, type) and hasattr(model, "__call__")  # noqa: B004 -- of its instances


def stored_as(model: Model, dtype: str) -> Model:
    """The model with parameters of `dtype`; they are float32 when it is applied.  Running statistics stay as they are:
    a moving average in half precision would stand still.

    float32 means as the model makes them.
    """
    if dtype == "float32":
        return model

    def init(key: Array) -> PyTree:
        made = model.init(key)
        return with_trained(made, jax.tree.map(narrow, trained(made)))

    def narrow(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    def apply(params: PyTree, inputs: Array) -> Array:
        return model.apply(trees.widen(params), inputs)

    def train(key: Array, params: PyTree, inputs: Array) -> tuple[Array, PyTree]:
        assert model.train is not None
        return model.train(key, trees.widen(params), inputs)

    return Model(init=init, apply=apply, train=None if model.train is None else train)


@checks.typed
def softmax_regression(*, use_bias: bool = True) -> ModelFn:
    """Multinomial logistic regression, z = W x + b, on flattened inputs; starts at zero.  (One output: linear
    regression.)  The loss is convex in (W, b); without `use_bias`, z = W x."""

    def model_fn(input_shape: tuple[int, ...], num_outputs: int) -> Model:
        return from_flax(_dense_net((), num_outputs, zeros=True, use_bias=use_bias), input_shape)

    return model_fn


@checks.typed
def mlp(hidden: Sequence[int] = (64,)) -> ModelFn:
    """Fully connected layers of the given widths with ReLU between them, on flattened inputs.

    Kernels start normal with variance 1 / fan-in (truncated at two standard deviations), biases at zero.
    """
    widths = _sizes("mlp", "hidden", hidden)
    return lambda input_shape, num_outputs: from_flax(_dense_net(widths, num_outputs, zeros=False), input_shape)


@checks.typed
def lenet(features: Sequence[int] = (16, 32), hidden: Sequence[int] = ()) -> ModelFn:
    """A LeNet-style network: 5x5 convolutions with ReLU and 2x2 max pooling, then fully connected layers.

    Convolutions keep the size (zero padding).  The default, 16 and 32 features and no hidden layer, has 28,938
    parameters on 28x28 grey images; `features=(6, 16), hidden=(120, 84)` are LeNet-5's widths.
    Source: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 1998.  Differs: max
      pooling and ReLU, as has been usual since; the second convolution is padded too.
    """
    channels = _sizes("lenet", "features", features)
    widths = _sizes("lenet", "hidden", hidden)

    def model_fn(input_shape: tuple[int, ...], num_outputs: int) -> Model:
        side = 2 ** len(channels)
        if len(input_shape) not in (2, 3) or min(input_shape[:2]) < side:
            rule = f"images [height, width] or [height, width, channels] of at least {side} x {side}"
            checks.fail("lenet", "inputs", rule, list(input_shape), 'Use model="mlp".')
        return from_flax(_lenet(channels, widths, num_outputs), input_shape)

    return model_fn


@checks.typed
def from_flax(module: Any, input_shape: Sequence[int], **options: Any) -> Model:
    """A flax module as a Model; `input_shape` is one example's, `options` go to its `__call__` (`train=False`).

    `module` is an instance of a `flax.linen` or `flax.nnx` module, or a function of `rngs` that makes an nnx module, such as
    `lambda rngs: Net(10, rngs=rngs)`.  Linen modules and such functions start anew with every key; an nnx module that is
    made already starts with the values it holds, at every node and with every seed, which is said in a warning.

    Its `nn.Conv` layers that name no convolution of their own get `dlsim.problems.conv_general_dilated`, which stays
    fast when every node has its own kernels; `nn.max_pool` is best written `dlsim.problems.max_pool`.

    Dropout draws in training, by the run's seed, the step and the node, and is off where a model is evaluated.  BatchNorm
    computes by the node's batch in training, and by its running statistics elsewhere: these are part of the model
    (`Variables`), moved by the forward passes of training, and sent, mixed and averaged as parameters are.  Linen modules
    are told which it is by an argument of `__call__`: `train`, `training`, `is_training`, `deterministic` or
    `use_running_average`, which `options` fix for both; nnx modules train as they are given, and are evaluated by `.eval()`.

    Raises ValueError where the module keeps anything but parameters and such statistics, or draws when it is evaluated.
    """
    from flax import linen

    shape = _sizes("from_flax", "input_shape", input_shape)
    if nnx_models.is_module(module) or nnx_models.is_factory(module):
        return Model(*nnx_models.functions(module, shape, options))
    if not isinstance(module, linen.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else repr(module)[:80]
        fix = "Pass an instance, such as MyModule(), or lambda rngs: MyModule(..., rngs=rngs) of nnx."
        checks.fail("from_flax", "module", "a flax.linen module", got, fix)
    return Model(*linen_models.functions(module, shape, options))


def _sizes(where: str, argument: str, sizes: Any) -> tuple[int, ...]:
    """Whole numbers from 1, any number of them."""
    if isinstance(sizes, str | bytes | Mapping | set) or not np.iterable(sizes):
        checks.fail(where, argument, "a tuple of integers >= 1", repr(sizes)[:60])
    return tuple(checks.integer(where, argument, size, 1) for size in sizes)


def is_flax(model: Any) -> bool:
    """Whether it is an instance of a flax.linen module."""
    import sys

    # A flax module can only be at hand where flax has been imported already.
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(model, linen.Module)


def _check_outputs(model: Model, input_shape: tuple[int, ...], num_classes: int) -> None:
    params = jax.eval_shape(model.init, jax.random.key(0))
    outputs = jax.eval_shape(model.apply, params, jax.ShapeDtypeStruct((2, *input_shape), jnp.float32))
    good = ((2, num_classes),) if num_classes else ((2, 1), (2,))
    if outputs.shape not in good:
        rule = f"[B, {num_classes}], one for each class" if num_classes else "[B, 1] or [B]"
        checks.fail("resolve", "the model's outputs", f"of shape {rule}", f"{list(outputs.shape)} for B = 2")


def _dense(features: int, zeros: bool = False, use_bias: bool = True) -> Any:
    """A fully connected layer that keeps its kernel as [outputs, inputs].

    With the inputs on the minor axis the products of a few outputs and many inputs run at two to three times the rate
    that they reach with flax's [inputs, outputs] (measured node-stacked, 784 inputs, 10 outputs, batch 32, CPU).
    """
    from flax import linen

    class Dense(linen.Module):
        features: int
        keeps_outputs_first: ClassVar[bool] = True  # for `hidden_units`

        @linen.compact
        def __call__(self, inputs: Array) -> Array:
            make = linen.initializers.zeros if zeros else linen.initializers.lecun_normal(in_axis=-1, out_axis=-2)
            kernel = self.param("kernel", make, (self.features, inputs.shape[-1]))
            outputs = jnp.einsum("...i,oi->...o", inputs, kernel)
            return outputs + self.param("bias", linen.initializers.zeros, (self.features,)) if use_bias else outputs

    return Dense(features)


def _dense_net(hidden: tuple[int, ...], num_outputs: int, zeros: bool, use_bias: bool = True) -> Any:
    from flax import linen

    class DenseNet(linen.Module):
        @linen.compact
        def __call__(self, inputs: Array) -> Array:
            x = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))
            for features in hidden:
                x = linen.relu(_dense(features)(x))
            return _dense(num_outputs, zeros, use_bias)(x)

    return DenseNet()


def _lenet(features: tuple[int, ...], hidden: tuple[int, ...], num_outputs: int) -> Any:
    from flax import linen

    class LeNet(linen.Module):
        @linen.compact
        def __call__(self, inputs: Array) -> Array:
            x = inputs if inputs.ndim == 4 else inputs[..., None]
            for width in features:
                conv = linen.Conv(width, (5, 5), conv_general_dilated=conv_general_dilated)
                x = max_pool(linen.relu(conv(x)))
            x = x.reshape(x.shape[0], -1)
            for width in hidden:
                x = linen.relu(_dense(width)(x))
            return _dense(num_outputs)(x)

    return LeNet()
