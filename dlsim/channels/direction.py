"""A channel one way only."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.core import SERVER, Array, Channel, Packet, PyTree, Route


def to_server(channel: Channel) -> Channel:
    """What nodes say passes the channel, what a server says is left as it is, in full.

    For methods that compress the clients' updates and send the model whole.  Between nodes it is the channel itself.
    """
    checks.instance("to_server", "channel", channel, Channel)

    def send(key: Array, state: PyTree, packet: Packet, route: Route) -> tuple[PyTree, Packet]:
        is_server = route.node_ids == SERVER
        new, out = channel.send(key, state, packet, route)

        def choose(plain: Any, changed: Any) -> Any:
            return trees.select(is_server, plain, changed)

        sent, delivered = out.is_sent, out.delivered
        if sent is not None:
            before = jnp.ones_like(sent) if packet.is_sent is None else packet.is_sent
            sent = choose(before, sent)
        if delivered is not None:
            plain = jnp.ones_like(delivered) if packet.delivered is None else packet.delivered
            delivered = jnp.where(route.senders == SERVER, plain, delivered)
        # Codecs of compressors for nodes alone say so themselves.
        sides = list(out.beside)
        for place, part in enumerate(channel.codec or (), start=len(packet.beside)):
            sides[place] = sides[place] if part.nodes_only else (~is_server, sides[place])
        return choose(state, new), out._replace(
            beside=tuple(sides),
            values=choose(packet.values, out.values),
            num_entries=choose(packet.num_entries, out.num_entries),
            bits_per_entry=choose(packet.bits_per_entry, out.bits_per_entry),
            extra_bits=choose(packet.extra_bits, out.extra_bits),
            delivered=delivered,
            is_sent=sent,
        )

    codec = None if channel.codec is None else tuple(part._replace(nodes_only=True) for part in channel.codec)
    return Channel(init=channel.init, send=send, source=channel.source, codec=codec, needs=channel.needs)
