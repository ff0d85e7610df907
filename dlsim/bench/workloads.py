"""The standard workloads: D-SGD on a random 4-regular graph, batch 32, on images of 784 pixels.

A *node-update* is one gradient of 32 examples at one node, the optimiser's step, and mixing with four neighbours.
Its floating-point operations, counted by hand, with P the parameters of a dense layer (a x b) and B = 32:

    softmax, MLP    6 B a b a layer, less 2 B a b for the first, whose input needs no gradient
    LeNet           6 B k^2 c_in c_out h w a convolution (less a third for the first), and its dense layers

and the words it must move at least, D its parameters, in two passes: the update reads and writes D, mixing reads and
writes D, 4 D.  What the compiled round does move is read off its program: see `dlsim.bench.programs`.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import algorithms, checks, networks, problems
from dlsim.bench.events import event_rate
from dlsim.core import Process, Record
from dlsim.learning.learn import learn
from dlsim.running.programs import compile_process
from dlsim.sweeps.estimate import machine_rates

BATCH, DEGREE, PIXELS, CLASSES = 32, 4, 784, 10
EXAMPLES = 60  # a node
STATE_COPIES = 3.5


class Model(NamedTuple):
    """A standard model."""

    model: str
    parameters: int
    flops: float  # a node-update


def _dense(sizes: tuple[int, ...], *, first: bool = True) -> float:
    layers = [6.0 * BATCH * a * b for a, b in itertools.pairwise(sizes)]
    return sum(layers) - (layers[0] / 3 if first else 0.0)


def _lenet() -> float:
    """Two 5x5 convolutions that keep the size, 16 channels on 28x28 and 32 on 14x14, then 1568-10."""
    convolutions = 6.0 * BATCH * 25 * (1 * 16 * 28 * 28 * 2 / 3 + 16 * 32 * 14 * 14)
    return convolutions + _dense((1568, 10), first=False)


MODELS = {
    "softmax": Model("softmax", 7850, _dense((784, 10))),
    "mlp": Model("mlp", 101_770, _dense((784, 128, 10))),
    "cnn": Model("lenet", 28_938, _lenet()),
}


def data() -> Any:
    """Synthetic images of Fashion-MNIST's shape and size, the same everywhere; nothing is downloaded."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 60_000).astype(np.int32)
    centres = rng.integers(0, 256, (CLASSES, 28, 28, 1))
    images = np.clip(centres[labels] + rng.integers(-64, 64, (60_000, 28, 28, 1)), 0, 255).astype(np.uint8)
    return problems.dataset(images[:59_000], labels[:59_000], test_inputs=images[59_000:], test_labels=labels[59_000:])


def process(name: str, num_nodes: int) -> Process:
    """A workload at some size; it measures the consensus distance alone."""
    import optax

    dataset = data()
    parts = problems.partition(dataset, num_nodes, problems.bootstrap(EXAMPLES), seed=0)
    model: Any = problems.mlp(hidden=(128,)) if name == "mlp" else MODELS[name].model
    problem = problems.supervised(model, dataset, parts, batch_size=BATCH, num_test=100)
    network = networks.random_regular(num_nodes, degree=DEGREE, seed=0)
    made = learn(problem, algorithms.dsgd(problem, optax.sgd(0.01)), network)

    def measure(state: Any, info: dict[str, Any]) -> dict[str, Any]:
        return {"train_loss": jnp.mean(info["loss"])}

    return made._replace(measure=measure)


def run(name: str, num_nodes: int, seconds: float) -> dict[str, float]:
    """Compile a workload and time its rounds for about so long; in this process."""
    from dlsim.bench.machine import peak_bytes
    from dlsim.bench.programs import round_of

    before = peak_bytes()
    made = process(name, num_nodes)
    assert made.measure is not None
    programs = compile_process(made, jax.random.key(0), made.measure)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(programs.shapes[0].state.algorithm.params)) // num_nodes
    carry, _ = programs.advance(programs.start(), 1, 1)
    jax.block_until_ready(carry)
    rounds, times = 1, list[float]()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        mark = time.perf_counter()
        carry, row = programs.advance(carry, 1, rounds)
        loss = float(np.asarray(row["train_loss"])[0])  # waits for the device
        taken = (time.perf_counter() - mark) / rounds
        times.append(taken)
        rounds = max(1, min(4 * rounds, math.ceil(seconds / 8 / taken)))
    second = float(np.median(times[1:] if len(times) > 3 else times))
    peak = peak_bytes()
    one = round_of(made)
    return {
        "num_nodes": num_nodes,
        "parameters": parameters,
        "round_seconds": second,
        "best_round_seconds": min(times),
        "node_updates_per_second": num_nodes / second,
        "compile_seconds": programs.compile_seconds,
        "peak_bytes": peak,
        "added_bytes": peak - before,
        "needed_bytes": programs.bytes_needed,
        "traffic_bytes": one.traffic_bytes,
        "least_bytes": one.least_bytes,
        "kernels": one.kernels,
        "fusions": one.fusions,
        "loss": loss,
    }


def isolated(name: str, num_nodes: int, seconds: float) -> dict[str, float]:
    """`run` in a fresh process, so that peak memory is its own; an accelerator is left to one process at a time."""
    if jax.default_backend() != "cpu":
        return run(name, num_nodes, seconds)
    import json

    call = (
        "import json, sys; from dlsim.bench import workloads; "
        f"json.dump(workloads.run({name!r}, {num_nodes}, {seconds}), sys.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        checks.fail("bench", name, f"able to run at {num_nodes} nodes", reason[-1] if reason else done.returncode)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def sizes(name: str, quick: bool, memory: float) -> list[int]:
    """Numbers of nodes from 100 on, ten times more each, to what fits in memory or a minute a round."""
    largest = 1000 if quick else 1_000_000
    rate = machine_rates().flops
    found = []
    for exponent in range(2, 7):
        count = 10**exponent
        needed = STATE_COPIES * 4 * MODELS[name].parameters * count + 4 * EXAMPLES * count
        too_long = count * MODELS[name].flops / (0.1 * rate) > (4 if quick else 40)
        if count > largest or needed > 0.8 * memory or too_long:
            break
        found.append(count)
    return found


def sweep_efficiency(quick: bool) -> dict[str, float]:
    """A sweep of small runs against the same runs one by one, already compiled: seconds of each, and their ratio."""
    import optax

    from dlsim.running.loop import play
    from dlsim.running.programs import compile_traced, single, trace
    from dlsim.sweeps.api import execute, make_options, plan_sweep
    from dlsim.sweeps.source import from_function
    from dlsim.sweeps.store import Store

    problem = problems.classification(
        "digits", num_nodes=100, partition=problems.dirichlet(alpha=0.1), model="mlp", batch_size=8
    )
    network = networks.random_regular(100, degree=DEGREE, seed=0)

    def make(learning_rate: Any) -> Process:
        return learn(problem, algorithms.dsgd(problem, optax.sgd(learning_rate)), network)

    rates, seeds, steps, every = (0.01, 0.03, 0.1), range(2 if quick else 8), 200, 50
    one = make(0.03)
    assert one.measure is not None
    measure = one.measure
    traced = trace(lambda _: (one, measure), {}, jax.random.key(0))
    program = compile_traced(traced, single(traced, jax.random.key(0)))

    def alone() -> float:
        began = time.perf_counter()
        for seed in [seed for _ in rates for seed in seeds]:
            key = jax.random.key(seed)
            play(program.bind(single(traced, key)), key, steps, every, has_runs=False, first_chunk=steps)
        return time.perf_counter() - began

    def together() -> tuple[float, float]:
        began = time.perf_counter()
        source = from_function(make, {"learning_rate": rates}, list(seeds), steps, Record(every=every))
        options = make_options()
        plan = plan_sweep(source, Store(), options)
        planned = time.perf_counter()
        outcome = execute(plan, Store(), options, progress=False)
        ended = time.perf_counter()
        return ended - began, ended - planned - outcome.timing["compile_seconds"]

    alone()
    turns = [(alone(), *together()) for _ in range(1 if quick else 3)]
    single_seconds, all_seconds, run_seconds = (float(np.median(column)) for column in zip(*turns, strict=True))
    return {
        "runs": len(rates) * len(seeds),
        "single_seconds": single_seconds,
        "sweep_seconds": all_seconds,
        "sweep_run_seconds": run_seconds,
        "ratio": run_seconds / single_seconds,
        "ratio_with_compiling": all_seconds / single_seconds,
    }


EXTRA: dict[str, Callable[[bool], dict[str, float]]] = {  # further workloads, by name
    "sweep": sweep_efficiency,
    "events": event_rate,
}
