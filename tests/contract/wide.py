"""Runs every row of the table with 64-bit numbers and prints one line of JSON; started by the contract tests."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
from contract import world
from contract.parts import CHANNELS, SCENARIOS
from contract.table import CASES, Case

from dlsim.learning.learn import learn
from dlsim.networks.messages import open_channels


def row(case: Case) -> dict[str, object]:
    problem = world.problem()
    algorithm = case.make(problem, world.RATE)
    trajectory = world.roll(learn(problem, algorithm, case.network()), 6)
    first, last = trajectory.states[0], trajectory.last
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{a.dtype}{a.shape} became {b.dtype}{b.shape}"
    status = int(np.bitwise_or.reduce([np.bitwise_or.reduce(np.asarray(i["status"])) for i in trajectory.infos]))
    assert status == 0, f"status {status}"
    params = jax.tree.leaves(algorithm.params(last.algorithm))[0]
    return {"dtype": str(params.dtype), "params": np.asarray(params).tolist()}


def attempt(case: Case) -> dict[str, object]:
    try:
        return row(case)
    except Exception as error:  # reported by the test of the row
        return {"error": f"{type(error).__name__}: {error}"}


def draws() -> dict[str, dict[str, object]]:
    """What every scenario and channel drew in a few rounds, which must not depend on the width of numbers."""
    found: dict[str, dict[str, object]] = {"scenarios": {}, "channels": {}}
    key = jax.random.key(5)
    for case in SCENARIOS:
        scenario, network = case.make(), case.network()
        state, words = scenario.init(key, network), []
        for t in range(4):
            state, current = scenario.step(jax.random.fold_in(key, t), state, network)
            drawn = (current.is_present, current.is_linked, current.cohort, current.senders, current.receivers)
            words += [np.asarray(leaf).astype(int).tolist() for leaf in jax.tree.leaves(drawn)]
        found["scenarios"][case.id] = words
    network = world.uneven()
    for case in CHANNELS:
        said = jnp.asarray(np.random.default_rng(0).normal(size=(world.NUM_NODES, 6)), float)
        lossy = network.with_channel(case.make())
        lossy = open_channels(lossy, lambda probed, said=said: probed.mix(key, said)[0])
        found["channels"][case.id] = np.asarray(lossy.mix(key, said)[0]).tolist()
    return found


if __name__ == "__main__":
    assert jnp.zeros(()).dtype == jnp.float64, "start with JAX_ENABLE_X64=1"
    print(json.dumps({case.id: attempt(case) for case in CASES} | draws()))
