"""Decentralised methods, ranked: which learns best, on which graph, under how much label skew, at a rate of its own?

Command: `dlsim run experiments/sweeps/decentralised.py`

Sixteen nodes hold handwritten digits and train softmax regression by every decentralised method of `METHODS`, over four
graphs and with three label skews.  All spend the same gradients: a step is `gradients` of them a node (events: on average,
by Poisson clocks of rate one), in as many rounds as the method makes of them.  The budget is short, so that methods differ:
after four times as many gradients nearly all of them are within a point of each other in every cell.

Every method has, in every cell of graph and skew, the learning rate that was best for it on the first seed; what is
reported are the other seeds.  Options of a method stand in its line, as its authors or its docstring recommend them.

The rank of a method in a cell is that of its mean accuracy there (the nodes' own models, on the test digits); the figure
sorts methods by their mean rank over the cells, and says the spread of both.

Two lines that are no method give the scale: nodes that never speak, and one model that sees all gradients.

Measured (default mode, 6,144 runs, 3 of 4 seeds reported): with labels alike most methods are within 2 points of all
gradients; what tells them apart are few classes on sparse graphs.  On the ring there, D-SGD has 91.1 %, gradient tracking
(NEXT) 95.8, D2, exact diffusion and NIDS 95.7 to 95.8, as much as one model with all gradients.  First by mean rank is
quasi-global momentum (momentum is not among what the others were given), then NEXT and D-SGD with four exchanges a
gradient, which cost two and four times the bits; DiLoCo by gossip and RelaySGD come close to them with a fifth and a third
of D-SGD's.  Aug-DGM falls behind on the torus, whose weights bound its rate (`gradient_tracking` says how).  Methods by
clocks meet one neighbour at a time and stand behind at as many gradients.  CHOCO-SGD sends an eighth of the bits.
LT-ADMM is last with its own step sizes as its docstring has them: only the learning rate was tuned.
A first run with four times the gradients (six methods) had the best corrected method 0.5 points above D-SGD on the ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import aggregators, algorithms, checks, networks, problems
from dlsim.experiment import Claim
from dlsim.learning.measures import only, several

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "small", "paper")
MINUTES = {"tiny": 1, "default": 15}  # on 2 cores
LAZY = "lazy_metropolis_hastings"  # for methods that bear no eigenvalue below -1/3
TOPOLOGIES = {"ring": "ring", "torus": "torus", "barabasi_albert": "hubs", "complete": "complete"}
SKEWS = {100.0: "alike", 0.5: "skewed", 0.1: "few classes"}  # alpha of the Dirichlet partition


class Method(NamedTuple):
    """What makes it of problem, rate and network; gradients a node and round; the network it asks for, if a special one."""

    title: str
    make: Any  # (problem, learning rate, network, gradients a step) -> algorithm
    is_local: bool = False  # one round takes all gradients of a step
    is_timed: bool = False  # events, by clocks
    weights: str = "metropolis_hastings"
    prepare: Any = None  # network -> network


def _tree(network: networks.Network) -> networks.Network:
    """A spanning tree of the graph, by breadth from node 0."""
    import networkx

    return networks.from_networkx(networkx.bfs_tree(networks.to_networkx(network), 0).to_undirected())


def _sparse(network: networks.Network) -> networks.Network:
    return network.with_channel(networks.top_k(0.1))


METHODS: dict[str, Method] = {
    "isolated_training": Method("alone", lambda p, r, n, k: algorithms.isolated_training(p, optax.sgd(r))),
    "centralized_sgd": Method("all gradients", lambda p, r, n, k: algorithms.centralized_sgd(p, optax.sgd(r))),
    "dsgd": Method("D-SGD", lambda p, r, n, k: algorithms.dsgd(p, optax.sgd(r))),
    "dsgd_cta": Method(
        "D-SGD, combine first", lambda p, r, n, k: algorithms.dsgd(p, optax.sgd(r), order="combine_then_adapt")
    ),
    "local_dsgd": Method(
        "D-SGD, local steps", lambda p, r, n, k: algorithms.dsgd(p, optax.sgd(r), num_local_steps=k), is_local=True
    ),
    "gossip_steps": Method(
        "D-SGD, 4 gossip steps", lambda p, r, n, k: algorithms.dsgd(p, optax.sgd(r), num_gossip_steps=4)
    ),
    "variance_corrected": Method(
        "D-SGD, variance kept",
        lambda p, r, n, k: algorithms.dsgd(p, optax.sgd(r), aggregator=aggregators.variance_corrected()),
    ),
    "dfedsam": Method(
        "DFedSAM",
        lambda p, r, n, k: algorithms.dsgd(problems.sharpness_aware(p, 0.01), optax.sgd(r), num_local_steps=k),
        is_local=True,
    ),
    "quasi_global_momentum": Method("QG-DSGDm", lambda p, r, n, k: algorithms.quasi_global_momentum(p, r)),
    "choco_sgd": Method(
        "CHOCO-SGD, top 10 %",
        lambda p, r, n, k: algorithms.choco_sgd(p, optax.sgd(r), consensus_step_size=0.2),
        prepare=_sparse,
    ),
    "stochastic_gradient_push": Method("SGP", lambda p, r, n, k: algorithms.stochastic_gradient_push(p, optax.sgd(r))),
    "relay_sgd": Method(
        "RelaySGD, a tree of it", lambda p, r, n, k: algorithms.relay_sgd(p, optax.sgd(r)), prepare=_tree
    ),
    "d2": Method("D2, lazy weights", lambda p, r, n, k: algorithms.d2(p, optax.sgd(r)), weights=LAZY),
    "exact_diffusion": Method("exact diffusion", lambda p, r, n, k: algorithms.exact_diffusion(p, optax.sgd(r))),
    "extra": Method("EXTRA", lambda p, r, n, k: algorithms.extra(p, r)),
    "nids": Method("NIDS", lambda p, r, n, k: algorithms.nids(p, r)),
    "aug_dgm": Method("GT, Aug-DGM", lambda p, r, n, k: algorithms.gradient_tracking(p, optax.sgd(r))),
    "diging": Method(
        "GT, DIGing",
        lambda p, r, n, k: algorithms.gradient_tracking(p, optax.sgd(r), order="combine_then_adapt"),
        weights=LAZY,
    ),
    "next": Method(
        "GT, NEXT",
        lambda p, r, n, k: algorithms.gradient_tracking(p, optax.sgd(r), tracker_order="combine_then_adapt"),
    ),
    "wang_elia": Method("Wang-Elia", lambda p, r, n, k: algorithms.wang_elia(p, r)),
    "proxskip": Method("ProxSkip", lambda p, r, n, k: algorithms.proxskip(p, r, 1.0 / k)),
    "k_gt": Method("K-GT", lambda p, r, n, k: algorithms.k_gt(p, r, num_local_steps=k), is_local=True),
    "led": Method("LED", lambda p, r, n, k: algorithms.led(p, r, num_local_steps=k), is_local=True, weights=LAZY),
    "decentralized_admm": Method(
        "ADMM, local steps",
        lambda p, r, n, k: algorithms.decentralized_admm(p, 0.1, num_local_steps=k, local_learning_rate=r),
        is_local=True,
    ),
    "dlm": Method(
        "DLM", lambda p, r, n, k: algorithms.decentralized_admm(p, 0.1, num_local_steps=1, local_learning_rate=r)
    ),
    "dinno": Method(
        "DiNNO",
        lambda p, r, n, k: algorithms.decentralized_admm(p, 0.1, num_local_steps=k, optimizer=optax.adam(r / 10)),
        is_local=True,
    ),
    "lt_admm": Method(
        "LT-ADMM", lambda p, r, n, k: algorithms.lt_admm(p, r, num_local_steps=k, penalty=0.1), is_local=True
    ),
    "diloco": Method(
        "DiLoCo by gossip",
        lambda p, r, n, k: algorithms.diloco(p, optax.sgd(r), num_local_steps=k, over="gossip"),
        is_local=True,
    ),
    "ad_psgd": Method("AD-PSGD", lambda p, r, n, k: algorithms.ad_psgd(p, optax.sgd(r)), is_timed=True),
    "a2cid2": Method(
        "A2CiD2",
        lambda p, r, n, k: algorithms.a2cid2(p, optax.sgd(r), algorithms.a2cid2_constants(n)),
        is_timed=True,
    ),
    "swarm_sgd": Method(
        "SwarmSGD", lambda p, r, n, k: algorithms.swarm_sgd(p, optax.sgd(r), num_local_steps=1), is_timed=True
    ),
    "gossip_learning": Method(
        "gossip learning", lambda p, r, n, k: algorithms.gossip_learning(p, optax.sgd(r)), is_timed=True
    ),
}
SCALE = ("isolated_training", "centralized_sgd")  # no methods, but what they are measured by
CORRECTED = ("d2", "exact_diffusion", "extra", "nids", "aug_dgm", "next", "k_gt", "led")  # no term of heterogeneity
# Thresholds, set before the first run; in accuracy.
GAIN = 0.02  # of the best corrected method over D-SGD: ring, few classes
ALIKE = 0.02  # within this of D-SGD is every corrected method: complete graph, nodes alike
ABOVE = 0.01  # more than one model with all gradients has nobody
LONG_ENOUGH = 20  # steps
KEPT = ("accuracy", "consensus_distance", "bits_sent", "gradient_evaluations")


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("decentralised", "mode", mode, MODES)
    config = ConfigDict()
    few = ("isolated_training", "centralized_sgd", "dsgd", "aug_dgm", "led", "ad_psgd")
    config.algorithm = few if mode == "tiny" else tuple(METHODS)
    config.topology = ("ring",) if mode == "tiny" else tuple(TOPOLOGIES)
    config.alpha = (0.1,) if mode == "tiny" else tuple(SKEWS)
    config.learning_rate = (0.1, 0.3) if mode in ("tiny", "small") else (0.03, 0.1, 0.3, 1.0)
    config.num_seeds = {"default": 4, "tiny": 2, "small": 3, "paper": 11}[mode]  # one of them for the rates
    config.num_nodes = {"default": 16, "tiny": 9, "small": 16, "paper": 100}[mode]
    config.num_steps = {"default": 20, "tiny": 6, "small": 20, "paper": 100}[mode]
    config.gradients = 5  # of a node in a step
    config.batch_size = 16
    config.record_every = {"default": 2, "tiny": 3, "small": 2, "paper": 5}[mode]
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every method over every graph with every skew, at every rate."""
    return {name: config[name] for name in ("algorithm", "topology", "alpha", "learning_rate")}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One method in one cell at one rate."""
    checks.one_of("decentralised", "algorithm", config.algorithm, METHODS)
    checks.one_of("decentralised", "topology", config.topology, TOPOLOGIES)
    method, num = METHODS[config.algorithm], config.num_nodes
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=num,
        partition=dlsim.problems.dirichlet(alpha=config.alpha),
        model="softmax",
        batch_size=config.batch_size,
    )
    links = {"num_links": 2} if config.topology == "barabasi_albert" else {}
    network = getattr(networks, config.topology)(num, weights=method.weights, **links)
    if method.prepare is not None:
        network = method.prepare(network)
    algorithm = method.make(problem, config.learning_rate, network, config.gradients)
    timing = dlsim.clocks.timing(window=float(config.gradients)) if method.is_timed else None
    process = dlsim.learn(problem, algorithm, network, timing=timing)
    if not (method.is_timed or method.is_local):
        process = several(process, config.gradients)
    return process, dlsim.Record(every=config.record_every, fn=only(process, KEPT, missing=0.0))


def tuned(results: xarray.Dataset) -> xarray.Dataset:
    """The other seeds at the rate that was best on the first, by method, topology and alpha; NaN where none was sound."""
    first = results.isel(seed=[0])
    chosen = dlsim.analysis.best(first, "accuracy", over="learning_rate")
    return dlsim.analysis.best_runs(results.isel(seed=slice(1, None)), chosen)


def ranks(accuracy: xarray.DataArray) -> xarray.DataArray:
    """The rank of every method in its cell, 1 the best; what failed is last.  Lines of scale have none."""
    kept = accuracy.sel(algorithm=[name for name in accuracy.algorithm.values.tolist() if name not in SCALE])
    from scipy.stats import rankdata

    where = kept.get_axis_num("algorithm")
    return kept.copy(data=rankdata(-kept.fillna(-np.inf).values, axis=where))


def table(results: xarray.Dataset) -> list[tuple[str, float, float, float, float, float]]:
    """Method, mean rank, its spread over cells, mean accuracy, mean spread over seeds, bits a gradient; the best first."""
    last = tuned(results).isel(step=-1)
    mean, spread = last.accuracy.mean("seed"), last.accuracy.std("seed", ddof=min(1, last.sizes["seed"] - 1))
    cells = [dim for dim in mean.dims if dim != "algorithm"]
    rank = ranks(mean)
    rows = []
    for name in rank.algorithm.values.tolist():
        one = {"algorithm": name}
        bits = float((last.bits_sent / last.gradient_evaluations).sel(one).mean())
        of = rank.sel(one)
        rows.append(
            (
                name,
                float(of.mean(cells)),
                float(of.std(cells)),
                float(mean.sel(one).mean(cells)),
                float(spread.sel(one).mean(cells)),
                bits,
            )
        )
    return sorted(rows, key=lambda row: row[1])


def claims(results: xarray.Dataset) -> list[Claim]:
    """What theory says of methods that correct for heterogeneity, and of the ends of the scale."""
    is_long = bool(results.step[-1] >= LONG_ENOUGH)
    last = tuned(results).accuracy.isel(step=-1).mean("seed")
    have = last.algorithm.values.tolist()
    corrected = [name for name in CORRECTED if name in have]
    out = []

    def say(text: str, source: str, reported: str, measured: str, holds: bool) -> None:
        out.append(Claim(text, source, reported, measured, bool(holds) if is_long else None))

    hard = last.sel(topology="ring", alpha=0.1)
    gains = {name: float(hard.sel(algorithm=name) - hard.sel(algorithm="dsgd")) for name in corrected}
    best = max(gains, key=lambda name: np.nan_to_num(gains[name], nan=-np.inf))
    say(
        f"ring, few classes: the best corrected method is at least {100 * GAIN:g} points above D-SGD",
        "Koloskova, Lin and Stich, NeurIPS 2021",
        "gradient tracking's rate has no term of heterogeneity",
        f"{100 * gains[best]:+.1f} points ({METHODS[best].title})",
        gains[best] >= GAIN,
    )
    if "complete" in last.topology and 100.0 in last.alpha:
        easy = last.sel(topology="complete", alpha=100.0)
        gaps = {name: abs(float(easy.sel(algorithm=name) - easy.sel(algorithm="dsgd"))) for name in corrected}
        worst = max(gaps, key=lambda name: np.nan_to_num(gaps[name], nan=np.inf))
        say(
            f"complete graph, nodes alike: every corrected method is within {100 * ALIKE:g} points of D-SGD",
            "the methods' own papers",
            "nothing to correct: mini-batch SGD",
            f"at most {100 * gaps[worst]:.1f} points apart ({METHODS[worst].title})",
            gaps[worst] <= ALIKE,
        )
    others = last.sel(algorithm=[name for name in have if name not in SCALE])
    alone = (others - last.sel(algorithm="isolated_training")).sel(alpha=[a for a in last.alpha.values if a < 1])
    least = alone.fillna(-np.inf).min([dim for dim in alone.dims if dim != "algorithm"])
    name = str(least.algorithm.values[int(np.argmin(least.values))])
    say(
        "skewed labels: every method on every graph is better than nodes that never speak",
        "common sense",
        "better",
        f"the least gain is {100 * float(least.min()):+.1f} points ({METHODS[name].title})",
        float(least.min()) > 0,
    )
    over = (others - last.sel(algorithm="centralized_sgd")).max([dim for dim in others.dims if dim != "algorithm"])
    name = str(over.algorithm.values[int(np.argmax(over.fillna(-np.inf).values))])
    say(
        f"no method is more than {100 * ABOVE:g} point above one model that sees all gradients",
        "mini-batch SGD as the limit of perfect communication",
        "not above",
        f"{100 * float(over.max()):+.1f} points ({METHODS[name].title})",
        float(over.max()) <= ABOVE,
    )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """One ranked table: test accuracy of each method in each cell, with its spread, sorted by the mean rank."""
    from dlsim import plotting

    last = tuned(results).isel(step=-1)
    order = [row[0] for row in table(results)]
    about = {row[0]: row for row in table(results)}
    shown = [*order[::-1], *(name for name in SCALE if name in last.algorithm)][::1]
    mean = 100 * last.accuracy.mean("seed").sel(algorithm=shown)
    spread = 100 * last.accuracy.std("seed", ddof=min(1, last.sizes["seed"] - 1)).sel(algorithm=shown)
    graphs, skews = last.topology.values.tolist(), last.alpha.values.tolist()
    cells = [(graph, skew) for graph in graphs for skew in skews]
    with plotting.style():
        made, panels = plotting.panels(1, 1, width=9.5, height=0.24 * len(shown) + 1.4)
        panel = panels[0, 0]
        values = np.array([[float(mean.sel(algorithm=m, topology=g, alpha=a)) for g, a in cells] for m in shown])
        image = panel.imshow(values, origin="lower", aspect="auto", cmap="cividis")
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
        for row, name in enumerate(shown):
            for column, (graph, skew) in enumerate(cells):
                here = values[row, column]
                error = float(spread.sel(algorithm=name, topology=graph, alpha=skew))
                text = f"{here:.1f} \u00b1 {error:.1f}" if np.isfinite(here) else "failed"
                panel.text(
                    column, row, text, ha="center", va="center", fontsize=5, color="white" if here < middle else "black"
                )
        labels = []
        for name in shown:
            rank = f", rank {about[name][1]:.1f} \u00b1 {about[name][2]:.1f}" if name in about else ""
            labels.append(f"{METHODS[name].title}{rank}")
        panel.set_yticks(range(len(shown)), labels)
        panel.set_xticks(range(len(cells)), [f"{TOPOLOGIES[g]}\n{SKEWS.get(a, a)}" for g, a in cells], fontsize=6)
        panel.tick_params(length=0)
        panel.grid(visible=False)
        panel.axhline(len(order) - 0.5, color="white", lw=2)
        for column in range(len(skews), len(cells), len(skews)):
            panel.axvline(column - 0.5, color="white", lw=2)
        made.colorbar(image, ax=panel, label="test accuracy (%)", fraction=0.03, pad=0.01)
    return made
