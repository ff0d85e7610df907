"""Links and computers: what the nodes' messages and gradients take, as numbers.  `seconds` has what is made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.networks.pace.sizes import check_size
from dlsim.running import counters

Array = jax.Array
BARRIERS = ("exchange", "round")


class Watts(NamedTuple):
    """Power of a node while it computes, sends, receives and waits, each a number or `[N]`, at least 0.

    joules_i = compute_i t_compute + upload_i t_upload + download_i t_download + waiting_i t_waiting
    """

    compute: Any = 0.0
    upload: Any = 0.0
    download: Any = 0.0
    waiting: Any = 0.0


class Links(NamedTuple):
    """Rates of every node and of the server.  A message of b bits over rates u and d takes latency + b/min(u, d).

    What is None plays no part and costs nothing.
    """

    latency: Array  # seconds, [] or [N]
    upload: Array  # bits per second, [N]
    download: Array  # bits per second, [N]
    server_upload: Array  # bits per second, []
    server_download: Array  # bits per second, []
    compute: Array  # seconds per gradient evaluation (one example), [N]
    jitter: Array | None = None  # standard deviation of the logarithm of a transfer's seconds, [N]
    compute_jitter: Array | None = None  # the same of a round's computing, [N]
    loss: Array | None = None  # share of a message's packets that are lost and sent again, [N]
    upload_cells: Array | None = None  # int32 [N]: nodes of one number share their upload's time; below 0: nobody's
    download_cells: Array | None = None  # the same of the download
    aggregation: Array | None = None  # seconds of the server after each uplink, []
    watts: Watts | None = None  # each [N]


class Ledger(NamedTuple):
    """How each node has spent its simulated seconds so far; of this round, what is not yet told apart."""

    compute: counters.Clock  # [N]
    upload: counters.Clock  # [N]
    download: counters.Clock  # [N]
    waiting: counters.Clock  # [N]
    busy: Array  # float32 [N] of this round
    elapsed: Array  # float32 [] of this round, for everyone


def ledger(num_nodes: int) -> Ledger:
    """No time spent."""
    return Ledger(
        compute=counters.clock((num_nodes,)),
        upload=counters.clock((num_nodes,)),
        download=counters.clock((num_nodes,)),
        waiting=counters.clock((num_nodes,)),
        busy=jnp.zeros(num_nodes, jnp.float32),
        elapsed=jnp.zeros((), jnp.float32),
    )


def links(
    num_nodes: int,
    *,
    latency: Any = 0.0,
    upload: Any = 1e8,
    download: Any = 1e8,
    server_upload: Any = 1e10,
    server_download: Any = 1e10,
    compute: Any = 0.0,
    jitter: Any = None,
    compute_jitter: Any = None,
    loss: Any = None,
    upload_cells: Any = None,
    download_cells: Any = None,
    aggregation: Any = None,
    watts: Watts | None = None,
) -> Links:
    """Links from scalars or one value a node (traced): rates in bits per second, times in seconds.

    Defaults: 100 Mbit/s both ways, a 10 Gbit/s server, no latency, computing for free; nothing shared, nothing random.

        t_i = latency_i + share_i(b_i / (rate_i (1 - loss_i))) exp(jitter_i z - jitter_i^2 / 2),   z ~ N(0, 1)

    share_i is the identity on a link of one's own.  Where nodes share a cell (the air of an access point, a radio cell, one
    cable), rates are those of who has it alone, and the k that send at the same time have 1/k of its time each; all
    begin at once, and who is done leaves its share to the others: `share_i(w) = sum_j min(w_i, w_j)` over the cell.
    The factor has mean 1 and is drawn by (seed, step, node, stream); of computing likewise.

    Args:
      num_nodes: N.
      latency: seconds of every message, one value for all or `[N]`.
      upload, download: of the nodes, scalars or `[N]`.
      server_upload, server_download: of the server, scalars.
      compute: seconds a gradient evaluation (one example), a scalar or `[N]`.
      jitter, compute_jitter: standard deviations of logarithms, scalars or `[N]`, at least 0; None: nothing is drawn.
      loss: share of packets that are lost and sent again until they arrive, in [0, 1), a scalar or `[N]`.  It costs
        seconds and no counted bits; the channel `dlsim.networks.loss` loses whole messages.
      upload_cells, download_cells: integers `[N]`, or one for all; nodes of one number share, those below 0 do not.  The two
        directions do not disturb each other.
      aggregation: seconds of the server after each uplink.
      watts: power of the nodes, for `joules` (`Watts`).
    """
    check_size("links", checks.integer("links", "num_nodes", num_nodes, 1))

    def per_node(name: str, value: Any, open_minimum: bool = False, maximum: float | None = None) -> Array:
        if isinstance(value, list | tuple) or getattr(value, "ndim", 0) != 0:
            value = value if checks.is_concrete(value) else jnp.asarray(value)
            value = checks.array("links", name, value, (num_nodes,), 0.0, maximum, open_minimum)
            if maximum is not None and checks.is_concrete(value) and value.max() >= maximum:
                place = int(value.argmax())
                rule = f"a number in [0, {maximum:g})"
                checks.fail("links", f"{name}[{place}]", rule, f"{float(value[place]):g}")
        else:
            checks.number("links", name, value, 0.0, maximum, open_minimum, maximum is not None)
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (num_nodes,))

    def optional(name: str, value: Any, maximum: float | None = None) -> Array | None:
        return None if value is None else per_node(name, value, maximum=maximum)

    for name, value in (("server_upload", server_upload), ("server_download", server_download)):
        checks.number("links", name, value, 0.0, open_minimum=True)
    if isinstance(latency, list | tuple) or getattr(latency, "ndim", 0) != 0:
        late = per_node("latency", latency)
    else:
        late = jnp.asarray(checks.number("links", "latency", latency, 0.0), jnp.float32)
    if aggregation is not None:
        aggregation = jnp.asarray(checks.number("links", "aggregation", aggregation, 0.0), jnp.float32)
    if watts is not None:
        checks.instance("links", "watts", watts, Watts, "Pass dlsim.networks.Watts(compute=..., waiting=...).")
        watts = Watts(*(per_node(f"watts.{name}", one) for name, one in zip(Watts._fields, watts, strict=True)))
    return Links(
        latency=late,
        upload=per_node("upload", upload, open_minimum=True),
        download=per_node("download", download, open_minimum=True),
        server_upload=jnp.asarray(server_upload, jnp.float32),
        server_download=jnp.asarray(server_download, jnp.float32),
        compute=per_node("compute", compute),
        jitter=optional("jitter", jitter),
        compute_jitter=optional("compute_jitter", compute_jitter),
        loss=optional("loss", loss, 1.0),
        upload_cells=_cells("upload_cells", upload_cells, num_nodes),
        download_cells=_cells("download_cells", download_cells, num_nodes),
        aggregation=aggregation,
        watts=watts,
    )


def _cells(name: str, value: Any, num_nodes: int) -> Array | None:
    if value is None:
        return None
    rule = f"an integer, or one for each of the {num_nodes} nodes"
    cells = value if isinstance(value, jax.core.Tracer) else checks.host("links", name, value, rule)
    if not jnp.issubdtype(cells.dtype, np.integer) or cells.shape not in ((), (num_nodes,)):
        checks.fail("links", name, rule, checks.describe(value))
    return jnp.broadcast_to(jnp.asarray(cells, jnp.int32), (num_nodes,))


def check_alone(where: str, links: Links) -> None:
    """For what takes each link for its own, with nothing drawn."""
    for name in ("upload_cells", "download_cells", "jitter", "loss"):
        if getattr(links, name) is not None:
            checks.fail(where, f"links.{name}", "None where pipes are not given", "given", "Pass pipes=pipes(...).")


def join_links(*parts: Links) -> Links:
    """One fleet of several: the nodes of the first, then those of the second, ...; a cell of one is no other's.

    The server's rates and its `aggregation` are those of the first.  What only some have is neutral in the others.

    Raises ValueError if there is nothing to join, or if only some have `watts`.
    """
    if not parts:
        checks.fail("join_links", "parts", "one or more Links", "none")
    for place, part in enumerate(parts):
        checks.instance("join_links", f"parts[{place}]", part, Links, "Pass dlsim.networks.links(N), ethernet(N), ...")
    sizes = [part.upload.shape[0] for part in parts]
    num_powered = sum(part.watts is not None for part in parts)
    if num_powered not in (0, len(parts)):
        got = f"those of {num_powered} of {len(parts)}"
        checks.fail("join_links", "watts", "given for all parts or for none", got)

    def joined(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        if all(one is None for one in found):
            return None
        filled = [0.0 if one is None else one for one in found]
        return jnp.concatenate([jnp.broadcast_to(one, (n,)) for one, n in zip(filled, sizes, strict=True)])

    def cells(name: str) -> Array | None:
        found: list[Array] = []
        above: Any = 0
        for part, size in zip(parts, sizes, strict=True):
            own = getattr(part, name)
            own = jnp.full(size, -1, jnp.int32) if own is None else own
            found.append(jnp.where(own < 0, -1, own + above))
            above = jnp.maximum(above, jnp.max(found[-1]) + 1)
        return None if all(getattr(part, name) is None for part in parts) else jnp.concatenate(found)

    watts = None
    if num_powered:
        watts = jax.tree.map(lambda *each: jnp.concatenate(each), *(part.watts for part in parts))
    first = parts[0]
    return first._replace(
        latency=joined("latency"),
        upload=joined("upload"),
        download=joined("download"),
        compute=joined("compute"),
        jitter=joined("jitter"),
        compute_jitter=joined("compute_jitter"),
        loss=joined("loss"),
        upload_cells=cells("upload_cells"),
        download_cells=cells("download_cells"),
        watts=watts,
    )
