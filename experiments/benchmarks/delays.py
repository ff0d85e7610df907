"""What do messages under way cost a gossip product, against a copy of what is in flight?

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
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, machine, median, take_turns

from dlsim import networks
from dlsim.networks.messages import open_channels

NUM_NODES, WIDTH, ROUNDS, TURNS = 1000, 7850, 10, 7


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


def main() -> None:
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
