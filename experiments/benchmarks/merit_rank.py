"""How many MeritRank walks a second, against the reference package in Python?

Command: `python experiments/benchmarks/merit_rank.py --reference /path/to/an/environment/bin/python` (half a minute on 2
cores), where that environment has meritrank-python (PyPI).  Without `--reference` only dlsim is timed.

10,000 nodes that trust 10 others each, with random weights; 10,000 walks from one of them that go on with probability 0.85,
each counted once a node (what the package does).  The package walks in a process of its own, and the two take turns,
so that what else the machine does meets both.  dlsim's program is compiled before.  Then the same with bottlenecks, for the
connectivity decay, which the package has not.

Measured 2026-12-01, 2 cores (x86_64) to itself, jax 0.10.2, in turns, walks a second: meritrank-python 0.2.10 3,666, dlsim
837,458, which is 228 times as many (50 were required); with bottlenecks, most of it for 10^8 counts of pairs, 58,143.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import jax
import numpy as np
from timing import machine, median

from dlsim import trust

NODES, DEGREE, WALKS, STOP, TURNS = 10_000, 10, 10_000, 0.15, 5

REFERENCE = """
import sys, time
import numpy as np
from meritrank_python.rank import IncrementalMeritRank
sources, targets, weights = (np.load(sys.argv[1])[name] for name in ("sources", "targets", "weights"))
graph = {}
for source, target, weight in zip(sources.tolist(), targets.tolist(), weights.tolist()):
    graph.setdefault(str(source), {})[str(target)] = {"weight": weight}
rank = IncrementalMeritRank(graph)
rank.alpha = 1 - float(sys.argv[3])
for line in sys.stdin:
    began = time.perf_counter()
    rank.calculate("0", int(sys.argv[2]))
    ranks = rank.get_ranks("0")
    print(time.perf_counter() - began, max(ranks.values()), flush=True)
"""


def edges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    sources = np.repeat(np.arange(NODES), DEGREE)
    targets = (sources + 1 + draw.integers(0, NODES - 1, len(sources))) % NODES
    pairs = np.unique(sources * NODES + targets)  # the package has one edge a pair
    return pairs // NODES, pairs % NODES, draw.uniform(0.1, 1.0, len(pairs))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", help="a Python that has meritrank-python")
    given = parser.parse_args()
    print(machine())
    sources, targets, weights = edges()
    graph = trust.trust_graph(NODES, sources, targets, weights)

    def ours(beta: float, count: str):
        def ranks(key: jax.Array, graph: trust.TrustGraph) -> jax.Array:
            return trust.merit_rank(
                graph, 0, key=key, num_walks=WALKS, transitivity_decay=STOP, connectivity_decay=beta, count=count
            )

        run = jax.jit(ranks)
        jax.block_until_ready(run(jax.random.key(0), graph))
        return run

    variants = {"walks": ours(0.0, "hits"), "walks and bottlenecks": ours(0.8, "visits")}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    theirs: list[float] = []
    walker = None
    if given.reference:
        import tempfile

        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
            np.savez(file, sources=sources, targets=targets, weights=weights)
        command = [given.reference, "-c", REFERENCE, file.name, str(WALKS), str(STOP)]
        walker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for turn in range(TURNS):
        for name, run in variants.items():
            began = time.perf_counter()
            jax.block_until_ready(run(jax.random.key(turn), graph))
            seconds[name].append(time.perf_counter() - began)
        if walker is not None and walker.stdin is not None and walker.stdout is not None:
            print("go", file=walker.stdin, flush=True)
            theirs.append(float(walker.stdout.readline().split()[0]))
    if walker is not None:
        walker.communicate()
    if theirs:
        print(f"  {'meritrank-python':24s} {WALKS / median(theirs):12,.0f} walks a second")
    for name, taken in seconds.items():
        against = f"{median(theirs) / median(taken):8.1f} times" if theirs else ""
        print(f"  {name:24s} {WALKS / median(taken):12,.0f} walks a second {against}")


if __name__ == "__main__":
    sys.exit(main())
