"""Networks of learners in environments: feed-forward, recurrent, or any flax module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, PyTree
from dlsim.running.batching import one_at_a_time

ACTIVATIONS = ("tanh", "relu", "gelu", "silu")


class Net(NamedTuple):
    """A model with its outputs: `apply(params, memory [B, ...], seen [T, B, ...], resets bool [T, B])`.

    `init(key, seen [...]) -> params`; `apply -> (memory, outputs [T, B, num_outputs])`; `memory(batch) -> memory`.
    Where `resets[t]` holds, what is remembered is forgotten before `seen[t]` is looked at.
    """

    init: Any
    apply: Any
    memory: Any
    is_recurrent: bool


class Model(NamedTuple):
    """`build(num_outputs, scale) -> Net`: a network for any number of outputs, whose last layer starts at `scale`."""

    build: Any
    is_recurrent: bool = False


@checks.typed
def feedforward(
    hidden: Sequence[int] = (64, 64), *, activation: str = "tanh", layer_norm: bool = False, gain: float = math.sqrt(2)
) -> Model:
    """Dense layers of these widths, orthogonal at the start with this gain; observations are flattened.

    `layer_norm` normalises after each layer, before the activation.
    """
    where = "feedforward"
    widths = checks.integers(where, "hidden", hidden, minimum=1)
    checks.one_of(where, "activation", activation, ACTIVATIONS)
    checks.flag(where, "layer_norm", layer_norm)
    return Model(lambda outputs, scale: _net(_dense(widths, activation, layer_norm, gain, outputs, scale), 0))


@checks.typed
def recurrent(
    hidden: int = 128, *, embedding: Sequence[int] | None = None, activation: str = "relu", layer_norm: bool = False
) -> Model:
    """Dense layers (`embedding`, default one of `hidden`), a GRU of `hidden` units, a dense layer of as many.

    The form that JaxMARL's recurrent learners have.
    """
    where = "recurrent"
    hidden = checks.integer(where, "hidden", hidden, 1)
    widths = (hidden,) if embedding is None else checks.integers(where, "embedding", embedding, minimum=1)
    checks.one_of(where, "activation", activation, ACTIVATIONS)
    checks.flag(where, "layer_norm", layer_norm)
    return Model(
        lambda outputs, scale: _net(_gated(widths, hidden, activation, layer_norm, outputs, scale), hidden), True
    )


def from_flax(make: Any) -> Model:
    """Any flax module: `make(num_outputs) -> module` with `module(observation [B, ...]) -> [B, num_outputs]`."""
    checks.function("from_flax", "make", make, "a function of the number of outputs")

    def build(num_outputs: int, scale: float) -> Net:
        del scale
        module = make(num_outputs)

        def init(key: Array, seen: Array) -> PyTree:
            return module.init(key, seen[None])

        def apply(params: PyTree, memory: PyTree, seen: Array, resets: Array) -> tuple[PyTree, Array]:
            del resets
            flat = module.apply(params, seen.reshape(-1, *seen.shape[2:]))
            checks.shape("from_flax", "outputs", flat, (flat.shape[0], num_outputs))
            return memory, flat.reshape(*seen.shape[:2], num_outputs)

        return Net(one_at_a_time(init), apply, lambda batch: (), False)

    return Model(build)


def _net(module: Any, hidden: int) -> Net:
    def init(key: Array, seen: Array) -> PyTree:
        return module.init(key, memory(1), seen[None, None], jnp.zeros((1, 1), bool))

    def memory(batch: int) -> PyTree:
        return jnp.zeros((batch, hidden)) if hidden else ()

    def apply(params: PyTree, memory: PyTree, seen: Array, resets: Array) -> tuple[PyTree, Array]:
        return module.apply(params, memory, seen, resets)

    return Net(one_at_a_time(init), apply, memory, hidden > 0)


def _layers(widths: Sequence[int], activation: str, layer_norm: bool, gain: float) -> Any:
    """What goes before the last layer, as a function inside a flax module."""
    from flax import linen as nn

    def through(values: Array) -> Array:
        for width in widths:
            values = nn.Dense(width, kernel_init=nn.initializers.orthogonal(gain))(values)
            values = nn.LayerNorm()(values) if layer_norm else values
            values = getattr(nn, activation)(values)
        return values

    return through


def _flat(seen: Array) -> Array:
    return seen.reshape(*seen.shape[:2], -1).astype(jnp.float32)


def _dense(
    widths: Sequence[int], activation: str, layer_norm: bool, gain: float, num_outputs: int, scale: float
) -> Any:
    from flax import linen as nn

    class FeedForward(nn.Module):
        @nn.compact
        def __call__(self, memory: PyTree, seen: Array, resets: Array) -> tuple[PyTree, Array]:
            del resets
            values = _layers(widths, activation, layer_norm, gain)(_flat(seen))
            return memory, nn.Dense(num_outputs, kernel_init=nn.initializers.orthogonal(scale))(values)

    return FeedForward()


def _gated(
    widths: Sequence[int], hidden: int, activation: str, layer_norm: bool, num_outputs: int, scale: float
) -> Any:
    from flax import linen as nn

    class Forgetful(nn.Module):
        """A GRU cell that forgets where it is told to."""

        @nn.compact
        def __call__(self, memory: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            values, resets = step
            memory = jnp.where(resets[:, None], 0.0, memory)
            return nn.GRUCell(features=hidden)(memory, values)

    class Gated(nn.Module):
        @nn.compact
        def __call__(self, memory: Array, seen: Array, resets: Array) -> tuple[Array, Array]:
            values = _layers(widths, activation, layer_norm, math.sqrt(2))(_flat(seen))
            over_time = nn.scan(Forgetful, variable_broadcast="params", split_rngs={"params": False})
            memory, values = over_time()(memory, (values, resets))
            values = getattr(nn, activation)(
                nn.Dense(hidden, kernel_init=nn.initializers.orthogonal(math.sqrt(2)))(values)
            )
            return memory, nn.Dense(num_outputs, kernel_init=nn.initializers.orthogonal(scale))(values)

    return Gated()


def checked(where: str, model: Any) -> Model:
    """The model, or one line."""
    return checks.instance(where, "model", model, Model, "Use dlsim.marl.feedforward() or recurrent().")


def num_parameters(params: PyTree) -> int:
    """Numbers in a tree of parameters, of one node."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
