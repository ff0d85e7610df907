"""How many steps a second do the grid worlds make?

Command: `python experiments/benchmarks/environments_grid.py` (about three minutes on 2 cores); `--oracles` adds the worlds
of plain Python objects of `tests/oracles`.

Random actions, drawn in the program; compiled scans over steps, copies side by side with `vmap`; observations are made in
every step and kept in the loop; the best of four runs, compiling not counted.

1. The five swarm tasks, 10 agents on 10 x 10, views of 5 x 5, 64 copies.
2. One swarm world of 10,000 agents (flocking: see below).
3. Lifelong pathfinding, 200 agents on 64 x 64 with a fifth of the cells blocked, windows of 11 x 11, 1 to 64 copies,
   against the world of Python objects that makes the same observations, and without observations.
4. The Follower's planner: 128 agents on a warehouse of 33 x 46, a plan a step each.

Measured 2026-11-24, 2 cores (x86_64, load average about 1), jax 0.10.2, two runs of all and three more of part 3:

1. Agent-steps a second: pursuit 1.2 to 1.5 million, synchronization 2.3 to 2.8, foraging 2.2 to 2.5, transport 0.71 to 0.75,
   flocking 170 to 175 thousand (an exact assignment problem over all translations in every step).
2. A step of 10,000 agents: pursuit 7.4 to 7.8 ms (on 284 x 284: agents begin in a quarter), synchronization 1.8 to 2.2,
   foraging 1.6, transport 2.0 to 2.1.  The ring of 10,000 flocking agents has a side of 2,501, so that its world is another
   size; 1,000 agents to a ring of 251, measured by the nearest agents, take 20 ms.
3. Steps of a world with 200 agents a second: 22,000 to 28,000 (1 copy), 31,000 to 33,000 (16), 46,000 to 48,000 (64).
   Python objects: 49 to 58 with observations, 800 to 970 times fewer; 5,500 without, which is not the same work.
4. 168 to 188 steps, 22,000 to 24,000 plans a second.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import machine

from dlsim.environments.environment import Environment
from dlsim.environments.following import follow, following
from dlsim.environments.maps import random_map, warehouse_map
from dlsim.environments.pathfinding import pathfinding
from dlsim.environments.swarm_flocking import flocking
from dlsim.environments.swarm_foraging import foraging
from dlsim.environments.swarm_pursuit import pursuit
from dlsim.environments.swarm_synchronization import synchronization
from dlsim.environments.swarm_transport import transport


def steps_per_second(environment: Environment, copies: int, steps: int, act=None) -> float:
    """Steps of worlds a second, all copies together."""

    def one(key):
        def step(carry, key):
            state, _, total = carry
            if act is None:
                words = jax.random.bits(key, (environment.num_agents,), jnp.uint16)
                actions = (words % environment.action_space.num).astype(jnp.int32)
            else:
                actions = act(key, state)
            state, observations, rewards, _, _ = environment.step(key, state, actions)
            return (state, observations, total + jnp.sum(rewards)), None

        start = (*environment.reset(key), jnp.zeros(()))
        return jax.lax.scan(step, start, jax.random.split(key, steps))[0]

    run = jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, copies)))
    seconds = []
    for number in range(5):
        began = time.perf_counter()
        jax.block_until_ready(run(jax.random.key(number)))
        seconds.append(time.perf_counter() - began)
    return copies * steps / min(seconds[1:])


def swarm_tasks() -> None:
    print("swarm tasks, 10 agents on 10 x 10")
    for task in (pursuit, synchronization, foraging, flocking, transport):
        rate = steps_per_second(task(), copies=64, steps=50)
        print(f"  {task.__name__:16s} {rate * 10:12,.0f} agent-steps/s")


def large_swarms() -> None:
    print("one swarm world of 10,000 agents on 142 x 142")
    worlds = {
        "pursuit": pursuit(10_000, 284, 284),  # agents begin in a quarter of the map
        "synchronization": synchronization(10_000, 142, 142),
        "foraging": foraging(10_000, 142),
        "transport": transport(10_000, 142, 142),
    }
    for name, environment in worlds.items():
        rate = steps_per_second(environment, copies=1, steps=20)
        print(f"  {name:16s} {1e3 / rate:8.2f} ms a step")
    rate = steps_per_second(flocking(1000, 280, 280, distance="nearest"), copies=1, steps=20)
    print(f"  flocking of 1,000 agents to a ring of side 251, nearest agents: {1e3 / rate:.2f} ms a step")


def paths(oracles: bool) -> None:
    blocked = random_map(64, 64, 0.2, seed=0)
    environment = pathfinding(blocked, 200)
    print("pathfinding, 200 agents on 64 x 64")
    rates = {copies: steps_per_second(environment, copies, steps=200) for copies in (1, 16, 64)}
    for copies, rate in rates.items():
        print(f"  {copies:3d} copies {rate:12,.0f} steps/s")
    if oracles:
        for name, rate in object_rates(blocked).items():
            print(f"  Python objects {name} {rate:,.1f} steps/s: ratio {max(rates.values()) / rate:,.0f}")


def object_rates(blocked: np.ndarray) -> dict[str, float]:
    """Steps a second of the world of Python objects, with and without observations."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from oracles.pathfinding_world import PathfindingWorld

    draw = random.Random(0)
    free = [tuple(int(x) for x in cell) for cell in np.argwhere(~blocked)]
    world = PathfindingWorld(blocked.tolist(), draw.sample(free, 200), lambda agent, number, cell: draw.choice(free))
    rates = {}
    for name, steps, sees in (("with observations", 40, True), ("without observations", 1000, False)):
        began = time.perf_counter()
        for _ in range(steps):
            world.step([draw.randrange(5) for _ in range(200)])
            if sees:
                world.observe(5)
        rates[name] = steps / (time.perf_counter() - began)
    return rates


def planner() -> None:
    blocked, starts, goals = warehouse_map()
    environment = following(blocked, 128, starts=starts, goals=goals)
    rate = steps_per_second(environment, copies=1, steps=64, act=follow)
    print(f"follower, 128 agents on a warehouse of 33 x 46: {rate:,.1f} steps/s, {rate * 128:,.0f} plans/s")


def main() -> None:
    print(machine())
    swarm_tasks()
    large_swarms()
    paths("--oracles" in sys.argv)
    planner()


if __name__ == "__main__":
    main()
