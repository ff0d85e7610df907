"""The contract every channel holds, tried on every row of the table."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import world
from contract.parts import CHANNELS, ChannelCase

from dlsim import keys, networks
from dlsim.core import Channel, Packet, PyTree, Route
from dlsim.networks.messages import open_channels
from dlsim.networks.network import Network
from dlsim.running import counters

every_channel = pytest.mark.parametrize("case", CHANNELS, ids=lambda case: case.id)
KEY = jax.random.key(5)
SIZE = 11  # numbers a message
OF_COHORTS = {"secure_aggregation"}  # tells no single message, so no contract of one; tests/channels has its own
COMBINATORS = {"chain"}  # of channels and of scenarios, so not annotated as either


def message(network: Network, seed: int = 0) -> PyTree:
    """What the nodes say, by their ids: two leaves, one of them a matrix a node."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(world.NUM_NODES, SIZE)).astype(np.float32)[np.asarray(network.node_ids)]
    return {"b": jnp.asarray(values[:, :5]), "w": jnp.asarray(values[:, 5:].reshape(-1, 2, 3))}


def route(network: Network) -> Route:
    ids = network.node_ids
    return Route(node_ids=ids, senders=ids[network.senders], receivers=ids[network.receivers])


def packet(network: Network, seed: int = 0) -> Packet:
    def words(value: int) -> jax.Array:
        return jnp.full(world.NUM_NODES, value, jnp.uint32)

    return Packet(message(network, seed), num_entries=words(SIZE), bits_per_entry=words(32), extra_bits=words(0))


def send_thrice(channel: Channel, network: Network, key: jax.Array = KEY) -> tuple[PyTree, list[Packet]]:
    """Three different messages one after the other: the last state and what went on the air."""
    state, sent = channel.init(message(network), world.NUM_NODES), []
    send = jax.jit(channel.send)
    for t in range(3):
        state, out = send(jax.random.fold_in(key, t), state, packet(network, t), route(network))
        sent.append(out)
    return state, sent


def mix_thrice(channel: Channel, network: Network) -> tuple[list[PyTree], Network]:
    """Three mixes over a network of this channel: what was made of them, and the network after."""
    network = network.with_channel(channel)
    network = open_channels(network, lambda probed: probed.mix(KEY, message(network))[0])
    mixed = []
    for t in range(3):
        values, network = network.mix(jax.random.fold_in(KEY, t), message(network, t))
        mixed.append(values)
    return mixed, network


def test_every_channel_has_a_row() -> None:
    makers = {
        name
        for name in networks.__all__
        if inspect.isfunction(getattr(networks, name))
        and inspect.signature(getattr(networks, name)).return_annotation == "Channel"
    }
    assert {case.name for case in CHANNELS} == makers - OF_COHORTS | COMBINATORS


@every_channel
def test_states_are_a_fixed_point_and_lead_with_the_senders(case: ChannelCase) -> None:
    network = world.uneven()
    channel = case.make()
    before = channel.init(message(network), world.NUM_NODES)
    after, out = channel.send(KEY, before, packet(network), route(network))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.shape[0] == world.NUM_NODES
    assert jax.tree.map(lambda x: (x.shape, x.dtype), out.values) == jax.tree.map(
        lambda x: (x.shape, x.dtype), message(network)
    )
    for words in (out.num_entries, out.bits_per_entry, out.extra_bits):
        assert words.shape == (world.NUM_NODES,) and words.dtype == jnp.uint32
    assert (out.delivered is not None) == case.loses
    if case.loses:
        assert out.delivered.shape == (network.num_edges,) and out.delivered.dtype == bool
        assert 0 < int(out.delivered.sum()) < network.num_edges
    assert np.array_equal(out.values["b"], message(network)["b"]) != case.changes_values


@every_channel
def test_it_compresses_or_leaves_the_size_alone(case: ChannelCase) -> None:
    _, sent = send_thrice(case.make(), world.uneven())
    for out in sent:
        full = np.asarray(out.num_entries, np.int64) * np.asarray(out.bits_per_entry) + np.asarray(out.extra_bits)
        assert (full > 0).all()
        assert (full <= SIZE * 32 + 64).all(), "more than the plain message and a header"


@every_channel
def test_jit_equals_no_jit(case: ChannelCase) -> None:
    network = world.uneven()
    compiled = send_thrice(case.make(), network)
    with jax.disable_jit():
        plain = send_thrice(case.make(), network)
    world.close(compiled, plain)


@every_channel
def test_draws_belong_to_node_ids(case: ChannelCase) -> None:
    order = np.asarray(world.ORDER)
    plain, network = mix_thrice(case.make(), world.uneven())
    moved, relabelled = mix_thrice(case.make(), world.uneven().relabel(order))
    for before, after in zip(plain, moved, strict=True):
        world.close(jax.tree.map(lambda leaf: leaf[order], before), after)
    for a, b in ((network, relabelled),):
        np.testing.assert_array_equal(
            counters.to_float(a.state.traffic.bits)[order], counters.to_float(b.state.traffic.bits)
        )


@every_channel
def test_vectorised_runs_equal_single_runs(case: ChannelCase) -> None:
    network = world.uneven()
    channel = case.make()
    state = channel.init(message(network), world.NUM_NODES)

    def once(seed: jax.Array) -> tuple[PyTree, Packet]:
        return channel.send(jax.random.key(seed), state, packet(network), route(network))

    together = jax.vmap(once)(jnp.arange(2))
    for row in range(2):
        world.close(jax.tree.map(lambda leaf, row=row: leaf[row], together), once(jnp.asarray(row)))


@every_channel
def test_absent_senders_keep_their_state(case: ChannelCase) -> None:
    _, network = mix_thrice(case.make(), world.uneven())
    away = ~jnp.isin(network.node_ids, jnp.asarray(world.ABSENT))
    _, after = network.replace(is_present=away).mix(KEY, message(network, 7))
    before, after = (world.node_rows(n.state.channels, world.ABSENT) for n in (network, after))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@every_channel
def test_the_unit_changes_nothing(case: ChannelCase) -> None:
    """chain(c, unit) and chain(unit, c) are c, with the key of c's place."""
    network = world.uneven()
    for place, parts in (
        (0, (case.make(), networks.perfect_channel())),
        (1, (networks.perfect_channel(), case.make())),
    ):
        state, packets, channel = None, [], case.make()
        state = channel.init(message(network), world.NUM_NODES)
        for t in range(3):
            key = keys.stream(jax.random.fold_in(KEY, t), f"part {place}")
            state, out = jax.jit(channel.send)(key, state, packet(network, t), route(network))
            packets.append(out)
        chained_state, chained = send_thrice(networks.chain(*parts), network)
        world.same(packets, chained)
        world.same(state, chained_state[place])


def draws(channel: Channel, network: Network) -> bool:
    """Whether the key matters."""
    one, other = (jax.tree.leaves(send_thrice(channel, network, jax.random.key(seed))[1]) for seed in (5, 6))
    return any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every_channel
def test_streams_of_one_round_draw_apart(case: ChannelCase) -> None:
    network = world.uneven().with_channel(case.make())

    def trace(probed: Network) -> list[PyTree]:
        return [probed.send(KEY, message(network), stream=name)[0].values for name in ("one", "other")]

    network = open_channels(network, trace)
    one, other = (network.send(KEY, message(network), stream=name)[0] for name in ("one", "other"))
    differ = any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    assert differ == draws(case.make(), world.uneven())


@every_channel
def test_chains_are_associative(case: ChannelCase) -> None:
    """Up to the draws, whose keys follow the places: a row that draws nothing gives the same bits either way."""
    network, first = world.uneven(), world.halving
    left = networks.chain(networks.chain(case.make(), first()), networks.sign())
    right = networks.chain(case.make(), networks.chain(first(), networks.sign()))
    _, a = send_thrice(left, network)
    _, b = send_thrice(right, network)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.bits_per_entry, y.bits_per_entry)
        assert (x.delivered is None) == (y.delivered is None)
    if not draws(case.make(), network):
        world.same(a, b)


@every_channel
def test_messages_of_a_server_pass_too(case: ChannelCase) -> None:
    network = world.uneven().with_channel(case.make())
    model = {"b": jnp.arange(5.0), "w": jnp.ones((2, 3))}

    def exchange(current: Network) -> tuple[PyTree, Network]:
        down, current = current.downlink(KEY, model)
        up, current = current.uplink(KEY, down.values)
        return (down, up), current

    network = open_channels(network, lambda probed: exchange(probed)[0])
    (down, up), after = exchange(network)
    assert down.values["w"].shape == up.values["w"].shape == (world.NUM_NODES, 2, 3)
    assert down.mask.shape == up.mask.shape == (world.NUM_NODES,)
    assert bool(down.mask.all()) != case.loses or bool(up.mask.all()) != case.loses
    traffic = after.state.traffic
    assert counters.to_float(traffic.server_bits) > 0
    assert (counters.to_float(traffic.bits) > 0).all()


def test_chain_refuses_a_mixture() -> None:
    with pytest.raises(ValueError, match="chain: parts must be all channels or all scenarios, got Channel, Scenario"):
        networks.chain(networks.perfect_channel(), networks.no_scenario())
    with pytest.raises(ValueError, match="chain: parts must be all channels or all scenarios, got nothing"):
        networks.chain()
    one = networks.perfect_channel()
    assert networks.chain(one) is one
