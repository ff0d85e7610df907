"""Randomised pairwise gossip: averaging without rounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, EventAlgorithm, Info, PyTree
from dlsim.networks.network import Network


class GossipState(NamedTuple):
    params: PyTree  # [N, ...]


def randomized_gossip(*, step_size: Any = 0.5) -> EventAlgorithm:
    """Two linked nodes meet when the clock of their edge ticks, and move towards each other.

        x_i <- x_i + a (x_j - x_i),   x_j <- x_j + a (x_i - x_j)

    With a = 1/2 they leave with their average.  With edge rates r_ij the expected distance to consensus falls by the
    second eigenvalue of the expected mixing matrix: E ||x - mean||^2 decays at least at the rate
    2 a (1 - a) lambda_2(L) a second, L the Laplacian whose weights are the rates r_ij.

    Where messages take time (`dlsim.networks.fixed_seconds`) a meeting is two messages, x_i and x_j as they are then, and
    each node moves when it hears: nodes agree still, but the sum is not kept, and they agree on a weighted mean.

    They average what they start with: `dlsim.average(values, network, randomized_gossip())`.

    Args:
      step_size: a in (0, 1); may be traced.

    Cost of an event: two messages of D numbers.  Nodes compute no gradients.
    Source: Boyd, Ghosh, Prabhakar, Shah, Randomized gossip algorithms, IEEE Transactions on Information Theory 2006.
    """
    checks.number("randomized_gossip", "step_size", step_size, 0.0, 1.0, open_minimum=True)

    def init(key: Array, params: PyTree, network: Network) -> GossipState:
        del key, network
        return GossipState(params)

    def on_message(keys: Array, rows: GossipState, heard: PyTree, node_ids: Array) -> tuple[GossipState, Info]:
        del keys, node_ids
        return GossipState(towards(rows.params, heard, step_size)), {}

    return EventAlgorithm(
        init=init,
        on_message=on_message,
        trains=False,
        requires=frozenset({"undirected", "connected"}),
        source="Boyd et al., IEEE Transactions on Information Theory 2006",
        lets_relay=True,
    )


def towards(own: PyTree, other: PyTree, share: Any) -> PyTree:
    """own + share (other - own), leaf by leaf: nodes that agree stay where they are.

    A half that is known when the program is made is (own + other) / 2: the same bits at both ends, computed once.
    """
    if checks.is_concrete(share) and float(share) == 0.5:
        return jax.tree.map(lambda x, y: (x + y) * jnp.asarray(0.5, x.dtype), own, other)
    return jax.tree.map(lambda x, y: x + jnp.asarray(share, x.dtype) * (y - x), own, other)
