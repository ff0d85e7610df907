"""Processor sharing against a simulation event by event, and its closed forms."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.networks.pace.cells import finishing_times


def played(work: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Event by event in float64: until the next of a cell is done, each of its k gets 1/k of the time."""
    done = np.zeros(len(work))
    for cell in set(cells.tolist()):
        members = [i for i in range(len(work)) if cells[i] == cell]
        groups = [[i] for i in members] if cell < 0 else [members]
        for group in groups:
            left = {i: float(work[i]) for i in group if work[i] > 0}
            now = 0.0
            while left:
                step = min(left.values()) * len(left)
                now += step
                share = step / len(left)
                gone = [i for i, w in left.items() if w <= share]
                left = {i: w - share for i, w in left.items() if i not in gone}
                for i in gone:
                    done[i] = now
    return done


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_a_simulation_event_by_event_gives(seed: int) -> None:
    draws = np.random.default_rng(seed)
    num = 60
    work = np.where(draws.random(num) < 0.2, 0, draws.lognormal(0, 2, num)).astype(np.float32)
    work[:6] = 1.5  # ties
    cells = draws.integers(-1, 4, num)
    found = finishing_times(jnp.asarray(work), jnp.asarray(cells, jnp.int32))
    np.testing.assert_allclose(found, played(work, cells), rtol=2e-6)


def test_closed_forms() -> None:
    together = jnp.zeros(3, jnp.int32)
    np.testing.assert_array_equal(finishing_times(jnp.array([2.0, 2.0, 2.0]), together), 6)  # k S / C
    np.testing.assert_array_equal(finishing_times(jnp.array([3.0, 1.0, 2.0]), together), [6, 3, 5])  # S, 2 S, 3 S
    np.testing.assert_array_equal(finishing_times(jnp.array([3.0, 0.0, 2.0]), together), [5, 0, 4])
    np.testing.assert_array_equal(finishing_times(jnp.array([3.0, 1.0, 2.0]), jnp.full(3, -1)), [3, 1, 2])
    np.testing.assert_array_equal(finishing_times(jnp.array([4.0]), jnp.zeros(1, jnp.int32)), [4])


def test_no_work_is_lost_nor_made() -> None:
    """The last of a cell is done when all its work is, and small work keeps its digits beside large."""
    work = np.random.default_rng(5).lognormal(0, 3, 500).astype(np.float32)
    cells = np.arange(500, dtype=np.int32) % 7
    found = np.asarray(finishing_times(jnp.asarray(work), jnp.asarray(cells)))
    for cell in range(7):
        np.testing.assert_allclose(found[cells == cell].max(), work[cells == cell].astype(np.float64).sum(), rtol=1e-5)
    small = finishing_times(jnp.array([1e9, 1e-3, 1e-3]), jnp.array([0, 1, 1]))
    np.testing.assert_allclose(small[1:], 2e-3, rtol=1e-6)
