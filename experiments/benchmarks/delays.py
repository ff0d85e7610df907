"""What do messages under way cost a gossip product, and pairs that meet by clocks, against a copy of what is in flight?

Command: `python experiments/benchmarks/delays.py`

1,000 nodes with 7,850 parameters each (softmax on 784 features and 10 classes), random 4-regular graph: products without
delays and with them, in one program of 10 rounds each, in turns; and in the same turns a copy of what is in flight, that is
of (max_rounds + 1) x N x D numbers, to other memory and in place.  The promise is that delays cost a round at most that copy.

Measured 2026-11-30, 2 cores (x86_64) shared with much other work (load 19: look at differences of one turn, and at the best),
jax 0.10.2.  Median ms a round (best) of 7 turns of 10 rounds:

| delay                       | a round    | more than none | copy of what is in flight | in place  |
|-----------------------------|------------|----------------|---------------------------|-----------|
| none                        | 65 (61)    |                |                           |           |
| 1 for all                   | 70 (60)    | 6 (-2)         | 139 (115)                 | 38 (19)   |
| 4 for all                   | 73 (60)    | -2 (-1)        | 395 (316)                 | 80 (55)   |
| 0 to 4, one a link          | 75 (64)    | 11 (2)         | 395 (316)                 | 80 (55)   |
| geometric to 4              | 74 (55)    | 7 (-6)         | 395 (316)                 | 80 (55)   |
| geometric to 4, hear="all"  | 285 (231)  | 214 (170)      | 395 (316)                 | 80 (55)   |

To hear the newest costs next to nothing beside the product: one message a link is read, wherever it lies.  To hear all that
arrives where delays vary takes max_rounds + 1 products, as any number of messages may arrive at once: less than the copy,
more than a pass in place.

Methods by clocks (`--clocks` for these alone): the same nodes average what they hold in pairs (`randomized_gossip`), 4
simulated seconds, 3,954 messages, each of which lies in a slot of its own until it is heard.  In the same turns a copy of
those messages to other memory, and a pass over them in place.  Measured 2026-12-01, 2 cores shared with much other work,
jax 0.10.2, median ms of processor time of 7 turns:

| delay                  | 4 s | more than none | of the copy (60) | of the pass in place (11) |
|------------------------|-----|----------------|------------------|---------------------------|
| none                   | 30  |                |                  |                           |
| 0.5 s for all          | 79  | 46             | 0.70             | 4.2                       |
| 0.1 to 1 s, one a link | 72  | 41             | 0.68             | 3.7                       |
| log-normal, 0.3 s      | 74  | 41             | 0.62             | 3.7                       |

A meeting without delays is one event, with them four, two of which write a message to its slot and two of which read one.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, machine, median, take_turns

import dlsim
from dlsim import networks
from dlsim.networks.messages import open_channels
from dlsim.running.counters import to_float

NUM_NODES, WIDTH, ROUNDS, TURNS = 1000, 7850, 10, 7
WINDOWS = 4  # simulated seconds, of methods by clocks


def variants(num_edges: int) -> dict[str, tuple[networks.Delays | None, str]]:
    each = np.random.default_rng(0).integers(0, 5, num_edges)
    return {
        "none": (None, "newest"),
        "1 for all": (networks.fixed_delay(1), "newest"),
        "4 for all": (networks.fixed_delay(4), "newest"),
        "0 to 4, one a link": (networks.fixed_delay(each, per="link", max_rounds=4), "newest"),
        "geometric to 4": (networks.geometric_delay(1.0, 4), "newest"),
        "geometric to 4, all": (networks.geometric_delay(1.0, 4), "all"),
    }


def program(delays: networks.Delays | None, hear: str) -> tuple[Any, Any]:
    """`(carry) -> carry` after some rounds, in place, and the first carry."""
    network = networks.random_regular(NUM_NODES, degree=4, seed=0)
    network = network if delays is None else network.with_delays(delays)
    x = jax.random.normal(jax.random.key(0), (NUM_NODES, WIDTH))
    opened = open_channels(network, lambda probed: probed.mix(jax.random.key(0), x, hear=hear)[1])

    def one(t: Any, carry: Any) -> Any:
        x, state = carry
        x, after = network.with_state(state).mix(jax.random.fold_in(jax.random.key(1), t), x, hear=hear)
        return x, after.state

    rounds = jax.jit(lambda carry: jax.lax.fori_loop(0, ROUNDS, one, carry), donate_argnums=0)
    return rounds, jax.tree.map(jnp.array, (x, opened.state))


def seconds_variants(num_edges: int) -> dict[str, networks.Delays | None]:
    each = np.random.default_rng(0).uniform(0.1, 1.0, num_edges)
    return {
        "none": None,
        "0.5 s for all": networks.fixed_seconds(0.5),
        "0.1 to 1 s, one a link": networks.fixed_seconds(each, per="link"),
        "log-normal, 0.3 s": networks.log_normal_seconds(0.3, 0.8),
    }


def played(delays: networks.Delays | None) -> tuple[Any, Any, int]:
    """`(state) -> state` after some seconds of pairs that meet by clocks, in place, the first state, and how many messages
    there is room for."""
    network = networks.random_regular(NUM_NODES, degree=4, seed=0)
    network = network if delays is None else network.with_delays(delays)
    x = jax.random.normal(jax.random.key(0), (NUM_NODES, WIDTH))
    process = dlsim.average(x, network, dlsim.algorithms.randomized_gossip())
    key = jax.random.key(1)
    assert process.feed is not None
    part, until = process.feed.fill(key, 0)
    assert WINDOWS <= until, "fewer seconds are fed at a time than are timed"

    @partial(jax.jit, donate_argnums=0)
    def windows(state: Any) -> Any:
        state = state._replace(window=jnp.zeros_like(state.window))
        return jax.lax.fori_loop(0, WINDOWS, lambda t, s: process.step(jax.random.fold_in(key, t), s)[0], state)

    state = process.feed.put(process.init(key), jax.tree.map(jnp.asarray, part))
    slots = jax.tree.leaves(state.under_way)
    return windows, jax.tree.map(jnp.copy, state), slots[0].shape[0] if slots else 0


def by_clocks() -> None:
    chosen = seconds_variants(4 * NUM_NODES)
    made = {name: played(delays) for name, delays in chosen.items()}
    held = {name: state for name, (_, state, _) in made.items()}

    def turn(name: str) -> Any:
        held[name] = made[name][0](held[name])
        return held[name].nodes

    before = {name: float(to_float(held[name].network.traffic.messages).sum()) for name in chosen}
    after = {name: turn(name) and float(to_float(held[name].network.traffic.messages).sum()) for name in chosen}
    num_messages = int(after["none"] - before["none"])
    flown, touch = (
        {"in place": jnp.ones((num_messages, WIDTH))},
        jax.jit(lambda x: x + jnp.float32(1), donate_argnums=0),
    )

    def in_place() -> Any:
        flown["in place"] = touch(flown["in place"])
        return flown["in place"]

    copies = {"copy": partial(jax.jit(lambda x: x + jnp.float32(1)), jnp.copy(flown["in place"])), "in place": in_place}
    seconds = take_turns({**{name: partial(turn, name) for name in chosen}, **copies}, TURNS, clock=time.process_time)
    none, copied, passed = (np.array(seconds[name]) for name in ("none", "copy", "in place"))
    print(f"pairs that meet by clocks, {WINDOWS} s, {num_messages} messages; processor time")
    print(f"a copy of them {1e3 * np.median(copied):.0f} ms, a pass in place {1e3 * np.median(passed):.0f} ms")
    for name in chosen:
        each = np.array(seconds[name])
        more, copies_of = 1e3 * np.median(each - none), float(np.median((each - none) / copied))
        print(
            f"{name:>24}: {1e3 * np.median(each):6.0f} ms, {after[name] - before[name]:.0f} messages, room for "
            f"{made[name][2]}; more than none {more:.0f} ms, {copies_of:.2f} copies"
        )


def main() -> None:
    by_clocks()
    if "--clocks" in sys.argv:
        return
    chosen = variants(4 * NUM_NODES)
    made: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for name, (delays, hear) in chosen.items():
        made[name], held[name] = program(delays, hear)
    slots = {name: 0 if delays is None else delays.max_rounds + 1 for name, (delays, _) in chosen.items()}
    copy = jax.jit(lambda x: x + jnp.float32(1))
    touch = jax.jit(lambda x: x + jnp.float32(1), donate_argnums=0)

    def turn(name: str) -> Any:
        held[name] = made[name](held[name])
        return held[name][0]

    flying = {size: jnp.ones((NUM_NODES * size, WIDTH)) for size in sorted(set(slots.values()) - {0})}
    copies = {f"copy of {size}": partial(copy, jnp.array(x)) for size, x in flying.items()}

    def in_place(size: int) -> Any:
        flying[size] = touch(flying[size])
        return flying[size]

    copies |= {f"pass over {size}": partial(in_place, size) for size in flying}
    seconds = take_turns({**{name: partial(turn, name) for name in chosen}, **copies}, TURNS)
    print(machine())
    none = [1e3 * value / ROUNDS for value in seconds["none"]]
    for name, size in slots.items():
        each = [1e3 * value / ROUNDS for value in seconds[name]]
        line = f"{name:>20}: {median(each):6.1f} ms a round, best {best(each):.1f}"
        if size:
            copied = [1e3 * value for value in seconds[f"copy of {size}"]]
            more = median([a - b for a, b in zip(each, none, strict=True)])
            line += f"; more than none {more:.1f}, best {best(each) - best(none):.1f}"
            passed = [1e3 * value for value in seconds[f"pass over {size}"]]
            line += f"; copy of {size} x N x D: {median(copied):.1f}, best {best(copied):.1f}"
            line += f"; in place {median(passed):.1f}, best {best(passed):.1f}"
        print(line)


if __name__ == "__main__":
    main()
