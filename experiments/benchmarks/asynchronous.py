"""How fast is AD-PSGD in waves, against a loop over events in NumPy?

Command: `python experiments/benchmarks/asynchronous.py` (two minutes on 2 cores).

A thousand nodes on a random 4-regular graph, softmax regression on handwritten digits (650 parameters), one gradient and
one averaging a second and node: `simulate` of the whole process, with its clock, traffic, losses and staleness, against a
NumPy loop over the same kinds of events, written with care (rows updated in place, one matrix product each way, batches
drawn in advance).  Required: waves at least 20 times the loop.
"""

from __future__ import annotations

import time

import jax
import numpy as np
import optax
from timing import machine

import dlsim
from dlsim.programs import compile_process

NUM_NODES, REQUIRED = 1000, 20.0
BATCHES = (1, 8, 32)
WINDOWS = 20


def in_waves(batch_size: int) -> float:
    """Events a second of the process."""
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=NUM_NODES,
        partition=dlsim.problems.bootstrap(14),
        model="softmax",
        batch_size=batch_size,
        sampling="with_replacement",
    )
    network = dlsim.networks.random_regular(NUM_NODES, 4, seed=0)
    algorithm = dlsim.algorithms.ad_psgd(problem, optax.sgd(0.05))
    process = dlsim.learn(problem, algorithm, network)
    key = jax.random.key(0)
    programs = compile_process(process, key, lambda state, info: {"window": state.window})
    carry = programs.start()
    assert process.feed is not None
    best, step, until = 0.0, 0, 0
    for _ in range(6):
        if step + WINDOWS > until:
            part, until = process.feed.fill(key, step)
            carry = carry._replace(state=jax.device_put(process.feed.put(carry.state, part)))
        assert step + WINDOWS <= until, "fewer windows are fed at a time than are timed"
        starts = np.asarray(carry.state.buffer.starts)
        first = step - int(carry.state.buffer.first)
        position = np.asarray(carry.state.buffer.blocks.position)[starts[first] : starts[first + WINDOWS]]
        events = int((position != np.uint32(2**32 - 1)).sum())
        jax.block_until_ready(carry)
        began = time.perf_counter()
        carry, _ = programs.advance(carry, 1, WINDOWS)
        jax.block_until_ready(carry)
        best = max(best, events / (time.perf_counter() - began))
        step += WINDOWS
    return best


def in_numpy(batch_size: int, num_events: int = 6000) -> float:
    """Events a second of a plain loop, half of them gradients."""
    data = dlsim.problems.load("digits")
    inputs = (np.asarray(data.inputs, np.float32) - data.offset) * data.scale
    inputs, labels = inputs.reshape(len(inputs), -1), np.asarray(data.labels)
    draws = np.random.default_rng(0)
    weights = np.zeros((NUM_NODES, 64, 10), np.float32)
    bias = np.zeros((NUM_NODES, 10), np.float32)
    read_w, read_b = weights.copy(), bias.copy()
    kinds = draws.integers(0, 2, num_events)
    a = draws.integers(0, NUM_NODES, num_events)
    b = (a + 1 + draws.integers(0, NUM_NODES - 1, num_events)) % NUM_NODES
    batches = draws.integers(0, len(labels), (num_events, batch_size))
    one_hot = np.eye(10, dtype=np.float32)[labels]
    rate = np.float32(0.05 / batch_size)
    began = time.perf_counter()
    for k in range(num_events):
        i = a[k]
        if kinds[k]:
            j = b[k]
            middle = weights[i] + weights[j]
            middle *= 0.5
            weights[i] = middle
            weights[j] = middle
            low = (bias[i] + bias[j]) * np.float32(0.5)
            bias[i] = low
            bias[j] = low
            continue
        x = inputs[batches[k]]
        logits = x @ read_w[i]
        logits += read_b[i]
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        logits -= one_hot[batches[k]]
        logits *= rate
        weights[i] -= x.T @ logits
        bias[i] -= logits.sum(axis=0)
        read_w[i] = weights[i]
        read_b[i] = bias[i]
    return num_events / (time.perf_counter() - began)


def main() -> None:
    print(machine())
    for batch_size in BATCHES:
        loop = max(in_numpy(batch_size) for _ in range(3))
        waves = in_waves(batch_size)
        loop = max(loop, in_numpy(batch_size))
        verdict = "ok" if waves >= REQUIRED * loop else f"below {REQUIRED:g}"
        rates = f"waves {waves:10,.0f} events/s, NumPy loop {loop:8,.0f}, {waves / loop:.1f} times"
        print(f"batch {batch_size:3d}: {rates}  {verdict}")


if __name__ == "__main__":
    main()
