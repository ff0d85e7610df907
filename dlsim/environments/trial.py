"""Random play in a few copies of a world, in which what should not happen is noted; see `dlsim.environments.check`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import keys, trees
from dlsim.core import Array, PyTree
from dlsim.environments.environment import Environment, Space
from dlsim.environments.policies import bounds

COPIES = 4  # of the world
AT_RESET = -1  # in place of a step


class Trial(NamedTuple):
    """What of an environment has the right form, so that it can be looked at."""

    sees: bool
    earns: bool
    ends: bool


class Found(NamedTuple):
    """What was seen: by rule, which agents `[A]` (or any, `[]`) ever broke it, when first, and by what value."""

    agents: dict[str, Array]
    first: dict[str, Array]  # int32 [] step from 1; AT_RESET
    values: dict[str, Array]
    ended: Array  # int32 [COPIES] step at which the first episode was over, or more than there are
    state: PyTree  # one of the last states
    rewards: Array  # [COPIES, A] the sum of all


def action_dtype(space: Space) -> Any:
    """The type in which actions of this space come."""
    return jnp.int32 if space.is_discrete else jnp.dtype(space.dtype)


def try_out(environment: Environment, key: Array, num_steps: int, trial: Trial) -> tuple[Found, list[str]]:
    """What a play of so many steps shows, and what of it was another in a second play by the same key."""
    found, again = _plays(environment, key, num_steps, trial)
    parts = {"state": (found.state, again.state), "rewards": (found.rewards, again.rewards)}
    parts["end of an episode"] = (found.ended, again.ended)
    return found, [name for name, (one, other) in parts.items() if not _same(one, other)]


def _same(one: PyTree, other: PyTree) -> bool:
    def words(leaf: Any) -> bytes:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return [words(leaf) for leaf in jax.tree.leaves(one)] == [words(leaf) for leaf in jax.tree.leaves(other)]


class _Carry(NamedTuple):
    states: PyTree  # [COPIES, ...]
    dones: Array  # bool [COPIES, A]: before, in this episode
    found: Found


def _plays(environment: Environment, key: Array, num_steps: int, trial: Trial) -> tuple[Found, Found]:
    """Two plays by one key.  Two small programs and a loop on the host: what takes long here is to compile."""
    options: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled: dict[str, Any] = {"compiler_options": options} if jax.default_backend() == "cpu" else {}
    ids = jnp.arange(COPIES)
    begin = jax.jit(lambda key: jax.vmap(environment.reset)(keys.at_nodes(keys.stream(key, "reset"), ids)), **compiled)
    fresh, seen = begin(key)
    go = jax.jit(lambda t, carry: _step(environment, key, fresh, trial, t, carry), **compiled)
    pick = jax.jit(trees.select, **compiled)

    def start(states: PyTree, seen: Array) -> _Carry:
        found = _nothing(environment, num_steps)
        if trial.sees:
            found = _noted(found, _of_observations(environment, seen), AT_RESET)
        return _Carry(states, jnp.zeros((COPIES, environment.num_agents), bool), found)

    begun = jax.jit(start, **compiled)(fresh, seen)

    def play() -> Found:
        carry = begun._replace(states=begin(key)[0])
        for t in range(1, num_steps + 1):
            carry, over = go(np.int32(t), carry)
            if np.any(over):
                carry = carry._replace(states=pick(over, begin(jax.random.fold_in(key, t))[0], carry.states))
        states, found = jax.device_get((carry.states, carry.found))
        return found._replace(state=jax.tree.map(lambda leaf: leaf[0], states))

    return play(), play()


def _step(
    environment: Environment, key: Array, fresh: PyTree, trial: Trial, t: Array, carry: _Carry
) -> tuple[_Carry, Array]:
    """A step of all copies, what was broken in it, and where an episode is over, bool `[COPIES]`."""
    draw, ids, counters = jax.random.fold_in(key, t), jnp.arange(COPIES), _counters(fresh)
    mask = None if environment.action_mask is None else jax.vmap(environment.action_mask)(carry.states)
    actions = _actions(keys.stream(draw, "act"), environment, mask)
    draws = keys.at_nodes(keys.stream(draw, "step"), ids)
    after, seen, rewards, dones, info = jax.vmap(environment.step)(draws, carry.states, actions)
    after = _as(after, carry.states)
    over, truncated = info["is_over"].astype(bool), info["is_truncated"].astype(bool)
    ended = dones.astype(bool) if trial.ends else jnp.zeros_like(carry.dones)
    broken: dict[str, tuple[Array, Array | None]] = _of_observations(environment, seen) if trial.sees else {}
    if trial.earns:
        broken["rewards"] = (~jnp.isfinite(rewards), rewards)
        broken["rewards of agents that are done"] = (carry.dones & (rewards != 0), rewards)
    broken["dones"] = (carry.dones & ~ended & ~over[:, None], None)
    broken["info['is_truncated']"] = (truncated & ~over, None)
    if mask is not None and mask.shape == (COPIES, environment.num_agents, environment.action_space.num):
        broken["action_mask(state)"] = (~carry.dones & ~jnp.any(mask.astype(bool), axis=-1), None)
    went_on, is_fresh = _differ(counters, carry.states, fresh), ~_differ(counters, after, fresh)
    broken["step"] = (over & went_on & is_fresh, None)
    found = _noted(carry.found, broken, t)
    found = found._replace(
        ended=jnp.where(over, jnp.minimum(found.ended, t), found.ended),
        rewards=found.rewards + rewards if trial.earns else found.rewards,
    )
    return _Carry(after, ended & ~over[:, None], found), over


def _nothing(environment: Environment, num_steps: int) -> Found:
    """What was seen before anything was."""
    by_agent = ("observations", "observations (as numbers)", "rewards", "rewards of agents that are done", "dones")
    single = ("info['is_truncated']", "step")
    everyone = jnp.zeros(environment.num_agents, bool)
    agents = dict.fromkeys((*by_agent, "action_mask(state)"), everyone)
    agents |= {name: jnp.zeros((), bool) for name in single}
    return Found(
        agents=agents,
        first={name: jnp.int32(0) for name in agents},
        values={name: jnp.zeros(()) for name in by_agent[:4]},
        ended=jnp.full(COPIES, num_steps + 1, jnp.int32),
        state=(),
        rewards=jnp.zeros((COPIES, environment.num_agents)),
    )


def _noted(found: Found, broken: dict[str, tuple[Array, Array | None]], t: Array | int) -> Found:
    agents, first, values = dict(found.agents), dict(found.first), dict(found.values)
    for name, (bad, value) in broken.items():
        is_new = jnp.any(bad) & ~jnp.any(agents[name])
        first[name] = jnp.where(is_new, t, first[name])
        if value is not None:
            worst = jnp.ravel(value)[jnp.argmax(jnp.ravel(bad))]
            values[name] = jnp.where(is_new, worst, values[name])
        agents[name] = agents[name] | jnp.any(bad, axis=0)
    return found._replace(agents=agents, first=first, values=values)


def _as(states: PyTree, like: PyTree) -> PyTree:
    """In the types of other states: drift is told, and does not end the play."""
    return jax.tree.map(lambda new, old: new if new.dtype == old.dtype else new.astype(old.dtype), states, like)


def _of_observations(environment: Environment, seen: Array) -> dict[str, tuple[Array, Array | None]]:
    space = environment.observation_space
    outside = (seen < space.low) | (seen > space.high)
    endless = ~jnp.isfinite(seen)

    def by_agent(bad: Array) -> tuple[Array, Array]:
        flat, values = (jnp.reshape(leaf, (*seen.shape[:2], -1)) for leaf in (bad, seen.astype(float)))
        worst = jnp.take_along_axis(values, jnp.argmax(flat, axis=-1)[..., None], axis=-1)[..., 0]
        return jnp.any(flat, axis=-1), worst

    return {"observations": by_agent(outside), "observations (as numbers)": by_agent(endless)}


def _actions(key: Array, environment: Environment, mask: Array | None) -> Array:
    """Any that are allowed; of numbers also those at the bounds."""
    space = environment.action_space
    shape = (COPIES, environment.num_agents, *space.shape)
    if not space.is_discrete:
        low, high = bounds(space)
        share = jnp.clip(jax.random.uniform(key, shape, minval=-0.25, maxval=1.25), 0, 1)
        return (low + share * (high - low)).astype(action_dtype(space))
    assert space.num is not None
    if mask is None or space.shape or mask.shape != (*shape, space.num):
        return jax.random.randint(key, shape, 0, space.num, jnp.int32)
    allowed = mask.astype(bool) | ~jnp.any(mask.astype(bool), axis=-1, keepdims=True)
    return jax.random.categorical(key, jnp.where(allowed, 0.0, -jnp.inf)).astype(jnp.int32)


def _counters(fresh: PyTree) -> PyTree:
    """Which leaves are whole numbers that every episode begins with alike, say its step."""

    def one(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.zeros((), bool)
        return jnp.all(leaf == leaf[:1])

    return jax.tree.map(one, fresh)


def _differ(counters: PyTree, states: PyTree, fresh: PyTree) -> Array:
    """Whether some counter is not what it is at a beginning, bool `[COPIES]`."""

    def one(is_counter: Array, now: Array, then: Array) -> Array:
        if not jnp.issubdtype(now.dtype, jnp.integer):
            return jnp.zeros(COPIES, bool)
        return is_counter & jnp.any((now != then).reshape(COPIES, -1), axis=1)

    parts = jax.tree.leaves(jax.tree.map(one, counters, states, fresh))
    return jnp.any(jnp.stack(parts), axis=0) if parts else jnp.zeros(COPIES, bool)
