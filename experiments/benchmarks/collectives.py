"""How many collectives of a thousand peers a second, some of which die on the way?

Command: `python experiments/benchmarks/collectives.py` (about two minutes on 2 cores)

N = 1000 slots, D numbers a peer, `peer_churn(death_rate, 0.3)`: at a rate of 0.01 some ten peers die in each operation and
it takes some ten attempts.  An operation is a round of the scenario, all attempts with their bits and seconds by node, and
the sum, by default with every addition in the order of the ring.

Measured 2026-12-01, 2 cores (x86_64) to itself, jax 0.10.2; operations/s, median (best), 11.5 attempts each where peers die
(100 were required):

    ring, D=1000                   450 (493)      butterfly, D=1000              378 (443)
    ring, D=1000, nobody dies      506 (638)      butterfly, D=10,000            196 (208)
    ring, D=10,000                 166 (221)      ring in 8 bits, D=1000          48 (49)
    any order, D=10,000            121 (125)

The ring in 8 bits finds its extremes anew at every hop.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from timing import best, machine, median, take_turns

from dlsim import networks

NUM = 1000
CASES = {  # numbers a peer, deaths a round and peer, how
    "ring, D=1000": (1000, 0.01, {}),
    "ring, D=1000, nobody dies": (1000, 0.0, {}),
    "ring, D=10,000": (10_000, 0.01, {}),
    "any order, D=10,000": (10_000, 0.01, {"in_order": False}),
    "butterfly, D=1000": (1000, 0.01, {"kind": "butterfly"}),
    "butterfly, D=10,000": (10_000, 0.01, {"kind": "butterfly"}),
    "ring in 8 bits, D=1000": (1000, 0.01, {"quantization": "min_max"}),
}


def operations(size: int, death_rate: float, options: dict, count: int = 20):
    network = networks.complete(NUM).with_links(networks.links(NUM))
    scenario = networks.peer_churn(death_rate, 0.3)
    how = networks.collective(**options)
    key = jax.random.key(0)
    x = jax.random.normal(key, (NUM, size))

    def operation(carry, t):
        state, traffic = carry
        now = jax.random.fold_in(key, t)
        state, current = scenario.step(now, state, network.with_state(traffic))
        reduced, current = current.all_reduce(now, x, how)
        return (state, current.state), (reduced.num_attempts, reduced.value)

    @jax.jit
    def run(carry):
        return jax.lax.scan(operation, carry, jnp.arange(count))

    start = scenario.init(key, network), network.state
    return lambda: run(start), count


if __name__ == "__main__":
    print(machine())
    made = {name: operations(*case) for name, case in CASES.items()}
    seconds = take_turns({name: run for name, (run, _) in made.items()}, rounds=5)
    for name, (run, count) in made.items():
        attempts = float(jnp.mean(run()[1][0]))
        rate, fastest = count / median(seconds[name]), count / best(seconds[name])
        print(f"  {name:28s} {rate:7.0f} operations/s (best {fastest:.0f}), {attempts:.1f} attempts each")
