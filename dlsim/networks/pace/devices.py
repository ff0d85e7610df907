"""Scenarios of computers and their links: who is there by simulated time, who is slow, whose rate changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.network import Network
from dlsim.networks.pace.device_traces import choose, read_rates, read_sessions
from dlsim.networks.pace.seconds import elapse
from dlsim.networks.scenes.presence import restrict
from dlsim.running.counters import Clock

_LINKS = "Call network.with_links(dlsim.networks.links(...)) first."


class SessionState(NamedTuple):
    is_present: Array  # bool [N]
    looked: Clock  # []


def sessions(present_seconds: Any, absent_seconds: Any) -> Scenario:
    """Nodes are there for exponential times of mean `present_seconds` and away for `absent_seconds`, in simulated time.

    At first each is there with its share p = present / (present + absent) of the time.  After dt seconds

        P(there | was there) = p + (1 - p) exp(-dt (1/present + 1/absent)),   P(there | was away) = p (1 - exp(...)),

    which is what looking at two-state Markov processes between rounds sees, exactly: sessions within a round are missed.
    Where nobody is there, time goes on until the first comes back.  Of rounds whose messages take no time nobody leaves.

    Args:
      present_seconds, absent_seconds: means, above 0 (traced).

    Raises ValueError where the network has no links, as its clock would stand still (use `churn` by rounds).
    """
    checks.number("sessions", "present_seconds", present_seconds, 0.0, open_minimum=True)
    checks.number("sessions", "absent_seconds", absent_seconds, 0.0, open_minimum=True)

    def init(key: Array, network: Network) -> SessionState:
        check_links("sessions", network)
        share = present_seconds / (present_seconds + jnp.float32(absent_seconds))
        draw = keys.node_uniform(key, network.node_ids, 1)[:, 0]
        return SessionState(draw < share, network.state.traffic.clock)

    def step(key: Array, state: SessionState, network: Network) -> tuple[SessionState, Network]:
        share = present_seconds / (present_seconds + jnp.float32(absent_seconds))
        now = network.state.traffic.clock
        rate = 1 / jnp.float32(present_seconds) + 1 / jnp.float32(absent_seconds)
        kept = jnp.exp(-between_clocks(state.looked, now) * rate)
        draw = keys.node_uniform(key, network.node_ids, 2)
        there = draw[:, 0] < share + jnp.where(state.is_present, 1 - share, -share) * kept
        # The exponential has no memory: who is away now comes back after a fresh draw of it.
        until = -jnp.float32(absent_seconds) * jnp.log1p(-draw[:, 1])
        there, network = _wait(there, until, network)
        return SessionState(there, network.state.traffic.clock), restrict(network, there)

    return Scenario(init=init, step=step)


def session_trace(path: str | Path, *, seed: int | None = None, seconds_per_round: Any = None) -> Scenario:
    """Nodes are there when the devices of a file were: rows `client_id, active, inactive[, finish_time]`, in seconds.

    Node i takes part in a round if its device is there when the round begins: at the simulated time t, or t =
    `seconds_per_round` times the rounds so far.  A device's time begins anew at its `finish_time` (by default its last
    `inactive`, rounded up).  Where nobody is there, simulated time goes on until the first comes.  Times are told apart to
    a 16-millionth of the trace (0.06 s in a week).  The columns are those of FedScale's `client_behave_trace`, a row a
    session: its lists `active` and `inactive` of each client, side by side; `duration` and `model` are not used.

    Args:
      path: of the CSV file.
      seed: draws N different devices of the file; None: the first N.
      seconds_per_round: None: the network's clock, for which it needs links.

    Raises ValueError for unknown columns, empty cells, sessions that overlap or end before they begin, or a file with
      fewer devices than nodes.
    Source: Lai et al., FedScale, ICML 2022.  Differs: a session is without its last instant.
    """
    where = "session_trace"
    trace = read_sessions(where, path)
    if seconds_per_round is not None:
        checks.number(where, "seconds_per_round", seconds_per_round, 0.0, open_minimum=True)
    if seed is not None:
        checks.seed(where, seed)

    def init(key: Array, network: Network) -> Array:
        del key
        if seconds_per_round is None:
            check_links(where, network, "Or pass seconds_per_round.")
        choose(where, len(trace.period), network.num_nodes, seed)
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        rows = choose(where, len(trace.period), network.num_nodes, seed)
        starts, ends, period = (table[network.node_ids] for table in _tables(trace, rows))
        now = _place(network, state, seconds_per_round, period)[:, None]
        there = jnp.any((starts <= now) & (now < ends), axis=1)
        if seconds_per_round is None:
            ahead = jnp.where(starts >= now, starts - now, starts + period[:, None] - now)
            there, network = _wait(there, jnp.min(ahead, axis=1), network)
        return state + 1, restrict(network, there)

    return Scenario(init=init, step=step, source="Lai et al., FedScale, ICML 2022")


def rate_trace(
    path: str | Path, *, seed: int | None = None, largest_gap: float | None = None, seconds_per_round: Any = None
) -> Scenario:
    """Nodes' rates are those that were measured: rows `[client_id,] Timestamp, DL_bitrate, UL_bitrate`.

    Rates are in kbit/s, as in the public traces of 4G and 5G by Raca et al.; times in seconds, or as dates
    (2019.12.14_10.16.30).  A round has the last rates at or before its beginning: at the simulated time since the first
    sample, or `seconds_per_round` times the rounds so far.  A trace begins anew one usual step after its last sample.

    Args:
      path: of the CSV file; without `client_id` it is of one device.
      seed: draws N different devices of the file; None: the first N.
      largest_gap: seconds between samples of a device that are no gap; None: twice the usual (median) step.
      seconds_per_round: None: the network's clock.

    Raises ValueError for unknown columns, empty cells, rates of zero, gaps, or a file with fewer devices than nodes.
    Source of the columns: Raca, Leahy, Sreenan, Quinlan, Beyond throughput, the next generation: a 5G dataset with
      channel and context metrics, MMSys 2020.
    """
    where = "rate_trace"
    if largest_gap is not None:
        checks.known(where, "largest_gap", largest_gap)
        checks.number(where, "largest_gap", largest_gap, 0.0, open_minimum=True)
    trace = read_rates(where, path, largest_gap)
    if seconds_per_round is not None:
        checks.number(where, "seconds_per_round", seconds_per_round, 0.0, open_minimum=True)
    if seed is not None:
        checks.seed(where, seed)

    def init(key: Array, network: Network) -> Array:
        del key
        check_links(where, network)
        choose(where, len(trace.period), network.num_nodes, seed)
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        rows = choose(where, len(trace.period), network.num_nodes, seed)
        times, down, up, period = (table[network.node_ids] for table in _tables(trace, rows))
        now = _place(network, state, seconds_per_round, period)[:, None]
        last = jnp.sum(times <= now, axis=1, keepdims=True) - 1
        download, upload = (jnp.take_along_axis(table, last, axis=1)[:, 0] for table in (down, up))
        return state + 1, _relinked(network, download=download, upload=upload)

    return Scenario(init=init, step=step, source="Raca et al., MMSys 2020")


def stragglers(slowest: Any, fastest: Any = None, *, probability: Any = 1.0, lasting: bool = False) -> Scenario:
    """Each node computes slower with `probability` (traced), by a factor drawn evenly from [fastest, slowest] (traced).

    Args:
      slowest: the largest factor on the seconds of computing, above 0.
      fastest: the smallest; None: the same.
      probability: with which a node is slowed down.
      lasting: the draw of the beginning lasts for the run; False: everyone draws anew in each round (structural).

    Raises ValueError where the network has no links.
    """
    checks.number("stragglers", "slowest", slowest, 0.0, open_minimum=True)
    if fastest is not None:
        checks.number("stragglers", "fastest", fastest, 0.0, open_minimum=True)
        if checks.is_concrete((fastest, slowest)) and fastest > slowest:
            checks.fail("stragglers", "fastest", f"at most slowest, {float(slowest):g}", f"{float(fastest):g}")
    checks.probability("stragglers", "probability", probability)
    checks.flag("stragglers", "lasting", lasting)

    def draw(key: Array, network: Network) -> Array:
        least = slowest if fastest is None else fastest
        draws = keys.node_uniform(key, network.node_ids, 2)
        factor = least + (jnp.float32(slowest) - least) * draws[:, 1]
        return jnp.where(draws[:, 0] < probability, factor, 1.0)

    def init(key: Array, network: Network) -> Any:
        check_links("stragglers", network)
        return draw(key, network) if lasting else ()

    def step(key: Array, state: Any, network: Network) -> tuple[Any, Network]:
        factor = state if lasting else draw(key, network)
        links: Any = network.links
        return state, _relinked(network, compute=links.compute * factor)

    return Scenario(init=init, step=step)


def fading(sigma: Any, memory: Any = 0.9) -> Scenario:
    """Rates of every node, both ways, times exp(x), where x wanders slowly.

        x' = memory x + sqrt(1 - memory^2) sigma z,   z standard normal, drawn by (seed, step, node)

    so x has standard deviation sigma in every round; what is drawn for one transfer alone is the links' `jitter`.

    Args:
      sigma: at least 0 (traced).
      memory: correlation from one round to the next, in [0, 1] (traced).

    Raises ValueError where the network has no links.
    """
    checks.number("fading", "sigma", sigma, 0.0)
    checks.probability("fading", "memory", memory)

    def init(key: Array, network: Network) -> Array:
        check_links("fading", network)
        return sigma * keys.node_normal(key, network.node_ids, 1)[:, 0]

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        fresh = keys.node_normal(key, network.node_ids, 1)[:, 0]
        state = memory * state + jnp.sqrt(1 - jnp.square(jnp.float32(memory))) * sigma * fresh
        links: Any = network.links
        factor = jnp.exp(state)
        return state, _relinked(network, upload=links.upload * factor, download=links.download * factor)

    return Scenario(init=init, step=step)


def check_links(where: str, network: Network, more: str = "") -> None:
    """The network has links, or ValueError."""
    if network.links is None:
        checks.fail(where, "network", "one with links", "one without", f"{_LINKS} {more}".strip())


def _relinked(network: Network, **changes: Array) -> Network:
    links: Any = network.links
    return network.replace(links=links._replace(**changes))


def _tables(trace: Any, rows: np.ndarray) -> list[Array]:
    """Of the nodes' devices: seconds and rates as float32, periods as uint32."""
    kinds = [jnp.uint32 if table is trace.period else jnp.float32 for table in trace]
    return [jnp.asarray(table[rows], kind) for table, kind in zip(trace, kinds, strict=True)]


def _place(network: Network, rounds: Array, seconds_per_round: Any, period: Array) -> Array:
    """Where in its own time each node is, float32 `[N]`."""
    if seconds_per_round is not None:
        return jnp.mod(rounds.astype(jnp.float32) * seconds_per_round, period.astype(jnp.float32))
    clock = network.state.traffic.clock
    return (clock.seconds % period).astype(jnp.float32) + clock.nanoseconds.astype(jnp.float32) * 1e-9


def between_clocks(before: Clock, after: Clock) -> Array:
    """Seconds from one reading of a clock to a later one, float32."""
    whole = (after.seconds - before.seconds).astype(jnp.float32)
    return whole + (after.nanoseconds.astype(jnp.float32) - before.nanoseconds.astype(jnp.float32)) * 1e-9


def _wait(there: Array, until: Array, network: Network) -> tuple[Array, Network]:
    """Where nobody is there, those who come first, and the network at that time; `until` `[N]` in seconds."""
    first = jnp.min(until)
    nobody = ~jnp.any(there)
    network = elapse(network, jnp.where(nobody, first, 0.0))
    return jnp.where(nobody, until <= first, there), network
