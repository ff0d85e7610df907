"""Nodes that lie: a channel that rewrites what some of the nodes say."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.channels.bits import PLAIN
from dlsim.core import Array, Channel, Packet, Route

ATTACKS = ("sign_flip", "noise", "alie", "zero")


def byzantine(node_ids: Any, attack: str = "sign_flip", strength: Any = 1.0) -> Channel:
    """What these nodes say is replaced, to everyone alike, on its way; what they hold and compute is honest.

    With x_i the message of liar i, mu and sigma the mean and the standard deviation, entry by entry, of what the honest
    nodes say in this exchange, and s the strength:

        sign_flip   -s x_i
        noise       s z, z standard normal, drawn anew for each liar and step
        alie        mu - s sigma: hides within the honest nodes' spread (A Little Is Enough)
        zero        0

    Put it first in a `chain`, so that lies are compressed like anything else.  Integers in a message stay.  Where one
    message is passed at a time (asynchronous methods), `alie` knows no others and says what it hears: nothing changes.

    Args:
      node_ids: who lies; positions in the network as it was built.
      attack: one of the above.
      strength: s >= 0, traced.
    Source: Li, Xu, Chen, Giannakis, Ling, RSA, AAAI 2019 (sign_flip, noise); Baruch, Baruch, Goldberg, A little is
      enough, NeurIPS 2019 (alie).
    """
    where = "byzantine"
    checks.known(where, "node_ids", node_ids, "known while tracing", "Sweep it as structure.")
    liars = np.unique(checks.array(where, "node_ids", node_ids))
    is_id = liars.size > 0 and np.issubdtype(liars.dtype, np.integer)
    if not is_id or liars[0] < 0 or liars[-1] > checks.LARGEST_INTEGER:
        checks.fail(where, "node_ids", "one or more node ids >= 0, below 2^31", checks.describe(node_ids))
    checks.one_of(where, "attack", attack, ATTACKS)
    checks.number(where, "strength", strength, 0.0)

    def lies(key: Array, flat: Array, honest: Array, route: Route) -> Array:
        if attack == "sign_flip":
            return -strength * flat
        if attack == "zero":
            return jnp.zeros_like(flat)
        if attack == "noise":
            return (strength * keys.node_normal(key, route.node_ids, flat.shape[1])).astype(flat.dtype)
        count = jnp.sum(honest)
        mean = jnp.sum(jnp.where(honest, flat, 0), axis=0) / jnp.maximum(count, 1)
        spread = jnp.sqrt(jnp.sum(jnp.where(honest, jnp.square(flat - mean), 0), axis=0) / jnp.maximum(count, 1))
        return jnp.where(count > 0, jnp.broadcast_to(mean - strength * spread, flat.shape), flat)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        is_liar = jnp.isin(route.node_ids, liars)[:, None]
        flat, unravel = trees.ravel(packet.values)
        said = jnp.where(is_liar, lies(keys.stream(key, "lies"), flat, ~is_liar, route).astype(flat.dtype), flat)
        return state, packet._replace(values=unravel(said), beside=(*packet.beside, ()))

    source = "Baruch et al., NeurIPS 2019" if attack == "alie" else "Li et al., AAAI 2019"
    return Channel(init=lambda message, num_senders: (), send=send, source=source, codec=(PLAIN,))
