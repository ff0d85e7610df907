"""Environments: worlds that agents act in, as stacked arrays `[A, ...]`; pure, and free of dictionaries of agents.

    state, observations = environment.reset(key)
    state, observations, rewards, dones, info = environment.step(key, state, actions)

A agents act at once.  Leaves that belong to agents lead with A.  `vmap` makes many copies of a world.  An agent that is
done stays in its row: its actions are ignored, its rewards are 0.  That an agent is done says nothing of the episode:
that is over when `info["is_over"]` `[]` says so (`info["is_truncated"]` `[]`: by the time limit).  `auto_reset` goes on
with a new episode then.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info, PyTree

FLOATS = ("float32", "float16", "bfloat16", "float64")  # of spaces of numbers


class Space(NamedTuple):
    """What one agent may observe or do."""

    shape: tuple[int, ...]  # of one agent's value; () for discrete actions
    num: int | None = None  # discrete: values 0 to num - 1; None: numbers from low to high
    low: float = -float("inf")
    high: float = float("inf")
    dtype: str = "float32"

    @property
    def is_discrete(self) -> bool:
        """Whether values are integers from 0 to num - 1."""
        return self.num is not None


def discrete(num: int, shape: tuple[int, ...] = ()) -> Space:
    """Integers from 0 to num - 1, in an array of this shape."""
    num = checks.integer("discrete", "num", num, 1)
    shape = checks.integers("discrete", "shape", shape, minimum=1)
    return Space(shape=shape, num=num, low=0, high=num - 1, dtype="int32")


def box(
    shape: tuple[int, ...], low: float = -float("inf"), high: float = float("inf"), dtype: str = "float32"
) -> Space:
    """Numbers between two bounds, which may be infinite, in an array of this shape."""
    where = "box"
    shape = checks.integers(where, "shape", shape, minimum=1)
    for name, value in (("low", low), ("high", high)):
        checks.known(where, name, value)
        if not (isinstance(value, float | np.floating) and np.isinf(value)):
            checks.number(where, name, value)
    low, high = float(low), float(high)
    if low > high:
        checks.fail(where, "low", f"at most high, {high:g}", f"{low:g}", "Exchange the two.")
    if not (isinstance(dtype, str) and dtype in FLOATS):
        checks.fail(where, "dtype", "one of " + ", ".join(FLOATS), checks.describe(dtype))
    return Space(shape=shape, low=low, high=high, dtype=dtype)


class ResetFn(Protocol):
    def __call__(self, key: Array, /) -> tuple[PyTree, Array]: ...


class EnvironmentStepFn(Protocol):
    def __call__(self, key: Array, state: PyTree, actions: Array, /) -> tuple[PyTree, Array, Array, Array, Info]: ...


class Environment(NamedTuple):
    """A world of A agents.  Floats given to a factory may be tracers, ints, bools and strings are structure.

    `reset(key) -> (state, observations [A, ...])`; `step(key, state, actions [A, ...]) -> (state, observations [A, ...],
    rewards [A], dones [A], info)`, whose info holds at least `is_over` and `is_truncated`, bool `[]`.
    """

    name: str
    num_agents: int
    observation_space: Space
    action_space: Space
    reset: ResetFn
    step: EnvironmentStepFn
    action_mask: Any = None  # (state) -> bool [A, num]: what is allowed now; None: everything
    contact: Any = None  # (state) -> bool [A, A]: whether the row's agent hears the column's now; None: all hear all
    global_state: Any = None  # (state) -> [G] what a central critic sees; None: all observations side by side
    agent_names: tuple[str, ...] = ()  # default agent_0, agent_1, ...
    max_steps: int | None = None
    render: Any = None  # (state, axes) -> None: draws one state with matplotlib
    metrics: Any = None  # (state) -> dict of [] : what a study of this world reports, at any time
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the agents, for the field's dictionary interface."""
        return self.agent_names or tuple(f"agent_{i}" for i in range(self.num_agents))


def auto_reset(environment: Environment) -> Environment:
    """The environment that begins a new episode in the step in which one is over.

    That step's rewards, dones and info are those of the episode that ended; its observations are the first of the new one
    (`info["last_observations"]` are the old one's, for values of truncated episodes).
    """
    checks.instance("auto_reset", "environment", environment, Environment, "Call its factory first.")

    def step(key: Array, state: PyTree, actions: Array) -> tuple[PyTree, Array, Array, Array, Info]:
        step_key, reset_key = jax.random.split(key)
        after, observations, rewards, dones, info = environment.step(step_key, state, actions)
        fresh, first = environment.reset(reset_key)
        over = info["is_over"]
        new = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, after)
        return new, jnp.where(over, first, observations), rewards, dones, {**info, "last_observations": observations}

    return environment._replace(step=step)


def check_actions(where: str, actions: Array, num_actions: int, num_agents: int) -> Array:
    """Integer actions `[A]`, as int32; values are looked at where they are known, and else clipped."""
    checks.shape(where, "actions", actions, (num_agents,))
    if not jnp.issubdtype(jnp.result_type(actions), jnp.integer):
        checks.fail(where, "actions", "integers", f"dtype {jnp.result_type(actions)}", "Use actions.astype(int).")
    if checks.is_concrete(actions):  # on the host: known values may come to a function that is being traced
        known = np.asarray(actions)
        bad = known[(known < 0) | (known >= num_actions)]
        if bad.size:
            checks.fail(where, "actions", f"integers in [0, {num_actions - 1}]", int(bad[0]))
    return jnp.clip(jnp.asarray(actions, jnp.int32), 0, num_actions - 1)


def check_size(where: str, **sizes: int) -> None:
    """Sizes whose product counts something: it is told before anything is made if that is more than int32 can number."""
    total = math.prod(sizes.values())
    if total > checks.LARGEST_INTEGER:
        product = " * ".join(sizes)
        checks.fail(where, product, f"at most {checks.LARGEST_INTEGER}, 2^31 - 1", total, "Use smaller sizes.")


def check_state(where: str, argument: str, environment: Environment, state: PyTree, stacked: bool = False) -> None:
    """A state of this environment or, `stacked`, several of them along a first axis."""
    expected = jax.eval_shape(lambda key: environment.reset(key)[0], jax.random.key(0))
    rule = f"{'states' if stacked else 'a state'} of {environment.name!r}{', stacked over time' if stacked else ''}"
    wanted: Any = jax.tree.structure(expected)
    same = wanted == jax.tree.structure(state)
    if not same or any(
        np.shape(got)[1 if stacked else 0 :] != want.shape or (stacked and np.ndim(got) == 0)
        for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True)
    ):
        checks.fail(where, argument, rule, checks.describe(state), "Use what its reset and step return first.")


def as_array(
    where: str,
    argument: str,
    value: Any,
    expected: tuple[int | None, ...] | None = None,
    kind: str = "numbers",
) -> Array:
    """An array of this shape (None: of any) of `numbers`, bools among them, `integers` or `bools`.

    Values on the host are looked at; on the device, and while tracing, shape and type alone are.
    """
    if isinstance(value, jax.Array) or not checks.is_concrete(value):
        array: Any = jnp.asarray(value)
    else:
        array = np.asarray(checks.finite(where, argument, value))
    dtype = array.dtype
    is_integer, is_bool = jnp.issubdtype(dtype, jnp.integer), jnp.issubdtype(dtype, jnp.bool_)
    is_number = is_integer or is_bool or jnp.issubdtype(dtype, jnp.floating)
    if not {"numbers": is_number, "integers": is_integer, "bools": is_bool}[kind]:
        checks.fail(where, argument, kind, f"dtype {dtype}")
    if expected is not None:
        checks.shape(where, argument, array, expected)
    if isinstance(array, np.ndarray) and is_integer and array.size and np.abs(array.astype(float)).max() >= 2.0**31:
        checks.fail(where, argument, "integers below 2^31", checks.describe(array))
    return jnp.asarray(array)
