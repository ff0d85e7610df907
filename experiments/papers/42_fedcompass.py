"""FedCompass (42): is a scheduler that makes clients come back together faster than waiting for all, or for none?

Li et al., FedCompass: Efficient cross-silo federated learning on heterogeneous client devices using a computing power
aware scheduler, ICLR 2024.  Command: `dlsim run experiments/papers/42_fedcompass.py`

Ten clients hold 143 handwritten digits each (Dirichlet(0.5) label skew) and train softmax regression with SGD for 1000
time units; a local step takes each client a time of its own, 1 in the mean: normal, exponential, or equal.  FedCompass
gives 20 to 100 local steps to a job, the others 100 (`baseline_steps`).  FedAsync and FedBuff(3) weigh a client by 1/N and
damp staleness as FedCompass does.  A draw is a new world: speeds and data.  Panels: accuracy against simulated time (the
band is one standard deviation over draws), and FedCompass' schedule for five clients.

The paper says (abstract): faster convergence and higher accuracy than asynchronous methods, more efficient than synchronous
ones.  Its tables could not be checked, so no number is quoted.

Measured (default mode, 5 draws, about three minutes on 2 cores), area under accuracy against time in %:

                    FedCompass   FedBuff   FedAsync   FedAvg      with 20 steps a job: FedBuff   FedAsync   FedAvg
    normal             87.2        75.8      72.7      75.9                              85.3      81.9      89.0
    exponential        80.9        71.0      66.0      56.0                              80.0      74.6      82.3
    equal              85.3        78.5      76.3      82.8                              88.7      86.7      91.7
    exp., 2 classes    60.6        45.0      38.7      33.8                              61.2      55.3      63.0

The order of the paper holds at normal and exponential speeds, and so do the claims on staleness (0.61 for FedCompass at
normal speeds, 9 for FedAsync at equal ones).  Both limits do not hold.  At equal speeds FedCompass is ahead in area, only
because its first jobs take 20 steps and FedAvg's first round 100: with `--config.first_steps=100` it has 80.1 %, less than
FedAvg.  With 2 classes a client FedAvg comes to two rounds at exponential speeds, too few to be ahead.

Both limits hold with `--config.baseline_steps=20`, and then the order does not: FedAvg with 20 steps is ahead of FedCompass
in all four worlds, by 1.4 to 6.4 points.  FedCompass stays ahead of FedAsync and FedBuff at normal and exponential speeds
(of FedBuff by 1 to 2 points), and falls behind both at equal ones.  So what it gains on FedAvg here it gains on long rounds.
Draw by draw FedAvg's lead is there in all five at normal and equal speeds, in two of five at exponential ones and in four
of five with 2 classes, where the areas spread by 3 to 10 and by 11 to 15 points: these two decide little.

Departures: SGD and digits in place of MNIST, CIFAR-10 and medical images (`paper` mode: MNIST, which must be on the machine,
LeNet and Adam); speeds do not vary from job to job; staleness damps (1 + tau)^-0.5, where the authors' code raises.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import arrivals, checks
from dlsim.experiment import Claim
from dlsim.learning.measures import only

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 3}  # on 2 cores
CITATION = (
    "Li et al., FedCompass: Efficient cross-silo federated learning on heterogeneous client devices using a computing power "
    "aware scheduler, ICLR 2024."
)
METHODS = {"fedcompass": "FedCompass", "fedbuff": "FedBuff", "fedasync": "FedAsync", "fedavg": "FedAvg"}
WORLDS = {
    "normal": "normal speeds",
    "exp": "exponential",
    "equal": "equal",
    "two_classes": "exp., 2 classes",
}
FRESH = 1.0  # mean staleness of FedCompass at normal speeds: below
EXACT = 0.01  # of a mean staleness that is a whole number
LONG_ENOUGH = 500.0  # mean step times before which the methods have hardly begun
KEPT = ("accuracy", "loss", "num_jobs", "num_aggregations", "mean_staleness", "bits_sent")
SOURCE = "Li et al., FedCompass, ICLR 2024"


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("fedcompass", "mode", mode, MODES)
    config = ConfigDict()
    config.num_seeds = 1  # of initial models and batches; `draw` also changes speeds and data
    config.draw = {"default": tuple(range(5)), "tiny": (0,), "paper": tuple(range(10))}[mode]
    # Problem
    config.dataset = "mnist" if mode == "paper" else "digits"
    config.model = "lenet" if mode == "paper" else "softmax"
    config.num_nodes = 4 if mode == "tiny" else 10
    config.dirichlet_alpha = 0.5
    config.batch_size = 64 if mode == "paper" else 16
    config.optimizer = "adam" if mode == "paper" else "sgd"
    config.learning_rate = 0.001 if mode == "paper" else 0.02
    # Clients and methods
    config.world = ("normal",) if mode == "tiny" else tuple(WORLDS)
    config.algorithm = tuple(METHODS)
    config.min_steps, config.max_steps = (2, 10) if mode == "tiny" else (20, 100)
    config.first_steps = config.min_steps  # of FedCompass' first jobs
    config.baseline_steps = config.max_steps  # of every job of the other methods
    config.latest_factor = 1.2
    config.server_rate = 0.9
    config.staleness_exponent = 0.5
    config.buffer_size = 3
    config.chart_speeds = (1.0, 1.5, 2.0, 3.0, 4.0)  # seconds a step of the five clients of the chart
    # Time: mean seconds of a local step are 1
    config.window = 5.0 if mode == "tiny" else 10.0
    config.num_steps = 10 if mode == "tiny" else (500 if mode == "paper" else 100)
    config.record_every = 1 if mode != "paper" else 5
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every method in every world, in several draws of speeds and data."""
    return {"world": config.world, "algorithm": config.algorithm, "draw": config.draw}


def seconds_per_step(world: str, num_nodes: int, draw: int) -> np.ndarray:
    """Of each client, `[N]`."""
    checks.one_of("fedcompass", "world", world, WORLDS)
    rng = np.random.default_rng([draw, 42])
    if world == "equal":
        return np.ones(num_nodes)
    if world == "normal":
        return np.maximum(rng.normal(1.0, 0.3, num_nodes), 0.1)
    return np.maximum(rng.exponential(1.0, num_nodes) + 0.05, 0.1)


def make_algorithm(config: ConfigDict, problem: dlsim.Problem, pace: arrivals.Pace) -> Any:
    """The method by name, on this pace; FedAsync and FedBuff weigh a client by 1/N, as FedCompass does."""
    checks.one_of("fedcompass", "algorithm", config.algorithm, METHODS)
    checks.one_of("fedcompass", "optimizer", config.optimizer, ("sgd", "adam"))
    optimizer = getattr(optax, config.optimizer)(config.learning_rate)
    steps, equal = config.baseline_steps, np.ones(config.num_nodes)
    damping = arrivals.polynomial(config.staleness_exponent)
    if config.algorithm == "fedcompass":
        return dlsim.algorithms.fedcompass(
            problem,
            optimizer,
            pace=pace,
            server_rate=config.server_rate,
            min_steps=config.min_steps,
            max_steps=config.max_steps,
            first_steps=config.first_steps,
            latest_factor=config.latest_factor,
            staleness=damping,
        )
    if config.algorithm == "fedbuff":
        return dlsim.algorithms.fedbuff(
            problem,
            optimizer,
            pace=pace,
            num_local_steps=steps,
            buffer_size=config.buffer_size,
            server_optimizer=optax.sgd(config.server_rate),
            staleness=damping,
            weights=equal,
        )
    if config.algorithm == "fedasync":
        return dlsim.algorithms.fedasync(
            problem,
            optimizer,
            pace=pace,
            num_local_steps=steps,
            mixing=config.server_rate,
            staleness=damping,
            form="movement",
            weights=equal,
        )
    return dlsim.algorithms.synchronous_fedavg(problem, optimizer, pace=pace, num_local_steps=steps, weights=equal)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One method in one world."""
    is_hard = config.world == "two_classes"
    problem = dlsim.problems.classification(
        config.dataset,
        num_nodes=config.num_nodes,
        partition=dlsim.problems.pathological(2) if is_hard else dlsim.problems.dirichlet(config.dirichlet_alpha),
        model=config.model,
        batch_size=config.batch_size,
        seed=config.draw,
    )
    pace = arrivals.pace(config.num_nodes, seconds_per_step(config.world, config.num_nodes, config.draw))
    process = dlsim.learn(
        problem,
        make_algorithm(config, problem, pace),
        dlsim.networks.complete(config.num_nodes),
        timing=dlsim.clocks.timing(window=config.window),
    )
    return process, dlsim.Record(every=config.record_every, fn=only(process, KEPT))


def area(results: xarray.Dataset) -> xarray.DataArray:
    """Mean accuracy over simulated time, by trapezoids, `[world, algorithm, draw]`."""
    accuracy = results.accuracy
    span = float(accuracy.step[-1] - accuracy.step[0])
    return (accuracy.integrate("step") / span).mean("seed")


def mean_staleness(results: xarray.Dataset, *, late: bool) -> xarray.DataArray:
    """Of all jobs used; or of those in the second half of the time, where the start is over."""
    jobs = results.num_jobs.astype(np.float64)
    total = results.mean_staleness * jobs
    if late:
        half = jobs.sizes["step"] // 2
        jobs, total = (one - one.isel(step=half) for one in (jobs, total))
    return (total / jobs).isel(step=-1).mean("seed")


class _Statement(NamedTuple):
    text: str
    source: str
    reported: str
    world: str
    decide: Callable[[xarray.Dataset, int], tuple[str, bool]]  # (results of the world, N) -> what was measured, holds


def claims(results: xarray.Dataset) -> list[Claim]:
    """Orders of the means over draws, and staleness; thresholds are the constants above."""
    config = json.loads(results.attrs["config"])
    is_whole = set(results.algorithm.values.tolist()) == set(METHODS)
    is_long = float(results.step[-1]) * config["window"] >= LONG_ENOUGH
    out = []
    for text, source, reported, world, decide in _STATEMENTS:
        measured, holds = "was not run", False
        is_known = is_whole and world in results.world.values
        if is_known:
            measured, holds = decide(results.sel(world=world), config["num_nodes"])
        out.append(Claim(text, source, reported, measured, holds if is_known and is_long else None))
    return out


def _order(one: xarray.Dataset, num_nodes: int) -> tuple[str, bool]:
    del num_nodes
    areas = area(one)
    compass, buff, single, rounds = (float(areas.sel(algorithm=name).mean("draw")) for name in METHODS)
    return _listed(areas), compass > buff > single and compass > rounds


def _fresh(one: xarray.Dataset, num_nodes: int) -> tuple[str, bool]:
    del num_nodes
    found = mean_staleness(one, late=False).sel(algorithm="fedcompass")
    return _mean(found), bool(found.mean() < FRESH)


def _as_old_as_others(one: xarray.Dataset, num_nodes: int) -> tuple[str, bool]:
    found = mean_staleness(one, late=True).sel(algorithm="fedasync")
    return _mean(found), bool(np.abs(found - (num_nodes - 1)).max() < EXACT)


def _rounds(one: xarray.Dataset, num_nodes: int) -> tuple[str, bool]:
    compass = one.sel(algorithm="fedcompass")
    first, last = (compass.isel(step=place).astype(np.float64) for place in (compass.sizes["step"] // 2, -1))
    each = ((last.num_jobs - first.num_jobs) / (last.num_aggregations - first.num_aggregations)).mean("seed")
    stale = mean_staleness(one, late=True).sel(algorithm="fedcompass")
    holds = np.abs(each - num_nodes).max() < EXACT and np.abs(stale).max() < EXACT
    return f"{_mean(each)} jobs, staleness {_mean(stale)}", bool(holds)


def _no_gain(one: xarray.Dataset, num_nodes: int) -> tuple[str, bool]:
    del num_nodes
    areas = area(one)
    means = areas.mean("draw")
    return _listed(areas), bool(means.sel(algorithm="fedcompass") <= means.sel(algorithm="fedavg"))


def _fedavg_wins(one: xarray.Dataset, num_nodes: int) -> tuple[str, bool]:
    del num_nodes
    areas = area(one)
    means = areas.mean("draw")
    return _listed(areas), bool(means.sel(algorithm="fedavg") > means.drop_sel(algorithm="fedavg").max())


_ORDER = (
    "area under accuracy against time, FedCompass > FedBuff > FedAsync, and FedCompass > FedAvg",
    f"{SOURCE}, abstract",
)
_STATEMENTS = (
    _Statement(f"Normal speeds: {_ORDER[0]}", _ORDER[1], "this order of the means over draws", "normal", _order),
    _Statement(f"Exponential speeds: {_ORDER[0]}", _ORDER[1], "this order of the means over draws", "exp", _order),
    _Statement(
        "Normal speeds: FedCompass' updates are hardly stale",
        f"{SOURCE}, abstract",
        f"mean staleness below {FRESH:g}",
        "normal",
        _fresh,
    ),
    _Statement(
        "Equal speeds: FedAsync's staleness is N - 1",
        "counting: between two arrivals of a client all others come once",
        f"mean staleness N - 1 after the start, to {EXACT:g}",
        "equal",
        _as_old_as_others,
    ),
    _Statement(
        "Equal speeds: FedCompass falls into rounds of all clients",
        "fixed point of its scheduler",
        f"N jobs an aggregation and staleness 0 after the start, to {EXACT:g}",
        "equal",
        _rounds,
    ),
    _Statement(
        "Limit, equal speeds: FedCompass wins nothing over FedAvg",
        "it is then FedAvg at the server's rate, after a slower start",
        "area not above FedAvg's, mean over draws",
        "equal",
        _no_gain,
    ),
    _Statement(
        "Limit, exponential speeds and 2 classes a client: FedAvg is ahead of all asynchronous methods",
        "those who come often pull the model to their classes",
        "largest area, mean over draws",
        "two_classes",
        _fedavg_wins,
    ),
)


def _listed(areas: xarray.DataArray) -> str:
    return ", ".join(f"{label} {_mean(areas.sel(algorithm=name))}" for name, label in METHODS.items())


def _mean(values: xarray.DataArray) -> str:
    numbers = np.atleast_1d(values.values)
    spread = f" ± {np.std(numbers, ddof=1):.2f}" if numbers.size > 1 else ""
    return f"{np.mean(numbers):.3g}{spread}"


def figure(results: xarray.Dataset) -> Figure:
    """Accuracy against simulated time in each world; below, who works when in FedCompass' first rounds."""
    from dlsim import plotting

    config = json.loads(results.attrs["config"])
    worlds = results.world.values.tolist()
    with plotting.style():
        made, panels = plotting.panels(2, len(worlds), height=4.6, gridspec_kw={"height_ratios": [1, 1.1]})
        timed = results.accuracy.isel(seed=0, drop=True).rename(draw="seed")
        timed = timed.assign_coords(step=timed.step * config["window"])
        for column, world in enumerate(worlds):
            panel = panels[0, column]
            plotting.curves(panel, 100 * timed.sel(world=world), "algorithm", labels=METHODS)
            panel.set(xlabel="time (mean steps)", ylim=(0, 100))
            if column:
                panel.tick_params(labelleft=False)
        panels[0, 0].set_ylabel("test accuracy (%)")
        panels[0, 0].legend(fontsize=6, loc="lower right")
        grid = panels[1, 0].get_gridspec()
        for panel in panels[1]:
            panel.remove()
        chart = made.add_subplot(grid[1, :])
        _draw_chart(chart, config)
        titles = [WORLDS[world] for world in worlds]
        plotting.letters([*panels[0], chart], [*titles, "FedCompass: local steps of five clients, aggregations"])
    return made


def first_jobs(config: dict[str, Any], num_rounds: int = 10) -> arrivals.Jobs:
    """FedCompass' jobs on the chart's clients, with those of the first `num_rounds` aggregations of groups."""
    pace = arrivals.pace(len(config["chart_speeds"]), config["chart_speeds"])
    schedule = arrivals.compass(
        pace,
        min_steps=config["min_steps"],
        max_steps=config["max_steps"],
        first_steps=config["first_steps"],
        latest_factor=config["latest_factor"],
    )
    jobs = next(schedule.jobs(0))
    ends = np.flatnonzero(jobs.is_last & ~jobs.is_direct)
    return jobs.part(slice(0, int(ends[num_rounds - 1]) + 1))


def _draw_chart(panel: Axes, config: dict[str, Any]) -> None:
    jobs = first_jobs(config)
    arrivals.gantt(jobs, 1.01 * int(jobs.use[-1]) / dlsim.clocks.TICKS_PER_SECOND, panel)
    speeds = config["chart_speeds"]
    panel.set_yticks(range(len(speeds)), [f"{i} ({speed:g})" for i, speed in enumerate(speeds)])
    panel.set(xlabel="simulated time (dotted: single updates)", ylabel="client (time a step)")
