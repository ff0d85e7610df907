"""flax.nnx modules as pure functions of their parameters, so that every node can have its own."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.problems.convolution import conv_general_dilated
from dlsim.problems.linen_models import modes
from dlsim.problems.notices import notice
from dlsim.problems.variables import Variables, trained
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


def functions(module: Any, shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """`init(key) -> params`, `apply(params, inputs)` of an nnx module, or of what makes one out of `rngs`, and
    `train(key, params, inputs)` where training differs, else None.

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
    in_training, evaluated = modes(type(model).__call__, options)
    still = nnx.clone(model)
    still.eval()
    split: Any = nnx.split
    graph, params, statistics, rest = split(model, nnx.Param, nnx.BatchStat, ...)
    still_graph, _, _, still_rest = split(still, nnx.Param, nnx.BatchStat, ...)
    names, still_names = (nnx.to_pure_dict(part) for part in (params, statistics))
    treedef, still_treedef, rest_treedef = (jax.tree.structure(part) for part in (params, statistics, rest))

    def call(parts: _Parts, graph: Any, mode: Mapping[str, Any], inputs: Array) -> tuple[Any, _Parts]:
        # Variables are made anew each time: those that a module is merged of are its own from then on, and change with it.
        treedefs = (treedef, still_treedef, rest_treedef)
        bound = nnx.merge(graph, *(jax.tree.unflatten(one, part) for one, part in zip(treedefs, parts, strict=True)))
        outputs = bound(inputs, **mode)
        _, *after = split(bound, nnx.Param, nnx.BatchStat, ...)
        return outputs, _Parts(*map(jax.tree.leaves, after))

    def as_model(params: Any, statistics: Any) -> PyTree:
        own = _named(nnx.to_pure_dict(params))
        return Variables(own, _named(nnx.to_pure_dict(statistics))) if still_names else own

    def parts_of(params: PyTree, rest: list[Array]) -> _Parts:
        kept = jax.tree.leaves(_numbered(still_names, params.batch_stats)) if still_names else []
        return _Parts(jax.tree.leaves(_numbered(names, trained(params))), kept, rest)

    def init(key: Array) -> PyTree:
        _, *begun = split(module(rngs=nnx.Rngs(key)), nnx.Param, nnx.BatchStat, ...)
        return as_model(begun[0], begun[1])

    def start(key: Array) -> PyTree:
        del key
        return jax.tree.map(jnp.asarray, as_model(params, statistics))

    def apply(params: PyTree, inputs: Array) -> Array:
        return call(parts_of(params, jax.tree.leaves(still_rest)), still_graph, evaluated, inputs)[0]

    def train(key: Array, params: PyTree, inputs: Array) -> tuple[Array, PyTree]:
        drawn = [_reseeded(key, place, kinds[place], leaf) for place, leaf in enumerate(jax.tree.leaves(rest))]
        outputs, after = call(parts_of(params, drawn), graph, in_training, inputs)
        if not still_names:
            return outputs, None
        moved = nnx.to_pure_dict(jax.tree.unflatten(still_treedef, after.statistics))
        return outputs, _named(moved)

    kinds = [type(one) for one in jax.tree.leaves(rest, is_leaf=lambda one: isinstance(one, nnx.Variable))]
    mine, kept, rest_leaves, rest_still = map(jax.tree.leaves, (params, statistics, rest, still_rest))
    changed = _changes(name, call, _Parts(mine, kept, rest_still), (still_graph, evaluated), shape, kinds)
    if changed:
        fix = "It must do so in training alone: Dropout and BatchNorm that .eval() switches."
        checks.fail("from_flax", name, "a module that draws and changes nothing when it is evaluated", changed[0], fix)
    moves = _changes(name, call, _Parts(mine, kept, rest_leaves), (graph, in_training), shape, kinds)
    others = [kind for kind in moves if kind not in (STATISTICS, RANDOM)]
    if others:
        rule = "a module that changes nothing but running statistics and random streams in training"
        checks.fail("from_flax", name, rule, others[0])
    if still_names and STATISTICS not in moves:
        rule = "a module whose BatchNorm moves its running statistics in training"
        checks.fail("from_flax", name, rule, "one that is set to evaluation", "Call its .train() before.")
    if made:
        fix = f"Pass a function, lambda rngs: {name}(..., rngs=rngs), for a start of its own with every seed"
        notice("from_flax", f"all nodes and all seeds start with the values that this {name} holds. {fix}.")
    return start if made else one_at_a_time(init), apply, train if moves else None


STATISTICS, RANDOM = "BatchStat", "random streams"  # what a forward pass may change in training


class _Parts(NamedTuple):
    """A module's variables."""

    params: list[Array]
    statistics: list[Array]
    rest: list[Array]


def _reseeded(key: Array, place: int, kind: type, leaf: Array) -> Array:
    """A random key of the module's in training, made of `key` and its place; what is none stays."""
    from flax import nnx

    return keys.fold_in(key, place) if issubclass(kind, nnx.RngKey) else leaf


def _changes(
    name: str, call: Any, parts: _Parts, how: tuple[Any, Any], shape: tuple[int, ...], rest: list[type]
) -> list[str]:
    """Kinds of variables that a forward pass changes; it takes the inputs."""
    from flax import nnx

    graph, mode = how
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        traced = jax.make_jaxpr(lambda parts, inputs: call(parts, graph, mode, inputs))(parts, inputs).jaxpr
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        rule = f"a module that can be applied to inputs {[1, *shape]}"
        checks.fail("from_flax", name, rule, f"{type(error).__name__}: {reason}")
    kinds = ["Param"] * len(parts.params) + [STATISTICS] * len(parts.statistics)
    kinds += [RANDOM if issubclass(one, nnx.RngState) else one.__name__ for one in rest]
    num = len(jax.tree.leaves(parts))
    before, after = traced.invars[:num], traced.outvars[len(traced.outvars) - num :]
    return sorted({kind for kind, old, new in zip(kinds, before, after, strict=True) if old is not new})


def _named(tree: Any) -> Any:
    """Keys as text: places in a list are whole numbers in nnx, which a checkpoint would not keep apart from text."""
    return {str(key): _named(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _numbered(names: Any, tree: Any) -> Any:
    """The inverse of `_named`, by nnx's own dict of the same module."""
    return {key: _numbered(value, tree[str(key)]) for key, value in names.items()} if isinstance(names, dict) else tree
