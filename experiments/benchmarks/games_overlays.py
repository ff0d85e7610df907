"""How fast are tournaments of a thousand automata, and gossip, Snowball and lookups of a million nodes?

Command: `python experiments/benchmarks/games_overlays.py [num_nodes]`

Each is timed after it was compiled: a tournament of 1,000 automata, all 500,500 pairs over 200 rounds, where nothing is drawn
and where moves are; in the same turns the same tournament of 40 automata as a plain Python loop, for a rate of rounds; a
round of push broadcast when half of the nodes know; a round of Snowball, K = 10, when nobody has decided; 1,000 lookups.

Measured 2026-12-01, 2 cores (x86_64) to itself, jax 0.10.2: the tournament 0.23 s where nothing is drawn (432 million rounds
of a pair a second; plain Python, which keeps no scores, 9.5 million) and 1.3 s with noise (77 million).  A million nodes: a
round of push 0.017 s, of Snowball 0.23 s; 1,000 lookups 1.3 s (5.9 rounds each, all find their node).  Most memory 0.86 GiB.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import jax
import numpy as np
from timing import machine

import dlsim
from dlsim import networks, trust

ROUNDS, NUM_AUTOMATA = 200, 1000
TURNS = 3


def timed(name: str, function: Any, *args: Any) -> tuple[float, Any]:
    """The best of some turns in seconds, compiling left out, and what came."""
    start = time.perf_counter()
    made = jax.block_until_ready(function(*args))
    first = time.perf_counter() - start
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        made = jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    print(f"{name}: {min(seconds):.3f} s (first call, with compiling, {first:.1f} s)", flush=True)
    return min(seconds), made


def played(process: dlsim.Process, num_steps: int) -> Any:
    """`(key, state) -> state` after some steps."""

    def play(key: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, num_steps, lambda t, s: process.step(jax.random.fold_in(key, t), s)[0], state)

    return jax.jit(play)


def plain(automata: trust.Automata, num_rounds: int) -> float:
    """Seconds of one game after the other in Python."""
    out, goes = np.asarray(automata.cooperates) < 0.5, np.asarray(automata.goes)
    moves, table = out.astype(int).tolist(), goes.tolist()
    start = time.perf_counter()
    for i in range(len(moves)):
        for j in range(i, len(moves)):
            s = t = 0
            for _ in range(num_rounds):
                m, n = moves[i][s], moves[j][t]
                s, t = table[i][s][m][n], table[j][t][n][m]
    return time.perf_counter() - start


def main() -> None:
    print(machine())
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    key = jax.random.key(0)
    names = [name for name in trust.strategy_names() if name not in ("random", "joss", "generous_tit_for_tat")]
    field = [names[i % len(names)] for i in range(NUM_AUTOMATA)]
    for label, noise in (("nothing drawn", None), ("noise of 5 %", 0.05)):
        process = trust.tournament(trust.strategies(*field), noise=noise)
        seconds, _ = timed(f"tournament of {NUM_AUTOMATA}, {label}", played(process, ROUNDS), key, process.init(key))
        games = NUM_AUTOMATA * (NUM_AUTOMATA + 1) / 2
        print(f"  {games * ROUNDS / seconds / 1e6:.1f} million rounds of a pair a second")
    slow = plain(trust.strategies(*field[:40]), ROUNDS)
    print(f"plain Python: {40 * 41 / 2 * ROUNDS / slow / 1e6:.2f} million a second")
    world = networks.complete(num)
    process = trust.broadcast(world, num_sources=num // 2)
    timed(f"a round of push, {num} nodes", played(process, 1), key, jax.jit(process.init)(key))
    process = trust.snowball(world)
    timed(f"a round of Snowball, {num} nodes", played(process, 1), key, jax.jit(process.init)(key))
    process = trust.dht(world, num_lookups=1000)
    _, state = timed(f"1,000 lookups, {num} nodes", played(process, 1), key, jax.jit(process.init)(key))
    print({name: float(value) for name, value in process.measure(state, {}).items() if name in ("rounds", "success")})
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
