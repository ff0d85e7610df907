"""How long messages and gradients take, in simulated seconds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.networks.sizes import check_size

Array = jax.Array


class Links(NamedTuple):
    """Rates of every node and of the server.  A message of b bits over rates u and d takes latency + b/min(u, d)."""

    latency: Array  # seconds, []
    upload: Array  # bits per second, [N]
    download: Array  # bits per second, [N]
    server_upload: Array  # bits per second, []
    server_download: Array  # bits per second, []
    compute: Array  # seconds per gradient evaluation (one example), [N]


def links(
    num_nodes: int,
    *,
    latency: Any = 0.0,
    upload: Any = 1e8,
    download: Any = 1e8,
    server_upload: Any = 1e10,
    server_download: Any = 1e10,
    compute: Any = 0.0,
) -> Links:
    """Links from scalars or one value a node (traced): rates in bits per second, times in seconds.

    Defaults: 100 Mbit/s both ways, a 10 Gbit/s server, no latency, computing for free.

    Args:
      num_nodes: N.
      latency: seconds of every message, one value for all.
      upload, download: of the nodes, scalars or `[N]`.
      server_upload, server_download: of the server, scalars.
      compute: seconds a gradient evaluation (one example), a scalar or `[N]`.
    """
    check_size("links", checks.integer("links", "num_nodes", num_nodes, 1))

    def per_node(name: str, value: Any, open_minimum: bool) -> Array:
        if isinstance(value, list | tuple) or getattr(value, "ndim", 0) != 0:
            value = value if checks.is_concrete(value) else jnp.asarray(value)
            value = checks.array("links", name, value, (num_nodes,), 0.0, open_minimum=open_minimum)
        else:
            checks.number("links", name, value, 0.0, open_minimum=open_minimum)
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (num_nodes,))

    for name, value in (("server_upload", server_upload), ("server_download", server_download)):
        checks.number("links", name, value, 0.0, open_minimum=True)
    return Links(
        latency=jnp.asarray(checks.number("links", "latency", latency, 0.0), jnp.float32),
        upload=per_node("upload", upload, True),
        download=per_node("download", download, True),
        server_upload=jnp.asarray(server_upload, jnp.float32),
        server_download=jnp.asarray(server_download, jnp.float32),
        compute=per_node("compute", compute, False),
    )


def peer_seconds(links: Links, sent_bits: Array, received_bits: Array) -> Array:
    """Seconds of one round of messages between nodes, `[]`: the slowest node's.

    Each node pushes its copies one after the other through its upload and takes what it hears through its download;
    the round ends when the last node is done, one latency later.  A round without messages takes no time.
    """
    busy = jnp.maximum(sent_bits / links.upload, received_bits / links.download)
    slowest = jnp.max(busy)
    return jnp.where(slowest > 0, slowest + links.latency, 0.0)


def server_seconds(rate: Array, server_rate: Array, bits: Array, latency: Array) -> Array:
    """Seconds until the server and all nodes `[n]` are done: the slower of the slowest node and the server's own link."""
    slowest = jnp.maximum(jnp.max(bits / rate), jnp.sum(bits) / server_rate)
    return jnp.where(slowest > 0, slowest + latency, 0.0)
