"""The arithmetic of proximal policy optimisation: advantages, the clipped loss, epochs over minibatches."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.algorithms.optimizers import NodeOptimizer
from dlsim.core import Array, PyTree
from dlsim.marl.copies import by_group
from dlsim.marl.distributions import Distribution
from dlsim.marl.models import Net


class Batch(NamedTuple):
    """What happened, by step, group and row: `[T, G, B, ...]` while it is collected, `[G, T, B, ...]` when learned from."""

    seen: Array  # by the actors
    critics: PyTree  # what the critics saw, where it is another thing; else ()
    resets: Array  # bool: an episode began here
    allowed: PyTree  # bool [..., num], or ()
    actions: Array
    log_probs: Array  # of the actions, when they were drawn


class Clipping(NamedTuple):
    clip: Any
    entropy_weight: Any
    value_weight: Any
    normalize: bool


class Sample(NamedTuple):
    """Rows to learn from, of one group: `[T, n, ...]`."""

    batch: Batch
    values: Array
    advantages: Array


def advantages(rewards: Array, values: Array, last: Array, ends: Array, discount: Any, trace: Any) -> Array:
    """Generalised advantage estimates, `[G, T, B]`, from rewards, values and ends of these shapes and `last [G, B]`.

        A_t = delta_t + (1 - end_t) discount trace A_{t+1},   delta_t = r_t + (1 - end_t) discount V_{t+1} - V_t

    Source: Schulman et al., High-dimensional continuous control using generalized advantage estimation, ICLR 2016.
    """
    after = jnp.concatenate([values[:, 1:], last[:, None]], axis=1)
    goes_on = 1.0 - ends.astype(values.dtype)
    deltas = rewards + discount * goes_on * after - values

    def back(carry: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, goes_on = step
        carry = delta + discount * trace * goes_on * carry
        return carry, carry

    by_time = jnp.moveaxis(deltas, 1, 0), jnp.moveaxis(goes_on, 1, 0)
    _, found = jax.lax.scan(back, jnp.zeros_like(last), by_time, reverse=True)
    return jnp.moveaxis(found, 0, 1)


def loss(
    params: PyTree, memory: PyTree, sample: Sample, nets: tuple[Net, Net], chances: Distribution, numbers: Clipping
) -> Array:
    """The loss of one group's rows, `[]`; see `ippo`."""
    batch = sample.batch
    allowed = None if isinstance(batch.allowed, tuple) else batch.allowed
    _, outputs = nets[0].apply(params["actor"], memory[0], batch.seen, batch.resets)
    log_probs = chances.log_prob(outputs, batch.actions, allowed)
    critics = batch.seen if isinstance(batch.critics, tuple) else batch.critics
    _, values = nets[1].apply(params["critic"], memory[1], critics, batch.resets)
    values, clip = values[..., 0], numbers.clip
    targets = sample.advantages + sample.values
    near = sample.values + jnp.clip(values - sample.values, -clip, clip)
    value_loss = 0.5 * jnp.mean(jnp.maximum(jnp.square(values - targets), jnp.square(near - targets)))
    gain = sample.advantages
    if numbers.normalize:
        gain = (gain - jnp.mean(gain)) / (jnp.std(gain) + 1e-8)
    ratio = jnp.exp(log_probs - batch.log_probs)
    policy_loss = -jnp.mean(jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - clip, 1 + clip) * gain))
    entropy = jnp.mean(chances.entropy(outputs, allowed))
    return policy_loss + numbers.value_weight * value_loss - numbers.entropy_weight * entropy


def update(
    key: Array,
    steps: NodeOptimizer,
    nets: tuple[Net, Net],
    chances: Distribution,
    numbers: Clipping,
    schedule: tuple[int, int],
    learned: tuple[PyTree, PyTree, PyTree],
    sample: Sample,
) -> tuple[PyTree, PyTree, Array]:
    """Epochs of minibatches: `(params, optimizer_state, losses [G])` from those and memories, and a Sample `[G, T, B]`.

    `schedule` is (epochs, minibatches).  Minibatches are columns: whole sequences of a recurrent model, single steps of
    another; the groups draw the same order.
    """
    import optax

    params, optimizer_state, memory = learned
    num_epochs, num_minibatches = schedule
    groups = sample.values.shape[0]
    if not nets[0].is_recurrent:  # one long row of steps
        sample = jax.tree.map(lambda leaf: leaf.reshape(groups, 1, -1, *leaf.shape[3:]), sample)
    columns = sample.values.shape[2]
    gradient = by_group(jax.value_and_grad(lambda p, m, s: loss(p, m, s, nets, chances, numbers)), groups)

    def split(leaf: Array, order: Array, axis: int) -> Array:
        """The columns along an axis in this order, as minibatches in front."""
        shuffled = jnp.take(leaf, order, axis=axis, unique_indices=True, mode="clip")
        parts = leaf.shape[:axis] + (num_minibatches, columns // num_minibatches) + leaf.shape[axis + 1 :]
        return jnp.moveaxis(shuffled.reshape(parts), axis, 0)

    def minibatch(
        carry: tuple[PyTree, PyTree], part: tuple[Array, PyTree, Sample]
    ) -> tuple[tuple[PyTree, PyTree], Array]:
        params, optimizer_state = carry
        draw, *rest = part
        losses, gradients = gradient(params, *rest)
        updates, optimizer_state = steps.update(draw, jnp.arange(groups), gradients, optimizer_state, params, losses)
        return (optax.apply_updates(params, updates), optimizer_state), losses

    def epoch(carry: tuple[PyTree, PyTree], draw: Array) -> tuple[tuple[PyTree, PyTree], Array]:
        if num_minibatches == 1:
            carry, losses = minibatch(carry, (draw, memory, sample))
            return carry, losses
        # One sort of random words: `jax.random.permutation` sorts twice against ties, a quarter of a small update's time.
        # Two of n words of 32 bits are equal with chance n^2 / 2^33, and then keep their order.
        order = jnp.argsort(jax.random.bits(draw, (columns,)))
        parts = (
            keys.fold_in(draw, jnp.arange(num_minibatches)),
            jax.tree.map(lambda leaf: split(leaf, order, 1), memory),
            jax.tree.map(lambda leaf: split(leaf, order, 2), sample),
        )
        carry, losses = jax.lax.scan(minibatch, carry, parts)
        return carry, jnp.mean(losses, axis=0)

    draws = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_epochs))
    (params, optimizer_state), losses = jax.lax.scan(epoch, (params, optimizer_state), draws)
    return params, optimizer_state, jnp.mean(losses, axis=0)
