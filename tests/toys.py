"""Small processes with known answers, for the tests of the loop."""

from __future__ import annotations

import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array, Process
from dlsim.running import counters


def environment(**variables: str) -> dict[str, str]:
    """Of a process that can import the package and the tests, wherever it is started."""
    here = pathlib.Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}


class WalkState(NamedTuple):
    position: Array  # float32 [N, 3]
    word: Array  # uint32 [N]: integers do not round, so they show a changed draw or a lost step for certain
    spent: counters.Counter  # []


def walk(num_nodes: int = 4, rate: float = 0.9, on_trace: Any = None) -> Process:
    """A random walk drawn to a fixed point, with a word that every draw goes into."""
    target = jnp.arange(num_nodes * 3, dtype=jnp.float32).reshape(num_nodes, 3)
    ids = jnp.arange(num_nodes)

    def init(key: Array) -> WalkState:
        return WalkState(
            position=keys.node_normal(keys.stream(key, "position"), ids, 3),
            word=jnp.zeros(num_nodes, jnp.uint32),
            spent=counters.counter(),
        )

    def step(key: Array, state: WalkState) -> tuple[WalkState, dict[str, Array]]:
        if on_trace is not None:
            on_trace()
        noise = keys.node_normal(keys.stream(key, "noise"), ids, 3)
        position = rate * state.position + (1 - rate) * target + 0.01 * noise
        word = state.word * jnp.uint32(1664525) + keys.node_bits(keys.stream(key, "word"), ids, 1)[:, 0]
        info = {
            "loss": jnp.sum(jnp.square(position - target), axis=1),
            "num_gradients": jnp.ones(num_nodes, jnp.uint32),
            "status": jnp.zeros(num_nodes, jnp.uint32),
        }
        spent = counters.add(state.spent, counters.from_words(jnp.uint32(2**31 + 1)))
        return WalkState(position, word, spent), info

    def measure(state: WalkState, info: dict[str, Array]) -> dict[str, Any]:
        return {
            "loss": jnp.mean(info["loss"]),
            "word": state.word,
            "total": jnp.sum(state.word),
            "spent": state.spent,
            "gradients": jnp.sum(info["num_gradients"]),
        }

    return Process(init=init, step=step, measure=measure, sources=("a toy",))


def plain_run(process: Process, key: Array, num_steps: int) -> list[Any]:
    """States 0..num_steps by a Python loop over single steps."""
    state = process.init(keys.stream(key, "init"))
    step = jax.jit(process.step)
    states = [state]
    for t in range(num_steps):
        state, _ = step(jax.random.fold_in(keys.stream(key, "steps"), t), state)
        states.append(state)
    return states
