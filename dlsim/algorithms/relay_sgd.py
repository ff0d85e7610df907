"""RelaySGD: exact averaging over a tree, delayed by the distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.edge_messages import reverse_edges, send_edges, sum_at_receivers
from dlsim.networks.network import Network, host_graph

if TYPE_CHECKING:
    import optax


class RelaySGDState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]
    heard: PyTree  # [E, ...] the message of the last round over each edge: a sum of models
    counts: Array  # float [E] how many models are in it


def relay_sgd(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    weighting: str = "uniform",
) -> Algorithm:
    """RelaySGD: sums of models are relayed along a tree, so that each node's model reaches each other node once.

        y_i        = x_i + u(g_i(x_i))                              K local steps
        m_{i->j}  <- y_i + sum_{k in N(i) \\ j} m_{k->i}             with the messages of the round before
        c_{i->j}  <- 1   + sum_{k in N(i) \\ j} c_{k->i}
        x_i       <- (y_i + sum_j m_{j->i}) / (1 + sum_j c_{j->i})

    from m = c = 0.  Once a message has crossed the tree every x_i is the mean over all nodes j of y_j as it was
    dist(i, j) - 1 rounds ago (0 for itself): uniform weights, whatever the tree's spectral gap.

    Args:
      problem: what the nodes learn.
      optimizer: the local optimiser; floats may be traced.
      num_local_steps: K, structural.
      num_local_epochs: E, in place of K: a node goes E times through its own data, see `local_updates`; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Assumes: an undirected tree (path, star, binary tree); mixing weights are not used.
      What is not heard in a round (the message is lost, the link down, the neighbour absent) counts for nothing: it is
      left out of the sum, of its count and of what is relayed next, so that a node that is gone for good is forgotten
      and the others go on.  Absent nodes keep their state.
    Cost per round: K gradients and one message of D + 1 numbers a neighbour, a different one each; state (1 + 2) D a
      node on average.
    Source: Vogels, He, Koloskova, Lin, Karimireddy, Stich and Jaggi, RelaySum for decentralized deep learning on
      heterogeneous data, NeurIPS 2021, Algorithm 1: the mean over the models counted, in the first rounds and where
      messages are missing.  Differs from the authors' program, which by default fills up to N models with the initial one.
    """
    problem = weighted("relay_sgd", problem, weighting)
    local = local_updates(problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, where="relay_sgd")

    def init(key: Array, params: PyTree, network: Network) -> RelaySGDState:
        del key
        num_links = host_graph(network).num_edges // 2
        if network.is_implicit or num_links != network.num_nodes - 1:
            got = f"{network.num_nodes} nodes and {num_links} links"
            checks.fail("relay_sgd", "network", "an undirected tree", got, "Use path, star or binary_tree.")
        heard = jax.tree.map(lambda leaf: jnp.zeros((network.num_edges, *leaf.shape[1:]), leaf.dtype), params)
        return RelaySGDState(params, local.init(params), heard, jnp.zeros(network.num_edges))

    def step(key: Array, state: RelaySGDState, network: Network) -> tuple[RelaySGDState, Network, Info]:
        adapted, optimizer_state, info = local.run(
            key, state.params, state.optimizer_state, network.node_ids, network.trainers
        )
        back = reverse_edges(network)

        def relay(own: Array, heard: Array) -> Array:
            # All that i heard but what came from j itself, over the edge i -> j.
            return (own + sum_at_receivers(network, heard))[network.senders] - heard[back]

        ones = jnp.ones(network.num_nodes)
        message = (jax.tree.map(relay, adapted, state.heard), relay(ones, state.counts))
        arrival, network = send_edges(network, key, message)
        there = None if network.is_present is None else network.is_present[network.receivers]
        silence = trees.select(there, trees.zeros_like(message), (state.heard, state.counts))
        heard, counts = trees.select(arrival.mask, arrival.values, silence)
        total = trees.add(adapted, sum_at_receivers(network, heard))
        params = trees.scale(1 / (ones + sum_at_receivers(network, counts)), total)
        params = trees.select(network.is_present, params, state.params)
        return RelaySGDState(params, optimizer_state, heard, counts), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"fixed_topology", "connected", "undirected"}),
        source="Vogels et al., NeurIPS 2021",
        lets_relay=True,
    )
