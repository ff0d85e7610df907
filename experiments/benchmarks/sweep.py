"""Does a sweep cost more than its runs one by one?

Command: `python experiments/benchmarks/sweep.py` (about six minutes on 2 cores; `--processes 0` leaves out the last part).

48 runs: 4 topologies (ring, torus, exponential, complete) x 3 rates x 4 seeds of D-SGD, N=100, digits, MLP 64-64-10,
200 rounds, a record every 20.  Side by side, in turns:

- the sweep, from the call to the Dataset, with and without its building, tracing and compiling;
- the sum of 48 single runs whose programs are compiled already, each with the lowering that is fastest for its topology;
- fresh processes, one a run, as a shell script would do it (a sample of them, scaled up to 48).

Measured 2026-11-28, 2 cores (x86_64), jax 0.10.2, `--turns 3 --processes 4`, load 1.1: single runs 25.7 s (19.0 to 28.0);
the sweep 11.1 s running, ratio 0.43 (two lanes use what single runs leave idle of two cores), and 16.1 s with building,
tracing and one compilation, ratio 0.66; one program in all.  Fresh processes 6.5 s each, so 312 s for 48, 19 times the
sweep.  In two other calls of that day single runs took 14.1 to 20.8 s and the sweep 11.5 to 13.0 s running: ratios
0.84 and 0.76, in the second 1.06 with building and compiling.  With other work on the machine
(load 1.3 to 3.1) lanes gain nothing: ratios 1.12 and 1.38.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import optax
from timing import machine

import dlsim
from dlsim.running.loop import play
from dlsim.running.programs import Executable, Traced, compile_traced, single, trace
from dlsim.sweeps.api import execute, make_options, plan_sweep
from dlsim.sweeps.source import from_function
from dlsim.sweeps.store import Store

TOPOLOGIES = ("ring", "torus", "exponential", "complete")
RATES = (0.01, 0.03, 0.1)
SEEDS = (0, 1, 2, 3)
NUM_NODES, NUM_STEPS, EVERY = 100, 200, 20


def make(topology: str, learning_rate: float) -> dlsim.Process:
    problem = dlsim.problems.classification(
        "digits", num_nodes=NUM_NODES, partition=dlsim.problems.dirichlet(alpha=0.1), model="mlp", batch_size=8
    )
    network = getattr(dlsim.networks, topology)(NUM_NODES)
    return dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(learning_rate)), network)


def compiled() -> list[tuple[Traced, Executable]]:
    """The programs of the single runs, one for each topology and rate."""
    out = []
    for topology, rate in itertools.product(TOPOLOGIES, RATES):
        process = make(topology, rate)
        key = jax.random.key(0)
        traced = trace(lambda _, process=process: (process, process.measure), {}, key)
        out.append((traced, compile_traced(traced, single(traced, key))))
    return out


def run_singles(programs: list[tuple[Traced, Executable]]) -> float:
    """Seconds of the 48 runs one after the other."""
    began = time.perf_counter()
    for traced, executable in programs:
        for seed in SEEDS:
            key = jax.random.key(seed)
            bound = executable.bind(single(traced, key))
            play(bound, key, NUM_STEPS, EVERY, has_runs=False, first_chunk=NUM_STEPS)
    return time.perf_counter() - began


def run_sweep() -> tuple[float, float, float]:
    """Seconds in all, seconds without planning and compiling, and programs compiled."""
    began = time.perf_counter()
    axes = {"topology": TOPOLOGIES, "learning_rate": RATES}
    source = from_function(make, axes, SEEDS, NUM_STEPS, dlsim.Record(every=EVERY))
    store, options = Store(), make_options()
    plan = plan_sweep(source, store, options)
    planned = time.perf_counter()
    outcome = execute(plan, store, options, progress=False)
    ended = time.perf_counter()
    assert np.isfinite(outcome.dataset.accuracy.values).all()
    return ended - began, ended - planned - outcome.timing["compile_seconds"], outcome.timing["num_programs"]


def run_process(topology: str, rate: float, seed: int) -> float:
    """Seconds of one run in a process of its own."""
    call = (
        f"import sweep, dlsim; dlsim.simulate(sweep.make({topology!r}, {rate}), seed={seed}, "
        f"num_steps={NUM_STEPS}, record=dlsim.Record(every={EVERY}))"
    )
    began = time.perf_counter()
    here = pathlib.Path(__file__).resolve().parent
    subprocess.run([sys.executable, "-c", call], check=True, cwd=here)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--processes", type=int, default=6, help="fresh processes to time")
    options = parser.parse_args()
    print(machine(), "load", os.getloadavg())
    programs = compiled()
    run_singles(programs)
    sweeps, singles = [], []
    for turn in range(options.turns):
        for which in ("sweep", "single") if turn % 2 else ("single", "sweep"):
            if which == "sweep":
                sweeps.append(run_sweep())
            else:
                singles.append(run_singles(programs))
        print(
            f"turn {turn}: single {singles[-1]:.2f} s, sweep {sweeps[-1][0]:.2f} s in all, {sweeps[-1][1]:.2f} s running"
        )
    whole, running, count = (np.asarray(column) for column in zip(*sweeps, strict=True))
    alone = np.asarray(singles)
    print(f"48 single runs, compiled: {np.median(alone):.2f} s (best {alone.min():.2f})")
    print(f"sweep, all:     {np.median(whole):.2f} s, ratio {np.median(whole / alone):.2f}")
    print(
        f"sweep, running: {np.median(running):.2f} s, ratio {np.median(running / alone):.2f}; programs {count.max():.0f}"
    )
    if options.processes:
        cases = list(itertools.product(TOPOLOGIES, RATES, SEEDS))
        picked = cases[:: max(1, len(cases) // options.processes)][: options.processes]
        taken = [run_process(*case) for case in picked]
        total = 48 * float(np.mean(taken))
        print(f"fresh process: {np.mean(taken):.2f} s each ({len(taken)} timed), 48 in {total:.0f} s")
        print(f"ratio to the sweep in all: {total / np.median(whole):.1f}")


if __name__ == "__main__":
    main()
