"""In what order a ring goes through its peers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks

LARGEST_EXACT = 18  # peers; the table of subsets has 2^(P-1) (P-1) entries
OBJECTIVES = ("tour", "bottleneck")
RESTARTS = 8


def ring_order(bandwidth: Any, objective: str = "tour", *, exact: int = 12, seed: int = 42) -> np.ndarray:
    """The order of a ring over links of unequal bandwidth, int32 `[P]`, beginning with peer 0.

    `bandwidth[i, j]` is that from i to j, which need not be that from j to i.

        "tour"        minimises sum_e 1/bandwidth_e, an asymmetric travelling salesman, as the library does
        "bottleneck"  maximises min_e bandwidth_e, which is what the time of a pipelined ring hangs on; among such rings
                      the shortest one found

    Up to `exact` peers by dynamic programming over subsets (18 take about two seconds), beyond by local search (segments
    moved and reversed) from several starts, which is a good order and not always the best.

    Args:
      bandwidth: above 0 beside the diagonal, `[P, P]`, P >= 2, any unit.
      objective: "tour" or "bottleneck".
      exact: up to how many peers the best order is found, 2 to 18.
      seed: of the local search.

    Source: Held, Karp, A dynamic programming approach to sequencing problems, SIAM 1962.
    """
    where = "ring_order"
    checks.known(where, "bandwidth", bandwidth, "known while tracing")
    bandwidth = np.asarray(checks.array(where, "bandwidth", bandwidth, None, 0.0), float)
    size = bandwidth.shape[0] if bandwidth.ndim == 2 else 0
    checks.shape(where, "bandwidth", bandwidth, (size, size) if size else (None, None))
    if size < 2:
        checks.fail(where, "bandwidth", "of two or more peers", f"one of {size}")
    off = ~np.eye(size, dtype=bool)
    if (bandwidth[off] <= 0).any():
        i, j = (int(place) for place in np.argwhere((bandwidth <= 0) & off)[0])
        checks.fail(where, f"bandwidth[{i}, {j}]", "above 0", f"{bandwidth[i, j]:g}")
    checks.one_of(where, "objective", objective, OBJECTIVES)
    exact = checks.integer(where, "exact", exact, 2, LARGEST_EXACT)
    seed = checks.seed(where, seed)
    cost = np.where(off, 1 / np.where(off, bandwidth, 1), 0)
    search = _subsets if size <= exact else lambda cost, add: _local(cost, add, seed)
    if objective == "tour":
        return search(cost, np.add)
    slowest = _value(cost, search(cost, np.maximum), np.maximum)
    # Among rings without a slower link the shortest: what is slower is as good as not there.
    return search(np.where(cost <= slowest, cost, cost + 1e6 * cost.max()), np.add)


def _value(cost: np.ndarray, order: np.ndarray, add: Any) -> float:
    return float(add.reduce(cost[order, np.roll(order, -1)]))


def _subsets(cost: np.ndarray, add: Any) -> np.ndarray:
    """Best ring by dynamic programming: best[S, j] of paths from peer 0 through all of S, ending at j in S."""
    size = len(cost) - 1  # peers beside the first
    inner = cost[1:, 1:]
    best = np.full((2**size, size), np.inf)
    came = np.full((2**size, size), -1, np.int8)
    for j in range(size):
        best[1 << j, j] = cost[0, j + 1]
    subsets = np.arange(2**size)
    counts = np.array([int(s).bit_count() for s in subsets])
    for count in range(1, size):
        level = subsets[counts == count]
        for k in range(size):
            without = level[(level >> k) & 1 == 0]
            paths = add(best[without], inner[:, k])
            came[without | (1 << k), k] = np.argmin(paths, axis=1)
            best[without | (1 << k), k] = np.min(paths, axis=1)
    subset = 2**size - 1
    last = int(np.argmin(add(best[subset], cost[1:, 0])))
    order = []
    while last >= 0:
        order.append(last + 1)
        subset, last = subset & ~(1 << last), int(came[subset, last])
    return np.array([0, *reversed(order)], np.int32)


def _local(cost: np.ndarray, add: Any, seed: int) -> np.ndarray:
    """Local search: a segment is moved to another place, as it is or reversed, as long as that helps."""
    random, size = np.random.default_rng(seed), len(cost)
    tie = 1e-3 * cost.sum() / cost.size  # of equal slowest links the shorter ring goes on

    def score(order: np.ndarray) -> float:
        edges = cost[order, np.roll(order, -1)]
        return float(add.reduce(edges) + (tie * edges.mean() / edges.max() if add is np.maximum else 0))

    def polished(order: np.ndarray) -> tuple[float, np.ndarray]:
        value, improved = score(order), True
        while improved:
            improved = False
            for begin in range(1, size):
                for end in range(begin + 1, min(size, begin + 12) + 1):
                    rest, piece = np.concatenate([order[:begin], order[end:]]), order[begin:end]
                    for place in range(1, len(rest) + 1):
                        for moved in (piece, piece[::-1]):
                            tried = np.concatenate([rest[:place], moved, rest[place:]])
                            new = score(tried)
                            if new < value - 1e-12 * abs(value):
                                value, order, improved = new, tried, True
                                break
                        if improved:
                            break
                    if improved:
                        break
                if improved:
                    break
        return value, order

    starts = [np.arange(size), *(np.concatenate([[0], 1 + random.permutation(size - 1)]) for _ in range(RESTARTS - 1))]
    return min((polished(start) for start in starts), key=lambda found: found[0])[1].astype(np.int32)
