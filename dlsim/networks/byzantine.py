"""Nodes that lie: a channel that rewrites what some of the nodes say."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.channels.bits import PLAIN
from dlsim.core import Array, Channel, Packet, Route
from dlsim.networks.attacks import ATTACKS


def byzantine(node_ids: Any, attack: str = "sign_flip", strength: Any = 1.0) -> Channel:
    """What these nodes say is replaced, to everyone alike, on its way; what they hold and compute is honest.

    With x_i the message of liar i, mu and sigma the mean and the standard deviation, entry by entry, of what the honest
    nodes say in this exchange, and s the strength:

        sign_flip   -s x_i
        noise       s z, z standard normal, drawn anew for each liar and step
        alie        mu - s sigma: hides within the honest nodes' spread (A Little Is Enough)
        zero        0
        constant    s in every entry
        inner_product   -s mu: against the mean's direction (inner product manipulation; Fall of Empires for a small s)
        mimic       the message of the first honest node, so that its data count more than the others'
        echo        the mean of what the liars would say: one adversary with many names (see `join_sybils`)
        min_max     mu - s g sigma with the largest g that leaves it no farther from any honest message than two of those
                    are from each other
        min_sum     the same, with the sum of squared distances to all honest messages in place of the distance

    Put it first in a `chain`, so that lies are compressed like anything else.  Integers in a message stay.  Where one
    message is passed at a time (asynchronous methods), `alie` and those below `constant` know no others: nothing changes.

    Args:
      node_ids: who lies; positions in the network as it was built.
      attack: one of the above.
      strength: s >= 0, traced; `alie_strength` says the paper's for `alie`.
    Source: Li, Xu, Chen, Giannakis, Ling, RSA, AAAI 2019 (sign_flip, noise, constant); Baruch, Baruch, Goldberg, A little
      is enough, NeurIPS 2019 (alie); Xie, Koyejo, Gupta, Fall of empires, UAI 2020 (inner_product); Karimireddy, He, Jaggi,
      Byzantine-robust learning on heterogeneous datasets via bucketing, ICLR 2022 (mimic, whose victim there is the one
      that differs most); Werthenbach, Pouwelse, Towards Sybil resilience in decentralized learning, 2023 (echo);
      Shejwalkar, Houmansadr, Manipulating the Byzantine, NDSS 2021 (min_max, min_sum, along minus the standard deviation).
    """
    where = "byzantine"
    checks.known(where, "node_ids", node_ids, "known while tracing", "Sweep it as structure.")
    liars = np.unique(checks.array(where, "node_ids", node_ids))
    is_id = liars.size > 0 and np.issubdtype(liars.dtype, np.integer)
    if not is_id or liars[0] < 0 or liars[-1] > checks.LARGEST_INTEGER:
        checks.fail(where, "node_ids", "one or more node ids >= 0, below 2^31", checks.describe(node_ids))
    checks.one_of(where, "attack", attack, ATTACKS)
    checks.number(where, "strength", strength, 0.0)
    lie = ATTACKS[attack]

    def lies(key: Array, flat: Array, honest: Array, route: Route) -> Array:
        said = lie.lie(key, flat, honest, route, strength)
        if lie.knows_others:
            said = jnp.where(jnp.any(honest), said, flat)
        return jnp.broadcast_to(said, flat.shape)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        is_liar = jnp.isin(route.node_ids, liars)[:, None]
        flat, unravel = trees.ravel(packet.values)
        said = jnp.where(is_liar, lies(keys.stream(key, "lies"), flat, ~is_liar[:, 0], route).astype(flat.dtype), flat)
        return state, packet._replace(values=unravel(said), beside=(*packet.beside, ()))

    return Channel(init=lambda message, num_senders: (), send=send, source=lie.source, codec=(PLAIN,))


@checks.typed
def alie_strength(num_nodes: int, num_liars: int) -> float:
    """The largest strength of `byzantine(attack="alie")` that a majority still takes for honest.

        z = F^-1((n - f - s) / (n - f)),   s = floor(n / 2 + 1) - f

    with F the standard normal distribution: s honest ones must lie farther out for the liars to be in a majority.

    Args:
      num_nodes: n >= 3, all that a receiver hears, liars too.
      num_liars: f >= 1, fewer than half.
    Source: Baruch, Baruch and Goldberg, A little is enough, NeurIPS 2019, Algorithm 3.
    """
    from scipy.stats import norm

    where = "alie_strength"
    checks.integer(where, "num_nodes", num_nodes, 3)
    checks.integer(where, "num_liars", num_liars, 1, (num_nodes - 1) // 2)
    honest, farther_out = num_nodes - num_liars, num_nodes // 2 + 1 - num_liars
    return float(norm.ppf((honest - farther_out) / honest))
