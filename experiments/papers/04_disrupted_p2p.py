"""Disrupted peer-to-peer learning (04): when nodes are lost, what is missed more, their links or their data?

Palmieri, Boldrini, Valerio, Passarella, Conti, Exploring the impact of disrupted peer-to-peer communications on fully
decentralized learning in disaster scenarios, ICT-DM 2023.  Command: `dlsim run experiments/papers/04_disrupted_p2p.py`

Fifty nodes of a Barabasi-Albert graph hold 40 MNIST images each and learn an MLP 784-32-10 by decentralised averaging: five
SGD steps, then each takes the mean of those it hears and its own model.  At the beginning of round t_d the floor(f N)
hubs (or as many random nodes) are lost for good.  A draw is a new graph, new data and a new start; accuracy is that of
survivors.

    case   lost nodes hold data before   after t_d             what is measured
    A0     no                            they relay            the reference of A
    A      no                            gone                  the loss of links alone
    B0     yes                           as before             the reference of B and C
    B      yes                           gone                  the loss of links and data
    C      yes                           relay without data    the loss of data alone

The paper says (abstract): accuracy suffers more from lost connectivity than from lost data; even so the network is relatively
robust.  Its full text was not at hand, so no number of it is quoted: numbers reported beside ours are those of an
independent program, with two or three draws.  Thresholds were set from them before the first run.

Measured (default mode, three draws). m = 2, f = 0.2, t_d = 10: links cost 0.080 of accuracy where hubs are lost (0.062,
0.090, 0.088; expected 0.108), their data 0.005, both 0.068; as many random nodes 0.005, 0.006 and 0.010. Survivors of B have
0.821, 0.798 and 0.793, those always alone 0.57; left alone by the disaster 0.73 to 0.75 in B, 0.67 to 0.70 in A, the largest
part 0.82 to 0.85. For t_d = 0, 10, 30 survivors of B have 0.750, 0.804, 0.842. Rank correlation of accuracy and size of
part: 0.83. The limit at m = 5 does not hold: links cost 0.006 at f = 0.2 and data 0.003, since in two of the three draws a
survivor is left alone (parts of 39, 40, 39); at f = 0.4 they cost 0.061 and 0.012, as expected. Accuracies are above those
of the independent program, whose graphs and inputs differ: here pixels are brought to mean 0 and variance 1.

Departures: case C, the baselines and all sizes are ours.  The upper bound, training on all survivors' data, is averaging
over everyone: the complete graph among the survivors.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from disrupted_cases import (
    CASES,
    KINDS,
    Setting,
    config_of,
    cost,
    draws,
    groups,
    has,
    lost,
    network_of,
    parse,
    pooled,
    scenario_of,
    settings_of,
    survivors,
    times,
)
from ml_collections import ConfigDict

import dlsim
from dlsim import checks
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.5, "default": 5}  # on 2 cores
CITATION = (
    "Palmieri, Boldrini, Valerio, Passarella, Conti, Exploring the impact of disrupted peer-to-peer communications on fully "
    "decentralized learning in disaster scenarios, ICT-DM 2023."
)
SOURCE = "Palmieri et al., ICT-DM 2023"
LONG_ENOUGH = 60  # rounds, after which claims are decided
LINKS_COST, TIMES = 0.06, 4  # C1: accuracy that lost links cost at least, and how many times that of lost data
RANDOM_COST, HUBS_TIMES = 0.03, 3  # C2
ROBUST, BOTH_COST = 0.70, 0.02  # C3
PERSISTS, APART = 0.03, 0.05  # C4
RANK = 0.6  # C5, of Spearman's correlation
STEP = 0.03  # C6


def _settings(mode: str) -> list[Setting]:
    if mode == "tiny":
        return [Setting("hubs", 2, 0.25, 4, case) for case in ("A0", "A", "B", "C")] + [Setting("none", 2, 0, 0, "B0")]
    shares = (0.1, 0.2, 0.3, 0.4) if mode == "paper" else (0.1, 0.2, 0.4)
    found = [Setting("none", m, 0, 0, "B0") for m in (2, 5)]
    found += [Setting(kind, 2, f, 10, c) for kind in KINDS[:2] for f in shares for c in ("A0", "A", "B", "C")]
    found += [Setting("hubs", 2, 0.2, t, case) for t in (0, 30) for case in ("A", "B")]
    found += [Setting("hubs", 5, f, 10, case) for f in (0.2, 0.4) for case in ("A0", "A", "B", "C")]
    return [*found, *(Setting("hubs", 2, 0.2, 0, case) for case in ("isolated", "everyone"))]


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("04_disrupted_p2p", "mode", mode, MODES)
    config, is_tiny = ConfigDict(), mode == "tiny"
    config.num_seeds = 1  # of batches; `draw` changes graph, data, start and who is lost at random
    config.draw = {"default": (0, 1, 2), "tiny": (0,), "paper": tuple(range(10))}[mode]
    config.case = tuple(str(setting) for setting in _settings(mode))
    config.dataset = "digits" if is_tiny else "mnist"
    config.num_test = 100 if is_tiny else 2000
    config.num_nodes = 16 if is_tiny else 50
    config.num_examples = 20 if is_tiny else 40  # a node
    config.hidden = 16 if is_tiny else 32
    config.num_local_steps = 5
    config.batch_size = 10
    config.learning_rate = 0.05
    config.num_steps = 12 if is_tiny else 60
    config.record_every = {"default": 10, "tiny": 4, "paper": 5}[mode]
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every case, in several draws."""
    return {"case": config.case, "draw": config.draw}


@functools.lru_cache(maxsize=16)
def _problem(dataset: str, num_nodes: int, num_examples: int, hidden: int, batch_size: int, num_test: int, draw: int):
    data = dlsim.problems.load(dataset)
    chosen = np.random.default_rng([draw, 4]).permutation(len(data.labels))[: num_nodes * num_examples]
    # Only what is used: a sweep holds it once a draw.
    data = data._replace(inputs=data.inputs[chosen], labels=data.labels[chosen], columns={})
    parts = dlsim.problems.partition_from_lists(np.split(np.arange(len(chosen)), num_nodes))
    model = dlsim.problems.mlp(hidden=(hidden,))
    problem = dlsim.problems.supervised(model, data, parts, batch_size=batch_size, num_test=num_test)
    start = problem.init

    def init(key: Any) -> Any:
        return start(dlsim.keys.fold_in(key, draw))

    return problem._replace(init=init)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case of one draw."""
    setting, num, draw = parse(config.case), config.num_nodes, int(config.draw)
    sizes = (config.num_examples, config.hidden, config.batch_size, config.num_test)
    problem = _problem(config.dataset, num, *sizes, draw)
    network = network_of(num, setting.m, draw)
    table = times(setting, lost(setting, num, draw))
    if setting.case == "everyone":
        network = dlsim.networks.complete(num, lowering="dense")
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(config.learning_rate), num_local_steps=config.num_local_steps)
    process = dlsim.learn(problem, algorithm, network, scenario_of(network, *table))

    def record(state: Any, info: dict[str, Any]) -> dict[str, Any]:
        found = problem.evaluate(process.params(state), network.node_ids)
        return {"accuracy": found["accuracy"], "num_present": info.get("num_present", jnp.asarray(num))}

    return process, dlsim.Record(every=config.record_every, fn=record)


def _text(values: np.ndarray | list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in np.atleast_1d(values))


def _claim(text: str, reported: str, measured: str, holds: Any, is_long: bool) -> Claim:
    return Claim(text=text, source=SOURCE, reported=reported, measured=measured, holds=bool(holds) if is_long else None)


def claims(results: xarray.Dataset) -> list[Claim]:
    """The orderings of the paper, against thresholds set from an independent program; the constants above."""
    is_long = config_of(results)["num_steps"] >= LONG_ENOUGH
    found = [_links(results, is_long), _hubs(results, is_long), _robust(results, is_long)]
    found += [*_persists(results, is_long), *_whole(results, is_long), _later(results, is_long)]
    return [claim for claim in found if claim is not None]


def _main(results: xarray.Dataset) -> Setting:
    """The disaster that the others are variants of, in case A."""
    hubs = [one for one in settings_of(results) if (one.kind, one.m, one.case) == ("hubs", 2, "A")]
    return next((one for one in hubs if one.f == 0.2 and one.t == 10), hubs[0])


def _links(results: xarray.Dataset, is_long: bool) -> Claim | None:
    main = _main(results)
    links, data = (cost(results, *main._replace(case=case)) for case in "AC")
    if links is None or data is None:
        return None
    return _claim(
        f"Hubs lost, m = 2: lost links cost at least {LINKS_COST:g}, and {TIMES} times what lost data cost",
        "0.108 against 0.009",
        f"links {_text(links)}, data {_text(data)}; means {links.mean():.3f} against {data.mean():.3f}",
        links.mean() >= LINKS_COST and links.mean() >= TIMES * data.mean(),
        is_long,
    )


def _hubs(results: xarray.Dataset, is_long: bool) -> Claim | None:
    costs = {(kind, case): cost(results, kind, 2, 0.2, 10, case) for kind in KINDS[:2] for case in "ABC"}
    if any(one is None for one in costs.values()):
        return None
    means = {key: float(np.mean(np.asarray(one))) for key, one in costs.items()}
    said = ", ".join(f"{case} {means['random', case]:.3f} and {means['hubs', case]:.3f}" for case in "ABC")
    return _claim(
        f"As many random nodes cost at most {RANDOM_COST:g} in A, B and C; hubs {HUBS_TIMES} times that in A and B",
        "at most 0.023 at random; hubs 0.108 (A), 0.098 (B)",
        f"random and hubs: {said}",
        all(means["random", case] <= RANDOM_COST for case in "ABC")
        and all(means["hubs", case] >= HUBS_TIMES * means["random", case] for case in "AB"),
        is_long,
    )


def _robust(results: xarray.Dataset, is_long: bool) -> Claim | None:
    both, alone = Setting("hubs", 2, 0.2, 10, "B"), Setting("hubs", 2, 0.2, 0, "isolated")
    links, all_ = cost(results, "hubs", 2, 0.2, 10, "A"), cost(results, "hubs", 2, 0.2, 10, "B")
    if links is None or all_ is None or not has(results, alone):
        return None
    kept, isolated = survivors(results, both), survivors(results, alone)
    return _claim(
        f"Relatively robust: survivors of B (hubs) stay at {ROBUST:g} or more and above those always alone; data lost as "
        f"well costs no more than links alone + {BOTH_COST:g}",
        "0.755 0.757 0.750; B costs 0.098, A 0.108",
        f"{_text(kept)}, alone {_text(isolated)}; B costs {all_.mean():.3f}, A {links.mean():.3f}",
        kept.mean() >= ROBUST and (kept > isolated).all() and all_.mean() <= links.mean() + BOTH_COST,
        is_long,
    )


def _persists(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    settings = [Setting("hubs", 2, 0.2, 10, case) for case in "AB"]
    if not has(results, *settings):
        return []
    by_case = [groups(results, setting) for setting in settings]
    alone, largest = (
        np.array([[accuracy[size == pick(size)].mean() for accuracy, size in case] for case in by_case])
        for pick in (lambda size: 1, np.max)
    )
    return [
        _claim(
            f"Knowledge persists: survivors left alone have at least {PERSISTS:g} more in B than in A",
            "0.696 0.684 0.686 against 0.646 0.629 0.622",
            f"{_text(alone[1])} against {_text(alone[0])}",
            alone[1].mean() - alone[0].mean() >= PERSISTS,
            is_long,
        ),
        _claim(
            f"Those left alone are at least {APART:g} below the largest part, in A and in B",
            "no number",
            f"A {_text(alone[0])} below {_text(largest[0])}, B {_text(alone[1])} below {_text(largest[1])}",
            (largest.mean(axis=1) - alone.mean(axis=1) >= APART).all(),
            is_long,
        ),
    ]


def _whole(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    costs = {(f, case): cost(results, "hubs", 5, f, 10, case) for f in (0.2, 0.4) for case in "AC"}
    if any(one is None for one in costs.values()):
        return []
    from scipy.stats import spearmanr

    means = {key: float(np.mean(np.asarray(one))) for key, one in costs.items()}
    sizes = {f: [int(s.max()) for _, s in groups(results, Setting("hubs", 5, f, 10, "A"))] for f in (0.2, 0.4)}
    accuracy, size = pooled(results)
    rank = float(spearmanr(size, accuracy).statistic)
    return [
        _claim(
            "Limit, m = 5: at f = 0.2 the graph stays whole and links cost no more than data; at f = 0.4 they cost more",
            "0.003 against 0.007; 0.054 against 0.016",
            f"f = 0.2: {means[0.2, 'A']:.3f} against {means[0.2, 'C']:.3f} (largest part {sizes[0.2]}); "
            f"f = 0.4: {means[0.4, 'A']:.3f} against {means[0.4, 'C']:.3f} ({sizes[0.4]})",
            means[0.2, "A"] <= means[0.2, "C"] and means[0.4, "A"] > means[0.4, "C"],
            is_long,
        ),
        _claim(
            f"It is fragmentation: accuracy rises with the size of a survivor's part (Spearman >= {RANK:g}, all m, f)",
            "no number",
            f"{rank:.2f} over {len(size)} survivors",
            rank >= RANK,
            is_long,
        ),
    ]


def _later(results: xarray.Dataset, is_long: bool) -> Claim | None:
    when = [Setting("hubs", 2, 0.2, t, "B") for t in (0, 10, 30)]
    if not has(results, *when):
        return None
    means = [survivors(results, setting).mean() for setting in when]
    return _claim(
        f"Later is milder: survivors of B (hubs) have at least {STEP:g} more for t_d = 10 than 0, and for 30 than 10",
        "0.686, 0.756, 0.811 (two draws)",
        _text(means),
        (np.diff(means) >= STEP).all(),
        is_long,
    )


def figure(results: xarray.Dataset) -> Figure:
    """Accuracy by round, cost by share lost, accuracy by size of part, and one graph before and after."""
    from dlsim import plotting

    main = _main(results)
    with plotting.style():
        made, panels = plotting.panels(2, 3, height=5.2)
        for place, kind in enumerate(KINDS[:2]):
            _curves(panels[0, place], results, main._replace(kind=kind))
        _shares(panels[0, 2], results, main)
        accuracy, size = pooled(results)
        noise = np.random.default_rng(0).uniform(0.94, 1.06, len(size))  # so that equal sizes can be told apart
        panels[1, 0].plot(size * noise, 100 * accuracy, ".", color=plotting.COLORS[0], alpha=0.25, markersize=3)
        panels[1, 0].set_xscale("log")
        ticks = [tick for tick in (1, 2, 5, 10, 20, 40) if tick <= 1.1 * size.max()]
        panels[1, 0].set_xticks(ticks, [str(tick) for tick in ticks])
        panels[1, 0].minorticks_off()
        panels[1, 0].set_xlabel("nodes in the survivor's part")
        panels[1, 0].set_ylabel("survivor's accuracy (%)")
        _graphs(panels[1, 1], panels[1, 2], results, main)
        titles = ("Hubs lost", "Random nodes lost", "Cost by share lost", "Fragments", "Before", "After, case A")
        plotting.letters(panels, titles)
    return made


def _curves(axis: Axes, results: xarray.Dataset, main: Setting) -> None:
    from dlsim import plotting

    reference = Setting("none", main.m, 0, 0, "B0")
    for place, case in enumerate(("A0", "A", "B0", "B", "C")):
        one = reference if case == "B0" else main._replace(case=case)
        if not has(results, one):
            continue
        rows = np.array([survivors(results, one, main, step) for step in range(results.sizes["step"])])
        middle, spread = 100 * rows.mean(axis=1), 100 * rows.std(axis=1)
        color = plotting.COLORS[place]
        axis.plot(results.step, middle, "--" if case.endswith("0") else "-", color=color, label=CASES[case])
        axis.fill_between(results.step, middle - spread, middle + spread, color=color, alpha=0.15, linewidth=0)
    axis.axvline(main.t, color="0.5", linewidth=0.8)
    axis.set_xlabel("round")
    axis.set_ylabel("survivors' accuracy (%)")
    if axis.lines[1:]:
        axis.legend(fontsize=6)


def _shares(axis: Axes, results: xarray.Dataset, main: Setting) -> None:
    from dlsim import plotting

    named = settings_of(results)
    for kind, style in (("hubs", "o-"), ("random", "s--")):
        for place, case in ((1, "A"), (3, "B"), (4, "C")):
            shares = sorted({o.f for o in named if (o.kind, o.m, o.t, o.case) == (kind, main.m, main.t, case)})
            costs = [(f, cost(results, kind, main.m, f, main.t, case)) for f in shares]
            known = [(0.0, 0.0)] + [(f, 100 * float(np.mean(one))) for f, one in costs if one is not None]
            if len(known) > 1:
                label = f"{case}, {kind}"
                axis.plot(*zip(*known, strict=True), style, color=plotting.COLORS[place], label=label, markersize=3)
    axis.set_xlabel("share of nodes lost, f")
    axis.set_ylabel("accuracy lost (points)")
    if axis.lines:
        axis.legend(fontsize=6)


def _graphs(before: Axes, after: Axes, results: xarray.Dataset, main: Setting) -> None:
    num, draw = config_of(results)["num_nodes"], draws(results)[0]
    network = network_of(num, main.m, draw)
    there = ~lost(main, num, draw)
    accuracy = results.accuracy.sel(case=str(main), draw=draw).mean("seed")
    step = int(np.argmax(results.step.values >= main.t))
    import networkx

    places = np.array(
        [row for _, row in sorted(networkx.spring_layout(dlsim.networks.to_networkx(network), seed=0).items())]
    )
    left = dlsim.networks.host_graph(network)
    up = there[left.senders] & there[left.receivers]
    rest = dlsim.networks.connect(
        dlsim.networks.graph(num, left.senders[up], left.receivers[up]), weights="uniform_neighbor"
    )
    for axis, shown, when in ((before, network, step), (after, rest, -1)):
        values = 100 * accuracy.isel(step=when).values
        values = values if axis is before else np.where(there, values, np.nan)
        dlsim.networks.draw(shown, values, axis, label="accuracy (%)", layout=places)
