"""A freeway of regions for paper 02: a cell transmission model (Daganzo 1994), days with incidents, and the regions' graph.

A region is ten cells of 0.5 km; a step is 10 s.  From cell c to the next flow min(v k_c, capacity, w (K - k_{c+1})) vehicles
an hour, w = 20 km/h.  The last cell lets out at most a share of its capacity, a ramp feeds cell 5.  A sample is five minutes
of flow, speed and density at cells 2 and 8.  An incident cuts the capacity of one of the cells 3 to 6.

Fixed here, where the specification leaves it open: how strongly each value of a region varies (`SPREAD`), the sine of a
day's demand (10 %, a phase of its own), a quarter of an hour before the first sample, five samples a day, those of
incidents from five minutes after they begin.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

NUM_CELLS, LENGTH, HOURS, WAVE = 10, 0.5, 10 / 3600, 20.0  # km, h, km/h
STEPS_A_DAY, WINDOW, WARM_UP = 720, 30, 90  # of 10 s
UPSTREAM, DOWNSTREAM, RAMP = 2, 8, 5  # cells
SAMPLES_A_DAY = 5
# Of the three types: km/h, veh/h, veh/km, and shares of capacity.
TYPES = {
    "speed": (105.0, 90.0, 65.0),
    "capacity": (8000.0, 6000.0, 3600.0),
    "jam": (540.0, 420.0, 300.0),
    "demand": (0.70, 0.85, 0.80),
    "outflow": (1.0, 0.97, 0.9),
    "ramp": (0.01, 0.05, 0.09),
}
SPREAD = {"speed": 0.02, "capacity": 0.03, "jam": 0.02, "demand": 0.05, "outflow": 0.02, "ramp": 0.10}
HARD, EASY = (0.35, 0.70), (0.25, 0.55)  # what an incident leaves of the capacity


class Freeway(NamedTuple):
    """Samples of N regions, and their graph."""

    train: np.ndarray  # [N, n, 6], all normal
    test: np.ndarray  # [N, 2 t, 6]
    is_incident: np.ndarray  # bool [N, 2 t]
    types: np.ndarray  # int [N]
    weights: np.ndarray  # [N, N] a_ij: 0 where regions are not linked


@functools.lru_cache(maxsize=64)
def freeway(
    seed: int, num_regions: int = 30, num_windows: int = 20, num_test: int = 100, cut: tuple[float, float] = HARD
) -> Freeway:
    """`num_test` windows of normal days and as many of incidents, at every region."""
    rng = np.random.default_rng([seed, 2])
    types = rng.permutation(np.arange(num_regions) % 3)  # along the road
    region = {
        name: np.array(values)[types] * np.exp(SPREAD[name] * rng.standard_normal(num_regions))
        for name, values in TYPES.items()
    }
    weights = _weights(rng, types)
    train = _normal(rng, region, num_windows)
    normal = _normal(rng, region, num_test)
    incidents = _incidents(rng, region, num_test, cut)
    test = np.concatenate([normal, incidents], axis=1)
    is_incident = np.broadcast_to(np.arange(2 * num_test) >= num_test, test.shape[:2]).copy()
    # Standardised by all regions together: two sums that they know beforehand.
    flat = train.reshape(-1, train.shape[-1])
    mean, deviation = flat.mean(axis=0), flat.std(axis=0)
    return Freeway((train - mean) / deviation, (test - mean) / deviation, is_incident, types, weights)


def side_by_side(worlds: list[Freeway], by_type: bool = False) -> np.ndarray:
    """a [N, N] of all regions of all worlds, nothing between worlds; by type: 1 between all of a type, as nobody knows."""
    blocks = [world.weights for world in worlds]
    if by_type:
        blocks = [np.equal.outer(one.types, one.types) & ~np.eye(len(one.types), dtype=bool) for one in worlds]
    num = len(blocks[0])
    ties = np.zeros((num * len(blocks),) * 2)
    for place, block in enumerate(blocks):
        ties[place * num : (place + 1) * num, place * num : (place + 1) * num] = block
    return ties


def _weights(rng: np.random.Generator, types: np.ndarray) -> np.ndarray:
    """1/2 along the road; exp(-|p_i - p_j|^2) where one is among the other's three nearest by attributes p."""
    num = len(types)
    attributes = np.eye(3)[types] + 0.15 * rng.standard_normal((num, 3))
    apart = np.sum((attributes[:, None] - attributes[None]) ** 2, axis=2)
    np.fill_diagonal(apart, np.inf)
    is_near = np.zeros((num, num), bool)
    np.put_along_axis(is_near, np.argsort(apart, axis=1)[:, :3], True, axis=1)
    road = np.abs(np.subtract.outer(np.arange(num), np.arange(num))) == 1
    return np.maximum(0.5 * road, np.where(is_near | is_near.T, np.exp(-apart), 0))


def _days(num_windows: int) -> int:
    return -(-num_windows // SAMPLES_A_DAY)


def _normal(rng: np.random.Generator, region: dict[str, np.ndarray], num_windows: int) -> np.ndarray:
    num_days, num = _days(num_windows), len(region["speed"])
    flow, density = _simulated(rng, region, np.ones((num, num_days, STEPS_A_DAY)), np.full((num, num_days), 4))
    last = STEPS_A_DAY - WINDOW
    starts = np.linspace(WARM_UP, last, SAMPLES_A_DAY).astype(int)
    starts = np.broadcast_to(starts, (num, num_days, SAMPLES_A_DAY))
    return _samples(rng, flow, density, starts)[:, :num_windows]


def _incidents(
    rng: np.random.Generator, region: dict[str, np.ndarray], num_windows: int, cut: tuple[float, float]
) -> np.ndarray:
    num_days, num = _days(num_windows), len(region["speed"])
    begin = rng.integers(WARM_UP, STEPS_A_DAY - 300, (num, num_days))
    lasts = rng.integers(180, 301, (num, num_days))  # 30 to 50 minutes
    left = rng.uniform(*cut, (num, num_days))
    steps = np.arange(STEPS_A_DAY)
    is_on = (steps >= begin[..., None]) & (steps < (begin + lasts)[..., None])
    cells = rng.integers(3, 7, (num, num_days))
    flow, density = _simulated(rng, region, np.where(is_on, left[..., None], 1.0), cells)
    first, final = begin + WINDOW, begin + lasts - WINDOW
    share = np.linspace(0, 1, SAMPLES_A_DAY)
    starts = (first[..., None] + share * (final - first)[..., None]).astype(int)
    return _samples(rng, flow, density, starts)[:, :num_windows]


def _simulated(
    rng: np.random.Generator, region: dict[str, np.ndarray], left: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flow out of cells 2 and 8 and density in them, [N, days, steps, 2]; `left [N, days, steps]` of capacity in a cell."""
    num, num_days, num_steps = left.shape
    one = {name: values[:, None] for name, values in region.items()}
    speed, capacity, jam = (one[name][..., None] for name in ("speed", "capacity", "jam"))
    level = one["demand"] * one["capacity"] * np.exp(0.12 * rng.standard_normal((num, num_days)))
    phase = rng.uniform(0, 2 * np.pi, (num, num_days))
    place = np.eye(NUM_CELLS)[cells]  # [N, days, cells]
    density = np.broadcast_to(level[..., None] / speed, (num, num_days, NUM_CELLS)).copy()
    flows, densities = np.zeros((num, num_days, num_steps, 2)), np.zeros((num, num_days, num_steps, 2))
    watched = [UPSTREAM, DOWNSTREAM]
    for t in range(num_steps):
        most = capacity * (1 - place * (1 - left[..., t, None]))
        room = np.minimum(most, WAVE * (jam - density))
        wants = np.minimum(speed * density, most)
        noise = 1 + 0.08 * rng.standard_normal((num, num_days))
        demand = level * (1 + 0.1 * np.sin(2 * np.pi * t / num_steps + phase)) * noise
        entering = np.minimum(np.maximum(demand, 0), room[..., 0])
        through = np.minimum(wants[..., :-1], room[..., 1:])
        leaving = np.minimum(wants[..., -1], one["outflow"] * one["capacity"])
        inflow = np.concatenate([entering[..., None], through], axis=-1)
        outflow = np.concatenate([through, leaving[..., None]], axis=-1)
        inflow[..., RAMP] += np.minimum(
            one["ramp"] * one["capacity"], np.maximum(room[..., RAMP] - inflow[..., RAMP], 0)
        )
        flows[..., t, :], densities[..., t, :] = outflow[..., watched], density[..., watched]
        density = np.clip(density + HOURS / LENGTH * (inflow - outflow), 0, jam)
    return flows, densities


def _samples(rng: np.random.Generator, flow: np.ndarray, density: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Five minutes from each start, 5 % noise: flow, speed, density upstream and downstream, [N, days x samples, 6]."""
    num, num_days, num_samples = starts.shape
    at = starts[..., None] + np.arange(WINDOW)

    def mean(values: np.ndarray) -> np.ndarray:
        taken = np.take_along_axis(values[:, :, None], at[..., None], axis=3)
        return taken.mean(axis=3)

    q, k = mean(flow), mean(density)
    found = np.stack([q, q / np.maximum(k, 1e-3), k], axis=-1)  # [N, days, samples, 2, 3]
    found = found * (1 + 0.05 * rng.standard_normal(found.shape))
    return found.reshape(num, num_days * num_samples, 6)
