"""What does a round of each decentralised method cost, beside a round of D-SGD that sends as much?

Commands: `python experiments/benchmarks/methods.py` (N=1000; `--quick`: N=100, three minutes on 2 cores; beginnings of names:
these methods alone), and `... methods.py dimat` (is DIMAT's assignment as quick as the training of its round, 32 nodes?)

The standard workload (`dlsim.bench.workloads`): images of 784 pixels, softmax regression (7,850 parameters), one gradient of
32 examples a node and round, random 4-regular graph.  Beside each method stands a D-SGD of the same gradients and of
messages of the same size over as many links: on the same graph, or for methods that choose whom they speak to, on one of
that degree, and for methods of a few active nodes on a network of those few.  The promise is at most 1.15 times its round.

Methods of several gradients a round stand beside D-SGD of as many local steps; DADAO, whose step is a second of events in
waves, beside a second of gossip learning too.

Processor time of the process (others may load the machine), in turns, each measure with what stands beside it: median, least
and greatest of the ratios of a turn.  What goes beyond 1.15 says why in the method's docstring.

Measured (`--quick`, 2 cores shared with much else, jax 0.10.2, December 2026):

    beside D-SGD, 7.5 ms a round                  DLM 2.00 (1.47 to 2.08; on a quiet machine 1.75), Network Lasso with
                                                  one gradient 2.89 (2.58 to 3.38; quiet 2.42), PENS 5.4 selecting
                                                  (4.0 to 6.0) and 1.5 afterwards (1.0 to 1.7), JWINS 5.3 (4.4 to 6.5;
                                                  all sent 4.7), DADAO 22.6 (20.6 to 27.6)
    beside D-SGD of 5 local steps, 24.8 ms        LT-ADMM 1.43 (1.14 to 1.61), CGA 1.69 (1.33 to 1.97)
    beside D-SGD on random graphs, 6.3 ms         Shatter 2.0 with 4 virtual nodes (1.9 to 2.1), 3.5 with 16 (3.1 to 4.9)
    beside D-SGD among the active nodes, 0.5 ms   MoDeST 1.02 (0.87 to 1.29), Teleportation 1.32 (1.10 to 1.59)
    beside a second of gossip learning, 10.2 ms   by parts 1.27 (1.09 to 1.52), DADAO 15.3 (14.3 to 22.1), by samples 122

DIMAT (`dimat --quick`): the assignment of a ring takes 0.14 of the training (0.05 on the host), that of the complete graph of
32 nodes, 992 models heard, 3.0 times it on the device and 0.86 (0.79 to 0.91) on the host: use `assignment="host"` there.
"""

from __future__ import annotations

import functools
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
from dlsim import algorithms, clocks, networks, problems
from dlsim.bench import workloads
from dlsim.running import counters
from dlsim.running.programs import hoist

ALLOWED, RATE, DEGREE = 1.15, 0.05, 4
SGD = optax.sgd(RATE)


images = functools.cache(workloads.data)


def problem_of(num_nodes: int, *, examples: int = workloads.EXAMPLES, model: Any = "softmax", batch: int = 32) -> Any:
    data = images()
    parts = problems.partition(data, num_nodes, problems.bootstrap(examples), seed=0)
    return problems.supervised(model, data, parts, batch_size=batch, num_test=100)


def cases(num: int) -> dict[str, tuple[Callable[[], dlsim.Process], tuple[str, ...]]]:
    """What makes each process, and whose rounds it stands beside (none: it is the measure of others)."""
    problem, few = problem_of(num), max(num // 10, 8)
    graph = networks.random_regular(num, degree=DEGREE, seed=0)
    some = problem_of(few)
    tape = partial(networks.sampling_tape, num, 200, sample_size=few, num_aggregators=1, seed=0)

    def on(algorithm: Any, scenario: Any = None, network: Any = graph, of: Any = problem, **options: Any) -> Any:
        return lambda: dlsim.learn(of, algorithm, network, scenario, **options)

    seconds = {"timing": clocks.timing(window=1.0)}
    selecting = algorithms.pens(problem, SGD, num_sampled=DEGREE, num_best=2, selection_rounds=10**9)
    selected = algorithms.pens(problem, SGD, num_sampled=DEGREE, num_best=2, selection_rounds=1, num_partners=DEGREE)
    small = networks.exponential(few)
    dsgd = algorithms.dsgd(problem, SGD)
    return {
        "D-SGD": (on(dsgd), ()),
        "D-SGD, 5 local steps": (on(algorithms.dsgd(problem, SGD, num_local_steps=5)), ()),
        "D-SGD, complete graph of the few": (on(algorithms.dsgd(some, SGD), None, networks.complete(few), some), ()),
        "D-SGD, exponential graph of the few": (on(algorithms.dsgd(some, SGD), None, small, some), ()),
        "D-SGD on random graphs": (on(dsgd, networks.epidemic(DEGREE)), ()),
        "gossip learning": (on(algorithms.gossip_learning(problem, SGD), **seconds), ()),
        "DLM": (
            on(algorithms.decentralized_admm(problem, 0.1, num_local_steps=1, local_learning_rate=RATE)),
            ("D-SGD",),
        ),
        "LT-ADMM": (on(algorithms.lt_admm(problem, RATE, consensus_step_size=0.1)), ("D-SGD, 5 local steps",)),
        "Network Lasso, one gradient": (
            on(algorithms.network_lasso(problem, 0.01, penalty=0.1, num_local_steps=1, local_learning_rate=RATE)),
            ("D-SGD",),
        ),
        "CGA": (on(algorithms.cga(problem, SGD)), ("D-SGD, 5 local steps",)),
        "PENS, selecting": (on(selecting), ("D-SGD",)),
        "PENS, selected": (on(selected), ("D-SGD",)),
        "JWINS": (on(algorithms.jwins(problem, SGD)), ("D-SGD",)),
        "JWINS, all sent": (on(algorithms.jwins(problem, SGD, cut_offs=(1.0,))), ("D-SGD",)),
        "Shatter, 4 virtual nodes": (
            on(algorithms.shatter(problem, SGD, num_virtual_nodes=4, degree=DEGREE)),
            ("D-SGD on random graphs",),
        ),
        "Shatter, 16 virtual nodes": (
            on(algorithms.shatter(problem, SGD, num_virtual_nodes=16, degree=DEGREE)),
            ("D-SGD on random graphs",),
        ),
        "MoDeST": (
            on(algorithms.modest(problem, SGD, tape(), num_local_steps=1)),
            ("D-SGD, complete graph of the few",),
        ),
        "Teleportation": (on(algorithms.teleportation(problem, SGD, small)), ("D-SGD, exponential graph of the few",)),
        "DADAO": (on(algorithms.dadao(problem, 0.1, 10.0), **seconds), ("D-SGD", "gossip learning")),
        "gossip learning, parts": (
            on(algorithms.gossip_learning(problem, SGD, parts=algorithms.model_partition(10)), **seconds),
            ("gossip learning",),
        ),
        "gossip learning, samples": (
            on(algorithms.gossip_learning(problem, SGD, parts=algorithms.model_sample(0.1)), **seconds),
            ("gossip learning",),
        ),
    }


def player(process: dlsim.Process, rounds: int) -> Callable[[], Any]:
    """What plays so many rounds more (of a method by clocks the same seconds again), in place."""
    key = jax.random.key(0)
    state = process.init(dlsim.keys.stream(key, "init"))
    if process.feed is not None:
        part, until = process.feed.fill(key, 0)
        assert rounds <= until, "fewer windows are fed at a time than are timed"
        state = process.feed.put(state, jax.tree.map(jnp.asarray, part))

    stepped = hoist(process.step, key, state)  # the images are an argument, and no part of the program

    @partial(jax.jit, donate_argnums=1)
    def whole(constants: Any, state: Any, first: Any) -> Any:
        if process.feed is not None:
            state = state._replace(window=jnp.zeros_like(state.window))

        def one(t: Any, state: Any) -> Any:
            return stepped.fn(constants, jax.random.fold_in(key, first + t), state)[0]

        return jax.lax.fori_loop(0, rounds, one, state)

    held = {"state": jax.tree.map(jnp.copy, state), "turn": 0}

    def advance() -> Any:
        held["state"] = whole(stepped.closed.consts, held["state"], jnp.int32(held["turn"] * rounds))
        held["turn"] += 1
        return held["state"]

    return advance


def spent(state: Any, rounds: float) -> str:
    """Gradients and numbers sent, a round."""
    gradients = float(counters.to_float(state.gradient_evaluations)) / rounds
    bits = float(np.sum(counters.to_float(state.network.traffic.bits))) / rounds
    return f"{gradients:7.0f} gradients, {bits / 8e6:7.2f} MB a round"


def methods(num: int, rounds: int, turns: int, chosen: list[str]) -> None:
    """Each D-SGD with what stands beside it, in turns; of methods whose names begin as one of those chosen, or of all."""
    made = cases(num)
    picked = [name for name, (_, beside) in made.items() if beside and (not chosen or name.startswith(tuple(chosen)))]
    for measure in dict.fromkeys(measure for name in picked for measure in made[name][1]):
        names = [measure, *(name for name in picked if measure in made[name][1])]
        variants = {name: player(made[name][0](), rounds) for name in names}
        times = take_turns(variants, turns, time.process_time)
        for name, values in times.items():
            line = (
                f"  {name:36s} {1e3 * median(values) / rounds:8.2f} ms, {spent(variants[name](), (turns + 2) * rounds)}"
            )
            if name != measure:
                ratio, low, high = paired_ratio(values, times[measure])
                line += f": {ratio:.2f} ({low:.2f} to {high:.2f})" + ("" if ratio <= ALLOWED else f", above {ALLOWED}")
            print(line, flush=True)


def assignment(turns: int) -> None:
    """DIMAT with 32 nodes of the experiment's sizes: 600 images a node, two passes in batches of 100, layers of 64."""
    from flax import linen

    num, width, epochs = 32, 64, 2

    class Perceptron(linen.Module):
        @linen.compact
        def __call__(self, inputs: Any, train: bool = False) -> Any:
            x = inputs.reshape(inputs.shape[0], -1)
            for _ in range(2):
                x = linen.Dense(width, use_bias=False)(x)
                x = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            return linen.Dense(10)(x)

    problem = problem_of(num, examples=600, model=Perceptron(), batch=100)
    shared = problems.shared_inputs(images(), 500)
    units = problems.hidden_units(problem.model, shared.shape[1:])
    matching = dlsim.aggregators.activation_matching(problem, shared, units=units)
    adam = optax.adam(1e-3)
    alone = algorithms.isolated_training(problem, adam, num_local_epochs=epochs)
    training = player(dlsim.learn(problem, alone, networks.ring(num), initial_params="own"), 1)
    assign = jax.jit(lambda scores: [dlsim.aggregators.linear_assignment(one) for one in scores])
    variants: dict[str, Callable[[], Any]] = {"training": training}
    for name, network in (("ring", networks.ring(num)), ("complete", networks.complete(num))):
        method = algorithms.dimat(problem, adam, matching=matching, num_local_epochs=epochs, assignment="host")
        process = dlsim.learn(problem, method, network, initial_params="own")
        state = process.step(jax.random.key(1), process.init(jax.random.key(0)))[0]
        scores = state.algorithm.pending.scores
        variants[f"assignment, {name}"] = partial(assign, scores)
        phase: Any = method.phase
        view = phase.read(state.algorithm)
        variants[f"assignment, {name}, on the host"] = partial(
            phase.work, jax.random.key(0), 1, jax.tree.map(np.array, view)
        )
    times = take_turns(variants, turns, time.process_time)
    for name, values in times.items():
        ratio, low, high = paired_ratio(values, times["training"])
        print(f"  {name:36s} {1e3 * median(values):8.1f} ms: {ratio:.3f} ({low:.3f} to {high:.3f}) of the training")


if __name__ == "__main__":
    print(machine())
    quick = "--quick" in sys.argv
    if "dimat" in sys.argv:
        assignment(turns=3 if quick else 9)
    else:
        names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
        methods(*((100, 10, 7) if quick else (1000, 5, 9)), names)
