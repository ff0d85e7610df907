"""Robust rules of aggregation as loops in NumPy over one node's candidates, the own one first."""

from __future__ import annotations

import itertools

import numpy as np

from dlsim import aggregators


def krum_order(candidates: np.ndarray, nearest: int) -> list[int]:
    """Candidates by the sum of squared distances to their nearest others."""
    count = len(candidates)
    scores = []
    for k in range(count):
        others = sorted(((candidates[k] - candidates[j]) ** 2).sum() for j in range(count) if j != k)
        scores.append(sum(others[: max(nearest, 1)]))
    return list(np.argsort(scores, kind="stable"))


def around_median(candidates: np.ndarray, kept: int) -> np.ndarray:
    out = []
    for column in np.sort(candidates, axis=0).T:
        twice = column[(len(column) - 1) // 2] + column[len(column) // 2]
        starts = range(len(column) - kept)
        first = next((s for s in starts if column[s] + column[s + kept] >= twice), len(column) - kept)
        window = column[first : first + kept]
        rest = np.concatenate([column[:first], column[first + kept :], [np.inf]])
        assert np.abs(2 * window - twice).max() <= np.abs(2 * rest - twice).min() + 1e-12, "the nearest"
        out.append(window.mean())
    return np.array(out)


def bulyan(candidates: np.ndarray, f: int) -> np.ndarray:
    left, chosen = list(range(len(candidates))), []
    theta, nearest = max(len(candidates) - 2 * f, 1), max(len(candidates) - f - 2, 2)
    while len(chosen) < theta:
        chosen.append(left.pop(krum_order(candidates[left], nearest)[0]))
    return around_median(candidates[chosen], max(theta - 2 * f, 1))


def minimum_diameter(candidates: np.ndarray, f: int) -> np.ndarray:
    kept = max(len(candidates) - f, 1)

    def diameter(subset: tuple[int, ...]) -> float:
        return max(np.linalg.norm(candidates[a] - candidates[b]) for a in subset for b in subset)

    best = min(itertools.combinations(range(len(candidates)), kept), key=diameter)
    return candidates[list(best)].mean(axis=0)


def clip(way: np.ndarray, radius: float) -> np.ndarray:
    return way * min(1, radius / max(np.linalg.norm(way), 1e-30))


def centered(candidates: np.ndarray, radius: float, iterations: int) -> np.ndarray:
    centre = candidates[0]
    for _ in range(iterations):
        centre = centre + np.mean([clip(v - centre, radius) for v in candidates], axis=0)
    return centre


def cge(candidates: np.ndarray, f: int) -> np.ndarray:
    order = np.argsort(np.linalg.norm(candidates - candidates[0], axis=1), kind="stable")
    return candidates[order[: max(len(candidates) - f, 2)]].mean(axis=0)


def caf(candidates: np.ndarray, f: int) -> np.ndarray:
    """With the covariance matrix itself."""
    count = len(candidates)
    weights, best, value = np.ones(count), np.inf, candidates.mean(axis=0)
    while weights.sum() > max(count - 2 * f, 0):
        mean = weights @ candidates / weights.sum()
        covariance = ((candidates - mean).T * weights) @ (candidates - mean) / weights.sum()
        spectrum, vectors = np.linalg.eigh(covariance)
        if spectrum[-1] < best:
            best, value = spectrum[-1], mean
        along = ((candidates - mean) @ vectors[:, -1]) ** 2
        if along[weights > 0].max() < 1e-12:
            break
        weights = weights * np.clip(1 - along / along[weights > 0].max(), 0, 1)
        weights[weights < 1e-5] = 0
    return value


def rfa(candidates: np.ndarray, iterations: int, smoothing: float) -> np.ndarray:
    """Smoothed Weiszfeld with equal weights, from one step at the coordinate-wise median."""

    def step(centre: np.ndarray, least: float) -> np.ndarray:
        beta = 1 / np.maximum(least, np.linalg.norm(candidates - centre, axis=1))
        return beta @ candidates / beta.sum()

    middle = np.median(candidates, axis=0)
    centre = step(middle, max(np.median(np.linalg.norm(candidates - middle, axis=1)), smoothing))
    for _ in range(iterations):
        centre = step(centre, smoothing)
    return centre


def mixed(candidates: np.ndarray, f: int) -> np.ndarray:
    kept = max(len(candidates) - f, 1)
    out = []
    for v in candidates:
        order = np.argsort(np.linalg.norm(candidates - v, axis=1), kind="stable")
        out.append(candidates[order[:kept]].mean(axis=0))
    return np.array(out)


def adaptively_clipped(candidates: np.ndarray, f: int) -> np.ndarray:
    own, count = candidates[0], len(candidates)
    lengths = sorted(np.linalg.norm(candidates - own, axis=1), reverse=True)
    clips = int(np.floor(2 * f / count * max(count - f, 0) + 1e-9))
    radius = lengths[clips] if clips < count else 0.0
    return np.array([own + clip(v - own, radius) for v in candidates])


def all_of(own: np.ndarray, heard: np.ndarray) -> np.ndarray:
    return np.vstack([own[None], heard])


MEDIAN = aggregators.median()
ORACLES = {
    "mean_around_median": (
        aggregators.mean_around_median(2),
        lambda o, h, w: around_median(all_of(o, h), max(len(h) - 1, 1)),
    ),
    "minimum_diameter": (aggregators.minimum_diameter(2), lambda o, h, w: minimum_diameter(all_of(o, h), 2)),
    "bulyan": (aggregators.bulyan(1), lambda o, h, w: bulyan(all_of(o, h), 1)),
    "centered_clipping": (
        aggregators.centered_clipping(1.5, num_iterations=3),
        lambda o, h, w: centered(all_of(o, h), 1.5, 3),
    ),
    "geometric_median": (
        aggregators.geometric_median(num_iterations=3, smoothing=0.5),
        lambda o, h, w: rfa(all_of(o, h), 3, 0.5),
    ),
    "cge": (aggregators.cge(2), lambda o, h, w: cge(all_of(o, h), 2)),
    "caf": (aggregators.caf(1), lambda o, h, w: caf(all_of(o, h), 1)),
    "nearest_neighbor_mixing": (
        aggregators.nearest_neighbor_mixing(MEDIAN, 1),
        lambda o, h, w: np.median(mixed(all_of(o, h), 1), axis=0),
    ),
    "norm_clipping": (
        aggregators.norm_clipping(MEDIAN, 1.0),
        lambda o, h, w: np.median([o + clip(v - o, 1.0) for v in all_of(o, h)], axis=0),
    ),
    "adaptive_robust_clipping": (
        aggregators.adaptive_robust_clipping(MEDIAN, 1),
        lambda o, h, w: np.median(adaptively_clipped(all_of(o, h), 1), axis=0),
    ),
}
RULES = {name: rule for name, (rule, _) in ORACLES.items()}
