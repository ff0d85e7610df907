"""How many rounds a second does MoDeST's sampling take, beside the training of its nodes?

Command: `python experiments/benchmarks/sampling.py`

1,000 nodes, samples of 10, three aggregators, of which each waits for 8 models, a window of 1,000 rounds; 800 nodes crash one
after the other over rounds 20 to 60, so that for the rest of the run four of five pings find nobody.  Measured apart: the
play of the protocol on the host; and on the device the rounds of `modest` with models of 25,450 numbers (784-32-10) and
gradients that cost next to nothing (a quadratic), that is sends, means, counts.  Both together are what is there beside
local training.  In the same turns a round of `dsgd` on a ring of the same nodes and models, with the same gradients.

Measured 2026-11-30, 2 cores (x86_64) shared with much other work (load 18), jax 0.10.2: the play 274 rounds a second of
processor time (28 on the wall, most of which others had); the rounds 0.69 ms at best (median 2.66), 57 messages each.  So
1 / (1 / 274 + 0.00069) = 230 rounds a second beside training.  A message of `modest` takes 0.012 ms at best, one of `dsgd`
(590 ms for 2,000, with a gradient a node) 0.3 ms.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from timing import best, machine, median, take_turns

import dlsim
from dlsim import networks

NUM_NODES, WIDTH, ROUNDS, TURNS = 1000, 25_450, 200, 5
CRASHES = (800, 20, 60)


def played() -> networks.SamplingTape:
    return networks.sampling_tape(
        NUM_NODES,
        ROUNDS,
        num_aggregators=3,
        success_fraction=0.8,
        window_rounds=1000,
        ping_timeout=2.0,
        turnover=networks.turnover(NUM_NODES, random_crashes=CRASHES),
    )


def program(algorithm: dlsim.Algorithm, problem: dlsim.Problem, num_rounds: int) -> tuple[Any, Any]:
    """`(state) -> state` after some rounds, in place, and the first state."""
    process = dlsim.learn(problem, algorithm, networks.ring(NUM_NODES))

    def one(t: Any, state: Any) -> Any:
        return process.step(jax.random.fold_in(jax.random.key(1), t), state)[0]

    rounds = jax.jit(lambda state: jax.lax.fori_loop(0, num_rounds, one, state), donate_argnums=0)
    return rounds, jax.tree.map(lambda leaf: leaf + 0, jax.jit(process.init)(jax.random.key(0)))


def main() -> None:
    warnings.simplefilter("error")
    print(machine())
    seconds = []
    for _ in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        tape = played()
        seconds.append((time.perf_counter() - start, time.process_time() - cpu))
    wall, cpu = (min(one) for one in zip(*seconds, strict=True))
    late = slice(70, ROUNDS)
    print(f"{tape}: {tape.pings[late].mean():.0f} pings a round after the crashes")
    print(f"play: {ROUNDS / wall:.0f} rounds/s, {ROUNDS / cpu:.0f} rounds/s of processor time")
    problem = dlsim.problems.quadratic(NUM_NODES, WIDTH)
    few = 5  # of dsgd, which holds a model a node
    made = {
        "modest": program(dlsim.algorithms.modest(problem, optax.sgd(0.1), tape, num_local_steps=1), problem, ROUNDS),
        "dsgd": program(dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), problem, few),
    }
    held = {name: state for name, (_, state) in made.items()}

    def turn(name: str) -> Any:
        fresh = jax.tree.map(lambda leaf: leaf + 0, held[name])
        return made[name][0](fresh)

    took = take_turns({name: partial(turn, name) for name in made}, TURNS)
    for name, num in (("modest", ROUNDS), ("dsgd", few)):
        each = [1e3 * value / num for value in took[name]]
        print(f"{name}: {median(each):.2f} ms a round, best {best(each):.2f}")
    together = cpu / ROUNDS + best(took["modest"]) / ROUNDS
    print(f"modest with its play: {1 / together:.0f} rounds/s; models a round {np.mean(tape.models):.0f}")


if __name__ == "__main__":
    main()
