"""Compression: what accuracy do how many bits buy, channel by channel, topology by topology?

Command: `dlsim run experiments/sweeps/compression.py`

Nodes hold handwritten digits in Dirichlet(0.5) label skew and train softmax regression (a matrix of 64 by 10 and a bias)
with the same rate and batches.  Every channel of the table below goes with two methods over three graphs: CHOCO-SGD, which
sends compressed differences and moves by the consensus step size of the table, and D-SGD, whose neighbours hear the sum
of the compressed differences that were sent (`ef21`).  A channel is a line of `CHANNELS`; bits are those that all nodes
have sent, one copy a neighbour.

The front of a panel is the best accuracy that any channel had shown by so many bits.

Measured (default mode, 3 seeds): signs reach 85 % with 9 to 17 times fewer bits under CHOCO-SGD and 20 to 23 times fewer
under D-SGD.  That CHOCO-SGD ends near the uncompressed run with every channel does not hold with this table: two bits of
`quantize` are no contraction and diverge under both methods, and a consensus step of 0.4 is too long for rank one
everywhere and for a tenth of the numbers on denser graphs, where the same channels under `ef21`, which has no step to
choose, learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, networks
from dlsim.experiment import Claim
from dlsim.learning.measures import only

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "small", "paper")
MINUTES = {"tiny": 0.5, "small": 2, "default": 4}  # on 2 cores
# By name: the channel, and CHOCO-SGD's consensus step size, the smaller the less of a message it keeps.
CHANNELS: dict[str, tuple[Any, float]] = {
    "32 bits": (networks.perfect_channel, 1.0),
    "quantize 8": (lambda: networks.quantize(8, norm="max"), 1.0),
    "quantize 4": (lambda: networks.quantize(4, norm="max"), 0.8),
    "quantize 2": (lambda: networks.quantize(2, norm="max"), 0.1),
    "int 8": (lambda: networks.integers(8), 1.0),
    "int 4": (lambda: networks.integers(4), 0.8),
    "one byte": (networks.log_quantize, 1.0),
    "E3M0": (networks.e3m0, 0.8),
    "k-means 3": (networks.kmeans, 0.4),
    "FedZip 80%": (lambda: networks.fedzip(sparsity=0.8), 0.2),
    "sign": (networks.sign, 0.4),
    "top 10%": (lambda: networks.top_k(0.1), 0.4),
    "top 1%": (lambda: networks.top_k(0.01), 0.1),
    "top 10%, 8 bits": (lambda: networks.chain(networks.top_k(0.1), networks.quantize(8, norm="max")), 0.4),
    "random 10%": (lambda: networks.random_k(0.1, is_unbiased=False), 0.1),
    "each with 10%": (lambda: networks.random_sparsification(0.1, is_unbiased=False), 0.1),
    "low rank 1": (lambda: networks.low_rank(1), 0.4),
    "low rank 3": (lambda: networks.low_rank(3), 0.6),
}
METHODS = {"choco_sgd": "CHOCO-SGD", "dsgd": "D-SGD"}
TOPOLOGIES = {"ring": "ring", "torus": "torus", "complete": "complete"}
PLAIN = "32 bits"
# Thresholds, set before the first run.
TARGET = 0.85  # test accuracy of the nodes' own models
CHEAPER = 10  # times fewer bits to the target than uncompressed, for the best channel
NEAR = 0.03  # accuracy at the end within this of the uncompressed, for CHOCO-SGD with every channel
LONG_ENOUGH = 400  # steps
KEPT = ("accuracy", "loss", "consensus_distance", "bits_sent")


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("compression", "mode", mode, MODES)
    config = ConfigDict()
    few = ("32 bits", "top 10%, 8 bits", "low rank 1")
    config.channel = few if mode == "tiny" else tuple(CHANNELS)
    config.topology = ("ring",) if mode == "tiny" else tuple(TOPOLOGIES)
    config.algorithm = tuple(METHODS)
    config.num_seeds = {"default": 3, "tiny": 1, "small": 2, "paper": 5}[mode]
    config.num_nodes = {"default": 16, "tiny": 9, "small": 16, "paper": 256}[mode]
    config.num_steps = {"default": 600, "tiny": 20, "small": 200, "paper": 4000}[mode]
    config.batch_size = 16
    config.learning_rate = 0.1
    config.record_every = {"default": 10, "tiny": 5, "small": 10, "paper": 20}[mode]
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every channel, on every graph, with both methods."""
    return {"channel": config.channel, "topology": config.topology, "algorithm": config.algorithm}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One channel, one graph, one method."""
    checks.one_of("compression", "channel", config.channel, CHANNELS)
    checks.one_of("compression", "topology", config.topology, TOPOLOGIES)
    checks.one_of("compression", "algorithm", config.algorithm, METHODS)
    num = config.num_nodes
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=num,
        partition=dlsim.problems.dirichlet(alpha=0.5),
        model="softmax",
        batch_size=config.batch_size,
    )
    make, step_size = CHANNELS[config.channel]
    optimizer = optax.sgd(config.learning_rate)
    if config.algorithm == "choco_sgd":
        channel = make()
        algorithm = dlsim.algorithms.choco_sgd(problem, optimizer, consensus_step_size=step_size)
    else:
        channel = make() if config.channel == PLAIN else networks.ef21(make())
        algorithm = dlsim.algorithms.dsgd(problem, optimizer)
    network = getattr(networks, config.topology)(num).with_channel(channel)
    process = dlsim.learn(problem, algorithm, network)
    return process, dlsim.Record(every=config.record_every, fn=only(process, KEPT))


def bits_to_target(results: xarray.Dataset) -> xarray.DataArray:
    """Bits sent until the nodes' mean accuracy is at the target, mean over seeds; infinite where a seed is not."""
    spent = dlsim.analysis.first_reaching(results, "accuracy", TARGET, axis="bits_sent")
    return spent.fillna(np.inf).mean("seed")


def front(results: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The best accuracy that any channel of one panel had shown by so many bits: both rising, means over seeds."""
    one = results[["bits_sent", "accuracy"]].mean("seed").transpose("channel", "step")
    bits, accuracy = (one[name].values.ravel() for name in ("bits_sent", "accuracy"))
    usable = np.isfinite(accuracy) & (bits > 0)
    order = np.argsort(bits[usable], kind="stable")
    bits, best = bits[usable][order], np.maximum.accumulate(accuracy[usable][order])
    rises = np.diff(best, prepend=-np.inf) > 0
    return bits[rises], best[rises]


def claims(results: xarray.Dataset) -> list[Claim]:
    """Bits to the target, and what is reached in the end; thresholds are the constants above."""
    is_long = bool(results.step[-1] >= LONG_ENOUGH)
    spent, last = bits_to_target(results), results.accuracy.isel(step=-1).mean("seed")
    out = []
    for topology in results.topology.values.tolist():
        for method in results.algorithm.values.tolist():
            where = {"topology": topology, "algorithm": method}
            plain, here = float(spent.sel(channel=PLAIN, **where)), spent.sel(**where).drop_sel(channel=PLAIN)
            best = str(here.channel.values[int(np.argmin(here.values))])
            ratio = plain / float(here.min())
            out.append(
                Claim(
                    f"{TOPOLOGIES[topology]}, {METHODS[method]}: some channel is at {100 * TARGET:g} % with at most a "
                    f"{CHEAPER}th of the bits",
                    "Koloskova, Stich and Jaggi, ICML 2019",
                    "compression by 10 to 100 times at little loss",
                    f"{ratio:.0f} times fewer ({best})" if np.isfinite(ratio) else "not reached",
                    bool(ratio >= CHEAPER) if is_long else None,
                )
            )
        if "choco_sgd" in results.algorithm:
            ends = last.sel(topology=topology, algorithm="choco_sgd")
            behind = ends.sel(channel=PLAIN) - ends
            worst = str(behind.channel.values[int(np.argmax(behind.fillna(np.inf).values))])
            gap = float(behind.fillna(np.inf).max())
            out.append(
                Claim(
                    f"{TOPOLOGIES[topology]}, CHOCO-SGD: with every channel it ends within {100 * NEAR:g} points of "
                    "uncompressed",
                    "Koloskova, Stich and Jaggi, ICML 2019, Theorem 4",
                    "the leading term of the rate does not depend on the compressor",
                    f"at most {100 * gap:.1f} points behind ({worst})",
                    bool(gap <= NEAR) if is_long else None,
                )
            )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """Test accuracy against bits sent: a row for each method, a column for each graph, and the Pareto front of each."""
    import matplotlib

    from dlsim import plotting

    methods, graphs = results.algorithm.values.tolist(), results.topology.values.tolist()
    channels = results.channel.values.tolist()
    colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, max(len(channels) - 1, 1)))
    with plotting.style():
        made, panels = plotting.panels(
            len(methods), len(graphs), height=2.4 * len(methods) + 0.6, sharex=True, sharey=True
        )
        for row, method in enumerate(methods):
            for column, topology in enumerate(graphs):
                panel, one = panels[row, column], results.sel(algorithm=method, topology=topology)
                means = one.mean("seed")
                rank = 0
                for channel in channels:
                    curve = means.sel(channel=channel).isel(step=slice(1, None))
                    color = "black" if channel == PLAIN else colors[rank]
                    rank += channel != PLAIN
                    panel.plot(curve.bits_sent, 100 * curve.accuracy, color=color, lw=1, label=channel)
                bits, best = front(one)
                panel.step(
                    bits, 100 * best, where="post", color="0.4", lw=2.5, alpha=0.5, zorder=0, label="Pareto front"
                )
                panel.set_xscale("log")
                panel.axhline(100 * TARGET, color="0.6", lw=0.5, ls=":")
                panel.set_ylim(0, 100)
                if row == len(methods) - 1:
                    panel.set_xlabel("bits sent by all nodes")
                if column == 0:
                    panel.set_ylabel(f"{METHODS[method]}\ntest accuracy (%)")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=7, fontsize=6)
        titles = [TOPOLOGIES[name] if row == 0 else "" for row in range(len(methods)) for name in graphs]
        plotting.letters(panels, titles)
    return made
