"""How fast are tapes made, cut into waves and played, against one event at a time?

Command: `python experiments/benchmarks/waves.py` (about one minute on 2 cores).

Random 4-regular graphs, one Poisson clock an edge, pairwise averaging of D numbers a node.  The same events by
  waves          `play` of blocks of the width that `pack` chooses
  scan           a `lax.scan` over events, two rows read and two written: XLA copies the [N, D] array at every event
  scan, in place the same written so that XLA does not: both rows in one gather and one scatter
The scans play the first events of the tape only, and all three take turns in one process.  Making the tape, cutting it
and packing it are done once before a run, on the host, and timed apart.

Measured 2026-11-23, 2 cores (x86_64, no accelerator, load average 3 from other work: rates vary by a third between
runs), jax 0.10.2, medians of 7 turns, events/s:

| N      | D     | waves   | scan   | scan, in place | waves over scan; in place | mean width (bound) | tape, waves, blocks |
|--------|-------|---------|--------|----------------|---------------------------|--------------------|---------------------|
| 1000   | 100   | 29.6 M  | 33,791 | 4.6 M          | 877; 6.4                  | 164 (439)          | 4.0, 7.2, 22 M      |
| 10,000 | 100   | 10.0 M  | 3,322  | 0.35 M         | 2996; 28                  | 1581 (3508)        | 3.1, 7.7, 26 M      |
| 1000   | 7850  | 84,287  | 144    | 37,926         | 584; 2.2                  | 163 (409)          | 3.7, 7.7, 27 M      |

The bound is events over events at the busiest node.  The bits were the same.  Most of what waves gain over the plain
scan is that the nodes are not copied; over a scan in place they gain from doing a block's work in vectors, of which
little is left once rows are so long (31 KB) that moving them is most of the work.  In separate trials at N=1000, D=100,
widths of 32, 64, 128 and 192 reached 19 to 28, 20 to 30, 19 to 27 and 22 to 31 M events/s: the choice matters little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, machine, median, take_turns

from dlsim import clocks, networks

# N, D, seconds of tape, events of the scans, events a second required of waves, times the scan required
CASES = (
    (1000, 100, 200.0, 4000, 10e6, 200.0),
    (10_000, 100, 20.0, 1000, 4e6, 0.0),
    (1000, 7850, 50.0, 200, 50e3, 0.0),
)
REQUIRED_WAVES = 1e6  # events a second cut into waves


def average(events: clocks.Events, a: Any, b: Any) -> Any:
    del events
    middle = (a + b) * 0.5
    return middle, middle


@partial(jax.jit, donate_argnums=0)
def by_waves(x: jax.Array, blocks: clocks.Blocks) -> jax.Array:
    return clocks.play(x, blocks, average)


@partial(jax.jit, donate_argnums=0)
def by_scan(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    def body(x: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        i, j = pair
        middle = (x[i] + x[j]) * 0.5
        return x.at[i].set(middle).at[j].set(middle), None

    return jax.lax.scan(body, x, (a, b))[0]


@partial(jax.jit, donate_argnums=0)
def by_scan_in_place(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    def body(x: jax.Array, pair: jax.Array) -> tuple[jax.Array, None]:
        rows = x.at[pair].get(mode="promise_in_bounds")
        middle = jnp.broadcast_to((rows[0] + rows[1]) * 0.5, rows.shape)
        return x.at[pair].set(middle, mode="promise_in_bounds", unique_indices=True), None

    return jax.lax.scan(body, x, jnp.stack([a, b], axis=1))[0]


def on_host(what: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
    """The result, and the least seconds of a call after one to warm up."""
    result, seconds = what(), []
    for _ in range(repeats):
        began = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - began)
    return result, min(seconds)


def player(program: Callable[..., jax.Array], x: np.ndarray, *arguments: Any) -> Callable[[], jax.Array]:
    """Calls that go on from where the last one ended, as a run does, so that the nodes are never copied."""
    state = [jnp.array(x)]

    def call() -> jax.Array:
        state[0] = program(state[0], *arguments)
        return state[0]

    return call


def measure(num_nodes: int, dimension: int, horizon: float, num_scanned: int, required: float, times: float) -> bool:
    network = networks.random_regular(num_nodes, degree=4, seed=0)
    rate, key = clocks.poisson(1.0), jax.random.key(0)
    tape, tape_seconds = on_host(lambda: clocks.make_tape(network, None, rate, key, horizon))
    waves, waves_seconds = on_host(lambda: clocks.make_waves(tape))
    blocks, pack_seconds = on_host(lambda: clocks.pack(waves, tape))
    length = len(tape)
    print(f"N={num_nodes} D={dimension}: {clocks.wave_summary(waves)}")
    print(f"  {blocks.num_blocks} blocks of {blocks.width}, {length / blocks.a.size:.0%} full; on the host, events/s:")
    rates = [f"{length / value / 1e6:.1f} M" for value in (tape_seconds, waves_seconds, pack_seconds)]
    print(f"  tape {rates[0]}, waves {rates[1]}, blocks {rates[2]}")
    x = np.random.default_rng(0).standard_normal((num_nodes, dimension)).astype(np.float32)
    a, b = (jnp.asarray(side[:num_scanned]) for side in (tape.a, tape.b))
    on_device = jax.tree.map(jnp.asarray, blocks)
    variants = {
        "waves": player(by_waves, x, on_device),
        "scan": player(by_scan, x, a, b),
        "scan, in place": player(by_scan_in_place, x, a, b),
    }
    seconds = take_turns(variants)
    counts = {"waves": length, "scan": num_scanned, "scan, in place": num_scanned}
    speed = {name: counts[name] / median(seconds[name]) for name in variants}
    for name in variants:
        ratio = speed["waves"] / speed[name]
        top = counts[name] / best(seconds[name])
        print(f"  {name:15s} {speed[name]:14,.0f} events/s (best {top:14,.0f})   waves are {ratio:7.1f} times as fast")
    same = clocks.pack(clocks.make_waves(first := head(tape, num_scanned)), first)
    equal = np.array_equal(by_waves(jnp.array(x), same), by_scan(jnp.array(x), a, b))
    print(f"  the bits of the first {num_scanned} events are {'the same' if equal else 'NOT the same'}")
    is_fast = speed["waves"] >= required and speed["waves"] >= times * speed["scan"]
    return equal and is_fast and length / waves_seconds >= REQUIRED_WAVES


def head(tape: clocks.Tape, length: int) -> clocks.Tape:
    """The first events of a tape."""
    return clocks.tape(tape.num_nodes, tape.kind[:length], tape.a[:length], tape.b[:length], tape.ticks[:length])


def main() -> int:
    print(machine())
    passed = [measure(*case) for case in CASES]  # all of them, whatever the first says
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
