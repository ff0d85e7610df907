"""What does a round of D-SGD move through memory, against the least it could?  And what does half precision cost?

Commands: `python experiments/benchmarks/traffic.py` (rounds; `... traffic.py 100 sgd` for so many nodes and that optimiser
alone) and `... traffic.py half` (accuracy in bfloat16).

A round must read and write the parameters twice: to update them, and to mix them; momentum reads and writes one more array
of their size, Adam two.  Mixed all columns at once, every row is read once a neighbour, the result is written beside its
input and copied back over it: up to 10 passes over the parameters instead of 4, and a second copy of them.  By columns
(`dlsim.networks.columns`) a block is read once, mixed in cache, and written where it lay.

1. MLP 784-128-10 (101,770 parameters), 1,000 nodes, random 4-regular graph, batch 32: ms a round and MiB needed, by columns
   and all at once, and in bfloat16, in turns; beside them what the passes themselves take, as a multiplication in place
   of arrays of the same size.
2. Digits, 16 nodes on a ring, Dirichlet(0.5) labels, MLP 64-32-10, batch 8: test accuracy and consensus distance after 500
   rounds with parameters in float32 and in bfloat16, three seeds.

Measured 2026-11-30, 2 cores (x86_64) shared with other work (load 5 to 13: times are two to three times those of the machine
alone, ratios of one turn are what to look at), jax 0.10.2.  1,000 nodes, median ms a round and time over that by columns
(least to greatest of five turns), memory needed:

| optimiser | by columns       | all at once                           | bfloat16                              | passes |
|-----------|------------------|---------------------------------------|---------------------------------------|--------|
| sgd       | 926, 437 MiB     | 1,359, 1.53 (1.25 to 1.63), 821 MiB   | 1,116, 1.20 (1.12 to 1.55), 433 MiB   | 135    |
| momentum  | 983, 825 MiB     | 1,293, 1.29 (1.21 to 1.39), 1,209 MiB | 1,067, 1.06 (1.00 to 1.40), 821 MiB   | 141    |
| adam      | 1,086, 1,211 MiB | 1,150, 1.16 (0.92 to 1.49), 1,598 MiB | 1,181, 1.08 (0.95 to 1.63), 1,209 MiB | 212    |

The same day on the machine alone, the commit before (bc59ca0) against columns for `neighbors` and `edges` of leaves beyond
32 MiB, two processes in turns (5 to 9 turns of 3 to 200 rounds): median ms, ratio of the turns (of the best turns), and of
processor time:

| 1,000 nodes, random 4-regular          | before | now | ratio       | processor time |
|----------------------------------------|--------|-----|-------------|----------------|
| MLP, sgd                               | 440    | 410 | 1.07 (1.09) | 1.22           |
| MLP, momentum                          | 438    | 438 | 1.04 (1.12) | 1.12           |
| MLP, adam                              | 529    | 513 | 1.03 (1.10) | 1.12           |
| MLP, 100 nodes, sgd                    | 31     | 30  | 1.01 (0.99) | 1.09           |
| softmax, sgd                           | 65     | 66  | 0.99 (0.97) | 1.00           |
| MLP, torus of 1,024, adapt-then-combine | 453   | 480 | 0.94 (0.99) | 0.93           |
| MLP, torus of 1,024, combine-then-adapt | 605   | 471 | 1.31 (1.39) | 1.33           |

So on a machine with memory to itself the passes that are saved are worth a few per cent of the time, not a third: what they
bring is half the memory, and time where others use the memory too.  There a pass in place over the 407 MB takes 22 ms, two of
them a tenth of the 410 ms of a round; the products of the first layer alone take 243 (68 forward, 175 for the gradient: 784 x
32 x 128 a node, 37 GFLOP/s), the whole local step 265, the mixing 127 to 148 (170 of processor time, whatever the size of the
blocks from 0.5 to 16 MiB: what XLA's gathers cost, not memory).  A round that moved nothing twice would take 265 + 44 ms at
best.  Columns were slower on the torus (0.85, best 0.72:
shifted rows run through memory in order, and one core writes a block), so products and shifts are left as they were.

100 nodes, sgd: 65 ms, 99 ms (1.46, 1.26 to 2.98), 86 ms; passes 7 ms.  The update and the mixing read and write their arrays
once each, in the compiled programs too; what is left above the passes is arithmetic, batches, and blocks in cache.  On a CPU
bfloat16 is no faster: numbers are converted one way and the other, and a chunk's program holds the parameters twice.

Accuracy, of the mean model, and consensus distance after 500 rounds; mean (standard deviation) of three seeds:

| method     | stored as | accuracy        | of the mean     | distance        |
|------------|-----------|-----------------|-----------------|-----------------|
| sgd 0.1    | float32   | 0.9634 (0.0014) | 0.9656 (0.0016) | 0.0213 (0.0012) |
| sgd 0.1    | bfloat16  | 0.9626 (0.0011) | 0.9647 (0.0016) | 0.0233 (0.0012) |
| sgd 0.01   | float32   | 0.8919 (0.0242) | 0.9016 (0.0234) | 0.0043 (0.0003) |
| sgd 0.01   | bfloat16  | 0.8803 (0.0315) | 0.8951 (0.0279) | 0.0056 (0.0006) |
| adam 0.001 | float32   | 0.9172 (0.0057) | 0.9257 (0.0116) | 0.0092 (0.0002) |
| adam 0.001 | bfloat16  | 0.9002 (0.0165) | 0.9109 (0.0145) | 0.0133 (0.0013) |
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import best, machine, median, paired_ratio, take_turns

import dlsim
from dlsim.bench.workloads import BATCH, EXAMPLES, data
from dlsim.networks import columns
from dlsim.running.programs import Programs, compile_process

OPTIMIZERS: dict[str, tuple[Any, int]] = {  # and how many arrays of the parameters' size they keep
    "sgd": (lambda: optax.sgd(0.01), 0),
    "momentum": (lambda: optax.sgd(0.01, momentum=0.9), 1),
    "adam": (lambda: optax.adam(1e-3), 2),
}


def programs(optimizer: str, num_nodes: int, dtype: str = "float32", by_columns: bool = True) -> Programs:
    columns.BLOCK_BYTES = 2**20 if by_columns else 2**62
    dataset = data()
    parts = dlsim.problems.partition(dataset, num_nodes, dlsim.problems.bootstrap(EXAMPLES), seed=0)
    model = dlsim.problems.mlp(hidden=(128,))
    problem = dlsim.problems.supervised(model, dataset, parts, batch_size=BATCH, num_test=100, dtype=dtype)
    network = dlsim.networks.random_regular(num_nodes, degree=4, seed=0)
    process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, OPTIMIZERS[optimizer][0]()), network)
    return compile_process(process, jax.random.key(0), lambda state, info: {"loss": jnp.mean(info["loss"])})


def rounds(optimizer: str, num_nodes: int = 1000, turns: int = 5) -> None:
    made = {
        "by columns": programs(optimizer, num_nodes),
        "all at once": programs(optimizer, num_nodes, by_columns=False),
        "bfloat16": programs(optimizer, num_nodes, "bfloat16"),
    }
    held: dict[str, Any] = {name: one.start() for name, one in made.items()}
    passes = jax.jit(lambda x: x * jnp.float32(1.0000001), donate_argnums=0)
    held["passes"] = jnp.ones((num_nodes, 101_770), jnp.float32)

    def turn(name: str) -> Any:
        held[name], row = made[name].advance(held[name], 1, 1)
        return row["loss"]

    def least() -> Any:
        for _ in range(2 + OPTIMIZERS[optimizer][1]):
            held["passes"] = passes(held["passes"])
        return held["passes"]

    seconds = take_turns({**{name: partial(turn, name) for name in made}, "the passes alone": least}, turns)
    print(f"{optimizer}, {num_nodes} nodes")
    for name, values in seconds.items():
        ratio, low, high = paired_ratio(values, seconds["by columns"])
        needed = f", {made[name].bytes_needed / 2**20:,.0f} MiB" if name in made else ""
        spread = f"{ratio:.2f} of by columns ({low:.2f} to {high:.2f})"
        print(
            f"    {name:16s} {1e3 * median(values):7.0f} ms a round (best {1e3 * best(values):.0f}), {spread}{needed}"
        )


def half(num_rounds: int = 500) -> None:
    dataset = dlsim.problems.load("digits")
    parts = dlsim.problems.partition(dataset, 16, dlsim.problems.dirichlet(alpha=0.5, min_size=8), seed=0)
    network = dlsim.networks.ring(16)
    methods = {"sgd 0.1": optax.sgd(0.1), "sgd 0.01": optax.sgd(0.01), "adam 0.001": optax.adam(1e-3)}
    print(f"{num_rounds} rounds: accuracy, and of the mean model, and consensus distance; mean (standard deviation)")
    for name, optimizer in methods.items():
        for dtype in ("float32", "bfloat16"):
            model = dlsim.problems.mlp(hidden=(32,))
            problem = dlsim.problems.supervised(model, dataset, parts, batch_size=8, dtype=dtype)
            process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optimizer), network)
            record = dlsim.Record(every=num_rounds)
            last = dlsim.simulate(process, num_steps=num_rounds, seed=[0, 1, 2], record=record, progress=False).results
            values = [last[key].values[:, -1] for key in ("accuracy", "accuracy_of_mean", "consensus_distance")]
            shown = "  ".join(f"{np.mean(v):.4f} ({np.std(v, ddof=1):.4f})" for v in values)
            print(f"  {name:12s} {dtype:9s} {shown}", flush=True)


if __name__ == "__main__":
    print(machine())
    if "half" in sys.argv:
        half()
    else:
        for name in [name for name in OPTIMIZERS if name in sys.argv] or OPTIMIZERS:
            rounds(name, next((int(word) for word in sys.argv if word.isdecimal()), 1000))
