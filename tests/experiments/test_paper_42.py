"""FedCompass' experiment: its smallest mode, what its claims say of made-up results, and its schedule's fixed points."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import xarray

from dlsim import arrivals
from dlsim.arrivals import Jobs
from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "42_fedcompass.py"
MODULE = load_experiment(FILE).module
WORLDS, METHODS = list(MODULE.WORLDS), list(MODULE.METHODS)
GOOD = {"fedcompass": 0.7, "fedbuff": 0.6, "fedasync": 0.5, "fedavg": 0.65}
HARD = {"fedcompass": 0.5, "fedbuff": 0.4, "fedasync": 0.3, "fedavg": 0.8}


def first(schedule: arrivals.Schedule, num: int) -> Jobs:
    """The first jobs of a schedule that suffices with one piece."""
    jobs = next(schedule.jobs(0))
    assert len(jobs.client) >= num
    return Jobs(*(getattr(jobs, name)[:num] for name in Jobs.__dataclass_fields__))


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None] * 7  # too short to decide
    assert [claim.measured == "was not run" for claim in saved.claims] == [False, True, False, True, True, True, True]
    last = saved.results.isel(step=-1, seed=0, world=0, draw=0)
    assert (last.accuracy > 0.4).all()
    config = make_config(load_experiment(FILE), "tiny")
    seconds = MODULE.seconds_per_step("normal", config.num_nodes, 0) * config.baseline_steps
    end = config.num_steps * config.window
    # FedAsync uses every job that ends in time, FedAvg those of whole rounds.
    assert int(last.num_jobs.sel(algorithm="fedasync")) == int(np.floor(end / seconds).sum())
    assert int(last.num_aggregations.sel(algorithm="fedavg")) == int(end // seconds.max())
    assert float(last.mean_staleness.sel(algorithm="fedavg")) == 0


def made_up(areas: dict[str, dict[str, float]] | None = None, **changes: Any) -> xarray.Dataset:
    """Two draws of runs at steady accuracy; ten clients, of whom ten jobs are used a step."""
    dims, steps = ("world", "algorithm", "draw", "seed", "step"), np.arange(0, 101, 10)
    shape = (len(WORLDS), len(METHODS), 2, 1, len(steps))
    levels = {"normal": GOOD, "exp": GOOD, "equal": HARD, "two_classes": HARD, **(areas or {})}
    accuracy = np.array([[levels[world][method] for method in METHODS] for world in WORLDS])
    jobs = np.broadcast_to(10.0 * steps, shape)
    staleness = np.zeros((len(WORLDS), len(METHODS)))
    staleness[0, 0], staleness[2, 2] = changes.get("normal", 0.7), changes.get("asynchronous", 9.0)
    staleness[2, 0] = changes.get("equal", 0.0)
    data = {
        "accuracy": (dims, np.broadcast_to(accuracy[:, :, None, None, None], shape)),
        "num_jobs": (dims, jobs),
        "num_aggregations": (dims, jobs / changes.get("each", 10)),
        "mean_staleness": (dims, np.broadcast_to(staleness[:, :, None, None, None], shape)),
    }
    coordinates = {"world": WORLDS, "algorithm": METHODS, "draw": [0, 1], "seed": [0], "step": steps}
    config = {"window": changes.get("window", 10.0), "num_nodes": 10}
    return xarray.Dataset(data, coordinates, {"config": json.dumps(config)})


def verdicts(*arguments: Any, **changes: Any) -> list[bool | None]:
    return [claim.holds for claim in MODULE.claims(made_up(*arguments, **changes))]


def test_claims_are_decided_by_the_numbers() -> None:
    assert verdicts() == [True] * 7
    assert verdicts({"normal": HARD}) == [False, *[True] * 6]
    assert verdicts({"exp": {**GOOD, "fedasync": 0.61}}) == [True, False, *[True] * 5]
    assert verdicts({"equal": GOOD, "two_classes": GOOD}) == [*[True] * 5, False, False]
    assert verdicts(normal=1.1, asynchronous=8.9) == [True, True, False, False, True, True, True]
    assert verdicts(each=9)[4] is False and verdicts(equal=0.5)[4] is False
    assert verdicts(window=1.0) == [None] * 7


def test_area_is_the_mean_over_time() -> None:
    data = made_up()
    ramp = data.accuracy * 0 + data.step / 100
    assert np.allclose(MODULE.area(data.assign(accuracy=ramp)), 0.5)


def test_staleness_after_the_start_leaves_the_start_out() -> None:
    data = made_up()
    # 2 at first and 4 from the middle on: the mean over all so far lags behind.
    jobs = data.num_jobs
    half = float(jobs.isel(step=5).mean())
    stale = xarray.where(jobs <= half, 2.0, (2 * half + 4 * (jobs - half)) / np.maximum(jobs, 1))
    data = data.assign(mean_staleness=stale.transpose(*jobs.dims))
    assert np.allclose(MODULE.mean_staleness(data, late=True), 4)
    assert np.allclose(MODULE.mean_staleness(data, late=False), 3)


def test_exact_speeds_end_in_one_group() -> None:
    seconds = np.array([1.0, 1.3, 2.1, 3.7, 4.9])  # at most max_steps / min_steps apart
    jobs = first(arrivals.compass(arrivals.pace(5, seconds)), 400)
    ends = np.flatnonzero(jobs.is_last)
    late = slice(ends[-11] + 1, ends[-1] + 1)
    assert (jobs.staleness[late] == 0).all() and (np.diff(ends[-11:]) == 5).all()
    for client in range(5):
        steps = jobs.num_steps[late][jobs.client[late] == client]
        assert (steps == int(100 * seconds[0] / seconds[client])).all()


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_every_job_is_applied_once_within_the_bounds(sigma: float) -> None:
    pace = arrivals.pace(6, MODULE.seconds_per_step("exp", 6, 1), sigma=sigma)
    jobs = first(arrivals.compass(pace), 1000)
    assert jobs.num_steps.min() >= 20 and jobs.num_steps.max() <= 100
    version = np.concatenate([[0], np.cumsum(jobs.is_last)[:-1]])
    assert np.array_equal(version - jobs.start_version, jobs.staleness)
    for client in range(6):
        mine = jobs.client == client
        # Those of one client are used in order, each once; the last may wait in a group.
        assert np.array_equal(jobs.number[mine], np.arange(mine.sum()))
        assert (jobs.start[mine][1:] >= jobs.finish[mine][:-1]).all()


def test_one_client_is_fedasync_with_constant_speed() -> None:
    pace = arrivals.pace(1, 0.7)
    compass = first(arrivals.compass(pace, min_steps=30, max_steps=30), 50)
    single = first(arrivals.next_arrival(pace, 30), 50)
    for name in ("num_steps", "start_version", "coefficient", "is_last", "finish", "use"):
        assert np.array_equal(getattr(compass, name), getattr(single, name)), name


def test_a_world_gives_every_draw_its_own_speeds() -> None:
    one, other = (MODULE.seconds_per_step("exp", 10, draw) for draw in (0, 1))
    assert (one != other).any() and min(one.min(), other.min()) >= 0.1
    assert np.array_equal(one, MODULE.seconds_per_step("two_classes", 10, 0))
    assert (MODULE.seconds_per_step("equal", 10, 0) == 1).all()
    with pytest.raises(ValueError, match="fedcompass: world must be"):
        MODULE.seconds_per_step("uniform", 10, 0)
