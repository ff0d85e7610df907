"""The event rate: Poisson clocks on the links of a random 4-regular graph, whose two nodes average, in waves."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import clocks, networks

NUM_NODES, DIMENSION = 1000, 100


def event_rate(quick: bool) -> dict[str, float]:
    """Events a second on the device, and of making, cutting and packing the tape on the host; events a wave."""
    network = networks.random_regular(NUM_NODES, degree=4, seed=0)
    horizon = 50.0 if quick else 200.0
    began = time.perf_counter()
    tape = clocks.make_tape(network, None, clocks.poisson(1.0), jax.random.key(0), horizon)
    made = time.perf_counter()
    waves = clocks.make_waves(tape)
    blocks = clocks.pack(waves, tape)
    packed = time.perf_counter()
    on_device = jax.tree.map(jnp.asarray, blocks)

    def average(events: Any, a: Any, b: Any) -> Any:
        del events
        middle = (a + b) * 0.5
        return middle, middle

    program = jax.jit(lambda x, blocks: clocks.play(x, blocks, average), donate_argnums=0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((NUM_NODES, DIMENSION)), jnp.float32)
    x = jax.block_until_ready(program(x, on_device))
    times = []
    for _ in range(3 if quick else 9):
        mark = time.perf_counter()
        x = jax.block_until_ready(program(x, on_device))
        times.append(time.perf_counter() - mark)
    return {
        "num_nodes": NUM_NODES,
        "dimension": DIMENSION,
        "events": len(tape),
        "events_per_second": len(tape) / float(np.median(times)),
        "host_events_per_second": len(tape) / (packed - began),
        "tape_seconds": made - began,
        "events_a_wave": len(tape) / (len(waves.starts) - 1),
    }
