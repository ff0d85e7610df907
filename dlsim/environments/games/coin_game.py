"""The coin game: a social dilemma of two agents that pick up each other's coins on a small torus."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments.environment import Environment, as_array, box, check_actions, check_size, discrete

MOVES = np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [0, 0]])  # right, left, up, down, stay
PAYOFFS = ((1.0, 1.0, -2.0), (1.0, 1.0, -2.0))


class CoinState(NamedTuple):
    """Where agents and coins are, and what was picked up so far."""

    positions: Array  # int32 [2, 2] of red and blue
    coins: Array  # int32 [2, 2] of the red and the blue coin
    num_own: Array  # int32 [2] coins of its own colour that each agent picked up
    num_other: Array  # int32 [2]
    step: Array  # int32 [] of all games


def coin_game(
    num_steps: int = 10,
    num_games: int = 10,
    payoffs: Any = PAYOFFS,
    size: int = 3,
    egocentric: bool = False,
    shares_rewards: bool = False,
) -> Environment:
    """Red and blue get 1 for every coin; who picks up the other's coin costs the other 2.

    Both move at once, may share a cell, and go round the edges.  A coin that was picked up comes back in a uniform cell.
    An episode is `num_games` games in a row; a game's last step pays nothing, and then everything is placed anew.

    Sees planes of the grid `[size * size * 4]`: itself, the other, its own coin, the other's.

    Args:
        num_steps: steps of a game.
        num_games: games of an episode.
        payoffs: `[2, 3]` of red and of blue: for a red coin, for a blue coin, and for the other having its coin; traced.
        size: cells of a side.
        egocentric: whether each sees itself in the middle.
        shares_rewards: whether both get the sum.

    Source: Lerer, Peysakhovich, Maintaining Cooperation in Complex Social Dilemmas Using Deep Reinforcement Learning,
    arXiv 1707.01068, with the rules of Rutherford et al., JaxMARL, NeurIPS 2024.
    """
    where = "coin_game"
    for argument, value in (("num_steps", num_steps), ("num_games", num_games)):
        checks.integer(where, argument, value, 1)
    checks.integer(where, "size", size, 2)
    check_size(where, num_steps=num_steps, num_games=num_games)
    check_size(where, planes=4, cells=size * size)
    checks.flag(where, "egocentric", egocentric)
    checks.flag(where, "shares_rewards", shares_rewards)
    payoffs = as_array(where, "payoffs", payoffs, (2, 3))
    max_steps = num_steps * num_games

    def observe(state: CoinState) -> Array:
        places = jnp.concatenate([state.positions, state.coins])
        places = jnp.stack([places, places[jnp.asarray([1, 0, 3, 2])]])  # [2 viewers, 4 things, 2]
        if egocentric:
            places = (places - places[:, :1] + size // 2) % size
        cells = places[..., 0] * size + places[..., 1]
        planes = cells[:, None] == jnp.arange(size * size)[:, None]  # [2, cells, 4]
        return planes.reshape(2, -1).astype(jnp.float32)

    def place(key: Array, num: int) -> Array:
        return jax.random.randint(key, (num, 2), 0, size, jnp.int32)

    def reset(key: Array) -> tuple[CoinState, Array]:
        things = place(key, 4)
        none = jnp.zeros(2, jnp.int32)
        state = CoinState(things[:2], things[2:], num_own=none, num_other=none, step=jnp.int32(0))
        return state, observe(state)

    def step(key: Array, state: CoinState, actions: Array) -> tuple[CoinState, Array, Array, Array, Info]:
        actions = check_actions(where, actions, len(MOVES), 2)
        ended = state.step >= max_steps
        coins = place(keys.stream(key, "coins"), 2)
        after, rewards = play(state, actions, coins, jnp.asarray(payoffs, jnp.float32), size)
        is_last = after.step % num_steps == 0
        things = place(keys.stream(key, "game"), 4)
        after = after._replace(
            positions=jnp.where(is_last, things[:2], after.positions), coins=jnp.where(is_last, things[2:], after.coins)
        )
        after = jax.tree.map(lambda old, new: jnp.where(ended, old, new), state, after)
        if shares_rewards:
            rewards = jnp.broadcast_to(jnp.sum(rewards), (2,))
        over = after.step >= max_steps
        info = {"is_over": over, "is_truncated": over, "is_game_over": is_last & ~ended}
        return after, observe(after), jnp.where(is_last | ended, 0.0, rewards), jnp.full(2, over), info

    return Environment(
        name=where,
        num_agents=2,
        observation_space=box((size * size * 4,), 0.0, 1.0),
        action_space=discrete(len(MOVES)),
        reset=reset,
        step=step,
        max_steps=max_steps,
        render=lambda state, axes: render(state, size, axes),
        metrics=lambda state: {"num_own": jnp.sum(state.num_own), "num_other": jnp.sum(state.num_other)},
        source="Lerer, Peysakhovich, arXiv 1707.01068",
    )


def play(state: CoinState, actions: Array, coins: Array, payoffs: Array, size: int) -> tuple[CoinState, Array]:
    """Both move and pick up what they find; coins that are gone come back at `coins` `[2, 2]`.  Rewards `[2]`."""
    positions = (state.positions + jnp.asarray(MOVES, jnp.int32)[actions]) % size
    finds = jnp.all(positions[:, None] == state.coins, axis=2)  # [agent, coin]
    lost = jnp.stack([finds[1, 0], finds[0, 1]])  # the other picked up mine
    rewards = finds[:, 0] * payoffs[:, 0] + finds[:, 1] * payoffs[:, 1] + lost * payoffs[:, 2]
    after = CoinState(
        positions=positions,
        coins=jnp.where(jnp.any(finds, axis=0)[:, None], coins, state.coins),
        num_own=state.num_own + jnp.diagonal(finds),
        num_other=state.num_other + lost[::-1],
        step=state.step + 1,
    )
    return after, rewards


def render(state: CoinState, size: int, axes: Any) -> None:
    """Agents are squares, coins discs."""
    for things, marker, area in ((state.positions, "s", 600), (state.coins, "o", 200)):
        for place, colour in zip(np.asarray(things), ("tab:red", "tab:blue"), strict=True):
            axes.scatter([place[1]], [place[0]], marker=marker, s=area, c=colour, alpha=0.6)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(-0.5, size - 0.5)
    axes.set_xticks(np.arange(size + 1) - 0.5, labels=[])
    axes.set_yticks(np.arange(size + 1) - 0.5, labels=[])
    axes.grid()
    axes.set_aspect("equal")
