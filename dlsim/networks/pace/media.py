"""Links by technology: Ethernet, WiFi and 5G, as measured in a federated testbed of small computers.

The rates are set so that at 4 MB a message and five devices the mean times of the uplink have the ratios that were
measured: 5G takes 33.3 times as long as Ethernet and 17.8 times as long as WiFi.  Only these ratios, and that a 5G uplink
is about 23 % of a round (with 35.7 s of computing), are the source's.  The level (100 Mbit/s Ethernet), downlinks,
latencies and jitter are ours; rates that were measured hold what was sent again, so `loss` is 0 unless it is given.

Source: Hayek, Chung, Comer, Murthy, Kettimuthu, Kadota, Federated learning over 5G, WiFi, and Ethernet: measurements and
evaluation, 2025 (arXiv 2504.04678), abstract.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim import checks
from dlsim.networks.pace.links import Links, Watts, links

MESSAGE_BITS = 8 * 4e6
NUM_DEVICES = 5
ETHERNET_RATE = 1e8
UPLINK_5G, UPLINK_WIFI = 33.3, 33.3 / 17.8  # times that of Ethernet
WIFI_OVERHEAD = 0.3
DOWNLINK_5G = 40e6 * NUM_DEVICES  # bits per second of the whole cell
# With k devices that share evenly each has 1/k: of equal messages all are done at k b / rate.
WIFI_RATE = NUM_DEVICES * ETHERNET_RATE / UPLINK_WIFI / (1 - WIFI_OVERHEAD)
UPLINK_RATE_5G = NUM_DEVICES * ETHERNET_RATE / UPLINK_5G
CELL_RATE_5G = UPLINK_RATE_5G + DOWNLINK_5G
UPLINK_SHARE_5G = UPLINK_RATE_5G / CELL_RATE_5G


def ethernet(
    num_nodes: int,
    *,
    rate: Any = ETHERNET_RATE,
    latency: Any = 5e-4,
    jitter: Any = 0.02,
    loss: Any = 0.0,
    compute: Any = 0.0,
    compute_jitter: Any = 0.0,
    watts: Watts | None = None,
) -> Links:
    """A switch: every node has its own cable, both ways at full `rate`; nothing is shared.

    Args:
      num_nodes: N.
      rate: bits per second, a scalar or `[N]`; traced, as is all that follows.
      latency: seconds, a scalar or `[N]`.
      jitter, compute_jitter, loss, compute, watts: as in `dlsim.networks.links`.
    """
    return _medium("ethernet", num_nodes, rate, rate, -1, latency, jitter, loss, compute, compute_jitter, watts)


def wifi(
    num_nodes: int,
    *,
    rate: Any = WIFI_RATE,
    overhead: Any = WIFI_OVERHEAD,
    latency: Any = 3e-3,
    jitter: Any = 0.1,
    loss: Any = 0.0,
    compute: Any = 0.0,
    compute_jitter: Any = 0.0,
    watts: Watts | None = None,
) -> Links:
    """One access point: whoever sends at the same time shares the air, and so do those who receive.

    A node that has the air alone has rate (1 - overhead), both ways.

    Args:
      num_nodes: N.
      rate: bits per second on the air, a scalar or `[N]`; traced, as is all that follows.
      overhead: share of the air that carries no message, in [0, 1).
      latency: seconds, a scalar or `[N]`.
      jitter, compute_jitter, loss, compute, watts: as in `dlsim.networks.links`.
    """
    checks.number("wifi", "overhead", overhead, 0.0, 1.0, open_maximum=True)
    rate = _times("wifi", "rate", rate, 1 - overhead)
    return _medium("wifi", num_nodes, rate, rate, 0, latency, jitter, loss, compute, compute_jitter, watts)


def cellular_5g(
    num_nodes: int,
    *,
    cell_rate: Any = CELL_RATE_5G,
    uplink_share: Any = UPLINK_SHARE_5G,
    latency: Any = 15e-3,
    jitter: Any = 0.35,
    loss: Any = 0.0,
    compute: Any = 0.0,
    compute_jitter: Any = 0.0,
    watts: Watts | None = None,
) -> Links:
    """One cell in time division: a share f of its slots goes up, the rest down; whoever sends at the same time shares.

    A node that has the cell alone has f C up and (1 - f) C down.  By default 15 Mbit/s up and 200 Mbit/s down, of a
    stand-alone testbed of software radios; commercial cells have more.

    Args:
      num_nodes: N.
      cell_rate: C, bits per second, a scalar or `[N]` (by how well each is received); traced, as is all that follows.
      uplink_share: f, in (0, 1).
      latency: seconds, a scalar or `[N]`.
      jitter, compute_jitter, loss, compute, watts: as in `dlsim.networks.links`.
    """
    checks.number("cellular_5g", "uplink_share", uplink_share, 0.0, 1.0, open_minimum=True, open_maximum=True)
    up = _times("cellular_5g", "cell_rate", cell_rate, uplink_share)
    down = _times("cellular_5g", "cell_rate", cell_rate, 1 - uplink_share)
    return _medium("cellular_5g", num_nodes, up, down, 0, latency, jitter, loss, compute, compute_jitter, watts)


def _times(where: str, name: str, rate: Any, share: Any) -> Any:
    """A rate, or one a node, of which a share is had."""
    if isinstance(rate, list | tuple) or getattr(rate, "ndim", 0) != 0:
        return checks.array(where, name, rate, (None,), 0.0, open_minimum=True) * share
    return checks.number(where, name, rate, 0.0, open_minimum=True) * share


def _medium(
    where: str,
    num_nodes: int,
    up: Any,
    down: Any,
    cell: int,
    latency: Any,
    jitter: Any,
    loss: Any,
    compute: Any,
    compute_jitter: Any,
    watts: Watts | None,
) -> Links:
    """All technologies have the same fields, so that one program serves them all: which one it is, is a number."""
    for name, value in (("jitter", jitter), ("loss", loss), ("compute_jitter", compute_jitter)):
        if value is None:
            checks.fail(where, name, f"a number, or one for each of {num_nodes} nodes", "None", "Nothing of it is 0.0.")
    made = links(
        num_nodes,
        latency=latency,
        upload=up,
        download=down,
        compute=compute,
        jitter=jitter,
        compute_jitter=compute_jitter,
        loss=loss,
        upload_cells=cell,
        download_cells=cell,
        watts=watts,
    )
    return made._replace(latency=jnp.broadcast_to(made.latency, (num_nodes,)))
