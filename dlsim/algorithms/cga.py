"""CGA: gradients of a node's model on its neighbours' data come back, and its step agrees with all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.aggregators.candidates import weighted_sum
from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.edge_messages import reverse_edges, send_edges
from dlsim.networks.messages import both
from dlsim.networks.network import Network
from dlsim.problems.variables import trained, with_statistics, with_trained

if TYPE_CHECKING:
    import optax

_SWEEPS = 1000  # over the constraints; it has stopped by itself long before, unless they are almost one


class CGAState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]


def cga(problem: Problem, optimizer: optax.GradientTransformation) -> Algorithm:
    """Cross-gradient aggregation: combine-then-adapt D-SGD along a direction that no neighbour's loss grows along.

        g_i^j <- g_j(x_i), the gradient of node i's model on node j's data      for every neighbour j of i
        d_i   <- argmin ||d - g_i(x_i)||^2  such that  <d, g_i^j> >= 0 for all of them
        x_i   <- sum_j W_ij x_j + u(d_i)                                         u the optimiser's update; SGD: -eta d_i

    Models go out, gradients come back, taken on the batch that the neighbour trains on itself.  d = g + sum_j v_j g^j with
    v >= 0 the solution of the dual problem, K numbers a node, found one after the other (Hildreth) until they stand still.
    Where no two gradients are at odds it is D-SGD.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own, given d for a gradient; the paper's is `optax.sgd(eta, momentum)`.

    Assumes: connected undirected network with row-stochastic weights and a table of neighbours.  Who did not hear a model
      sends nothing back, and a gradient that is lost asks for nothing.
    Cost per round: 1 + d gradients a node with d neighbours, and two messages of D numbers a neighbour, one of them another
      for each; gradients of all neighbours are held, d D numbers a node.  On the standard workload (100 nodes, d = 4, a
      CPU) a round takes 1.7 times one of D-SGD with 1 + d local steps, 6.7 times one with a single gradient.
    Source: Esfandiari, Tan, Jiang, Balu, Herron, Hegde, Sarkar, Cross-gradient aggregation for decentralized learning from
      non-iid data, ICML 2021, Algorithm 1.
    """
    where = "cga"
    local = local_updates(problem, optimizer, where=where)
    gradient = with_statistics(problem).gradient

    def init(key: Array, params: PyTree, network: Network) -> CGAState:
        del key
        if network.is_implicit or network.neighbor_edges is None:
            fix = 'Use network.with_lowering("neighbors") if the table fits in memory, or random_regular.'
            checks.fail(where, "network", "one with a table of neighbours", f"{network.num_nodes} nodes and none", fix)
        return CGAState(params, local.init(params))

    def step(key: Array, state: CGAState, network: Network) -> tuple[CGAState, Network, Info]:
        ids, here, table = network.node_ids, network.is_present, network.neighbor_edges
        inbox, network = network.gather(key, state.params)
        batch = keys.stream(key, "batch")  # that of the node's own step
        crossed = jax.vmap(lambda models: trained(gradient(batch, models, ids)[0]), in_axes=1, out_axes=1)(inbox.values)
        back = reverse_edges(network)
        heard, crossed = (_on_edges(leaf, table, network.num_edges) for leaf in (inbox.mask, crossed))
        replying = network.replace(is_linked=both(network.is_linked, heard[back]))
        arrival, replying = send_edges(replying, key, trees.take(crossed, back), stream="gradients")
        network = network.with_state(replying.state)
        others = jax.tree.map(lambda leaf: leaf.at[table].get(mode="fill", fill_value=0), arrival.values)
        came = arrival.mask.at[table].get(mode="fill", fill_value=False)
        away = jax.tree.map(lambda v, x: v - x[:, None], inbox.values, state.params)
        mixed = trees.add(state.params, weighted_sum(inbox.weights, away))
        params, optimizer_state, info = local.run(
            key, state.params, state.optimizer_state, ids, here, _agreeing, (others, came), onto=mixed
        )
        new = trees.select(here, CGAState(params, optimizer_state), state)
        evaluated = jnp.sum(inbox.mask, axis=1).astype(jnp.uint32) * jnp.uint32(problem.evaluations)
        return new, network, {**info, "num_gradients": info["num_gradients"] + evaluated}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "undirected", "fixed_topology", "row_stochastic", "prompt"}),
        source="Esfandiari et al., ICML 2021",
    )


def _on_edges(tree: PyTree, table: Any, num_edges: int) -> PyTree:
    """`[N, K, ...]` of a table of neighbours as `[E, ...]`."""

    def leaf(rows: Array) -> Array:
        return jnp.zeros((num_edges, *rows.shape[2:]), rows.dtype).at[table].set(rows, mode="drop")

    return jax.tree.map(leaf, tree)


def _agreeing(gradients: PyTree, params: PyTree, given: tuple[PyTree, Array]) -> PyTree:
    """The nearest directions `[n, ...]` that are at odds with none of the gradients `[n, K, ...]` that came `[n, K]`."""
    del params
    others, came = given
    flat, unravel = trees.ravel(trained(gradients))
    size = came.shape[1]
    rows = jax.vmap(lambda tree: trees.ravel(tree)[0], in_axes=1, out_axes=1)(others)
    rows = jnp.where(came[:, :, None], rows, 0)
    gram = jnp.einsum("nkd,nld->nkl", rows, rows, precision=jax.lax.Precision.HIGHEST)
    linear = jnp.einsum("nkd,nd->nk", rows, flat, precision=jax.lax.Precision.HIGHEST)
    diagonal = jnp.diagonal(gram, axis1=1, axis2=2)

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        weights, is_moving, count = carry
        new = weights
        for k in range(size):
            slope = linear[:, k] + jnp.sum(gram[:, k] * new, axis=1)
            moved = jnp.maximum(new[:, k] - slope / jnp.where(diagonal[:, k] > 0, diagonal[:, k], 1), 0)
            new = new.at[:, k].set(jnp.where(diagonal[:, k] > 0, moved, 0))
        new = trees.select(is_moving, new, weights)  # a node's result is its own, whoever else is still on the way
        is_moving = jnp.any(jnp.abs(new - weights) > 1e-6 * (1 + jnp.abs(new)), axis=1)
        return new, is_moving, count + 1

    def going(carry: tuple[Array, Array, Array]) -> Array:
        return jnp.any(carry[1]) & (carry[2] < _SWEEPS)

    start = (jnp.zeros_like(linear), jnp.ones(linear.shape[0], bool), jnp.zeros((), jnp.int32))
    weights = jax.lax.while_loop(going, sweep, start)[0]
    nearest = flat + jnp.einsum("nk,nkd->nd", weights, rows, precision=jax.lax.Precision.HIGHEST)
    return with_trained(gradients, unravel(nearest))
