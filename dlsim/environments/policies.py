"""Policies: how agents choose, whether at random, by a script, by what was learned or by asking the host.

A policy sees what its agents observe and hear, never the world.  `dlsim.environments.play` runs one in a world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, PyTree
from dlsim.environments.environment import Environment, Space
from dlsim.networks.network import Inbox

NO_ANSWER = -1  # of a host that said nothing usable: no action of any space


class Policy(NamedTuple):
    """How A agents choose.

    `act(key, memory, observations [A, ...], allowed bool [A, num] | None, heard) -> (memory, actions [A, ...], message)`
    where `heard` is the Inbox of what the others said in the last round (`values [A, K, message_size]`, `mask [A, K]`),
    and `message [A, message_size]` is what everyone says now; both None for silent policies.
    """

    act: Any
    init: Any = lambda num_agents: ()  # (num_agents) -> memory, every leaf [A, ...]
    message_size: int = 0  # numbers that an agent says a round
    source: str = ""


class Situation(NamedTuple):
    """What a function on the host is asked about: one round of the whole population, as NumPy arrays."""

    step: int  # rounds since the episode began
    observations: np.ndarray  # [A, ...]
    allowed: np.ndarray | None  # bool [A, num]
    heard: np.ndarray | None  # [A, K, message_size]
    heard_mask: np.ndarray | None  # bool [A, K]


class HostMemory(NamedTuple):
    step: Array  # int32 [A], the same in each row


def random_policy(environment: Environment) -> Policy:
    """Uniform over what is allowed; uniform between the bounds (-1 and 1 where there are none) for numbers."""
    checks.instance("random_policy", "environment", environment, Environment, "Call its factory first.")
    space, num_agents = environment.action_space, environment.num_agents

    def act(key: Array, memory: PyTree, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del observations, heard
        shape = (num_agents, *space.shape)
        if not space.is_discrete:
            low, high = bounds(space)
            return memory, jax.random.uniform(key, shape, minval=low, maxval=high), None
        assert space.num is not None
        if allowed is None:
            return memory, jax.random.randint(key, shape, 0, space.num), None
        return memory, jax.random.categorical(key, jnp.where(allowed, 0.0, -jnp.inf)), None

    return Policy(act)


def bounds(space: Space) -> tuple[float, float]:
    """The bounds of a space of numbers; -1 or 1 where it has none."""
    return max(space.low, -1.0) if np.isinf(space.low) else space.low, 1.0 if np.isinf(space.high) else space.high


def host_policy(
    fn: Callable[[Situation], Any], environment: Environment, *, message_size: int = 0, ordered: bool = True
) -> Policy:
    """A function on the host chooses: a language model, a script in Python, a person.

    `fn(situation) -> actions` or `(actions, messages [A, message_size])` is called once a round for the whole
    population, through `io_callback`.  An answer that is no action (None, text, out of range, not finite) is repaired
    and counted by `play`; a wrong number of answers is an error.  What `fn` remembers is its own affair: a run that goes
    on from a checkpoint calls it anew.

    Args:
      fn: called with a `Situation`.  Actions: a sequence of A, each an int (discrete) or numbers of the space's shape.
      environment: whose agents are asked.
      message_size: numbers that an agent says a round.
      ordered: calls come in the order of the rounds.  Such a run cannot be one of several under `vmap`: sweeps take
        `layout="map"`.
    """
    where = "host_policy"
    checks.function(where, "fn", fn, "a function of a Situation")
    checks.instance(where, "environment", environment, Environment, "Call its factory first.")
    message_size = checks.integer(where, "message_size", message_size, 0)
    checks.flag(where, "ordered", ordered)
    space, num_agents = environment.action_space, environment.num_agents
    dtype: Any = np.int32 if space.is_discrete else np.float32
    results = (
        jax.ShapeDtypeStruct((num_agents, *space.shape), dtype),
        jax.ShapeDtypeStruct((num_agents, message_size), np.float32),
    )

    def ask(step: Any, observations: Any, allowed: Any, heard: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        situation = Situation(
            int(np.ravel(step)[0]),
            np.asarray(observations),
            None if allowed is None else np.asarray(allowed),
            None if heard is None else np.asarray(heard),
            None if mask is None else np.asarray(mask),
        )
        answer = fn(situation)
        actions, messages = answer if message_size and isinstance(answer, tuple) else (answer, None)
        return _read_actions(actions, space, num_agents), _read_messages(messages, num_agents, message_size)

    def act(
        key: Array, memory: HostMemory, observations: Array, allowed: Array | None, heard: Inbox | None
    ) -> tuple[HostMemory, Array, Array | None]:
        del key
        from jax.experimental import io_callback

        values, mask = (None, None) if heard is None else (heard.values, heard.mask)
        actions, message = io_callback(ask, results, memory.step, observations, allowed, values, mask, ordered=ordered)
        return HostMemory(memory.step + 1), actions, message if message_size else None

    return Policy(act, lambda num: HostMemory(jnp.zeros(num, jnp.int32)), message_size)


def _read_actions(answers: Sequence[Any], space: Space, num_agents: int) -> np.ndarray:
    """One row an agent; what is no action becomes NO_ANSWER or NaN, which `repair` finds."""
    if isinstance(answers, str) or not hasattr(answers, "__len__"):
        checks.fail("host_policy", "actions", f"one for each of {num_agents} agents", repr(answers))
    if len(answers) != num_agents:
        checks.fail("host_policy", "actions", f"one for each of {num_agents} agents", f"{len(answers)} of them")
    nothing = NO_ANSWER if space.is_discrete else np.nan
    out = np.full((num_agents, *space.shape), nothing, np.int32 if space.is_discrete else np.float32)
    for row, answer in enumerate(answers):
        try:
            value = np.asarray(answer, np.float64)
        except (TypeError, ValueError):
            continue
        is_number = value.shape == space.shape and np.all(np.isfinite(value)) and np.all(np.abs(value) < 2**31)
        if is_number and (not space.is_discrete or np.all(value == np.round(value))):
            out[row] = value
    return out


def _read_messages(messages: Any, num_agents: int, message_size: int) -> np.ndarray:
    if messages is None:
        return np.zeros((num_agents, message_size), np.float32)
    values = np.asarray(messages, np.float32)
    checks.shape("host_policy", "messages", values, (num_agents, message_size))
    return np.nan_to_num(values)


def repair(environment: Environment, actions: Array, allowed: Array | None) -> tuple[Array, Array]:
    """Actions that the world knows, and which agents' had to be changed, bool `[A]`.

    A discrete one that is out of range or not allowed becomes the first that is allowed; numbers are clipped to the
    bounds, NaN becomes the one next to 0.
    """
    space = environment.action_space
    num_agents = environment.num_agents
    checks.shape(environment.name, "actions", actions, (num_agents, *space.shape))
    if not space.is_discrete:
        fixed = jnp.clip(jnp.nan_to_num(actions), space.low, space.high).astype(space.dtype)
        bad = (fixed != actions).reshape(num_agents, -1)
        return fixed, jnp.any(bad, axis=1)
    assert space.num is not None
    good = (actions >= 0) & (actions < space.num)
    default = jnp.zeros(num_agents, jnp.int32)
    if allowed is not None and not space.shape:
        good &= jnp.take_along_axis(allowed, jnp.clip(actions, 0, space.num - 1)[:, None].astype(jnp.int32), 1)[:, 0]
        default = jnp.argmax(allowed, axis=1).astype(jnp.int32)
    default = default.reshape(num_agents, *(1,) * len(space.shape))
    fixed = jnp.where(good, actions, default).astype(jnp.int32)
    return fixed, jnp.any(~good.reshape(num_agents, -1), axis=1)
