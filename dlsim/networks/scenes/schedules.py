"""When nodes talk, and how much: one number a round, as data, and the scenarios that follow it.

A schedule is a float array `[T]`, entry t for round t = 0..T-1.  The functions here make one; values, rounds and periods may
be traced, so that a sweep over schedules is one program, and any array of that form will do.  `otherwise` may be a schedule
itself: a single merge in the last round of a sparse run is `given_rounds(T, [T - 1], N - 1, otherwise=0.2)`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.network import Network

SHAPES = ("linear", "cosine")


def given_rounds(num_rounds: int, rounds: Any, value: Any = 1.0, *, otherwise: Any = 0.0) -> Array:
    """`value` in the given rounds, `otherwise` in all others; float32 `[T]`.

    Args:
      num_rounds: T, structural.
      rounds: integers `[k]` in 0..T-1; of traced ones those beyond are left out.
      value: a number, traced or not.
      otherwise: a number, or a schedule `[T]`.
    """
    where = "given_rounds"
    num, base, value = _parts(where, num_rounds, value, otherwise)
    chosen = checks.array(where, "rounds", rounds, (None,))
    if not jnp.issubdtype(chosen.dtype, jnp.integer) and chosen.size:
        checks.fail(where, "rounds", "whole numbers, [k]", checks.describe(rounds))
    if checks.is_concrete(chosen):
        beyond = [int(one) for one in np.asarray(chosen) if not 0 <= one < num]
        if beyond:
            checks.fail(where, "rounds", f"within the run's {num} rounds, 0..{num - 1}", beyond[0])
    is_given = jnp.any(jnp.arange(num)[:, None] == jnp.asarray(chosen)[None, :], axis=1)
    return jnp.where(is_given, value, base)


def periodic_rounds(
    num_rounds: int, period: Any, value: Any = 1.0, *, first: Any | None = None, otherwise: Any = 0.0
) -> Array:
    """`value` in every `period`-th round, `otherwise` in all others; float32 `[T]`.

        t = first, first + P, first + 2 P, ...

    Args:
      num_rounds: T, structural.
      period: P, a whole number >= 1, traced or not.
      value, otherwise: as in `given_rounds`.
      first: default P - 1: after P - 1 rounds without.  Traced or not.
    """
    where = "periodic_rounds"
    num, base, value = _parts(where, num_rounds, value, otherwise)
    _round_number(where, "period", period, 1, num)
    first = period - 1 if first is None else first
    _round_number(where, "first", first, 0, num - 1)
    since = jnp.arange(num) - first
    return jnp.where((since >= 0) & (since % period == 0), value, base)


def window_rounds(
    num_rounds: int, start: Any, length: Any | None = None, value: Any = 1.0, *, otherwise: Any = 0.0
) -> Array:
    """`value` in the rounds start, ..., start + length - 1, `otherwise` before and after; float32 `[T]`.

    Args:
      num_rounds: T, structural.
      start: the first round of the window, traced or not.
      length: how many rounds; None: to the end of the run.  A window that ends after the run is refused, unless it is
        traced, and then cut.
      value, otherwise: as in `given_rounds`.
    """
    where = "window_rounds"
    num, base, value = _parts(where, num_rounds, value, otherwise)
    _round_number(where, "start", start, 0, num - 1)
    length = num - start if length is None else length
    _round_number(where, "length", length, 1, None)
    if checks.is_concrete((start, length)) and start + length > num:
        got = f"rounds {start} to {start + length - 1}"
        checks.fail(where, "the window", f"within the run's {num} rounds, 0..{num - 1}", got)
    t = jnp.arange(num)
    return jnp.where((t >= start) & (t < start + length), value, base)


def ramp_rounds(num_rounds: int, first: Any, last: Any, *, shape: str = "linear") -> Array:
    """From `first` to `last`, which the last round has; float32 `[T]`.

        p = (t + 1) / T,   value = first + (last - first) p                      shape="linear"
                           value = first + (last - first) (1 - cos(pi p)) / 2    shape="cosine"

    Args:
      num_rounds: T, structural.
      first, last: numbers, traced or not.
      shape: structural.
    """
    where = "ramp_rounds"
    num = checks.integer(where, "num_rounds", num_rounds, 1)
    for name, given in (("first", first), ("last", last)):
        checks.number(where, name, given)
    checks.one_of(where, "shape", shape, SHAPES)
    p = (jnp.arange(num) + 1) / num
    return first + (last - first) * (p if shape == "linear" else (1 - jnp.cos(jnp.pi * p)) / 2)


def _parts(where: str, num_rounds: Any, value: Any, otherwise: Any) -> tuple[int, Array, Array]:
    num = checks.integer(where, "num_rounds", num_rounds, 1)
    checks.number(where, "value", value)
    if isinstance(otherwise, int | float):
        checks.number(where, "otherwise", otherwise)
    else:
        otherwise = checks.array(where, "otherwise", otherwise)
        if jnp.ndim(otherwise):
            checks.shape(where, "otherwise", otherwise, (num,))
    base = jnp.broadcast_to(jnp.asarray(otherwise, jnp.float32), (num,))
    return num, base, jnp.asarray(value, jnp.float32)


def _round_number(where: str, name: str, given: Any, least: int, most: int | None) -> None:
    """A number of rounds: an integer within the run, or a traced number."""
    if isinstance(given, jax.core.Tracer):
        return
    whole = int(given) if isinstance(given, float) and given.is_integer() else given
    whole = checks.integer(where, name, whole, least)
    if most is not None and whole > most:
        checks.fail(where, name, f"within the run, at most {most}", whole)


def random_neighbors(degree: Any) -> Scenario:
    """In every round each node draws whom it hears: r of its neighbours at random, and averages them with its own.

        k_i = floor(r) + Bernoulli(r - floor(r)),   N_i: k_i of i's neighbours without replacement, anew in every round
        W_ij = 1 / (1 + k_i) for j in N_i and j = i,   else 0

    W is row stochastic, and neither symmetric nor doubly stochastic: the mean of the nodes is not preserved.  On
    `complete(N)` neighbours are all others: r = N - 1 is the exact mean, r = 0 silence, r = 0.2 hears one other in every
    fifth round.  On another graph the draw is among its links.  A node with fewer than r neighbours hears them all.

    Nodes that scenarios before this one in a chain have sent away are not drawn; those sent away by scenarios after it are
    drawn and say nothing (their weight stays with the receiver).

    Args:
      degree: r >= 0, a number, or one a round, `[T]` (`window_rounds`, `given_rounds`, ...), traced or not.  A run that is
        longer keeps the last.

    Cost: a sort of every node's neighbours a round, and where the network mixes by `average` or `dense` a matrix product;
      a graph with a table of neighbours is needed (complete graphs up to 2,048 nodes have one).
    Source: Zhu, Zhang, Wang, Zhou and Wang, On the surprising effectiveness of a single global merging in decentralized
      learning, ICLR 2026, with the draws of their published program.  Differs: r beyond the neighbours there are is
      refused, not cut.
    """
    where = "random_neighbors"
    degrees = _schedule(where, "degree", degree)

    def init(key: Array, network: Network) -> Array:
        del key
        if network.neighbors is None:
            fix = "Use complete(N) of at most 2,048 nodes, a graph of bounded degree, or epidemic(s)."
            checks.fail(where, "network", "one with a table of neighbours", f"{network.num_nodes} nodes and none", fix)
        if checks.is_concrete((degrees, network.in_degrees)):
            most, largest = int(np.asarray(network.in_degrees).max(initial=0)), float(np.max(degrees))
            if largest > most:
                rule = f"at most {most}, the neighbours there are"
                checks.fail(where, "degree", rule, f"{largest:g}")
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        if network.is_linked is not None:
            checks.fail(
                where, "place", "before scenarios that take links away", "after one", "Put it first in chain()."
            )
        now = _at(degrees, state)
        neighbors: Any = network.neighbors
        table: Any = network.neighbor_edges
        can_hear = table < network.num_edges
        if network.is_present is not None:
            can_hear = can_hear & network.is_present[neighbors] & network.is_present[:, None]
        ids = network.node_ids
        more = keys.node_uniform(keys.stream(key, "how many"), ids, 1)[:, 0] < now - jnp.floor(now)
        wanted = jnp.minimum(jnp.floor(now).astype(jnp.int32) + more, jnp.sum(can_hear, axis=1))
        receivers = jnp.broadcast_to(ids[:, None], neighbors.shape)
        draws = jnp.where(can_hear, keys.edge_uniform(keys.stream(key, "whom"), receivers, ids[neighbors]), 2.0)
        last = jnp.take_along_axis(jnp.sort(draws, axis=1), jnp.maximum(wanted - 1, 0)[:, None], axis=1)
        is_heard = can_hear & (draws <= last) & (wanted > 0)[:, None]
        return state + 1, _hearing(network, is_heard)

    properties = frozenset({"connected", "row_stochastic"})
    return Scenario(init=init, step=step, source="Zhu et al., ICLR 2026", properties=properties)


def _hearing(network: Network, is_heard: Array) -> Network:
    """The network in which node i hears those of its neighbours that `is_heard` `[N, K]` says, alike and like itself."""
    num, num_edges = network.num_nodes, network.num_edges
    neighbors: Any = network.neighbors
    table: Any = network.neighbor_edges
    own = jnp.arange(num, dtype=neighbors.dtype)[:, None]
    count = jnp.sum(is_heard, axis=1)
    share = (1 / (1 + count)).astype(network.self_weights.dtype)
    weights = jnp.where(is_heard, share[:, None], 0)
    is_dense = network.lowering in ("average", "dense")
    matrix = jnp.zeros((num, num), weights.dtype).at[own, neighbors].add(weights) if is_dense else None
    return network.replace(
        is_edge=jnp.zeros(num_edges, bool).at[table].set(is_heard, mode="drop"),
        edge_weights=jnp.zeros(num_edges, weights.dtype).at[table].set(weights, mode="drop"),
        self_weights=share,
        out_degrees=jnp.zeros(num, jnp.uint32).at[neighbors].add(is_heard.astype(jnp.uint32)),
        in_degrees=count.astype(jnp.uint32),
        neighbors=jnp.where(is_heard, neighbors, own),
        neighbor_edges=jnp.where(is_heard, table, num_edges),
        neighbor_weights=weights,
        matrix=matrix,
        lowering="dense" if is_dense else "neighbors",
        grid=None,
        offsets=None,
        labels=None,
        properties=frozenset({"connected", "row_stochastic"}),
    )


def scheduled_links(share: Any) -> Scenario:
    """Nodes talk by a schedule: in round t every link is up with probability s_t; 0: silence, 1: as the network is.

    What a link that is down leaves over stays on the diagonal, so a silent round is a round of local work.  With
    `periodic_rounds` it is local SGD with a period as data; with `window_rounds` communication in a window alone.  Rounds
    in which a node hears nobody set its status bit "isolated node": they are meant here.

    Args:
      share: s in [0, 1], a number, or one a round, `[T]`, traced or not.  A run that is longer keeps the last.
    """
    where = "scheduled_links"
    shares = _schedule(where, "share", share)
    if checks.is_concrete(shares) and np.max(shares) > 1:
        checks.fail(where, "share", "in [0, 1]", f"{float(np.max(shares)):g}")

    def init(key: Array, network: Network) -> Array:
        del key
        if network.is_implicit:
            checks.fail(where, "network", "one that lists its edges", "a large complete graph")
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        both_ways = "undirected" in network.properties
        ids = network.node_ids
        draws = keys.edge_uniform(key, ids[network.senders], ids[network.receivers], both_ways)
        up = draws < _at(shares, state)
        return state + 1, network.replace(is_linked=up if network.is_linked is None else network.is_linked & up)

    return Scenario(init=init, step=step)


def _schedule(where: str, name: str, given: Any) -> Any:
    """A number >= 0, or one a round `[T]`, as float32; tracers stay as they are."""
    rule = "a number >= 0, or one a round, [T]"
    if isinstance(given, jax.core.Tracer):
        numbers: Any = given
    else:
        numbers = np.asarray(checks.host(where, name, given, rule))
    if not checks.is_real_type(numbers.dtype) or numbers.ndim > 1 or not numbers.size:
        checks.fail(where, name, rule, checks.describe(given))
    if isinstance(given, jax.core.Tracer):
        return given
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)).reshape(-1))
    if len(bad):
        checks.fail(
            where, name, rule, f"{numbers.reshape(-1)[bad[0]]:g} in round {bad[0]}" if numbers.ndim else numbers
        )
    return numbers.astype(np.float32)


def _at(schedule: Any, t: Array) -> Array:
    """The number of round t; the last one after the end."""
    if jnp.ndim(schedule) == 0:
        return jnp.asarray(schedule)
    return jnp.asarray(schedule)[jnp.minimum(t, schedule.shape[0] - 1)]
