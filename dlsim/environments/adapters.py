"""Environments of JaxMARL under our learners, and ours under JaxMARL's code.

Both ways keep the random numbers: the same key gives the same trajectory on either side.  Needs
the extra `rl`: JaxMARL 0.2.0.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info, PyTree
from dlsim.environments.environment import Environment, Space, box, discrete


def to_jaxmarl(environment: Environment, name: str | None = None) -> Any:
    """The environment as a `jaxmarl.environments.MultiAgentEnv`: dictionaries by agent name, reset within `step`.

    State: `done`, `step`, `world` (ours) and `observations` `[A, ...]`, from which `get_obs` reads.  `infos` is empty,
    since JaxMARL's training scripts reshape every leaf of it to one value an agent.  An environment with a `global_state`
    also gives it as `observations["world_state"]`, as JaxMARL's skirmish does.  Where agents had different spaces they
    are padded here as they are natively: see `get_avail_actions`.

    Args:
        environment: without `auto_reset`, which JaxMARL's `step` does itself.
        name: what JaxMARL's code is told; None: the environment's own.  Its `CTRolloutManager` gives masks of actions and
            the world state to names that contain `smax` alone: pass e.g. "skirmish_smax" with what has both.
    """
    checks.instance("to_jaxmarl", "environment", environment, Environment, "Call its factory first.")
    if name is not None:
        checks.instance("to_jaxmarl", "name", name, str)
    theirs = _jaxmarl("to_jaxmarl").environments.multi_agent_env
    base, base_state = theirs.MultiAgentEnv, theirs.State
    from flax import struct

    names, num_agents = environment.names, environment.num_agents

    @struct.dataclass
    class State(base_state):  # type: ignore[misc, valid-type]
        world: PyTree
        observations: Array

    def split(values: Array) -> dict[str, Array]:
        return {name: values[i] for i, name in enumerate(names)}

    class Adapted(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(num_agents)
            self.agents = list(names)
            self.environment = environment
            self.max_steps = environment.max_steps
            self.observation_spaces = {name: _their_space(environment.observation_space) for name in names}
            self.action_spaces = {name: _their_space(environment.action_space) for name in names}
            # Under these two names its MAPPO asks its skirmish for the sizes of the critic's input.
            self.num_allies = num_agents
            self.state_size = jax.eval_shape(
                lambda key: self.get_world_state(self.reset(key)[1]), jax.random.key(0)
            ).size

        @property
        def name(self) -> str:
            return environment.name if name is None else name

        @property
        def agent_classes(self) -> dict[str, list[str]]:
            classes: dict[str, list[str]] = {}
            for agent in names:
                classes.setdefault(agent.rstrip("0123456789").rstrip("_") or agent, []).append(agent)
            return classes

        def reset(self, key: Array) -> tuple[dict[str, Array], State]:
            world, observations = environment.reset(key)
            state = State(jnp.asarray(False), jnp.int32(0), world, observations)
            return self.get_obs(state), state

        def step_env(
            self, key: Array, state: State, actions: dict[str, Array]
        ) -> tuple[dict[str, Array], State, dict[str, Array], dict[str, Array], dict[str, Array]]:
            shape = environment.action_space.shape
            stacked = jnp.stack([jnp.asarray(actions[name]).reshape(shape) for name in names])
            world, observations, rewards, dones, info = environment.step(key, state.world, stacked)
            state = State(jnp.asarray(info["is_over"]), state.step + 1, world, observations)
            return self.get_obs(state), state, split(rewards), {**split(dones), "__all__": info["is_over"]}, {}

        def get_obs(self, state: State) -> dict[str, Array]:
            seen = split(state.observations)
            return seen if environment.global_state is None else {**seen, "world_state": self.get_world_state(state)}

        def get_world_state(self, state: State) -> Array:
            if environment.global_state is None:
                return state.observations.reshape(-1)
            return environment.global_state(state.world)

        def get_avail_actions(self, state: State) -> dict[str, Array]:
            if environment.action_mask is not None:
                return split(environment.action_mask(state.world).astype(jnp.uint8))
            if environment.action_space.num is None:
                checks.fail("get_avail_actions", "actions", "discrete", "floats", "Every action is allowed.")
            return split(jnp.ones((num_agents, environment.action_space.num), jnp.uint8))

    return Adapted()


def from_jaxmarl(jaxmarl_environment: Any) -> Environment:
    """A `jaxmarl` environment in the native form: arrays `[A, ...]` in the order of its `agents`, no automatic reset.

    Observations that are structures become one row; rows are padded with zeros where agents' shapes differ, and actions to
    the longest (a discrete one beyond an agent's own counts as its last; the mask says which are allowed).  What is
    observed under other names than the agents' is left out; `global_state` is its `get_world_state`, if any, as one row.
    JaxMARL does not say why an episode ended, so `is_truncated` is always false.

    Args:
        jaxmarl_environment: made by `jaxmarl.make`, without wrappers.
    """
    where, theirs = "from_jaxmarl", jaxmarl_environment
    for attribute in ("agents", "reset", "step_env", "action_space"):
        if not hasattr(theirs, attribute):
            fix = 'Pass what jaxmarl.make("MPE_simple_spread_v3") returns.'
            checks.fail(
                where, "jaxmarl_environment", f"a JaxMARL environment, which has `{attribute}`", type(theirs), fix
            )
    agents = list(theirs.agents)
    seen, state = jax.eval_shape(lambda key: _first(theirs, agents, key), jax.random.key(0))
    shapes = [rows.shape for rows in seen]
    spaces = [theirs.action_space(agent) for agent in agents]
    action_space, read_actions = _join(where, spaces)
    has_one_shape = len(set(shapes)) == 1
    width = max(math.prod(shape) for shape in shapes)

    def stack(observations: Any) -> Array:
        parts = [_flat(_of(observations, agent, i)) for i, agent in enumerate(agents)]
        if not has_one_shape:
            parts = [jnp.pad(part.reshape(-1), (0, width - part.size)) for part in parts]
        return jnp.stack(parts).astype(jnp.float32)

    def row(values: Any, dtype: Any) -> Array:
        return jnp.stack([jnp.asarray(_of(values, agent, i), dtype).reshape(()) for i, agent in enumerate(agents)])

    def reset(key: Array) -> tuple[PyTree, Array]:
        observations, state = theirs.reset(key)
        return state, stack(observations)

    def step(key: Array, state: PyTree, actions: Array) -> tuple[PyTree, Array, Array, Array, Info]:
        checks.shape(where, "actions", actions, (len(agents), *action_space.shape))
        given = dict(zip(agents, read_actions(jnp.asarray(actions)), strict=True))
        observations, state, rewards, dones, infos = theirs.step_env(key, state, given)
        over = jnp.asarray(dones["__all__"], bool).reshape(())
        flags = row(dones, bool) if len(dones) > 1 else jnp.broadcast_to(over, (len(agents),))
        info = {**infos, "is_over": over, "is_truncated": jnp.zeros((), bool)}
        return state, stack(observations), row(rewards, jnp.float32), flags, info

    observation_spaces = [theirs.observation_space(agent) for agent in agents]
    low = min(float(np.min(getattr(space, "low", -np.inf))) for space in observation_spaces)
    high = max(float(np.max(getattr(space, "high", np.inf))) for space in observation_spaces)
    if not has_one_shape:
        low, high = min(low, 0.0), max(high, 0.0)
    return Environment(
        name=str(theirs.name),
        num_agents=len(agents),
        observation_space=box(shapes[0] if has_one_shape else (width,), low, high),
        action_space=action_space,
        reset=reset,
        step=step,
        action_mask=_mask_of(theirs, agents, spaces, action_space, state),
        global_state=_global_state_of(theirs, state),
        agent_names=tuple(str(agent) for agent in agents),
        max_steps=getattr(theirs, "max_steps", None),
        source="JaxMARL",
    )


def _jaxmarl(where: str) -> Any:
    """The package, or one line that says how to get it."""
    checks.package(where, "jaxmarl.environments.multi_agent_env", "rl")
    return checks.package(where, "jaxmarl", "rl")


def _their_space(space: Space) -> Any:
    """One of ours as one of theirs."""
    from jaxmarl.environments import spaces

    if space.num is None:
        return spaces.Box(space.low, space.high, space.shape, jnp.dtype(space.dtype))
    if space.shape == ():
        return spaces.Discrete(space.num)
    return spaces.MultiDiscrete([space.num] * math.prod(space.shape))


def _join(where: str, spaces: list[Any]) -> tuple[Space, Any]:
    """One action space for all agents, and the function from actions `[A, ...]` to a list of theirs."""
    if all(hasattr(space, "n") for space in spaces):
        nums = [int(space.n) for space in spaces]
        return discrete(max(nums)), lambda actions: [jnp.minimum(actions[i], num - 1) for i, num in enumerate(nums)]
    if any(hasattr(space, "n") or not hasattr(space, "low") for space in spaces):
        kinds = ", ".join(sorted({type(space).__name__ for space in spaces}))
        checks.fail(where, "action spaces", "all Discrete or all Box", kinds, "Wrap the environment first.")
    sizes, shapes = [math.prod(space.shape) for space in spaces], [tuple(space.shape) for space in spaces]
    low = min(float(np.min(space.low)) for space in spaces)
    high = max(float(np.max(space.high)) for space in spaces)
    joined = box(shapes[0] if len(set(shapes)) == 1 else (max(sizes),), low, high)

    def read(actions: Array) -> list[Array]:
        flat = actions.reshape(len(spaces), -1)
        return [flat[i, :size].reshape(shape) for i, (size, shape) in enumerate(zip(sizes, shapes, strict=True))]

    return joined, read


def _mask_of(theirs: Any, agents: list[Any], spaces: list[Any], action_space: Space, state: PyTree) -> Any:
    """The function from a state to allowed actions `[A, num]`, or None where everything is allowed."""
    if action_space.num is None:
        return None
    num = action_space.num
    own = np.arange(num) < np.array([space.n for space in spaces])[:, None]
    allowed = next((f for f in ("get_avail_actions", "get_legal_moves") if _gives(theirs, f, state)), None)
    if allowed is None:
        return None if own.all() else lambda state: jnp.asarray(own)

    def mask(state: PyTree) -> Array:
        masks = getattr(theirs, allowed)(state)
        rows = [jnp.asarray(_of(masks, agent, i), bool).reshape(-1) for i, agent in enumerate(agents)]
        return jnp.stack([jnp.pad(row, (0, num - row.shape[0])) for row in rows])

    return mask


def _global_state_of(theirs: Any, state: PyTree) -> Any:
    """The function from a state to the whole world as one row `[G]`, or None where theirs has none."""
    if not _gives(theirs, "get_world_state", state):
        return None
    return lambda state: _flat(theirs.get_world_state(state)).reshape(-1)


def _first(theirs: Any, agents: list[Any], key: Array) -> tuple[list[Array], PyTree]:
    """Each agent's first observation as an array, and the first state."""
    observations, state = theirs.reset(key)
    return [_flat(_of(observations, agent, i)) for i, agent in enumerate(agents)], state


def _gives(theirs: Any, method: str, state: PyTree) -> bool:
    """Whether the environment has that method of a state, beyond the base class's empty one."""
    try:
        jax.eval_shape(getattr(theirs, method), state)
    except (NotImplementedError, AttributeError):
        return False
    return True


def _of(values: Any, agent: Any, position: int) -> Any:
    """An agent's value in a dictionary, whose keys may spell a numbered agent otherwise, or in a sequence or array."""
    if not isinstance(values, dict):
        return values[position]
    for key in (agent, str(agent), f"agent_{agent}"):
        if key in values:
            return values[key]
    if "observations" in values:  # a structure of stacked arrays; what else is in it has no row for each agent
        return values["observations"][position]
    fix = "Give it an interface by agents first."
    checks.fail("from_jaxmarl", "what the environment returns", f"keyed by agent {agent!r}", sorted(values), fix)


def _flat(value: PyTree) -> Array:
    """One agent's observation as an array: itself, or the leaves of a structure side by side."""
    leaves = jax.tree.leaves(value)
    return jnp.asarray(leaves[0]) if len(leaves) == 1 else jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
