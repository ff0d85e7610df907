"""Learn to Follow (11): what do congestion costs do to the throughput of agents that plan alone?

Skrynnik, Andreychuk, Nesterova, Yakovlev, Panov, AAAI 2024.  Command: `dlsim run experiments/papers/11_learn_to_follow.py`

Lifelong pathfinding: whoever reaches its goal gets another.  Each agent plans the path of least cost to its own goal in
every step, and goes to the next cell of it; if somebody stands there, with probability 0.3 it does anything instead.  Moves
that conflict are resolved by the rule `soft`.  The cost of a cell is 1, or more where the map is central (static), plus
one for each time the agent saw another there since its goal changed (dynamic).  Throughput is goals reached a step.

The paper's learned follower has, on the warehouse, 1.96 / 3.15 / 3.94 with 64 / 128 / 192 agents (independent benchmark of
the same group, 256 steps).  Its plots could not be read; the claims below are about the planner's costs under the rule-based
follower, and the figure shows the benchmark's numbers for the learned one as a dashed line.

Measured (default mode, 3 seeds, 256 steps; three and a half minutes on 2 cores): in the warehouse with 128
agents none 0.59, static 0.76, dynamic 2.23, both 2.35 (spreads 0.03 to 0.09); with 192 agents 0.75, 0.78, 2.41, 2.67; on
random maps with 32 agents (mean of 8 maps) 0.39, 0.46, 1.15, 1.14.  Both claims hold; the static cost does not help on random
maps.

Runs go one at a time, so that their times are their own: planning and moving, without compiling.  An agent and step took 20,
28, 39 and 42 µs with none, static, dynamic and both costs (128 agents, best of 3 seeds), 17, 26, 41 and 48 µs with 192.

Not here: the learned policy and claims on it (a GPU's work: `following` gives its observations and rewards), and
other planners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, environments, keys
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.2, "default": 4}  # on 2 cores
TIMED = True  # runs go one at a time: side by side they would share the machine, and plan until the last is done
CITATION = "Skrynnik, Andreychuk, Nesterova, Yakovlev, Panov, Learn to Follow, AAAI 2024."
SOURCE = "Skrynnik et al., AAAI 2024"
COSTS = {"none": (0.0, 0.0), "static": (1.0, 0.0), "dynamic": (0.0, 1.0), "both": (1.0, 1.0)}
FACTOR = 2.0  # what the dynamic cost gains at least, with 128 agents in the warehouse and 32 on random maps
LEARNED = {64: 1.957, 128: 3.151, 192: 3.937}  # the paper's follower in the benchmark's raw data
VIEW = 11
MARKERS = ("o-", "s-", "^-", "D-")  # of the curves, in the order of COSTS


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("11_learn_to_follow", "mode", mode, MODES)
    config = ConfigDict()
    is_tiny = mode == "tiny"
    config.costs = tuple(COSTS)
    worlds = tuple(f"warehouse {num}" for num in ((16,) if is_tiny else (32, 64, 96, 128, 160, 192)))
    maps = 1 if is_tiny else 8
    config.world = (*worlds, *(f"random {8 if is_tiny else 32} {number}" for number in range(maps)))
    config.num_seeds = {"tiny": 1, "default": 3, "paper": 10}[mode]
    config.num_steps = {"tiny": 12, "default": 256, "paper": 512}[mode]
    config.record_every = 4 if is_tiny else 64
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Which costs, in which world: the warehouse with so many agents, or a random map of that number."""
    return {"costs": config.costs, "world": config.world}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One world with one choice of costs."""
    checks.one_of("11_learn_to_follow", "costs", config.costs, COSTS)
    static, dynamic = COSTS[config.costs]
    kind, num, *number = config.world.split()
    checks.one_of("11_learn_to_follow", "world", kind, ("warehouse", "random"))
    options: dict[str, Any] = {"view": VIEW, "max_steps": config.num_steps + 1}
    if kind == "warehouse":
        obstacles, starts, goals = environments.warehouse_map()
        options |= {"starts": starts, "goals": goals}
    else:
        obstacles = environments.random_map(20, 20, 0.2, seed=int(number[0]))
    world = environments.following(obstacles, int(num), static_weight=static, dynamic_weight=dynamic, **options)

    def init(key: jax.Array) -> Any:
        return world.reset(keys.stream(key, "reset"))[0]

    def step(key: jax.Array, state: Any) -> tuple[Any, dict[str, Any]]:
        actions = environments.follow(keys.stream(key, "follow"), state)
        return world.step(keys.stream(key, "world"), state, actions)[0], {}

    def measure(state: Any, info: Any) -> dict[str, Any]:
        del info
        return {"throughput": world.metrics(state)["throughput"].astype(jnp.float32)}

    process = dlsim.Process(init, step, measure, (SOURCE,))
    return process, dlsim.Record(every=config.record_every)


def _final(results: xarray.Dataset, world: str, costs: str) -> np.ndarray:
    """Throughput over the whole run, by seed (random maps: mean over maps)."""
    have = [name for name in results.world.values.tolist() if name.startswith(world)]
    chosen = results.throughput.sel(world=have, costs=costs).isel(step=-1)
    return np.atleast_1d(chosen.mean("world").values)


def _text(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if values.size > 1 else "")


def claims(results: xarray.Dataset) -> list[Claim]:
    """What costs of congestion are said to do; thresholds are the constants above."""
    have = results.world.values.tolist()
    is_long = int(results.step.values[-1]) >= 256
    out = []
    crowd = "warehouse 128" if "warehouse 128" in have else next(name for name in have if name.startswith("warehouse"))
    found = {name: _final(results, crowd, name) for name in COSTS}
    none, static, dynamic, both = (found[name].mean() for name in COSTS)
    rule = both >= FACTOR * none and dynamic >= FACTOR * static and both > dynamic > static > none
    out.append(
        Claim(
            text=f"{crowd} agents: both costs >= {FACTOR:g} x none, dynamic >= {FACTOR:g} x static, and both > dynamic > "
            "static > none",
            source=f"{SOURCE}, ablation of the planner's costs on the warehouse",
            reported="both costs help; the learned follower reaches 3.151 with 128 agents",
            measured=", ".join(f"{name} {_text(values)}" for name, values in found.items()),
            holds=bool(rule) if is_long else None,
        )
    )
    found = {name: _final(results, "random", name) for name in COSTS}
    out.append(
        Claim(
            text=f"Random maps 20 x 20 of density 0.2: the dynamic cost alone has >= {FACTOR:g} x the throughput of none",
            source=f"{SOURCE}, throughput on random maps",
            reported="congestion costs raise the throughput; the learned follower reaches 1.829 with 32 agents",
            measured=", ".join(f"{name} {_text(values)}" for name, values in found.items()),
            holds=bool(found["dynamic"].mean() >= FACTOR * found["none"].mean()) if is_long else None,
        )
    )
    return out


def _cost(results: xarray.Dataset, world: str, costs: str) -> float:
    """Microseconds an agent and step: the best of the seeds, which run the same program."""
    return 1e6 * float(results.seconds_per_step.sel(world=world, costs=costs).min()) / int(world.split()[1])


def figure(results: xarray.Dataset) -> Figure:
    """Throughput against the number of agents in the warehouse; the same on random maps; time an agent and step."""
    from dlsim import plotting

    names = [name for name in results.world.values.tolist() if name.startswith("warehouse")]
    numbers = [int(name.split()[1]) for name in names]
    with plotting.style():
        made, panels = plotting.panels(1, 3, width=1.25 * plotting.PAGE, height=2.7, width_ratios=(1.2, 1, 1.2))
        left, middle, right = panels[0]
        for place, costs in enumerate(COSTS):
            values = np.array([_final(results, name, costs) for name in names])
            mean, spread = values.mean(1), values.std(1, ddof=1) if values.shape[1] > 1 else 0.0
            left.plot(numbers, mean, MARKERS[place], markersize=3, color=plotting.COLORS[place], label=costs)
            left.fill_between(
                numbers, mean - spread, mean + spread, color=plotting.COLORS[place], alpha=0.2, linewidth=0
            )
            random = _final(results, "random", costs)
            error = random.std(ddof=1) if random.size > 1 else 0.0
            middle.bar(place, random.mean(), yerr=error, capsize=2, color=plotting.COLORS[place])
            times = [_cost(results, name, costs) for name in names]
            right.plot(numbers, times, MARKERS[place], markersize=3, color=plotting.COLORS[place], label=costs)
        known = {num: value for num, value in LEARNED.items() if num in numbers}
        if known:
            left.plot(list(known), list(known.values()), "k--", label="learned (benchmark)")
        left.set_xlabel("agents")
        left.set_ylabel("goals reached a step")
        left.set_ylim(bottom=0)
        middle.set_xticks(range(len(COSTS)), labels=list(COSTS))
        middle.grid(axis="x", visible=False)
        middle.set_axisbelow(True)
        middle.set_xlabel("costs")
        middle.set_ylabel("goals reached a step")
        right.set_xlabel("agents")
        right.set_ylabel("µs an agent and step")
        right.set_ylim(bottom=0)
        titles = ("Warehouse 33 x 46", "Random maps 20 x 20", "Time of planning and moving")
        plotting.letters(panels, titles)
        plotting.share_legend(made, panels[0])
    return made
