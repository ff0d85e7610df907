"""What messages and gradients take in simulated seconds, and how each node spends them.

Every verb ends in `between`, `to_server` or `from_server`, a round of learning in `computed` and `end_round`.  Without a
ledger (`Network.with_links(by_node=True)`) the clock is all that is kept.  Methods by clocks write it event by event
(`work_seconds`, `booked_at`), those with a schedule job by job (`dlsim.arrivals.executor`).  What is drawn belongs to (key
of the verb, stream, node); nothing is drawn where the links have no jitter.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array
from dlsim.networks.fields import NetworkFields, NetworkState
from dlsim.networks.pace.cells import finishing_times
from dlsim.networks.pace.links import Ledger, Links
from dlsim.running import counters

Fields = TypeVar("Fields", bound=NetworkFields)


def elapse(network: Fields, seconds: Array) -> Fields:
    """The network `seconds` of simulated time later."""
    traffic = network.state.traffic
    traffic = traffic._replace(clock=counters.advance(traffic.clock, seconds))
    return network.with_state(network.state._replace(traffic=traffic))


def timed_links(network: NetworkFields) -> Links | None:
    """The links if an exchange takes simulated time by them; None: there are none, or rounds have a length of their own."""
    delays = network.delays
    return None if delays is not None and delays.has_rounds_of_fixed_length else network.links


def between(network: Fields, key: Array, stream: str, sent_bits: Array, heard_bits: Array) -> Fields:
    """After one round of messages between nodes, of which each sent and heard so many bits, `[N]`.

    Each node pushes its copies one after the other through its upload and takes what it hears through its download;
    the round ends when the last node is done, one latency later.  A round without messages takes no time.
    """
    links = timed_links(network)
    if links is None:
        return network
    draws = (key, stream, network.node_ids)
    up = _transfer(links, "upload", draws, sent_bits, None)
    down = _transfer(links, "download", draws, heard_bits, None)
    busy = _late(links.latency, jnp.maximum(up, down))
    spent = {"upload": _late(links.latency, up), "download": _late(links.latency, down)}
    return _spend(network, spent, busy, jnp.max(busy))


def to_server(network: Fields, key: Array, stream: str, bits: Array, rows: Array | None) -> Fields:
    """After so many bits of each node of the cohort went to the server, `[n]`, and it made one value of them."""
    links = timed_links(network)
    if links is None:
        return network
    return _with_server(network, (key, stream), bits, rows, "upload", links.server_download, links.aggregation)


def from_server(network: Fields, key: Array, stream: str, bits: Array, rows: Array | None) -> Fields:
    """After so many bits of the server went to each node of the cohort, `[n]`."""
    links = timed_links(network)
    if links is None:
        return network
    return _with_server(network, (key, stream), bits, rows, "download", links.server_upload, None)


def computed(network: Fields, key: Array, num_gradients: Array, rows: Array | None) -> Fields:
    """After so many gradient evaluations of each node of the cohort, `[n]`."""
    links = network.links
    if links is None:
        return network
    seconds = _rows(links.compute, rows) * num_gradients
    if links.compute_jitter is not None:
        ids = _rows(network.node_ids, rows)
        seconds = seconds * _factor(keys.stream(key, "seconds of computing"), ids, _rows(links.compute_jitter, rows))
    whole, slowest = _whole(network, seconds, rows), jnp.max(seconds)
    if network.delays is not None and network.delays.has_rounds_of_fixed_length:
        slowest = jnp.maximum(slowest, network.delays.values)
    return _spend(network, {"compute": whole}, whole, slowest)


def end_round(network: Fields) -> Fields:
    """The round is over: who was done early has waited for the last."""
    ledger = network.state.ledger
    if not isinstance(ledger, Ledger):
        return network
    total = ledger.elapsed
    if network.barrier == "round":
        total = total + jnp.max(ledger.busy)
        network = elapse(network, total)
    waited = jnp.maximum(total - ledger.busy, 0)
    if network.is_present is not None:  # who is away does not wait
        waited = jnp.where(network.is_present, waited, 0)
    ledger = ledger._replace(
        waiting=counters.advance(ledger.waiting, waited),
        busy=jnp.zeros_like(ledger.busy),
        elapsed=jnp.zeros_like(ledger.elapsed),
    )
    return network.with_state(network.state._replace(ledger=ledger))


def by_node(state: NetworkState, links: Links | None) -> dict[str, Any]:
    """What a ledger says, by node `[N]` and since the start; nothing where none is kept."""
    ledger = state.ledger
    if not isinstance(ledger, Ledger):
        return {}
    names = ("compute", "upload", "download", "waiting")
    out: dict[str, Any] = {f"{name}_seconds": getattr(ledger, name) for name in names}
    if links is not None and links.watts is not None:
        clocks = {name: getattr(ledger, name) for name in names}
        floats = {name: c.seconds.astype(jnp.float32) + c.nanoseconds * jnp.float32(1e-9) for name, c in clocks.items()}
        parts = [getattr(links.watts, name) * floats[name] for name in names]
        out["joules"] = parts[0] + parts[1] + parts[2] + parts[3]
    return out


def _with_server(
    network: Fields,
    key: tuple[Array, str],
    bits: Array,
    rows: Array | None,
    way: str,
    server_rate: Array,
    after: Array | None,
) -> Fields:
    """The slower of the slowest node and the server's own link."""
    links: Any = network.links
    late = links.latency if links.latency.ndim == 0 else _rows(links.latency, rows)
    own = _late(late, _transfer(links, way, (*key, _rows(network.node_ids, rows)), bits, rows))
    server = jnp.sum(bits) / server_rate
    seconds = jnp.maximum(jnp.max(own), _late(jnp.max(jnp.where(bits > 0, late, 0)), server))
    if after is not None:
        seconds = seconds + jnp.where(server > 0, after, 0)
    whole = _whole(network, own, rows)
    return _spend(network, {way: whole}, whole, seconds)


def _transfer(links: Links, way: str, draws: tuple[Array, str, Array], bits: Array, rows: Array | None) -> Array:
    """Seconds of each node's transfer, latency not among them, `[n]`; `draws`: key, stream and ids of the nodes."""
    rate, cells = (_rows(getattr(links, name), rows) for name in (way, f"{way}_cells"))
    if links.loss is not None:
        rate = rate * (1 - _rows(links.loss, rows))
    seconds = bits / rate
    if cells is not None:
        seconds = finishing_times(seconds, cells)
    if links.jitter is not None:
        key, stream, ids = draws
        seconds = seconds * _factor(keys.stream(key, f"{way} seconds of {stream}"), ids, _rows(links.jitter, rows))
    return seconds


def _factor(key: Array, ids: Array, sigma: Array) -> Array:
    """A log-normal factor of mean 1."""
    return jnp.exp(sigma * keys.node_normal(key, ids, 1)[:, 0] - jnp.square(sigma) / 2)


def _late(latency: Array, seconds: Array) -> Array:
    return jnp.where(seconds > 0, seconds + latency, 0.0)


def _rows(values: Any, rows: Array | None) -> Any:
    return values if rows is None or values is None else values[rows]


def _whole(network: NetworkFields, values: Array, rows: Array | None) -> Array:
    """Values of the cohort as those of all nodes, `[N]`."""
    if rows is None or not isinstance(network.state.ledger, Ledger):
        return values
    return jnp.zeros(network.num_nodes, values.dtype).at[rows].set(values, unique_indices=True)


def _spend(network: Fields, spent: dict[str, Array], busy: Array, seconds: Array) -> Fields:
    """`seconds` pass, in which nodes are busy for so long, `[N]`, with what is `spent`."""
    ledger = network.state.ledger
    if not isinstance(ledger, Ledger):
        return elapse(network, seconds)
    clocks = {name: counters.advance(getattr(ledger, name), each) for name, each in spent.items()}
    more = seconds
    if network.barrier == "round":
        # Everyone goes on when it is done itself: only what the server takes alone is everyone's.
        more = jnp.maximum(seconds - jnp.max(busy), 0)
    else:
        network = elapse(network, seconds)
    ledger = ledger._replace(busy=ledger.busy + busy, elapsed=ledger.elapsed + more, **clocks)
    return network.with_state(network.state._replace(ledger=ledger))


def work_seconds(links: Links | None, place: Array, num_gradients: Array, sent_bits: Array, heard_bits: Array) -> Any:
    """Seconds of computing, sending and hearing that events ask of the nodes at `place`, `[n]` each."""
    assert links is not None
    through = 1.0 if links.loss is None else 1 - links.loss[place]
    latency = links.latency if links.latency.ndim == 0 else links.latency[place]
    up = _late(latency, sent_bits / (links.upload[place] * through))
    down = _late(latency, heard_bits / (links.download[place] * through))
    return links.compute[place] * num_gradients, up, down


def booked_at(books: Ledger, gap: Array, work: tuple[Array, Array, Array]) -> Ledger:
    """The books of nodes `gap` seconds after they were last written, when there is this much work more, `[n]` each.

    A node does one thing after the other.  With u its work that is left (`busy`), and w what comes now:

        waiting <- waiting + max(gap - u, 0),   u <- max(u - gap, 0) + w
    """
    books = settled(books, gap)
    clocks: dict[str, Any] = {
        name: counters.advance(getattr(books, name), each)
        for name, each in zip(("compute", "upload", "download"), work, strict=True)
    }
    return books._replace(**clocks, busy=books.busy + (work[0] + work[1] + work[2]))


def settled(books: Ledger, gap: Array) -> Ledger:
    """The books `gap` seconds later, without new work."""
    waiting = counters.advance(books.waiting, jnp.maximum(gap - books.busy, 0))
    return books._replace(waiting=waiting, busy=jnp.maximum(books.busy - gap, 0))
