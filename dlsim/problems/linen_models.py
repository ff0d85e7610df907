"""flax.linen modules as pure functions of their parameters, so that every node can have its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.problems.convolution import conv_general_dilated
from dlsim.problems.variables import MODES, Variables
from dlsim.running.batching import one_at_a_time

Array = jax.Array
PyTree = Any

STATISTICS = "batch_stats"


def functions(module: Any, shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """`init(key) -> params`, `apply(params, inputs)` and, where training differs, `train(key, params, inputs)`, else None."""
    from flax import errors, linen

    name = type(module).__name__
    in_training, evaluated = modes(type(module).__call__, options)

    def begin(key: Array) -> PyTree:
        with linen.intercept_methods(_fast_convolution):
            return module.init(key, jnp.zeros((1, *shape), jnp.float32), **evaluated)

    def init(key: Array) -> PyTree:
        made = begin(key)
        return Variables(made.get("params", {}), made[STATISTICS]) if STATISTICS in made else made.get("params", {})

    def variables(params: PyTree) -> dict[str, PyTree]:
        return params._asdict() if isinstance(params, Variables) else {"params": params}

    def apply(params: PyTree, inputs: Array) -> Array:
        with linen.intercept_methods(_fast_convolution):
            outputs: Any = module.apply(variables(params), inputs, **evaluated)
            return outputs

    def train(key: Array | None, params: PyTree, inputs: Array) -> tuple[Array, PyTree]:
        rngs = {} if key is None else {"dropout": key}
        with linen.intercept_methods(_fast_convolution):
            outputs, changed = module.apply(variables(params), inputs, **in_training, rngs=rngs, mutable=[STATISTICS])
        return outputs, changed[STATISTICS] if isinstance(params, Variables) else None

    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        others = sorted(set(jax.eval_shape(begin, jax.random.key(0))) - {"params", STATISTICS})
        if others:
            rule = "a module whose only variables are params and batch_stats"
            checks.fail("from_flax", name, rule, ", ".join(others))
        params = jax.eval_shape(init, jax.random.key(0))
        jax.eval_shape(apply, params, inputs)
    except errors.InvalidRngError:
        fix = "Give its __call__ an argument `train`: Dropout(..., deterministic=not train)."
        checks.fail(
            "from_flax", name, "a module that draws no random numbers when it is evaluated", "one that does", fix
        )
    except errors.ModifyScopeVariableError:
        _refuse_fixed(name)
    keeps = isinstance(params, Variables)
    if keeps and in_training == evaluated:
        _refuse_fixed(name)
    try:
        jax.eval_shape(lambda params, inputs: train(None, params, inputs), params, inputs)
        draws = False
    except errors.InvalidRngError:
        draws = True
    if draws:
        try:
            jax.eval_shape(train, jax.random.key(0), params, inputs)
        except errors.InvalidRngError:
            rule = "a module whose only random numbers are those of the stream 'dropout'"
            checks.fail("from_flax", name, rule, "one with others")
    return one_at_a_time(init), apply, train if draws or keeps else None


def modes(call: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a module's `__call__` in training, and where it is evaluated: those given, and what tells the two apart."""
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    told = {name: value for name, value in MODES.items() if name in parameters and name not in options}
    return {**options, **told}, {**options, **{name: not value for name, value in told.items()}}


def _refuse_fixed(name: str) -> NoReturn:
    rule = "a module that is told whether it trains, for BatchNorm's running statistics"
    fix = "Give its __call__ an argument `train`, and leave it to us: BatchNorm(use_running_average=not train)."
    checks.fail("from_flax", name, rule, "one that does the same always", fix)


def _fast_convolution(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Flax method interceptor: convolutions by matrix products (see `convolution`)."""
    from flax import linen

    module = context.module
    if isinstance(module, linen.Conv) and context.method_name == "__call__" and module.conv_general_dilated is None:
        # The module bound for this call is flax's own copy; the caller's module stays as it is.
        object.__setattr__(module, "conv_general_dilated", conv_general_dilated)
    return next_fn(*args, **kwargs)
