"""Runs on several virtual devices, in a process of its own: `python -m running.mesh_run WHAT`, one JSON line a case."""

from __future__ import annotations

import json
import math
import re
import sys

import jax

jax.config.update("jax_num_cpu_devices", 4)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from contract import world  # noqa: E402
from contract.table import CASES  # noqa: E402

import dlsim  # noqa: E402
from dlsim import Process, Record, algorithms, networks  # noqa: E402
from dlsim.running.meshes import AXIS, node_mesh, place  # noqa: E402
from dlsim.running.programs import compile_traced, single, trace  # noqa: E402

NUM_NODES, DIMENSION = 64, 6
COLLECTIVES = ("all-gather", "all-reduce", "collective-permute", "all-to-all")


def far(one: object, other: object) -> float:
    """The greatest difference, relative to the size of what is compared; infinite where whole numbers differ."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(a), np.asarray(b)
        if x.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(x, y) else np.inf)
            continue
        if not np.array_equal(np.isnan(x), np.isnan(y)):
            return np.inf
        if x.size:
            worst = max(worst, float(np.nanmax(np.abs(x - y)) / (1 + np.nanmax(np.abs(x)))))
    return worst


def both(process: Process, steps: int = 12, seed: object = 0) -> tuple[float, bool]:
    """How far four devices are from one, and whether the nodes were laid over them."""
    record = Record(every=5)
    alone = dlsim.simulate(process, seed=seed, num_steps=steps, record=record)
    laid = dlsim.simulate(process, seed=seed, num_steps=steps, record=record, mesh="nodes=4")
    results = [{name: run.results[name].values for name in run.results.data_vars} for run in (alone, laid)]
    is_laid = any(AXIS in (leaf.sharding.spec or ()) for leaf in jax.tree.leaves(laid.state))
    return max(far(alone.state, laid.state), far(*results)), is_laid


def collectives(process: Process) -> dict[str, list[int]]:
    """Numbers in each message between devices, by kind, in the program of a step."""
    mesh, key = node_mesh(4), jax.random.key(0)
    placement = place(process.num_nodes, mesh, network=process.network)
    with jax.set_mesh(mesh):
        traced = trace(lambda _: (process, lambda state, info: {"step": jnp.zeros(())}), {}, key)
        program = compile_traced(traced, placement.put(single(traced, key)), placement=placement).advance
    found: dict[str, list[int]] = {kind: [] for kind in COLLECTIVES}
    for line in program.as_text().splitlines():
        made = re.search(rf"= (.+?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if made:
            shapes = re.findall(r"\w+\[([\d,]*)\]", made[1])
            found[made[2]] += [math.prod(int(size) for size in shape.split(",") if size) for shape in shapes]
    return found


def lowerings() -> None:
    problem = dlsim.problems.quadratic(NUM_NODES, DIMENSION, heterogeneity=1.0, gradient_noise=0.2, seed=0)
    algorithm = algorithms.dsgd(problem, optax.sgd(0.1, momentum=0.9))
    cases = {
        "shifts": networks.torus(NUM_NODES, lowering="shifts"),
        "neighbors": networks.random_regular(NUM_NODES, degree=4, seed=0, lowering="neighbors"),
        "edges": networks.star(NUM_NODES, lowering="edges"),
        "dense": networks.erdos_renyi(NUM_NODES, 0.3, seed=0, lowering="dense"),
        "average": networks.complete(NUM_NODES),
    }
    for name, network in cases.items():
        process = dlsim.learn(problem, algorithm, network)
        distance, is_laid = both(process)
        say(name, distance, is_laid, lowering=network.lowering, collectives=collectives(process))
    sparse = cases["shifts"].with_channel(networks.chain(networks.top_k(2, error_feedback=True), networks.quantize(8)))
    say("sparse", 0.0, True, collectives=collectives(dlsim.learn(problem, algorithm, sparse)))


def table() -> None:
    first = {case.name: case for case in reversed(CASES)}  # variants differ in what they compute, not in how they talk
    for case in first.values():
        problem = world.problem(0.1)
        process = dlsim.learn(problem, case.make(problem, world.RATE), case.network())
        say(case.id, *both(process, 6))


def worlds() -> None:
    """Channels, scenarios, links and blocks; every verb is behind one of the methods of the table."""
    problem = dlsim.problems.quadratic(NUM_NODES, DIMENSION, heterogeneity=1.0, gradient_noise=0.2, seed=0)
    torus = networks.torus(NUM_NODES)
    sgd = algorithms.dsgd(problem, optax.sgd(0.1))
    lossy = torus.with_channel(networks.chain(networks.top_k(0.5, error_feedback=True), networks.loss(0.2)))
    rates = networks.wifi(NUM_NODES, rate=1e6, compute=1e-3, watts=networks.Watts(upload=2.0))
    linked = torus.with_links(rates, barrier="round")
    unkind = networks.chain(networks.churn(rate=0.1), networks.link_failure(0.2))
    changing = networks.time_varying(networks.one_peer_exponential(NUM_NODES))
    digits = dlsim.problems.classification(
        "digits", num_nodes=NUM_NODES, partition=dlsim.problems.dirichlet(alpha=0.5), model="mlp", node_block=5
    )
    cases = {
        "channel": dlsim.learn(problem, sgd, lossy),
        "links": dlsim.learn(problem, sgd, linked),
        "scenario": dlsim.learn(problem, sgd, torus, unkind),
        "time_varying": dlsim.learn(problem, sgd, torus, changing),
        "epidemic": dlsim.learn(problem, sgd, torus, networks.epidemic(3)),
        "cohort": dlsim.learn(problem, algorithms.fedavg(problem, optax.sgd(0.1)), torus, networks.participation(9)),
        "median": dlsim.learn(
            problem, algorithms.dsgd(problem, optax.sgd(0.1), aggregator=dlsim.aggregators.median()), torus
        ),
        "blocks": dlsim.learn(digits, algorithms.dsgd(digits, optax.sgd(0.1)), torus),
    }
    for name, process in cases.items():
        say(name, *both(process))
    say("seeds", *both(cases["blocks"], 6, [0, 3]))


def draws() -> None:
    """Bits: whatever is drawn belongs to node ids, not to devices."""

    def step(key: jax.Array, state: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        ids = jnp.arange(NUM_NODES)
        bits = dlsim.keys.node_bits(key, ids, 3)
        uniform = dlsim.keys.node_uniform(key, ids, 3)
        return state ^ bits ^ jax.lax.bitcast_convert_type(uniform, jnp.uint32), {}

    process = Process(
        init=lambda key: jax.random.bits(key, (NUM_NODES, 3)),
        step=step,
        measure=lambda state, info: {"state": state},
        num_nodes=NUM_NODES,
    )
    say("draws", *both(process))


def say(name: str, distance: float, is_laid: bool, **more: object) -> None:
    print(json.dumps({"name": name, "distance": distance, "is_laid": is_laid, **more}), flush=True)


if __name__ == "__main__":
    {"lowerings": lowerings, "table": table, "worlds": worlds, "draws": draws}[sys.argv[1]]()
