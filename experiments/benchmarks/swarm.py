"""How many steps a second do the swarm tasks make?

Command: `python experiments/benchmarks/swarm.py` (about two minutes on 2 cores); `--swarmbench CHECKOUT [--python PYTHON]`
adds the original's worlds: a checkout of x66ccff/swarmbench, and an interpreter that has what they import (`pip install
"numpy<2" scipy pulp colorama`).

Random actions, drawn in the program; compiled scans over steps, copies side by side with `vmap`; observations are made in
every step and kept in the loop; the best of four runs, compiling and the first placement not counted.

1. The five tasks, 10 agents on 10 x 10, views of 5 x 5, 64 copies.
2. One world of 10,000 agents, and whom each hears, as lists (`swarm.heard_from`).  The ring that 10,000 flocking agents
   are to form has a side of 2,501 cells, so that their world is 2,503 x 2,503; their distance is that of a plan, with a
   tolerance that the run proves (`flocking(distance="plan")`; exact assignments are for tens of agents).
3. The original's environments with the same agents, grids, views and moves, no language model and nothing logged or
   printed; every agent's observation is made after each step, in brackets none is; the best of three runs of 20 steps.
   It solves an integer program in a process of its own in each of a round's four passes, which is most of its time.

Measured 2026-11-28, 2 cores (x86_64, load average 1 to 3), jax 0.10.2, numpy 1.26.4, PuLP 3.3.2:

1. Agent-steps a second: pursuit 1.5 million, synchronization 3.2, foraging 3.1, transport 0.59, flocking 131 thousand (an
   exact assignment problem over all translations in every step).
2. Milliseconds a step of 10,000 agents, and with lists of whom each hears: pursuit 7.2 and 7.8 (on 284 x 284, since agents
   begin in a quarter), synchronization 1.6 and 2.1, foraging 1.6 and 1.9, transport 1.9 and 2.4, flocking 16 and 20.
3. Steps of one world a second, SwarmBench with observations (without), one copy here, 64 copies together, and how many
   times one copy's and 64 copies' steps are SwarmBench's with observations:

   | task, 10 agents on 10 x 10 | SwarmBench | one copy | 64 copies | ratios |
   |---|---|---|---|---|
   | pursuit | 42.4 (42.5) | 64,488 | 131,683 | 1,523, 3,110 |
   | synchronization | 37.9 (34.8) | 122,824 | 214,521 | 3,244, 5,666 |
   | foraging | 31.5 (28.9) | 83,509 | 301,515 | 2,653, 9,580 |
   | flocking | 28.1 (29.3) | 16,167 | 17,916 | 576, 639 |
   | transport | 26.0 (30.8) | 40,883 | 61,155 | 1,572, 2,351 |
   | synchronization, 100 on 32 x 32 | 8.1 (9.0) | 35,333 | 33,707 | 4,381, 4,180 |

   One run, in which the second half shared its cores; SwarmBench's own figures move by a fifth between runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
from timing import machine

from dlsim.environments import flocking, foraging, pursuit, synchronization, transport
from dlsim.environments.environment import Environment
from dlsim.environments.swarm import world as swarm

TASKS = (pursuit, synchronization, foraging, flocking, transport)


SWARMBENCH = """
import contextlib, json, os, random, sys, time, types
llm = types.ModuleType("openai")  # its agents talk to models by it; here nobody does
llm.AsyncOpenAI = object
sys.modules["openai"] = llm
sys.path.insert(0, sys.argv[1])
from swarmbench.environment import SwarmEnvironment
class Quiet:
    def __getattr__(self, name): return lambda *words, **named: None
class Agent:
    def __init__(self, name): self.name, self.escaped, self.valid_actions = name, False, []
def rate(task, num, size, sees, steps, turns=3):
    agents = {name: Agent(name) for name in (f"Agent_{i}" for i in range(num))}
    world = SwarmEnvironment("world", agents, Quiet(), task, 10**6, size, size, 42, 5)
    draw, best = random.Random(0), 0.0
    moves = ["STAY", "UP", "DOWN", "LEFT", "RIGHT"] + ["SWITCH"] * (task == "Synchronization")
    for turn in range(turns + 1):
        began = time.perf_counter()
        for _ in range(steps if turn else 2):
            for name in agents:
                world.actions[name] = {"move": draw.choice(moves)}
                world.move_agent(name, world.actions[name]["move"])
            world.update()
            if sees:
                for agent in agents.values():
                    world.obs(agent)
        best = max(best, steps / (time.perf_counter() - began)) if turn else 0.0
    return best
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    found = [[rate(*world, sees, 20) for sees in (True, False)] for world in json.loads(sys.argv[2])]
print(json.dumps(found))
"""


def swarmbench_rates(checkout: str, interpreter: str, worlds: list[tuple[str, int, int]]) -> list[list[float]]:
    """Steps a second of the original's worlds (task, agents, side), with everybody's observation and without."""
    command = [interpreter, "-B", "-c", SWARMBENCH, checkout, json.dumps(worlds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        sys.exit(
            f"swarm.py: --swarmbench must be a checkout of x66ccff/swarmbench that {interpreter} can import: {said}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def beside_swarmbench(checkout: str, interpreter: str) -> None:
    worlds = [(task.__name__.capitalize(), 10, 10) for task in TASKS] + [("Synchronization", 100, 32)]
    print("steps of one world a second: SwarmBench (without observations); one copy here, 64 copies; ratios")
    theirs = swarmbench_rates(checkout, interpreter, worlds)
    for (name, agents, side), (seeing, blind) in zip(worlds, theirs, strict=True):
        task = next(task for task in TASKS if task.__name__.capitalize() == name)
        environment = task(agents, side) if task is foraging else task(agents, side, side)
        one, many = (copies / seconds_per_step(environment, copies, 200) for copies in (1, 64))
        print(
            f"  {name:16s} {agents:4d} agents {seeing:8.2f} ({blind:.2f}); {one:10,.0f} {many:12,.0f}; "
            f"{one / seeing:10,.0f} {many / seeing:10,.0f}"
        )


def seconds_per_step(environment: Environment, copies: int, steps: int, hears: bool = False) -> float:
    """Seconds that one step takes, all copies together; the worlds are made before."""

    def one(key: jax.Array, start: tuple) -> tuple:
        def step(carry: tuple, key: jax.Array) -> tuple:
            state, _, total = carry
            words = jax.random.bits(key, (environment.num_agents,), jnp.uint16)
            actions = (words % environment.action_space.num).astype(jnp.int32)
            state, observations, rewards, _, _ = environment.step(key, state, actions)
            if hears:
                rewards = rewards + jnp.sum(swarm.heard_from(state, 5) >= 0, axis=1)
            return (state, observations, total + jnp.sum(rewards)), None

        return jax.lax.scan(step, (*start, jnp.zeros(())), jax.random.split(key, steps))[0]

    starts = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), copies))
    run = jax.jit(lambda key, starts: jax.vmap(one)(jax.random.split(key, copies), starts))
    seconds = []
    for number in range(5):
        began = time.perf_counter()
        jax.block_until_ready(run(jax.random.key(number), starts))
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swarmbench", metavar="CHECKOUT", help="a checkout of x66ccff/swarmbench, timed beside ours")
    parser.add_argument("--python", metavar="PYTHON", default=sys.executable, help="the interpreter that runs it")
    words = parser.parse_args()
    print(machine())
    print("10 agents on 10 x 10, 64 copies: agent-steps a second")
    for task in TASKS:
        print(f"  {task.__name__:16s} {640 / seconds_per_step(task(), copies=64, steps=50):12,.0f}")
    print("one world of 10,000 agents: milliseconds a step, and with lists of whom each hears")
    worlds = {
        "pursuit": pursuit(10_000, 284, 284),  # agents begin in a quarter of the map
        "synchronization": synchronization(10_000, 142, 142),
        "foraging": foraging(10_000, 142),
        "transport": transport(10_000, 142, 142),
        "flocking": flocking(10_000, 2503, 2503, distance="plan"),  # the ring has a side of 2,501
    }
    for name, environment in worlds.items():
        alone, hearing = (1e3 * seconds_per_step(environment, 1, 20, hears) for hears in (False, True))
        print(f"  {name:16s} {alone:8.2f} {hearing:8.2f}")
    if words.swarmbench:
        beside_swarmbench(words.swarmbench, words.python)


if __name__ == "__main__":
    main()
