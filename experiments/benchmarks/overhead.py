"""What does the framework cost over a hand-written scan of the same mathematics?

Command: `python experiments/benchmarks/overhead.py` (about four minutes on 2 cores).

Fashion-MNIST, 60 examples a node (i.i.d.), batch 32, D-SGD (adapt-then-combine) on a random 4-regular graph; softmax
regression (7,850 parameters) and MLP 784-128-10 (101,770), N=100 and 1000.  The hand-written loop is a `lax.scan` whose
body draws a batch, takes gradients under vmap, steps, and adds up five weighted rows: no status, no traffic, no clock,
no channel.  Both run the same number of rounds from compiled programs, in turns; the table gives the ratio of the times
of one turn.  Then what bounds a round: the machine's matrix-product rate and its copy rate, measured here.

Measured 2026-11-23, 2 cores (x86_64, no accelerator, a shared machine: rates vary by a third between runs), jax 0.10.2,
11 turns, two runs half an hour apart; node-updates/s of `simulate`, median, and its time over the hand-written scan's:

| model   | N    | node-updates/s  | ratio (least to greatest), run 1 | run 2               | by hand, no blocks |
|---------|------|-----------------|----------------------------------|---------------------|--------------------|
| softmax | 100  | 37,222; 25,676  | 1.014 (0.80 to 1.07)             | 1.079 (1.01 to 1.37)| 27,375; 17,708     |
| softmax | 1000 | 29,715; 21,532  | 0.967 (0.66 to 1.41)             | 1.010 (0.71 to 1.17)| 23,350; 17,558     |
| MLP     | 100  | 4,316; 3,323    | 1.048 (1.00 to 1.90)             | 0.931 (0.79 to 1.16)| 3,704; 2,746       |
| MLP     | 1000 | 3,847; 3,165    | 1.024 (0.94 to 1.34)             | 1.038 (0.94 to 1.11)| 2,369; 1,913       |

Softmax at N=100 was tried again with 31 turns, twice: 0.990 and 1.005.

What bounds it: 13 MFLOP a node-update of the MLP make 53 GFLOP/s at N=1000, a quarter of the 212 GFLOP/s that a
1024^3 matrix product reached in the same run; without mixing the local step alone reached 7,200 node-updates/s, 96
GFLOP/s.  The rest is memory: mixing reads five rows and writes one of 0.4 MB a node, and the loop copies the result
back once.  For softmax regression a node-update is 1 MFLOP on 25 KB of pixels and 31 KB of parameters: it is bound by
moving and converting them, not by products.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import best, machine, median, paired_ratio, take_turns

import dlsim
from dlsim.problems.blocks import map_nodes
from dlsim.problems.sampling import batch_positions
from dlsim.running.programs import compile_process

BATCH, RATE, PER_NODE = 32, 0.05, 60


def setting(model: str, num_nodes: int) -> tuple[Any, ...]:
    data = dlsim.problems.load("fashion_mnist")
    rows = np.random.default_rng(0).permutation(len(data.inputs))[: PER_NODE * num_nodes]
    data = data._replace(inputs=data.inputs[rows], labels=data.labels[rows], columns={})
    spec = dlsim.problems.mlp(hidden=(128,)) if model == "mlp" else model
    held = dlsim.problems.partition(data, num_nodes, dlsim.problems.iid())
    problem = dlsim.problems.supervised(spec, data, held, batch_size=BATCH, num_test=100)
    return problem, data, held, dlsim.networks.random_regular(num_nodes, degree=4, seed=0)


def forward(params: Any, inputs: jax.Array) -> jax.Array:
    layers = [params[name] for name in sorted(params)]
    for layer in layers[:-1]:
        inputs = jax.nn.relu(inputs @ layer["kernel"].T + layer["bias"])
    return inputs @ layers[-1]["kernel"].T + layers[-1]["bias"]


def hand_written(data: Any, held: Any, network: Any, rounds: int, block: Any) -> Any:
    """The loop a careful person writes without a library, with its arrays as arguments; `block` nodes at a time."""
    arrays = {
        "inputs": jnp.asarray(data.inputs),
        "labels": jnp.asarray(data.labels),
        "indices": jnp.asarray(held.indices),
        "offsets": jnp.asarray(held.offsets),
        "sizes": jnp.asarray(held.sizes),
        "neighbors": network.neighbors,
        "weights": network.neighbor_weights,
        "own": network.self_weights,
    }
    ids = network.node_ids

    def loss(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        logits = forward(params, inputs)
        hot = jax.nn.one_hot(labels, logits.shape[-1])
        return -jnp.mean(jnp.sum(hot * jax.nn.log_softmax(logits), axis=-1))

    def adapt(arrays: Any, key: jax.Array, ids: jax.Array, params: Any) -> Any:
        places = batch_positions(key, ids, arrays["sizes"][ids], BATCH, "without_replacement")
        rows = arrays["indices"].at[arrays["offsets"][ids][:, None] + places].get(mode="promise_in_bounds")
        raw = arrays["inputs"].at[rows].get(mode="promise_in_bounds")
        inputs = (raw.astype(jnp.float32) - data.offset) * data.scale
        inputs = inputs.reshape(*inputs.shape[:2], -1)
        labels = arrays["labels"].at[rows].get(mode="promise_in_bounds")
        gradients = jax.vmap(jax.grad(loss))(params, inputs, labels)
        return jax.tree.map(lambda x, g: x - RATE * g, params, gradients)

    def mix(arrays: Any, leaf: jax.Array) -> jax.Array:
        shape = (-1,) + (1,) * (leaf.ndim - 1)
        total = arrays["own"].reshape(shape) * leaf
        for k in range(arrays["neighbors"].shape[1]):
            row = leaf.at[arrays["neighbors"][:, k]].get(mode="promise_in_bounds")
            total = total + arrays["weights"][:, k].reshape(shape) * row
        return total

    @partial(jax.jit, donate_argnums=(2,))
    def run(arrays: Any, key: jax.Array, params: Any) -> Any:
        def body(params: Any, t: jax.Array) -> tuple[Any, None]:
            round_key = jax.random.fold_in(key, t)
            params = map_nodes(lambda params, ids: adapt(arrays, round_key, ids, params), block)(params, ids)
            return jax.tree.map(partial(mix, arrays), params), None

        return jax.lax.scan(body, params, jnp.arange(rounds))[0]

    return lambda key, params: run(arrays, key, params)


def compare(model: str, num_nodes: int, rounds: int, turns: int) -> None:
    problem, data, held, network = setting(model, num_nodes)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(RATE))
    process = dlsim.learn(problem, algorithm, network)
    key = jax.random.key(0)
    programs = compile_process(process, key, lambda state, info: {"loss": jnp.mean(info["loss"])})
    loops = {"hand": problem.node_block, "hand, no blocks": None}
    by_hand = {name: hand_written(data, held, network, rounds, block) for name, block in loops.items()}
    held_states = {"simulate": programs.start()}
    for name in loops:
        held_states[name] = jax.tree.map(jnp.copy, held_states["simulate"].state.algorithm.params)

    def simulate_turn() -> Any:
        held_states["simulate"], _ = programs.advance(held_states["simulate"], 1, rounds)
        return held_states["simulate"].step

    def hand_turn(name: str) -> Any:
        held_states[name] = by_hand[name](key, held_states[name])
        return jax.tree.leaves(held_states[name])[0]

    turns_of = {"simulate": simulate_turn, **{name: partial(hand_turn, name) for name in loops}}
    seconds = take_turns(turns_of, rounds=turns)
    ratio, low, high = paired_ratio(seconds["simulate"], seconds["hand"])
    print(f"{model} N={num_nodes}: simulate takes {ratio:.3f} of the hand-written scan ({low:.3f} to {high:.3f})")
    for name, values in seconds.items():
        rates = [num_nodes * rounds / statistic(values) for statistic in (median, best)]
        print(f"    {name:16s} {rates[0]:9.0f} node-updates/s (best {rates[1]:.0f})")


def bounds() -> None:
    """The machine's own rates."""
    a = jax.random.normal(jax.random.key(0), (1024, 1024))
    x = jax.random.normal(jax.random.key(0), (2**25,))
    product, copy = jax.jit(lambda a: a @ a), jax.jit(jnp.copy)
    seconds = take_turns({"product": lambda: product(a), "copy": lambda: copy(x)}, rounds=15)
    print(
        f"matrix product {2 * 1024**3 / best(seconds['product']) / 1e9:.0f} GFLOP/s, "
        f"copy {2 * x.nbytes / best(seconds['copy']) / 1e9:.1f} GB/s (read + write)"
    )


if __name__ == "__main__":
    print(machine())
    bounds()
    quick = "--quick" in sys.argv
    cases = (("softmax", 100, 200), ("softmax", 1000, 20), ("mlp", 100, 20), ("mlp", 1000, 3))
    for model, num_nodes, rounds in cases:
        compare(model, num_nodes, max(1, rounds // 5) if quick else rounds, turns=5 if quick else 11)
