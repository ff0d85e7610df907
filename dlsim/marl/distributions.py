"""What a policy's outputs stand for: chances of discrete actions, or a normal distribution."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array
from dlsim.environments.environment import Environment

NEVER = -1e10  # logit of an action that is not allowed


class Distribution(NamedTuple):
    """`num_outputs` numbers an agent, and what to do with them (`outputs [..., num_outputs]`).

    `sample(key, outputs, allowed) -> actions`, `best(outputs, allowed) -> actions`, `log_prob(outputs, actions, allowed)
    -> [...]`, `entropy(outputs, allowed) -> [...]`.
    """

    num_outputs: int
    sample: Any
    best: Any
    log_prob: Any
    entropy: Any


def distribution_of(where: str, environment: Environment) -> Distribution:
    """The distribution over the actions of an environment."""
    space = environment.action_space
    if space.is_discrete:
        if space.shape:
            rule = "of one discrete action or a box of numbers an agent"
            checks.fail(where, "environment", rule, f"discrete actions of shape {list(space.shape)}")
        assert space.num is not None
        return categorical(space.num)
    return normal(space.shape)


def categorical(num: int) -> Distribution:
    """Chances of `num` actions, as logits; those that are not allowed have none."""

    def logits(outputs: Array, allowed: Array | None) -> Array:
        return outputs if allowed is None else jnp.where(allowed, outputs, NEVER)

    def sample(key: Array, outputs: Array, allowed: Array | None) -> Array:
        return jax.random.categorical(key, logits(outputs, allowed))

    def best(outputs: Array, allowed: Array | None) -> Array:
        return jnp.argmax(logits(outputs, allowed), axis=-1)

    def log_prob(outputs: Array, actions: Array, allowed: Array | None) -> Array:
        # A product with the one-hot row: its gradient needs no scatter, which costs most of a small model's update.
        hot = actions[..., None] == jnp.arange(num)
        return jnp.sum(jnp.where(hot, jax.nn.log_softmax(logits(outputs, allowed)), 0.0), axis=-1)

    def entropy(outputs: Array, allowed: Array | None) -> Array:
        log_chances = jax.nn.log_softmax(logits(outputs, allowed))
        return -jnp.sum(jnp.exp(log_chances) * log_chances, axis=-1)

    return Distribution(num, sample, best, log_prob, entropy)


def normal(shape: tuple[int, ...]) -> Distribution:
    """Independent normals: means, then logarithms of standard deviations (e.g. 0 at the start)."""
    size = math.prod(shape)

    def parts(outputs: Array) -> tuple[Array, Array]:
        means, logs = jnp.split(outputs, 2, axis=-1)
        return means, jnp.clip(logs, -10.0, 2.0)

    def shaped(values: Array) -> Array:
        return values.reshape(*values.shape[:-1], *shape)

    def sample(key: Array, outputs: Array, allowed: Array | None) -> Array:
        del allowed
        means, logs = parts(outputs)
        return shaped(means + jnp.exp(logs) * jax.random.normal(key, means.shape))

    def best(outputs: Array, allowed: Array | None) -> Array:
        del allowed
        return shaped(parts(outputs)[0])

    def log_prob(outputs: Array, actions: Array, allowed: Array | None) -> Array:
        del allowed
        means, logs = parts(outputs)
        scaled = (actions.reshape(means.shape) - means) * jnp.exp(-logs)
        return jnp.sum(-0.5 * scaled**2 - logs - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(outputs: Array, allowed: Array | None) -> Array:
        del allowed
        return jnp.sum(parts(outputs)[1] + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    return Distribution(2 * size, sample, best, log_prob, entropy)
