"""Runs what clocks and schedules drive, and what aggregators measure, with 64-bit numbers; for `test_wide_clocks`."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract import arrivals_table, event_table, world
from contract.parts import AGGREGATORS

import dlsim
from dlsim import algorithms, clocks, networks
from dlsim.core import Process, Record

NUM_WINDOWS = 4
EVENTS = {
    "randomized_gossip": "ring",
    "ad_psgd": "star",
    "a2cid2": "complete",
    "dadao": "ring",
    "swarm_sgd-geometric": "regular",
    "gossip_learning": "regular",
}
ARRIVALS = ("fedasync", "fedbuff", "fedfix", "synchronous_fedavg cohorts", "fedcompass", "afa_cd", "afa_cs")
MEASURE = ("krum", "geometric_median", "self_centered_clipping")
NARROW = ("ad_psgd", "fedbuff", "dsgd by krum")  # compared with 32-bit numbers


def processes() -> dict[str, Any]:
    """What makes each process, by name: a row of every method with clocks or a schedule, over networks of all kinds."""
    found: dict[str, Any] = {}
    cases = {case.id: case for case in event_table.EVENT_CASES}
    places = {place.name: place for place in event_table.WORLDS}
    for name, where in EVENTS.items():
        found[name] = lambda case=cases[name], place=places[where]: place.process(
            case.make(world.problem(), world.RATE)
        )
    for i, name in enumerate(ARRIVALS):
        method, network = arrivals_table.METHODS[name], networks.complete(world.NUM_NODES)
        network = network.with_channel(networks.loss(0.3)) if i % 2 else network
        found[name] = lambda method=method, network=network: dlsim.learn(
            world.problem(), method.make(world.problem(), world.RATE), network, timing=clocks.timing(window=0.5)
        )
    for case in (case for case in AGGREGATORS if case.name in MEASURE):
        found[f"dsgd by {case.name}"] = lambda case=case: dlsim.learn(
            world.problem(),
            algorithms.dsgd(world.problem(), optax.sgd(world.RATE), aggregator=case.make()),
            world.uneven(),
            networks.random_presence(0.8),
        )
    return found


def row(process: Process) -> dict[str, Any]:
    """The models at the end, their dtype, and what was counted."""
    run = dlsim.simulate(process, num_steps=NUM_WINDOWS, seed=0, record=Record(every=NUM_WINDOWS), progress=False)
    before = jax.eval_shape(process.init, jax.random.key(0))
    for name, (a, b) in zip(before._fields, zip(before, run.state, strict=True), strict=True):
        if name != "buffer":  # takes the room that its tape needs
            same = jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), a, b)
            assert all(jax.tree.leaves(same)), f"{name} does not keep its form"
    held = next(getattr(run.state, name) for name in ("params", "nodes", "algorithm") if hasattr(run.state, name))
    models = jax.tree.leaves(getattr(held, "params", held))
    last = run.results.isel(step=-1)
    counted = [float(last[name]) for name in ("messages_sent", "gradient_evaluations") if name in last]
    return {"dtype": str(models[0].dtype), "models": np.asarray(models[0]).tolist(), "counted": counted}


def attempt(make: Any) -> dict[str, Any]:
    try:
        return row(make())
    except Exception as error:  # reported by the test of the row
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    assert jnp.zeros(()).dtype == jnp.float64, "start with JAX_ENABLE_X64=1"
    print(json.dumps({name: attempt(make) for name, make in processes().items()}))
