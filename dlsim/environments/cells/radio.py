"""Small cells: where stations and users are, what reaches whom, and clusters of stations that null each other.

    loss(d)  = 30 + 36.7 log10(d / 1 m) dB, d >= 10 m, and log-normal shadowing
    SINR_ij  = P g_ij / (N + a I_out + a e I_in)
    s_ij     = log2(1 + SINR_ij)  bit/s/Hz

where I_in is what reaches user i from the rest of its cluster, I_out what reaches it from all other stations, a how much
of the time they send, and e what coordinated beamforming leaves of the cluster's interference (1: no coordination).  A user
is served by the nearest station; its cluster is the C nearest of the others.

The setting of Mukherjee and Huberman, Market-based short-term allocations in small cell wireless networks, 2020, of which
only the abstract could be read: geometry, losses and numbers are ours, with usual values of urban small cells.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array

BLOCK = 2**24  # numbers of [users, stations] held at once


class Radio(NamedTuple):
    """Constants of a network of small cells; floats may be traced."""

    density: float | Array = 60.0  # stations a square kilometre
    power_dbm: float | Array = 30.0
    noise_dbm: float | Array = -95.0  # -174 dBm/Hz + 9 dB noise figure, over 10 MHz
    loss_at_1m_db: float | Array = 30.0
    loss_per_decade_db: float | Array = 36.7
    nearest_m: float | Array = 10.0
    shadowing_db: float | Array = 6.0
    activity: float | Array = 0.1  # a
    nulling: float | Array = 0.05  # e; 1: no coordinated beamforming


class Links(NamedTuple):
    """What U users have of B stations."""

    serving: Array  # int32 [U] the nearest station
    near: Array  # int32 [U, C] the next C nearest, in order
    serving_sinr: Array  # [U]
    sinr: Array  # [U, C]

    @property
    def efficiency(self) -> Array:
        """Spectral efficiencies s, bit/s/Hz, `[U, C]`."""
        return jnp.log2(1.0 + self.sinr)


def side(radio: Radio, num_stations: int) -> Array:
    """Metres along the square that holds the stations."""
    return 1000.0 * jnp.sqrt(num_stations / radio.density)


def scatter(key: Array, num: int, length: Array) -> Array:
    """`num` places `[num, 2]`, uniform in a square."""
    return length * keys.node_uniform(key, jnp.arange(num), 2)


def links(radio: Radio, users: Array, stations: Array, shadowing_key: Array, cluster: int) -> Links:
    """Who serves whom, and how well: O(U B) work, in blocks of users so that memory stays at O(BLOCK).

    Shadowing is a draw of the pair (user, station), and stays with it where the user goes.

    Args:
      radio: the constants.
      users: `[U, 2]` metres.
      stations: `[B, 2]` metres.
      shadowing_key: of the draws.
      cluster: C, stations that coordinate beside the serving one; C + 1 <= B.
    """
    num_users, num_stations = users.shape[0], stations.shape[0]
    cluster = checks.integer("cells", "cluster", cluster, 1, num_stations - 1)

    def of(one: tuple[Array, Array]) -> Links:
        place, user = one
        squared = jnp.sum((place - stations) ** 2, axis=1)
        _, order = jax.lax.top_k(-squared, cluster + 1)
        order = order.astype(jnp.int32)
        distance = jnp.maximum(jnp.sqrt(squared), radio.nearest_m)
        shadow = keys.node_normal(jax.random.fold_in(shadowing_key, user), jnp.arange(num_stations), 1)[:, 0]
        loss = radio.loss_at_1m_db + radio.loss_per_decade_db * jnp.log10(distance) + radio.shadowing_db * shadow
        power = _linear(radio.power_dbm - loss)
        noise = _linear(radio.noise_dbm)
        near = order[1:]
        inside = power[near]
        # Sums over the others, not differences of sums: the nearest station may be ten thousand times as loud.
        others = jnp.sum(power.at[near].set(0.0))
        rest = jnp.sum(jnp.where(jnp.eye(cluster, dtype=bool), 0.0, inside[None, :]), axis=1)
        sinr = inside / (noise + radio.activity * others + radio.activity * radio.nulling * rest)
        own = power[order[0]]
        serving = own / (noise + radio.activity * jnp.sum(power.at[order[0]].set(0.0)))
        return Links(order[0], near, serving, sinr)

    batch = max(1, min(num_users, BLOCK // num_stations))
    return jax.lax.map(of, (users, jnp.arange(num_users)), batch_size=batch)


def _linear(decibels: float | Array) -> Array:
    return jnp.asarray(10.0 ** (decibels / 10.0))


def check_radio(where: str, radio: Radio) -> None:
    """ValueError with one line for constants that make no sense."""
    checks.instance(where, "radio", radio, Radio, "Use dlsim.environments.Radio(...).")
    for name in ("density", "nearest_m"):
        checks.number(where, f"radio.{name}", getattr(radio, name), 0.0, open_minimum=True)
    for name in ("power_dbm", "noise_dbm", "loss_at_1m_db"):
        checks.number(where, f"radio.{name}", getattr(radio, name))
    for name in ("loss_per_decade_db", "shadowing_db"):
        checks.number(where, f"radio.{name}", getattr(radio, name), 0.0)
    for name in ("activity", "nulling"):
        checks.probability(where, f"radio.{name}", getattr(radio, name))
