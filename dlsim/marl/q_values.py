"""What learners of action values share: what is checked, how agents explore, what happened, values over sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, PyTree
from dlsim.environments.environment import Environment
from dlsim.marl import copies as side_by_side
from dlsim.marl.copies import Copies, by_group, from_groups, to_groups, with_ids
from dlsim.marl.distributions import NEVER
from dlsim.marl.learner import Actor, actor, first_rows_of, groups_of_masks, start_memory
from dlsim.marl.models import Net


class Lived(NamedTuple):
    """What happened in T steps of E copies: `[T, E, A, ...]`, or `[T, E, ...]`."""

    observations: Array
    worlds: Array  # [T, E, S] what a team's mixer sees; S = 0 where there is none
    is_first: Array  # bool [T, E]
    allowed: PyTree  # bool [T, E, A, num], or ()
    actions: Array  # [T, E, A]
    rewards: Array  # [T, E, A]
    over: Array  # bool [T, E]


def num_actions_of(where: str, environment: Environment) -> int:
    """How many actions there are; value learners know no others than single discrete ones."""
    checks.instance(where, "environment", environment, Environment, "Call its factory first.")
    space = environment.action_space
    if space.num is None or space.shape:
        got = f"actions of shape {list(space.shape)}" + ("" if space.num is None else ", discrete")
        checks.fail(where, "environment", "of one discrete action an agent", got, "Use ippo or mappo.")
    return space.num


def explorer(net: Net, num_groups: int, num_agents: int, epsilon: Any) -> Actor:
    """Agents that take the action of most value, and with probability epsilon any that is allowed."""

    def decide(key: Array, values: Array, allowed: Array | None) -> Array:
        values = values if allowed is None else jnp.where(allowed, values, NEVER)
        best = jnp.argmax(values, axis=-1)
        open_to = jnp.zeros_like(values) if allowed is None else jnp.where(allowed, 0.0, NEVER)
        anything = jax.random.categorical(keys.stream(key, "action"), open_to)
        explores = jax.random.uniform(keys.stream(key, "explore"), best.shape) < epsilon
        return jnp.where(explores, anything, best)

    return actor(net, lambda params: params["agent"], decide, num_groups, num_agents)


def world_of(environment: Environment, copies: Copies) -> Array:
    """What a team's mixer sees, `[E, S]`."""
    num_copies = copies.is_first.shape[0]
    if environment.global_state is None:
        return copies.observations.reshape(num_copies, -1).astype(jnp.float32)
    return jax.vmap(environment.global_state)(copies.worlds).reshape(num_copies, -1).astype(jnp.float32)


def live(
    key: Array,
    environment: Environment,
    act: Actor,
    params: PyTree,
    copies: Copies,
    num_steps: int,
    groups: int,
    has_ids: bool,
    has_team: bool,
) -> tuple[Copies, Lived]:
    """T steps of all copies; what is remembered begins anew."""
    num_agents, num_copies = environment.num_agents, copies.is_first.shape[0]

    def one(carry: tuple[Copies, PyTree], t: Array) -> tuple[tuple[Copies, PyTree], Lived]:
        copies, memory = carry
        draw = jax.random.fold_in(key, t)
        allowed = groups_of_masks(environment, copies.worlds, groups)
        seen = to_groups(with_ids(copies.observations, has_ids), groups)
        resets = first_rows_of(copies.is_first, groups, num_agents)
        memory, _, chosen = act.choose(keys.stream(draw, "act"), params, memory, seen, resets, allowed)
        actions = from_groups(chosen, num_agents)
        after, rewards, over = side_by_side.advance(keys.stream(draw, "world"), environment, copies, actions)
        lived = Lived(
            copies.observations,
            world_of(environment, copies) if has_team else jnp.zeros((num_copies, 0)),
            copies.is_first,
            () if allowed is None else from_groups(allowed, num_agents),
            actions.astype(jnp.int32),
            rewards,
            over,
        )
        return (after, memory), lived

    (copies, _), lived = jax.lax.scan(one, (copies, act.memory(num_copies)), jnp.arange(num_steps))
    return copies, lived


def values_over(net: Net, params: PyTree, lived: Lived, groups: int, has_ids: bool) -> Array:
    """Values of all actions along sequences `[T, E, ...]`, from an empty memory: `[T, E, A, num]`."""
    num_agents, num_copies = lived.actions.shape[2], lived.actions.shape[1]
    seen = jax.vmap(lambda x: to_groups(with_ids(x, has_ids), groups), out_axes=1)(lived.observations)
    resets = jax.vmap(lambda x: first_rows_of(x, groups, num_agents), out_axes=1)(lived.is_first)
    memory = start_memory(net, num_copies, groups, num_agents)
    _, values = by_group(lambda p, m, s, r: net.apply(p["agent"], m, s, r), groups)(params, memory, seen, resets)
    return jax.vmap(lambda x: from_groups(x, num_agents), in_axes=1)(values)


def of_action(values: Array, actions: Array) -> Array:
    """Values of the actions taken, `[...]`; a product with one-hot rows needs no scatter in the gradient."""
    return jnp.sum(jnp.where(actions[..., None] == jnp.arange(values.shape[-1]), values, 0.0), axis=-1)


def only_allowed(values: Array, lived: Lived) -> Array:
    """Values in which what is not allowed is never the best."""
    return values if isinstance(lived.allowed, tuple) else jnp.where(lived.allowed, values, NEVER)
