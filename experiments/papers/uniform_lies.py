"""What liars say in papers 08 and 22: numbers drawn uniformly from an interval, anew for each liar and message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from dlsim import keys, trees
from dlsim.channels.bits import PLAIN
from dlsim.core import Array, Channel, Packet, Route


def uniform_lies(liars: Sequence[int], low: float, high: float) -> Channel:
    """Every entry of what these nodes say is drawn from [low, high) in place of what it is."""

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        flat, unravel = trees.ravel(packet.values)
        drawn = keys.node_uniform(keys.stream(key, "uniform lies"), route.node_ids, flat.shape[1])
        is_liar = jnp.isin(route.node_ids, jnp.asarray(liars))[:, None]
        said: Any = jnp.where(is_liar, low + (high - low) * drawn, flat)
        return state, packet._replace(values=unravel(said), beside=(*packet.beside, ()))

    return Channel(init=lambda message, num_senders: (), send=send, codec=(PLAIN,))
