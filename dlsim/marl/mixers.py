"""How a team's value is made of its agents' values: each for itself, their sum, or a monotone net of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from dlsim.core import Array, PyTree
from dlsim.running.batching import one_at_a_time


class Mixer(NamedTuple):
    """`init(key, world [S]) -> params`; `apply(params, values [..., A], world [..., S]) -> [...]`, or None: no team."""

    init: Any
    apply: Any | None


def apart() -> Mixer:
    """No team: each agent's value is its own."""
    return Mixer(lambda key, world: (), None)


def total() -> Mixer:
    """Q_tot = sum_i Q_i (VDN: Sunehag et al., AAMAS 2018)."""
    return Mixer(lambda key, world: (), lambda params, values, world: jnp.sum(values, axis=-1))


def monotone(num_agents: int, embedding: int = 32, hidden: int = 128, scale: float = 1e-3) -> Mixer:
    """Q_tot = w2(s)^T elu(W1(s)^T q + b1(s)) + b2(s), with W1, w2 >= 0 made of the world's state s (QMIX).

    W1 and w2 are the absolute values of two-layer nets with `hidden` units, b1 is linear in s, b2 a two-layer net with
    `embedding` units; layers start orthogonal at `scale`.
    Source: Rashid et al., QMIX, ICML 2018.
    """
    from flax import linen as nn

    def dense(width: int) -> Any:
        return nn.Dense(width, kernel_init=nn.initializers.orthogonal(scale))

    class Monotone(nn.Module):
        @nn.compact
        def __call__(self, values: Array, world: Array) -> Array:
            def made(width: int) -> Array:
                return dense(width)(nn.relu(dense(hidden)(world)))

            first = jnp.abs(made(num_agents * embedding)).reshape(*values.shape, embedding)
            inner = jnp.einsum("...a,...ae->...e", values, first) + dense(embedding)(world)
            second = jnp.abs(made(embedding))
            offset = dense(1)(nn.relu(dense(embedding)(world)))[..., 0]
            return jnp.sum(nn.elu(inner) * second, axis=-1) + offset

    module = Monotone()

    def init(key: Array, world: Array) -> PyTree:
        return module.init(key, jnp.zeros(num_agents), world)

    return Mixer(one_at_a_time(init), module.apply)
