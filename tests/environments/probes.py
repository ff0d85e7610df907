"""Worlds of rising difficulty whose best play, and whose values, are known."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim.environments.environment import Environment, box, discrete


class ProbeState(NamedTuple):
    seen: jax.Array  # [A] +1 or -1
    step: jax.Array  # []


def probe(name: str, num_agents: int = 2, length: int = 1) -> Environment:
    """One observation of one number an agent, two actions, `length` steps.

    constant: reward 1.  state: reward is what is observed.  delayed: reward 1 in the last step, whose number is the
    observation.  action: reward is the action.  both: reward 1 where the action is 1 just when +1 is observed.
    cooperative: all get 1 if all do so, else 0.
    """

    def observe(state: ProbeState) -> jax.Array:
        if name == "delayed":
            return jnp.full((num_agents, 1), state.step.astype(jnp.float32))
        if name in ("constant", "action"):
            return jnp.zeros((num_agents, 1))
        return state.seen[:, None]

    def reset(key: jax.Array) -> tuple[ProbeState, jax.Array]:
        state = ProbeState(2.0 * jax.random.bernoulli(key, shape=(num_agents,)) - 1, jnp.zeros((), jnp.int32))
        return state, observe(state)

    def step(key, state, actions):
        right = (actions == 1) == (state.seen > 0)
        last = state.step + 1 >= length
        rewards = {
            "constant": jnp.ones(num_agents),
            "state": state.seen,
            "delayed": jnp.full(num_agents, last * 1.0),
            "action": actions * 1.0,
            "both": right * 1.0,
            "cooperative": jnp.full(num_agents, jnp.all(right) * 1.0),
        }[name]
        fresh, _ = reset(key)
        state = ProbeState(fresh.seen, state.step + 1)
        info = {"is_over": last, "is_truncated": jnp.zeros((), bool)}
        return state, observe(state), rewards, jnp.full(num_agents, last), info

    return Environment(
        f"probe_{name}",
        num_agents,
        box((1,)),
        discrete(2),
        reset,
        step,
        contact=lambda state: state.seen[:, None] * state.seen[None, :] > 0,
        global_state=lambda state: observe(state).ravel(),
        metrics=lambda state: {"steps": state.step},
        max_steps=length,
    )
