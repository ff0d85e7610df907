"""How much memory does a run take, against its parameters and optimiser state?

Command: `python experiments/benchmarks/memory.py` (about half a minute on 2 cores, 5 GiB).

D-SGD, batch 32, random 4-regular graph, on images of Fashion-MNIST's size (47 MB): the MLP 784-128-10 with 2,000 nodes
(0.8 GB of parameters) and plain SGD, the same with momentum (1.6 GB), and softmax regression with 30,000 nodes (0.9 GB).
Each in a fresh process; the peak is that of the process less what it had when everything was built and nothing had run.

Required: at most 3.5 times the parameters and optimiser state, plus the data set.

Measured 2026-11-28, 2 cores (x86_64), 24 GiB, jax 0.10.2, load 0.6:

| case          | state     | peak over the start | data   | peak less data over state |
|---------------|-----------|---------------------|--------|---------------------------|
| mlp, sgd      | 776 MiB   | 1,190 MiB           | 44 MiB | 1.48                      |
| mlp, momentum | 1,553 MiB | 1,983 MiB           | 44 MiB | 1.25                      |
| softmax, sgd  | 898 MiB   | 1,435 MiB           | 44 MiB | 1.55                      |
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
from timing import machine

import dlsim
from dlsim.bench.machine import peak_bytes
from dlsim.bench.workloads import BATCH, EXAMPLES, data
from dlsim.running.programs import compile_process

CASES = {
    "mlp, sgd": ("mlp", 2_000, 0.0),
    "mlp, momentum": ("mlp", 2_000, 0.9),
    "softmax, sgd": ("softmax", 30_000, 0.0),
}
ALLOWED = 3.5
HERE = pathlib.Path(__file__).resolve().parent


def measure(model: str, num_nodes: int, momentum: float) -> dict[str, float]:
    dataset = data()
    parts = dlsim.problems.partition(dataset, num_nodes, dlsim.problems.bootstrap(EXAMPLES), seed=0)
    made = dlsim.problems.mlp(hidden=(128,)) if model == "mlp" else model
    problem = dlsim.problems.supervised(made, dataset, parts, batch_size=BATCH, num_test=100)
    network = dlsim.networks.random_regular(num_nodes, degree=4, seed=0)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.01, momentum=momentum or None))
    process = dlsim.learn(problem, algorithm, network)
    process = process._replace(measure=lambda state, info: {"loss": info["loss"].mean()})
    assert process.measure is not None
    programs = compile_process(process, jax.random.key(0), process.measure)
    shapes = programs.shapes[0].state.algorithm
    state = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    before = peak_bytes()
    carry, _ = programs.advance(programs.start(), 1, 3)
    jax.block_until_ready(carry.step)
    return {"state": state, "data": float(dataset.inputs.nbytes), "grown": peak_bytes() - before}


def main() -> None:
    print(machine())
    for name, case in CASES.items():
        call = f"import json, memory; print(json.dumps(memory.measure{case!r}))"
        done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True, cwd=HERE)
        row = json.loads(done.stdout.splitlines()[-1])
        ratio = (row["grown"] - row["data"]) / row["state"]
        verdict = "ok" if ratio <= ALLOWED else "TOO MUCH"
        sizes = (f"{label} {row[key] / 2**20:6.0f} MiB" for label, key in (("state", "state"), ("peak +", "grown")))
        print(f"{name:14s} {', '.join(sizes)}, data {row['data'] / 2**20:.0f} MiB: {ratio:.2f} times  {verdict}")


if __name__ == "__main__":
    main()
