"""Long fat pipes: what flows between each two peers, and how long a collective takes over them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.networks.collectives import arithmetic
from dlsim.networks.pace.links import Links, check_alone

Array = jax.Array


class Pipes(NamedTuple):
    """What flows from i (row) to j (column), all connections together; the diagonal is not used."""

    rate: Array  # bits per second, float32 [N, N]
    latency: Array  # seconds one way, float32 [N, N]


def pipes(bandwidth: Any, latency: Any = 0.0, *, connections: Any = 1.0, window: Any = None) -> Pipes:
    """Pipes between every two peers, each used by `connections` connections at once.

        rate_ij = min(bandwidth_ij, connections window / (2 latency_ij))

    One connection has at most `window` bits on the way, for which it waits a round trip; so a long pipe is filled by many
    connections only, and no number of them brings more than its bandwidth.

    Args:
      bandwidth: bits per second from i to j, above 0 beside the diagonal, `[N, N]`; may be traced, as all that follows.
      latency: seconds one way, a number or `[N, N]`.
      connections: how many, at least 1.
      window: bits of one connection on their way, above 0; None: connections wait for nothing.
    """
    where = "pipes"
    bandwidth = checks.array(where, "bandwidth", bandwidth, None, 0.0)
    shape = bandwidth.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        checks.fail(where, "bandwidth", "of shape [N, N]", checks.describe(bandwidth))
    if checks.is_concrete(bandwidth):
        zero = (np.asarray(bandwidth) == 0) & ~np.eye(shape[0], dtype=bool)
        if zero.any():
            i, j = (int(place) for place in np.argwhere(zero)[0])
            checks.fail(where, f"bandwidth[{i}, {j}]", "above 0", "0", "Leave out peers that nobody reaches.")
    if isinstance(latency, list | tuple) or getattr(latency, "ndim", 0) != 0:
        latency = checks.array(where, "latency", latency, shape, 0.0)
    else:
        checks.number(where, "latency", latency, 0.0)
    checks.number(where, "connections", connections, 1.0)
    rate = jnp.asarray(bandwidth, jnp.float32)
    delay = jnp.broadcast_to(jnp.asarray(latency, jnp.float32), shape)
    if window is not None:
        checks.number(where, "window", window, 0.0, open_minimum=True)
        rate = jnp.minimum(rate, jnp.where(delay > 0, connections * window / (2 * delay), jnp.inf))
    return Pipes(rate=rate, latency=delay)


def transfer_seconds(pipes: Pipes, bits: Any) -> Array:
    """Seconds from i to j of one message of `bits` (traced) with the pipe to itself, `[N, N]`: latency + bits / rate."""
    checks.instance("transfer_seconds", "pipes", pipes, Pipes, "Make them: pipes(bandwidth, latency).")
    checks.number("transfer_seconds", "bits", bits, 0.0)
    return pipes.latency + jnp.asarray(bits, jnp.float32) / pipes.rate


class Between(Protocol):
    def __call__(self, senders: Array, receivers: Array) -> tuple[Array, Array]: ...


def over(pipes: Pipes | None, links: Links | None) -> Between | None:
    """(senders [n], receivers [n]) -> (rates [n], latencies [n]): of pipes, or of nodes' own links; None: no time passes."""
    if pipes is not None:
        return lambda i, j: (pipes.rate[i, j], pipes.latency[i, j])
    if links is not None:
        check_alone("collective", links)
        late = jnp.broadcast_to(links.latency, links.upload.shape)
        return lambda i, j: (jnp.minimum(links.upload[i], links.download[j]), late[j])
    return None


def ring_seconds(between: Between, bits: Array, ring: Array, num_peers: Array, slices: Any) -> Array:
    """Seconds of a ring of ranks 0..P-1 with vectors of `bits`.

        t_e = bits / (P rate_e);   seconds = 2 (P - 1) max(max_e t_e, mean_e(t_e / slices + latency_e))

    A hop takes what the slowest link needs for a chunk, or, if that is more, what a chunk needs for a hop in the mean:
    the two kinds of circle that a pipeline can wait for.  A chunk in `slices` is handed on slice by slice.
    """
    place = jnp.arange(ring.shape[0])
    peers = jnp.maximum(num_peers, 1)
    rate, latency = between(ring, ring[(place + 1) % peers])
    is_in = place < num_peers
    chunk = jnp.where(is_in, bits / (peers * rate), 0)
    journey = jnp.sum(jnp.where(is_in, chunk / slices + latency, 0)) / peers
    return 2 * (peers - 1) * jnp.maximum(jnp.max(chunk), journey)


def butterfly_seconds(between: Between, bits: Array, ring: Array, num_peers: Array) -> Array:
    """Seconds of a butterfly: each level waits for its slowest pair, once on the way in and once on the way out."""
    size = ring.shape[0]
    power = arithmetic.largest_power(num_peers, size)
    pairs = num_peers - power
    rank = jnp.arange(size)

    def slowest(i: Array, j: Array, is_in: Array, part: Array) -> Array:
        i, j = (ring[jnp.clip(place, 0, size - 1)] for place in (i, j))
        there, back = between(i, j), between(j, i)
        seconds = [jnp.max(jnp.where(is_in, part / rate + latency, 0)) for rate, latency in (there, back)]
        return seconds[0] + seconds[1]

    total = slowest(2 * rank, 2 * rank + 1, rank < pairs, bits)
    node = jnp.where(rank < pairs, 2 * rank + 1, rank + pairs)
    distance, part = power, bits
    for _ in range(size.bit_length() - 1):
        distance, part = distance // 2, part / 2
        is_in = (rank < power) & (distance > 0)
        other = node[jnp.clip(rank ^ distance, 0, size - 1)]
        total = total + slowest(node, other, is_in, part)
    return total
