"""A million nodes: does a node cost the same whatever their number?

Command: `dlsim run experiments/sweeps/scaling.py` (11 minutes on 2 cores; 9 GiB of memory).

D-SGD of softmax regression (650 parameters) on handwritten digits, batches of 8, over a torus and over a random 4-regular
graph, from 100 to 1,000,000 nodes: four neighbours each, which lie close by in memory on the torus and anywhere in it on
the random graph.  Every node draws 14 digits of two classes of its own (more nodes than digits: they share them).  What is
measured is the time: `seconds_per_step` of every run, compiling apart; runs go one at a time.

Expected: time a round is proportional to the number of nodes; a node costs within 25 % of the same from 1,000 to
100,000; a million fit into 24 GiB.  The random graph is the hard case: from 10,000 nodes on, the rows of neighbours come
from memory in no order.

Measured (default mode, 11 minutes on 2 cores, best of 5 seeds). On the torus a node costs 2.19 us a round at 1,000
nodes, 2.20 at 10,000 and 2.20 at 100,000: within 1 %. On the random graph 2.29, 2.30 and 2.64 us: within 15 %; what
grows is mixing, four random rows of 2.6 KB a node, in cache at 1,000 nodes and in memory at 100,000. A million nodes
learn (training loss 1.09 after 20 rounds) and take 2.33 (torus) and 2.99 us (random) a node.
Before 28 November 2026 every block of nodes copied the biases of all nodes (see `dlsim/problems/blocks.py`), work that
grows with the square of their number: a million took 11 to 18 us a node, and the random graph between 4 and 49 % more
at 100,000 than at 1,000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 11}  # on 2 cores
TIMED = True  # runs go one at a time, and not side by side
FROM, TO, MARGIN = 1_000, 100_000, 0.25  # a node's cost between these sizes
MILLION = 1_000_000
NETWORKS = {
    "torus": dlsim.networks.torus,
    "random": lambda num_nodes: dlsim.networks.random_regular(num_nodes, degree=4, seed=0),
}


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("scaling", "mode", mode, MODES)
    config = ConfigDict()
    config.num_nodes = {
        "default": (100, 1_000, 10_000, 100_000, 1_000_000),
        "tiny": (100, 1_000),
        "paper": (100, 1_000, 10_000, 100_000, 1_000_000, 4_000_000),
    }[mode]
    config.num_seeds = 1 if mode == "tiny" else 5  # of which the best counts: a run of a thousand nodes takes 50 ms
    config.num_examples = 14
    config.num_classes = 2
    config.batch_size = 8
    config.learning_rate = 0.05
    config.topology = ("torus", "random")
    config.num_steps = 20
    config.num_watched = 100  # nodes whose models are evaluated
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Topologies, and the number of nodes, which is structure: a program each."""
    return {"topology": config.topology, "num_nodes": config.num_nodes}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One population."""
    num_nodes = config.num_nodes
    checks.one_of("scaling", "topology", config.topology, NETWORKS)
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=num_nodes,
        partition=dlsim.problems.bootstrap(config.num_examples, num_classes=config.num_classes),
        model="softmax",
        batch_size=config.batch_size,
    )
    network = NETWORKS[config.topology](num_nodes)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(config.learning_rate))
    process = dlsim.learn(problem, algorithm, network)
    watched = jnp.asarray(np.linspace(0, num_nodes - 1, min(config.num_watched, num_nodes)).astype(np.int32))

    def measure(state: Any, info: dict[str, Any]) -> dict[str, Any]:
        """The accuracy of some nodes: that of a million would take longer than their round."""
        params = algorithm.params(state.algorithm)
        some = jax.tree.map(lambda leaf: leaf[watched], params)
        found = problem.evaluate(some, watched)
        return {"accuracy": jnp.mean(found["accuracy"]), "train_loss": jnp.mean(info["loss"])}

    return process, dlsim.Record(every=config.num_steps, fn=measure)


def cost(results: xarray.Dataset) -> xarray.DataArray:
    """Nanoseconds a node and round: the best of the seeds, which run the same program."""
    return 1e9 * results.seconds_per_step.min("seed") / results.num_nodes


def claims(results: xarray.Dataset) -> list[Claim]:
    """Time a node over the number of nodes, by topology."""
    sizes = results.num_nodes.values.tolist()
    out = []
    for topology in results.topology.values.tolist():
        if FROM not in sizes or TO not in sizes:
            continue
        between = [size for size in sizes if FROM <= size <= TO]
        part = cost(results).sel(topology=topology, num_nodes=between)
        change = float(part.max() / part.min() - 1)
        out.append(
            Claim(
                text=f"A node-update costs the same from {FROM:,} to {TO:,} nodes: {topology}",
                source="work and memory traffic are proportional to the number of nodes",
                reported=f"within {MARGIN:.0%}",
                measured=f"within {change:.0%} ({', '.join(f'{value:.0f} ns' for value in part.values)})",
                holds=change < MARGIN,
            )
        )
    if MILLION in sizes:
        learnt = results.train_loss.sel(num_nodes=MILLION).isel(step=-1)
        out.append(
            Claim(
                text="A million nodes run, and learn",
                source="650 parameters a node: 2.6 GB for all",
                reported="training loss below that of the start (ln 10 = 2.3)",
                measured=f"{float(learnt.mean()):.2f} after {int(results.step[-1])} rounds, "
                + ", ".join(
                    f"{float(results.seconds_per_step.sel(num_nodes=MILLION, topology=topology).min()):.2f} s a round "
                    f"({topology})"
                    for topology in results.topology.values.tolist()
                ),
                holds=bool((learnt < np.log(10)).all()),
            )
        )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """Seconds a round against nodes, with slope 1; and nanoseconds a node."""
    from dlsim import plotting

    sizes, seconds = results.num_nodes.values, results.seconds_per_step
    with plotting.style():
        made, panels = plotting.panels(1, 2, height=2.9)
        left, right = panels[0]
        for place, topology in enumerate(results.topology.values.tolist()):
            look = {"markersize": 4, "color": plotting.COLORS[place], "label": topology}
            left.loglog(sizes, seconds.sel(topology=topology).min("seed"), "o-", **look)
            right.semilogx(sizes, cost(results).sel(topology=topology), "o-", **look)
        middle = sizes[len(sizes) // 2]
        at = float(seconds.sel(num_nodes=middle).min())
        left.loglog(sizes, at * sizes / middle, "k--", linewidth=0.8, label="proportional")
        left.set(xlabel="nodes", ylabel="seconds a round")
        left.legend()
        right.set(xlabel="nodes", ylabel="nanoseconds a node and round", ylim=(0, None))
        plotting.letters(panels, ["a round", "a node"])
    return made
