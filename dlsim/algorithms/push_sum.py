"""Push-sum averaging: the mean over directed graphs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import trees
from dlsim.algorithms.stochastic_gradient_push import push_weights
from dlsim.core import Algorithm, Array, Info, PyTree
from dlsim.networks.network import Network


class PushSumState(NamedTuple):
    biased: PyTree  # [N, ...] x_i, what is pushed
    push_weight: Array  # [N] w_i


def push_sum() -> Algorithm:
    """Sums and weights are pushed along the edges, and their ratio is what a node holds:

        x_i <- sum_j P_ij x_j,   w_i <- sum_j P_ij w_j   from w = 1,      z_i = x_i / w_i

    Columns of P sum to one, so the sums of x and of w stay, and z converges to the mean of what the nodes start with on
    any strongly connected graph, directed or not.  With doubly stochastic weights w stays 1 and this is `gossip`.  Nodes
    compute no gradients: they average what they start with (`dlsim.average`, `dlsim.problems.consensus`).

    Cost per round: one message of D + 1 numbers a neighbour.
    Assumes: strongly connected network with column-stochastic weights.  Absent nodes keep x and w, and senders keep what
      they cannot push.  A message lost on its way takes its mass along where only columns sum to one, and the nodes agree
      on another number than the mean (`distance_of_mean` says how far away).
    Source: Kempe, Dobra and Gehrke, Gossip-based computation of aggregate information, FOCS 2003, with weights in place
      of one random receiver; Benezit, Blondel, Thiran, Tsitsiklis and Vetterli, Weighted gossip, ISIT 2010.
    """

    def init(key: Array, params: PyTree, network: Network) -> PushSumState:
        del key
        dtype = jnp.promote_types(jnp.float32, jax.tree.leaves(params)[0].dtype)
        return PushSumState(params, jnp.ones(network.num_nodes, dtype))

    def step(key: Array, state: PushSumState, network: Network) -> tuple[PushSumState, Network, Info]:
        (biased, push_weight), network = network.mix(
            key, (state.biased, state.push_weight), weights=push_weights(network), hear="all"
        )
        new = trees.select(network.is_present, PushSumState(biased, push_weight), state)
        return new, network, {}

    return Algorithm(
        init=init,
        step=step,
        params=ratio,
        requires=frozenset({"connected", "column_stochastic"}),
        source="Kempe, Dobra and Gehrke, FOCS 2003; Benezit et al., ISIT 2010",
        lets_relay=True,
    )


def ratio(state: PushSumState) -> PyTree:
    """z_i = x_i / w_i, what the nodes hold, `[N, ...]`."""
    return trees.scale(1 / state.push_weight, state.biased)
