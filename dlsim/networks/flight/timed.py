"""How long messages are under way in simulated seconds, for methods whose nodes act when their clocks say so.

A message that is sent at time t is there at t + d.  When things happen is structure, as clocks are: seconds are known before
anything is compiled, and the host puts the arrivals on the tape of events (`dlsim.clocks.flights`).  What arrives is taken
in at once, by itself; a receiver that wants the newest leaves out what a later message of the same sender overtook.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.networks.flight.delays import OWNERS, Delays, message_seconds

LONGEST_SECONDS = 1e8
MOST_ROOM = 2**24  # messages


class Posted(NamedTuple):
    """L messages on the host, as delays see them."""

    senders: np.ndarray  # int [L] positions
    receivers: np.ndarray  # int [L] positions
    edges: np.ndarray  # int [L] in the network's order; of delays that are not a link's own: anything
    numbers: np.ndarray  # int64 [L] of the message at its clock, from 0
    uniform: np.ndarray  # float64 [L] in (0, 1), drawn for each


def fixed_seconds(seconds: Any, *, per: str = "all", room: int | None = None) -> Delays:
    """Every message takes the same time, or each link, or each node, has a time of its own.

    Args:
      seconds: at least 0, known outside jit: one for all; `[E]` with `per="link"`, in the network's order of edges; `[N]`
        with `per="node"`, of what that node sends.
      per: `"all"`, `"link"` or `"node"`.
      room: messages that may be under way at a time, for which memory is kept; structural.  Default: as many as trial tapes
        of the clocks had at their worst, and 4 (1 + square root of it) more.  One that finds no room is lost, and the run's
        status says BUFFER_OVERFLOW.
    """
    where = "fixed_seconds"
    checks.one_of(where, "per", per, OWNERS)
    values = _seconds(where, "seconds", seconds, () if per == "all" else (None,))
    return _delays(where, values, "fixed", room, per)


def random_seconds(samples: Any, *, room: int | None = None) -> Delays:
    """Every message takes one of these times, drawn evenly and anew: measured ones, or quantiles of any law.

    So later messages may overtake earlier ones.

    Args:
      samples: seconds, at least 0, `[S]`, known outside jit.
      room: as in `fixed_seconds`.
    """
    where = "random_seconds"
    return _delays(where, _seconds(where, "samples", samples, (None,)), "random", room)


def log_normal_seconds(median: Any, sigma: Any, *, room: int | None = None) -> Delays:
    """Every message takes `median exp(sigma z)` seconds, z standard normal, drawn anew: a heavy tail.

    The mean is `median exp(sigma^2 / 2)`.  Later messages may overtake earlier ones.

    Args:
      median: seconds, above 0, known outside jit.
      sigma: standard deviation of the logarithm, in [0, 5], likewise.
      room: as in `fixed_seconds`.
    """
    where = "log_normal_seconds"
    checks.known(where, "median and sigma", (median, sigma), "known numbers", _OUTSIDE)
    checks.number(where, "median", median, 0.0, LONGEST_SECONDS, open_minimum=True)
    checks.number(where, "sigma", sigma, 0.0, 5.0)
    return _delays(where, np.array([float(median), float(sigma)]), "log_normal", room)


def trace_seconds(seconds: Any, *, per: str = "all", room: int | None = None) -> Delays:
    """Times that were recorded: message k of a clock takes row k mod T of a table.

    A clock is a node's where it picks a neighbour, a link's or a pair's otherwise, as the method says.

    Args:
      seconds: at least 0, known outside jit: `[T]` for all; `[T, E]` with `per="link"`; `[T, N]` with `per="node"`.
      per, room: as in `fixed_seconds`.
    """
    where = "trace_seconds"
    checks.one_of(where, "per", per, OWNERS)
    values = _seconds(where, "seconds", seconds, (None,) if per == "all" else (None, None))
    return _delays(where, values, "trace", room, per)


def link_seconds(bits: Any = None, *, room: int | None = None) -> Delays:
    """Times that follow from the network's links: `latency + bits / min(upload of the sender, download of the receiver)`.

    Messages do not wait for each other: each has its links to itself.

    Args:
      bits: of a message, above 0, known outside jit; None: those of a whole message, its header included.  With a channel
        that changes the size it must be given: times are known before a message is.
      room: as in `fixed_seconds`.
    """
    where = "link_seconds"
    if bits is not None:
        checks.known(where, "bits", bits, "a known number", _OUTSIDE)
        checks.number(where, "bits", bits, 0.0, open_minimum=True)
    return _delays(where, np.asarray(0.0 if bits is None else float(bits)), "links", room)


def flight_seconds(delays: Delays, posted: Posted, links: Any, whole_bits: float) -> np.ndarray:
    """Seconds that each message is under way, float64 `[L]`.

    Args:
      links: of the network, for delays that follow from them.
      whole_bits: of a message, where the delays do not say.
    """
    values = np.asarray(delays.values, np.float64)
    if delays.kind == "links":
        host = links._replace(
            **{k: np.asarray(getattr(links, k), np.float64) for k in ("latency", "upload", "download")}
        )
        messages: Any = (posted.senders, posted.receivers, np.full(len(posted.senders), float(values) or whole_bits))
        return np.asarray(message_seconds(host, *messages), np.float64)
    if delays.kind == "random":
        return values[np.minimum((posted.uniform * len(values)).astype(np.int64), len(values) - 1)]
    if delays.kind == "log_normal":
        from scipy.special import ndtri

        return np.minimum(values[0] * np.exp(values[1] * ndtri(posted.uniform)), LONGEST_SECONDS)
    owner = {"all": (), "link": (posted.edges,), "node": (posted.senders,)}[delays.per]
    rows = (posted.numbers % len(values),) if delays.kind == "trace" else ()
    place = (*rows, *owner)
    return np.broadcast_to(values[place] if place else values, posted.senders.shape)


_OUTSIDE = "When things happen is structure: build outside jit."


def _seconds(where: str, name: str, given: Any, shape: tuple[Any, ...]) -> np.ndarray:
    checks.known(where, name, given, "known numbers", _OUTSIDE)
    if not shape:
        return np.asarray(float(checks.number(where, name, given, 0.0, LONGEST_SECONDS)))
    values: np.ndarray = checks.array(where, name, given, shape, 0.0, LONGEST_SECONDS).astype(np.float64)
    if values.size == 0:
        checks.fail(where, name, "numbers of seconds, one or more", "none")
    return values


def _delays(where: str, values: np.ndarray, kind: str, room: int | None, per: str = "all") -> Delays:
    if room is not None:
        room = checks.integer(where, "room", room, 1, MOST_ROOM)
    host: Any = values  # NumPy's, in float64: device arrays would round times to seven digits
    return Delays(values=host, kind=kind, max_rounds=0, per=per, unit="seconds", room=room)
