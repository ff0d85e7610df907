"""Channels that lose messages or add noise to them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.channels import draws
from dlsim.channels.bits import PLAIN
from dlsim.channels.packets import pieces, stateless
from dlsim.core import Array, Channel, Packet, Route


def loss(probability: Any) -> Channel:
    """Every transmission is lost with `probability` (traced), independently; its sender has paid for it.

    The draw belongs to (step, sender, receiver).  What a lost message means to mixing is said at `Network`.
    """
    checks.probability("loss", "probability", probability)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        arrives = keys.edge_uniform(key, route.senders, route.receivers) >= probability
        delivered = arrives if packet.delivered is None else packet.delivered & arrives
        return state, packet._replace(delivered=delivered)

    return Channel(init=stateless, send=send, codec=())


def gaussian_noise(standard_deviation: Any) -> Channel:
    """Independent Gaussian noise on every number sent; `standard_deviation` >= 0, traced."""
    checks.number("gaussian_noise", "standard_deviation", standard_deviation, 0.0)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        leaves, rebuild = pieces(packet.values)
        noisy = []
        for piece in leaves:
            noise = standard_deviation * piece.draw(draws.normal, key, route.node_ids)
            noisy.append(piece.numbers + jnp.where(piece.is_sent(packet), noise, 0))
        return state, packet._replace(values=rebuild(noisy), beside=(*packet.beside, ()))

    return Channel(init=stateless, send=send, codec=(PLAIN,))
