"""Matrix games played again and again."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info
from dlsim.environments.environment import Environment, as_array, box, check_actions, discrete

# Payoffs of the row player and of the column player.  Action 0 cooperates (stag, dove), action 1 does not.
GAMES = {
    "prisoners_dilemma": (((3, 0), (5, 1)), ((3, 5), (0, 1))),
    "stag_hunt": (((4, 0), (3, 2)), ((4, 3), (0, 2))),
    "chicken": (((3, 1), (5, 0)), ((3, 5), (1, 0))),
    "coordination": (((1, 0), (0, 1)), ((1, 0), (0, 1))),
    "battle_of_the_sexes": (((3, 0), (0, 2)), ((2, 0), (0, 3))),
    "matching_pennies": (((1, -1), (-1, 1)), ((-1, 1), (1, -1))),
    "climbing": (((11, -30, 0), (-30, 7, 6), (0, 0, 5)), ((11, -30, 0), (-30, 7, 6), (0, 0, 5))),
}


class MatrixState(NamedTuple):
    """What was played last."""

    last_actions: Array  # int32 [A], -1 before the first round
    rewards: Array  # [A] sum so far
    step: Array  # int32 []


def matrix_game(payoffs: Any = "prisoners_dilemma", num_rounds: int = 100) -> Environment:
    """Every round all agents choose an action and agent i gets `payoffs[i, a_1, ..., a_A]`.

    Sees what was played in the round before, one-hot, its own action first and then those of the others in order; all
    zeros in the first round: `[A, A * n]` with n the most actions that an agent has.

    Args:
        payoffs: a name of `GAMES`, or an array `[A, n_1, ..., n_A]`, which may be traced.
        num_rounds: rounds of an episode T.

    Source: (climbing) Claus, Boutilier, The Dynamics of Reinforcement Learning in Cooperative Multiagent Systems, AAAI
    1998; the others are textbook games, with payoffs of Axelrod, The Evolution of Cooperation, 1984, for the dilemma.
    """
    where = "matrix_game"
    if isinstance(payoffs, str):
        payoffs = GAMES[checks.one_of(where, "payoffs", payoffs, GAMES)]
    table = jnp.asarray(as_array(where, "payoffs", payoffs), jnp.float32)
    num_agents = table.shape[0] if table.ndim else 0
    if num_agents < 1 or table.ndim != num_agents + 1 or 0 in table.shape:
        fix = "Give each agent a table with one axis for each agent's actions."
        checks.fail(where, "payoffs", "of shape [A, n_1, ..., n_A]", list(table.shape), fix)
    checks.integer(where, "num_rounds", num_rounds, 1)
    nums = np.array(table.shape[1:])
    most = int(nums.max())
    mask = np.arange(most) < nums[:, None]

    def observe(state: MatrixState) -> Array:
        played = (state.last_actions[:, None] == jnp.arange(most)) * 1.0
        order = (np.arange(num_agents)[:, None] + np.arange(num_agents)) % num_agents
        # Own first, the others in order: sort the rest of each row.
        order = np.concatenate([order[:, :1], np.sort(order[:, 1:], axis=1)], axis=1)
        return played[order].reshape(num_agents, -1)

    def reset(key: Array) -> tuple[MatrixState, Array]:
        state = MatrixState(jnp.full(num_agents, -1, jnp.int32), rewards=jnp.zeros(num_agents), step=jnp.int32(0))
        return state, observe(state)

    def step(key: Array, state: MatrixState, actions: Array) -> tuple[MatrixState, Array, Array, Array, Info]:
        actions = jnp.minimum(check_actions(where, actions, most, num_agents), nums - 1)
        ended = state.step >= num_rounds
        rewards = table.reshape(num_agents, -1)[:, _index(actions, nums)]
        rewards = jnp.where(ended, 0.0, rewards)
        after = MatrixState(
            last_actions=jnp.where(ended, state.last_actions, actions),
            rewards=state.rewards + rewards,
            step=jnp.where(ended, state.step, state.step + 1),
        )
        over = after.step >= num_rounds
        info = {"is_over": over, "is_truncated": over}
        return after, observe(after), rewards, jnp.full(num_agents, over), info

    def render(state: MatrixState, axes: Any) -> None:
        axes.bar(np.arange(num_agents), np.asarray(state.rewards) / max(1, int(state.step)))
        axes.set_xticks(np.arange(num_agents))
        axes.set_xlabel("agent")
        axes.set_ylabel("mean reward")

    return Environment(
        name=where,
        num_agents=num_agents,
        observation_space=box((num_agents * most,), 0.0, 1.0),
        action_space=discrete(most),
        reset=reset,
        step=step,
        action_mask=None if mask.all() else lambda state: jnp.asarray(mask),
        max_steps=num_rounds,
        render=render,
        metrics=lambda state: {"mean_reward": jnp.mean(state.rewards) / jnp.maximum(state.step, 1)},
    )


def _index(actions: Array, nums: np.ndarray) -> Array:
    """Place of a joint action in a flat table, int32 `[]`."""
    strides = np.append(np.cumprod(nums[::-1])[::-1][1:], 1).astype(np.int32)
    return jnp.sum(actions * strides)
