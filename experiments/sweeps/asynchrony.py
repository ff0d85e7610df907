"""Stragglers: what is gained by not waiting, topology by topology, in simulated seconds?

Command: `dlsim run experiments/sweeps/asynchrony.py`

Sixty-four nodes hold handwritten digits in Dirichlet(0.5) label skew and train softmax regression.  A gradient of batch 8
takes one second, and `slowdown` seconds at every tenth node.  D-SGD waits for the slowest node in each round.  AD-PSGD
computes when a node is ready, and every node takes part in one averaging a second on average (Poisson clocks on edges).
Beside them, with a server: FedAvg that waits, and FedBuff and FedAsync that do not, with ten local steps a job.

A step is a round or a window of one second; all is compared on simulated seconds, and what was spent in gradients and bits
is said with it: a method that does not wait also computes more in the same time.

Measured (default mode, 3 seeds, 99 runs, 1.4 minutes on 2 cores).  Seconds to 85 % with every tenth node ten times slower,
AD-PSGD against D-SGD: ring 124 and 887, torus 71 and 353, random 65 and 313, complete 51 and 194; FedBuff against FedAvg 13
and 200.  Without stragglers: 115 and 89, 65 and 35, 61 and 31, 49 and 20; 20 and 20.  So that not waiting costs nothing
where nobody is slow does not hold on the complete graph (a factor 2.4, against 2 allowed): a meeting of two mixes less
than a round in which all hear all.  After 300 s AD-PSGD is 0.8 to 1.2 points behind.  Mean staleness is 0.99 to 1.01
averagings, as the clocks say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks
from dlsim.experiment import Claim
from dlsim.learning.measures import only

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 2}  # on 2 cores
TOPOLOGIES = {"ring": "ring", "torus": "torus", "random_regular": "4-regular", "complete": "complete"}
TITLES = {"dsgd": "D-SGD", "ad_psgd": "AD-PSGD", "fedavg": "FedAvg", "fedbuff": "FedBuff", "fedasync": "FedAsync"}
WAITS = {"ad_psgd": "dsgd", "fedbuff": "fedavg"}  # who waits, in place of who does not
SLOW = 10.0  # times as slow: the severity that claims are about
SOONER = 3.0  # with it, who does not wait is at the target in at most 1/3 of the seconds
ALIKE = 2.0  # without it, within this factor
FINAL = 0.02  # accuracy at the end, without stragglers: within
TARGET = 0.85  # test accuracy
EXACT = 0.05  # relative error of the mean staleness
LONG_ENOUGH = 200  # steps
KEPT = (
    "accuracy",
    "loss",
    "consensus_distance",
    "simulated_seconds",
    "bits_sent",
    "gradient_evaluations",
    "mean_staleness",
)


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("asynchrony", "mode", mode, MODES)
    config = ConfigDict()
    graphs = ("torus",) if mode == "tiny" else tuple(TOPOLOGIES)
    with_graph = tuple(f"{name} {method}" for name in graphs for method in ("dsgd", "ad_psgd"))
    config.case = (*with_graph, "server fedavg", "server fedbuff", *(() if mode == "tiny" else ("server fedasync",)))
    config.slowdown = {"default": (1.0, 3.0, SLOW), "tiny": (1.0, SLOW), "paper": (1.0, 3.0, SLOW, 30.0)}[mode]
    config.num_seeds = {"default": 3, "tiny": 1, "paper": 10}[mode]
    config.num_nodes = {"default": 64, "tiny": 16, "paper": 1024}[mode]
    config.straggler_every = 10  # every tenth node
    config.batch_size = 8
    config.learning_rate = 0.05
    config.num_local_steps = 10  # of a job at a server's client
    config.buffer_share = 8  # FedBuff's buffer is N over this
    config.num_steps = 40 if mode == "tiny" else 300
    config.record_every = 2
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every case at every severity."""
    return {"case": config.case, "slowdown": config.slowdown}


def seconds_per_gradient(num_nodes: int, every: int, slowdown: float) -> np.ndarray:
    """Of each node: every tenth is slow."""
    return np.where(np.arange(num_nodes) % every == 0, slowdown, 1.0)


def make_network(topology: str, num_nodes: int) -> dlsim.networks.Network:
    """The graph with Metropolis-Hastings weights."""
    if topology == "random_regular":
        return dlsim.networks.random_regular(num_nodes, degree=4, seed=0)
    return getattr(dlsim.networks, topology)(num_nodes)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case at one severity."""
    topology, _, method = config.case.partition(" ")
    checks.one_of("asynchrony", "case", topology, (*TOPOLOGIES, "server"))
    checks.one_of("asynchrony", "method", method, TITLES)
    num = config.num_nodes
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=num,
        partition=dlsim.problems.dirichlet(alpha=0.5),
        model="softmax",
        batch_size=config.batch_size,
    )
    taken = seconds_per_gradient(num, config.straggler_every, config.slowdown)
    optimizer = optax.sgd(config.learning_rate)
    network = make_network("complete" if topology == "server" else topology, num)
    timing = None
    if method == "dsgd":
        network = network.with_links(dlsim.networks.links(num, compute=taken / config.batch_size))
        algorithm: Any = dlsim.algorithms.dsgd(problem, optimizer)
    elif method == "ad_psgd":
        # Nodes begin at moments of their own, so that equal ones do not act in step.
        phase = taken * (np.arange(num) * 0.618034 % 1)
        timing = dlsim.clocks.timing(dlsim.clocks.deterministic(taken, phase))
        algorithm = dlsim.algorithms.ad_psgd(problem, optimizer)
    else:
        timing = dlsim.clocks.timing()
        algorithm = _server_method(config, method, problem, optimizer, taken)
    process = dlsim.learn(problem, algorithm, network, timing=timing)
    return process, dlsim.Record(every=config.record_every, fn=only(process, KEPT, missing=0.0))


def _server_method(config: ConfigDict, method: str, problem: Any, optimizer: Any, taken: np.ndarray) -> Any:
    common = {"pace": dlsim.arrivals.pace(len(taken), taken), "num_local_steps": config.num_local_steps}
    if method == "fedavg":
        return dlsim.algorithms.synchronous_fedavg(problem, optimizer, **common)
    if method == "fedbuff":
        size = max(1, len(taken) // config.buffer_share)
        damping = dlsim.arrivals.polynomial(0.5)
        return dlsim.algorithms.fedbuff(problem, optimizer, buffer_size=size, staleness=damping, **common)
    return dlsim.algorithms.fedasync(problem, optimizer, mixing=0.6, **common)


def reaching(results: xarray.Dataset, case: str, slowdown: float) -> np.ndarray:
    """Simulated seconds to the target accuracy, by seed; infinite where it is not reached."""
    one = results.sel(case=case, slowdown=slowdown).transpose("seed", "step")
    reached = one.accuracy.values >= TARGET
    first = np.take_along_axis(one.simulated_seconds.values, np.argmax(reached, axis=1)[:, None], axis=1)[:, 0]
    return np.where(reached.any(axis=1), first, np.inf)


def _pairs(results: xarray.Dataset) -> list[tuple[str, str, str]]:
    """Where, who does not wait, and who waits in its place."""
    have = results.case.values.tolist()
    found = []
    for case in have:
        place, _, method = case.partition(" ")
        if method in WAITS and f"{place} {WAITS[method]}" in have:
            found.append((place, case, f"{place} {WAITS[method]}"))
    return found


def claims(results: xarray.Dataset) -> list[Claim]:
    """Seconds to the target, with stragglers and without; thresholds are the constants above."""
    is_long = bool(results.step[-1] >= LONG_ENOUGH)
    out = []
    for place, quick, slow in _pairs(results):
        names = [TITLES[case.partition(" ")[2]] for case in (quick, slow)]
        where = TOPOLOGIES.get(place, place)
        source = "Lian et al., ICML 2018" if place != "server" else "Nguyen et al., AISTATS 2022"
        for severity in (SLOW, 1.0):
            if severity not in results.slowdown:
                continue
            first, second = (np.mean(reaching(results, case, severity)) for case in (quick, slow))
            if severity == SLOW:
                text = (
                    f"{where}, every tenth node {SLOW:g} times slower: {names[0]} is at {100 * TARGET:g} % in at most "
                )
                text += f"a third of {names[1]}'s time"
                holds = SOONER * first <= second
            else:
                text = f"{where}, no stragglers: {names[0]} and {names[1]} are at {100 * TARGET:g} % within a factor "
                text += f"{ALIKE:g}"
                holds = max(first, second) <= ALIKE * min(first, second)
            measured = f"{first:.0f} s against {second:.0f} s"
            out.append(
                Claim(text, source, "who does not wait is not slowed down", measured, bool(holds) if is_long else None)
            )
        if place != "server" and 1.0 in results.slowdown:
            out.extend(_like_for_like(results, where, quick, slow, is_long))
    return out


def _like_for_like(results: xarray.Dataset, where: str, quick: str, slow: str, is_long: bool) -> list[Claim]:
    """Without stragglers: the accuracy after as many seconds, and what the clocks say of staleness."""
    last = results.sel(slowdown=1.0).isel(step=-1)
    ends = [100 * np.atleast_1d(last.accuracy.sel(case=case).values) for case in (quick, slow)]
    stale = float(last.mean_staleness.sel(case=quick).mean())
    return [
        Claim(
            text=f"{where}, no stragglers: AD-PSGD ends within {100 * FINAL:g} points of D-SGD",
            source="Lian et al., ICML 2018: the rate of synchronous SGD",
            reported="as accurate",
            measured=" against ".join(f"{end.mean():.1f} %" for end in ends),
            holds=bool(abs(ends[0].mean() - ends[1].mean()) <= 100 * FINAL) if is_long else None,
        ),
        Claim(
            text=f"{where}, no stragglers: a gradient meets as many averagings on its way as the clocks say",
            source="one averaging a second in the mean, one gradient a second",
            reported="1.0 (the first gradient of a node, which is under way for less, counts little)",
            measured=f"{stale:.3f}",
            holds=abs(stale - 1) <= EXACT if is_long else None,
        ),
    ]


def figure(results: xarray.Dataset) -> Figure:
    """Accuracy against simulated seconds: a row for each severity, a column for each topology and the server."""
    from dlsim import plotting

    places = list(dict.fromkeys(case.partition(" ")[0] for case in results.case.values.tolist()))
    severities = results.slowdown.values.tolist()
    with plotting.style():
        made, panels = plotting.panels(
            len(severities), len(places), height=1.9 * len(severities), sharex=True, sharey=True
        )
        for row, severity in enumerate(severities):
            for column, place in enumerate(places):
                axes_ = panels[row, column]
                cases = [case for case in results.case.values.tolist() if case.startswith(f"{place} ")]
                for case in cases:
                    method = case.partition(" ")[2]
                    one = results.sel(case=case, slowdown=severity)
                    color = plotting.COLORS[list(TITLES).index(method)]
                    seconds = one.simulated_seconds.mean("seed")
                    axes_.plot(seconds, 100 * one.accuracy.mean("seed"), color=color, label=TITLES[method])
                axes_.axhline(100 * TARGET, color="0.6", lw=0.5, ls=":")
                axes_.set_xlim(0, float(results.step[-1]))
                axes_.set_ylim(0, 100)
                if row == len(severities) - 1:
                    axes_.set_xlabel("simulated seconds")
                if column == 0:
                    axes_.set_ylabel(f"test accuracy (%)\nslowdown {severity:g}")
        for column in (0, len(places) - 1):
            panels[0, column].legend(fontsize=6, loc="lower right")
        titles = [
            TOPOLOGIES.get(place, place) if row == 0 else "" for row in range(len(severities)) for place in places
        ]
        plotting.letters(panels, titles)
    return made
