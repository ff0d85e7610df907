"""How many steps a second does lifelong pathfinding make?

Command: `python experiments/benchmarks/pathfinding.py` (about two minutes on 2 cores); `--oracles` adds the world of plain
Python objects of `tests/oracles`; `--pogema PYTHON` adds POGEMA itself (1.4.0), where that interpreter has it (`pip install
pogema` in an environment of its own).

Random actions, drawn in the program; compiled scans over steps, copies side by side with `vmap`; observations are made in
every step and kept in the loop; the best of four runs, compiling not counted.

1. Lifelong pathfinding, 200 agents on 64 x 64 with a fifth of the cells blocked, windows of 11 x 11, 1 to 256 copies,
   against the world of Python objects that makes the same observations, and without observations.
2. The Follower's planner: 128 agents on a warehouse of 33 x 46, a plan a step each.

Measured on 2 cores (x86_64), jax 0.10.2; the cores were shared, and the compiled program wants both:

1. Steps of a world with 200 agents a second, 1 / 16 / 64 / 256 copies: 36,000 / 49,000 / 56,000 / 64,000 with a load average
   of 1.4, 30,000 / 48,000 / 59,000 / 64,000 with 1.9: Python objects, 51 to 52 with observations, make 1,235 and 1,257 times
   fewer than the best, and 1,244 times fewer in a third run (2026-11-28, load 1.5).  With a load of 4.5 to 5.5 (three runs)
   it is 740 to 754 times, with 2.3 to 3.6 (three runs) 749 to 842.  Without observations, which is not the same work, Python
   objects make 5,300 to 5,500.
   POGEMA 1.4.0 with observations, two runs of 2026-11-28 on cores that others used: 599 and 297, 85 and 123 times fewer than
   the best of the same run (50,600 and 36,600), 40 and 123 times fewer than one copy (23,900 and 36,600); the load average
   was 5 to 6 and 3 to 4.  On a quiet machine (load 1.6) 617, 101 times fewer than the best (62,100), 64 times fewer than one
   copy (39,300); Python objects 1,180 times fewer in that run.
2. 183 to 184 steps, 23,000 to 24,000 plans a second with a load average of 1.4 to 1.9; 113 to 122 steps with more.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import machine

from dlsim.environments.environment import Environment
from dlsim.environments.pathfinding.following import follow, following
from dlsim.environments.pathfinding.maps import random_map, warehouse_map
from dlsim.environments.pathfinding.world import pathfinding


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


def paths(oracles: bool, pogema: str | None) -> None:
    blocked = random_map(64, 64, 0.2, seed=0)
    environment = pathfinding(blocked, 200)
    print("pathfinding, 200 agents on 64 x 64")
    rates = {copies: steps_per_second(environment, copies, steps=200) for copies in (1, 16, 64, 256)}
    for copies, rate in rates.items():
        print(f"  {copies:3d} copies {rate:12,.0f} steps/s")
    if oracles:
        for name, rate in object_rates(blocked).items():
            print(f"  Python objects {name} {rate:,.1f} steps/s: ratio {max(rates.values()) / rate:,.0f}")
    if pogema:
        rate = pogema_rate(pogema)
        print(f"  POGEMA {rate:,.1f} steps/s: ratio {max(rates.values()) / rate:,.0f}")


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


POGEMA = """
import random, time
from pogema import GridConfig, pogema_v0
world = pogema_v0(grid_config=GridConfig(num_agents=200, size=64, density=0.2, seed=0, obs_radius=5, on_target="restart",
                                         max_episode_steps=10000, collision_system="soft"))
world.reset()
draw = random.Random(0)
def steps(number):
    began = time.perf_counter()
    for _ in range(number):
        world.step([draw.randrange(5) for _ in range(200)])
    return number / (time.perf_counter() - began)
steps(5)
print(max(steps(50) for _ in range(4)))
"""


def pogema_rate(interpreter: str) -> float:
    """Steps a second of POGEMA's own world: as many agents, the same rule, size, share of obstacles and windows."""
    done = subprocess.run([interpreter, "-c", POGEMA], capture_output=True, text=True, check=True, timeout=300)
    return float(done.stdout.split()[-1])


def planner() -> None:
    blocked, starts, goals = warehouse_map()
    environment = following(blocked, 128, starts=starts, goals=goals)
    rate = steps_per_second(environment, copies=1, steps=64, act=follow)
    print(f"follower, 128 agents on a warehouse of 33 x 46: {rate:,.1f} steps/s, {rate * 128:,.0f} plans/s")


def main() -> None:
    print(machine())
    words = sys.argv[1:]
    paths("--oracles" in words, words[words.index("--pogema") + 1] if "--pogema" in words else None)
    planner()


if __name__ == "__main__":
    main()
