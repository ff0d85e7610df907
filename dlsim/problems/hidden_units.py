"""Which numbers of a model belong to which hidden units: the table by which two networks are brought into one order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, PyTree
from dlsim.problems.variables import Variables

_TOLERANCE = 1e-4  # of the outputs' largest: by so much they may differ after a re-ordering, by rounding


class Axis(NamedTuple):
    """An axis of one array of a model along which hidden units lie."""

    path: tuple[str, ...]  # of the array in the model, e.g. ("Dense_0", "kernel")
    axis: int
    blocks: int = 1  # the axis has this many units times H, unit by unit within a block: positions of a flattened image


class HiddenSpace(NamedTuple):
    """H units that can be re-ordered together without changing the function."""

    name: str
    size: int  # H
    axes: tuple[Axis, ...]


class HiddenUnits(NamedTuple):
    """The hidden spaces of a model, first layer first, and how strongly their units fire.

    `activations(params [...], inputs [B, ...]) -> tuple of [S_l, H_l]`, one a space, as the next layer sees them; positions
    of an image are samples.
    """

    spaces: tuple[HiddenSpace, ...]
    activations: Any

    def permute(self, params: PyTree, orders: Sequence[Array]) -> PyTree:
        """The same function with unit u of space l where unit `orders[l][u]` was; one model `[...]`, orders `[H_l]`."""
        moves: dict[tuple[str, ...], list[tuple[Axis, Array]]] = {}
        for space, order in zip(self.spaces, orders, strict=True):
            for axis in space.axes:
                moves.setdefault(axis.path, []).append((axis, order))

        def leaf(path: Any, value: Array) -> Array:
            for axis, order in moves.get(_names(path), ()):
                size = value.shape[axis.axis] // axis.blocks
                rows = (jnp.arange(axis.blocks, dtype=order.dtype)[:, None] * size + order).ravel()
                value = jnp.take(value, rows, axis=axis.axis, mode="clip")
            return value

        return jax.tree_util.tree_map_with_path(leaf, params)

    def touching(self, place: int, params: PyTree) -> list[Array]:
        """Every array along whose axes the units of space `place` lie, as `[H, rest]`; of one model."""
        leaves = {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        out = []
        for axis in self.spaces[place].axes:
            if axis.path in leaves:  # running statistics may have been left out
                leaf = jnp.moveaxis(leaves[axis.path], axis.axis, 0)
                by_unit = jnp.moveaxis(leaf.reshape(axis.blocks, -1, *leaf.shape[1:]), 0, 1)
                out.append(by_unit.reshape(self.spaces[place].size, -1))
        return out


def hidden_units(model: Any, input_shape: Sequence[int]) -> HiddenUnits:
    """The hidden units of a model whose layers follow one another: dense and convolutional layers of flax, and norms.

    The layers are those that a call of the model runs through, in that order: the outputs of one are the inputs of the next,
    after what has no parameters (ReLU, pooling, flattening).  Norms with one number a unit lie with the units they follow.
    Nothing is taken on trust: models with units in a random order must compute what they did, or the model is refused.
    So layers that are skipped, shared or run side by side are, and groups of a GroupNorm; for those write `HiddenUnits` by
    hand, with one space for all layers that write to one stream.

    Args:
      model: a Model, such as `problem.model`, made of flax.linen layers.
      input_shape: of one example.

    Raises ValueError where a layer is of another kind, or the order of its units matters.
    """
    where = "hidden_units"
    _check_model(where, model)
    input_shape = checks.integers(where, "input_shape", input_shape, minimum=1)
    one = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    layers: list[_Layer] = []

    def look(params: PyTree, inputs: Array) -> Array:
        layers.clear()
        return _watched(model, params, inputs, lambda layer: layers.append(layer))

    jax.eval_shape(look, params, one)
    spaces = _chained(layers, params)

    def activations(params: PyTree, inputs: Array) -> tuple[Array, ...]:
        seen: list[Array] = []
        _watched(model, params, inputs, lambda layer: seen.append(layer.inputs) if layer.kind == "linear" else None)
        # What the first layer sees is the example itself.
        return tuple(x.reshape(-1, space.size) for x, space in zip(seen[1:], spaces, strict=True))

    units = HiddenUnits(spaces, activations)
    _check_function(model, units, input_shape)
    return units


def _check_model(where: str, model: Any) -> None:
    for name in ("init", "apply"):
        if not callable(getattr(model, name, None)):
            fix = "Pass problem.model of dlsim.problems.classification or supervised."
            checks.fail(where, "model", "a Model", checks.describe(model), fix)


def batch_statistics(model: Any, params: PyTree, inputs: Array) -> PyTree:
    """One model `[...]` whose running statistics (BatchNorm) are those of `inputs [m, ...]`, in one pass, as in training.

    Models without any are given back.  A running statistic becomes a s + (1 - a) b in a forward pass, b that of the
    batch: b is what comes of s = 0, divided by 1 - a, and a follows from s = 1.  Dropout is on with a fixed draw.
    Source: Jordan, Sedghi, Saukh, Entezari and Neyshabur, REPAIR, ICLR 2023.
    """
    where = "batch_statistics"
    _check_model(where, model)
    for leaf in jax.tree.leaves(params) or [None]:
        if not hasattr(leaf, "dtype") or not checks.is_real_type(leaf.dtype):
            fix = "Pass one of run.params, without its axes of seeds and nodes."
            checks.fail(where, "params", "a model of arrays of real numbers", checks.describe(leaf), fix)
    if not hasattr(inputs, "dtype") or not checks.is_real_type(inputs.dtype):
        fix = "Make them with dlsim.problems.shared_inputs(data, 500)."
        checks.fail(where, "inputs", "an array of real numbers", checks.describe(inputs), fix)
    if not isinstance(params, Variables):
        return params

    def after(start: float) -> PyTree:
        held = jax.tree.map(lambda leaf: jnp.full_like(leaf, start), params.batch_stats)
        return model.train(jax.random.key(0), params._replace(batch_stats=held), inputs)[1]

    from_zero, from_one = after(0.0), after(1.0)
    found = jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), from_zero, from_one)
    return params._replace(batch_stats=found)


class _Layer(NamedTuple):
    """One call of a layer with parameters."""

    path: tuple[str, ...]
    kind: str  # linear, norm
    inputs: Any
    rows: int = 0  # axis of the kernel that the inputs lie along
    columns: int = 0  # and the outputs


def _watched(model: Any, params: PyTree, inputs: Array, see: Any) -> Array:
    """The model's outputs; `see(layer)` is called as each of its layers is."""
    from flax import linen

    def spy(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__" and _holds(module):
            see(_layer(module, args[0]))
        return next_fn(*args, **kwargs)

    with linen.intercept_methods(spy):
        return model.apply(params, inputs)


def _holds(module: Any) -> bool:
    """Whether a module has arrays of its own."""
    own = module.variables.get("params", {})
    return any(not isinstance(value, dict) and hasattr(value, "shape") for value in own.values())


def _layer(module: Any, inputs: Any) -> _Layer:
    from flax import linen

    if getattr(module, "keeps_outputs_first", False):
        return _Layer(tuple(module.path), "linear", inputs, rows=1, columns=0)
    if isinstance(module, linen.Dense):
        return _Layer(tuple(module.path), "linear", inputs, rows=0, columns=1)
    if isinstance(module, linen.Conv) and module.feature_group_count == 1:
        dims = module.variables["params"]["kernel"].ndim
        return _Layer(tuple(module.path), "linear", inputs, rows=dims - 2, columns=dims - 1)
    if isinstance(module, linen.BatchNorm | linen.LayerNorm | linen.GroupNorm | linen.RMSNorm | linen.InstanceNorm):
        return _Layer(tuple(module.path), "norm", inputs)
    rule = "made of Dense, Conv (without groups) and norm layers of flax.linen, one after the other"
    fix = "Write HiddenUnits by hand for others."
    checks.fail("hidden_units", "model", rule, f"a {type(module).__name__}", fix)


def _chained(layers: list[_Layer], params: PyTree) -> tuple[HiddenSpace, ...]:
    """The spaces between each linear layer and the next; norms on the way belong to them."""
    shapes = {_names(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    linear = [i for i, layer in enumerate(layers) if layer.kind == "linear"]
    if len(linear) < 2:
        checks.fail(
            "hidden_units", "model", "one with a hidden layer", f"{len(linear)} layers", 'Use e.g. model="mlp".'
        )
    out = []
    for i, j in itertools.pairwise(linear):
        before, after = layers[i], layers[j]
        size, kernel = shapes[(*before.path, "kernel")][before.columns], shapes[(*after.path, "kernel")]
        taken = kernel[after.rows]
        if taken % size or (taken != size and len(kernel) > 2):
            got = f"{'.'.join(after.path)} with {taken} inputs after {size} outputs"
            checks.fail("hidden_units", "model", "one whose layers feed the next", got)
        axes = [Axis((*before.path, "kernel"), before.columns)]
        if (*before.path, "bias") in shapes:
            axes.append(Axis((*before.path, "bias"), 0))
        for norm in layers[i + 1 : j]:
            axes += [Axis(path, 0) for path in shapes if path[: len(norm.path)] == norm.path]
        axes.append(Axis((*after.path, "kernel"), after.rows, taken // size))
        out.append(HiddenSpace(".".join(before.path), size, tuple(axes)))
    before_first = [layer for layer in layers[: linear[0]] if layer.kind == "norm"]
    known = {axis.path for space in out for axis in space.axes}
    known |= {(*layers[linear[-1]].path, "bias")}
    known |= {path for norm in before_first for path in shapes if path[: len(norm.path)] == norm.path}
    left = sorted(set(shapes) - known)
    if left:
        checks.fail("hidden_units", "model", "one every array of which belongs to a layer", ".".join(left[0]))
    return tuple(out)


def _check_function(model: Any, units: HiddenUnits, input_shape: Sequence[int]) -> None:
    """The function must not depend on the order of the units, or one line."""
    with jax.ensure_compile_time_eval():
        made = model.init(jax.random.key(0))
        rng = np.random.default_rng(0)
        # Biases and scales start alike at every unit; whether they move with the units must show.
        params = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.random(leaf.shape), leaf.dtype), made)
        orders = [jnp.asarray(rng.permutation(space.size)) for space in units.spaces]
        inputs = jnp.asarray(rng.normal(size=(4, *input_shape)), jnp.float32)
        kept, moved = (np.asarray(model.apply(p, inputs)) for p in (params, units.permute(params, orders)))
    if not np.allclose(kept, moved, rtol=0, atol=_TOLERANCE * max(float(np.abs(kept).max()), 1e-30)):
        rule = "one whose layers follow one another, so that its hidden units have no order"
        fix = "Write HiddenUnits by hand, with one space for all layers that write to one stream."
        checks.fail("hidden_units", "model", rule, "one that computes otherwise with its units re-ordered", fix)


def _names(path: Any) -> tuple[str, ...]:
    """A leaf's path without the part of `Variables`: parameters and statistics of a layer lie together."""
    names = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
    return tuple(names[1:] if names[:1] in (["params"], ["batch_stats"]) else names)
