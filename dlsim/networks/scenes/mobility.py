"""Nodes that move, and the radio links between them: a random geometric network that follows its nodes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.graphs.graph import graph
from dlsim.networks.graphs.spectral import is_connected
from dlsim.networks.network import Network
from dlsim.networks.pace.device_traces import Places, choose, read_positions
from dlsim.networks.scenes.dynamics import check_first
from dlsim.networks.scenes.weighing import edge_weights, weighed
from dlsim.running import status

ALL_PAIRS = 2**24  # distances that are held at a time
MOST_ROUNDS = 10_000  # of a trace, looked at for whether its links join all nodes
_MOVING = frozenset(
    {"undirected", "row_stochastic", "column_stochastic", "doubly_stochastic", "symmetric", "connected"}
)


class WaypointState(NamedTuple):
    positions: Array  # float32 [N, 2]
    target: Array  # float32 [N, 2]
    speed: Array  # float32 [N] a round
    pause: Array  # float32 [N] rounds left to stand


def random_waypoint(
    radius: Any,
    max_degree: int,
    *,
    speed: tuple[Any, Any] = (0.01, 0.05),
    pause: tuple[Any, Any] = (0.0, 0.0),
) -> Scenario:
    """Nodes walk in the unit square, each to one random place after the other, and hear each other within `radius`.

    A node walks straight to a target drawn evenly from the square, at a speed drawn for the way, stands for a pause drawn at
    its end, and draws the next.  In a round of length one it walks exactly as far as that takes it, over several legs if
    they are short.  Links are those of `random_geometric` at the places of the beginning of the round, with
    Metropolis-Hastings weights: parts of the network come apart and meet again.  Nodes begin where the network's `positions`
    are, or, if it has none, at places drawn evenly.

    Tables are padded to `max_degree` neighbours.  Where a node has more, two nodes are linked if each is among the
    `max_degree` nearest of the other, and the run's status says BUFFER_OVERFLOW, when first and at which node.  A node that
    hears nobody is remarked as ISOLATED_NODE.

    Args:
      radius: of the radio, in sides of the square; traced.
      max_degree: neighbours that a node can have, structural; twice the mean degree N pi radius^2 is mostly enough.
      speed: least and most, in sides a round, above 0 (traced).  With a least near 0 nodes get ever slower.
      pause: least and most, in rounds, at least 0 (traced).

    Cost per round: N^2 distances, in blocks where they are many.
    Source: Johnson and Maltz, Dynamic source routing in ad hoc wireless networks, 1996; Yoon, Liu and Noble, Random waypoint
      considered harmful, INFOCOM 2003 (speeds above 0).  Differs: the walk begins evenly spread and not in its stationary
      law, which is denser in the middle; let some walks pass before measuring.
    """
    where = "random_waypoint"
    _check_radio(where, radius, max_degree)
    slow, fast = _pair(where, "speed", speed, open_minimum=True)
    short, long = _pair(where, "pause", pause)

    def leg(key: Array, network: Network, turn: Any) -> tuple[Array, Array, Array]:
        draw = keys.node_uniform(keys.fold_in(keys.stream(key, "leg"), turn), network.node_ids, 4)
        return draw[:, :2], slow + (fast - slow) * draw[:, 2], short + (long - short) * draw[:, 3]

    def init(key: Array, network: Network) -> WaypointState:
        places = keys.node_uniform(keys.stream(key, "place"), network.node_ids, 2)
        places = places if network.positions is None else jnp.asarray(network.positions, jnp.float32)
        target, pace, _ = leg(key, network, 0)
        return WaypointState(places, target, pace, jnp.zeros(network.num_nodes, jnp.float32))

    def step(key: Array, state: WaypointState, network: Network) -> tuple[WaypointState, Network]:
        now = geometric(where, network, state.positions, radius, max_degree)

        def on_the_way(carry: tuple[WaypointState, Array, Array]) -> Array:
            return jnp.any(carry[1] > 0)

        def walk(carry: tuple[WaypointState, Array, Array]) -> tuple[WaypointState, Array, Array]:
            state, left, turn = carry
            stands = jnp.minimum(left, state.pause)
            left, pause = left - stands, state.pause - stands
            way = state.target - state.positions
            needed = jnp.linalg.norm(way, axis=1) / state.speed
            arrives = needed <= left
            share = jnp.where(arrives, 1.0, left / jnp.where(arrives, 1.0, needed))
            arrives = arrives & (left > 0)
            places = jnp.where(
                arrives[:, None], state.target, state.positions + way * share[:, None] * (left > 0)[:, None]
            )
            target, pace, rest = leg(key, network, turn)
            next_state = WaypointState(
                positions=places,
                target=jnp.where(arrives[:, None], target, state.target),
                speed=jnp.where(arrives, pace, state.speed),
                pause=jnp.where(arrives, rest, pause),
            )
            return next_state, jnp.where(arrives, left - needed, 0.0), turn + 1

        everyone = jnp.ones(network.num_nodes, jnp.float32)
        return jax.lax.while_loop(on_the_way, walk, (state, everyone, jnp.ones((), jnp.int32)))[0], now

    return Scenario(init=init, step=step, source="Johnson and Maltz, 1996", properties=_MOVING)


def position_trace(
    trace: str | Path | tuple[Any, Any],
    radius: Any,
    max_degree: int,
    *,
    seconds_per_round: Any = 1.0,
    largest_gap: float | None = None,
    seed: int | None = None,
) -> Scenario:
    """Nodes are where a trace says, and hear each other within `radius`: rows `[client_id,] Timestamp, x, y` of a CSV file.

    Round t takes place t `seconds_per_round` after the first sample of the trace; between samples a node goes straight,
    after its last it stays where it is.  Links, weights, `max_degree` and what the status says are as in `random_waypoint`.

    Args:
      trace: path of the file, or `(times [T], positions [T, N, 2])` with times that grow.
      radius: in the units of the trace; traced.
      max_degree: neighbours that a node can have, structural.
      seconds_per_round: above 0, traced.
      largest_gap: seconds between samples of a device that are no gap; None: twice the usual (median) step.
      seed: draws N different devices of the trace; None: the first N.

    The scenario is connected if the links of all its rounds together join all nodes (taken for granted where `radius` or
    `seconds_per_round` is traced): else methods that need a connected network refuse it.

    Raises ValueError for unknown columns, empty cells, gaps, a device that begins later or ends earlier than others, times
      out of order, or a trace of fewer devices than nodes.
    """
    where = "position_trace"
    _check_radio(where, radius, max_degree)
    checks.number(where, "seconds_per_round", seconds_per_round, 0.0, open_minimum=True)
    if largest_gap is not None:
        checks.known(where, "largest_gap", largest_gap)
        checks.number(where, "largest_gap", largest_gap, 0.0, open_minimum=True)
    if seed is not None:
        checks.seed(where, seed)
    places = (
        _given(where, trace, largest_gap) if isinstance(trace, tuple) else read_positions(where, trace, largest_gap)
    )
    is_known = checks.is_concrete((radius, seconds_per_round))
    joins = not is_known or _joins(places, float(radius), float(seconds_per_round))

    def init(key: Array, network: Network) -> Array:
        del key
        choose(where, len(places.times), network.num_nodes, seed)
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        rows = choose(where, len(places.times), network.num_nodes, seed)
        times, points = (jnp.asarray(table[rows], jnp.float32)[network.node_ids] for table in places)
        now = state.astype(jnp.float32) * seconds_per_round
        return state + 1, geometric(where, network, _between(times, points, now), radius, max_degree)

    return Scenario(init=init, step=step, properties=_MOVING if joins else _MOVING - {"connected"})


def geometric(where: str, network: Network, positions: Array, radius: Any, max_degree: int) -> Network:
    """The network of those within `radius` of each other, padded to `max_degree` neighbours a node.

    Metropolis-Hastings weights.  Its status says who has more neighbours than that, and who has none.
    """
    check_first(where, network)
    num = network.num_nodes
    width = min(max_degree, max(num - 1, 1))
    nearest, is_near, in_reach = _nearest(positions, jnp.square(jnp.float32(radius)), width)
    kept = jnp.where(is_near, nearest, -1)  # [N, K]
    own = jnp.arange(num, dtype=jnp.int32)
    up = is_near & jnp.any(kept[nearest] == own[:, None, None], axis=2)
    senders, receivers = jnp.where(up, nearest, own[:, None]), jnp.repeat(own, width)
    edges = jnp.arange(num * width, dtype=jnp.int32).reshape(num, width)
    degrees = jnp.sum(up, axis=1, dtype=jnp.uint32)
    found = status.flag(in_reach > width, status.BUFFER_OVERFLOW)
    alone = degrees == 0 if network.is_present is None else (degrees == 0) & network.is_present
    found = found | status.flag(alone, status.ISOLATED_NODE)
    network = network.replace(
        senders=senders.reshape(-1),
        receivers=receivers,
        is_edge=up.reshape(-1),
        out_degrees=degrees,
        in_degrees=degrees,
        neighbors=senders,
        neighbor_edges=jnp.where(up, edges, num * width),
        positions=positions,
        status=found if network.status is None else network.status | found,
        matrix=None,
        lowering="neighbors",
        grid=None,
        offsets=None,
        labels=None,
    )
    weights = edge_weights(network.senders, receivers, up.reshape(-1), num, "metropolis_hastings")
    return weighed(network, weights.astype(network.self_weights.dtype), _MOVING)


def _nearest(positions: Array, reach: Array, width: int) -> tuple[Array, Array, Array]:
    """The nearest others of each node, int32 `[N, K]`, which of them are in reach (squared), and how many there are `[N]`."""
    num = positions.shape[0]

    def of_one(row: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        place, own = row
        apart = jnp.sum(jnp.square(positions - place), axis=1)
        apart = jnp.where(jnp.arange(num) == own, jnp.inf, apart)
        far, who = jax.lax.top_k(-apart, width)
        return who.astype(jnp.int32), -far <= reach, jnp.sum(apart <= reach)

    rows = (positions, jnp.arange(num, dtype=jnp.int32))
    if num == 1:
        return jnp.zeros((1, width), jnp.int32), jnp.zeros((1, width), bool), jnp.zeros(1, jnp.int32)
    block = max(ALL_PAIRS // num, 1)
    found: tuple[Array, Array, Array] = (
        jax.vmap(of_one)(rows) if num <= block else jax.lax.map(of_one, rows, batch_size=block)
    )
    return found


def _between(times: Array, points: Array, now: Array) -> Array:
    """Where nodes are at a time, `[N, 2]`: straight between samples, at the ends before and after."""
    num_samples = times.shape[1]
    after = jnp.clip(jnp.sum(times <= now, axis=1), 1, max(num_samples - 1, 1)).astype(jnp.int32)
    after = jnp.minimum(after, num_samples - 1)
    before = jnp.maximum(after - 1, 0)

    def at(table: Array, place: Array) -> Array:
        return table[jnp.arange(table.shape[0]), place]

    start, end = at(times, before), at(times, after)
    span = jnp.where(jnp.isfinite(end), end - start, jnp.inf)  # in the padding a node stays
    share = jnp.clip((now - start) / jnp.where(span > 0, span, 1.0), 0.0, 1.0)[:, None]
    first, last = at(points, before), at(points, after)
    return first + share * (last - first)


def _joins(places: Places, radius: float, seconds_per_round: float) -> bool:
    """Whether the links of all rounds together join all nodes."""
    from scipy.spatial import cKDTree

    num, last = len(places.times), np.max(places.times, initial=0.0, where=np.isfinite(places.times))
    codes = np.zeros(0, np.int64)
    for t in range(min(math.ceil(last / seconds_per_round), MOST_ROUNDS) + 1):
        now = np.array([_at(*row, t * seconds_per_round) for row in zip(*places, strict=True)])
        pairs = cKDTree(now).query_pairs(radius, output_type="ndarray")
        before, codes = len(codes), np.union1d(codes, pairs[:, 0] * num + pairs[:, 1])
        first, second = codes // num, codes % num
        if (len(codes) > before or t == 0) and is_connected(graph(num, first, second)):
            return True
    return False


def _at(times: np.ndarray, points: np.ndarray, now: float) -> list[float]:
    there = np.isfinite(times)
    return [float(np.interp(now, times[there], points[there, axis])) for axis in (0, 1)]


def _given(where: str, trace: tuple[Any, Any], largest_gap: float | None) -> Places:
    """Times `[T]` and positions `[T, N, 2]` as `read_positions` has them."""
    if len(trace) != 2:
        checks.fail(where, "trace", "a path, or (times [T], positions [T, N, 2])", checks.describe(trace))
    times = checks.array(where, "trace[0]", trace[0], (None,)).astype(float)
    checks.known(where, "trace", list(trace))
    points = checks.array(where, "trace[1]", trace[1], (len(times), None, 2)).astype(float)
    steps = np.diff(times)
    if not len(times) or (steps <= 0).any():
        got = f"{times[int(np.argmax(steps <= 0)) + 1]:g} out of order" if len(times) else "none"
        checks.fail(where, "trace[0]", "one or more times that grow", got)
    most = 2 * float(np.median(steps)) if largest_gap is None and len(steps) else (largest_gap or np.inf)
    for i in np.flatnonzero(steps > most)[:1]:
        rule = f"without gaps (more than {most:g} s between samples)"
        checks.fail(where, "trace[0]", rule, f"{steps[i]:g} s", f"Fill it, or pass largest_gap={steps[i]:g}.")
    num = points.shape[1]
    return Places(np.broadcast_to(times - times[0], (num, len(times))), points.swapaxes(0, 1))


def _check_radio(where: str, radius: Any, max_degree: int) -> None:
    checks.number(where, "radius", radius, 0.0, open_minimum=True)
    checks.integer(where, "max_degree", max_degree, 1)


def _pair(where: str, name: str, given: Any, open_minimum: bool = False) -> tuple[Any, Any]:
    """Least and most, as float32."""
    rows = checks.sequence(where, name, given, "(least, most)")
    if len(rows) != 2:
        checks.fail(where, name, "(least, most)", checks.describe(given))
    for value in rows:
        checks.number(where, name, value, 0.0, open_minimum=open_minimum)
    least, most = rows
    if checks.is_concrete((least, most)) and most < least:
        checks.fail(where, name, "(least, most) in this order", f"{float(least):g} and {float(most):g}")
    return jnp.float32(least), jnp.float32(most)
