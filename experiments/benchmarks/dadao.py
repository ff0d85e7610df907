"""How fast is DADAO in waves, against one event at a time as its authors' published program plays them?

Command: `python experiments/benchmarks/dadao.py` (a minute on 2 cores); `--authors FOLDER` times the authors' own program
too, from a copy of github.com/AdelNabli/DADAO (no licence, so nothing of it is here; it needs PyTorch, networkx, tqdm).

A hundred nodes, linear regression in two dimensions on 100 examples a node, gradients of all of them, rates of the paper,
thirty simulated seconds.  A second of the ring is 1,584 meetings and 100 gradients.

1. The whole process, with clocks, traffic, losses and staleness, in events a second, on a ring, a grid and a star.
   Required on the ring and the grid: at least 100 times the loop of the authors' kind, which is written here in plain NumPy
   with their operations an event: a matrix exponential by scaling and squaring for each node touched, gradients of all nodes
   of which one is used, and the squared distance to the optimum of all nodes.  On a star all messages touch one node, so that
   no two are ever side by side.
2. 4,096 nodes on a torus with equal rates: they run.

Beside other work (load 20 on 2 cores), jax 0.10.2, PyTorch 2.13: ring 457,102 events/s against 667 of the authors' program
(685 times) and 712 of the loop; grid 414,076 against 937 (442 times); star 80,424 against 980 (82 times); a torus of
4,096 nodes 832,629 events/s.  On a quieter machine the authors' program played 1,550 events/s on the ring: still 300 times.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from functools import partial
from typing import Any

os.environ.setdefault("PJRT_NPROC", "1")  # one thread for the kernels of a program, as in asynchronous.py

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from timing import machine, median, take_turns

import dlsim
from dlsim import clocks

NUM_NODES, NUM_EXAMPLES, DIMENSION, REQUIRED = 100, 100, 2, 100.0
WINDOW, WINDOWS = 10.0, 3
NETWORKS = {"ring": dlsim.networks.ring, "grid": dlsim.networks.grid, "star": dlsim.networks.star}
MUST = ("ring", "grid")
AUTHORS = {"ring": "cycle", "grid": "2D_grid", "star": "star"}


def regression(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `[N, m, D]` and targets `[N, m]`, as the authors draw them: own coefficients, noise 10, own slope."""
    draws = np.random.default_rng(0)
    inputs = draws.standard_normal((num_nodes, NUM_EXAMPLES, DIMENSION))
    coefficients = 100 * draws.random((num_nodes, DIMENSION))
    targets = np.einsum("nmd,nd->nm", inputs, coefficients) + 10 * draws.standard_normal((num_nodes, NUM_EXAMPLES))
    return inputs, targets * draws.uniform(0.01, 5, (num_nodes, 1))


def process_of(network: dlsim.networks.Network, window: float) -> dlsim.Process:
    problem = dlsim.problems.least_squares(*regression(network.num_nodes))
    return dlsim.learn(problem, dlsim.algorithms.dadao(problem), network, timing=clocks.timing(window=window))


def in_waves(network: dlsim.networks.Network, window: float = WINDOW) -> tuple[Any, int]:
    """What plays the windows, given its last result (None: the start), and how many events these are."""
    process, key = process_of(network, window), jax.random.key(0)
    assert process.feed is not None
    part, until = process.feed.fill(key, 0)
    assert WINDOWS <= until, "fewer windows are fed at a time than are timed"
    events = int((part.blocks.position[: part.starts[WINDOWS]] != np.uint32(2**32 - 1)).sum())
    first = process.feed.put(process.init(key), jax.tree.map(jnp.asarray, part))

    @partial(jax.jit, donate_argnums=0)
    def whole(state: Any) -> Any:
        def step(t: Any, state: Any) -> Any:
            return process.step(jax.random.fold_in(key, t), state)[0]

        return jax.lax.fori_loop(0, WINDOWS, step, state._replace(window=jnp.zeros_like(state.window)))

    held = {"state": jax.tree.map(jnp.copy, first)}

    def advance() -> Any:
        held["state"] = whole(held["state"])
        return held["state"]

    return advance, events


def one_by_one(network: dlsim.networks.Network, num_events: int = 1500) -> float:
    """Events a second of a NumPy loop with the authors' operations."""
    inputs, targets = regression(network.num_nodes)
    problem = dlsim.problems.least_squares(inputs, targets)
    mu, smoothness, best = problem.strong_convexity(), problem.smoothness(), np.asarray(problem.optimum, np.float64)
    rates = dlsim.algorithms.dadao_rates(network)
    chi_1, _ = dlsim.algorithms.edge_rates.agreement("benchmark", network, rates)
    nu = mu / 2
    s = np.sqrt(nu / smoothness)
    flow = np.zeros((6, 6))
    flow[0, :2], flow[1, :2] = (-s / 8, s / 8), (s / 8, -s / 8)
    flow[2, 2:4], flow[3, 1:5] = (-s / 4, s / 4), (-nu / (2 * s), -1 / (2 * s), 0, -1 / (2 * s))
    flow[4, 4:], flow[5, 4:] = (-s / 4, s / 4), (s / 8, -s / 8)
    tape = clocks.make_tape(network, clocks.poisson(1.0), clocks.poisson(rates), jax.random.key(0), 3.0)
    num_events = min(num_events, len(tape))
    kinds, a, b = (column[:num_events].tolist() for column in (tape.kind, tape.a, tape.b))
    seconds = (tape.ticks[:num_events] / clocks.TICKS_PER_SECOND).tolist()
    rows, since = np.zeros((network.num_nodes, 6, DIMENSION)), np.zeros(network.num_nodes)
    distances = []
    began = time.process_time()
    for k in range(num_events):
        i, j = a[k], b[k]
        is_meeting = kinds[k] == clocks.COMMUNICATION
        for node in (i, j) if is_meeting else (i,):
            rows[node] = expm(flow * (seconds[k] - since[node])) @ rows[node]
            since[node] = seconds[k]
        if is_meeting:
            m = rows[i, 2] + rows[i, 4] - rows[j, 2] - rows[j, 4]
            rows[i, 4] -= m / 2
            rows[j, 4] += m / 2
            rows[i, 5] -= 2 * chi_1 / s * m
            rows[j, 5] += 2 * chi_1 / s * m
        else:
            off = np.einsum("nmd,nd->nm", inputs, rows[:, 0]) - targets
            gradients = 2 * np.einsum("nmd,nm->nd", inputs, off) / NUM_EXAMPLES
            g = gradients[i] - nu * rows[i, 0] - rows[i, 3]
            rows[i, 0] -= g / (4 * smoothness)
            rows[i, 1] -= g / (4 * np.sqrt(nu * smoothness))
            rows[i, 3] += (1 + s / 4) * g
        distances.append(np.mean(np.sum(np.square(rows[:, 0] - best), axis=1)))
    return num_events / (time.process_time() - began)


def of_the_authors(folder: pathlib.Path, graph: str, seconds: float) -> float:
    """Events a second of the published program, the same kind of data, one thread."""
    import tempfile

    sys.path.insert(0, str(folder.resolve()))
    import data as published
    import run_optimizers
    import torch
    from cvx_functions import linear_regression
    from utils import compute_spectral_quantities

    torch.set_num_threads(1)
    inputs, targets = regression(NUM_NODES)
    problem = dlsim.problems.least_squares(inputs, targets)
    one = published.generate_one_connected_graph(NUM_NODES, graph)
    *_, chi_1, chi_2, _ = compute_spectral_quantities(one)
    total = np.sqrt(2 * chi_1 * chi_2)
    here = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it writes a folder of results where it is
        try:
            began = time.process_time()
            _, gradients, messages = run_optimizers.run_DADAO(
                NUM_NODES, seconds, NUM_NODES, total, chi_1, linear_regression(DIMENSION, NUM_NODES, NUM_EXAMPLES),
                problem.strong_convexity(), problem.smoothness(), torch.tensor(inputs), torch.tensor(targets)[..., None],
                np.asarray(problem.optimum, np.float64), [one], False, 1, "now", graph,
            )  # fmt: skip
            spent = time.process_time() - began
        finally:
            os.chdir(here)
    return (len(gradients) + len(messages)) / spent


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--authors", type=pathlib.Path)
    arguments = parser.parse_args()
    print(machine())
    passed = True
    for name, make in NETWORKS.items():
        network = make(NUM_NODES)
        advance, events = in_waves(network)
        loop = one_by_one(network)
        seconds = take_turns({"waves": advance})["waves"]
        loop = max(loop, one_by_one(network))
        rate = events / median(seconds)
        line = f"{name:5s} {events:7,d} events: waves {rate:9,.0f} events/s, NumPy loop {loop:6,.0f}: {rate / loop:.0f} times"
        least = rate / loop
        if arguments.authors is not None:
            theirs = of_the_authors(arguments.authors, AUTHORS[name], 2.0 if name == "ring" else 5.0)
            line += f"; the authors' program {theirs:6,.0f}: {rate / theirs:.0f} times"
            least = rate / theirs
        is_fast = name not in MUST or least >= REQUIRED
        print(line + ("" if is_fast else ": too slow"))
        passed &= is_fast
    advance, events = in_waves(dlsim.networks.torus(4096), window=0.05)
    seconds = take_turns({"waves": advance})["waves"]
    print(f"torus of 4,096 nodes, {events:,d} events: {events / median(seconds):,.0f} events/s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
