"""Gossip learning: models that travel from node to node, merge and are trained where they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.local import local_events
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.keys import fold_in
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

MERGES = ("age_weighted", "average", "none")
ORDERS = ("merge_update", "update_merge")


class GossipLearningState(NamedTuple):
    params: PyTree  # [N, ...] x
    age: Array  # uint32 [N] t, updates behind x on the longest way to it
    optimizer_state: PyTree


class AgedModel(NamedTuple):
    """What is sent: a model and its age.  The age is an integer, which no channel touches."""

    params: PyTree  # [n, ...]
    age: Array  # uint32 [n]


def gossip_learning(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    merge: str = "age_weighted",
    order: str = "merge_update",
    num_local_steps: int = 1,
) -> EventAlgorithm:
    """Push gossip: now and then a node sends its model to a neighbour drawn at random, which makes a new one with it.

        j receives (x, t):   x_j, t_j <- update(merge((x, t), (x_j, t_j)))            order "merge_update" (MU)
                             x_j, t_j <- merge(update(x, t), update(x_j, t_j))        order "update_merge" (UM)
        merge:               x_j + a (x - x_j), max(t, t_j),   a = t / (t + t_j)      "age_weighted" (1/2 if both are new)
                                                               a = 1/2                "average"
                             x, t                                                     "none": random walks (RW)
        update:              num_local_steps optimiser steps on j's data, t + num_local_steps

    Without a gradient clock: nodes train when a model comes.  Staleness is how many updates the received model has less
    than the receiver's, max(t_j - t, 0), before either is trained.  Models that take time on their way are all merged when
    they come, also those that others overtook.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own, its state stays at the node; floats may be traced.
      merge: "age_weighted", "average" or "none"; structural.
      order: "merge_update", or "update_merge", with two updates a message; structural.
      num_local_steps: optimiser steps an update, structural.

    Departure: a node merges with its own model, as in the papers of 2019 and 2021; in that of 2013 with the last one that
      it received.
    Cost: a message of D numbers and an age of 32 bits, and num_local_steps gradients (twice as many for UM).
    Source: Ormandi, Hegedus, Jelasity, Gossip learning with linear models on fully distributed data, Concurrency and
      Computation 2013, Algorithms 1 and 2; Hegedus, Danner, Jelasity, Gossip learning as a decentralized alternative to
      federated learning, DAIS 2019; the same, Decentralized learning works, Journal of Parallel and Distributed
      Computing 2021.
    """
    where = "gossip_learning"
    checks.one_of(where, "merge", merge, MERGES)
    checks.one_of(where, "order", order, ORDERS)
    if merge == "none" and order != "merge_update":
        checks.fail(where, "order", '"merge_update" where nothing is merged', repr(order), "Drop it.")
    local = local_events(problem, optimizer, num_local_steps, where=where)
    updates = jnp.uint32(local.num_steps)

    def init(key: Array, params: PyTree, network: Network) -> GossipLearningState:
        del key
        return GossipLearningState(params, jnp.zeros(network.num_nodes, jnp.uint32), local.init(params))

    def merged(heard: AgedModel, own: AgedModel) -> AgedModel:
        if merge == "none":
            return heard
        if merge == "average":
            share = jnp.full(own.age.shape, 0.5, jnp.float32)
        else:
            theirs, total = heard.age.astype(jnp.float32), (heard.age + own.age).astype(jnp.float32)
            share = jnp.where(total > 0, theirs / jnp.maximum(total, 1), 0.5)
        moved = trees.add(own.params, trees.scale(share, trees.subtract(heard.params, own.params)))
        return AgedModel(moved, jnp.maximum(heard.age, own.age))

    def updated(
        keys: Array, model: AgedModel, optimizer_state: PyTree, node_ids: Array
    ) -> tuple[AgedModel, PyTree, Info]:
        params, optimizer_state, info = local.run(keys, model.params, optimizer_state, node_ids)
        return AgedModel(params, model.age + updates), optimizer_state, info

    def on_message(
        keys: Array, rows: GossipLearningState, heard: AgedModel, node_ids: Array
    ) -> tuple[GossipLearningState, Info]:
        own, optimizer_state = AgedModel(rows.params, rows.age), rows.optimizer_state
        staleness = jnp.where(own.age > heard.age, own.age - heard.age, 0).astype(jnp.uint32)
        if order == "merge_update":
            new, optimizer_state, info = updated(keys, merged(heard, own), optimizer_state, node_ids)
        else:
            others, _, extra = updated(_other(keys), heard, optimizer_state, node_ids)
            own, optimizer_state, info = updated(keys, own, optimizer_state, node_ids)
            new = merged(others, own)
            info = {"loss": info["loss"], "num_gradients": info["num_gradients"] + extra["num_gradients"]}
        return GossipLearningState(new.params, new.age, optimizer_state), {**info, "staleness": staleness}

    return EventAlgorithm(
        init=init,
        on_message=on_message,
        message=lambda rows: AgedModel(rows.params, rows.age),
        communication="nodes",
        hear="all",  # every model is on a way of its own
        requires=frozenset({"connected"}),
        source="Ormandi et al., Concurrency and Computation 2013; Hegedus et al., DAIS 2019",
    )


def _other(keys: Array) -> Any:
    """Keys of a second draw at the same events."""
    return fold_in(keys, 1)
