"""Stochastic gradient push: SGD over directed graphs by push-sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.messages import active_edges
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class StochasticGradientPushState(NamedTuple):
    biased: PyTree  # [N, ...] x_i, what is pushed
    push_weight: Array  # [N] w_i
    optimizer_state: PyTree  # [N, ...]


def debiased(state: StochasticGradientPushState) -> PyTree:
    """z_i = x_i / w_i, the nodes' models, `[N, ...]`."""
    return trees.scale(1 / state.push_weight, state.biased)


def stochastic_gradient_push(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    weighting: str = "uniform",
) -> Algorithm:
    """Push-sum SGD: column-stochastic weights, biases divided out.

        x_i <- x_i + u(g_i(z_i)),   z_i = x_i / w_i         u the optimiser's update; SGD: -eta g_i(z_i)
        x_i <- sum_j P_ij x_j
        w_i <- sum_j P_ij w_j

    from w = 1.  Columns of P sum to one, so sum_i x_i and sum_i w_i move by gradients alone (`invariant_mass`).  With
    doubly stochastic weights w stays 1 and this is adapt-then-combine D-SGD.

    Args:
      problem: what the nodes learn.
      optimizer: gradients are taken at z and their updates added to x; floats may be traced.
      num_local_steps: K, structural; z moves with x between exchanges.
      num_local_epochs: E, in place of K: a node goes E times through its own data, see `local_updates`; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Assumes: strongly connected network, column-stochastic weights; may be directed.  Absent nodes keep x and w, and
      senders keep what they cannot push to them or over a link that is down: no mass is lost, on any topology.
      A message lost on its way takes its mass along where only columns sum to one, as in a real push-sum without
      acknowledgements: z stays a weighted mean, but w shrinks, each step of z grows by 1 / w, and a loss that lasts makes
      the method diverge.  Where rows sum to one too, receivers make up for it in x and in w, and it does not.
    Cost per round: K gradients and one message of D + 1 numbers a neighbour.
    Source: Assran, Loizou, Ballas and Rabbat, Stochastic gradient push for distributed deep learning, ICML 2019,
      Algorithm 1.
    """
    problem = weighted("stochastic_gradient_push", problem, weighting)
    local = local_updates(
        problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, where="stochastic_gradient_push"
    )

    def init(key: Array, params: PyTree, network: Network) -> StochasticGradientPushState:
        del key
        weights = jnp.ones(network.num_nodes, jnp.promote_types(jnp.float32, jax.tree.leaves(params)[0].dtype))
        return StochasticGradientPushState(params, weights, local.init(params))

    def step(
        key: Array, state: StochasticGradientPushState, network: Network
    ) -> tuple[StochasticGradientPushState, Network, Info]:
        z = debiased(state)
        moved, optimizer_state, info = local.run(key, z, state.optimizer_state, network.node_ids, network.trainers)
        biased = jax.tree.map(lambda x, new, old: x + (new - old), state.biased, moved, z)
        (pushed, push_weight), network = network.mix(
            key, (biased, state.push_weight), weights=push_weights(network), hear="all"
        )
        new = StochasticGradientPushState(pushed, push_weight, optimizer_state)
        return trees.select(network.is_present, new, state), network, info

    return Algorithm(
        init=init,
        step=step,
        params=debiased,
        requires=frozenset({"connected", "column_stochastic"}),
        source="Assran, Loizou, Ballas and Rabbat, ICML 2019",
        lets_relay=True,
    )


def push_weights(network: Network) -> tuple[Array, Array] | None:
    """The round's column-stochastic weights, `(edge_weights [E], self_weights [N])`: what cannot be pushed is kept.

    None where the network's own weights do: nobody is missing, or only columns sum to one.  Where rows do too, its rule
    for links that are down keeps the rows, which on a directed graph moves mass between the columns.
    """
    up = active_edges(network)
    if up is None or network.is_implicit or "row_stochastic" not in network.properties:
        return None
    kept = jax.ops.segment_sum(jnp.where(up, 0, network.edge_weights), network.senders, network.num_nodes)
    return jnp.where(up, network.edge_weights, 0), network.self_weights + kept


def invariant_mass(state: StochasticGradientPushState) -> Array:
    """Mean push weight, `[]`: one up to rounding while no message is lost."""
    return jnp.mean(state.push_weight)
