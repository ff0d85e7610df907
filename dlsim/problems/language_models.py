"""Causal models of characters: tokens `[B, L]` to logits `[B, L, V]`, of which those at t see tokens up to t alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.problems import models, nnx_models
from dlsim.problems.models import Model, ModelFn, from_flax

Array = jax.Array
NAMES = ("transformer", "lstm")


def resolve_language(model: str | Model | ModelFn | Any, length: int, num_characters: int) -> Model:
    """The Model that is meant by a name, a Model, a flax module or a function of (input_shape, num_outputs)."""
    where, shape = "language_model", (length,)
    if isinstance(model, str):
        makers = {"transformer": transformer, "lstm": lstm}
        made = makers[checks.one_of(where, "model", model, NAMES)]()(shape, num_characters)
    elif isinstance(model, Model):
        made = model
    elif models.is_flax(model) or nnx_models.is_module(model) or nnx_models.is_factory(model):
        made = from_flax(model, shape)
    elif callable(model) and not isinstance(model, type):
        made = models.called(model, shape, num_characters)
    else:
        rule = "one of " + ", ".join(NAMES) + ", a Model, a flax module (an instance) or a function that makes a Model"
        checks.fail(where, "model", rule, checks.describe(model))
    params = jax.eval_shape(made.init, jax.random.key(0))
    outputs = jax.eval_shape(made.apply, params, jax.ShapeDtypeStruct((2, length), jnp.float32))
    wanted = (2, length, num_characters)
    if outputs.shape != wanted:
        rule = f"of shape {list(wanted)}, one for each character at each place"
        checks.fail(where, "the model's outputs", rule, f"{list(outputs.shape)} for 2 windows of {length}")
    return made


@checks.typed
def transformer(width: int = 64, num_layers: int = 2, num_heads: int = 4) -> ModelFn:
    """A small decoder: learned places, layers of causal attention and GELU of four times the width, norms before each.

        h = E[w] + P;  every layer:  h <- h + Attention(LN(h)),  h <- h + W_2 GELU(W_1 LN(h));  logits = W LN(h)

    The default has 115,278 parameters with 78 characters and windows of 80.  Blocks are named `block_0`, `block_1`, ...
    """
    where = "transformer"
    width, num_layers = checks.integer(where, "width", width, 1), checks.integer(where, "num_layers", num_layers, 1)
    num_heads = checks.integer(where, "num_heads", num_heads, 1)
    if width % num_heads:
        checks.fail(where, "width", f"a multiple of the {num_heads} heads", width)
    return lambda input_shape, num_outputs: from_flax(
        _transformer(width, num_layers, num_heads, num_outputs), input_shape
    )


@checks.typed
def lstm(width: int = 128, num_layers: int = 1) -> ModelFn:
    """Layers of LSTM cells over one-hot characters:  h_t, c_t = LSTM(h_(t-1), c_(t-1), w_t),  logits_t = W h_t.

    The default has 116,046 parameters with 78 characters.  Its steps run one after the other, so that windows cost
    more time than a transformer's of the same size.
    """
    where = "lstm"
    width, num_layers = checks.integer(where, "width", width, 1), checks.integer(where, "num_layers", num_layers, 1)
    return lambda input_shape, num_outputs: from_flax(_lstm(width, num_layers, num_outputs), input_shape)


def _one_hot(tokens: Array, num: int) -> Array:
    # A product with one-hot rows is an embedding whose backward pass scatters nothing, which is slow under vmap.
    return jax.nn.one_hot(tokens.astype(jnp.int32), num, dtype=jnp.float32)


def _transformer(width: int, num_layers: int, num_heads: int, num_outputs: int) -> Any:
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, h: Array, mask: Array) -> Array:
            attention = linen.MultiHeadDotProductAttention(num_heads, name="attention")
            h = h + attention(linen.LayerNorm()(h), mask=mask)
            inner = linen.gelu(linen.Dense(4 * width, name="widen")(linen.LayerNorm()(h)))
            return h + linen.Dense(width, name="narrow")(inner)

    class Transformer(linen.Module):
        @linen.compact
        def __call__(self, tokens: Array) -> Array:
            small = linen.initializers.normal(0.02)
            places = self.param("places", small, (tokens.shape[1], width))
            embed = linen.Dense(width, use_bias=False, kernel_init=small, name="embedding")
            h = embed(_one_hot(tokens, num_outputs)) + places
            mask = linen.make_causal_mask(tokens)
            for layer in range(num_layers):
                h = Block(name=f"block_{layer}")(h, mask)
            return linen.Dense(num_outputs, name="head")(linen.LayerNorm(name="norm")(h))

    return Transformer()


def _lstm(width: int, num_layers: int, num_outputs: int) -> Any:
    from flax import linen

    class Lstm(linen.Module):
        @linen.compact
        def __call__(self, tokens: Array) -> Array:
            h = _one_hot(tokens, num_outputs)
            for layer in range(num_layers):
                h = linen.RNN(linen.OptimizedLSTMCell(width, name=f"cell_{layer}"), name=f"block_{layer}")(h)
            return linen.Dense(num_outputs, name="head")(h)

    return Lstm()
