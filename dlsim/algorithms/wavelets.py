"""The discrete wavelet transform of rows of numbers, as PyWavelets makes it by default."""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp

from dlsim.core import Array

_ROOT = math.sqrt(3)
# Decomposition filters, low pass.
FILTERS = {
    "haar": (math.sqrt(0.5), math.sqrt(0.5)),
    "sym2": tuple(tap / (4 * math.sqrt(2)) for tap in (1 - _ROOT, 3 - _ROOT, 3 + _ROOT, 1 + _ROOT)),
}


def smallest(wavelet: str) -> int:
    """Numbers that a row needs to be extended over its ends."""
    return max(len(FILTERS[wavelet]) - 1, 1)


def lengths(size: int, wavelet: str, levels: int) -> list[int]:
    """Numbers of the approximation at each level, from the row itself on: n -> floor((n + taps - 1) / 2)."""
    taps = len(FILTERS[wavelet])
    return list(itertools.accumulate(range(levels), lambda n, _: (n + taps - 1) // 2, initial=size))


def num_coefficients(size: int, wavelet: str, levels: int) -> int:
    """M of a row of `size` numbers: somewhat more than those, for what reaches over the ends."""
    made = lengths(size, wavelet, levels)
    return made[-1] + sum(made[1:])


def transform(rows: Array, wavelet: str, levels: int) -> Array:
    """Coefficients `[n, M]` of rows `[n, D]`: the last approximation, then details from coarse to fine.

        a_(l+1)[k] = sum_j low[j] a_l[2 k + 1 - j],   d_(l+1)[k] the same with high[j] = (-1)^(j+1) low[taps - 1 - j]

    from a_0 = the row, each continued at its ends by its mirror image, the outermost number twice.
    """
    details = []
    for _ in range(levels):
        rows, detail = _split(rows, FILTERS[wavelet])
        details.append(detail)
    return jnp.concatenate([rows, *reversed(details)], axis=1)


def inverse(coefficients: Array, size: int, wavelet: str, levels: int) -> Array:
    """The rows `[n, D]` of `size` = D numbers that these are the coefficients `[n, M]` of; or the nearest there are to it."""
    made = lengths(size, wavelet, levels)
    ends = list(itertools.accumulate([made[-1], *reversed(made[1:])]))
    rows = coefficients[:, : ends[0]]
    for level, (first, last) in zip(reversed(range(levels)), itertools.pairwise(ends), strict=True):
        rows = _joined(rows, coefficients[:, first:last], FILTERS[wavelet])[:, : made[level]]
    return rows


def _high(low: tuple[float, ...]) -> tuple[float, ...]:
    return tuple((-1) ** (j + 1) * tap for j, tap in enumerate(reversed(low)))


def _split(rows: Array, low: tuple[float, ...]) -> tuple[Array, Array]:
    taps, num = len(low), rows.shape[1]
    size = (num + taps - 1) // 2
    left, right = taps - 2, 2 * size - num
    whole = jnp.concatenate([rows[:, :left][:, ::-1], rows, rows[:, num - right :][:, ::-1]], axis=1)
    shifted = [whole[:, left + 1 - j :: 2][:, :size] for j in range(taps)]
    low_part, high_part = (
        sum((tap * part for tap, part in zip(how[1:], shifted[1:], strict=True)), how[0] * shifted[0])
        for how in (low, _high(low))
    )
    return low_part, high_part


def _joined(approximation: Array, detail: Array, low: tuple[float, ...]) -> Array:
    half = len(low) // 2
    size = approximation.shape[1] - half + 1
    sides = []
    for odd in (0, 1):
        total = jnp.zeros((approximation.shape[0], size), approximation.dtype)
        for part, how in ((approximation, low), (detail, _high(low))):
            for shift in range(half):
                tap = how[2 * shift + 1 - odd]
                total = total + tap * part[:, shift : shift + size]
        sides.append(total)
    return jnp.stack(sides, axis=2).reshape(approximation.shape[0], 2 * size)
