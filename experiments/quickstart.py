"""Quickstart: how much does the graph matter when every node knows few classes, and does gradient tracking help?

Command: `dlsim run experiments/quickstart.py`

One hundred nodes hold 14 handwritten digits each (scikit-learn's set, in Dirichlet(0.1) label skew: most nodes know one
or two of the ten classes) and train an MLP together, without a server.  Ring, torus, random 4-regular and complete
graph; D-SGD against gradient tracking at the same rate.

Expected (default mode, 300 rounds, 3 seeds, about one minute on 2 cores): mean accuracy 84 % (ring), 94 % (torus), 95 %
(random) and 96 % (complete) with D-SGD; 93, 95, 96 and 96 % with gradient tracking, each with a spread of about one
point over seeds.  On the ring, whose spectral gap is least, tracking gains nine points.

What was tried first, and did not hold: the claims on gradient tracking (at most two points behind D-SGD) were written
for each method in its default order of that time, D-SGD adapt-then-combine and tracking combine-then-adapt, and for 400
rounds. Tracking was then 5.4 +- 0.6 points behind on the torus and 2.3 +- 0.3 on the random graph (3 seeds). After
that the order became a setting of both methods and the rounds 300, with thresholds as they were. The order decides:
over 400 rounds adapt-then-combine gives +0.9 points on the torus and +1.3 on the random graph, combine-then-adapt for
both methods -3.7 and -0.9, so that the claim fails on the torus also like for like
(`--config.order=combine_then_adapt`). At rates 0.025 and 0.1 the default's claims hold on ring and torus as at 0.05.

On the torus tracking loses seven points between rounds 50 and 80 before it recovers: it passes its stability limit.
Adapt-then-combine tracking is stable where eta L < (1 + l)^2 / (2 l^2), l the least eigenvalue of W: that is 2/9 on the
torus (l = -3/5), 0.62 on the random graph (-0.47) and 2 on ring and complete graph, or at this rate L < 4.4, 12 and 40.
Of the consensus distance at round 80, 0.15 in seed 0, 95 % lie along the one eigenvector of l, the chessboard in which
neighbours swing against each other; once the losses are flatter, it dies out. The mean model (`accuracy_of_mean`) loses
one point. With weights of l = 1/5 (`weights="lazy_metropolis_hastings"`) that part stays below 1e-6 and accuracy only
rises, as it does at half the rate (`--config.learning_rate=0.025`), where after 300 rounds it is less than a point
behind.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, trees
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 1}  # on 2 cores
NAMES = {"ring": "ring", "torus": "torus", "random_regular": "random 4-regular", "complete": "complete"}
TITLES = {"dsgd": "D-SGD", "gradient_tracking": "gradient tracking"}
MARGIN = 0.02  # accuracy that counts as a difference: twice the standard error of 360 test digits at 96 %
AGREEMENT = 1e-6  # squared distance below which models are equal up to float32 rounding
LONG_ENOUGH = 200  # rounds before which accuracy is still that of the start, and decides nothing


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    sizes = {"default": (100, 300, 10, 3), "tiny": (16, 20, 10, 2), "paper": (100, 4000, 50, 10)}
    checks.one_of("quickstart", "mode", mode, MODES)
    num_nodes, num_steps, every, num_seeds = sizes[mode]
    config = ConfigDict()
    config.num_seeds = num_seeds
    # Problem
    config.num_nodes = num_nodes
    config.dirichlet_alpha = 0.1
    config.model = "mlp"
    config.batch_size = 8
    # Network and algorithm
    config.topology = tuple(NAMES)
    config.lowering = "dense"  # matrices of one shape are data of one compiled program; at N=100 they cost little
    config.algorithm = tuple(TITLES)
    config.order = "adapt_then_combine"  # of both
    config.learning_rate = 0.05
    # Rounds
    config.num_steps = num_steps
    config.record_every = every
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every topology with every algorithm."""
    return {"topology": config.topology, "algorithm": config.algorithm}


def make_network(topology: str, num_nodes: int, lowering: str = "auto") -> dlsim.networks.Network:
    """The graph with Metropolis-Hastings weights."""
    checks.one_of("quickstart", "topology", topology, NAMES)
    if topology == "random_regular":
        return dlsim.networks.random_regular(num_nodes, degree=4, seed=0, lowering=lowering)
    return getattr(dlsim.networks, topology)(num_nodes, lowering=lowering)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One topology, one algorithm."""
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=config.num_nodes,
        partition=dlsim.problems.dirichlet(alpha=config.dirichlet_alpha),
        model=config.model,
        batch_size=config.batch_size,
    )
    checks.one_of("quickstart", "algorithm", config.algorithm, TITLES)
    algorithm = getattr(dlsim.algorithms, config.algorithm)(
        problem, optax.sgd(config.learning_rate), order=config.order
    )
    network = make_network(config.topology, config.num_nodes, config.lowering)
    process = dlsim.learn(problem, algorithm, network)
    return process, dlsim.Record(every=config.record_every, fn=_measures(process, algorithm))


def _measures(process: dlsim.Process, algorithm: dlsim.Algorithm) -> Any:
    """What the process measures, and every node's distance to the mean of all models, `[N]`."""
    assert process.measure is not None
    measure = process.measure

    def record(state: Any, info: Any) -> Any:
        models = trees.ravel(algorithm.params(state.algorithm))[0]
        distance = jnp.linalg.norm(models - models.mean(axis=0), axis=1)
        return {**measure(state, info), "distance_to_mean": distance}

    return record


def claims(results: xarray.Dataset) -> list[Claim]:
    """What theory says, against the last quarter of the rounds; thresholds are the constants above."""
    late = results.isel(step=slice(-max(1, results.sizes["step"] // 4), None)).mean("step")
    have = [name for name in NAMES if name in results.topology.values]
    methods = [name for name in TITLES if name in results.algorithm.values]
    is_long = bool(results.step[-1] >= LONG_ENOUGH)
    out = []
    if "dsgd" in methods and len(have) > 1:
        out.append(_ordering(late.consensus_distance.sel(algorithm="dsgd"), have, is_long))
    if "dsgd" in methods and "complete" in have:
        spread = late.consensus_distance.sel(algorithm="dsgd", topology="complete")
        out.append(
            Claim(
                text="On the complete graph D-SGD (adapt, then combine) keeps all models equal",
                source="uniform weights 1/N average exactly",
                reported=f"consensus distance 0 (below {AGREEMENT:g} in float32)",
                measured=f"{float(spread.max()):.1e}, greatest over seeds",
                holds=bool((spread < AGREEMENT).all()),
            )
        )
    if len(methods) == 2:
        order = json.loads(results.attrs["config"])["order"].replace("_", "-")
        out.extend(_tracking(late, have, order, is_long))
    return out


def _ordering(spread: xarray.DataArray, have: list[str], is_long: bool) -> Claim:
    """The smaller the spectral gap, the further the models are apart."""
    ordered = [spread.sel(topology=name) for name in have]
    holds = all(bool((one > other).all()) for one, other in itertools.pairwise(ordered))
    return Claim(
        text=f"D-SGD's consensus distance falls from {' to '.join(NAMES[name] for name in have)}",
        source="Koloskova et al., A unified theory of decentralized SGD, ICML 2020 (consensus bound)",
        reported="falls as the spectral gap grows, in every seed",
        measured=", ".join(_mean(one, ".2g") for one in ordered),
        holds=holds if is_long else None,
    )


def _tracking(late: xarray.Dataset, have: list[str], order: str, is_long: bool) -> list[Claim]:
    """Gradient tracking removes the error of heterogeneity, and costs no accuracy."""
    source = "Koloskova, Lin and Stich, An improved analysis of gradient tracking, NeurIPS 2021"
    out = []
    for name in (name for name in have if name != "complete"):
        dsgd, tracking = (late.sel(topology=name, algorithm=method) for method in ("dsgd", "gradient_tracking"))
        gain = tracking.accuracy - dsgd.accuracy
        out.append(
            Claim(
                text=f"{NAMES[name]}, both {order}: gradient tracking is at most {100 * MARGIN:g} points less accurate "
                "than D-SGD",
                source=source,
                reported="its rate has no term of heterogeneity",
                measured=f"{_mean(100 * gain, '+.1f')} points",
                holds=bool(gain.mean() > -MARGIN) if is_long else None,
            )
        )
    return out


def _mean(values: xarray.DataArray, form: str) -> str:
    numbers = np.atleast_1d(values.values)
    spread = f" ± {np.std(numbers, ddof=1):{form.lstrip('+')}}" if numbers.size > 1 else ""
    return f"{np.mean(numbers):{form}}{spread}"


def figure(results: xarray.Dataset) -> Figure:
    """Accuracy above, consensus distance below; a column for each algorithm."""
    from dlsim import plotting

    num_nodes = json.loads(results.attrs["config"])["num_nodes"]
    gaps = {
        name: dlsim.networks.spectral_gap(make_network(name, num_nodes)) for name in results.topology.values.tolist()
    }
    labels = {name: f"{NAMES[name]} ({gap:.2g})" for name, gap in gaps.items()}
    methods = results.algorithm.values.tolist()
    with plotting.style():
        made, panels = plotting.panels(2, len(methods), height=4.4, sharex=True, sharey="row")
        for column, method in enumerate(methods):
            one = results.sel(algorithm=method)
            plotting.curves(panels[0, column], 100 * one.accuracy, "topology", labels=labels)
            below = panels[1, column]
            apart = one.consensus_distance.where(one.consensus_distance > AGREEMENT)
            plotting.curves(below, apart, "topology", labels=labels, log=True)
            below.set_xlabel("round")
            if "complete" in gaps and bool(np.isnan(apart.sel(topology="complete")).all()):
                below.text(
                    0.98, 0.04, "complete: 0 (all models equal)", transform=below.transAxes, ha="right", fontsize=7
                )
        panels[0, 0].set_ylabel("test accuracy (%)")
        panels[1, 0].set_ylabel("consensus distance")
        panels[1, 0].set_ylim(bottom=1e-5)
        titles = [f"{TITLES[method]}: {what}" for what in ("accuracy", "distance") for method in methods]
        plotting.letters(panels, titles)
        plotting.share_legend(made, panels, title="graph (spectral gap)")
    return made
