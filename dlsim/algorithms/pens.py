"""PENS: nodes find out whose models do well on their own data, and then gossip with those alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.token_account import uniform
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.messages import both
from dlsim.networks.network import Network
from dlsim.problems.own_data import own_losses

if TYPE_CHECKING:
    import optax


class PENSState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]
    heard: Array  # uint32 [E] how often the receiver of a link heard its sender while it selected
    chosen: Array  # uint32 [E] how often that model was among the best
    round: Array  # int32 []


@checks.typed
def pens(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_sampled: int = 10,
    num_best: int = 2,
    selection_rounds: int = 100,
    num_partners: int = 1,
    num_local_steps: int = 1,
) -> Algorithm:
    """Performance-based neighbour selection.

        rounds 1, ..., T:   i hears n neighbours drawn at random, and takes for B the m whose models lose least on its data
        rounds after T:     i hears p drawn among its own neighbours, those that were among the best more often than by
                            chance, chosen_ij / heard_ij > m / n (all, where there are none), and takes them for B
        always:             x_i <- K optimiser steps from (x_i + sum over B of x_j) / (1 + |B|)

    with n = `num_sampled`, m = `num_best`, T = `selection_rounds`, p = `num_partners`, K = `num_local_steps`.  Nodes whose
    data are drawn alike find each other; where all are, it is gossip with fewer messages after T.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own, its state stays at the node; floats may be traced.
      num_sampled: n, structural; nodes of fewer neighbours hear them all.
      num_best: m <= n, structural.
      selection_rounds: T, at least 1; structural.
      num_partners: p, structural.
      num_local_steps: K, structural.

    Returns:
      Algorithm whose state holds models and optimiser states of all nodes, and two counts a directed link.
    Cost per round: K gradients; n messages of D numbers to hear and n losses over all of a node's own data (p messages and
      none after T).  Losses are not counted among gradient evaluations.  On the standard workload (100 nodes, n = 4, a CPU)
      a round takes 5 times one of D-SGD while it selects, for 240 examples judged a node beside a gradient of 32, and 1.5
      times after T, for models are taken apart before a part of them is averaged.
    Assumes: connected network with a table of neighbours.  Whom a node asks in vain, it does not hear, nor count.
    Departure: rounds; in the paper nodes push to neighbours drawn at random and select whenever n models have come, and push
      to their own neighbours afterwards.
    Source: Onoszko, Karlsson, Mogren, Zec, Decentralized federated learning of deep neural networks on non-iid data, ICML
      workshop on federated learning 2021 (PENS); defaults of n, m and T as in gossipy.
    """
    where = "pens"
    num_sampled = checks.integer(where, "num_sampled", num_sampled, 1)
    num_best = checks.integer(where, "num_best", num_best, 1, num_sampled)
    selection_rounds = checks.integer(where, "selection_rounds", selection_rounds, 1)
    num_partners = checks.integer(where, "num_partners", num_partners, 1)
    local = local_updates(problem, optimizer, num_local_steps, where=where)

    def init(key: Array, params: PyTree, network: Network) -> PENSState:
        del key
        if network.is_implicit or network.neighbor_edges is None:
            fix = 'Use network.with_lowering("neighbors") if the table fits in memory, or random_regular.'
            checks.fail(where, "network", "one with a table of neighbours", f"{network.num_nodes} nodes and none", fix)
        nothing = jnp.zeros(network.num_edges, jnp.uint32)
        return PENSState(params, local.init(params), nothing, nothing, jnp.zeros((), jnp.int32))

    def step(key: Array, state: PENSState, network: Network) -> tuple[PENSState, Network, Info]:
        table: Any = network.neighbor_edges
        selects = state.round < selection_rounds
        linked = table < network.num_edges
        own = linked & _in_table(own_neighbors(state, num_sampled, num_best), table)
        own = jnp.where(jnp.any(own, axis=1, keepdims=True), own, linked)
        ids = network.node_ids
        draws = uniform(keys.fold_in(keys.stream(key, "peers"), ids[network.receivers], ids[network.senders]))
        drawn = draws.at[table].get(mode="fill", fill_value=2.0)
        among, num = jnp.where(selects, linked, own), jnp.where(selects, num_sampled, num_partners)
        asked = _least(drawn, drawn, among, num)
        around = network.replace(is_linked=both(network.is_linked, _on_edges(asked, table, network.num_edges)))
        inbox, around = around.gather(key, state.params)
        network = network.with_state(around.state)
        # Once they have selected nobody asks for losses.
        losses = jax.lax.cond(
            selects,
            lambda models: own_losses(problem, key, models, inbox.node_ids, on="all"),
            lambda models: jnp.zeros(inbox.mask.shape),
            inbox.values,
        )
        best = _least(losses, drawn, inbox.mask, num_best)
        taken = jnp.where(selects, best, inbox.mask)
        params = jax.tree.map(lambda x, heard: _mean_with(x, heard, taken), state.params, inbox.values)
        params, optimizer_state, info = local.run(key, params, state.optimizer_state, ids, network.is_present)
        params = trees.select(network.is_present, params, state.params)
        counts = selects if network.is_present is None else selects & network.is_present[:, None]
        new = PENSState(
            params=params,
            optimizer_state=optimizer_state,
            heard=state.heard + _on_edges(inbox.mask & counts, table, network.num_edges).astype(jnp.uint32),
            chosen=state.chosen + _on_edges(best & counts, table, network.num_edges).astype(jnp.uint32),
            round=state.round + 1,
        )
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "fixed_topology"}),
        source="Onoszko et al., ICML workshop on federated learning 2021",
    )


def own_neighbors(state: PENSState, num_sampled: int = 10, num_best: int = 2) -> Array:
    """Which directed links lead to a node's own neighbours, bool `[E]`."""
    return state.chosen * jnp.uint32(num_sampled) > state.heard * jnp.uint32(num_best)


def _in_table(flags: Array, table: Array) -> Array:
    """`[E]` as `[N, K]`; false where a node has no neighbour."""
    return flags.at[table].get(mode="fill", fill_value=False)


def _on_edges(flags: Array, table: Array, num_edges: int) -> Array:
    """`[N, K]` as `[E]`."""
    return jnp.zeros(num_edges, bool).at[table].set(flags, mode="drop")


def _least(values: Array, ties: Array, mask: Array, num: Any) -> Array:
    """The `num` least of each row among those of the mask, bool `[N, K]`; of equal ones those of the lesser tie."""
    order = jnp.lexsort((ties, jnp.where(mask, values, jnp.inf)), axis=1)
    rank = jnp.argsort(order, axis=1)
    return mask & (rank < num)


def _mean_with(own: Array, heard: Array, taken: Array) -> Array:
    """The mean of a node's own value and those that it takes, `[N, ...]`."""
    weights = trees.expand(taken, heard)
    total = own + jnp.sum(jnp.where(weights, heard, 0), axis=1)
    return total / trees.expand(1 + jnp.sum(taken, axis=1), own).astype(own.dtype)
