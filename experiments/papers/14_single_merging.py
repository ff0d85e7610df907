"""Single merging (14): when should a decentralised run spend its messages, and does one merge at the end suffice?

Zhu, Zhang, Wang, Zhou, Wang, On the surprising effectiveness of a single global merging in decentralized learning, ICLR 2026.
Command: `dlsim run experiments/papers/14_single_merging.py`

Sixteen nodes train a perceptron 784-32-32-10 on Fashion-MNIST from one start, twenty local steps of batch 16 a round at
rate 0.05.  Each node has shares of the classes drawn from Dirichlet(alpha) and draws every batch by them from a common pool
of 10,000 images.  In round t it hears r_t random others and averages them with its own.  Schedules: r fixed at 0, 0.05, 0.2,
1, 2 or 15 (everyone: a server-based run); 0.2 with a window of five full rounds at 0, 45, 90 or 95 % of the run; 0.2 and one
full merge in the last round.  All are one program, whose schedule is data.  Local: mean accuracy of the nodes' models;
merged: accuracy of their mean, which training never sees.

The paper says: late communication improves accuracy most; one final merge matches server-based training; a little
communication keeps models mergeable throughout, none does not.  Its tables could not be checked, so none is quoted; what
stands under "reported" is of an independent program (five seeds).

Measured (default mode, 60 runs, 3 seeds, one program; 6 minutes of one core's time): all claims hold.  With r = 0.2 and
alpha = 0.1 nodes have 58.9 to 63.3 %, their mean 80.8 to 82.9 %, a server-based run 1.4 to 3.3 points more; at alpha = 1 the
mean is within a point of it.  Without messages the mean has 51 to 68 %.  Five full rounds at the end give 82.7 % to every
node, five rounds earlier 63.7 %, against 60.6 % without.  Differs from the page: the means of r = 0 and 0.05 are 9 points
higher, as the shares of classes are another draw.

Departures: a perceptron on Fashion-MNIST in place of ResNet-18 on TinyImageNet; 16 nodes, 100 rounds in place of 32, 300; a
node draws its batches from 4,000 images drawn by its shares once.  Mode `paper` has 32 nodes, 300 rounds of 100 steps of
batch 128 at rate 0.01 with momentum 0.9 and weight decay 5e-4, on the same images.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks
from dlsim.experiment import Claim
from dlsim.learning.measures import only
from dlsim.networks import given_rounds, random_neighbors, window_rounds

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.2, "default": 6}  # on 2 cores
CITATION = (
    "Zhu et al., On the surprising effectiveness of a single global merging in decentralized learning, ICLR 2026."
)
SOURCE = "Zhu et al., ICLR 2026"
FIXED = (0.0, 0.05, 0.2, 1.0, 2.0)
WINDOWS = (0.0, 0.45, 0.9, 0.95)  # of the run, where a window begins
SPARSE = 0.2
NAMES = ("full", *(f"r={r:g}" for r in FIXED), *(f"window {p:g}" for p in WINDOWS), "single")
MERGEABLE = 0.12  # C1: merged above local, r = 0.2, every seed
RECOVERS = (0.6, 0.1, 0.02)  # C2: share of the gap; points left at alpha = 0.1; at alpha = 1
SILENCE = 0.1  # C3: merged, r = 0 below r = 0.2, every seed
LATE = (0.12, 0.06)  # C4: local; a window that ends early, from no window
CHEAPER = 35.0  # C5: messages


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep.  `schedule` is a place in NAMES."""
    checks.one_of("14_single_merging", "mode", mode, MODES)
    config = ConfigDict()
    is_paper, is_tiny = mode == "paper", mode == "tiny"
    config.world = ("alpha=0.1", "alpha=1", "alpha=0.05", "alpha=0.1 ring") if is_paper else ("alpha=0.1", "alpha=1")
    config.schedule = tuple(float(place) for place, name in enumerate(NAMES) if is_paper or name != "r=2")
    if is_tiny:
        config.world = ("alpha=0.1",)
        config.schedule = tuple(float(NAMES.index(name)) for name in ("full", "r=0", "r=0.2", "single"))
    config.num_seeds = {"tiny": 1, "default": 3, "paper": 5}[mode]
    config.num_nodes = {"tiny": 8, "default": 16, "paper": 32}[mode]
    config.num_local_steps = {"tiny": 1, "default": 20, "paper": 100}[mode]
    config.batch_size = 128 if is_paper else 16
    config.rate = 0.01 if is_paper else 0.05
    config.momentum = 0.9 if is_paper else 0.0
    config.weight_decay = 5e-4 if is_paper else 0.0
    config.pool = 10_000 if not is_tiny else 1000
    config.held = 4000 if not is_tiny else 200
    config.num_test = {"tiny": 200, "default": 1000, "paper": 10_000}[mode]
    config.num_steps = {"tiny": 20, "default": 100, "paper": 300}[mode]
    config.record_every = 5
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every schedule on every world: alpha, and whether draws are among all others or among the links of a ring."""
    return {"world": config.world, "schedule": config.schedule}


@functools.cache
def _data(pool: int) -> Any:
    data = dlsim.problems.load("fashion_mnist")
    return data._replace(inputs=data.inputs[:pool], labels=data.labels[:pool])


def schedules(num_rounds: int, num_nodes: int, most: int | None = None) -> np.ndarray:
    """r_t of every schedule, [schedules, T]; `most` neighbours there are at most."""
    full = float(num_nodes - 1 if most is None else most)
    length = max(1, num_rounds // 20)
    # In whole numbers: shares of the run are no float32.
    begins = [min(int(np.ceil(round(p * num_rounds, 6))), num_rounds - length) for p in WINDOWS]
    rows = [np.full(num_rounds, full), *(np.full(num_rounds, min(r, full)) for r in FIXED)]
    rows += [window_rounds(num_rounds, begin, length, full, otherwise=SPARSE) for begin in begins]
    rows += [given_rounds(num_rounds, [num_rounds - 1], full, otherwise=SPARSE)]
    return np.stack([np.asarray(row, np.float32) for row in rows])


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One world under one schedule, which may be traced."""
    num, (skew, *graph) = config.num_nodes, config.world.split()
    problem = dlsim.problems.classification(
        _data(config.pool),
        num,
        partition=dlsim.problems.bootstrap(config.held, alpha=float(skew.removeprefix("alpha="))),
        model=dlsim.problems.mlp((32, 32)),
        batch_size=config.batch_size,
        num_test=config.num_test,
    )
    optimizer = optax.sgd(config.rate, momentum=config.momentum or None)
    if config.weight_decay:
        optimizer = optax.chain(optax.add_decayed_weights(config.weight_decay), optimizer)
    algorithm = dlsim.algorithms.dsgd(problem, optimizer, num_local_steps=config.num_local_steps)
    network = dlsim.networks.ring(num) if graph else dlsim.networks.complete(num)
    table = jnp.asarray(schedules(config.num_steps, num, 2 if graph else None))
    scenario = random_neighbors(table[jnp.asarray(config.schedule).astype(jnp.int32)])
    process = dlsim.learn(problem, algorithm, network, scenario)
    kept = ("accuracy", "accuracy_of_mean", "consensus_distance", "messages_sent")
    return process, dlsim.Record(every=config.record_every, fn=only(process, kept))


def _of(results: xarray.Dataset, name: str, schedule: str, world: str = "alpha=0.1") -> np.ndarray:
    """[seed, step]"""
    one = results[name].sel(world=world, schedule=float(NAMES.index(schedule)))
    return np.atleast_2d(one.transpose("seed", "step").values.astype(float))


def _last(results: xarray.Dataset, name: str, schedule: str, world: str = "alpha=0.1") -> np.ndarray:
    return _of(results, name, schedule, world)[:, -1]


def _shown(values: np.ndarray, scale: float = 100) -> str:
    return " ".join(f"{scale * value:.1f}" for value in values)


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C5; thresholds are the constants above."""
    have = {NAMES[int(place)] for place in results.schedule.values}
    worlds, out = results.world.values.tolist(), []
    is_long = int(results.step.values[-1]) >= 100

    def claim(text: str, reported: str, measured: str, holds: Any) -> None:
        out.append(Claim(text, SOURCE, reported, measured, bool(holds) if is_long else None))

    local, merged = _last(results, "accuracy", "r=0.2"), _last(results, "accuracy_of_mean", "r=0.2")
    full = _last(results, "accuracy", "full")
    claim(
        f"Hidden mergeability: with r = 0.2 the mean model is >= {100 * MERGEABLE:g} points above the nodes', every seed",
        "56.5 to 59.8 % local, 71.7 to 79.2 % merged",
        f"local {_shown(local)}, merged {_shown(merged)} %",
        (merged - local >= MERGEABLE).all(),
    )
    share = (merged - local) / (full - local)
    claim(
        f"Recovery: one merge closes >= {100 * RECOVERS[0]:g} % of the gap to a server-based run, every seed, leaving "
        f"at most {100 * RECOVERS[1]:g} points",
        "85 69 83 81 85 % of the gap; 4 to 8 points left",
        f"{_shown(share)} % of the gap; {_shown(full - merged)} points left",
        (share >= RECOVERS[0]).all() and (full - merged <= RECOVERS[1]).all(),
    )
    if "alpha=1" in worlds:
        ours, served = (
            _last(results, "accuracy_of_mean", "r=0.2", "alpha=1"),
            _last(results, "accuracy", "full", "alpha=1"),
        )
        claim(
            f"Under mild skew (alpha = 1) the merge matches a server-based run ({100 * RECOVERS[2]:g} points, every seed)",
            "84.2 85.1 85.2 against 85.2 85.8 86.0 %",
            f"{_shown(ours)} against {_shown(served)} %",
            (served - ours <= RECOVERS[2]).all(),
        )
    if "r=0" in have:
        alone = _last(results, "accuracy_of_mean", "r=0")
        fixed = [f"r={r:g}" for r in FIXED if f"r={r:g}" in have and r <= 1] + ["full"]
        means = [_last(results, "accuracy_of_mean", name).mean() for name in fixed]
        silent, sparse = (_of(results, "consensus_distance", name) for name in ("r=0", "r=0.2"))
        quarter = results.sizes["step"] // 4
        grows = (silent[:, -1] > silent[:, quarter]).all() and (silent[:, quarter] > silent[:, 1]).all()
        claim(
            f"Silence breaks it: merged(r = 0) <= merged(r = 0.2) - {100 * SILENCE:g} points, every seed; it rises with r "
            "(means), and without messages distance grows all along, with r = 0.2 it falls after a quarter",
            "38.8 to 58.4 against 71.7 to 79.2 %; means 50.0, 70.3, 77.2, 79.9, 82.0 for r = 0, .05, .2, 1, full; "
            "distance to 15.2 against from 1.70 to .84",
            f"{_shown(alone)} against {_shown(merged)} %; means {_shown(np.array(means))}; distance "
            f"{silent[:, quarter].mean():.1f} to {silent[:, -1].mean():.1f} against "
            f"{sparse[:, quarter].mean():.2f} to {sparse[:, -1].mean():.2f}",
            (alone <= merged - SILENCE).all()
            and all(b >= a for a, b in itertools.pairwise(means))
            and grows
            and (sparse[:, -1] < sparse[:, quarter]).all(),
        )
    windows = [f"window {p:g}" for p in WINDOWS]
    if set(windows) <= set(have):
        ends = {name: _last(results, "accuracy", name) for name in windows}
        late = [ends[windows[3]] - ends[windows[place]] for place in (0, 1)]
        claim(
            f"Late is better: five full rounds at the end give >= {100 * LATE[0]:g} points of local accuracy over those at "
            "the start and in the middle, every seed",
            "82.0 74.3 80.9 78.3 81.4 against 59.6 55.3 60.5 59.7 55.9 and 58.6 55.1 60.2 59.7 55.6 %",
            f"{_shown(ends[windows[3]])} against {_shown(ends[windows[0]])} and {_shown(ends[windows[1]])} %",
            all((gain >= LATE[0]).all() for gain in late),
        )
        off = ends[windows[2]] - local
        means = {name: _last(results, "accuracy_of_mean", name).mean() for name in windows}
        both = ", ".join(f"{name.split()[1]}: {100 * value:.1f}" for name, value in means.items())
        claim(
            f"Limit: it is the last round that counts: a window that ends five rounds early leaves local accuracy within "
            f"{100 * LATE[1]:g} points of none",
            "-1 to +4 points; merged 77.7, 78.4, 78.8, 79.4 for windows at 0, .45, .9, .95",
            f"{' '.join(f'{100 * one:+.1f}' for one in off)} points; merged {both}",
            (np.abs(off) <= LATE[1]).all(),
        )
    if "single" in have:
        sent = _last(results, "messages_sent", "single"), _last(results, "messages_sent", "full")
        times = sent[1].mean() / sent[0].mean()
        after = _last(results, "accuracy", "single")
        claim(
            f"Cost: r = 0.2 and one merge by gossip send >= {CHEAPER:g} times fewer messages than full rounds, and all nodes "
            "have the merged model then",
            "560 against 24,000, 42.9 times",
            f"{sent[0].mean():.0f} against {sent[1].mean():.0f}, {times:.1f} times; local {_shown(after)}, merged "
            f"{_shown(_last(results, 'accuracy_of_mean', 'single'))} % (all-reduce: {2 * 15} messages in place of 240)",
            times >= CHEAPER and np.allclose(after, _last(results, "accuracy_of_mean", "single"), atol=2e-3),
        )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """Local and merged accuracy by round; final local accuracy by where the window is; distance; accuracy against r."""
    from dlsim import plotting

    have = {NAMES[int(place)] for place in results.schedule.values}
    with plotting.style():
        made, panels = plotting.panels(2, 2, height=5.0)
        (rounds, windows), (distance, degrees) = panels
        for place, name in enumerate(name for name in ("full", "r=0.2", "r=0", "r=1") if name in have):
            color = plotting.COLORS[place]
            rounds.plot(results.step, 100 * _of(results, "accuracy", name).mean(0), color=color, label=name)
            rounds.plot(results.step, 100 * _of(results, "accuracy_of_mean", name).mean(0), "--", color=color)
            values = _of(results, "consensus_distance", name).mean(0)
            if name != "full":
                distance.plot(results.step[1:], values[1:], color=color, label=name)
        rounds.set_xlabel("round (dashed: merged)")
        rounds.set_ylabel("accuracy (%)")
        rounds.legend(fontsize=6)
        distance.set_yscale("log")
        distance.set_xlabel("round")
        distance.set_ylabel("consensus distance")
        distance.legend(fontsize=6)
        shown = [p for p in WINDOWS if f"window {p:g}" in have]
        for place, (measure, label) in enumerate((("accuracy", "local"), ("accuracy_of_mean", "merged after the end"))):
            values = [100 * _last(results, measure, f"window {p:g}").mean() for p in shown]
            windows.plot(shown, values, "o-", color=plotting.COLORS[place], label=label, markersize=3)
            windows.axhline(100 * _last(results, measure, "r=0.2").mean(), color=plotting.COLORS[place], linestyle=":")
        windows.set_xlabel("where a window of 5 full rounds begins (dotted: none)")
        windows.set_ylabel("final accuracy (%)")
        windows.legend(fontsize=6)
        fixed = [r for r in FIXED if f"r={r:g}" in have]
        for place, world in enumerate(results.world.values.tolist()):
            for measure, style in (("accuracy", "o-"), ("accuracy_of_mean", "s--")):
                values = [100 * _last(results, measure, f"r={r:g}", world).mean() for r in fixed]
                values += [100 * _last(results, measure, "full", world).mean()]
                label = f"{world}, {'local' if style == 'o-' else 'merged'}"
                degrees.plot(
                    [*map(str, fixed), "all"], values, style, color=plotting.COLORS[place], label=label, markersize=3
                )
        degrees.set_xlabel("others heard in a round, r")
        degrees.set_ylabel("final accuracy (%)")
        degrees.legend(fontsize=5)
        plotting.letters(panels, ("By round", "When", "Disagreement", "How often"))
    return made
