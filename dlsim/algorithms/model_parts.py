"""Parts of a model: what a message holds where it does not hold all of it, and the age of each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.token_account import uniform
from dlsim.core import Array, PyTree


class ModelParts(NamedTuple):
    """What of a model goes into a message of `gossip_learning`; `model_partition` and `model_sample` make it.

    Source: Hegedus, Danner, Jelasity, Decentralized learning works, Journal of Parallel and Distributed Computing 2021.
    """

    num_ages: int  # that a model has
    width: int  # w, words that say which part
    draw: Any  # (keys [n]) -> uint32 [n, w]
    places: Any  # (drawn [n, w], D) -> int32 [n, C] numbers of the model, all its leaves side by side; D: none
    which: Any  # (drawn [n, w]) -> int32 [n] whose age it is


class AgedPart(NamedTuple):
    """What is sent of a model."""

    values: Array  # [n, C]
    age: Array  # uint32 [n]
    drawn: Array  # uint32 [n, w] which part it is


def model_partition(num_parts: int) -> ModelParts:
    """S = `num_parts` parts of the model, each a stretch of ceil(D / S) of its numbers, with an age of its own.

    A message holds one of them, drawn at random, its age and its number in 32 bits each.  Structural.
    Source: Hegedus, Danner, Jelasity, Decentralized learning works, Journal of Parallel and Distributed Computing 2021.
    """
    num_parts = checks.integer("model_partition", "num_parts", num_parts, 1)

    def draw(draws: Array) -> Array:
        return jnp.floor(uniform(draws) * num_parts).astype(jnp.uint32)[:, None]

    def places(drawn: Array, size: int) -> Array:
        width = math.ceil(size / num_parts)
        return jnp.minimum(drawn.astype(jnp.int32) * width + jnp.arange(width, dtype=jnp.int32), size)

    return ModelParts(num_parts, 1, draw, places, lambda drawn: drawn[:, 0].astype(jnp.int32))


def model_sample(fraction: float) -> ModelParts:
    """k = round(`fraction` D) numbers of the model, at least one, drawn anew for every message; the model has one age.

    A message holds them, the age, and 64 bits of a seed from which the receiver knows which they are.  Structural.
    Cost: random words for all D numbers of a model, and the k largest of them, at both ends of a message: with 7,850
      numbers and a tenth of them (a CPU) 120 times `gossip_learning` of whole models; `model_partition` takes 1.4 times.
    Source: Hegedus, Danner, Jelasity, Decentralized learning works, Journal of Parallel and Distributed Computing 2021.
    """
    checks.known("model_sample", "fraction", fraction, "known while tracing (it sets shapes)")
    checks.number("model_sample", "fraction", fraction, 0.0, 1.0, open_minimum=True)

    def draw(draws: Array) -> Array:
        return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(draws)

    def places(drawn: Array, size: int) -> Array:
        seeds = jax.random.wrap_key_data(drawn, impl=keys.THREEFRY)
        words = jax.vmap(lambda seed: jax.random.bits(seed, (size,), jnp.uint32))(seeds)
        return jax.lax.top_k(words, max(1, round(fraction * size)))[1].astype(jnp.int32)

    return ModelParts(1, 2, draw, places, lambda drawn: jnp.zeros(drawn.shape[0], jnp.int32))


def part_of(parts: ModelParts, params: PyTree, ages: Array, drawn: Array) -> AgedPart:
    """Of models `[n, ...]` with these ages `[n, num_ages]` the parts that were drawn."""
    flat, _ = trees.ravel_as_held(params)
    places = parts.places(drawn, flat.shape[1])
    values = jnp.take_along_axis(flat, places, axis=1, mode="fill", fill_value=0)
    age = jnp.take_along_axis(ages, parts.which(drawn)[:, None], axis=1)[:, 0]
    return AgedPart(values, age, drawn)


def with_part(parts: ModelParts, params: PyTree, ages: Array, part: AgedPart) -> tuple[PyTree, Array]:
    """Models and ages with such parts in place of their own."""
    flat, unravel = trees.ravel(params)
    rows = jnp.arange(flat.shape[0])
    places = parts.places(part.drawn, flat.shape[1])
    flat = flat.at[rows[:, None], places].set(part.values.astype(flat.dtype), mode="drop")
    return unravel(flat), ages.at[rows, parts.which(part.drawn)].set(part.age)
