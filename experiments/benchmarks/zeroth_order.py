"""What does a round of SPSA with shared randomness cost, against its forward passes and the numbers that it draws?

Command: `python experiments/benchmarks/zeroth_order.py` (two minutes on 2 cores; Fashion-MNIST).

N nodes, S directions each, n = N S; D parameters, batches of B.  Side by side in one process, in turns:
  round     `dlsim.algorithms.spsa`, one copy of the model for all, complete network, numbers of a byte
  passes    2 n losses of perturbed models, the directions given: nothing is drawn
  draws     n D normal numbers, each direction once, summed up so that none is kept
  backprop  a round of D-SGD, one gradient a node
Counted in the program: normal numbers drawn, over n D (each direction is drawn to be measured along, and again to be
applied: 2), and multiplications of matrix products, over those of n losses (2).

MEASURED
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import best, machine, paired_ratio, take_turns

import dlsim
from dlsim import algorithms, keys, networks
from dlsim.problems.zeroth_order import directions, seed_of

# model, N, S
CASES = (("softmax", 8, 4), ("mlp", 8, 4), ("softmax", 1000, 1))
BATCH = 32
MOST = 1.5  # times passes and two draws that a round may take


def counted(fn: Any, *arguments: Any) -> dict[str, int]:
    """Normal numbers, and multiplications of matrix products, in all trips of the loops of a program."""
    found = {"numbers": 0, "products": 0}

    def walk(jaxpr: Any, trips: int) -> None:
        for equation in jaxpr.eqns:
            name, out = equation.primitive.name, equation.outvars[0].aval if equation.outvars else None
            if name == "erf_inv":
                found["numbers"] += trips * out.size
            if name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                found["products"] += (
                    trips * out.size * int(np.prod([equation.invars[0].aval.shape[axis] for axis in contracted]))
                )
            times = trips * equation.params["length"] if name == "scan" else trips
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    walk(inner, times)

    walk(jax.make_jaxpr(fn)(*arguments).jaxpr, 1)
    return found


def measure(model: str, num_nodes: int, num_directions: int) -> bool:
    data = dlsim.problems.load("fashion_mnist")
    parts = dlsim.problems.partition(data, num_nodes, dlsim.problems.iid(), seed=0)
    problem = dlsim.problems.supervised(model, data, parts, batch_size=BATCH)
    network, key = networks.complete(num_nodes).with_channel(networks.log_quantize()), jax.random.key(0)
    method = algorithms.spsa(problem, optax.sgd(0.01), num_directions=num_directions)
    one, ids = problem.init(key), jnp.arange(num_nodes)
    rows = jax.tree.map(lambda leaf: leaf[None], one)
    size = sum(leaf.size for leaf in jax.tree.leaves(one))
    given = directions(seed_of(key), ids, 0, rows, "normal")

    def passes(key: jax.Array, z: Any) -> jax.Array:
        def of_block(ids: jax.Array, z: Any) -> jax.Array:
            def sample(s: jax.Array) -> jax.Array:
                batch = problem.sample(keys.fold_in(key, s), ids)

                def losses(side: jax.Array) -> jax.Array:
                    return jax.vmap(problem.loss)(jax.tree.map(lambda x, z: x + side * z, rows, z), batch)

                return jax.lax.map(losses, jnp.asarray([1e-3, -1e-3]))

            return jnp.moveaxis(jax.lax.map(sample, jnp.arange(num_directions)), -1, 0)

        return dlsim.problems.map_nodes(of_block, problem.node_block)(ids, z)

    def draws(seed: jax.Array) -> Any:
        def add(total: Any, place: jax.Array) -> tuple[Any, None]:
            node, sample = ids[place // num_directions], place % num_directions
            return jax.tree.map(jnp.add, total, directions(seed, node[None], sample, rows, "normal")), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, rows), jnp.arange(num_nodes * num_directions))[0]

    def round_of(algorithm: Any) -> tuple[Any, Any]:
        process = dlsim.learn(problem, algorithm, network)
        step, state = jax.jit(process.step), jax.jit(process.init)(key)
        return lambda: step(key, state), counted(process.step, key, state)

    call, found = round_of(method)
    backprop, _ = round_of(algorithms.dsgd(problem, optax.sgd(0.01)))
    forward = counted(
        jax.vmap(problem.loss), jax.tree.map(lambda leaf: jnp.stack([leaf] * num_nodes), one), problem.sample(key, ids)
    )
    run_passes, run_draws, seed = jax.jit(passes), jax.jit(draws), seed_of(key)
    variants = {"round": call, "passes": lambda: run_passes(key, given), "draws": lambda: run_draws(seed)}
    seconds = take_turns({**variants, "backprop": backprop}, rounds=9)
    parts_ = [p + 2 * d for p, d in zip(seconds["passes"], seconds["draws"], strict=True)]
    ratio, least, greatest = paired_ratio(seconds["round"], parts_)
    numbers = found["numbers"] / (num_nodes * num_directions * size)
    products = found["products"] / (num_directions * forward["products"])
    times = ", ".join(f"{name} {1e3 * best(values):.1f}" for name, values in seconds.items())
    print(f"{model} N={num_nodes} S={num_directions} D={size}: ms {times}")
    print(f"  round over passes and two draws {ratio:.2f} ({least:.2f} to {greatest:.2f}), of the best times", end=" ")
    print(f"{best(seconds['round']) / (best(seconds['passes']) + 2 * best(seconds['draws'])):.2f}")
    print(f"  numbers over n D: {numbers:g}; products over those of n losses: {products:g}", flush=True)
    return numbers == 2 and products == 2 and ratio <= MOST


def main() -> int:
    print(machine())
    passed = [measure(*case) for case in CASES]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
