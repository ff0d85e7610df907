"""Many copies of a world, side by side, and how agents' rows become groups of like parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys, trees
from dlsim.core import Array, PyTree
from dlsim.environments.environment import Environment


class Copies(NamedTuple):
    """E copies of a world, each going on with a new episode when one is over."""

    worlds: PyTree  # [E, ...]
    observations: Array  # [E, A, ...]
    is_first: Array  # bool [E]: an episode begins with these observations
    returns: Array  # [E, A] rewards of this episode so far
    last_returns: Array  # [E, A] of the last episode that ended; NaN before


def begin(key: Array, environment: Environment, num_copies: int) -> Copies:
    """Fresh copies, each drawn by its own number."""
    worlds, observations = jax.vmap(environment.reset)(keys.at_nodes(key, jnp.arange(num_copies)))
    shape = (num_copies, environment.num_agents)
    return Copies(
        worlds,
        observations,
        jnp.ones(num_copies, bool),
        jnp.zeros(shape),
        jnp.full(shape, jnp.nan),
    )


def advance(key: Array, environment: Environment, copies: Copies, actions: Array) -> tuple[Copies, Array, Array]:
    """One step of all copies, actions `[E, A, ...]`: `(copies, rewards [E, A], over bool [E])`.

    New episodes are drawn only in steps in which some copy's is over (side by side with other runs, always).
    """
    ids = jnp.arange(copies.is_first.shape[0])
    step_keys = keys.at_nodes(keys.stream(key, "step"), ids)
    worlds, observations, rewards, _, info = jax.vmap(environment.step)(step_keys, copies.worlds, actions)
    over = info["is_over"]

    def renewed() -> tuple[PyTree, Array]:
        fresh = jax.vmap(environment.reset)(keys.at_nodes(keys.stream(key, "reset"), ids))
        return trees.select(over, fresh, (worlds, observations))

    worlds, observations = jax.lax.cond(jnp.any(over), renewed, lambda: (worlds, observations))
    returns = copies.returns + rewards
    after = Copies(
        worlds=worlds,
        observations=observations,
        is_first=over,
        returns=jnp.where(over[:, None], 0.0, returns),
        last_returns=jnp.where(over[:, None], returns, copies.last_returns),
    )
    return after, rewards, over


def masks(environment: Environment, worlds: PyTree) -> Array | None:
    """What each agent may do now, bool `[E, A, num]`; None: everything."""
    return None if environment.action_mask is None else jax.vmap(environment.action_mask)(worlds).astype(bool)


def to_groups(values: Array, num_groups: int) -> Array:
    """`[E, A, ...]` as `[G, B, ...]`: B = E rows an agent where each has parameters of its own, else B = A E."""
    copies, agents = values.shape[:2]
    return jnp.swapaxes(values, 0, 1).reshape(num_groups, agents * copies // num_groups, *values.shape[2:])


def from_groups(values: Array, num_agents: int) -> Array:
    """`[G, B, ...]` as `[E, A, ...]`."""
    groups, rows = values.shape[:2]
    return jnp.swapaxes(values.reshape(num_agents, groups * rows // num_agents, *values.shape[2:]), 0, 1)


def by_group(fn: Any, num_groups: int) -> Any:
    """`fn` of one group's arguments, for all groups `[G, ...]`; a single group is no batch of matrix products."""
    if num_groups > 1:
        return jax.vmap(fn)

    def single(*args: PyTree) -> PyTree:
        out = fn(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return single


def with_ids(observations: Array, has_ids: bool) -> Array:
    """Observations `[E, A, ...]`, flattened and followed by each agent's one-hot number if asked for."""
    if not has_ids:
        return observations
    copies, agents = observations.shape[:2]
    flat = observations.reshape(copies, agents, -1).astype(jnp.float32)
    return jnp.concatenate([flat, jnp.broadcast_to(jnp.eye(agents), (copies, agents, agents))], axis=-1)


def finished(copies: Copies) -> Array:
    """Mean return of an agent over the last episode of each copy in which one has ended; NaN before, `[]`."""
    known = ~jnp.isnan(copies.last_returns)
    total = jnp.sum(jnp.where(known, copies.last_returns, 0.0))
    return jnp.where(jnp.any(known), total / jnp.maximum(jnp.sum(known), 1), jnp.nan)
