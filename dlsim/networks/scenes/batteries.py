"""Batteries: nodes spend joules, are away while they are empty, and come back when they are charged."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Scenario
from dlsim.networks.network import Network
from dlsim.networks.pace.devices import between_clocks, check_links
from dlsim.networks.pace.links import Ledger, Watts
from dlsim.networks.pace.seconds import elapse
from dlsim.networks.scenes.presence import restrict
from dlsim.running.counters import Clock


class BatteryState(NamedTuple):
    charge: Array  # float32 [N] joules
    is_awake: Array  # bool [N]
    spent: Watts  # clocks [N]: how nodes had spent their seconds when they were last looked at
    looked: Clock  # [] when that was


def batteries(capacity: Any, *, charge: Any = None, recharge: Any = 0.0, wake: Any = 0.1) -> Scenario:
    """Every node has a battery, and is away from the round after the one in which it runs empty.

        c_i <- min(C_i, max(0, c_i + R_i dt - E_i))      dt, E_i: simulated seconds and joules since the last round began

    with E_i = sum of watts times the seconds of computing, sending, receiving and waiting, as `links(watts=...)` and the
    `joules` that a run measures have them.  A node is away from c_i = 0 on until c_i >= `wake` C_i, and spends nothing
    then; without recharge it is away for good.  What it had begun in the round in which it ran empty it finishes.  Where
    nobody is awake simulated time goes on until the first is; where nobody ever will be, the status says NOBODY_PRESENT.
    `state.scenario.charge` has what is left, for a Record.

    Args:
      capacity: C in joules, above 0, a number or `[N]` by node id; traced, as is all that follows.
      charge: c at first, in [0, C], likewise; None: full.
      recharge: R in watts, at least 0, likewise: sun, or a plug.
      wake: share of the capacity at which a node comes back, in (0, 1].

    Raises ValueError where the network has no links with `watts`.
    """
    where = "batteries"
    full = _joules(where, "capacity", capacity, open_minimum=True)
    power = _joules(where, "recharge", recharge)
    start = full if charge is None else _joules(where, "charge", charge)
    if checks.is_concrete((full, start)) and (np.asarray(start) > np.asarray(full)).any():
        checks.fail(where, "charge", "at most the capacity", checks.describe(start))
    checks.number(where, "wake", wake, 0.0, 1.0, open_minimum=True)

    def of_nodes(values: Any, network: Network) -> Array:
        values = jnp.asarray(values, jnp.float32)
        if values.ndim == 0:
            return jnp.broadcast_to(values, (network.num_nodes,))
        if values.shape != (network.num_nodes,):
            got = f"{values.shape[0]} of them"
            checks.fail(where, "capacity, charge, recharge", f"numbers, or [{network.num_nodes}], one a node", got)
        return values[network.node_ids]

    def init(key: Array, network: Network) -> BatteryState:
        del key
        ledger = _ledger(where, network)
        begins = of_nodes(start, network)
        return BatteryState(begins, begins > 0, _clocks(ledger), network.state.traffic.clock)

    def step(key: Array, state: BatteryState, network: Network) -> tuple[BatteryState, Network]:
        del key
        links: Any = network.links
        most, rate = of_nodes(full, network), of_nodes(power, network)
        now, time = _clocks(_ledger(where, network)), network.state.traffic.clock
        spent = sum(
            watts * between_clocks(before, after)
            for watts, before, after in zip(links.watts, state.spent, now, strict=True)
        )
        left = jnp.clip(state.charge + rate * between_clocks(state.looked, time) - spent, 0.0, most)
        missing = jnp.maximum(wake * most - left, 0.0)
        awake = jnp.where(state.is_awake, left > 0, missing <= 0)
        # Where nobody is awake, until the first is.
        until = jnp.where(rate > 0, missing / jnp.where(rate > 0, rate, 1.0), jnp.inf)
        first = jnp.min(until)
        waits = ~jnp.any(awake) & jnp.isfinite(first)
        seconds = jnp.where(waits, first, 0.0)
        network = elapse(network, seconds)
        left = jnp.minimum(left + rate * seconds, most)
        awake = jnp.where(waits, until <= first, awake)
        return BatteryState(left, awake, now, network.state.traffic.clock), restrict(network, awake)

    return Scenario(init=init, step=step)


def _clocks(ledger: Ledger) -> Watts:
    return Watts(*(getattr(ledger, name) for name in Watts._fields))


def _ledger(where: str, network: Network) -> Ledger:
    check_links(where, network)
    links: Any = network.links
    ledger = network.state.ledger
    if links.watts is None or not isinstance(ledger, Ledger):
        fix = "Pass watts=dlsim.networks.Watts(compute=..., ...) to links(...)."
        checks.fail(where, "network", "one whose links have watts", "links without", fix)
    return ledger


def _joules(where: str, name: str, value: Any, open_minimum: bool = False) -> Any:
    """A number, or one a node."""
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) != 0:
        return checks.array(where, name, value, (None,), 0.0, open_minimum=open_minimum)
    if isinstance(value, jax.core.Tracer):
        return value
    return checks.number(where, name, value, 0.0, open_minimum=open_minimum)
