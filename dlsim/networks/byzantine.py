"""Nodes that lie: a channel that rewrites what some of the nodes say."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.channels.bits import PLAIN
from dlsim.channels.packets import stateless
from dlsim.core import Array, Channel, Packet, Route
from dlsim.networks.attacks import ATTACKS
from dlsim.networks.fields import Told


def byzantine(node_ids: Any, attack: str = "sign_flip", strength: Any = 1.0) -> Channel:
    """What these nodes say is replaced on its way; what they hold and compute is honest.

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
        replacement     mu + s (x_i - mu): with s the number of those that are averaged alike, and others that agree, their
                    mean becomes x_i (model replacement; a boosted update where updates are sent)
        added_noise     x_i + s z: with `dlsim.problems.free_riders` the disguise of those who do no work

    To everyone alike, but for two, of which the liars agree on what they tell each receiver r:

        two_faced   mu - s sigma to receivers of even id, mu + s sigma to those of odd id
        dissensus   x_r - s sum_k w_rk (x_k - x_r) / sum_l w_rl over the honest k and the liars l that r hears: for s = 1
                    gossip leaves r where it is, beyond it r goes away from its neighbours

    Put it first in a `chain`, so that lies are compressed like anything else; `two_faced` and `dissensus` come last.
    Integers in a message stay.  `alie`, `inner_product` to `replacement` but for `echo`, and the last two need to know what
    the others say in the same exchange, and `learn` refuses them for asynchronous methods, where one message is passed at a
    time.
    `dissensus` and `two_faced` also need to know whom a receiver hears: they are refused where messages go to a server, take
    rounds, or are taken for what everybody hears (`Network.send`, as CHOCO-SGD's public copies are).

    Args:
      node_ids: who lies; positions in the network as it was built.
      attack: one of the above.
      strength: s >= 0, traced; `alie_strength` says the paper's for `alie`.
    Source: Li, Xu, Chen, Giannakis, Ling, RSA, AAAI 2019 (sign_flip, noise, constant); Baruch, Baruch, Goldberg, A little
      is enough, NeurIPS 2019 (alie); Xie, Koyejo, Gupta, Fall of empires, UAI 2020 (inner_product); Karimireddy, He, Jaggi,
      Byzantine-robust learning on heterogeneous datasets via bucketing, ICLR 2022 (mimic, whose victim there is the one
      that differs most); Werthenbach, Pouwelse, Towards Sybil resilience in decentralized learning, 2023 (echo);
      Shejwalkar, Houmansadr, Manipulating the Byzantine, NDSS 2021 (min_max, min_sum, along minus the standard deviation);
      Bagdasaryan, Veit, Hua, Estrin, Shmatikov, How to backdoor federated learning, AISTATS 2020
      (replacement, whose mu there is the global model); Fraboni, Vidal, Lorenzi, Free-rider attacks on model aggregation in
      federated learning, AISTATS 2021 (added_noise); Lamport, Shostak, Pease, The Byzantine generals problem, TOPLAS 1982
      (two_faced, here with the spread of alie); He, Karimireddy, Jaggi, Byzantine-robust decentralized learning via
      ClippedGossip, 2022 (dissensus).
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
        if lie.to_each:
            if route.edges is None:
                rule = "one that says the same to all where it cannot know whom a receiver hears"
                fix = "Use a method that mixes or gathers without delays, over a network that lists its edges."
                checks.fail(where, "attack", rule, repr(attack), fix)
            told = unravel(lies(keys.stream(key, "lies"), flat, ~is_liar[:, 0], route).astype(flat.dtype))
            is_told = jnp.isin(route.senders, liars)
            return state, packet._replace(told=Told(told, is_told))
        said = jnp.where(is_liar, lies(keys.stream(key, "lies"), flat, ~is_liar[:, 0], route).astype(flat.dtype), flat)
        return state, packet._replace(values=unravel(said), beside=(*packet.beside, ()))

    codec = None if lie.to_each else (PLAIN,)
    return Channel(init=stateless, send=send, source=lie.source, codec=codec, needs=lie.needs)


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
