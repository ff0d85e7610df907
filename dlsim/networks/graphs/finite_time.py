"""Time-varying topologies that reach the exact mean after finitely many rounds.

`one_peer_exponential_graphs` and `base_graphs` give one period as [(Graph, (edge_weights [E], self_weights [N])), ...];
`one_peer_exponential` and `base_graph` give it as Networks, to be handed to `time_varying`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, graph
from dlsim.networks.graphs.topologies import shift_graph
from dlsim.networks.network import Network, connect
from dlsim.networks.pace.sizes import check_size

WeightedGraph = tuple[Graph, tuple[np.ndarray, np.ndarray]]  # edge_weights [E], self_weights [N]


class _Pairs(NamedTuple):
    """Undirected edges of one round with their weight in both directions."""

    first: np.ndarray  # [P]
    second: np.ndarray  # [P]
    weight: np.ndarray  # float64 [P]


def one_peer_exponential_graphs(num_nodes: int) -> list[WeightedGraph]:
    """One period of ceil(log2 N) rounds: in round t node i sends to i + 2^t alone, and keeps half of its own."""
    checks.integer("one_peer_exponential", "num_nodes", num_nodes, 2)
    period = (num_nodes - 1).bit_length()
    check_size("one_peer_exponential", num_nodes, period * num_nodes)
    rounds = [shift_graph((num_nodes,), [(2**t,)]) for t in range(period)]
    # The round of offset N/2 alone is symmetric; a period is directed or undirected as a whole.
    is_directed = any(one.is_directed for one in rounds)
    half = np.full(num_nodes, 0.5)
    return [(dataclasses.replace(one, is_directed=is_directed), (half, half)) for one in rounds]


def one_peer_exponential(num_nodes: int, *, lowering: str = "auto") -> tuple[Network, ...]:
    """One period of the one-peer exponential graph, for `time_varying`.

    x_i <- (x_i + x_{i - 2^t}) / 2 in round t = 0 .. ceil(log2 N) - 1.  Exact mean after a period if N is a power of two.

    Source: Ying, Yuan, Chen, Hu, Pan, Yin, Exponential graph is provably efficient for decentralized deep training,
      NeurIPS 2021.  Differs: the arrows point the other way (W transposed).
    """
    return tuple(connect(one, weights, lowering) for one, weights in one_peer_exponential_graphs(num_nodes))


def base_graphs(num_nodes: int, degree: int = 1) -> list[WeightedGraph]:
    """One period of the base-(degree + 1) graph: symmetric weights, at most `degree` neighbours a round, any N.

    The period is at most 2 log_{degree+1}(N) + 2 rounds, and its product of mixing matrices is 1 1^T / N.
    """
    checks.integer("base_graph", "num_nodes", num_nodes, 2)
    checks.integer("base_graph", "degree", degree, 1, num_nodes - 1)
    check_size("base_graph", num_nodes, num_nodes)
    rounds = _simple_base(np.arange(num_nodes)[None], degree + 1)
    smooth = _smooth_part(num_nodes, degree + 1)
    if 1 < smooth < num_nodes:
        # One simple base graph on each of `smooth` blocks, side by side; then the mean over the blocks.
        blocks = np.arange(num_nodes).reshape(smooth, -1)
        split = _simple_base(blocks, degree + 1) + _hyper_hypercube(blocks.T, degree + 1)
        rounds = min(rounds, split, key=len)
    return [_weighted(num_nodes, pairs) for pairs in rounds]


def base_graph(num_nodes: int, degree: int = 1, *, lowering: str = "auto") -> tuple[Network, ...]:
    """One period of the base-(k+1) graph with k = `degree`, for `time_varying`.

    Args:
      num_nodes: N, at least 2; any number, not only powers of k + 1.
      degree: k, the most neighbours a node has in a round, 1 .. N - 1.
      lowering: as in `connect`.
    Returns: the Networks of one period, after which every node holds the exact mean.

    Source: Takezawa, Sato, Bao, Niwa, Yamada, Beyond exponential graph: communication-efficient topologies for
      decentralized learning via finite-time convergence, NeurIPS 2023, Algorithms 1 to 3.
    """
    return tuple(connect(one, weights, lowering) for one, weights in base_graphs(num_nodes, degree))


def _simple_base(rows: np.ndarray, base: int) -> list[_Pairs]:
    """Algorithm 2 on every row of `[R, n]`: parts of a_l base^{p_l}, the digits of n; mean within, across, within again.

    Once a part is at its own mean, each node of the later parts swaps with one node in each of the part's a_l blocks,
    with weights that bring every block's mean, and all the later nodes', to what the end needs.
    """
    num_rows, num_nodes = rows.shape
    if _smooth_part(num_nodes, base) == num_nodes:
        return _hyper_hypercube(rows, base)
    power = 1
    while power * base <= num_nodes:
        power *= base
    parts, start = [], 0
    while start < num_nodes:
        digit = (num_nodes - start) // power
        if digit:
            parts.append(rows[:, start : start + digit * power].reshape(num_rows, digit, power))
            start += digit * power
        power //= base
    within = [_hyper_hypercube(part.reshape(num_rows, -1), base) for part in parts]
    across = max(len(rounds) for rounds in within)
    plan: dict[int, list[_Pairs]] = {}
    for rounds in within:
        _put(plan, 0, rounds)
    start = 0
    for level, part in enumerate(parts[:-1]):
        _, digit, size = part.shape
        weight = size / (num_nodes - start)
        start += digit * size
        later = rows[:, start:]
        first = part[:, :, : later.shape[1]].ravel()
        second = np.repeat(later[:, None], digit, axis=1).ravel()
        _put(plan, across + level, [_Pairs(first, second, np.full(len(first), weight))])
        _put(plan, across + level + 1, _hyper_hypercube(part.reshape(-1, size), base))
    return [_join(plan[step]) for step in sorted(plan)]


def _hyper_hypercube(rows: np.ndarray, base: int) -> list[_Pairs]:
    """Algorithm 1 on every row of `[R, n]` at once, n with no prime factor above base: cliques along each digit of n."""
    rounds = []
    num_rows, num_nodes = rows.shape
    stride = 1
    for side in _factors(num_nodes, base):
        cliques = rows.reshape(num_rows, -1, side, stride).swapaxes(2, 3).reshape(-1, side)
        a, b = np.triu_indices(side, 1)
        first = cliques[:, a].ravel()
        rounds.append(_Pairs(first, cliques[:, b].ravel(), np.full(len(first), 1 / side)))
        stride *= side
    return rounds


@functools.cache
def _factors(number: int, largest: int) -> tuple[int, ...]:
    """The fewest factors, each at most `largest`, whose product is `number`; it has no larger prime factor."""
    if number == 1:
        return ()
    options = [side for side in range(2, min(number, largest) + 1) if number % side == 0]
    return min(((side, *_factors(number // side, largest)) for side in reversed(options)), key=len)


def _smooth_part(number: int, largest: int) -> int:
    """The largest divisor without prime factors above `largest`."""
    rest = number
    for side in range(2, largest + 1):
        while rest % side == 0:
            rest //= side
    return number // rest


def _put(plan: dict[int, list[_Pairs]], start: int, rounds: list[_Pairs]) -> None:
    for step, pairs in enumerate(rounds):
        plan.setdefault(start + step, []).append(pairs)


def _join(parts: list[_Pairs]) -> _Pairs:
    return _Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _weighted(num_nodes: int, pairs: _Pairs) -> WeightedGraph:
    """The round's graph, with the pairs' weights in its order of edges."""
    one = graph(num_nodes, pairs.first, pairs.second)
    receivers = np.concatenate([pairs.first, pairs.second])
    order = np.argsort(receivers * num_nodes + np.concatenate([pairs.second, pairs.first]))
    edge_weights = np.tile(pairs.weight, 2)[order]
    heard = np.bincount(one.receivers, edge_weights.astype(np.float64), num_nodes)
    return one, (edge_weights, 1 - heard)
