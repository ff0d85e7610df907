"""flax.nnx modules as pure functions of their parameters, so that every node can have its own."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.problems.convolution import conv_general_dilated
from dlsim.problems.notices import notice
from dlsim.running.batching import one_at_a_time

Array = jax.Array
PyTree = Any


def is_module(model: Any) -> bool:
    """Whether this is an nnx module, an instance."""
    nnx = sys.modules.get("flax.nnx")  # a module can only be at hand where nnx has been imported already
    return nnx is not None and isinstance(model, nnx.Module)


def is_factory(model: Any) -> bool:
    """Whether this makes an nnx module out of `rngs` alone."""
    if "flax.nnx" not in sys.modules or not callable(model) or is_module(model):
        return False
    partial = model if isinstance(model, functools.partial) else functools.partial(model)
    if isinstance(partial.func, type):  # nnx's classes are called through a metaclass, which hides their arguments
        start = getattr(partial.func, "__init__")  # noqa: B009 -- of the class, whatever it is
        partial = functools.partial(start, None, *partial.args, **partial.keywords)
    try:
        signature = inspect.signature(partial)
        signature.bind(rngs=None)
    except (TypeError, ValueError):
        return False
    return "rngs" in signature.parameters


def functions(
    module: Any, shape: tuple[int, ...], options: Mapping[str, Any]
) -> tuple[Callable[[Array], PyTree], Callable[[PyTree, Array], Array]]:
    """`init(key) -> params` and `apply(params, inputs)` of an nnx module, or of what makes one out of `rngs`.

    A module that is made already starts with the values that it holds, whatever the key, which is said in a warning.
    Parameters are nested dicts under the module's own names.
    """
    from flax import nnx

    made = is_module(module)
    model = nnx.clone(module) if made else module(rngs=nnx.Rngs(0))
    name = type(model).__name__
    if not made and not isinstance(model, nnx.Module):
        checks.fail("from_flax", "module", "a function of rngs that makes a flax.nnx module", name)
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Conv) and layer.conv_general_dilated is jax.lax.conv_general_dilated:
            layer.conv_general_dilated = conv_general_dilated
    split: Any = nnx.split
    graph, params, rest = split(model, nnx.Param, ...)
    names, treedef = nnx.to_pure_dict(params), jax.tree.structure(params)
    kinds = {type(variable).__name__ for _, variable in nnx.to_flat_state(rest)}
    if any(issubclass(type(variable), nnx.BatchStat) for _, variable in nnx.to_flat_state(rest)):
        fix = "Use GroupNorm or LayerNorm instead of BatchNorm: statistics over a batch are no parameters to mix."
        checks.fail("from_flax", name, "a module whose only variables are params", ", ".join(sorted(kinds)), fix)

    def call(leaves: list[Array], others: PyTree, inputs: Array) -> tuple[Any, PyTree]:
        bound = nnx.merge(graph, jax.tree.unflatten(treedef, leaves), others)
        outputs = bound(inputs, **options)
        return outputs, jax.tree.leaves(split(bound, nnx.Param, ...)[2])

    def init(key: Array) -> PyTree:
        return _named(nnx.to_pure_dict(split(module(rngs=nnx.Rngs(key)), nnx.Param, ...)[1]))

    def start(key: Array) -> PyTree:
        del key
        return jax.tree.map(jnp.asarray, _named(names))

    def apply(params: PyTree, inputs: Array) -> Array:
        outputs: Any = call(jax.tree.leaves(_numbered(names, params)), rest, inputs)[0]
        return outputs

    _check_call(name, call, jax.tree.leaves(params), rest, shape)
    if made:
        fix = f"Pass a function, lambda rngs: {name}(..., rngs=rngs), for a start of its own with every seed"
        notice("from_flax", f"all nodes and all seeds start with the values that this {name} holds. {fix}.")
        return start, apply
    return one_at_a_time(init), apply


def _check_call(name: str, call: Any, leaves: list[Array], rest: PyTree, shape: tuple[int, ...]) -> None:
    """A forward pass takes the inputs, and leaves everything but parameters as it was."""
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        traced = jax.make_jaxpr(call)(leaves, rest, inputs).jaxpr
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        rule = f"a module that can be applied to inputs {[1, *shape]}"
        checks.fail("from_flax", name, rule, f"{type(error).__name__}: {reason}")
    num = len(jax.tree.leaves(rest))
    before = traced.invars[len(leaves) : len(leaves) + num]
    after = traced.outvars[len(traced.outvars) - num :]
    if any(old is not new for old, new in zip(before, after, strict=True)):
        fix = "Switch Dropout off before: module.eval(), or deterministic=True; other state is no parameter to mix."
        checks.fail("from_flax", name, "a module that draws and changes nothing when applied", "one that does", fix)


def _named(tree: Any) -> Any:
    """Keys as text: places in a list are whole numbers in nnx, which a checkpoint would not keep apart from text."""
    return {str(key): _named(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _numbered(names: Any, tree: Any) -> Any:
    """The inverse of `_named`, by nnx's own dict of the same module."""
    return {key: _numbered(value, tree[str(key)]) for key, value in names.items()} if isinstance(names, dict) else tree
