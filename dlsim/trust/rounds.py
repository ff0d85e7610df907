"""Rounds over a network without a problem to learn: what a world of its own needs to have channels, scenarios and counts."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Drawn, Info, Process, PyTree, Relink, Scenario
from dlsim.networks.messages import count, open_channels, times
from dlsim.networks.network import Network, NetworkState
from dlsim.networks.pace.seconds import between, by_node, end_round, timed_links
from dlsim.running import counters


class Rounds(NamedTuple):
    """The state of a world in rounds."""

    own: PyTree  # what the world keeps
    network: NetworkState
    scenario: PyTree


class RoundFn(Protocol):
    def __call__(self, key: Array, own: PyTree, network: Network, /) -> tuple[PyTree, Network, Info]: ...


def in_rounds(
    where: str,
    network: Network,
    scenario: Scenario | None,
    start: Any,
    one_round: RoundFn,
    measure: Any,
    source: str = "",
    dims: Any = None,
) -> Process:
    """A Process whose step is a round of `one_round` on the network that the scenario makes of the one given here.

    `start(key) -> own`; `one_round(key, own, network) -> (own, network, info)`; `measure(own, info) -> dict`, beside which
    the process measures `bits_sent`, `messages_sent`, `simulated_seconds` and, under a scenario, `num_present`.
    """
    check_world(where, network, scenario)

    def round_(key: Array, own: PyTree, scene: PyTree, current: Network) -> tuple[PyTree, PyTree, Network, Info]:
        if scenario is not None:
            scene, current = scenario.step(keys.stream(key, "scenario"), scene, current)
        own, current, info = one_round(keys.stream(key, where), own, current)
        return own, scene, current, info

    def init(key: Array) -> Rounds:
        own = start(keys.stream(key, where))
        scene = () if scenario is None else scenario.init(keys.stream(key, "scenario"), network)
        opened = open_channels(network, lambda probed: round_(key, own, scene, probed)[3])
        return Rounds(own, opened.state, scene)

    def step(key: Array, state: Rounds) -> tuple[Rounds, Info]:
        own, scene, current, info = round_(key, state.own, state.scenario, network.with_state(state.network))
        if current.is_present is not None:
            info = {**info, "num_present": jnp.sum(current.is_present)}
        return Rounds(own, end_round(current).state, scene), info

    def measured(state: Rounds, info: Info) -> Info:
        traffic = state.network.traffic
        out = measure(state.own, info)
        out |= {"bits_sent": counters.total(traffic.bits), "messages_sent": counters.total(traffic.messages)}
        out["simulated_seconds"] = traffic.clock
        if "num_present" in info:
            out["num_present"] = info["num_present"]
        return out | by_node(state.network, network.links)

    def over(other: Network) -> Process:
        return in_rounds(where, other, scenario, start, one_round, measure, source, dims)

    sources = (source, network.channel.source, "" if scenario is None else scenario.source)
    return Process(
        init=init,
        step=step,
        measure=measured,
        sources=tuple(filter(None, sources)),
        num_nodes=network.num_nodes,
        network=network,
        on=Relink(over, (init, step, measured)),
        drawn=Drawn(network),
        dims=dims,
    )


def check_world(where: str, network: Network, scenario: Scenario | None, least: int = 1) -> None:
    """A Network of at least so many nodes, without delays in rounds, and a Scenario or None."""
    checks.instance(where, "network", network, Network, "Pass e.g. dlsim.networks.complete(100).")
    if scenario is not None:
        checks.instance(where, "scenario", scenario, Scenario, "A Channel goes to network.with_channel.")
    if network.num_nodes < least:
        checks.fail(where, "network", f"of at least {least} nodes", f"{network.num_nodes} nodes")
    if network.delays is not None:
        checks.fail(where, "network", "one without delays", "one with delays", "Links take seconds: with_links.")


def is_complete(network: Network) -> bool:
    """Whether every two nodes are linked, by the number of edges."""
    return network.is_implicit or network.num_edges == network.num_nodes * (network.num_nodes - 1)


def reply(
    network: Network, key: Array, asked: Array, answers: Array, bits: Array | int, stream: str = "reply"
) -> Network:
    """The network after replies of `bits` bits each to what row i asked the nodes `asked` `[N, k]`, where `answers` `[N, k]`.

    A reply goes the way of its question, and arrives where that did: `answers` is false where it was lost.
    """
    num = network.num_nodes
    copies = jnp.zeros(num, jnp.uint32).at[asked].add(answers.astype(jnp.uint32), mode="drop")
    each = counters.from_words(jnp.broadcast_to(jnp.asarray(bits, jnp.uint32), (num,)))
    if timed_links(network) is not None:
        sent = counters.as_float(times(each, copies))
        heard = jnp.sum(answers, axis=1) * jnp.asarray(bits, sent.dtype)
        network = between(network, key, stream, sent, heard)
    return count(network, copies, each)
