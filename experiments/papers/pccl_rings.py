"""What the experiment on PCCL runs without learning: the bias of 8-bit rings, orders of rings, throughput of pipes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dlsim
from dlsim import checks, keys, networks

POINTS = {8: 11.25, 16: 18.17, 32: 34.29, 64: 44.47, 100: 44.55, 128: 45.74}  # connections: Gbit/s, both ways, [page]
CITIES = {  # 12 in North America, 6 in Europe: latitude, longitude
    "Ashburn": (39.0, -77.5),
    "Dallas": (32.8, -96.8),
    "Montreal": (45.5, -73.6),
    "Phoenix": (33.4, -112.1),
    "Seattle": (47.6, -122.3),
    "Chicago": (41.9, -87.6),
    "San Jose": (37.3, -121.9),
    "Toronto": (43.7, -79.4),
    "Atlanta": (33.7, -84.4),
    "Salt Lake": (40.8, -111.9),
    "New York": (40.7, -74.0),
    "Denver": (39.7, -105.0),
    "London": (51.5, -0.1),
    "Frankfurt": (50.1, 8.7),
    "Paris": (48.9, 2.4),
    "Madrid": (40.4, -3.7),
    "Stockholm": (59.3, 18.1),
    "Milan": (45.5, 9.2),
}


def bias(rounding: str, num: int) -> tuple[dlsim.Process, Any]:
    """Standard normal vectors, D = 4096, by a ring of 8 bits: error of the mean relative to its spread."""
    checks.one_of("24_pccl", "case", rounding, ("floor", "nearest"))
    network = networks.complete(num)
    how = networks.collective(quantization="min_max", rounding=rounding)

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.zeros(3)

    def step(key: jax.Array, state: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        x = keys.node_normal(key, network.node_ids, 4096)
        mean, exact = network.all_reduce(key, x, how)[0].value, jnp.mean(x, axis=0)
        error = (mean - exact) / jnp.std(exact)
        return state + jnp.stack([jnp.float32(1), jnp.mean(error), jnp.mean(error**2)]), {}

    def fn(state: jax.Array, info: Any) -> dict[str, Any]:
        del info
        steps = jnp.maximum(state[0], 1)
        return {"bias": state[1] / steps, "rms": jnp.sqrt(state[2] / steps)}

    return dlsim.Process(init=init, step=step), fn


def maps(num: int, num_maps: int) -> tuple[np.ndarray, np.ndarray]:
    """Bandwidths [maps, P, P] in bit/s, log-normal about what a round trip leaves of eight connections, and latencies."""
    latitude, longitude = np.radians(np.array(list(CITIES.values())[-num:])).T
    cosine = np.sin(latitude)[:, None] * np.sin(latitude) + np.cos(latitude)[:, None] * np.cos(latitude) * np.cos(
        longitude[:, None] - longitude
    )
    kilometres = 6371 * np.arccos(np.clip(cosine, -1, 1))
    latency = 0.001 + 1.4 * kilometres / 200_000  # cables are longer than the way, light in them slower
    noise = np.random.default_rng(0).lognormal(0, 0.5, (num_maps, *latency.shape))
    pipes = networks.pipes(np.full(latency.shape, 5e9), latency, connections=8, window=8 * 2**21)
    return np.asarray(pipes.rate) * noise, latency


def order(num: int, num_maps: int, name: str) -> tuple[dlsim.Process, Any]:
    """Step t is a reduce of 1.073 GB, as in the report, over map t, in an order made for it; peers join in a random one."""
    rates, latency = maps(num, num_maps)
    join = np.random.default_rng(1).permutation(num).astype(np.int32)
    orders = [join if name == "join" else networks.ring_order(rate, name, exact=18) for rate in rates]
    orders, rates = jnp.asarray(np.stack(orders)), jnp.asarray(rates, jnp.float32)
    network = networks.complete(num)
    entries = 1000
    scale = 1.073e9 / (4 * entries)  # rates are as many times smaller as the vector is

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.zeros(3)

    def step(key: jax.Array, state: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        at = state[0].astype(jnp.int32) % num_maps
        pipes = networks.Pipes(rates[at] / scale, jnp.asarray(latency, jnp.float32))
        how = networks.collective(order=orders[at], pipes=pipes, in_order=True)
        reduced, _ = network.all_reduce(key, keys.node_normal(key, network.node_ids, entries), how)
        slowest = jnp.min(rates[at][orders[at], jnp.roll(orders[at], -1)])
        return state + jnp.stack([jnp.float32(1), jnp.log(slowest), jnp.log(reduced.seconds)]), {}

    def fn(state: jax.Array, info: Any) -> dict[str, Any]:
        del info
        steps = jnp.maximum(state[0], 1)
        return {"slowest": jnp.exp(state[1] / steps), "seconds": jnp.exp(state[2] / steps)}

    return dlsim.Process(init=init, step=step), fn


def model_throughput(connections: Any) -> np.ndarray:
    """Gbit/s, both ways counted, of links of 0.6 Gbit/s a connection and 22.5 Gbit/s at most each way."""
    pipe = [
        networks.pipes(np.full((2, 2), 22.5e9), 0.01, connections=float(c), window=0.6e9 * 0.02) for c in connections
    ]
    return np.array([2e-9 * float(one.rate[0, 1]) for one in pipe])
