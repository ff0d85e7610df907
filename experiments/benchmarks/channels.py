"""What does each channel cost, beside a round of D-SGD and beside a copy of what it works on?

Command: `python experiments/benchmarks/channels.py` (about two minutes on 2 cores; `--quick` for fewer turns,
`--processor` for processor time, on a machine that others load).

A thousand nodes with softmax regression on Fashion-MNIST (7,850 numbers a node, 31 MB in all), 60 examples a node, batch 32,
random 4-regular graph.  Each channel passes the messages of all nodes, in a compiled loop whose messages change from one
passing to the next; the loop without a channel is taken off.  Beside it, in the same turns: a round of D-SGD, and a copy of
the messages.  Required: at most 30 % of the round, or four copies, whichever is larger.

Then selection alone, at 1,000 rows of 8,000 numbers, k = 80: by threshold, as `top_k` does it, against `jax.lax.top_k` and a
scatter.  Required: 8 times.

Measured 2026-11-30, a machine of 2 cores to itself, jax 0.10.2, `--quick`; milliseconds of the clock.  In the first run a
round took 69 and a channel may take 20.6, in the second 57 and 17.0:

    channel                      first, second            channel                      first, second
    loss                           0.8    0.3             log_quantize                  14.9   10.2
    min_max(8)                     4.0    2.8             gaussian_noise                17.3   11.4
    integers(8)                    4.8    3.0             dp_gaussian                   17.7   17.2
    sign                           5.6    3.2             quantize(4, max)              19.3    6.7
    low_rank(1)                    6.1    3.2             low_rank(4)                   26.4   15.8
    quantize(8)                    6.8    3.9             rqm                           23.0   20.3  too dear
    e3m0                           8.0    5.0             poisson_binomial              26.5   23.4  too dear
    quantize(4), Elias             8.5    5.0             kmeans(3)                     35.5   32.2  too dear
    integers(4), stochastic        8.6    4.6             fedzip(0.8)                   66.9   49.7  too dear
    random_sparsification(0.1)    10.2    5.7

Since then rqm and poisson_binomial count in integers: 25.5 and 33 ms of processor time where they took 36 and 38 in the
same minutes, beside six other programs.

top_k had computed a prefix sum for all rows that was meant for rows of zeros alone (XLA moved it out of its loop): 69 ms
in the first run, 11.2 in the second for top_k(0.01), 22 to 24 with error feedback.  Then thresholds of long rows came to be
looked for between ends that a part of the row says, and guesses to be finished by the two numbers next to them: in a loop by
itself top_k(0.1) 20 ms (25 to 33 before), random_k 18.5 (28 to 40 before), of which the loop itself is 2 to 3.

Selection alone, 1,000 rows of 8,000, k = 80: 11 to 15 ms, `lax.top_k` and a scatter 70 to 88: 5.2 times (5.1 to 6.6);
required 8.  In a loop, where no memory is taken anew each turn, 8 ms.  Its parts: the three largest of each group 2.5 ms, the
search among them 6, the count that decides which rows are done 1, those that are not and the result 2.

Since then, 2026-12-01, a machine that others loaded, processor time of both cores (`--processor`), before and after
one after the other within minutes; a round takes 61 to 75 ms of it:

    channel                       before  after           channel                       before  after
    kmeans(3)                       85     33             top_k(0.1)                      57     39
    fedzip(0.8)                    136     68             ef21(top_k(0.01))               46     38
    random_k(0.01)                  47     44             top_k(0.01), error feedback     46     45
    random_k(0.1)                   46     40             top_k(0.01)                     26     25
    quantize(4), Elias              14     12

XLA gives sums of floats to a library and first writes out all that is added up: a masked sum of a message took 7 to 9 ms and
takes 1.5 as `channels.rows` does it; the largest integer of each row took 9 and takes 2.5.  Two counts of k-means come of one
pass.  Selection by itself, jitted: 36 ms for 47 (7,840 numbers, k = 785), 17.5 for 21.5 (random integers), 38.5 for 45 (k a
number a row); 20 as before for k = 80 of 8,000, against 56 of `lax.top_k` and a scatter, of which 6 are the result's memory.

Channels mapped over blocks of 50 to 500 rows, so that what is in between stays in the cache, were slower, all that were
tried: random_k(0.1) 66 to 76 ms of processor time for 47, top_k(0.1) 60 to 74 for 56, fedzip 127 for 82, kmeans 91 for 79,
low_rank(4) 35 for 23, poisson_binomial 41 for 38, rqm 39 for 29.  Passes are bound by what they compute, not by memory.
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
import optax
from timing import machine, median, paired_ratio, take_turns

import dlsim
from dlsim import networks
from dlsim.channels.selection import largest
from dlsim.core import Channel, Packet, Route

NUM_NODES, BATCH, PER_NODE, ROUNDS = 1000, 32, 60, 4
SHARE, COPIES, TIMES = 0.3, 4.0, 8.0  # required
# A line a channel.
CHANNELS: dict[str, Callable[[], Channel]] = {
    "top_k(0.01)": lambda: networks.top_k(0.01),
    "top_k(0.1)": lambda: networks.top_k(0.1),
    "top_k(0.01), error feedback": lambda: networks.top_k(0.01, error_feedback=True),
    "ef21(top_k(0.01))": lambda: networks.ef21(networks.top_k(0.01)),
    "random_k(0.01)": lambda: networks.random_k(0.01),
    "random_k(0.1)": lambda: networks.random_k(0.1),
    "random_sparsification(0.1)": lambda: networks.random_sparsification(0.1),
    "quantize(8)": lambda: networks.quantize(8),
    "quantize(4, max)": lambda: networks.quantize(4, norm="max"),
    "sign": networks.sign,
    "integers(8)": lambda: networks.integers(8),
    "integers(4), stochastic": lambda: networks.integers(4, rounding="stochastic"),
    "min_max(8)": lambda: networks.min_max(8),
    "e3m0": networks.e3m0,
    "log_quantize": networks.log_quantize,
    "quantize(4), Elias": lambda: networks.quantize(4, code="elias"),
    "kmeans(3)": networks.kmeans,
    "fedzip(0.8)": networks.fedzip,
    "dp_gaussian": lambda: networks.dp_gaussian(clip=1.0, noise_multiplier=0.5),
    "rqm": lambda: networks.rqm(clip=1.0, extension=1.0),
    "poisson_binomial": lambda: networks.poisson_binomial(clip=1.0, theta=0.25),
    "low_rank(1)": lambda: networks.low_rank(1),
    "low_rank(4)": lambda: networks.low_rank(4),
    "gaussian_noise": lambda: networks.gaussian_noise(0.1),
    "loss": lambda: networks.loss(0.1),
}


def d_sgd() -> Callable[[], Any]:
    """`ROUNDS` rounds of the process that `simulate` runs."""
    data = dlsim.problems.load("fashion_mnist")
    rows = np.random.default_rng(0).permutation(len(data.inputs))[: PER_NODE * NUM_NODES]
    data = data._replace(inputs=data.inputs[rows], labels=data.labels[rows], columns={})
    held = dlsim.problems.partition(data, NUM_NODES, dlsim.problems.iid())
    problem = dlsim.problems.supervised("softmax", data, held, batch_size=BATCH, num_test=100)
    network = networks.random_regular(NUM_NODES, degree=4, seed=0)
    process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.05)), network)
    key = jax.random.key(0)

    @partial(jax.jit, donate_argnums=0)
    def rounds(state: Any) -> Any:
        return jax.lax.fori_loop(0, ROUNDS, lambda t, state: process.step(jax.random.fold_in(key, t), state)[0], state)

    held_state = {"state": jax.jit(process.init)(key)}

    def turn() -> Any:
        held_state["state"] = rounds(held_state["state"])
        return held_state["state"]

    return turn


def passing(channel: Channel | None, message: Any) -> Callable[[], Any]:
    """`ROUNDS` messages one after the other, each made of the last and of what was heard of it."""
    ids, key = jnp.arange(NUM_NODES), jax.random.key(1)
    size, words = dlsim.trees.num_entries(message), jnp.ones(NUM_NODES, jnp.uint32)
    route = Route(node_ids=ids, senders=ids, receivers=(ids + 1) % NUM_NODES)

    def once(t: Any, carry: Any) -> Any:
        values, state, bits = carry
        heard = values
        if channel is not None:
            packet = Packet(values, size * words, 32 * words, 0 * words)
            state, packet = channel.send(jax.random.fold_in(key, t), state, packet, route)
            heard, bits = packet.values, bits + packet.num_entries
            bits = bits if packet.delivered is None else bits + packet.delivered
        return jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, values, heard), state, bits

    run = jax.jit(lambda carry: jax.lax.fori_loop(0, ROUNDS, once, carry), donate_argnums=0)
    held = {
        "carry": (
            jax.tree.map(jnp.copy, message),
            () if channel is None else channel.init(message, NUM_NODES),
            0 * words,
        )
    }

    def turn() -> Any:
        held["carry"] = run(held["carry"])
        return held["carry"]

    return turn


def by_sorting(values: jax.Array, k: int) -> jax.Array:
    places = jax.lax.top_k(jnp.abs(values), k)[1]
    return jax.vmap(lambda row, at: jnp.zeros_like(row).at[at].set(row[at], unique_indices=True))(values, places)


def selection(turns: int, clock: Callable[[], float]) -> bool:
    """Whether selection by threshold is as many times faster as required."""
    values, k = jax.random.normal(jax.random.key(0), (1000, 8000)), 80
    forms = {
        "threshold": jax.jit(lambda x: jnp.where(largest(x, k), x, 0)),
        "lax.top_k": jax.jit(lambda x: by_sorting(x, k)),
        "copy": jax.jit(lambda x: x + 1),
    }
    np.testing.assert_array_equal(forms["threshold"](values), forms["lax.top_k"](values))
    seconds = take_turns({name: partial(form, values) for name, form in forms.items()}, turns, clock)
    ratio, low, high = paired_ratio(seconds["lax.top_k"], seconds["threshold"])
    each = ", ".join(f"{name} {1e3 * median(taken):.1f} ms" for name, taken in seconds.items())
    print(f"[1000, 8000], k=80: {each}; {ratio:.1f} times faster ({low:.1f} to {high:.1f}), required {TIMES:g}")
    return ratio >= TIMES


def main() -> int:
    turns = 3 if "--quick" in sys.argv else 7
    clock = time.process_time if "--processor" in sys.argv else time.perf_counter
    print(machine())
    is_fast = selection(turns, clock)
    key = jax.random.key(2)
    message = {
        "bias": jax.random.normal(key, (NUM_NODES, 10)),
        "kernel": jax.random.normal(key, (NUM_NODES, 10, 784)),
    }
    copy = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))
    variants = {"round": d_sgd(), "copy": lambda: copy(message), "nothing": passing(None, message)}
    variants.update({name: passing(make(), message) for name, make in CHANNELS.items()})
    seconds = take_turns(variants, turns, clock)
    a_round, a_copy = median(seconds["round"]) / ROUNDS, median(seconds["copy"])
    allowed = max(SHARE * a_round, COPIES * a_copy)
    print(f"a round {1e3 * a_round:.1f} ms, a copy {1e3 * a_copy:.1f} ms: a channel may take {1e3 * allowed:.1f} ms")
    for name in CHANNELS:
        over = (np.asarray(seconds[name]) - np.asarray(seconds["nothing"])) / ROUNDS
        cost = float(np.median(over))
        verdict = "ok" if cost <= allowed else "too dear"
        print(
            f"  {name:28s} {1e3 * cost:7.1f} ms, {cost / a_round:5.0%} of a round, {cost / a_copy:4.1f} copies: {verdict}"
        )
        is_fast &= cost <= allowed
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
