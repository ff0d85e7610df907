"""How many steps a second do the swarm tasks make?

Command: `python experiments/benchmarks/swarm.py` (about two minutes on 2 cores).

Random actions, drawn in the program; compiled scans over steps, copies side by side with `vmap`; observations are made in
every step and kept in the loop; the best of four runs, compiling not counted.

1. The five tasks, 10 agents on 10 x 10, views of 5 x 5, 64 copies.
2. One world of 10,000 agents, and whom each hears, as lists (`swarm.heard_from`).  The ring that 10,000 flocking agents
   are to form has a side of 2,501 cells, for which its world would have to be as wide; 1,000 agents to a ring of 251,
   measured by the nearest agents, stand for it.

Measured 2026-11-24, 2 cores (x86_64, load average about 1), jax 0.10.2:

1. Agent-steps a second: pursuit 1.5 million, synchronization 2.8, foraging 2.9, transport 0.75, flocking 174 thousand (an
   exact assignment problem over all translations in every step).
2. A step of 10,000 agents, and with lists of whom each hears: pursuit 7.3 and 7.6 ms (on 284 x 284, since agents begin in
   a quarter), synchronization 1.7 and 2.1, foraging 1.8 and 2.1, transport 2.1 and 2.6.  Flocking of 1,000: 20 ms.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
from timing import machine

from dlsim.environments import flocking, foraging, pursuit, swarm, synchronization, transport
from dlsim.environments.environment import Environment


def seconds_per_step(environment: Environment, copies: int, steps: int, hears: bool = False) -> float:
    """Seconds that one step takes, all copies together."""

    def one(key: jax.Array) -> tuple:
        def step(carry: tuple, key: jax.Array) -> tuple:
            state, _, total = carry
            words = jax.random.bits(key, (environment.num_agents,), jnp.uint16)
            actions = (words % environment.action_space.num).astype(jnp.int32)
            state, observations, rewards, _, _ = environment.step(key, state, actions)
            if hears:
                rewards = rewards + jnp.sum(swarm.heard_from(state, 5) >= 0, axis=1)
            return (state, observations, total + jnp.sum(rewards)), None

        start = (*environment.reset(key), jnp.zeros(()))
        return jax.lax.scan(step, start, jax.random.split(key, steps))[0]

    run = jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, copies)))
    seconds = []
    for number in range(5):
        began = time.perf_counter()
        jax.block_until_ready(run(jax.random.key(number)))
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) / steps


def main() -> None:
    print(machine())
    print("10 agents on 10 x 10, 64 copies: agent-steps a second")
    for task in (pursuit, synchronization, foraging, flocking, transport):
        print(f"  {task.__name__:16s} {640 / seconds_per_step(task(), copies=64, steps=50):12,.0f}")
    print("one world of 10,000 agents: milliseconds a step, and with lists of whom each hears")
    worlds = {
        "pursuit": pursuit(10_000, 284, 284),  # agents begin in a quarter of the map
        "synchronization": synchronization(10_000, 142, 142),
        "foraging": foraging(10_000, 142),
        "transport": transport(10_000, 142, 142),
    }
    for name, environment in worlds.items():
        alone, hearing = (1e3 * seconds_per_step(environment, 1, 20, hears) for hears in (False, True))
        print(f"  {name:16s} {alone:8.2f} {hearing:8.2f}")
    seconds = seconds_per_step(flocking(1000, 280, 280, distance="nearest"), copies=1, steps=20)
    print(f"  flocking of 1,000 agents, nearest agents: {1e3 * seconds:.2f}")


if __name__ == "__main__":
    main()
