"""What it costs to bring nodes up to date, in one piece and not by messages of a round."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

from dlsim.core import Array
from dlsim.networks.fields import NetworkFields
from dlsim.networks.pace import seconds
from dlsim.running import counters

Fields = TypeVar("Fields", bound=NetworkFields)


def count_downloads(
    network: Fields, key: Array, receivers: Array, bits: counters.Counter, source: Array, from_server: Array
) -> Fields:
    """The network after nodes fetched what they lack: reliably and as it is, so that no channel touches it.

    Args:
      network: whose traffic and clock move on.
      key: of what the links draw.
      receivers: bool `[N]`, who fetches.
      bits: what each of them fetches, `[N]`; that of the others does not count.
      source: the position of the node that all fetch from, int `[]`.
      from_server: bool `[]`; True: from a server instead, and no node sends.

    Bits are counted at the source.  Seconds are those of one round of messages: the source pushes one copy after the other.
    """
    bits = jax.tree.map(lambda word: jnp.where(receivers, word, jnp.uint32(0)), bits)
    copies, sent = jnp.sum(receivers, dtype=jnp.uint32), counters.total(bits)

    def where(condition: Array, count: counters.Counter) -> counters.Counter:
        return jax.tree.map(lambda word: jnp.where(condition, word, jnp.uint32(0)), count)

    sends = (jnp.arange(network.num_nodes) == source) & ~from_server
    if network.links is not None:
        sizes = counters.as_float(bits)
        by_peer = seconds.between(network, key, "downloads", jnp.where(sends, jnp.sum(sizes), 0), sizes).state
        by_server = seconds.from_server(network, key, "downloads", sizes, None).state
        network = network.with_state(jax.tree.map(lambda a, b: jnp.where(from_server, a, b), by_server, by_peer))
    traffic = network.state.traffic
    one = counters.from_words(copies)
    traffic = traffic._replace(
        messages=counters.add(traffic.messages, where(sends, one)),
        bits=counters.add(traffic.bits, where(sends, sent)),
        server_messages=counters.add(traffic.server_messages, where(from_server, one)),
        server_bits=counters.add(traffic.server_bits, where(from_server, sent)),
    )
    return network.with_state(network.state._replace(traffic=traffic))
