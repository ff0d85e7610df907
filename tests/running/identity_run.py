"""Identities of many processes, as an interpreter of its own gives them: `python -m running.identity_run [NAME ...]`.

Prints a JSON object with an identity for every row of the contract's tables, or for those named.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import optax
from contract import arrivals_table, event_table, table, world

import dlsim
from dlsim import clocks, networks
from dlsim.core import Process
from dlsim.running.loop import _tape
from dlsim.running.programs import _identity, single, trace


def processes(noise: float = 0.1, rate: Any = world.RATE) -> dict[str, Any]:
    """A way to make a process of every method of the tables, and of a few more parts."""
    problem = world.problem(noise)
    made = {
        case.id: (lambda case=case: dlsim.learn(problem, case.make(problem, rate), case.network()))
        for case in table.CASES
    }
    for case in event_table.EVENT_CASES:
        made[f"event {case.id}"] = lambda case=case: event_table.WORLDS[2].process(case.make(problem, rate))
    for name, method in arrivals_table.METHODS.items():
        made[f"arrivals {name}"] = lambda method=method: dlsim.learn(
            problem,
            method.make(problem, rate),
            networks.complete(world.NUM_NODES),
            timing=clocks.timing(window=0.5),
        )
    real = world.classification()
    network = networks.ring(world.NUM_NODES).with_channel(networks.top_k(0.3))
    made["classification"] = lambda: dlsim.learn(real, dlsim.algorithms.dsgd(real, optax.adam(rate)), network)
    return made


def identity(process: Process, seed: int = 0) -> dict[str, Any]:
    """What a checkpoint of the process would hold."""
    key = jax.random.key(seed)
    assert process.measure is not None
    traced = trace(lambda _: (process, process.measure), {}, key)
    found = _identity(traced, single(traced, key), process.network)
    return {**found, **_tape([process.feed], key, has_runs=False)}


if __name__ == "__main__":
    known = processes()
    print(json.dumps({name: identity(known[name]()) for name in sys.argv[1:] or known}))
