"""Robustness: which rule stands which attack, by how many liars, on which graph?

Command: `dlsim run experiments/sweeps/robustness.py`

Twenty-four nodes hold handwritten digits in Dirichlet(1) label skew and train softmax regression (650 numbers) by D-SGD,
whose gossip is a rule of `dlsim.aggregators`.  An eighth or a quarter of them lie (`dlsim.networks.byzantine`): they compute
honestly, and say something else.  They are placed so that no honest node hears more of them than need be (greedily, see
`liars`); each rule is told the most that any honest node hears, or the most that it stands there if that is fewer.  What is
measured is the accuracy of the honest nodes' own models.

Which attack it is, is a number: all of them go through one program a rule, share and graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import aggregators, checks, keys, networks
from dlsim.core import Array, Channel, Packet, Route
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 4}  # on 2 cores
# Strengths, set before the first run; "none" is an attack of strength 0 that adds nothing to what liars say.
ATTACKS: dict[str, tuple[str, float]] = {
    "none": ("added_noise", 0.0),
    "sign flip": ("sign_flip", 4.0),
    "noise": ("noise", 1.0),
    "ALIE": ("alie", 1.5),
    "inner product": ("inner_product", 2.0),
    "min-max": ("min_max", 1.0),
    "mimic": ("mimic", 1.0),
    "dissensus": ("dissensus", 2.0),  # the last: it says other things to other receivers
}
MEDIAN = aggregators.median()
# By name: the rule against f liars, and the most that it stands among c candidates.
RULES: dict[str, tuple[Callable[[int], Any], Callable[[int], int]]] = {
    "mean": (lambda f: aggregators.mean(), lambda c: c),
    "median": (lambda f: MEDIAN, lambda c: c),
    "trimmed mean": (aggregators.trimmed_mean, lambda c: (c - 1) // 2),
    "geometric median": (lambda f: aggregators.geometric_median(), lambda c: c),
    "Krum": (aggregators.krum, lambda c: (c - 3) // 2),
    "MeaMed": (aggregators.mean_around_median, lambda c: (c - 1) // 2),
    "CGE": (aggregators.cge, lambda c: (c - 1) // 2),
    "clipping": (lambda f: aggregators.self_centered_clipping(1.0), lambda c: c),
    "NNM, trimmed": (
        lambda f: aggregators.nearest_neighbor_mixing(aggregators.trimmed_mean(f), f),
        lambda c: (c - 1) // 2,
    ),
}
TOPOLOGIES = {"complete": "complete", "random_regular": "8-regular"}
DEGREE = 8
FEW, MANY = 0.125, 0.25
# Thresholds, set before the first run.
BROKEN = 0.5  # accuracy: below it a rule has fallen
LOSS = 0.05  # with an eighth of liars some rule loses no more, whatever the attack, against a mean nobody lies to
BESIDE = 0.01  # mixing neighbours first makes the worst case no worse than this
PRICE = 0.01  # and Krum, where nobody lies, is at least so much below the mean
LONG_ENOUGH = 100  # steps


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("robustness", "mode", mode, MODES)
    is_tiny = mode == "tiny"
    config = ConfigDict()
    config.rule = ("mean", "trimmed mean") if is_tiny else tuple(RULES)
    config.attack = tuple(float(place) for place in range(len(ATTACKS)))
    config.share = (FEW,) if is_tiny else (FEW, MANY)
    config.topology = ("random_regular",) if is_tiny else tuple(TOPOLOGIES)
    config.num_seeds = {"default": 2, "tiny": 1, "paper": 5}[mode]
    config.num_nodes = {"default": 24, "tiny": 16, "paper": 104}[mode]
    config.num_steps = {"default": 150, "tiny": 10, "paper": 1000}[mode]
    config.batch_size = 16
    config.learning_rate = 0.1
    config.record_every = {"default": 50, "tiny": 5, "paper": 100}[mode]
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every rule against every attack, by every share of liars, on every graph."""
    return {"rule": config.rule, "attack": config.attack, "share": config.share, "topology": config.topology}


def make_network(topology: str, num_nodes: int) -> networks.Network:
    """The graph with Metropolis-Hastings weights."""
    checks.one_of("robustness", "topology", topology, TOPOLOGIES)
    if topology == "random_regular":
        return networks.random_regular(num_nodes, DEGREE, seed=0)
    return networks.complete(num_nodes)


def liars(network: networks.Network, share: float) -> tuple[np.ndarray, int]:
    """Who lies, and how many of them the honest node that hears most hears.

    One after the other is taken that adds least to whoever hears most, then to the sum of squares of what is heard.
    """
    linked = np.zeros((network.num_nodes, network.num_nodes), int)
    linked[np.asarray(network.receivers), np.asarray(network.senders)] = 1
    chosen: list[int] = []
    for _ in range(round(share * network.num_nodes)):
        left = np.setdiff1d(np.arange(network.num_nodes), chosen)
        heard = linked[:, chosen].sum(axis=1)

        def cost(node: int, heard: np.ndarray = heard, taken: tuple[int, ...] = tuple(chosen)) -> tuple[int, int]:
            honest = np.setdiff1d(np.arange(network.num_nodes), [*taken, node])
            then = (heard + linked[:, node])[honest]
            return int(then.max()), int((then**2).sum())

        chosen.append(min(left.tolist(), key=cost))
    honest = np.setdiff1d(np.arange(network.num_nodes), chosen)
    return np.sort(chosen), int(linked[np.ix_(honest, chosen)].sum(axis=1).max())


def one_of(channels: list[Channel], which: Any) -> Channel:
    """The channel of that place, which may be traced: all speak, and one is heard.  The last may say more than one thing."""

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        sent = [
            channel.send(keys.stream(key, f"attack {place}"), (), packet, route)[1]
            for place, channel in enumerate(channels)
        ]
        values = packet.values
        for place, one in enumerate(sent):
            values = jax.tree.map(lambda new, old, place=place: jnp.where(which == place, new, old), one.values, values)
        told = sent[-1].told
        return state, packet._replace(
            values=values, told=told._replace(is_told=told.is_told & (which == len(channels) - 1))
        )

    needs = frozenset().union(*(channel.needs for channel in channels))
    return Channel(init=lambda message, num_senders: (), send=send, needs=needs)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One rule, one share of liars, one graph; the attack may be traced."""
    checks.one_of("robustness", "rule", config.rule, RULES)
    network = make_network(config.topology, config.num_nodes)
    who, most = liars(network, config.share)
    make, stands = RULES[config.rule]
    rule = make(min(most, stands(int(np.asarray(network.in_degrees).min()) + 1)))
    attacks = [networks.byzantine(who, name, strength) for name, strength in ATTACKS.values()]
    problem = dlsim.problems.classification(
        "digits",
        num_nodes=config.num_nodes,
        partition=dlsim.problems.dirichlet(alpha=1.0),
        model="softmax",
        batch_size=config.batch_size,
    )
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(config.learning_rate), aggregator=rule)
    process = dlsim.learn(problem, algorithm, network.with_channel(one_of(attacks, config.attack)))
    honest = jnp.asarray(np.setdiff1d(np.arange(config.num_nodes), who))

    def record(state: Any, info: Any) -> dict[str, Array]:
        """Of the honest nodes: the mean accuracy of their own models, and the least."""
        del info
        models = jax.tree.map(lambda leaf: leaf[honest], process.params(state))
        accuracy = problem.evaluate(models, network.node_ids[honest])["accuracy"]
        return {"accuracy": jnp.mean(accuracy), "least_accuracy": jnp.min(accuracy)}

    return process, dlsim.Record(every=config.record_every, fn=record)


def ends(results: xarray.Dataset) -> xarray.DataArray:
    """The honest nodes' accuracy at the end, mean over seeds, attacks by name; what is not a number is nothing learned."""
    names = list(ATTACKS)
    last = results.accuracy.isel(step=-1).fillna(0.0).mean("seed")
    return last.assign_coords(attack=[names[round(place)] for place in last.attack.values.tolist()])


def claims(results: xarray.Dataset) -> list[Claim]:
    """What the worst attack does to each rule; thresholds are the constants above."""
    is_long = bool(results.step[-1] >= LONG_ENOUGH)
    last, out = ends(results), []
    worst, by = last.min("attack"), last.idxmin("attack")
    for graph in results.topology.values.tolist():
        where = {"topology": graph, "share": FEW}
        fallen = float(worst.sel(rule="mean", **where))
        clean = float(last.sel(rule="mean", attack="none", **where))
        robust = worst.sel(**where).drop_sel(rule="mean")
        best = str(robust.rule.values[int(np.argmax(robust.values))])
        out.append(
            Claim(
                f"{TOPOLOGIES[graph]}, an eighth lies: the mean falls below {100 * BROKEN:g} %",
                "Blanchard et al., NeurIPS 2017, Lemma 1",
                "no linear rule stands a single liar",
                f"{100 * fallen:.1f} % ({by.sel(rule='mean', **where).item()})",
                fallen < BROKEN if is_long else None,
            )
        )
        out.append(
            Claim(
                f"{TOPOLOGIES[graph]}, an eighth lies: some rule loses at most {100 * LOSS:g} points under every attack",
                "Allouah et al., AISTATS 2023",
                "the error of a robust rule is of the order of f / n times the nodes' differences",
                f"{100 * (clean - float(robust.max())):.1f} points ({best}, {by.sel(rule=best, **where).item()})",
                clean - float(robust.max()) <= LOSS if is_long else None,
            )
        )
        if "NNM, trimmed" in results.rule and MANY in results.share:
            where = {"topology": graph, "share": MANY}
            with_it, without = (float(worst.sel(rule=name, **where)) for name in ("NNM, trimmed", "trimmed mean"))
            out.append(
                Claim(
                    f"{TOPOLOGIES[graph]}, a quarter lies: mixing nearest neighbours first makes the trimmed mean's worst "
                    f"case at most {100 * BESIDE:g} point worse",
                    "Allouah et al., AISTATS 2023",
                    "better, where nodes hold different data",
                    f"{100 * with_it:.1f} % against {100 * without:.1f} %",
                    with_it >= without - BESIDE if is_long else None,
                )
            )
        if "Krum" in results.rule:
            price = clean - float(last.sel(rule="Krum", attack="none", topology=graph, share=FEW))
            out.append(
                Claim(
                    f"{TOPOLOGIES[graph]}, nobody lies: Krum is at least {100 * PRICE:g} point below the mean",
                    "Karimireddy, He and Jaggi, ICLR 2022",
                    "rules that pick one value fail where nodes hold different data, without any attack",
                    f"{100 * price:.1f} points",
                    price >= PRICE if is_long else None,
                )
            )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """The honest nodes' accuracy at the end: rule by attack, a panel for each graph and share of liars."""
    from dlsim import plotting

    last = 100 * ends(results)
    graphs, shares = last.topology.values.tolist(), last.share.values.tolist()
    with plotting.style():
        size = 0.27 * last.rule.size + 1.1
        made, panels = plotting.panels(len(graphs), len(shares), height=size * len(graphs), sharex=True, sharey=True)
        for row, graph in enumerate(graphs):
            titles = {share: f"{TOPOLOGIES[graph]}, {share:g} lie" for share in shares}
            plotting.heat_maps(
                panels[row],
                last.sel(topology=graph, drop=True).transpose("share", "rule", "attack"),
                x="attack",
                y="rule",
                panel="share",
                labels=titles,
                label="accuracy of the honest (%)",
                form=".0f",
                limits=(0.0, 100.0),
            )
        for panel in panels.ravel():
            panel.tick_params(axis="x", rotation=45)
    return made
