"""The tiny mode of the FedFix experiment, and the closed forms behind its claims."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest

from dlsim.clocks import TICKS_PER_SECOND
from dlsim.studies.experiment import SavedRun, load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "51_fedfix.py"
TIMES, CENTRES = 1 - 0.8 * np.arange(10) / 9, np.linspace(-1, 1, 10)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    return run_experiment(FILE, "tiny", out=tmp_path_factory.mktemp("fedfix") / "run", progress=False)


def replay(window: float | None, rate: float, until: float) -> tuple[np.ndarray, np.ndarray]:
    """Times of the aggregations, and w after each: event by event, every contribution of weight 1 or 1/10."""
    taken = np.rint(TIMES * TICKS_PER_SECOND).astype(np.int64)
    back, sent, w = taken.copy(), np.zeros(10), 0.0
    seconds, places = [0.0], [w]
    aggregations = 0
    while seconds[-1] < until:
        if window is None:
            now = back.min()
            who = [int(np.argmin(back))]
        else:
            aggregations += 1
            now = aggregations * round(window * TICKS_PER_SECOND)
            who = np.flatnonzero(back <= now).tolist()
        w += (1.0 if window is None else 0.1) * sum(rate * (CENTRES[i] - sent[i]) for i in who)
        for i in who:
            sent[i], back[i] = w, now + taken[i]
        seconds.append(now / TICKS_PER_SECOND)
        places.append(w)
    return np.array(seconds), np.array(places)


def test_the_tiny_mode_gives_claims_and_a_figure(saved: SavedRun) -> None:
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None, None]
    assert [claim.reported for claim in saved.claims] == ["0.3252", "0.3000"]


@pytest.mark.parametrize(("scheme", "window"), [("async equal", None), ("fedfix-0.3 equal", 0.3)])
@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_scalars_follow_a_replay_event_by_event(
    saved: SavedRun, scheme: str, window: float | None, rate: float
) -> None:
    one = saved.results.sel(case=f"scalar F-80 {scheme}", learning_rate=rate).isel(seed=0)
    looked = one.simulated_seconds.values.astype(float)
    seconds, places = replay(window, rate, until=looked[-1] + 1)
    np.testing.assert_allclose(one.place.values, places[np.searchsorted(seconds, looked, side="right") - 1], atol=2e-6)


def test_the_limits_are_those_of_the_theory() -> None:
    limits = load_experiment(FILE).module._limits()
    np.testing.assert_allclose(limits["async equal"], np.sum(CENTRES / TIMES) / np.sum(1 / TIMES), rtol=1e-6)
    windows = np.array([math.ceil(round(t / 0.3, 9)) for t in TIMES])
    np.testing.assert_allclose(limits["fedfix-0.3 equal"], np.sum(CENTRES / windows) / np.sum(1 / windows), rtol=1e-6)
    np.testing.assert_allclose(limits["fedfix-0.3 equal"], 0.3, atol=1e-6)
    assert limits["async"] == limits["fedfix-0.3"] == limits["fedavg"] == 0
