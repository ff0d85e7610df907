"""The contract tables of what networks are made difficult with: channels and scenarios, and of aggregators."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from contract import world
from contract.rows import judged_alike, nothing_hidden

from dlsim import aggregators, networks
from dlsim.core import Aggregator, Channel, Scenario
from dlsim.networks import Network


class ChannelCase(NamedTuple):
    name: str  # the public name in `dlsim.networks`
    make: Callable[[], Channel]
    variant: str = ""
    changes_values: bool = True
    loses: bool = False  # some transmissions do not arrive

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


CHANNELS = (
    ChannelCase("perfect_channel", networks.perfect_channel, changes_values=False),
    ChannelCase("loss", lambda: networks.loss(0.4), changes_values=False, loses=True),
    ChannelCase("top_k", lambda: networks.top_k(0.3)),
    ChannelCase("top_k", lambda: networks.top_k(2, error_feedback=True), variant="error_feedback"),
    ChannelCase("random_k", lambda: networks.random_k(0.5)),
    ChannelCase("random_sparsification", lambda: networks.random_sparsification(0.5)),
    ChannelCase("quantize", lambda: networks.quantize(4)),
    ChannelCase("quantize", lambda: networks.quantize(8, norm="max"), variant="max"),
    ChannelCase("sign", networks.sign),
    ChannelCase("quantize", lambda: networks.quantize(4, code="elias"), variant="elias"),
    ChannelCase("e3m0", networks.e3m0),
    ChannelCase("integers", networks.integers),
    ChannelCase("integers", lambda: networks.integers(4, rounding="stochastic", scale="message"), variant="stochastic"),
    ChannelCase("min_max", lambda: networks.min_max(8, rounding="floor", scale="message")),
    ChannelCase("kmeans", networks.kmeans),
    ChannelCase("fedzip", networks.fedzip),
    ChannelCase("to_server", lambda: networks.to_server(networks.top_k(2, error_feedback=True))),
    ChannelCase("dp_gaussian", lambda: networks.dp_gaussian(clip=1.0, noise_multiplier=0.5)),
    ChannelCase("rqm", lambda: networks.rqm(clip=1.0, extension=1.0)),
    ChannelCase("poisson_binomial", lambda: networks.poisson_binomial(clip=1.0, theta=0.25)),
    ChannelCase("clipped_rounding", lambda: networks.clipped_rounding(clip=1.0)),
    ChannelCase("log_quantize", networks.log_quantize),
    ChannelCase("gaussian_noise", lambda: networks.gaussian_noise(0.1)),
    ChannelCase("byzantine", lambda: networks.byzantine((1, 6), "noise", 0.1)),
    ChannelCase("low_rank", lambda: networks.low_rank(1)),
    ChannelCase("ef21", lambda: networks.ef21(networks.top_k(3))),
    ChannelCase("error_feedback", lambda: networks.error_feedback(networks.sign())),
    ChannelCase(
        "chain",
        lambda: networks.chain(networks.top_k(0.5, error_feedback=True), networks.quantize(6), networks.loss(0.3)),
        loses=True,
    ),
)


def trace(name: str) -> pathlib.Path:
    """A file of eight devices beside the tables."""
    return pathlib.Path(__file__).parent / "traces" / f"{name}.csv"


class ScenarioCase(NamedTuple):
    name: str  # the public name in `dlsim.networks`
    make: Callable[[], Scenario]
    variant: str = ""
    relabels: bool = True  # by node ids; False where the scenario holds topologies of its own
    only_restricts: bool = True  # changes who is there and which links work, nothing else
    speaks: bool = False  # sends messages of its own, which are counted
    has_links: bool = False  # needs links, and may change them

    def on(self, network: Network) -> Network:
        """The network, with links where it needs them: so slow that a round takes seconds."""
        watts = networks.Watts(compute=0.5, upload=0.1, waiting=0.01)
        links = networks.links(network.num_nodes, upload=100.0, compute=0.5, watts=watts)
        return network.with_links(links) if self.has_links else network

    def network(self) -> Network:
        return self.on(world.uneven())

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


# Eight nodes walk across each other's ways in five seconds.
WALK = (np.arange(6.0), np.random.default_rng(3).random((6, world.NUM_NODES, 2)))
CYCLES = (world.uneven, world.tree)  # two topologies of the same nodes

SCENARIOS = (
    ScenarioCase("no_scenario", networks.no_scenario),
    ScenarioCase("churn", lambda: networks.churn(0.3, 0.5)),
    ScenarioCase("crash", lambda: networks.crash(2, 0.4)),
    ScenarioCase("outages", lambda: networks.outages((1, 6, 1), (0, 2, 4), (2, 3, 5))),
    ScenarioCase("relays", lambda: networks.relays((1, 6), (0, 2))),
    ScenarioCase("disaster", lambda: networks.disaster(world.HIT, 1, 3)),
    ScenarioCase("disaster", lambda: networks.disaster(world.HIT, 2, loses="links"), variant="links"),
    ScenarioCase("disaster", lambda: networks.disaster(world.HIT, 2, loses="data"), variant="data"),
    ScenarioCase("split", lambda: networks.split(world.HIT.astype(int), 1, 3)),
    ScenarioCase("reweigh", lambda: networks.reweigh(world.uneven(), "metropolis_hastings"), only_restricts=False),
    ScenarioCase(
        "reweigh",
        lambda: networks.reweigh(world.uneven(), sizes=np.arange(world.NUM_NODES)),
        variant="sizes",
        only_restricts=False,
    ),
    ScenarioCase("random_waypoint", lambda: networks.random_waypoint(0.5, 7, speed=(0.1, 0.3)), only_restricts=False),
    ScenarioCase("position_trace", lambda: networks.position_trace(WALK, 0.5, 7), only_restricts=False),
    ScenarioCase("batteries", lambda: networks.batteries(8.0, recharge=1.0), has_links=True),
    ScenarioCase("participation", lambda: networks.participation(3)),
    ScenarioCase("peer_churn", lambda: networks.peer_churn(0.2, 0.5, leave_rate=0.2)),
    ScenarioCase("link_failure", lambda: networks.link_failure(0.4)),
    ScenarioCase("link_failure", lambda: networks.link_failure(0.4, is_symmetric=False), variant="one_way"),
    ScenarioCase("random_presence", lambda: networks.random_presence(0.6)),
    ScenarioCase(
        "time_varying",
        lambda: networks.time_varying([make() for make in CYCLES]),
        relabels=False,
        only_restricts=False,
    ),
    ScenarioCase(
        "time_varying",
        lambda: networks.time_varying([make() for make in CYCLES], dwell_rounds=(2, 1), cycle=False),
        variant="held",
        relabels=False,
        only_restricts=False,
    ),
    ScenarioCase("epidemic", lambda: networks.epidemic(2), only_restricts=False),
    ScenarioCase("epidemic", lambda: networks.epidemic(2, "local"), variant="local", only_restricts=False),
    ScenarioCase(
        "peer_sampling",
        lambda: networks.peer_sampling(2, view_size=4, healer=1, swapper=1, peer="random"),
        only_restricts=False,
        speaks=True,
    ),
    ScenarioCase("random_neighbors", lambda: networks.random_neighbors([1.5, 0.0, 2.0]), only_restricts=False),
    ScenarioCase("scheduled_links", lambda: networks.scheduled_links([1.0, 0.0, 0.5])),
    ScenarioCase("sessions", lambda: networks.sessions(20.0, 5.0), has_links=True),
    ScenarioCase("session_trace", lambda: networks.session_trace(trace("sessions")), has_links=True),
    ScenarioCase("rate_trace", lambda: networks.rate_trace(trace("rates")), has_links=True),
    ScenarioCase("stragglers", lambda: networks.stragglers(4.0, 2.0, probability=0.5), has_links=True),
    ScenarioCase("fading", lambda: networks.fading(0.5), has_links=True),
    ScenarioCase("chain", lambda: networks.chain(networks.churn(0.2), networks.link_failure(0.3))),
)


class AggregatorCase(NamedTuple):
    name: str  # the public name in `dlsim.aggregators`
    make: Callable[[], Aggregator]
    moves_along: bool = True  # moving everyone moves the result; not where directions from zero are compared


AGGREGATORS = (
    AggregatorCase("mean", aggregators.mean),
    AggregatorCase("mean", lambda: aggregators.mean(is_partial=True)),
    AggregatorCase("median", aggregators.median),
    AggregatorCase("aligned", lambda: aggregators.aligned(nothing_hidden())),
    AggregatorCase("trimmed_mean", lambda: aggregators.trimmed_mean(1)),
    # Of three candidates two are each other's nearest, so a single winner would be a matter of order.
    AggregatorCase("krum", lambda: aggregators.krum(0, num_selected=3)),
    AggregatorCase("geometric_median", aggregators.geometric_median),
    AggregatorCase("self_centered_clipping", lambda: aggregators.self_centered_clipping(1.0)),
    AggregatorCase("variance_corrected", lambda: aggregators.variance_corrected(aggregators.mean(self_weight=0.5))),
    AggregatorCase("mean_around_median", lambda: aggregators.mean_around_median(1)),
    AggregatorCase("minimum_diameter", lambda: aggregators.minimum_diameter(1)),
    AggregatorCase("bulyan", lambda: aggregators.bulyan(0)),
    AggregatorCase("centered_clipping", lambda: aggregators.centered_clipping(1.0, num_iterations=2)),
    AggregatorCase("bucketing", lambda: aggregators.bucketing(aggregators.median(), 2)),
    AggregatorCase("cge", lambda: aggregators.cge(1)),
    AggregatorCase("caf", lambda: aggregators.caf(1)),
    # Where a candidate is wholly explained its weight is a root of epsilon's neighbourhood, and of rounding.
    AggregatorCase("flag", lambda: aggregators.flag(centre="own", rescale="median", epsilon=0.01, num_iterations=2)),
    AggregatorCase("mozi", lambda: aggregators.mozi(judged_alike())),
    AggregatorCase("nearest_neighbor_mixing", lambda: aggregators.nearest_neighbor_mixing(aggregators.mean(), 1)),
    AggregatorCase("norm_clipping", lambda: aggregators.norm_clipping(aggregators.median(), 1.0)),
    AggregatorCase(
        "adaptive_robust_clipping", lambda: aggregators.adaptive_robust_clipping(aggregators.trimmed_mean(1), 1)
    ),
    AggregatorCase("foolsgold", aggregators.foolsgold, moves_along=False),
    AggregatorCase("sybil_wall", lambda: aggregators.sybil_wall(num_records=8), moves_along=False),
    AggregatorCase(
        "by_node",
        lambda: aggregators.by_node((aggregators.mean(), aggregators.median()), np.arange(world.NUM_NODES) % 2),
    ),
)
