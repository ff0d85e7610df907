"""Steps per second of simple spread and the skirmish against JaxMARL 0.2.0, same number of copies, in one process.

    PYTHONPATH=. python experiments/benchmarks/environments_marl.py [--copies 1 100 10000] [--only simple_spread 3m 2s3z]

Random actions, a compiled scan, every episode begun anew when it ends; compiling is not counted.  A step is one step of
one copy.  The two libraries take turns, five times each after one warm-up; the median is given, and the ratio of ours
to theirs.  Needs `pip install jaxmarl==0.2.0`.

Steps per second on 2 CPU cores (jax 0.10.2, 2026-11-28, all nine in one run, load 1.5):

    task             copies      dlsim    JaxMARL    ratio
    simple_spread         1    190,759    100,522     1.90
    simple_spread       100  1,011,515    367,577     2.75
    simple_spread    10,000  1,800,057    713,924     2.52
    3m                    1     79,397     38,384     2.07
    3m                  100    223,139     73,183     3.05
    3m               10,000    254,436    118,019     2.16
    2s3z                  1     47,188     25,733     1.83
    2s3z                100     76,075     34,524     2.20
    2s3z             10,000    114,638     50,541     2.27

Unrolling the eight ticks of a skirmish step makes it slower (2s3z, 1 copy: 24,992/s rolled, 20,927, 13,110 and 7,510 with 2,
4 and 8 in a row), and so it is not done.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np

from dlsim.environments.environment import Environment, auto_reset
from dlsim.environments.particle.cooperation import simple_spread
from dlsim.environments.skirmish.world import skirmish

NUM_REPEATS = 5
WORK = {"simple_spread": 300_000, "3m": 40_000, "2s3z": 20_000}  # steps of all copies in one timed scan, at least
LEAST_STEPS, MOST_STEPS = 20, 20_000


def ours(environment: Environment, num_steps: int, copies: int) -> Callable[[jax.Array], jax.Array]:
    """A function of a key: `num_steps` random steps of all copies, sum of rewards."""
    environment = auto_reset(environment)
    shape = (copies, environment.num_agents)

    def one(carry: tuple, key: jax.Array) -> tuple:
        act_key, step_key = jax.random.split(key)
        actions = jax.random.randint(act_key, shape, 0, environment.action_space.num)
        step_keys = jax.random.split(step_key, copies)
        state, total = carry
        state, observations, rewards, _, _ = jax.vmap(environment.step)(step_keys, state, actions)
        return (state, total + rewards.sum() + observations.sum()), None

    def run(key: jax.Array) -> jax.Array:
        state, _ = jax.vmap(environment.reset)(jax.random.split(key, copies))
        return jax.lax.scan(one, (state, 0.0), jax.random.split(key, num_steps))[0][1]

    return jax.jit(run)


def theirs(name: str, num_steps: int, copies: int, **options: object) -> Callable[[jax.Array], jax.Array]:
    """The same with JaxMARL: its environment of that name, its own automatic reset."""
    import jaxmarl

    environment = jaxmarl.make(name, **options)
    agents = environment.agents
    nums = [environment.action_space(agent).n for agent in agents]

    def one(carry: tuple, key: jax.Array) -> tuple:
        act_key, step_key = jax.random.split(key)
        actions = jax.random.randint(act_key, (copies, len(agents)), 0, np.asarray(nums))
        given = {agent: actions[:, i] for i, agent in enumerate(agents)}
        step_keys = jax.random.split(step_key, copies)
        state, total = carry
        observations, state, rewards, _, _ = jax.vmap(environment.step)(step_keys, state, given)
        seen = sum(observations[agent].sum() for agent in agents)
        return (state, total + sum(rewards[agent].sum() for agent in agents) + seen), None

    def run(key: jax.Array) -> jax.Array:
        _, state = jax.vmap(environment.reset)(jax.random.split(key, copies))
        return jax.lax.scan(one, (state, 0.0), jax.random.split(key, num_steps))[0][1]

    return jax.jit(run)


def pair(name: str, num_steps: int, copies: int) -> tuple[Callable, Callable]:
    """Ours and theirs."""
    if name == "simple_spread":
        return ours(simple_spread(), num_steps, copies), theirs("MPE_simple_spread_v3", num_steps, copies)
    from jaxmarl.environments.smax import map_name_to_scenario

    scenario = map_name_to_scenario(name)
    return ours(skirmish(name), num_steps, copies), theirs("HeuristicEnemySMAX", num_steps, copies, scenario=scenario)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--only", nargs="+", choices=list(WORK), default=list(WORK))
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}", flush=True)
    for name in arguments.only:
        for copies in arguments.copies:
            num_steps = int(np.clip(WORK[name] // copies, LEAST_STEPS, MOST_STEPS))
            functions = pair(name, num_steps, copies)
            seconds = np.zeros((NUM_REPEATS + 1, 2))
            for repeat in range(NUM_REPEATS + 1):
                for side, function in enumerate(functions):
                    start = time.perf_counter()
                    jax.block_until_ready(function(jax.random.key(repeat)))
                    seconds[repeat, side] = time.perf_counter() - start
            rates = num_steps * copies / np.median(seconds[1:], axis=0)
            line = f"{name:14s} {copies:6d} copies: dlsim {rates[0]:12,.0f}/s  JaxMARL {rates[1]:12,.0f}/s"
            print(f"{line}  ratio {rates[0] / rates[1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
