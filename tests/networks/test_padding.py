"""Edges that are no edges, and neighbours that are none, change nothing that anybody hears, sends or pays for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import world
from contract.parts import CHANNELS, SCENARIOS

import dlsim
from dlsim import networks
from dlsim.networks.graphs.padding import lengthen, widen
from dlsim.networks.messages import open_channels
from dlsim.networks.network import Network, host_graph

KEY = jax.random.key(3)
MORE = 5  # edges that are none
NETWORKS = {
    "neighbors": lambda: world.uneven().with_lowering("neighbors"),
    "edges": lambda: world.uneven().with_lowering("edges"),
    "dense": lambda: world.uneven().with_lowering("dense"),
    "average": world.complete,
    "directed": world.directed,
}
WATTS = networks.Watts(compute=0.5, upload=0.1)
LINKS = networks.links(world.NUM_NODES, upload=1e3, download=2e3, latency=0.1, compute=0.01, watts=WATTS)


def longer(network: Network) -> Network:
    return lengthen(network, network.num_edges + MORE)


def said(network: Network, rows: int = world.NUM_NODES) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(KEY, (rows, 3)), "b": jax.random.normal(jax.random.key(4), (rows,))}


def under(network: Network, scenario: dlsim.core.Scenario) -> Network:
    """The network of the scenario's first round."""
    return scenario.step(jax.random.key(6), scenario.init(KEY, network), network)[1]


def mixed(network: Network, weights: object = None) -> tuple[object, object]:
    opened = open_channels(network, lambda probed: probed.mix(KEY, said(probed), weights=weights)[0])
    values, after = opened.mix(KEY, said(network), weights=weights)
    return values, after.state


@pytest.mark.parametrize("case", CHANNELS, ids=lambda case: case.id)
@pytest.mark.parametrize("name", NETWORKS)
def test_mixing_through_every_channel(name, case):
    network = NETWORKS[name]().with_channel(case.make()).with_links(LINKS)
    world.close(mixed(longer(network)), mixed(network))


@pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.id)
@pytest.mark.parametrize("name", NETWORKS)
def test_mixing_under_every_scenario(name, case):
    network = NETWORKS[name]().with_channel(networks.loss(0.3)).with_links(LINKS)
    world.close(mixed(under(longer(network), case.make())), mixed(under(network, case.make())))


@pytest.mark.parametrize("failing", [0.0, 0.4])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_made_in_a_step(name, failing):
    """A method's own weights say nothing of edges that are none, whatever they hold there."""
    network = NETWORKS[name]()
    padded = longer(network)
    if failing:
        network, padded = (under(one, networks.link_failure(failing)) for one in (network, padded))
    matrix = jax.random.uniform(KEY, (world.NUM_NODES, world.NUM_NODES))
    world.close(mixed(padded, matrix), mixed(network, matrix))
    own = jnp.full(world.NUM_NODES, 0.5)
    of_edges = (jnp.ones(network.num_edges), own)
    world.close(mixed(padded, (jnp.ones(padded.num_edges), own)), mixed(network, of_edges))


@pytest.mark.parametrize("failing", [0.0, 0.4])
@pytest.mark.parametrize("name", ["neighbors", "dense", "directed"])
def test_what_each_hears_of_each(name, failing):
    network = NETWORKS[name]().with_channel(networks.loss(0.3))
    padded = longer(widen(network, int(network.in_degrees.max()) + 2))
    if failing:
        network, padded = (under(one, networks.link_failure(failing)) for one in (network, padded))
    heard, after = network.gather(KEY, said(network))
    more, other = padded.gather(KEY, said(network))
    width = heard.mask.shape[1]
    # The ids of candidates have the node's own before those of its neighbours.
    ids = more.candidate_ids[:, : width + 1]
    cut = jax.tree.map(lambda leaf: leaf[:, :width] if leaf.ndim > 1 else leaf, more)._replace(candidate_ids=ids)
    world.same(cut, heard)
    assert not more.mask[:, width:].any() and not more.weights[:, width:].any()
    world.same(other.state, after.state)


@pytest.mark.parametrize("failing", [0.0, 0.4])
def test_a_message_an_edge(failing):
    network = world.uneven().with_channel(networks.quantize(4)).with_links(LINKS)
    padded, num = longer(network), network.num_edges
    if failing:
        network, padded = (under(one, networks.link_failure(failing)) for one in (network, padded))
    got, after = dlsim.networks.send_edges(network, KEY, said(network, num))
    more, other = dlsim.networks.send_edges(padded, KEY, said(network, num + MORE))
    assert not more.mask[num:].any()
    np.testing.assert_array_equal(more.mask[:num], got.mask)
    world.same(other.state.traffic, after.state.traffic)
    back = np.asarray(dlsim.networks.reverse_edges(padded))
    np.testing.assert_array_equal(back[:num], dlsim.networks.reverse_edges(network))
    assert set(back[num:]) == set(range(num, num + MORE))


def test_the_graph_is_what_it_was():
    network = world.uneven()
    for name in ("senders", "receivers"):
        np.testing.assert_array_equal(getattr(host_graph(longer(network)), name), getattr(network, name))
