"""What a learning run measures, whatever makes its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, Info, MeasureFn, Problem, Process, PyTree
from dlsim.learning import metrics
from dlsim.networks.flight.in_flight import STALENESS_BINS, staleness
from dlsim.networks.network import NetworkState
from dlsim.running import counters

STALENESS_DIMS = {"staleness": ("staleness_0",)}  # so many nodes there may be too


def measured(
    problem: Problem, params: PyTree, node_ids: Array, network: NetworkState, evaluations: counters.Counter, info: Info
) -> Info:
    """What `learn` measures: the models `[n, ...]`, the last losses, and the four axes of a run."""
    traffic = network.traffic
    out = metrics.population(problem, params, node_ids)
    if "loss" in info:
        out["train_loss"] = mean_of_heard(info)
    out["gradient_evaluations"] = evaluations
    out["bits_sent"] = counters.add(counters.total(traffic.bits), traffic.server_bits)
    out["messages_sent"] = counters.add(counters.total(traffic.messages), traffic.server_messages)
    out["simulated_seconds"] = traffic.clock
    if "num_present" in info:
        out["num_present"] = info["num_present"]
    if network.in_flight:
        out |= measured_staleness(staleness(network.in_flight))
    return out


def measured_staleness(met: Array | counters.Counter) -> Info:
    """How often each staleness was met, `[STALENESS_BINS]`, and the mean."""
    if isinstance(met, counters.Counter):
        each = met.high.astype(jnp.float32) * 2.0**32 + met.low.astype(jnp.float32)
    else:
        each = met.astype(jnp.float32)
    weighed = jnp.sum(each * jnp.arange(STALENESS_BINS))
    return {"staleness": met, "mean_staleness": weighed / jnp.maximum(jnp.sum(each), 1)}


def only(process: Process, names: Sequence[str], missing: float = math.nan) -> MeasureFn:
    """What `process` measures of these names, for a Record; `missing` stands for what it does not measure."""
    assert process.measure is not None
    measure = process.measure

    def record(state: PyTree, info: Info) -> Info:
        found = measure(state, info)
        return {name: found[name] if name in found else jnp.asarray(missing, jnp.float32) for name in names}

    return record


def several(process: Process, num: int) -> Process:
    """The process whose step is `num` steps of another; its info is that of the last, with the status bits of all."""
    if process.phase is not None:
        checks.fail(
            "several", "process", "one without a phase on the host", f"a phase every {process.phase.every} steps"
        )

    def step(key: Array, state: Any) -> tuple[Any, Any]:
        def one(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], None]:
            state, info = process.step(jax.random.fold_in(key, t), carry[0])
            return (state, {**info, "status": carry[1]["status"] | info["status"]}), None

        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(process.step, key, state)[1]
        )
        return jax.lax.scan(one, (state, nothing), jnp.arange(num))[0]

    return process._replace(step=step, on=None)


def mean_of_heard(info: Info) -> Array:
    """Mean loss over the nodes that computed one; NaN if none did."""
    trained = info["num_gradients"] > 0
    count = jnp.sum(trained)
    return jnp.where(count > 0, jnp.sum(jnp.where(trained, info["loss"], 0)) / jnp.maximum(count, 1), jnp.nan)
