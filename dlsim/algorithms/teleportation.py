"""Teleportation: a few nodes are active in a round, on a small topology of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network, host_graph
from dlsim.running import status

if TYPE_CHECKING:
    import optax


class TeleportationState(NamedTuple):
    params: PyTree  # [k, ...] the models, one a place of the small topology
    active: Array  # int32 [k] ids of the nodes that hold them
    round: Array  # int32 []


def teleportation(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    topology: Network,
    *,
    num_local_steps: int = 1,
) -> Algorithm:
    """D-SGD on k nodes drawn anew each round, which take over the models of those before them.

    Let W be the k x k weights of `topology` and i_1, ..., i_k the nodes of this round, distinct and uniformly drawn, j_1,
    ..., j_k those of the last one:

        x_p <- y_p                                    node j_p sends its model to node i_p
        x_p <- x_p - eta g_(i_p)(x_p)                 K times, on the data of i_p
        y_p <- sum_q W_pq x_q                         the active nodes, linked as `topology` says

    So the parameter consensus is that of k nodes, however many there are: k trades the noise of gradients, which falls with
    it, for the topology's spectral gap.  What is judged is the mean of the k models.

    Args:
      problem: what the nodes learn.
      optimizer: the active nodes' optimiser; a schedule counts rounds, momentum and moments start anew with each activation.
      topology: a network of k nodes (k below or equal N), of which links and weights count; row stochastic.  The messages
        themselves go over the run's network, between any two of its nodes, with its channel and traffic.
      num_local_steps: K, structural.

    Nodes are drawn among those that are there; where fewer than k are, some of those drawn are away and do nothing.  A node
    whose model was lost on the way, or whose predecessor has left, does not train: it takes the weighted mean of what its
    neighbours say, and where it hears nobody its place keeps the model it had.  If that befalls all k, `EMPTY_COHORT`.
    Cost per round: k K gradients, and 1 + degree messages of D numbers an active node; the state is k models.
      On the standard workload (10 active of 100, a CPU) a round takes 1.3 times one of D-SGD among the active nodes alone:
      models move to others' places.
    Source: Takezawa and Stich, Scalable decentralized learning with teleportation, ICLR 2025, Algorithm 1.  Differs: K local
      steps and any optax optimiser (the paper: one step of SGD); what becomes of lost models, which it does not consider.
    """
    where = "teleportation"
    local = local_updates(problem, optimizer, num_local_steps, restarts=True, where=where)
    checks.instance(where, "topology", topology, Network, "Pass e.g. dlsim.networks.exponential(8).")
    num = topology.num_nodes
    if num > problem.num_nodes:
        checks.fail(where, "topology", f"of at most the problem's {problem.num_nodes} nodes", f"{num} nodes")
    if "row_stochastic" not in topology.properties:
        checks.fail(where, "topology", "row stochastic", "one that is not", 'Use weights="metropolis_hastings".')
    places, sent_with, own_weights = _table(topology)

    def init(key: Array, params: PyTree, network: Network) -> TeleportationState:
        ids = network.node_ids
        first = ids[_drawn(keys.stream(key, "first"), ids, None, num)]
        return TeleportationState(jax.tree.map(lambda leaf: leaf[:num], params), first, jnp.zeros((), jnp.int32))

    def step(key: Array, state: TeleportationState, network: Network) -> tuple[TeleportationState, Network, Info]:
        ids, here = network.node_ids, network.is_present
        position = jnp.zeros(ids.shape, jnp.int32).at[ids].set(jnp.arange(ids.shape[0], dtype=jnp.int32))
        active = _drawn(keys.stream(key, "active"), ids, here, num)
        sent, network = network.send_to(
            key, state.params, active[:, None], senders=position[state.active], stream="teleport"
        )
        holds = sent.mask[:, 0]
        start = trees.select(holds, network.combine_sent(sent, at=active), state.params)
        trained, _, info = local.run(key, start, local.init(start), ids[active], holds, round=state.round)
        to = jnp.where(holds[:, None] & (places >= 0), active[places], -1)
        sent, network = network.send_to(key, trained, to, senders=active, stream="gossip")
        said = network.combine_sent(sent, weights=sent_with, at=active)
        share = network.combine_sent(sent._replace(values=jnp.ones(num), own=None), weights=sent_with, at=active)
        mine = jnp.where(holds, own_weights, 0)
        total = share + mine
        mean = trees.scale(1 / jnp.where(total > 0, total, 1), trees.add(said, trees.scale(mine, trained)))
        params = trees.select(total > 0, mean, state.params)
        nobody = status.flag(~jnp.any(holds), status.EMPTY_COHORT)
        out = {"status": nobody} | {name: _at(active, info[name], ids.shape[0]) for name in ("loss", "num_gradients")}
        return TeleportationState(params, ids[active], state.round + 1), network, out

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: trees.replicate(trees.mean(state.params), 1),
        requires=frozenset({"common_start", "prompt"}),
        source="Takezawa and Stich, ICLR 2025",
    )


def _drawn(key: Array, ids: Array, is_present: Array | None, num: int) -> Array:
    """Positions of `num` nodes in random order, int32 `[num]`: those that are there first."""
    draw = keys.node_bits(key, ids, 1)[:, 0] >> 1
    if is_present is not None:
        draw = draw | (is_present.astype(jnp.uint32) << 31)
    return jax.lax.top_k(draw, num)[1].astype(jnp.int32)


def _table(topology: Network) -> tuple[Array, Array, Array]:
    """Of each place: those it sends to `[k, d]` (negative: nobody), the weight each gives it, and its own `[k]`."""
    graph, weights = host_graph(topology), np.asarray(topology.edge_weights)
    num = graph.num_nodes
    width = max(int(graph.out_degrees.max(initial=0)), 1)
    places, given = np.full((num, width), -1, np.int32), np.zeros((num, width), np.float32)
    filled = np.zeros(num, np.int64)
    for sender, receiver, weight in zip(graph.senders, graph.receivers, weights, strict=True):
        places[sender, filled[sender]], given[sender, filled[sender]] = receiver, weight
        filled[sender] += 1
    return jnp.asarray(places), jnp.asarray(given), jnp.asarray(topology.self_weights, jnp.float32)


def _at(rows: Array, values: Array, num: int) -> Array:
    """Values of a few nodes as those of all, `[N]`, 0 elsewhere."""
    return jnp.zeros(num, values.dtype).at[rows].set(values, unique_indices=True)
