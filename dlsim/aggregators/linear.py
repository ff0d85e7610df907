"""Rules that need weighted means alone, and how a node comes by what its rule asks for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import keys, trees
from dlsim.aggregators.candidates import no_state, weighted_sum
from dlsim.core import Aggregator, Array, LinearRule, Packet, PyTree
from dlsim.networks import messages
from dlsim.networks.flight.combining import Hearing, inbox_of, listen
from dlsim.networks.network import Inbox, Network
from dlsim.problems.blocks import map_nodes
from dlsim.running.meshes import num_parts


def linear_rule(reduce: Any, finish: Any, source: str = "") -> Aggregator:
    """A rule of the means over what a node hears, of the values and of a few numbers of each; see `dlsim.core.LinearRule`.

        mixed = own + sum_k w_k (heard_k - own),   of values and of reduce(values) alike
        aggregated = finish((own, reduce(own)), (mixed, mixed numbers), sum_k w_k)

    with the network's weights.  Where messages are gathered it is computed of them; `aggregate` gathers none: one product
    for the values, and one for the numbers, which are taken of what was on the air and not sent.
    """

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        mine = (own, reduce(own))
        heard = (inbox.values, jax.vmap(reduce, 1, 1)(inbox.values))
        difference = jax.tree.map(lambda v, o: v - o[:, None], heard, mine)
        mixed = jax.tree.map(jnp.add, mine, weighted_sum(inbox.weights, difference))
        return state, finish(mine, mixed, jnp.sum(inbox.weights, axis=1))

    return Aggregator(init=no_state, apply=apply, source=source, linear=LinearRule(reduce, finish))


def initial_state(aggregator: Aggregator | None, params: PyTree) -> PyTree:
    """The state of a rule, or of none, for the mix."""
    return () if aggregator is None else aggregator.init(params)


def aggregate(
    network: Network,
    key: Array,
    aggregator: Aggregator | None,
    state: PyTree,
    own: PyTree,
    *,
    num_steps: int = 1,
    stream: str | None = None,
) -> tuple[PyTree, PyTree, Network]:
    """Every node sends its row to its neighbours and makes one value of what it hears: `(state, values, network)`.

    Without a rule it is the network's mix; a linear rule has the cost of the mix, any other holds the messages,
    `[N, K, ...]`.  `num_steps` = Q > 1 repeats it, every time a message of its own: of the mix, x <- W^Q x.  Absent nodes
    keep what they have.  `stream` names the messages; by default `"mix"`, or `"gather"` where they are held.
    """
    state, values, network = _once(network, key, aggregator, state, own, stream)
    if num_steps == 1:
        return state, values, network

    # The first one stands outside: it may open the stream's state.
    def again(carry: tuple[PyTree, PyTree, Any], step: Array) -> tuple[tuple[PyTree, PyTree, Any], None]:
        state, values, spent = carry
        one_more = keys.fold_in(keys.stream(key, "gossip steps"), step)
        state, values, after = _once(network.with_state(spent), one_more, aggregator, state, values, stream)
        return (state, values, after.state), None

    start = (state, values, network.state)
    (state, values, spent), _ = jax.lax.scan(again, start, jnp.arange(1, num_steps))
    return state, values, network.with_state(spent)


def _once(
    network: Network, key: Array, aggregator: Aggregator | None, state: PyTree, own: PyTree, stream: str | None
) -> tuple[PyTree, PyTree, Network]:
    if aggregator is None:
        values, network = network.mix(key, own, stream=stream or "mix")
        new = state
    elif aggregator.linear is not None:
        values, network = _by_means(network, key, aggregator.linear, own, stream or "mix")
        new = state
    else:
        if aggregator.ask is not None:
            state, network = aggregator.ask(keys.stream(key, "ask"), state, network)
        new, values, network = _by_messages(network, key, aggregator, state, own, stream or "gather")
    return trees.select(network.is_present, new, state), trees.select(network.is_present, values, own), network


def _by_messages(
    network: Network, key: Array, rule: Aggregator, state: PyTree, own: PyTree, stream: str
) -> tuple[PyTree, PyTree, Network]:
    """Receivers take what they hear block by block, so that the messages of one block are all that is ever held."""
    rows, hearing, network = listen(network, key, own, stream)

    def of_block(state: PyTree, own: PyTree, hearing: Hearing) -> tuple[PyTree, PyTree]:
        made: tuple[PyTree, PyTree] = rule.apply(keys.stream(key, "aggregate"), state, own, inbox_of(rows, hearing))
        return made

    if rule.is_whole or num_parts() > 1:
        state, values = of_block(state, own, hearing)
    else:
        state, values = map_nodes(of_block)(state, own, hearing)
    return state, values, network


def _by_means(network: Network, key: Array, rule: LinearRule, own: PyTree, stream: str) -> tuple[PyTree, Network]:
    packet, network = messages.send(network, key, own, stream)
    mine = (own, rule.reduce(own))
    mixed = network.combine(packet, own)
    numbers = mine[1]
    if jax.tree.leaves(numbers):
        numbers = network.combine(reduced(packet, rule.reduce), numbers)
    # Against zero the product of ones is the weight of what was heard.
    ones = reduced(packet, lambda values: jnp.ones_like(jax.tree.leaves(values)[0], shape=_rows(values)))
    share = network.combine(ones, jnp.zeros(network.num_nodes))
    return rule.finish(mine, (mixed, numbers), share), network


def _rows(values: PyTree) -> tuple[int]:
    return (jax.tree.leaves(values)[0].shape[0],)


def reduced(packet: Packet, reduce: Any) -> Packet:
    """The packet with a few numbers in place of every message, those under way included."""
    heard, told = packet.heard, packet.told
    if heard is not None:
        heard = heard._replace(values=jax.vmap(reduce, 1, 1)(heard.values))
    if told is not None:
        told = told._replace(values=reduce(told.values))
    return packet._replace(values=reduce(packet.values), heard=heard, told=told)
